"""Which optimiser and schedule reach a loss with the fewest tokens: the study behind the defaults of a recipe.

    OMP_NUM_THREADS=1 python benchmarks/optimisers.py screen      every arm once: 1 M parameters, one seed
    OMP_NUM_THREADS=1 python benchmarks/optimisers.py confirm     few arms, 5 paired seeds, two texts, two sizes
    python benchmarks/optimisers.py table                         what the results file holds by now

Each run trains a Llama-shaped model with random weights on half a million target tokens, with the package's own
data order, loss, parameter groups, optimiser and schedule, in fp32, and validates every 2 % of the way on the same
8,192 tokens. Runs are paired: one seed decides weights and order of the windows for every arm.

A run that is done is one line of the results file and is not done again; a killed process loses the run it was in.
`--most N` ends after N runs. What a run computes does not depend on the speed or load of the machine.

The figure of merit: tokens after which an arm's validation loss is first that of the reference arm's end (linear
between validations), as a share of the reference's tokens. Its interval over paired seeds is Student's, of the logs.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from arms import ARMS, CONFIRMED, Arm
from paired import table
from results_file import append, lines_of
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging as transformers_logging

from babygpt import LLMDataModule
from babygpt.computer import installed_versions, keep_freed_memory
from babygpt.model.attention import model_inputs
from babygpt.model.load import load_model
from babygpt.model.loss import count_targets, find_head, sum_nll
from babygpt.optim.groups import parameter_groups
from babygpt.optim.optimizers import OPTIMIZERS, build_optimizer
from babygpt.optim.schedules import multiplier
from babygpt.planner import resolve_recipe
from babygpt.recipe import Recipe

RESULTS = Path(__file__).parent / "results" / "optimisers.jsonl"
CORPORA = {"code": "builtin:python", "prose": "builtin:prose"}
VOCABULARY, BLOCK, UNIT = 2048, 128, 8  # the unit: windows that every step is made of
VALIDATIONS, VALIDATION_UNITS = 50, 8


@dataclass(frozen=True)
class Size:
    """A shape: parameters follow from width and feed-forward width, 4 layers, tied embeddings."""

    hidden: int
    feed_forward: int
    heads: int


SIZES = {"1m": Size(128, 344, 2), "4m": Size(256, 768, 4)}


@dataclass(frozen=True)
class Run:
    """One line of the results file.

    Args:
        arm: how it trains.
        size, corpus: names in `SIZES` and `CORPORA`.
        seed: of weights and data order.
        tokens: target tokens, at least.
    """

    arm: Arm
    size: str
    corpus: str
    seed: int
    tokens: int

    @property
    def key(self) -> str:
        """Changes with everything that decides the result but the code."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def screen(tokens: int) -> list[Run]:
    """Every arm at one seed, and the default at a second: how far seeds lie apart."""
    runs = [Run(ARMS[name], "1m", "code", 0, tokens) for name in ARMS]
    return [*runs, *(Run(ARMS[name], "1m", "code", 1, tokens) for name in CONFIRMED[:2])]


def confirm(tokens: int) -> list[Run]:
    """Small first, seed by seed, so that what is there at any time is balanced."""
    return [
        Run(ARMS[name], size, corpus, seed, tokens)
        for size in SIZES
        for seed in range(5)
        for corpus in CORPORA
        for name in CONFIRMED
    ]


# -- one run -----------------------------------------------------------------------------------------------------


def train(run: Run) -> dict[str, Any]:
    """Trains and returns the line."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory(prefix="babygpt-study-") as folder:
        _write_model(Path(folder), SIZES[run.size], run.seed)
        model = load_model(folder, seed=run.seed)
        data = LLMDataModule(
            folder,
            UNIT,
            path=CORPORA[run.corpus],
            tokenizer=f"train:{VOCABULARY}",
            block=BLOCK,
            global_batch_size=UNIT,
            val_batches=VALIDATION_UNITS,
            seed=run.seed,
        )
        data.prepare_data()
        data.setup()
    steps = list(_steps(run, data))
    recipe = resolve_recipe(
        Recipe(optim=run.arm.optim, schedule=run.arm.schedule),
        model_name="preset:llama-5m",
        parameters=model.num_parameters(),
        block=BLOCK,
    )
    learner = _Learner(run.arm, recipe, model, len(steps))
    every, tokens = max(1, round(len(steps) / VALIDATIONS)), 0
    points = [(0, learner.validate(data))]
    for number, units in enumerate(steps, start=1):
        tokens += learner.step([data.micro_batch(unit) for unit in units], number - 1)
        if number % every == 0 or number == len(steps):
            points.append((tokens, learner.validate(data)))
    return {
        "key": run.key,
        "arm": run.arm.name,
        "size": run.size,
        "corpus": run.corpus,
        "seed": run.seed,
        "loss": points[-1][1],
        "tokens": tokens,
        "steps": len(steps),
        "parameters": model.num_parameters(),
        "optim": asdict(learner.recipe.optim),
        "schedule": asdict(recipe.schedule),
        "data": data.identity(),
        "points": points,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "versions": installed_versions(),
    }


def _write_model(folder: Path, size: Size, seed: int) -> None:
    """Random weights of the shape as a model folder, which is what the package's loader takes."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=4 * BLOCK,
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=4,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def _steps(run: Run, data: LLMDataModule) -> Iterator[range]:
    """Micro-batches of each step: the same sequence of windows for every arm, cut differently."""
    tokens, unit = 0, 0
    while tokens < run.tokens:
        small = tokens < run.arm.ramp * run.tokens
        units = range(unit, unit + max(1, run.arm.windows // UNIT // (4 if small else 1)))
        tokens += sum(data.step_targets(number) for number in units)
        unit = units.stop
        yield units


class _Learner:
    """A model under its arm's optimiser and schedule."""

    def __init__(self, arm: Arm, recipe: Recipe, model: Any, steps: int) -> None:
        optim = replace(recipe.optim, lr=recipe.optim.lr * arm.rate)
        self.recipe = replace(recipe, optim=optim)
        self._model, self._head, self._total = model, find_head(model), steps
        groups = parameter_groups(model, OPTIMIZERS[optim.name], optim.weight_decay)
        self._optimizer = build_optimizer(optim.name, groups, optim.lr, optim.betas)
        if arm.cautious:
            _decay_cautiously(self._optimizer)
        tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        self._rates = []
        for group in self._optimizer.param_groups:
            is_table = {id(p) for p in group["params"]} <= tables
            self._rates.append(optim.lr * (arm.embedding_rate if is_table else 1.0))

    def step(self, batches: list[dict[str, torch.Tensor]], number: int) -> int:
        """One update; returns its target tokens."""
        schedule = self.recipe.schedule
        factor = multiplier(schedule.name, number, self._total, schedule.warmup, schedule.final)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        batch = {name: torch.cat([each[name] for each in batches]) for name in batches[0]}
        targets = int(count_targets(batch["labels"]))
        (self._nll(batch) / targets).backward()
        if self.recipe.optim.grad_clip:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self.recipe.optim.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return targets

    @torch.no_grad()
    def validate(self, data: LLMDataModule) -> float:
        """Nats a target token, of the same windows each time."""
        self._model.eval()
        nll = targets = 0.0
        for batch in data.val_dataloader():
            nll += float(self._nll(batch))
            targets += int(count_targets(batch["labels"]))
        self._model.train()
        return nll / targets

    def _nll(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = {k: v for k, v in batch.items() if k != "attention_mask" or not bool(v.all())}
        return sum_nll(self._model, model_inputs(batch, isolated=False), batch["labels"], self._head)


def _decay_cautiously(optimizer: torch.optim.Optimizer) -> None:
    """Takes weight decay out of an optimiser's own step and does it afterwards, where the update shrank the weight."""
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    before: list[list[torch.Tensor]] = []
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0

    def remember(*_: Any) -> None:
        before[:] = [[p.detach().clone() for p in g["params"]] for g in optimizer.param_groups]

    def decay(*_: Any) -> None:
        for group, olds, amount in zip(optimizer.param_groups, before, decays, strict=True):
            for parameter, old in zip(group["params"], olds, strict=True):
                shrinks = (old - parameter.detach()) * old > 0
                parameter.data.sub_(old * shrinks, alpha=group["lr"] * amount)

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(decay)


# -- the results file ----------------------------------------------------------------------------------------------


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"{path} is being written by another process")
        yield


def work_off(runs: list[Run], path: Path, most: int) -> int:
    """Does the first runs that are missing; returns how many are left."""
    with _alone(path):
        done = {line["key"] for line in lines_of(path)}
        missing = [run for run in runs if run.key not in done]
        for run in missing[:most]:
            line = train(run)
            append(path, line)
            print(
                *(line[k] for k in ("arm", "size", "corpus", "seed")), f"loss {line['loss']:.4f}", flush=True
            )
        return max(0, len(missing) - most)


def main() -> None:
    """Runs a stage, or prints the table. Ends with 3 where `--most` left something to do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["screen", "confirm", "table"])
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--most", type=int, default=sys.maxsize, help="runs to do before ending")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--reference", choices=ARMS, default="tutorial", help="of the table")
    asked = parser.parse_args()
    if asked.stage == "table":
        print(table(lines_of(asked.results), asked.reference))
        return
    keep_freed_memory()
    transformers_logging.disable_progress_bar()
    runs = (screen if asked.stage == "screen" else confirm)(asked.tokens)
    left = work_off(runs, asked.results, asked.most)
    if left:
        print(f"{left} runs are left", flush=True)
        sys.exit(3)


if __name__ == "__main__":
    main()
