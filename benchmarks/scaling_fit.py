"""The scaling law behind `model.name auto`: the runs that it is fitted on, and the fit.

    OMP_NUM_THREADS=1 python benchmarks/scaling_fit.py run     each run once, those of the least work first
    python benchmarks/scaling_fit.py fit                       the constants of src/babygpt/scaling.py from the results

Each run trains a model of the family llama-WIDTHxLAYERS from random weights on the built-in text, with everything else
as `babygpt train` resolves it: tokenizer, windows, batch, optimiser, rates, and a schedule of its own to its own end.
What a run computes does not depend on the speed or load of the machine. A run that is done is one line of the results
file and is not done again; a killed process loses the run it was in. `--most N` ends after N runs.

The exponents are those of Hoffmann et al.; the other three constants are fitted. The fit minimises the squared relative
error of the loss, each run counting alike. Each run is then predicted by a law that is fitted without it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from results_file import append, lines_of

from babygpt import BabyGPT, LLMDataModule, fit
from babygpt.computer import installed_versions, keep_freed_memory
from babygpt.model.cost import model_cost
from babygpt.model.load import load_config
from babygpt.planner import resolve_recipe
from babygpt.presets import sized
from babygpt.recipe import Recipe

RESULTS = Path(__file__).parent / "results" / "scaling.jsonl"
# Width, layers, and the optimiser steps of the runs.
GRID = {
    (64, 2): (32, 64, 128, 256, 512, 1024),
    (96, 3): (48, 96, 192),
    (128, 4): (24, 48, 96, 192),
    (192, 4): (24, 48, 96),
    (256, 4): (16, 32, 64),
    (384, 6): (16,),
}


# Of parameters and of tokens, after Hoffmann et al. (arXiv:2203.15556): runs of minutes span too little to tell them.
ALPHA, BETA = 0.34, 0.28


@dataclass(frozen=True)
class Run:
    """One line of the results file.

    Args:
        name: of the model.
        steps: optimiser steps.
        seed: of weights and data order.
    """

    name: str
    steps: int
    seed: int = 0

    @property
    def work(self) -> int:
        """Steps times parameters."""
        return self.steps * model_cost(load_config(self.name)).parameters


def runs() -> list[Run]:
    """All, those of the least work first."""
    found = [Run(sized(*shape), steps) for shape, each in GRID.items() for steps in each]
    return sorted(found, key=lambda run: run.work)


def train(run: Run) -> dict[str, Any]:
    """Trains and returns the line."""
    begun = time.process_time()
    parameters = model_cost(load_config(run.name)).parameters
    data = LLMDataModule(run.name, 1, seed=run.seed)
    recipe = resolve_recipe(Recipe(), model_name=run.name, parameters=parameters, block=data.block)
    size = int(recipe.data.global_batch_size)
    data = LLMDataModule(run.name, size, global_batch_size=size, seed=run.seed)
    data.prepare_data()
    data.setup()
    optim, schedule = recipe.optim, recipe.schedule
    module = BabyGPT(
        run.name,
        float(optim.lr),
        optimizer=optim.name,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        schedule=schedule.name,
        warmup=schedule.warmup,
        final=schedule.final,
        vocab_size=len(data.tokenizer),
        seed=run.seed,
    )
    fitted = fit(module, data, steps=run.steps, grad_clip=optim.grad_clip)
    last = fitted.validations[-1]
    return {
        **asdict(run),
        "parameters": model_cost(module.model.config).parameters,
        "flops_per_token": model_cost(module.model.config).flops_per_token(data.block),
        "tokens": fitted.steps[-1]["tokens"],
        "val_loss": last["val_loss"],
        "val_bits_per_byte": last["val_bits_per_byte"],
        "optim": asdict(optim),
        "schedule": asdict(schedule),
        "block": data.block,
        "global_batch_size": size,
        "vocabulary": len(data.tokenizer),
        "text_tokens": data.prepared.train.num_tokens,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "versions": installed_versions(),
    }


# -- the fit -------------------------------------------------------------------------------------------------------


def fitted(points: np.ndarray) -> np.ndarray:
    """E, A and B by least squares of the relative errors; none is below zero, so that every choice of them is tried.

    Args:
        points: rows of parameters, tokens and bits a byte.
    """
    terms = terms_of(points) / points[:, 2:]
    best, error = np.zeros(3), math.inf
    for kept in itertools.product((False, True), repeat=3):
        if any(kept):
            some = terms[:, list(kept)]
            x, *_ = np.linalg.lstsq(some, np.ones(len(terms)), rcond=None)
            now = float(((some @ x - 1) ** 2).sum())
            if (x >= 0).all() and now < error:
                best, error = np.zeros(3), now
                best[list(kept)] = x
    return best


def terms_of(points: np.ndarray) -> np.ndarray:
    """What E, A and B are multiplied by."""
    return np.stack([np.ones(len(points)), points[:, 0] ** -ALPHA, points[:, 1] ** -BETA], axis=1)


def report(lines: list[dict[str, Any]]) -> str:
    """The constants, and how far each run lies from the law that was fitted without it."""
    points = np.array([[line["parameters"], line["tokens"], line["val_bits_per_byte"]] for line in lines])
    e, a, b = fitted(points)
    errors, rows = [], []
    for n, line in enumerate(lines):
        told = float(terms_of(points)[n] @ fitted(np.delete(points, n, axis=0)))
        errors.append(abs(told / points[n, 2] - 1))
        loss = f"{points[n, 2]:.4f} | {told:.4f} | {told / points[n, 2] - 1:+.1%}"
        rows.append(
            f"| {line['name'].removeprefix('preset:')} | {line['steps']} | {line['tokens']:,} | {loss} |"
        )
    within = sorted(errors)[math.ceil(0.95 * len(errors)) - 1]
    sizes, lengths = points[:, 0].astype(int), points[:, 1].astype(int)
    return "\n".join(
        [
            "| model | steps | tokens | bits a byte | told by a law fitted without it | error |",
            "| :-- | --: | --: | --: | --: | --: |",
            *rows,
            "",
            f"Law(floor={e:.4g}, of_size={a:.4g}, alpha={ALPHA}, of_tokens={b:.4g}, beta={BETA},"
            f" error={within:.3f}, parameters=({sizes.min()}, {sizes.max()}),"
            f" tokens=({lengths.min()}, {lengths.max()}))",
        ]
    )


def main() -> None:
    """Does the runs that are missing, or prints the fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["run", "fit"])
    parser.add_argument("--most", type=int, default=sys.maxsize, help="runs to do before ending")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.stage == "fit":
        print(report(lines_of(asked.results)))
        return
    keep_freed_memory()
    done = {(line["name"], line["steps"], line["seed"]) for line in lines_of(asked.results)}
    missing = [run for run in runs() if (run.name, run.steps, run.seed) not in done]
    for run in missing[: asked.most]:
        line = train(run)
        append(asked.results, line)
        said = f"loss {line['val_loss']:.4f}, {line['cpu_seconds']} s of processor time"
        print(run.name, run.steps, said, flush=True)


if __name__ == "__main__":
    main()
