"""Run folders as `train` leaves them, made in milliseconds; sizes, names and damage as a test wants them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from babygpt.files import publish_folder
from babygpt.recipe import Budget, DataRecipe, ModelRecipe, Recipe, write_recipe

SPEED = 1000.0


def loss_at(step: int) -> float:
    return 2 + 6 * math.exp(-step / 30)


def lines(
    steps: int, *, every: int = 10, targets: int = 100, sources: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Metrics of a sound run: 100 tokens and a tenth of a second a step, validated before the first and every ten."""

    def validation(step: int) -> dict[str, Any]:
        loss = loss_at(step) + 0.25
        parts = {f"val_loss/{name}": loss + number for number, name in enumerate(sources)}
        return {
            "step": step, "tokens": step * targets, "val_loss": loss, "val_perplexity": math.exp(loss),
            "val_bits_per_byte": loss / 3, **parts,
        }  # fmt: skip

    yield validation(0)
    for step in range(1, steps + 1):
        yield {
            "step": step, "tokens": step * targets, "targets": targets, "train_loss": loss_at(step),
            "lr": 0.01 * (1 - step / steps), "grad_norm": 1 + 1 / step,
            "tokens_per_second": None if step <= 10 else SPEED,
            **({"peak_memory_bytes": (step + 1000) * 2**20} if step % 10 == 0 else {}),
        }  # fmt: skip
        if step % every == 0:
            yield validation(step)


def make_run(
    out: Path,
    *,
    steps: int = 40,
    planned: int | None = None,
    sources: tuple[str, ...] = (),
    lr: float = 0.01,
    sample: str = " upon a time",
    data_path: str = "notes.txt",
) -> Path:
    """A run folder with everything that a finished run holds, but the weights."""
    out.mkdir(parents=True)
    recipe = Recipe(
        model=ModelRecipe(name="preset:gpt2-1m"),
        data=DataRecipe(path=(data_path,), block=32, global_batch_size=4),
        budget=Budget(steps=planned or steps),
    )
    write_recipe(out / "recipe.yaml", replace(recipe, optim=replace(recipe.optim, lr=lr)))
    write_lines(out / "metrics.jsonl", lines(steps, sources=sources))
    write_lines(
        out / "samples.jsonl",
        ({"step": s, "prompt": "Once", "text": sample} for s in range(0, steps + 1, 10)),
    )
    machine = {
        "plan": {"device": "cpu", "precision": "32-true", "micro_batch": 4},
        "reasons": ["precision 32-true: bf16 is no faster on this hardware"],
        "facts": {"name": "A processor", "cores": 2, "threads": 2, "memory_bytes": 2**34, "cuda_count": 0},
        "versions": {"torch": "2.13.0"},
        "predicted": {"memory_bytes": 2**30, "step_seconds": 0.08},
        "measured": {"peak_memory_bytes": 3 * 2**29, "matrix_peak": 2e10, "step_flops": 1e9},
    }
    (out / "machine.json").write_text(json.dumps(machine))
    data = {
        "format": 1, "store": "0" * 32, "fingerprint": "f" * 64, "train": {"documents": 90, "tokens": 2000},
        "val": {"documents": 10, "tokens": 300}, "val_path": [],
        "path": [{"path": data_path, "kind": "files", "files": [["notes.txt", 5000, 0, "0" * 64]]}],
    }  # fmt: skip
    (out / "data.json").write_text(json.dumps(data))
    facts = {"step": steps, "val_loss": loss_at(steps) + 0.25, "versions": {"torch": "2.13.0"}}
    for name in ("babygpt-2.25", f"step-{steps:06d}"):
        publish_folder(
            out / "checkpoints",
            name,
            lambda folder: (folder / "config.json").write_text("{}") and None,
            facts,
        )
    return out


def write_lines(path: Path, values: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
