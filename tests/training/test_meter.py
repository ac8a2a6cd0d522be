"""The meter against the arithmetic it stands for."""

from __future__ import annotations

import math

import pytest
import torch

from babygpt.training.meter import StepMeter, mean_loss


def alone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def test_a_step_is_its_micro_batches_sum_over_its_targets() -> None:
    meter = StepMeter(tokens=100)
    for nll in (6.0, 3.0):
        meter.add(torch.tensor(nll))
    meter.set_grad_norm(torch.tensor(0.5))
    meter.finish_step(7, 18, 1e-3)
    meter.add(torch.tensor(4.0))
    meter.finish_step(8, 2, 2e-3)
    first, second = meter.flush(alone)
    assert (first.step, first.tokens, first.targets, first.train_loss, first.grad_norm, first.lr) == (
        *(7, 118, 18, 0.5, 0.5),
        1e-3,
    )
    assert (second.tokens, second.train_loss) == (120, 2.0)
    assert math.isnan(second.grad_norm), "the first step's norm must not stand for the second's"
    assert meter.flush(alone) == []
    assert meter.drain() == [first, second]
    assert meter.drain() == []


def test_where_prompts_count_the_divisor_is_the_weight_and_targets_stay_counts() -> None:
    meter = StepMeter()
    for step, nll, targets, weight in ((1, 6.0, 10, 12.0), (2, 9.0, 0, 0.5)):
        meter.add(torch.tensor(nll))
        meter.finish_step(step, targets, 1e-3, weight)
    one, two = meter.flush(alone)
    assert (one.train_loss, one.targets, one.tokens, one.to_dict()["loss_weight"]) == (0.5, 10, 10, 12.0)
    assert (two.train_loss, two.tokens) == (18.0, 10)
    assert mean_loss([one, two]) == (15.0 / 12.5, 12.5)
    meter.add(torch.tensor(6.0))
    meter.finish_step(3, 12, 1e-3)
    (three,) = meter.flush(alone)
    assert "loss_weight" not in three.to_dict()
    assert mean_loss([three]) == (0.5, 12)


def test_sums_are_over_the_ranks_and_the_norm_is_not() -> None:
    meter = StepMeter()
    meter.add(torch.tensor(6.0))
    meter.set_grad_norm(torch.tensor(0.5))
    meter.finish_step(1, 18, 1e-3)
    (record,) = meter.flush(lambda sums: 3 * sums)
    assert record.train_loss == 1.0
    assert record.grad_norm == 0.5


def test_targets_counted_where_no_plan_knows_them() -> None:
    meter = StepMeter()
    for nll, targets in ((6.0, 2), (3.0, 1)):
        meter.add(torch.tensor(nll), torch.tensor(targets))
    meter.finish_step(1, None, 1e-3)
    (record,) = meter.flush(lambda sums: 2 * sums)
    assert (record.targets, record.tokens, record.train_loss) == (6, 6, 3.0)


def test_speed_leaves_out_what_was_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 20.0])
    monkeypatch.setattr("babygpt.training.meter.time.perf_counter", lambda: next(clock))
    meter = StepMeter()
    meter.add(torch.tensor(1.0))
    meter.finish_step(1, 50, 1e-3)
    assert meter.flush(alone)[0].tokens_per_second is None
    for step in (2, 3):
        meter.add(torch.tensor(1.0))
        meter.finish_step(step, 50, 1e-3)
    meter.pause(5.0)
    assert [r.tokens_per_second for r in meter.flush(alone)] == [20.0, 20.0]


def test_a_step_passed_over_is_marked_and_no_other() -> None:
    meter = StepMeter()
    for step in (1, 2, 3):
        meter.add(torch.tensor(1.0))
        if step == 2:
            meter.skip_step()
        meter.finish_step(step, 5, 1e-3)
    records = meter.flush(alone)
    assert [r.skipped for r in records] == [False, True, False]
    assert ["skipped" in r.to_dict() for r in records] == [False, True, False]
