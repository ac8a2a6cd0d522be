"""A run's metrics to curves of a bounded number of points, in one pass and in bounded memory.

Steps are gathered in buckets of equal length, each with the mean and the extremes of its losses and gradient norms, so
that no spike is lost. When there are too many buckets, neighbours are joined and the length doubles: a run of any
length ends with between half and all of `most` buckets. Every number is kept where there are no more steps than that.

A run writes no clock. Its training seconds are its tokens over the speed that stands beside them: validations and saves
are no part of that speed, and the first interval, which has none, is given the next one's.

Cost: 8 µs a step of one core, nearly all of it for reading JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from babygpt.run_folder import losses_of_sources

__all__ = ["Curves", "Gatherer", "Validation", "curves_of"]

_MOST_SOURCES = 12
_MOST_EVENTS = 50
_RANGED = ("train_loss", "grad_norm")


@dataclass(frozen=True)
class Validation:
    """A validation.

    Attributes:
        step, tokens: completed at it.
        seconds: of training before it; None where no speed is known.
        loss: nats for each target token; None where it was not finite.
        bits_per_byte: of the validation text.
        sources: the loss of each source of a mixture.
    """

    step: int
    tokens: int
    seconds: float | None
    loss: float | None
    bits_per_byte: float | None
    sources: dict[str, float]

    @property
    def perplexity(self) -> float | None:
        """Exp of the loss."""
        return math.exp(self.loss) if self.loss is not None and self.loss < 700 else None


@dataclass(frozen=True)
class Curves:
    """What a run measured.

    Attributes:
        bucket: steps that a point of `train` stands for.
        train: columns of equal length by name: `step`, `tokens`, `seconds`, `lr` and `speed` (tokens a second) at or
            up to the end of each bucket; `train_loss` and `grad_norm` their means, with `_low` and `_high`.
        validations: in the order of the file; every n-th of very many, and always the last.
        best: the validation of the least loss.
        validated: how many validations there were.
        steps: completed.
        tokens: target tokens trained on.
        seconds: of training, without validations and saves; None where no speed is known.
        train_loss: mean over the last bucket that has one.
        pace: steps a second of training in the last bucket; None where no speed is known.
        memory: the most bytes used by the last process that said so; None where none has.
        skipped: how many steps were passed over.
        spikes: steps whose loss leapt, the first of them.
        resumed: steps after which the run was gone on with, the first of them.
        sources: names of a mixture's sources, the first of them.
    """

    bucket: int
    train: dict[str, list[float | None]]
    validations: tuple[Validation, ...]
    best: Validation | None
    validated: int
    steps: int
    tokens: int
    seconds: float | None
    train_loss: float | None
    pace: float | None
    memory: int | None
    skipped: int
    spikes: tuple[int, ...]
    resumed: tuple[int, ...]
    sources: tuple[str, ...]

    @property
    def last(self) -> Validation | None:
        """The last validation."""
        return self.validations[-1] if self.validations else None

    @property
    def speed(self) -> float | None:
        """Target tokens a second of training, over the whole run."""
        return self.tokens / self.seconds if self.seconds else None


@dataclass
class _Bucket:
    """Steps on end; sums and counts of what is finite in them."""

    step: int
    tokens: int
    seconds: float
    steps: int = 1
    lr: float | None = None
    targets: int = 0
    trained: float = 0.0
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)  # weighted sum, weight
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)  # least, greatest

    def join(self, after: _Bucket) -> None:
        self.step, self.tokens, self.seconds = after.step, after.tokens, after.seconds
        self.steps += after.steps
        self.lr = after.lr if after.lr is not None else self.lr
        self.targets += after.targets
        self.trained += after.trained
        for name, (total, weight) in after.sums.items():
            here = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (here[0] + total, here[1] + weight)
        for name, (low, high) in after.ends.items():
            ends = self.ends.get(name, (low, high))
            self.ends[name] = (min(ends[0], low), max(ends[1], high))

    def mean(self, name: str) -> float | None:
        total, weight = self.sums.get(name, (0.0, 0.0))
        return total / weight if weight else None


def curves_of(lines: Iterable[dict[str, Any]], most: int = 1000) -> Curves:
    """Gathers the lines of a run's metrics.

    Args:
        lines: as they stand in `metrics.jsonl`.
        most: points of a curve at most.
    """
    gatherer = Gatherer(most)
    for line in lines:
        gatherer.add(line)
    return gatherer.curves()


class Gatherer:
    """The state of the one pass, which may go on as the file grows.

    Args:
        most: points of a curve at most.
    """

    def __init__(self, most: int) -> None:
        self._most, self._length = most, 1
        self._buckets: list[_Bucket] = []
        self._validations: list[Validation] = []
        self._every, self._validated = 1, 0
        self._last: Validation | None = None
        self._best: Validation | None = None
        self._seconds = 0.0
        self._speed: float | None = None
        self._timed = False
        self._skipped = 0
        self._memory: int | None = None
        self._spikes: list[int] = []
        self._resumed: list[int] = []
        self._sources: list[str] = []

    def add(self, line: dict[str, Any]) -> None:
        """Takes the next line."""
        if "train_loss" in line:
            self._step(line)
        elif "val_loss" in line:
            self._validation(line)

    def _step(self, line: dict[str, Any]) -> None:
        step, tokens = _whole(line.get("step")), _whole(line.get("tokens"))
        targets = _whole(line.get("targets"))
        speed = _measured(line.get("tokens_per_second"))
        if speed:
            if self._speed is None:
                self._time_the_first(speed)
            self._speed, self._timed = speed, True
        elif self._timed and targets:  # a process begins without a speed; steps of prompts alone have none
            self._timed = False
            self._resumed += [step - 1] if len(self._resumed) < _MOST_EVENTS else []
        seconds = targets / self._speed if self._speed else 0.0
        self._seconds += seconds
        self._skipped += line.get("skipped") is True
        self._memory = _whole(line.get("peak_memory_bytes")) or self._memory
        if line.get("spike") is True and len(self._spikes) < _MOST_EVENTS:
            self._spikes.append(step)
        bucket = _Bucket(
            step, tokens, self._seconds, lr=_number(line.get("lr")), targets=targets, trained=seconds
        )
        for name in _RANGED:
            if (value := _number(line.get(name))) is not None:
                weight = (
                    (_measured(line.get("loss_weight")) or max(1, targets)) if name == "train_loss" else 1
                )
                bucket.sums[name], bucket.ends[name] = (value * weight, weight), (value, value)
        self._append(bucket)

    def _time_the_first(self, speed: float) -> None:
        for bucket in self._buckets:
            bucket.seconds, bucket.trained = bucket.tokens / speed, bucket.targets / speed
        self._seconds = self._buckets[-1].seconds if self._buckets else 0.0
        self._validations = [self._timed_at(v, v.tokens / speed) for v in self._validations]
        if self._best is not None:
            self._best = self._timed_at(self._best, self._best.tokens / speed)
        if self._last is not None:
            self._last = self._timed_at(self._last, self._last.tokens / speed)

    @staticmethod
    def _timed_at(v: Validation, seconds: float) -> Validation:
        return Validation(v.step, v.tokens, seconds, v.loss, v.bits_per_byte, v.sources)

    def _append(self, bucket: _Bucket) -> None:
        if self._buckets and self._buckets[-1].steps < self._length:
            self._buckets[-1].join(bucket)
            return
        self._buckets.append(bucket)
        if len(self._buckets) > self._most:
            self._length *= 2
            joined = self._buckets[::2]
            for left, right in zip(joined, self._buckets[1::2], strict=False):
                left.join(right)
            self._buckets = joined

    def _validation(self, line: dict[str, Any]) -> None:
        sources = {
            name: loss
            for name, value in losses_of_sources(line).items()
            if (loss := _number(value)) is not None
        }
        self._sources += [n for n in sources if n not in self._sources][: _MOST_SOURCES - len(self._sources)]
        found = Validation(
            step=_whole(line.get("step")),
            tokens=_whole(line.get("tokens")),
            seconds=self._seconds if self._speed else None,
            loss=_number(line.get("val_loss")),
            bits_per_byte=_number(line.get("val_bits_per_byte")),
            sources={name: sources[name] for name in self._sources if name in sources},
        )
        if found.loss is not None and (self._best is None or found.loss < _loss_of(self._best)):
            self._best = found
        self._last = found
        if self._validated % self._every == 0:
            self._validations.append(found)
            if len(self._validations) > self._most:
                self._validations, self._every = self._validations[::2], 2 * self._every
        self._validated += 1

    def curves(self) -> Curves:
        """What there is of it so far."""
        validations = self._validations
        if self._last is not None and validations[-1] != self._last:
            validations = [*validations, self._last]
        losses = [mean for b in self._buckets if (mean := b.mean("train_loss")) is not None]
        end = self._buckets[-1] if self._buckets else None
        return Curves(
            bucket=self._length,
            train=self._columns(),
            validations=tuple(validations),
            best=self._best,
            validated=self._validated,
            steps=end.step if end else 0,
            tokens=end.tokens if end else 0,
            seconds=self._seconds if self._speed else None,
            train_loss=losses[-1] if losses else None,
            pace=end.steps / end.trained if end and end.trained else None,
            memory=self._memory,
            skipped=self._skipped,
            spikes=tuple(self._spikes),
            resumed=tuple(self._resumed),
            sources=tuple(self._sources),
        )

    def _columns(self) -> dict[str, list[float | None]]:
        known = self._speed is not None
        columns: dict[str, list[float | None]] = {
            "step": [b.step for b in self._buckets],
            "tokens": [b.tokens for b in self._buckets],
            "seconds": [b.seconds if known else None for b in self._buckets],
            "lr": [b.lr for b in self._buckets],
            "speed": [b.targets / b.trained if b.trained else None for b in self._buckets],
        }
        for name in _RANGED:
            columns[name] = [b.mean(name) for b in self._buckets]
            for number, end in enumerate(("low", "high")):
                columns[f"{name}_{end}"] = [
                    b.ends[name][number] if name in b.ends else None for b in self._buckets
                ]
        return columns


def _loss_of(validation: Validation) -> float:
    return math.inf if validation.loss is None else validation.loss


def _number(value: Any) -> float | None:
    """A finite number whose sums are finite, or None: the file may be damaged, and JSON allows any whole number."""
    if type(value) not in (int, float) or not abs(value) < 1e200:
        return None
    return float(value)


def _measured(value: Any) -> float | None:
    """A speed or a weight that can be divided by; None for what no computer could have measured."""
    number = _number(value)
    return number if number is not None and 1e-9 < number < 1e18 else None


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 2**63 else 0
