"""What every contender shares: the spec it is given, the clock of its steps, and the loss it reached.

The clock is one global hook that torch calls after each optimiser step, so that a contender's own code
stays as its documentation prints it. A mark holds the wall clock and the processor time of all threads of
this process; at the two ends of the measured region also that of the child processes (loader workers),
found through psutil.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

_HELD_OUT_WINDOWS = 32
_REPORTED = ("torch", "transformers", "accelerate", "trl", "lightning", "litgpt", "numpy")


@dataclass(frozen=True)
class Spec:
    """One run's task, the same for every contender.

    Args:
        result: file that `report` writes.
        work: folder of `model/` (initial weights, tokenizer), `train` and `held_out` as `.npy` and `.txt`.
        layers: transformer blocks.
        width: of the residual stream.
        heads: of attention.
        block: tokens of a window.
        vocab_size: entries of the vocabulary.
        batch: windows of one optimiser step.
        micro_batch: windows of one forward pass, for contenders that must be told.
        learning_rate: peak of AdamW; each contender keeps its own schedule and other hyperparameters.
        steps: optimiser steps of the run.
        warmup: steps at its start that are not measured.
        seed: of whatever the contender draws.
        variant: of the contender, its own words.
    """

    result: Path
    work: Path
    layers: int
    width: int
    heads: int
    block: int
    vocab_size: int
    batch: int
    micro_batch: int
    learning_rate: float
    steps: int
    warmup: int
    seed: int
    variant: str

    @property
    def model(self) -> str:
        """Folder of the initial Hugging Face checkpoint and its tokenizer."""
        return str(self.work / "model")

    @property
    def accumulate(self) -> int:
        """Forward passes of one optimiser step."""
        return self.batch // self.micro_batch

    def train_windows(self, length: int | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 [windows, length]: windows that start every `block` tokens, repeated if the run needs more.

        Args:
            length: tokens of a window, `block` unless given (a loader that shifts by itself wants block + 1).
        """
        return _windows(self.work / "train.npy", self.block, length or self.block, self.steps * self.batch)

    def held_out(self) -> torch.Tensor:
        """int64 [windows, block + 1]: what the reached loss is measured on."""
        windows = _windows(self.work / "held_out.npy", self.block, self.block + 1, 0)
        return torch.from_numpy(windows[:_HELD_OUT_WINDOWS])


def _windows(path: Path, stride: int, length: int, at_least: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    ids = np.load(path)
    count = (len(ids) - length) // stride + 1
    if count < 1:
        raise SystemExit(f"{path} holds {len(ids)} tokens, fewer than one window of {length}")
    starts = np.arange(max(count, at_least)) % count * stride
    return np.stack([ids[start : start + length] for start in starts]).astype(np.int64)


@dataclass(frozen=True)
class Mark:
    """The moment after an optimiser step.

    Args:
        wall: seconds of the monotonic clock.
        cpu: processor seconds of this process, all threads.
        children: processor seconds by child process id, at the ends of the measured region; else empty.
        peak_rss: bytes, of this process so far.
        now: seconds since the epoch.
    """

    wall: float
    cpu: float
    children: dict[int, float]
    peak_rss: int
    now: float


class StepProbe:
    """Marks every optimiser step from its creation on, one list for each optimiser."""

    def __init__(self, spec: Spec) -> None:
        self._ends = {spec.warmup, spec.steps}
        self._of: WeakKeyDictionary[Optimizer, list[Mark]] = WeakKeyDictionary()
        self._all: list[list[Mark]] = []
        register_optimizer_step_post_hook(self._record)

    def _record(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        marks = self._of.get(optimizer)
        if marks is None:
            marks = self._of[optimizer] = []
            self._all.append(marks)
        children = _children_cpu() if len(marks) + 1 in self._ends else {}
        marks.append(Mark(time.perf_counter(), time.process_time(), children, _peak_rss(), time.time()))

    def marks(self, steps: int) -> list[Mark]:
        """The marks of the one optimiser that did the run; others (a planner's trial, say) did fewer steps.

        Raises:
            SystemExit: no optimiser did exactly `steps` steps.
        """
        exact = [marks for marks in self._all if len(marks) == steps]
        if len(exact) != 1:
            seen = [len(marks) for marks in self._all]
            raise SystemExit(f"expected one optimiser of {steps} steps, saw optimisers of {seen} steps")
        return exact[0]


def _children_cpu() -> dict[int, float]:
    seconds = {}
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it ended between the two calls
            continue
        seconds[child.pid] = times.user + times.system
    return seconds


def _peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module, logits_of: Callable[[torch.Tensor], torch.Tensor], spec: Spec
) -> float:
    """Mean negative log likelihood of the held-out windows in fp32, nats for each token, alike for everyone.

    Args:
        model: put into eval mode.
        logits_of: int64 [windows, block] ids to [windows, block, vocabulary] logits.
        spec: of the run.
    """
    model.eval()
    total, count = 0.0, 0
    for windows in spec.held_out().split(4):
        logits = logits_of(windows[:, :-1]).float()
        targets = windows[:, 1:]
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += targets.numel()
    return total / count


def hugging_face_loss(model: Any, spec: Spec) -> float:
    """`held_out_loss` of a Hugging Face causal language model."""
    return held_out_loss(model, lambda ids: model(input_ids=ids).logits, spec)


def read_spec() -> Spec:
    """The spec from the command line: `CONTENDER.py SPEC.json RESULT.json`."""
    fields = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return Spec(**{**fields, "result": Path(sys.argv[2]).resolve(), "work": Path(fields["work"])})


def report(spec: Spec, probe: StepProbe, *, held_out: float, parameters: int, arithmetic: str) -> None:
    """Writes the result file that the driver waits for.

    Args:
        spec: of the run.
        probe: that watched it.
        held_out: from `held_out_loss` of the trained model.
        parameters: of the model, shared ones once.
        arithmetic: what the matrix products ran in and what the weights were kept in, for people.
    """
    marks = probe.marks(spec.steps)
    first, last = marks[spec.warmup - 1], marks[-1]
    children = sum(max(0.0, cpu - first.children.get(pid, 0.0)) for pid, cpu in last.children.items())
    result = {
        "seconds": last.wall - first.wall,
        "cpu_seconds": last.cpu - first.cpu + children,
        "cpu_seconds_children": children,
        "tokens": (spec.steps - spec.warmup) * spec.batch * spec.block,
        "peak_rss_bytes": last.peak_rss,
        "seconds_to_first_step": marks[0].now - float(os.environ["BENCH_STARTED"]),
        "held_out_loss": held_out,
        "parameters": parameters,
        "arithmetic": arithmetic,
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "step_wall": [mark.wall - marks[0].wall for mark in marks],
        "step_cpu": [mark.cpu - marks[0].cpu for mark in marks],
    }
    spec.result.write_text(json.dumps(result), encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def count_parameters(model: torch.nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def autocasts(flag: bool) -> str:
    """`arithmetic` of a run with fp32 weights, under bf16 autocast or not."""
    return "bf16 autocast, fp32 weights" if flag else "fp32"
