"""Curves against sums over every line: means, extremes, time and places, for runs longer than a curve."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt.report.curves import curves_of
from run_folders import SPEED, lines, loss_at


def test_a_short_run_step_by_step() -> None:
    curves = curves_of(lines(40))
    assert curves.bucket == 1
    assert curves.train["step"] == list(range(1, 41))
    assert curves.train["train_loss"] == pytest.approx([loss_at(s) for s in range(1, 41)])
    assert curves.train["train_loss_low"] == curves.train["train_loss_high"]
    assert [v.step for v in curves.validations] == [0, 10, 20, 30, 40]
    assert (curves.steps, curves.tokens) == (40, 4000)
    assert curves.best == curves.last
    assert curves.last is not None
    assert curves.last.perplexity == pytest.approx(math.exp(loss_at(40) + 0.25))


def test_time_is_tokens_over_speed_the_first_interval_with_the_next_ones() -> None:
    curves = curves_of(lines(40))
    assert curves.train["seconds"] == pytest.approx([s * 100 / SPEED for s in range(1, 41)])
    assert [v.seconds for v in curves.validations] == pytest.approx([0, 1, 2, 3, 4])
    assert curves.seconds == pytest.approx(4)
    assert curves.speed == pytest.approx(SPEED)


def test_without_a_speed_there_is_no_time() -> None:
    curves = curves_of(lines(8))
    assert curves.seconds is None
    assert curves.speed is None
    assert set(curves.train["seconds"]) == {None}
    assert curves.validations[0].seconds is None


@given(
    st.lists(
        st.tuples(st.none() | st.floats(-50, 50), st.integers(0, 9), st.none() | st.floats(1, 99)),
        min_size=1,
        max_size=150,
    ),
    st.integers(2, 30),
)
def test_buckets_are_means_and_extremes_of_their_steps(
    rows: list[tuple[float | None, int, float | None]], most: int
) -> None:
    metrics: list[dict[str, Any]] = []
    for step, (loss, targets, speed) in enumerate(rows, 1):
        metrics.append({"step": step, "tokens": step * 9, "targets": targets, "train_loss": loss, "lr": step,
                        "grad_norm": loss, "tokens_per_second": speed})  # fmt: skip
    curves = curves_of(metrics, most)
    count = len(curves.train["step"])
    assert count <= most
    assert count >= min(len(rows), most // 2)
    assert all(len(column) == count for column in curves.train.values())
    for at in range(count):
        part = rows[at * curves.bucket : (at + 1) * curves.bucket]
        known = [(loss, max(1, targets)) for loss, targets, _ in part if loss is not None]
        values = [loss for loss, _ in known]
        assert curves.train["step"][at] == min((at + 1) * curves.bucket, len(rows))
        for name, weights in (("train_loss", [w for _, w in known]), ("grad_norm", [1] * len(known))):
            low, mean, high = (curves.train[name + end][at] for end in ("_low", "", "_high"))
            if not known:
                assert (low, mean, high) == (None, None, None)
                continue
            expected = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
            assert (low, high) == (min(values), max(values))
            assert mean == pytest.approx(expected, abs=1e-9)  # at most 150 sums of numbers below 50 * 9


def test_where_prompts_count_losses_are_weighed_by_what_they_are_means_over() -> None:
    row = {"tokens": 9, "targets": 1, "lr": 1, "grad_norm": 1, "tokens_per_second": 1}
    weights = (3.0, 1.0, 1.0, 1.0)
    rows = [{**row, "step": n, "train_loss": n, "loss_weight": w} for n, w in enumerate(weights, 1)]
    assert curves_of(rows, 2).train["train_loss"] == [(1 * 3 + 2 * 1) / 4, 3.5]
    rows[2]["loss_weight"], rows[3]["loss_weight"] = -1.0, 1e199  # damaged: the targets weigh
    assert curves_of(rows, 2).train["train_loss"] == [(1 * 3 + 2 * 1) / 4, 3.5]


def test_a_spike_of_a_long_run_is_still_to_be_seen() -> None:
    metrics = [dict(line) for line in lines(3000)]
    spike = next(line for line in metrics if line["step"] == 1777 and "train_loss" in line)
    spike["train_loss"], spike["spike"] = 99.0, True
    curves = curves_of(metrics, 100)
    assert curves.bucket == 32
    assert max(v for v in curves.train["train_loss_high"] if v is not None) == 99.0
    assert curves.spikes == (1777,)
    assert curves.validated == 301
    assert len(curves.validations) <= 101
    assert curves.validations[-1].step == 3000


def test_a_resumed_run_is_seen_by_its_speed() -> None:
    metrics = [dict(line) for line in lines(60)]
    for line in metrics:
        if 31 <= line["step"] <= 35 and "train_loss" in line:
            line["tokens_per_second"] = None
    curves = curves_of(metrics)
    assert curves.resumed == (30,)
    assert curves.seconds == pytest.approx(6)


def test_steps_of_prompts_alone_are_no_new_process() -> None:
    metrics = [dict(line) for line in lines(60)]
    for line in metrics:
        if 30 < line["step"] <= 40 and "targets" in line:
            line |= {"targets": 0, "tokens_per_second": 0.0, "loss_weight": 50.0}
    assert curves_of(metrics).resumed == ()


def test_sources_skipped_steps_and_no_numbers() -> None:
    metrics = [dict(line) for line in lines(20, sources=("a", "b"))]
    metrics[3] |= {"train_loss": None, "grad_norm": None, "skipped": True}
    metrics.append({"step": 21, "tokens": 2100, "val_loss": None, "val_perplexity": None})
    metrics.append({"step": 10**400, "tokens": True, "val_loss": 10**400})
    curves = curves_of(metrics)
    assert curves.skipped == 1
    assert curves.train["train_loss"][2] is None
    assert curves.sources == ("a", "b")
    assert curves.validations[2].sources == {"a": loss_at(20) + 0.25, "b": loss_at(20) + 1.25}
    assert curves.last is not None
    assert curves.last.loss is None
    assert curves.best is not None
    assert curves.best.step == 20


def test_the_best_may_be_nothing_at_all() -> None:
    losses = [{"step": step, "tokens": step, "val_loss": loss} for step, loss in enumerate((1.0, 0.0, 0.5))]
    best = curves_of(losses).best
    assert best is not None
    assert best.step == 1


def test_nothing_yet() -> None:
    curves = curves_of(())
    assert (curves.steps, curves.tokens, curves.validations, curves.last) == (0, 0, (), None)
