"""Where the time of a step goes beside the model: each part of `babygpt train`'s loop in microseconds.

    OMP_NUM_THREADS=1 python benchmarks/loop_parts.py                  steps of one window of 32 tokens
    OMP_NUM_THREADS=1 python benchmarks/loop_parts.py --hollow         without the model: caches stay warm
    python benchmarks/loop_parts.py --steps 400 --data.block 256       further arguments are those of `train`

One run of the verb as anyone starts it, its bar drawn as on a terminal, with a clock around the functions below. A
part's time is that of its function less those within it that have a line of their own. It is the training thread's
processor time, so that other work on the machine is not in it. The clocks take time themselves, about half a
microsecond a call, which is in the lines: `overhead.py` tells how much a loop adds, and this tells why.

With `--hollow` the model gives every parameter a gradient and computes nothing. Steps are then a tenth as long and
vary less; what a cache miss costs after a real forward and backward pass is not in it.

Prints a line a part: microseconds and calls a step, the greatest first, and a JSON object of the sums: what a bare loop
does too (the model, clipping, the update, one `zero_grad`), Lightning's own, and BabyGPT's.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import json
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loops import fetchers, training_epoch_loop
from lightning.pytorch.loops.optimization import automatic
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector import logger_connector
from overhead import terminal
from torch.optim.optimizer import register_optimizer_step_post_hook

from babygpt.cli import main as babygpt
from babygpt.data import batches
from babygpt.data.module import LLMDataModule
from babygpt.training import (
    callbacks,
    guards,
    health_watch,
    meter,
    module,
    progress,
    saving,
    tuning,
    updating,
    watchdog,
)

_WARM = 200  # steps that are not counted
_CALLBACKS = (
    callbacks.RunFiles, guards.SignalGuard, health_watch.HealthWatch, progress.ProgressView, saving.RunCheckpoints,
    tuning.StepTuning, watchdog.Watchdog,
)  # fmt: skip
_BARE, _LIGHTNING, _OURS = "bare", "lightning", "babygpt"
# Owner, name and whose it is. Of Lightning's three, the hook that is called makes the line.
_PARTS: tuple[tuple[Any, str, str], ...] = (
    (module.BabyGPT, "sum_nll", _BARE),
    (LightningModule, "backward", _BARE),
    (torch.nn.utils, "clip_grad_norm_", _BARE),
    (torch.optim.AdamW, "step", _BARE),
    (torch.optim.Optimizer, "zero_grad", _BARE),
    (call, "_call_callback_hooks", _LIGHTNING),
    (call, "_call_lightning_module_hook", _LIGHTNING),
    (call, "_call_strategy_hook", _LIGHTNING),
    (training_epoch_loop._TrainingEpochLoop, "advance", _LIGHTNING),
    (training_epoch_loop._TrainingEpochLoop, "on_advance_end", _LIGHTNING),
    (training_epoch_loop._TrainingEpochLoop, "update_lr_schedulers", _LIGHTNING),
    (fetchers._PrefetchDataFetcher, "__next__", _LIGHTNING),
    (logger_connector._LoggerConnector, "on_batch_start", _LIGHTNING),
    (logger_connector._LoggerConnector, "on_batch_end", _LIGHTNING),
    (logger_connector._LoggerConnector, "update_train_step_metrics", _LIGHTNING),
    (automatic._AutomaticOptimization, "run", _LIGHTNING),
    (automatic.Closure, "__call__", _LIGHTNING),
    (LightningModule, "log", _LIGHTNING),
    (LightningModule, "optimizer_step", _LIGHTNING),
    (torch.optim.lr_scheduler.LambdaLR, "step", _LIGHTNING),
    *((module.BabyGPT, name, _OURS) for name in ("training_step", "optimizer_step", "on_train_batch_end", "flush")),
    (module.BabyGPT, "configure_gradient_clipping", _OURS),
    (module.BabyGPT, "_is_finite", _OURS),
    (module, "seed_micro_batch", _OURS),
    (module, "clipped", _OURS),
    (updating, "multiplier", _OURS),
    *((meter.StepMeter, name, _OURS) for name in ("add", "finish_step", "flush")),
    *((each, name, _OURS) for each in _CALLBACKS for name in ("on_train_batch_start", "on_train_batch_end")),
    (progress.ProgressView, "_draw", _OURS),
    (health_watch.HealthWatch, "_look", _OURS),
    (callbacks._Lines, "write", _OURS),
    (gc, "collect", _OURS),
    (LLMDataModule, "on_before_batch_transfer", _OURS),
    (batches, "make_batch", _OURS),
    (batches.BatchPlan, "step_rows", _OURS),
    (batches.BatchPlan, "_counts", _OURS),
)  # fmt: skip


class Clocks:
    """Exclusive processor seconds and calls of each part, while it counts."""

    def __init__(self) -> None:
        self.counts = False
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self._within = [0.0]
        self._thread = threading.get_ident()

    def around(self, function: Callable[..., Any], whose: str, name: str) -> Callable[..., Any]:
        """The function, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.counts or threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            self._within.append(0.0)
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.thread_time() - begun
                part = whose, f"{name} {args[1]}" if name.startswith("_call_") else name
                self.seconds[part] += taken - self._within.pop()
                self.calls[part] += 1
                self._within[-1] += taken

        return timed


@contextlib.contextmanager
def _timed(clocks: Clocks) -> Any:
    """Puts the clocks in, and takes them out again."""
    with contextlib.ExitStack() as held:
        for owner, name, whose in _PARTS:
            if isinstance(owner, type) and owner in _CALLBACKS and name not in vars(owner):
                continue
            real = getattr(owner, name)
            own = name in vars(owner)
            held.callback(setattr, owner, name, real) if own else held.callback(delattr, owner, name)
            named = f"{owner.__name__.rpartition('.')[2]}.{name}" if not name.startswith("_call_") else name
            setattr(owner, name, clocks.around(real, whose, named))
        yield


class _Nothing(torch.autograd.Function):
    """Gives every parameter a gradient."""

    @staticmethod
    def forward(ctx: Any, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*parameters)
        return torch.ones(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        return tuple(gradient * 1e-4 + torch.zeros_like(p) for p in ctx.saved_tensors)


def _hollow(own: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """In place of `BabyGPT.sum_nll`."""
    del batch
    return _Nothing.apply(*own.model.parameters())  # type: ignore[no-any-return]


def measure(steps: int, more: Sequence[str]) -> Clocks:
    """One run; the clocks count all but its first steps and its last."""
    clocks, done = Clocks(), 0

    def stepped(*_: Any) -> None:
        nonlocal done
        done += 1
        clocks.counts = _WARM <= done < _WARM + steps

    hook = register_optimizer_step_post_hook(stepped)
    total = str(_WARM + steps + 1)
    with tempfile.TemporaryDirectory(prefix="babygpt-parts-") as folder:
        arguments = {
            "model.name": "preset:gpt2-1m", "optim.name": "adamw", "data.block": "32", "data.global_batch_size": "1",
            "validate.batches": "1", "machine.device": "cpu", "machine.precision": "32-true",
            "budget.steps": total, "validate.every_steps": total, "checkpoint.every_steps": total,
            "out": f"{folder}/run",
        }  # fmt: skip
        words = [word for name, value in arguments.items() for word in (f"--{name}", value)]
        with _timed(clocks), contextlib.redirect_stdout(io.StringIO()), terminal():
            code = babygpt(["train", *words, *more, "--json"])
    hook.remove()
    if code:
        raise SystemExit(code)
    return clocks


def main() -> None:
    """Prints the parts, and their sums."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps that are counted")
    parser.add_argument("--hollow", action="store_true", help="without the model's work")
    asked, more = parser.parse_known_args()
    if asked.hollow:
        module.BabyGPT.sum_nll = _hollow  # type: ignore[method-assign]
    clocks = measure(asked.steps, more)
    sums: dict[str, float] = defaultdict(float)
    for (whose, name), seconds in sorted(clocks.seconds.items(), key=lambda item: -item[1]):
        calls = clocks.calls[whose, name] / asked.steps
        print(f"{1e6 * seconds / asked.steps:9.1f}  {calls:6.2f}  {whose:10}{name}")
        sums[whose] += 1e6 * seconds / asked.steps
    print(json.dumps({whose: round(total, 1) for whose, total in sums.items()}))


if __name__ == "__main__":
    main()
