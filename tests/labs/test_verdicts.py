"""Verdicts are functions of raw results: intervals against tables and enumeration, words, false alarms of real runs."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from babygpt.labs.catalog import NAMES, load
from babygpt.labs.framework import NULL, Arm, Claim, Contrast, Lab, Measured, Outcome
from babygpt.labs.verdicts import NO_EFFECT, Estimate, estimate, false_alarms, judge, t_quantile

CACHED = Path(__file__).parent / "cached.json"
NULLS = json.loads(CACHED.read_text(encoding="utf-8"))


def lab(*, ratio: bool = False, claims: tuple[Claim, ...] = ()) -> Lab:
    return Lab(
        name="made-up",
        line="",
        question="",
        protocol="",
        arms=(Arm("base", ""), Arm("other", "")),
        outcomes=(Outcome("loss", "", ratio),),
        contrasts=(Contrast("loss", "other", "base"),),
        run=lambda setting: Measured({}),
        claims=claims,
    )


def runs_of(**arms: list[float | None]) -> list[dict]:
    return [
        {"arm": arm, "number": n, "outcomes": {"loss": value}}
        for arm, values in arms.items()
        for n, value in enumerate(values)
    ]


# From the printed tables of Student's distribution.
TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    9: 2.262,
    10: 2.228,
    29: 2.045,
    30: 2.042,
    120: 1.980,
}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_tables(degrees):
    assert t_quantile(0.975, degrees) == pytest.approx(TABLE[degrees], abs=5e-4)
    if degrees == 1:
        assert t_quantile(0.95, 1) == pytest.approx(math.tan(0.45 * math.pi), rel=1e-9)


def test_an_interval_by_hand():
    found = estimate([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    # Differences 1, 2, 3: mean 2, deviation 1, 4.302653 / sqrt(3) either way.
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert (found.n, found.not_finite) == (3, 0)


@settings(max_examples=25)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.floats(0.1, 10))
def test_ratios_do_not_know_the_unit(values, unit):
    rng = random.Random(0)
    other = [v * rng.uniform(0.5, 2) for v in values]
    here = estimate(values, other, ratio=True)
    there = estimate([v * unit for v in values], [v * unit for v in other], ratio=True)
    for name in ("mean", "low", "high"):
        assert getattr(here, name) == pytest.approx(getattr(there, name), rel=1e-6)


def test_a_ratio_by_hand():
    found = estimate([1.0, 1.0], [2.0, 8.0], ratio=True)
    assert found.mean == pytest.approx(4)  # geometric
    assert found.low * found.high == pytest.approx(16)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, held, times = random.Random(1), 0, 4000
    for _ in range(times):
        x = [rng.gauss(5, 2) for _ in range(5)]
        found = estimate(x, [v + rng.gauss(0.3, 1) for v in x])
        held += found.low <= 0.3 <= found.high
    # 3.9 standard deviations of the binomial: wrong once in ten thousand.
    assert abs(held / times - 0.95) < 3.9 * math.sqrt(0.05 * 0.95 / times)


def words(lab_, **arms):
    return [v.words for v in judge(lab_, runs_of(**arms))]


def test_words():
    base, null = [1.0, 1.1, 0.9], [1.05, 0.95, 1.0]
    assert words(lab(), base=base, other=[2.0, 2.1, 1.9], null=null) == ["higher", NO_EFFECT]
    assert words(lab(), base=base, other=[0.1, 0.2, 0.05], null=null) == ["lower", NO_EFFECT]
    assert words(lab(), base=base, other=[0.9, 1.2, 1.0], null=null) == [NO_EFFECT, NO_EFFECT]
    assert words(lab(), base=base, other=base, null=null) == [NO_EFFECT, NO_EFFECT]
    assert words(lab(ratio=True), base=base, other=[2.0, 2.2, 1.8], null=null)[0] == "higher"
    assert words(lab(), base=base, other=[1.0, None, 1.0], null=null)[0] == "breaks down in 1 of 3 runs"
    assert words(lab(), base=[1.0], other=[2.0], null=[1.0])[0] == "not to be judged: it takes two pairs"


def test_pairs_go_by_their_number_and_not_by_their_place():
    runs = runs_of(base=[1.0, 2.0, 3.0], other=[1.5, 2.5, 3.5], null=[1.0, 2.0, 3.0])
    shuffled = random.Random(0).sample(runs, len(runs))
    assert judge(lab(), runs) == judge(lab(), shuffled)
    assert judge(lab(), runs)[0].estimate == Estimate(0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.5, 1.5, "holds"),
        (2.0, 3.0, "does not hold"),
        (1.0, 2.0, "undecided"),
        (-math.inf, 0.5, "does not hold"),
    ],
)
def test_claims(low, high, wanted):
    claim = Claim("so it is said", "loss", "base", None, low, high)
    found = judge(lab(claims=(claim,)), runs_of(base=[1.0, 1.1, 0.9], other=[1.0] * 3, null=[1.0] * 3))
    assert found[-1].words == wanted
    assert found[-1].bounds == (low, high)


# -- what chance does to real runs -----------------------------------------------------------------------------------

RESAMPLES, PAIRS = 400, 6


def binomial_interval(n: int, p: float, outside: float = 0.05) -> tuple[int, int]:
    """The counts between which all but a share of the cases lie, exactly."""
    mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    low = next(k for k in range(n + 1) if sum(mass[: k + 1]) > outside / 2)
    high = next(k for k in range(n + 1) if sum(mass[: k + 1]) >= 1 - outside / 2)
    return low, high


def test_the_binomial_interval():
    assert binomial_interval(10, 0.5) == (2, 8)
    assert binomial_interval(RESAMPLES, 0.05) == (12, 29)


def test_every_lab_has_runs_of_its_first_arm_to_compare():
    assert set(NAMES) == set(NULLS), "python tests/labs/make_cached.py NAME makes those of a lab"
    for name, cached in NULLS.items():
        lab = load(name)
        outcome = lab.contrasts[0].outcome
        assert (cached["outcome"], cached["ratio"]) == (outcome, lab.outcome(outcome).ratio), name
        assert len(cached["values"]) >= 2 * PAIRS, name


@pytest.mark.parametrize("name", sorted(NULLS))
def test_false_alarms_are_as_rare_as_they_are_said_to_be(name):
    cached = NULLS[name]
    found = false_alarms(cached["values"], PAIRS, RESAMPLES, ratio=cached["ratio"])
    low, high = binomial_interval(RESAMPLES, 0.05, 0.05 / len(NULLS))  # all of them together in 95 %
    if len(set(cached["values"])) == 1:
        assert found == 0, "nothing varies, so that nothing can be mistaken"
    else:
        assert low <= found <= high


def test_the_count_of_false_alarms_can_fail():
    rng = random.Random(0)
    halves = [rng.gauss(0, 1) for _ in range(24)]
    found = false_alarms(halves, PAIRS, RESAMPLES)
    assert 12 <= found <= 29
    # Pairs that share what is different between them are no null comparison.
    split = [v + 3 * (n % 2) for n, v in enumerate(halves)]
    x, y = split[::2], split[1::2]
    assert judge(lab(), runs_of(base=x, other=y, null=x))[0].words == "higher"


def test_the_null_comparison_is_judged_like_any_other():
    found = judge(lab(), runs_of(base=[1.0, 1.1, 0.9], other=[1.0] * 3, null=[2.0, 2.1, 1.9]))
    assert [v.words for v in found if v.arm == NULL] == ["higher"]
