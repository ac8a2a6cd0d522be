"""Two processes against one: the same gradient, the same data in the same order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from babygpt import BabyGPT, LLMDataModule
from babygpt.cli import main
from fits import Recorder, by_hand, trainer_of
from two_ranks import STEPS

pytestmark = pytest.mark.distributed

HELPERS = Path(__file__).parents[1] / "helpers"


def relative(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[k] - theirs[k]).norm() / theirs[k].norm().clamp(min=1e-30)) for k in ours)


# Micro-batch, accumulation, precision and weight of prompts.
FITS = [(1, 4, "64-true", 0.125), (4, 1, "64-true", 0.0), (3, 2, "32-true", 0.0)]


@pytest.fixture(scope="module")
def fitted(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both ranks saw of all the fits; one start of two processes."""
    out = tmp_path_factory.mktemp("two-ranks")
    done = subprocess.run(
        [sys.executable, str(HELPERS / "two_ranks.py"), str(pairs), str(out), "padded", json.dumps(FITS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path])},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize(("number", "bound"), [(0, 1e-10), (1, 1e-10), (2, 1e-5)])
def test_plain_lightning(
    make_data: Callable[..., LLMDataModule],
    make_module: Callable[..., BabyGPT],
    pairs: Path,
    fitted: Path,
    number: int,
    bound: float,
) -> None:
    _, accumulate, precision, weight = FITS[number]
    ranks = [torch.load(fitted / f"{number}-{r}.pt", weights_only=True) for r in range(2)]
    data = make_data(8, path=str(pairs), packing="padded", prompt_weight=weight)
    recorder, module = Recorder(), make_module()
    trainer = trainer_of(callbacks=[recorder], precision=precision, max_steps=STEPS, log_every_n_steps=1)
    trainer.fit(module, datamodule=data)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    reference = by_hand(make_module(), data, 0, dtype, weight)
    for rank in ranks:
        assert relative(rank["gradients"], reference) <= bound
    one = module.meter.drain()[0].train_loss
    assert [float(r["loss"]) for r in ranks] == pytest.approx([one, one], rel=1e-6)
    # Slot p of a step is (micro-batch, rank, row) in this order, and empty rows lie behind the windows.
    order = torch.stack([r["seen"].unflatten(0, (STEPS, accumulate)) for r in ranks], dim=2).flatten(1, 3)
    assert order[:, :8].tolist() == recorder.seen


@pytest.mark.parametrize(
    ("optimizer", "precision", "bound"), [("muon", "64-true", 1e-10), ("adamw", "32-true", 1e-5)]
)
def test_the_command(
    babygpt: Any, pairs: Path, tmp_path: Path, optimizer: str, precision: str, bound: float
) -> None:
    """At a rate that moves no weight first moments are sums of the steps' gradients: checkpoints tell them."""

    def run(devices: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        out = tmp_path / f"on-{devices}"
        args = (
            *("train", "--model.name", "preset:gpt2-1m", "--data.path", pairs, "--data.packing", "padded"),
            *("--data.block", "32", "--data.tokenizer", "train:300", "--data.global_batch_size", "8"),
            *("--data.val_fraction", "0.2", "--optim.grad_clip", "0", "--budget.steps", STEPS),
            *("--optim.lr", "1e-30", "--validate.every_steps", "100"),
            *("--machine.device", "cpu", "--machine.devices", devices, "--machine.precision", precision),
            *("--machine.micro_batch", "2", "--optim.name", optimizer, "--out", out),
        )
        if devices == 1:
            assert main([str(each) for each in args]) == 0
        else:  # its further process begins as it did
            done = babygpt(*args)
            assert done.returncode == 0, done.stderr[-3000:]
        tensors = load_file(out / "checkpoints" / f"step-{STEPS:06}" / "training" / "optimizer.safetensors")
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        moments = {k: v for k, v in tensors.items() if k.endswith(("exp_avg", "momentum"))}
        assert any(k.endswith("momentum") for k in moments) == (optimizer == "muon")
        return moments, metrics

    (two, seen_by_two), (one, seen_by_one) = run(2), run(1)
    assert len(one) > 10
    assert relative(two, one) <= bound
    for theirs, ours in zip(seen_by_one, seen_by_two, strict=True):
        assert theirs["step"] == ours["step"]
        assert theirs["tokens"] == ours["tokens"]
        for name in ("train_loss", "val_loss", "grad_norm"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
