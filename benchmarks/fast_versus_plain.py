"""Does the fast path learn what the plain one does? Losses of the same steps, beside how far seeds lie apart.

    python benchmarks/fast_versus_plain.py            the figures of README.md, and results/fast_versus_plain.json
    python benchmarks/fast_versus_plain.py --precision bf16-mixed
    python benchmarks/fast_versus_plain.py --seeds 3 --steps 60 --out /tmp/quick.json

A GPT-2 of 180,000 parameters, with the slow activation that GPT-2's configurations name, from the same weights on the
same windows in the same order, in four ways:

    plain       transformers and torch: eager attention, the model's own loss, torch's loop over tensors for AdamW, the
                published steps one matrix at a time for Muon, the whole batch at once
    rounding    the same in micro-batches: what another order of adding up does by itself
    default     `BabyGPT` as it is
    everything  and compiled blocks, micro-batches, every second block computed again, the loss in chunks of rows

Learning rate, decay, clipping and schedule are the recipe's own for this size, `adamw` and `muon` in turn. The plain
path is always fp32; `--precision` is the fast one's.

The figure: mean |loss - plain's loss| over the last 50 steps, the mean and the largest over seeds. The bound is half
the standard deviation, between seeds, of plain's mean loss over these steps; losses of single steps, whose
windows differ from seed to seed, lie further apart.

Then the gradient of one step: each way's distance from the plain one in fp64, by norm, the worst parameter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from plain_path import count, plain
from transformers import AutoModelForCausalLM, GPT2Config

from babygpt import BabyGPT, LLMDataModule
from babygpt.computer import detect, installed_versions, keep_freed_memory
from babygpt.files import write_json_atomic
from babygpt.model.attention import model_inputs
from babygpt.model.blocks import compile_blocks, recompute_blocks
from babygpt.model.cross_entropy import LOGITS_BYTES
from babygpt.model.load import load_model
from babygpt.model.loss import find_head, sum_nll
from babygpt.planner import resolve_recipe
from babygpt.recipe import Budget, OptimRecipe, Recipe
from babygpt.training.fit import fit, quiet

RESULT = Path(__file__).parent / "results" / "fast_versus_plain.json"
VOCABULARY, BLOCK, WINDOWS, MICRO = 1024, 64, 8, 2
PARAMETERS = 180_000
LAST = 50
FAST = ("rounding", "default", "everything")
_CHUNK_BYTES = 2**17  # 32 rows of logits


# -- the fast path -------------------------------------------------------------------------------------------------


class Chunked(BabyGPT):
    """Takes the loss in chunks however small the logits are."""

    def sum_nll(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = model_inputs(batch, isolated=False)
        return sum_nll(self.model, inputs, batch["labels"], self._head, logits_bytes=_CHUNK_BYTES)


def fast(folder: Path, recipe: Recipe, data: LLMDataModule, everything: bool, precision: Any) -> list[float]:
    """Loss of each step of the recipe's budget."""
    optim, schedule = recipe.optim, recipe.schedule
    module = (Chunked if everything else BabyGPT)(
        str(folder),
        float(optim.lr),
        optimizer=optim.name,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        schedule=schedule.name,
        warmup=schedule.warmup,
        final=schedule.final,
        activation_checkpointing=2 if everything else False,
        compile=everything,
        seed=recipe.seed,
    )
    assert module._head is not None, "the loss is to be taken from hidden states"
    done = fit(
        module,
        data,
        steps=int(recipe.budget.steps or 0),
        precision=precision,
        grad_clip=optim.grad_clip,
    )
    return [float(step["train_loss"]) for step in done.steps]


# -- one gradient --------------------------------------------------------------------------------------------------


def gradient_errors(folder: Path, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative distances from fp64 of the gradient of a batch's mean loss; the worst parameter's."""
    targets = count(batch["labels"])

    def plain_gradient(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").train()
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()
        return _gradients(model)

    def fast_gradient(bound: int, everything: bool) -> dict[str, torch.Tensor]:
        model = load_model(str(folder)).train()
        head, inputs = find_head(model), {"input_ids": batch["input_ids"], "use_cache": False}

        def backward() -> None:
            (sum_nll(model, inputs, batch["labels"], head, logits_bytes=bound) / targets).backward()

        if everything:
            recompute_blocks(model, 2)
            assert compile_blocks(model, backward), "there is no working compiler"
        backward()
        return _gradients(model)

    exact = plain_gradient(torch.float64)
    found = {
        "plain": plain_gradient(torch.float32),
        "default": fast_gradient(LOGITS_BYTES, False),
        "everything": fast_gradient(_CHUNK_BYTES, True),
    }
    return {
        way: max(float((g - exact[n]).norm() / exact[n].norm()) for n, g in gradients.items())
        for way, gradients in found.items()
    }


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}


# -- both ----------------------------------------------------------------------------------------------------------


def run(recipe: Recipe, precision: str) -> dict[str, list[float]]:
    """The four ways at one seed."""
    with tempfile.TemporaryDirectory(prefix="babygpt-plain-") as name:
        folder = Path(name)
        _write_model(folder, recipe.seed)
        batches = [
            _data(folder, WINDOWS, recipe.seed).micro_batch(n) for n in range(int(recipe.budget.steps or 0))
        ]
        return {
            "plain": plain(folder, recipe, batches, WINDOWS),
            "rounding": plain(folder, recipe, batches, MICRO),
            "default": fast(folder, recipe, _data(folder, WINDOWS, recipe.seed), False, precision),
            "everything": fast(folder, recipe, _data(folder, MICRO, recipe.seed), True, precision),
        }


def one_gradient() -> dict[str, float]:
    """The errors on the first step's windows of seed 0."""
    with tempfile.TemporaryDirectory(prefix="babygpt-plain-") as name:
        _write_model(Path(name), 0)
        return gradient_errors(Path(name), _data(Path(name), WINDOWS, 0).micro_batch(0))


def _data(folder: Path, micro: int, seed: int) -> LLMDataModule:
    data = LLMDataModule(
        str(folder),
        micro,
        tokenizer=f"train:{VOCABULARY}",
        block=BLOCK,
        global_batch_size=WINDOWS,
        val_batches=1,
        seed=seed,
    )
    data.prepare_data()
    data.setup()
    return data


def _write_model(folder: Path, seed: int) -> None:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=4 * BLOCK,
        n_embd=64,
        n_layer=2,
        n_head=2,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def compare(seeds: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """The figures of some seeds' losses.

    Args:
        seeds: two or more, each of them the losses of every step by way.
    """
    last = [{way: losses[-LAST:] for way, losses in each.items()} for each in seeds]
    ends = [fmean(each["plain"]) for each in last]
    bound = stdev(ends) / 2
    found: dict[str, Any] = {
        "loss": fmean(ends),
        "between_seeds": stdev(ends),
        "between_seeds_single_steps": fmean(
            stdev(step) for step in zip(*(e["plain"] for e in last), strict=True)
        ),
        "bound": bound,
    }
    for way in FAST:
        apart = [fmean(abs(a - b) for a, b in zip(each[way], each["plain"], strict=True)) for each in last]
        found[way] = {"mean": fmean(apart), "largest": max(apart), "within": max(apart) < bound}
    return found


def main() -> None:
    """Writes the result, prints it without the losses, and ends with 1 where a way lies outside the bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--optimizer", nargs="+", choices=["adamw", "muon"], default=["adamw", "muon"])
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    if asked.seeds < 2 or asked.steps < LAST:
        parser.error(f"--seeds is at least 2, --steps at least {LAST}")
    keep_freed_memory()
    quiet()
    result: dict[str, Any] = {
        "command": sys.argv[1:],
        "machine": detect().describe(),
        "versions": installed_versions(),
        "precision": asked.precision,
        "gradient_errors": one_gradient(),
    }
    print(json.dumps({"gradient_errors": result["gradient_errors"]}), flush=True)
    for name in asked.optimizer:
        given = Recipe(optim=OptimRecipe(name=name))
        recipe = resolve_recipe(given, model_name="preset:gpt2-1m", parameters=PARAMETERS, block=BLOCK)
        recipe = replace(recipe, budget=Budget(steps=asked.steps))
        seeds = [run(replace(recipe, seed=seed), asked.precision) for seed in range(asked.seeds)]
        result[name] = compare(seeds)
        print(json.dumps({name: result[name]}), flush=True)
        result[name]["lr"] = recipe.optim.lr
        result[name]["last_losses"] = [
            {way: [round(loss, 6) for loss in losses[-LAST:]] for way, losses in each.items()}
            for each in seeds
        ]
    write_json_atomic(asked.out, result)
    if not all(result[name][way]["within"] for name in asked.optimizer for way in FAST):
        sys.exit(1)


if __name__ == "__main__":
    main()
