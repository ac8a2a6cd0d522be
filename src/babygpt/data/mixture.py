"""Several sources in given proportions: (seed, step) to windows, each source's count exact by construction.

Shares are whole numbers a_1 .. a_k that sum to D. One period of D windows is laid out once, by Tijdeman's chairman
assignment (The chairman assignment problem, Discrete Mathematics 32, 1980): the (j+1)-th window of source i may
stand at position n, counted from 1, once a_i n / D - j >= 1 / (2k - 2), has to stand there before
a_i n / D - j > 1 - 1 / (2k - 2), and of those that may stand the one that has to soonest does; k counts the sources
whose share is above 0. Then after any number of windows each source's count is within 1 - 1 / (2k - 2) of its share,
and in any stretch within 2 - 1 / (k - 1): of two sources within one window, of more below two. One for every stretch
is more than can be had of three: of shares 5 : 4 : 2 no order of eleven windows does it.

A period ends with each source at its share exactly, so that position and counts anywhere are whole periods and a
look into the one laid out: O(1) to enter, O(D log k) once, 12 bytes a position. The k-th window of a source is the
k-th of its own keyed permutation, a new one each time it has been gone through: a small source repeats, a large one
does not. Weights may change from a step on; the sources' permutations go on where they were.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from babygpt.data.order import permute
from babygpt.errors import DataError, RecipeError

__all__ = ["FINEST", "Mixture", "Stretch", "go_on", "in_words", "shares_of", "stretches_of"]

FINEST = 100_000  # windows of the longest period: weights are exact to five decimals
_NOISE = 1e-12  # of a share: what is left of 1 / 3 in floating point
_APART = 0x9E3779B97F4A7C15  # between the keys of two sources
Int64s = npt.NDArray[np.int64]


def shares_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as the smallest whole numbers in their proportion.

    Args:
        weights: numbers of at least 0, not all 0; a source of 0 gets nothing.

    Returns:
        Whole numbers without a common divisor; with a sum of `FINEST` the nearest there are, where no smaller sum
        gives the weights.

    Raises:
        RecipeError: a weight above 0 is too small to be met once in `FINEST` windows.
    """
    largest = max(weights)
    scaled = np.array([weight / largest for weight in weights])
    parts = scaled / scaled.sum()
    periods = np.arange(1, FINEST + 1, dtype=np.float64)
    off = np.zeros(FINEST)
    for part in parts:
        np.maximum(off, np.abs(part * periods - np.rint(part * periods)), out=off)
    exact = np.flatnonzero(off <= _NOISE * periods)
    if len(exact):
        return tuple(np.rint(parts * (int(exact[0]) + 1)).astype(np.int64).tolist())
    shares = np.floor(parts * FINEST).astype(np.int64)
    left = FINEST - int(shares.sum())
    shares[np.argsort(shares - parts * FINEST, kind="stable")[:left]] += 1
    if ((shares == 0) & (parts > 0)).any():
        raise RecipeError(
            f"{min(w for w in weights if w > 0):g} of {sum(weights):g} is less than one window in {FINEST:,}",
            where="data.weights",
            hint="Give a larger weight, or 0",
        )
    divisor = int(np.gcd.reduce(shares))
    return tuple((shares // divisor).tolist())


@dataclass(frozen=True)
class _Period:
    """One period: `source` int32 [D], and `rank` int64 [D], how many windows of the same source stand before."""

    source: npt.NDArray[np.int32]
    rank: Int64s


@lru_cache(maxsize=8)
def _period(shares: tuple[int, ...]) -> _Period:
    period = sum(shares)
    rivals = 2 * sum(share > 0 for share in shares) - 2
    source = np.empty(period, dtype=np.int32)
    if rivals == 0:
        source[:] = shares.index(period)
        return _Period(source, np.arange(period))
    jobs: list[tuple[int, int, int]] = []  # the first position it may have, the last, whose it is
    for number, share in enumerate(shares):
        for job in range(share):
            first = -(-period * (1 + job * rivals) // (share * rivals))
            last = period * (rivals - 1 + job * rivals) // (share * rivals) + 1
            jobs.append((first, last, number))
    jobs.sort()
    waiting: list[tuple[int, int]] = []
    released = 0
    for position in range(1, period + 1):
        while released < period and jobs[released][0] <= position:
            heapq.heappush(waiting, jobs[released][1:])
            released += 1
        last, number = heapq.heappop(waiting)
        assert position <= last, "Tijdeman's theorem says that every deadline is met"
        source[position - 1] = number
    rank = np.empty(period, dtype=np.int64)
    for number, share in enumerate(shares):
        rank[source == number] = np.arange(share)
    return _Period(source, rank)


@dataclass(frozen=True)
class Stretch:
    """Weights, and the step from which they hold.

    Attributes:
        step: of the data's order, counted from 0.
        weights: a number a source.
    """

    step: int
    weights: tuple[float, ...]


def stretches_of(weights: Sequence[float], changes: Sequence[Stretch] = ()) -> tuple[Stretch, ...]:
    """The weights over a run, by the step from which they hold.

    Args:
        weights: of the run's beginning.
        changes: in the order they were made; each holds from its step on, whatever was to hold from there before.
    """
    stretches = [Stretch(0, tuple(weights))]
    for change in changes:
        stretches = [s for s in stretches if s.step < change.step]
        if not stretches or stretches[-1].weights != change.weights:
            stretches.append(change)
    return tuple(stretches)


def go_on(before: Sequence[Stretch], now: Sequence[Stretch], step: int) -> tuple[Stretch, ...]:
    """The weights of a run that goes on: up to a step those it had, from there on those that are asked for now."""
    asked = [s for s in now if s.step <= step][-1]
    return stretches_of(
        before[0].weights, [*before[1:], Stretch(step, asked.weights), *(s for s in now if s.step > step)]
    )


def in_words(names: Sequence[str], weights: Sequence[float]) -> str:
    """The share of the windows that each source gets."""
    shares = shares_of(weights)
    each = (f"{name} {100 * share / sum(shares):.6g} %" for name, share in zip(names, shares, strict=True))
    return f"{', '.join(each)} of the windows"


@dataclass(frozen=True)
class Mixture:
    """The windows of every optimiser step, drawn from several sources; stands in for `order.Order`.

    Every step is full: a step has no end of an epoch to stop at. An epoch is as many steps as it takes to meet as
    many windows as there are.

    Attributes:
        sizes: windows of each source; those of a source are numbered behind those of the sources before it.
        stretches: the weights, by the step from which they hold: the first from 0, the others in order.
        global_batch_size: windows of one optimiser step, over all ranks and micro-batches.
        seed: any integer; the recipe's.
    """

    sizes: tuple[int, ...]
    stretches: tuple[Stretch, ...]
    global_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        steps = [stretch.step for stretch in self.stretches]
        assert steps[0] == 0
        assert steps == sorted(set(steps))
        if min(self.sizes) < 1:
            raise DataError("a source makes no window", hint="Give more text or a smaller data.block")
        if self.global_batch_size < 1:
            raise RecipeError(f"{self.global_batch_size} is below 1", where="data.global_batch_size")

    @property
    def num_windows(self) -> int:
        """Windows of all sources."""
        return sum(self.sizes)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps that meet as many windows as there are, some of them more than once."""
        return -(-self.num_windows // self.global_batch_size)

    @cached_property
    def _shares(self) -> tuple[tuple[int, ...], ...]:
        return tuple(shares_of(stretch.weights) for stretch in self.stretches)

    @cached_property
    def _met_before(self) -> tuple[Int64s, ...]:
        """Windows of each source that were met before each stretch, int64 [sources] a stretch."""
        met = [np.zeros(len(self.sizes), dtype=np.int64)]
        for number in range(len(self.stretches) - 1):
            windows = (self.stretches[number + 1].step - self.stretches[number].step) * self.global_batch_size
            met.append(met[-1] + _counts(self._shares[number], windows))
        return tuple(met)

    def _stretch_at(self, step: int) -> int:
        if step < 0:
            raise ValueError(f"step {step} is below 0")
        return max(n for n, stretch in enumerate(self.stretches) if stretch.step <= step)

    def met(self, step: int) -> Int64s:
        """How many windows of each source were met before a step, int64 [sources]."""
        at = self._stretch_at(step)
        windows = (step - self.stretches[at].step) * self.global_batch_size
        return self._met_before[at] + _counts(self._shares[at], windows)

    def sources_of(self, step: int) -> npt.NDArray[np.int64]:
        """Which source each window of a step is from, int64 [global_batch_size]."""
        return self._places(step)[0]

    def windows_of(self, step: int) -> Int64s:
        """Window numbers of a step, int64 [global_batch_size]."""
        source, number = self._places(step)
        sizes = np.array(self.sizes, dtype=np.int64)
        before = np.cumsum(sizes) - sizes
        windows = np.empty(self.global_batch_size, dtype=np.int64)
        for each in np.unique(source).tolist():
            own = source == each
            epoch, position = np.divmod(number[own], sizes[each])
            key = self.seed + each * _APART
            windows[own] = before[each] + permute(position, int(sizes[each]), key, epoch)
        return windows

    def _places(self, step: int) -> tuple[Int64s, Int64s]:
        """Source of each window of a step, and how many windows of that source were met before it."""
        at = self._stretch_at(step)
        shares, period = self._shares[at], _period(self._shares[at])
        first = (step - self.stretches[at].step) * self.global_batch_size
        whole, inside = np.divmod(np.arange(first, first + self.global_batch_size), len(period.source))
        source = period.source[inside].astype(np.int64)
        earlier = whole * np.array(shares, dtype=np.int64)[source] + period.rank[inside]
        return source, self._met_before[at][source] + earlier


def _counts(shares: tuple[int, ...], windows: int) -> Int64s:
    """Windows of each source among the first so many, int64 [sources]."""
    period = _period(shares)
    whole, inside = divmod(windows, len(period.source))
    rest = np.bincount(period.source[:inside], minlength=len(shares))
    return whole * np.array(shares, dtype=np.int64) + rest
