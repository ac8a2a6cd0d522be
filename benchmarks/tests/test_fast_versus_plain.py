from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fast_versus_plain
import pytest
import torch
from fast_versus_plain import BLOCK, MICRO, WINDOWS
from plain_path import plain

from babygpt import LLMDataModule
from babygpt.planner import resolve_recipe
from babygpt.recipe import Budget, OptimRecipe, Recipe

STEPS = 4


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_few_steps_have_the_same_losses(tmp_path: Path, optimizer: str) -> None:
    """So few that rounding has not grown: every step's loss, the plain one's in whole and in micro-batches."""
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{n * n % 97} is {n % 13} of {n % 31}" for n in range(3000)))
    fast_versus_plain._write_model(tmp_path / "model", 0)
    data = LLMDataModule(
        str(tmp_path / "model"),
        MICRO,
        path=str(text),
        tokenizer="train:300",
        block=BLOCK,
        global_batch_size=WINDOWS,
        val_batches=1,
    )
    data.prepare_data()
    data.setup()
    whole = [
        {
            name: torch.cat(
                [data.micro_batch(WINDOWS // MICRO * step + n)[name] for n in range(WINDOWS // MICRO)]
            )
            for name in ("input_ids", "labels")
        }
        for step in range(STEPS)
    ]
    given = Recipe(optim=OptimRecipe(name=optimizer), budget=Budget(steps=STEPS))  # type: ignore[arg-type]
    recipe = resolve_recipe(given, model_name="preset:gpt2-1m", parameters=180_000, block=BLOCK)
    wanted = plain(tmp_path / "model", recipe, whole, WINDOWS)
    assert wanted[0] > wanted[-1] + 0.1
    assert plain(tmp_path / "model", recipe, whole, MICRO) == pytest.approx(wanted, rel=1e-5)
    found = fast_versus_plain.fast(tmp_path / "model", recipe, data, False, "32-true")
    assert found == pytest.approx(wanted, rel=1e-5)
    wrong = replace(recipe, optim=replace(recipe.optim, weight_decay=50.0))
    assert plain(tmp_path / "model", wrong, whole, WINDOWS) != pytest.approx(wanted, rel=1e-5)


def test_the_figures() -> None:
    """By hand: ends 4 and 6 have the deviation sqrt(2), the bound is half of it."""
    steps = fast_versus_plain.LAST
    seeds = [
        {"plain": [end] * steps, **{w: [end + off] * steps for w in fast_versus_plain.FAST}}
        for end, off in ((4.0, 0.5), (6.0, -0.9))
    ]
    found = fast_versus_plain.compare(seeds)
    assert found["loss"] == 5
    assert found["bound"] == pytest.approx(2**0.5 / 2)
    assert found["default"]["mean"] == pytest.approx(0.7)
    assert found["default"]["largest"] == pytest.approx(0.9)
    assert not found["default"]["within"]
