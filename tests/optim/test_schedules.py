"""Schedules: bounds, monotone parts and end points, for any length, warm-up and final fraction."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt.errors import RecipeError
from babygpt.optim.schedules import SCHEDULES, multiplier, warmup_steps

names = st.sampled_from(SCHEDULES)
totals = st.integers(1, 600)
warmups = st.one_of(st.floats(0, 0.999), st.integers(1, 500).map(float))
finals = st.floats(0, 1)


def _curve(name: str, total: int, warmup: float, final: float) -> list[float]:
    return [multiplier(name, step, total, warmup, final) for step in range(total)]


@given(names, totals, warmups, finals)
def test_bounds_and_shape(name: str, total: int, warmup: float, final: float) -> None:
    curve = _curve(name, total, warmup, final)
    warm = max(1, warmup_steps(warmup, total))
    assert all(0 < value <= 1 for value in curve[:warm])
    assert all(final - 1e-12 <= value <= 1 for value in curve[warm:])
    assert curve[:warm] == sorted(curve[:warm])
    assert curve[warm - 1] == 1
    assert curve[warm - 1 :] == sorted(curve[warm - 1 :], reverse=True)


@given(st.sampled_from(["cosine", "linear", "wsd"]), st.integers(100, 600), st.floats(0, 0.5), finals)
def test_ends_nearly_at_the_final_fraction_and_stays_there(
    name: str, total: int, warmup: float, final: float
) -> None:
    curve = _curve(name, total, warmup, final)
    assert curve[-1] == pytest.approx(final, abs=0.06)
    assert curve[-1] > final or final > 0.999
    assert multiplier(name, total, total, warmup, final) == pytest.approx(final, abs=1e-12)
    assert multiplier(name, 5 * total, total, warmup, final) == pytest.approx(final, abs=1e-12)


@given(st.sampled_from(["cosine", "linear"]), totals, warmups, st.floats(0, 0.9))
def test_changes_at_every_step(name: str, total: int, warmup: float, final: float) -> None:
    curve = _curve(name, total, warmup, final)
    assert all(a != b for a, b in pairwise(curve))


@given(st.integers(10, 600), st.floats(0, 0.5), st.floats(0, 0.9))
def test_wsd_is_stable_until_its_last_fifth(total: int, warmup: float, final: float) -> None:
    curve = _curve("wsd", total, warmup, final)
    decay = round(0.2 * total)
    assert set(curve[warmup_steps(warmup, total) : total - decay]) <= {1.0}
    assert all(value < 1 for value in curve[total - decay :])
    steps = [a - b for a, b in pairwise(curve[total - decay - 1 :])]
    assert all(math.isclose(s, steps[0], rel_tol=1e-6) for s in steps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_by_hand(name: str) -> None:
    assert [multiplier(name, s, 100, 4, 0.1) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [multiplier(name, s, 100, 0.04, 0.1) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert multiplier(name, 0, 100, 0, 0.1) == 1


def test_middle_by_hand() -> None:
    # The peak is step 0 and the end step 100: half-way is step 50.
    assert multiplier("cosine", 50, 100, 0, 0.1) == pytest.approx(0.55)
    assert multiplier("cosine", 25, 100, 0, 0.0) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert multiplier("linear", 25, 100, 0, 0.0) == pytest.approx(0.75)
    assert multiplier("constant", 99, 100, 0, 0.1) == 1


def test_warmup_steps() -> None:
    assert [warmup_steps(w, 1000) for w in (0, 0.02, 0.5, 1, 30, 5000)] == [0, 20, 500, 1, 30, 1000]


def test_unknown_name() -> None:
    with pytest.raises(RecipeError, match="One of cosine, linear, wsd, constant"):
        multiplier("cosin", 0, 10, 0, 0.1)
