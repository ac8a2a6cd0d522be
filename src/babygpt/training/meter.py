"""What each optimiser step did, kept on the device and read once an interval.

Reading a number from an accelerator waits for it, and each call of Lightning's logger costs a good part of a
millisecond; so a step only adds tensors to a list, and the list is read, reduced over the ranks and turned into
records when the interval is over.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from babygpt.training.spikes import LossWatch

__all__ = ["StepMeter", "StepRecord", "mean_loss"]

_UNREAD = 65_536


@dataclass(frozen=True)
class StepRecord:
    """One completed optimiser step.

    Args:
        step: optimiser steps completed, this one included.
        tokens: target tokens since the run began, this step's included.
        targets: target tokens of this step, over all ranks.
        train_loss: nats for each target token; where prompts count, the mean over all tokens by their weights.
        lr: learning rate of the first parameter group in this step.
        grad_norm: Euclidean norm of the gradient before clipping.
        tokens_per_second: over the interval the step was read in; None at the run's first interval.
        skipped: whether its gradient was not finite and the update left out.
        spike: whether its loss does not belong to those before it.
        loss_weight: the sum of these weights; None where it is the number of targets.
    """

    step: int
    tokens: int
    targets: int
    train_loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float | None
    skipped: bool = False
    spike: bool = False
    loss_weight: float | None = None

    @property
    def weight(self) -> float:
        """What `train_loss` is a mean over."""
        return self.targets if self.loss_weight is None else self.loss_weight

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values; `skipped`, `spike` and `loss_weight` are there only where they say something."""
        rare = ("skipped", "spike", "loss_weight")
        return {k: v for k, v in vars(self).items() if k not in rare or v}


def mean_loss(records: Sequence[StepRecord]) -> tuple[float, float] | None:
    """The mean of several steps' losses by their weights, and the sum of these; None where there are none."""
    weight = sum(r.weight for r in records)
    return (sum(r.train_loss * r.weight for r in records) / weight, weight) if weight else None


@dataclass(frozen=True)
class _Step:
    step: int
    targets: int | torch.Tensor
    nll: torch.Tensor
    norm: torch.Tensor
    lr: float
    skipped: bool
    weight: float | None


@dataclass
class StepMeter:
    """Collects steps as tensors and turns them into records.

    Args:
        tokens: target tokens of the run so far; restored from a checkpoint.
        watch: the losses of the last steps; likewise.
        unread: records read off the device that nobody has taken yet; the oldest go when nobody does.
    """

    tokens: int = 0
    watch: LossWatch = field(default_factory=LossWatch)
    unread: deque[StepRecord] = field(default_factory=lambda: deque(maxlen=_UNREAD))
    _nll: torch.Tensor | None = None
    _grad_norm: torch.Tensor | None = None
    _skipped: bool = False
    _counted: torch.Tensor | None = None
    _pending: list[_Step] = field(default_factory=list)
    _since: float | None = None
    _idle: float = 0.0

    def add(self, nll: torch.Tensor, targets: torch.Tensor | None = None) -> None:
        """Adds a micro-batch's summed loss, and its target count where no plan knows it (detached scalars)."""
        self._nll = nll if self._nll is None else self._nll + nll
        if targets is not None:
            self._counted = targets if self._counted is None else self._counted + targets

    def set_grad_norm(self, norm: torch.Tensor) -> None:
        """The gradient norm of the step under way (a detached scalar)."""
        self._grad_norm = norm

    def skip_step(self) -> None:
        """The step under way makes no update."""
        self._skipped = True

    @property
    def nll_under_way(self) -> torch.Tensor | None:
        """Summed loss of the step under way, on this rank."""
        return self._nll

    def finish_step(self, step: int, targets: int | None, lr: float, weight: float | None = None) -> bool:
        """Closes the step under way: `step` counts it in; `targets` None takes the counts that were added.

        Args:
            step, targets, lr: as in its record.
            weight: what its summed loss is divided by, where that is not its targets.

        Returns:
            whether it was skipped.
        """
        assert self._nll is not None, "a step has at least one micro-batch"
        norm = self._grad_norm if self._grad_norm is not None else torch.full_like(self._nll, float("nan"))
        counted = self._counted if targets is None else targets
        assert counted is not None, "targets are known from the plan or counted"
        self._pending.append(_Step(step, counted, self._nll, norm, lr, self._skipped, weight))
        skipped, self._skipped = self._skipped, False
        self._nll = self._grad_norm = self._counted = None
        return skipped

    def pause(self, seconds: float) -> None:
        """Takes time that was no training (a validation, a save) out of the speed."""
        self._idle += seconds

    def flush(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> list[StepRecord]:
        """Reads the steps since the last reading.

        Args:
            reduce: sums a float32 [steps] tensor over the ranks.
        """
        if not self._pending:
            return []
        steps, self._pending = self._pending, []
        sums = reduce(torch.stack([s.nll.float() for s in steps])).tolist()
        norms = torch.stack([s.norm.float() for s in steps]).tolist()
        counts = [s.targets for s in steps]
        if isinstance(counts[0], torch.Tensor):
            counts = [int(c) for c in reduce(torch.stack([torch.as_tensor(c).float() for c in counts]))]
        now = time.perf_counter()
        seconds = now - self._since - self._idle if self._since is not None else None
        speed = sum(int(c) for c in counts) / seconds if seconds and seconds > 0 else None
        records = []
        for s, nll, norm, count in zip(steps, sums, norms, counts, strict=True):
            self.tokens += int(count)
            loss = nll / (max(1, int(count)) if s.weight is None else s.weight)
            spike = not s.skipped and self.watch.see(loss)
            records.append(
                StepRecord(
                    s.step, self.tokens, int(count), loss, s.lr, norm, speed, s.skipped, spike, s.weight
                )
            )
        self._since, self._idle = now, 0.0
        self.unread.extend(records)
        return records

    def drain(self) -> list[StepRecord]:
        """Takes the records read so far."""
        records = list(self.unread)
        self.unread.clear()
        return records
