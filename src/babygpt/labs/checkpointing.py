"""Activation checkpointing: what it costs in time and spares in memory, beside the tutorial's 20 % and 50 %.

Recomputing adds one forward pass to a forward and a backward pass of twice its work: 4/3 of the blocks' time if
products are all there is. What it spares depends on what else lies in memory. Peak memory is counted, not sampled:
every storage that torch makes in a step is followed from its birth to its end, which is the same on every machine.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from babygpt import BabyGPT
from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import measured, trial

__all__ = ["LAB", "LiveBytes", "Weighed", "timed_and_weighed", "trainings"]

_MEASURED_STEP = 1  # the second, when the optimiser has its state


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that are made while it is on, now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._born(tensor.untyped_storage(), known)
        return result

    def _born(self, storage: Any, known: set[int]) -> None:
        if id(storage) in known or storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._died, size)

    def _died(self, size: int) -> None:
        self.now -= size


class Weighed(BabyGPT):
    """Counts the memory of one step: activations and gradients, at their most, in bytes."""

    peak = 0
    _counting: LiveBytes | None = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Begins to count."""
        if self.trainer.global_step == _MEASURED_STEP:
            self._counting = LiveBytes()
            self._counting.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Ends it."""
        if self._counting is not None:
            self._counting.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.peak, self._counting = self._counting.most, None
        super().on_train_batch_end(outputs, batch, batch_idx)


def run(setting: Setting) -> Measured:
    """One run."""
    return timed_and_weighed(setting, BabyGPT, Weighed)


def trainings(setting: Setting) -> tuple[Setting, ...]:
    """The one that is timed and the one that is weighed."""
    return setting, replace(setting, steps=_MEASURED_STEP + 1)


def timed_and_weighed(setting: Setting, plain: type[BabyGPT], weighing: type[Weighed]) -> Measured:
    """One fit for time and loss, and one of two steps for the memory: counting takes time itself.

    Args:
        setting: of the run.
        plain: what is timed.
        weighing: the same, with its memory counted.
    """
    with trial(setting, plain) as made:
        fitted = made.fit()
    with trial(trainings(setting)[1], weighing) as made:
        made.fit()
        weighed: Any = made.module
    steps = setting.steps - 1
    return measured(
        fitted,
        wall_ms=1e3 * fitted.seconds / steps,
        cpu_ms=1e3 * fitted.cpu_seconds / steps,
        peak_mb=weighed.peak / 1e6,
    )


LAB = Lab(
    name="checkpointing",
    line="Activation checkpointing: is it 20 % slower for 50 % less memory?",
    question="How much slower does activation checkpointing make a step here, and how much memory does it spare?",
    protocol=(
        "The same model is trained with and without recomputing its blocks' activations, in turns. Wall and CPU"
        " time are"
        " of the steps after the first; memory is that of the storages a step makes, at its most, without the"
        " weights."
    ),
    arms=(
        Arm("kept", "activations are kept", {"activation_checkpointing": False}),
        Arm("recomputed", "each block's are computed again", {"activation_checkpointing": True}),
    ),
    outcomes=(
        Outcome("peak_mb", "peak memory of a step beside weights and optimiser state, MB", ratio=True),
        Outcome("cpu_ms", "CPU time of a step, ms", ratio=True),
        Outcome("wall_ms", "wall time of a step, ms", ratio=True),
        Outcome("train_loss", "training loss at the end, nats a token"),
    ),
    contrasts=tuple(
        Contrast(outcome, "recomputed", "kept") for outcome in ("peak_mb", "cpu_ms", "wall_ms", "train_loss")
    ),
    claims=(
        Claim("it is 20 % slower, give or take 5", "cpu_ms", "recomputed", "kept", 1.15, 1.25),
        Claim("it takes 50 % less memory, give or take 5", "peak_mb", "recomputed", "kept", 0.45, 0.55),
    ),
    run=run,
    trainings=trainings,
    shared=lambda scale: {
        "layers": 2 * scale.layers,
        "block": 4 * scale.block,
        "batch": max(1, scale.batch // 2),
        "steps": max(12, scale.steps // 6),
    },
)
