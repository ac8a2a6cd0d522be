"""What `babygpt train` adds to a step, beside a bare PyTorch loop in the same process; and how fast the loader is.

    python benchmarks/overhead.py                             the 11 M and the 1 M shape
    python benchmarks/overhead.py --model preset:gpt2-11m --rounds 15

One run of the verb as anyone starts it (metrics file, progress bar on a terminal, self-checks, signals, watchdog)
alternates with the bare loop: after each block of its steps, its loader holds it up and the bare loop does as many on
the same model, with the same loss function, an optimiser of the same kind, and batches made beforehand. A, B, A, B
... thus lie in one process and minute, and the ratio of each pair of neighbouring blocks is taken. Marks are set by a
hook on every optimiser step; the interval that holds the other's block, and each block's first, are left out.

The bare step: forward, loss, backward, clipping, learning rate, update. The loader alone is read for as many batches
as a block has, each time after the two.

Lightning's own share is told first: a bare `L.Trainer` on a model of one parameter, beside a bare loop.

Then prints a JSON object a model: medians over rounds, with the smallest and largest, of milliseconds by the wall
clock and of processor time (of all threads, for a machine that is not quiet).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from babygpt.cli import main as babygpt
from babygpt.data.loaders import EpochLoader
from babygpt.data.module import LLMDataModule
from babygpt.optim.groups import parameter_groups
from babygpt.optim.optimizers import OPTIMIZERS, build_optimizer
from babygpt.optim.schedules import multiplier

_FIRST = 2  # intervals at a block's beginning that are left out: caches are the other loop's


class Alternating:
    """The training loader, which does blocks of the bare loop in between.

    Args:
        data: whose loader it is.
        loader: the real one.
        steps: optimiser steps of a block; the first block of each is a warm-up.
    """

    def __init__(self, data: LLMDataModule, loader: EpochLoader, steps: int) -> None:
        self._data, self._loader, self._steps = data, loader, steps
        self._marks: list[tuple[float, float]] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self.ours: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []
        self.loading: list[tuple[float, float]] = []
        self._hook = register_optimizer_step_post_hook(lambda *_: self._mark())

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        batches = self._steps * self._data.micro_batches
        for number, batch in enumerate(self._loader):
            if number and number % batches == 0:
                self.ours.append(self._block())
                self._bare(number // batches)
                self.bare.append(self._block())
                self._load()
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        del state_dict

    def stop(self) -> None:
        self._hook.remove()

    def _mark(self) -> None:
        self._marks.append((time.perf_counter(), time.process_time()))

    def _block(self) -> tuple[float, float]:
        """Wall and processor seconds a step of the block that has ended."""
        marks, self._marks = self._marks[_FIRST - 1 :], []
        (begun, used_before), (ended, used), steps = marks[0], marks[-1], len(marks) - 1
        return (ended - begun) / steps, (used - used_before) / steps

    def _bare(self, block: int) -> None:
        """A block of the bare loop, on batches that are there."""
        trainer = self._data.trainer
        module, micros = trainer.lightning_module, self._data.micro_batches
        settings = module.hparams
        if self._optimizer is None:
            groups = parameter_groups(
                module.model, OPTIMIZERS[settings["optimizer"]], settings["weight_decay"]
            )
            bf16 = trainer.precision == "bf16-mixed"
            self._optimizer = build_optimizer(
                settings["optimizer"], groups, settings["lr"], settings["betas"], bf16=bf16
            )
        parameters = list(module.model.parameters())
        first = block * self._steps
        prepared = [
            [
                {k: v for k, v in batch.items() if k != "attention_mask"}
                for batch in map(self._data.micro_batch, range(step * micros, (step + 1) * micros))
            ]
            for step in range(first, first + self._steps)
        ]
        targets = [self._data.step_targets(step) for step in range(first, first + self._steps)]
        for number, (batches, count) in enumerate(zip(prepared, targets, strict=True)):
            rate = settings["lr"] * multiplier(
                settings["schedule"], number, self._steps, settings["warmup"], settings["final"]
            )
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=trainer.precision == "bf16-mixed"):
                    # The module's own function of a batch, so that both compute the same whatever it does.
                    loss = module.sum_nll(batch) / count
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, trainer.gradient_clip_val)
            self._optimizer.step()
            self._optimizer.zero_grad()

    def _load(self) -> None:
        """Seconds that the loader alone takes for the batches of a step."""
        wanted = self._steps * self._data.micro_batches
        batches = iter(self._loader)
        begun = time.perf_counter(), time.process_time()
        for _ in range(wanted):
            next(batches)
        ended = time.perf_counter(), time.process_time()
        self.loading.append(((ended[0] - begun[0]) / self._steps, (ended[1] - begun[1]) / self._steps))


def measure(model: str, rounds: int, steps: int, more: list[str]) -> dict[str, Any]:
    """Runs once and compares the blocks."""
    made: list[Alternating] = []
    plain = LLMDataModule.train_dataloader

    def alternating(data: LLMDataModule) -> Any:
        made.append(Alternating(data, plain(data), steps))
        return made[-1]

    total = steps * (rounds + 1) + 1
    with tempfile.TemporaryDirectory(prefix="babygpt-overhead-") as folder:
        fields = {
            "model.name": model,
            "budget.steps": total,
            "validate.every_steps": total,
            "checkpoint.every_steps": total,
            "machine.device": "cpu",
            "out": Path(folder) / "run",
        }
        words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
        LLMDataModule.train_dataloader = alternating  # type: ignore[method-assign, assignment]
        try:
            with contextlib.redirect_stdout(io.StringIO()), terminal():
                code = babygpt(["train", *words, *more, "--json"])
        finally:
            LLMDataModule.train_dataloader = plain  # type: ignore[method-assign]
            for loader in made:
                loader.stop()
        if code:
            raise SystemExit(code)
        plan = json.loads((Path(folder) / "run" / "machine.json").read_text(encoding="utf-8"))["plan"]
    return {"model": model, "precision": plan["precision"], "steps": steps, **_summary(made[-1])}


class _OneParameter(L.LightningModule):
    """The least that Lightning can train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        del batch, batch_idx
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lightning_alone(steps: int = 2000) -> dict[str, Any]:
    """Milliseconds a step of a bare `L.Trainer`, and of a bare loop, on a model of one parameter; the second halves."""
    marks: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: marks.append(time.perf_counter()))
    module, data = _OneParameter(), DataLoader([torch.zeros(1)] * steps, batch_size=None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=1,
        )
        trainer.fit(module, data)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for batch in data:
        module.training_step(batch, 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    hook.remove()
    both = [1e3 * (b - a) for a, b in pairwise(marks)]
    alone, bare = (statistics.median(both[first + steps // 2 : first + steps - 1]) for first in (0, steps))
    return {"model": "one parameter", "lightning_ms": round(alone, 3), "bare_ms": round(bare, 3)}


def _summary(found: Alternating) -> dict[str, Any]:
    """The first round warms up."""
    result: dict[str, Any] = {"rounds": len(found.ours) - 1}
    for kind, clock in ((0, "wall"), (1, "cpu")):
        ours, bare, loading = (
            [s[kind] for s in kept[1:]] for kept in (found.ours, found.bare, found.loading)
        )
        pairs = list(zip(ours, bare, loading, strict=True))
        result[clock] = {
            "step_ms": _spread([1e3 * a for a in ours]),
            "bare_step_ms": _spread([1e3 * b for b in bare]),
            "added_ms": _spread([1e3 * (a - b) for a, b, _ in pairs]),
            "ratio": _spread([a / b for a, b, _ in pairs]),
            "loader_ms": _spread([1e3 * c for c in loading]),
            "loader_over_bare_step": _spread([b / c for _, b, c in pairs]),
        }
    return result


def _spread(values: list[float]) -> list[float]:
    """Median, smallest and largest."""
    return [float(f"{v:.4g}") for v in (statistics.median(values), min(values), max(values))]


class _Screen(io.TextIOWrapper):
    """Nowhere, which says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Has the progress bar drawn in place, as on a terminal, into nothing."""
    before = os.environ.get("TERM")
    os.environ["TERM"] = "xterm-256color"
    with _Screen(open(os.devnull, "wb"), encoding="utf-8") as nothing, contextlib.redirect_stderr(nothing):
        try:
            yield
        finally:
            os.environ.pop("TERM") if before is None else os.environ.update(TERM=before)


def main() -> None:
    """Prints a JSON object a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["preset:gpt2-11m", "preset:gpt2-1m"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps of a block")
    asked, more = parser.parse_known_args()
    if asked.rounds < 2 or asked.steps < _FIRST + 2:
        parser.error(f"--rounds is at least 2, --steps at least {_FIRST + 2}")
    print(json.dumps(lightning_alone()), flush=True)
    for model in asked.model:
        print(json.dumps(measure(model, asked.rounds, asked.steps, more)), flush=True)


if __name__ == "__main__":
    main()
