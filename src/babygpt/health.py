"""What a run's curves say of its health: pure functions from numbers to findings.

A step's loss is noisy, so stretches of steps are compared, not steps: of each the median, and for the median its
standard error, 1.2533 * sigma / sqrt(n) with sigma from the median absolute difference of neighbouring steps (which a
trend hardly touches). A difference counts when it is 4 standard errors of itself and worth telling.

    diverging            the newest stretch lies above the best before it, and so did the one before
    rate_too_high        the same while the learning rate was still rising
    rate_off             the loss falls as fast in the second half of the steps as in the first, and by little: a
                         learning rate far too small looks so, and one far too large that does not diverge
    plateau              the loss of the last third did not move, though the learning rate is above half its peak
    overfitting          the validation loss rises through two validations while the training loss falls
    waiting_for_data     the loader takes a good part of the time

Cost: a few passes over the losses, a millisecond for 10,000 steps.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Curves", "Finding", "curves_of", "findings", "joined"]

Floats = npt.NDArray[np.float64]

_LEAST = 60  # steps, below which nothing is said
_STRETCHES = 12  # that the steps are cut into to see whether the loss has risen
_ERRORS = 4.0  # standard errors that a difference has to be
_RISE = 0.03  # of the loss: less is not worth telling
_MOVE = 0.002  # of the loss: what has moved less in a third of a run's steps has not moved
_SMALL_FALL = 0.12  # of the first loss; a rate that is right takes more of it
_AS_FAST = 0.7  # of the first half's fall; a rate that is right falls fast and then slowly
_OVERFIT = 0.005  # of the best validation loss
_WAITING = 0.15  # of the time
# Of the neighbours' median absolute difference to the standard deviation of one: 1.4826 / sqrt(2).
_TO_SIGMA = 1.4826 / math.sqrt(2)
_MEDIAN_ERROR = 1.2533  # a median's standard error over a mean's, sqrt(pi / 2)


@dataclass(frozen=True)
class Curves:
    """What is known of a run so far.

    Attributes:
        steps: int64 [n], optimiser steps, in order.
        losses: float64 [n], nats a target token; NaN where a step had none.
        rates: float64 [n], learning rates.
        validations: (step, loss) in order.
        total_steps: of the whole run; None if it is not known.
        waiting: share of the time that went by until the loader gave the next batch; None if it was not measured.
    """

    steps: npt.NDArray[np.int64]
    losses: Floats
    rates: Floats
    validations: tuple[tuple[int, float], ...] = ()
    total_steps: int | None = None
    waiting: float | None = None


@dataclass(frozen=True)
class Finding:
    """Something that is not well.

    Attributes:
        kind: a name of the module's table.
        what: a sentence with the numbers.
        mend: what to do.
    """

    kind: str
    what: str
    mend: str


def curves_of(
    lines: Iterable[dict[str, Any]], total_steps: int | None = None, waiting: float | None = None
) -> Curves:
    """The curves in the lines of a run's `metrics.jsonl`; what is no number in them is left out.

    24 bytes are kept of each step, while the lines go by.
    """
    steps, losses, rates = array("q"), array("d"), array("d")
    validations = []
    for line in lines:
        step = line.get("step")
        if type(step) is not int or not 0 <= step < 2**63:
            continue
        if "train_loss" in line:
            steps.append(step)
            losses.append(_number(line["train_loss"]))
            rates.append(_number(line.get("lr")))
        if "val_loss" in line and math.isfinite(loss := _number(line["val_loss"])):
            validations.append((step, loss))
    return Curves(
        steps=np.array(steps, dtype=np.int64),
        losses=np.array(losses, dtype=np.float64),
        rates=np.array(rates, dtype=np.float64),
        validations=tuple(validations),
        total_steps=total_steps,
        waiting=waiting,
    )


def joined(before: Curves, since: Curves) -> Curves:
    """Curves and what came after them; the length of the run and the time waited are the later's."""
    return Curves(
        np.concatenate([before.steps, since.steps]),
        np.concatenate([before.losses, since.losses]),
        np.concatenate([before.rates, since.rates]),
        before.validations + since.validations,
        since.total_steps,
        since.waiting,
    )


def _number(value: Any) -> float:
    """A finite number, or NaN: a file may be damaged, and JSON allows whole numbers beyond any float."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else math.nan


def findings(curves: Curves) -> tuple[Finding, ...]:
    """What is not well, the worst first; nothing of a run too young to tell."""
    known = np.isfinite(curves.losses)
    curves = Curves(
        curves.steps[known],
        curves.losses[known],
        curves.rates[known],
        curves.validations,
        curves.total_steps,
        curves.waiting,
    )
    found: list[Finding | None] = []
    if len(curves.steps) >= _LEAST:
        risen = _risen(curves)
        found.append(risen)
        if risen is None:
            found += [_too_slow(curves), _plateau(curves)]
        found.append(_overfitting(curves))
    found.append(_waiting(curves))
    return tuple(finding for finding in found if finding is not None)


@dataclass(frozen=True)
class _Level:
    """The loss of a stretch: its median and that median's standard error."""

    loss: float
    error: float

    def above(self, other: _Level, share: float) -> bool:
        """Whether it is higher beyond doubt, and by more than a share of the other."""
        rise = self.loss - other.loss
        return rise > _ERRORS * math.hypot(self.error, other.error) and rise > share * abs(other.loss)


def _level(losses: Floats) -> _Level:
    sigma = _TO_SIGMA * float(np.median(np.abs(np.diff(losses)))) if len(losses) > 1 else 0.0
    return _Level(float(np.median(losses)), _MEDIAN_ERROR * sigma / math.sqrt(len(losses)))


def _risen(curves: Curves) -> Finding | None:
    stretches = np.array_split(np.arange(len(curves.losses)), _STRETCHES)
    levels = [_level(curves.losses[each]) for each in stretches]
    best = min(range(_STRETCHES), key=lambda n: levels[n].loss)
    newest, before = levels[-1], levels[-2]
    # Two in a row: one may be a spike that the run gets over.
    if best >= _STRETCHES - 2 or not all(each.above(levels[best], _RISE) for each in (before, newest)):
        return None
    at = int(curves.steps[stretches[best][-1]])
    what = f"the training loss has risen from {levels[best].loss:.3f} at step {at:,} to {newest.loss:.3f}"
    middle = int(stretches[best][len(stretches[best]) // 2])
    still_rising = curves.rates[middle] < 0.95 * curves.rates.max() and np.argmax(curves.rates) > middle
    if still_rising:
        rate = f"{curves.rates[middle]:.1e}"
        return Finding(
            "rate_too_high",
            f"{what} since the learning rate passed {rate}",
            f"Lower optim.lr to about {rate}",
        )
    return Finding(
        "diverging",
        what,
        "Begin a new run from a checkpoint before it (as model.name) with half the optim.lr, or give optim.on_spike"
        " rollback",
    )


def _too_slow(curves: Curves) -> Finding | None:
    peak = int(np.argmax(curves.rates))
    losses = curves.losses[peak:]
    if len(losses) < _LEAST:
        return None
    start, middle, end = (_level(each) for each in _ends(losses))
    first, second = start.loss - middle.loss, middle.loss - end.loss
    certain = middle.above(end, 0.0) and start.above(end, 0.0)
    if not certain or second < _AS_FAST * first or start.loss - end.loss > _SMALL_FALL * abs(start.loss):
        return None
    # A falling rate slows a run down by itself: what falls as fast all the same had too small a rate all along.
    return Finding(
        "rate_off",
        f"the training loss falls slowly and evenly, from {start.loss:.3f} to {end.loss:.3f} in {len(losses):,} steps",
        "Try ten times and a tenth of the optim.lr: both a far too small and a far too large one look so",
    )


def _ends(losses: Floats) -> tuple[Floats, Floats, Floats]:
    """The beginning, the middle and the end, a tenth of the steps each."""
    width, middle = max(10, len(losses) // 10), len(losses) // 2
    return losses[:width], losses[middle - width // 2 : middle - width // 2 + width], losses[-width:]


def _plateau(curves: Curves) -> Finding | None:
    count = len(curves.losses)
    third = curves.losses[-(count // 3) :]
    if count < 3 * _LEAST or curves.rates[-1] < 0.5 * curves.rates.max():
        return None
    begun, ended = (_level(each) for each in np.array_split(third, 2))
    least = _MOVE * abs(begun.loss)
    # "Did not move" has to be seen as well: the errors must be smaller than what would count as a move.
    if _ERRORS * math.hypot(begun.error, ended.error) > 2 * least or abs(begun.loss - ended.loss) > least:
        return None
    return Finding(
        "plateau",
        f"the training loss has stayed at {ended.loss:.3f} for {len(third):,} steps",
        "A larger model, more data or another optim.lr would go on; a schedule that falls to zero gains a little more",
    )


def _overfitting(curves: Curves) -> Finding | None:
    if len(curves.validations) < 4:
        return None
    best = min(curves.validations, key=lambda pair: pair[1])
    later = [loss for step, loss in curves.validations if step > best[0]]
    if (
        len(later) < 2
        or not all(loss > (1 + _OVERFIT) * best[1] for loss in later[-2:])
        or later[-1] <= later[-2]
    ):
        return None
    before, since = (
        curves.losses[curves.steps <= best[0]][-_LEAST:],
        curves.losses[curves.steps > best[0]][-_LEAST:],
    )
    if min(len(before), len(since)) < 10 or not _level(before).above(_level(since), 0.0):
        return None
    return Finding(
        "overfitting",
        f"the validation loss rises since step {best[0]:,} ({best[1]:.3f} to {later[-1]:.3f}) while the training"
        " loss falls",
        f"Take the checkpoint of step {best[0]:,} (the best is kept), or give more data or fewer epochs",
    )


def _waiting(curves: Curves) -> Finding | None:
    if curves.waiting is None or curves.waiting < _WAITING:
        return None
    return Finding(
        "waiting_for_data",
        f"{curves.waiting:.0%} of the time goes by until the next batch is there",
        "Give machine.workers more, or the data a faster disk",
    )
