from __future__ import annotations

from fractions import Fraction
from functools import reduce
from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babygpt.data.mixture import FINEST, Mixture, Stretch, shares_of
from babygpt.errors import DataError, RecipeError

shares_drawn = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any)


def mixture_of(weights, sizes=None, batch=1, seed=0, changes=()) -> Mixture:
    stretches = (Stretch(0, tuple(weights)), *(Stretch(step, tuple(new)) for step, new in changes))
    return Mixture(tuple(sizes or [7] * len(weights)), stretches, batch, seed)


def exact(weights) -> list[Fraction]:
    return [Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]


# -- proportions ---------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(shares_drawn, st.integers(1, 9), st.integers(0, 10**12))
def test_each_source_is_within_one_window_of_its_share_anywhere(weights, batch: int, far: int) -> None:
    """Exactly, in fractions: from the beginning on, and over every stretch of steps."""
    mixture, parts = mixture_of(weights, batch=batch), exact(weights)
    sources = sum(weight > 0 for weight in weights)
    bound = 1 - Fraction(1, 2 * sources - 2) if sources > 1 else Fraction(0)
    for begun in (0, far):
        steps = range(begun, begun + 2 * sum(weights) // batch + 3)
        off = np.array(
            [
                [c - p * (s * batch) for c, p in zip(mixture.met(s).tolist(), parts, strict=True)]
                for s in steps
            ]
        )
        assert abs(off).max() <= bound < 1
        assert (off.max(axis=0) - off.min(axis=0)).max() <= 2 * bound
        told = [mixture.met(s + 1) - mixture.met(s) for s in steps]
        for step, counts in zip(steps, told, strict=True):
            wanted = np.bincount(mixture.sources_of(step), minlength=len(weights))
            np.testing.assert_array_equal(counts, wanted)


@settings(max_examples=40)
@given(shares_drawn.filter(lambda w: sum(n > 0 for n in w) == 2), st.integers(0, 99), st.integers(1, 99))
def test_two_sources_are_within_one_window_over_any_stretch(weights, first: int, windows: int) -> None:
    mixture = mixture_of(weights)
    counts = (mixture.met(first + windows) - mixture.met(first)).tolist()
    assert all(abs(c - p * windows) <= 1 for c, p in zip(counts, exact(weights), strict=True))


def test_no_order_keeps_every_stretch_of_three_sources_within_one_window() -> None:
    """Every order of eleven windows is tried, and cut off where a stretch is further from its share than one."""
    shares, period = (5, 4, 2), 11
    orders: list[list[tuple[int, ...]]] = [
        [(0, 0, 0)]
    ]  # of each, the counts so far, times the period, off their shares
    for _ in range(period):
        further = []
        for order in orders:
            for source in range(3):
                now = tuple(
                    off + period * (each == source) - share
                    for each, (off, share) in enumerate(zip(order[-1], shares, strict=True))
                )
                if all(abs(a - b) <= period for before in order for a, b in zip(now, before, strict=True)):
                    further.append([*order, now])
        orders = further
    assert orders == []


@settings(max_examples=30)
@given(
    shares_drawn,
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 10**6)), max_size=3),
    st.integers(1, 7),
    st.data(),
)
def test_weights_change_from_a_step_on_and_counts_are_carried_over(weights, gaps, batch: int, data) -> None:
    changes, at = [], 0
    for gap, _ in gaps:
        at += gap
        new = data.draw(st.lists(st.integers(0, 9), min_size=len(weights), max_size=len(weights)).filter(any))
        changes.append((at, new))
    mixture = mixture_of(weights, batch=batch, changes=changes)
    before = mixture_of(weights, batch=batch)
    for step in range(changes[0][0] if changes else 20):
        np.testing.assert_array_equal(mixture.windows_of(step), before.windows_of(step))
    for number, (step, new) in enumerate(changes):
        until = changes[number + 1][0] if number + 1 < len(changes) else step + 20
        fresh = mixture_of(new, batch=batch)
        for later in range(step, until):
            np.testing.assert_array_equal(mixture.sources_of(later), fresh.sources_of(later - step))


# -- each source's own order -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    shares_drawn,
    st.integers(1, 7),
    st.integers(-(2**65), 2**65),
    st.lists(st.integers(0, 9), max_size=1),
    st.data(),
)
def test_a_source_goes_on_through_its_own_permutations(weights, batch: int, seed: int, change, data) -> None:
    """Played through from the beginning: whatever is mixed in between, and when weights change."""
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=len(weights), max_size=len(weights)))
    changes = [(step + 1, list(reversed(weights))) for step in change]
    mixture = mixture_of(weights, sizes, batch, seed, changes)
    firsts = np.cumsum([0, *sizes])
    met: list[list[int]] = [[] for _ in sizes]
    for step in range(40):
        windows, sources = mixture.windows_of(step), mixture.sources_of(step)
        assert windows.shape == (batch,)
        for window, source in zip(windows.tolist(), sources.tolist(), strict=True):
            assert firsts[source] <= window < firsts[source + 1]
            met[source].append(window - int(firsts[source]))
    for size, seen in zip(sizes, met, strict=True):
        for begun in range(0, len(seen) - size + 1, size):
            assert sorted(seen[begun : begun + size]) == list(range(size))


def test_epochs_of_a_source_and_sources_of_a_size_differ() -> None:
    mixture = mixture_of([1, 1], [50, 50], batch=100)
    first, second = ([mixture.windows_of(s)[mixture.sources_of(s) == n] for n in (0, 1)] for s in (0, 1))
    assert (first[0] != second[0]).any()
    assert (first[0] != first[1] - 50).any()


def test_the_order_is_frozen() -> None:
    # Recorded once: a run begun with one version must go on in the same order with the next.
    mixture = mixture_of([0.5, 0.3, 0.2], [9, 1000, 10**6], 10, 1234, [(5, [0, 1, 2])])
    assert mixture.sources_of(0).tolist() == [0, 1, 0, 2, 0, 1, 0, 2, 0, 1]
    assert mixture.windows_of(4).tolist() == [3, 407, 7, 513253, 5, 484, 1, 72379, 4, 437]
    assert mixture.windows_of(10**9).tolist() == [
        454411,
        155380,
        821,
        946782,
        509817,
        403,
        871755,
        622753,
        690,
        759711,
    ]


def test_an_epoch_is_as_many_windows_as_there_are() -> None:
    mixture = mixture_of([1, 2], [10, 5], batch=4)
    assert mixture.num_windows == 15
    assert mixture.steps_per_epoch == 4


# -- weights ---------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(shares_drawn, st.integers(1, 10**6), st.sampled_from([1, 3, 7, 10, 1000]))
def test_whole_numbers_and_decimals_give_their_exact_shares(weights, factor: int, over: int) -> None:
    divisor = reduce(gcd, weights)
    wanted = tuple(weight // divisor for weight in weights)
    assert shares_of(weights) == wanted
    assert shares_of([weight * factor / over for weight in weights]) == wanted


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 1e9), min_size=2, max_size=5))
def test_other_weights_get_the_nearest_shares(weights: list[float]) -> None:
    try:
        shares = shares_of(weights)
    except RecipeError:
        assert min(weights) / sum(weights) < 1 / FINEST
        return
    assert 0 < sum(shares) <= FINEST
    for share, part in zip(shares, exact(weights), strict=True):
        assert abs(Fraction(share, sum(shares)) - part) < Fraction(1, FINEST)


def test_what_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.weights: 1e-07 of 1 is less than one window in 100,000"):
        shares_of([1e-7, 1 - 1e-7])
    with pytest.raises(DataError, match="a source makes no window"):
        mixture_of([1, 1], [3, 0])
    with pytest.raises(RecipeError, match="global_batch_size"):
        mixture_of([1, 1], batch=0)
    with pytest.raises(ValueError, match="step -1"):
        mixture_of([1, 1]).windows_of(-1)
