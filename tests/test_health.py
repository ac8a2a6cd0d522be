"""Findings of health against curves made sick by construction, and none of curves that are sound."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babygpt.health import Curves, curves_of, findings
from babygpt.optim.schedules import multiplier


def kinds(curves: Curves) -> list[str]:
    return [finding.kind for finding in findings(curves)]


def curves(
    losses: Any, rates: Any = None, validations: Any = (), seed: int = 0, noise: float = 0.05, **more: Any
) -> Curves:
    losses = np.asarray(losses, dtype=np.float64)
    steps = np.arange(1, len(losses) + 1)
    if rates is None:
        rates = [multiplier("linear", int(s) - 1, len(losses), 0.05, 0.0) for s in steps]
    noisy = losses + noise * np.random.default_rng(seed).standard_normal(len(losses))
    return Curves(steps, noisy, np.asarray(rates, dtype=np.float64), tuple(validations), **more)


def sound(steps: int, floor: float = 2.0, fall: float = 5.0, scale: float = 0.02) -> Any:
    """A loss as training from random weights gives it: a power law of the steps."""
    return floor + fall / (1 + scale * np.arange(steps)) ** 0.6


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 3000),
    floor=st.floats(0.5, 3),
    fall=st.floats(2, 8),
    scale=st.floats(0.01, 0.2),
    noise=st.floats(0.01, 0.2),
    seed=st.integers(0, 10_000),
    seen=st.floats(0.05, 1),
)
def test_a_sound_run_has_no_finding_at_any_time(
    steps: int, floor: float, fall: float, scale: float, noise: float, seed: int, seen: float
) -> None:
    made = curves(sound(steps, floor, fall, scale), seed=seed, noise=noise)
    part = max(1, int(seen * steps))
    made = Curves(made.steps[:part], made.losses[:part], made.rates[:part])
    assert kinds(made) in ([], ["plateau"])
    if "plateau" in kinds(made):  # then it is one: the curve itself moves by less than what is told
        third = sound(steps, floor, fall, scale)[:part][-(part // 3) :]
        assert third[0] - third[-1] < 0.02 * third[-1]


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_rises_is_told_with_what_to_do(seed: int) -> None:
    losses = sound(600)
    rises = losses.copy()
    rises[300:] += 0.004 * np.arange(300)
    (found,) = findings(curves(rises, seed=seed))
    assert found.kind == "diverging"
    assert "has risen from" in found.what
    early = losses.copy()
    early[90:] = early[90] + 1.5
    rates = [multiplier("linear", step, 600, 0.5, 0.0) for step in range(600)]
    (found,) = findings(curves(early, rates, seed=seed))
    assert found.kind == "rate_too_high"
    assert float(found.mend.split()[-1]) < 90 / 300  # a rate that was reached before the rise


def test_a_spike_that_is_got_over_is_no_finding() -> None:
    losses = sound(600)
    losses[400:410] += 3
    losses[595:] += 3
    assert kinds(curves(losses)) == []


def test_losses_that_are_no_numbers_do_not_count() -> None:
    made = curves(sound(600))
    made.losses[::7] = np.nan
    assert kinds(made) == []
    assert kinds(Curves(made.steps, np.full(600, np.nan), made.rates)) == []


@pytest.mark.parametrize("seed", range(5))
def test_an_even_slow_fall_means_a_rate_that_is_off(seed: int) -> None:
    losses = 7 - 0.0004 * np.arange(800)
    assert kinds(curves(losses, np.full(800, 1e-6), seed=seed)) == ["rate_off"]
    fine_tuning = 2.0 - 0.1 * (1 - np.exp(-np.arange(800) / 60))
    assert kinds(curves(fine_tuning, seed=seed)) == []


def test_a_plateau_counts_while_the_rate_is_high() -> None:
    losses = np.concatenate([sound(300), np.full(900, sound(300)[-1])])
    high = np.full(1200, 1e-3)
    assert kinds(curves(losses, high, noise=0.02)) == ["plateau"]
    assert kinds(curves(losses, noise=0.02)) == []  # the rate falls to zero: that is the end
    assert kinds(curves(losses, high, noise=3.0)) == [], "in such noise nobody can tell"


def test_overfitting_needs_both_curves() -> None:
    train = sound(800)
    falls_and_rises = [(100 * n, loss) for n, loss in enumerate([7, 4.2, 3.6, 3.4, 3.42, 3.5, 3.61, 3.7])]
    (found,) = findings(curves(train, validations=falls_and_rises))
    assert found.kind == "overfitting"
    assert "since step 300 (3.400 to 3.700)" in found.what
    assert "step 300" in found.mend
    wobbles = [(100 * n, loss) for n, loss in enumerate([7, 4.2, 3.6, 3.4, 3.42, 3.39, 3.41, 3.38])]
    assert kinds(curves(train, validations=wobbles)) == []
    flat = np.full(800, 3.0)  # nothing is learned by heart here: the validation text is another
    assert "overfitting" not in kinds(curves(flat, validations=falls_and_rises))


@pytest.mark.parametrize(("waiting", "found"), [(None, []), (0.02, []), (0.4, ["waiting_for_data"])])
def test_a_loader_that_is_waited_for(waiting: float | None, found: list[str]) -> None:
    made = curves(sound(10), waiting=waiting)
    assert kinds(made) == found
    assert kinds(dataclasses.replace(curves(sound(500)), waiting=waiting)) == found


def test_curves_are_read_from_a_runs_lines() -> None:
    lines = [
        {"step": 0, "val_loss": 7.0},
        {"step": 1, "train_loss": 6.5, "lr": 0.1},
        {"step": 2, "train_loss": None, "lr": 0.2, "skipped": True},
        {"step": 2, "val_loss": None},
        {"step": 2, "finding": "plateau"},
    ]
    made = curves_of(lines, 10)
    assert made.steps.tolist() == [1, 2]
    assert made.losses[0] == 6.5
    assert np.isnan(made.losses[1])
    assert made.rates.tolist() == [0.1, 0.2]
    assert made.validations == ((0, 7.0),)
    assert findings(made) == ()
