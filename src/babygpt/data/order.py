"""(seed, step) to window numbers: a pure function, so any step can be entered and nothing need be saved.

Each epoch is a permutation of the windows, drawn by a keyed Feistel network: a number of 2h bits is cut into
two halves, and 8 rounds replace (left, right) by (right, left xor F(right, key)). Whatever F is, that is a
bijection of 0 .. 4**h - 1. Numbers of at least `num_windows` are sent through the network again until they
fall inside (cycle walking), which keeps the bijection; since 4**h < 4 * num_windows, that takes below four
passes on average. F is the finaliser of splitmix64, in plain integer arithmetic: the order depends on no
library's random generator, version, rank, worker or micro-batch. Cost: O(global_batch_size) a step; since a few
numbers take as long as a thousand, stretches of 4,096 are computed at once, and the last few of them kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from babygpt.errors import DataError, RecipeError

__all__ = ["Order", "data_step", "permute", "skips_of"]

_ROUNDS = 8
_STRETCH = 4096
_MASK = (1 << 64) - 1
UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Order:
    """The windows of every optimiser step.

    Attributes:
        num_windows: windows of one epoch, at least 1.
        global_batch_size: windows of one optimiser step, over all ranks and micro-batches.
        seed: any integer; the recipe's.
    """

    num_windows: int
    global_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise DataError("the data makes no window", hint="Give more text or a smaller data.block")
        if self.global_batch_size < 1:
            raise RecipeError(f"{self.global_batch_size} is below 1", where="data.global_batch_size")

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch; the last may hold fewer windows than the others."""
        return -(-self.num_windows // self.global_batch_size)

    def windows_of(self, step: int) -> npt.NDArray[np.int64]:
        """Window numbers of optimiser step `step`, counted from 0 over all epochs.

        Returns:
            int64 [global_batch_size], or fewer in an epoch's last step; each window is in exactly one step of
            an epoch.
        """
        if step < 0:
            raise ValueError(f"step {step} is below 0")
        epoch, inside = divmod(step, self.steps_per_epoch)
        first = inside * self.global_batch_size
        last = min(first + self.global_batch_size, self.num_windows)
        stretches = range(first // _STRETCH, (last - 1) // _STRETCH + 1)
        found = [_stretch(number, self.num_windows, self.seed, epoch) for number in stretches]
        start = first - stretches.start * _STRETCH
        whole = found[0] if len(found) == 1 else np.concatenate(found)
        return whole[start : start + last - first].copy()


# The loader is a little ahead of the step whose targets are counted; training and validation take turns.
@lru_cache(maxsize=4)
def _stretch(number: int, size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Where the positions of a stretch of an epoch go."""
    first = number * _STRETCH
    return permute(np.arange(first, min(first + _STRETCH, size), dtype=np.int64), size, seed, epoch)


def permute(
    positions: npt.NDArray[np.int64], size: int, seed: int, epoch: int | npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Where a keyed permutation of 0 .. size - 1 sends `positions`.

    Args:
        positions: int64 [n], each from 0 to size - 1.
        size: elements permuted, at least 1 and below 2**62.
        seed: key; taken modulo 2**64.
        epoch: second key, at least 0: another permutation for each; one of all positions, or int64 [n].
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = _round_keys(seed, epoch)
    out = _feistel(positions.astype(np.uint64), half, keys)
    while (outside := out >= np.uint64(size)).any():
        own = keys if isinstance(epoch, int) else [key[outside] for key in keys]
        out[outside] = _feistel(out[outside], half, own)
    return out.astype(np.int64)


def _feistel(numbers: UInt64s, half: np.uint64, keys: list[UInt64s]) -> UInt64s:
    low = np.uint64((1 << int(half)) - 1)
    left, right = numbers >> half, numbers & low
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & low)
    return (left << half) | right


def _mix(numbers: UInt64s) -> UInt64s:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014), wrapping modulo 2**64 as arrays of uint64 do."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _round_keys(seed: int, epoch: int | npt.NDArray[np.int64]) -> list[UInt64s]:
    """A key a round, uint64 [1] or one an epoch.

    Seed and epoch go in one after the other, so (1, 0) and (0, 1) share nothing.
    """
    state = np.array([seed & _MASK], dtype=np.uint64)
    golden = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
    state = _mix(state + golden)
    epochs = np.array([epoch & _MASK], dtype=np.uint64) if isinstance(epoch, int) else epoch.astype(np.uint64)
    state = _mix(state ^ epochs)
    keys = []
    for _ in range(_ROUNDS):
        state = state + golden
        keys.append(_mix(state))
    return keys


def skips_of(rollbacks: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """What rollbacks do to the order.

    Args:
        rollbacks: (to, seen) pairs in the order they were made: the run went back from `seen` completed steps to
            `to`, and leaves out the data in between.

    Returns:
        (step, count) pairs: from that step on, counted from 0, the data are `count` steps further ahead.
    """
    skips: list[tuple[int, int]] = []
    for to, seen in rollbacks:
        undone = sum(count for at, count in skips if at > to)
        skips = [(at, count) for at, count in skips if at <= to]
        skips.append((to, seen - to + undone))
    return tuple(skips)


def data_step(step: int, skips: Sequence[tuple[int, int]]) -> int:
    """Which step of the data's order an optimiser step takes: its own, or one further by what is left out."""
    return step + sum(count for at, count in skips if step >= at)
