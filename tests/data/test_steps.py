"""Windows to a trainer's steps, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from babygpt.data.order import Order
from babygpt.data.packing import pack
from babygpt.data.steps import accumulation_of, limited_steps, plan_of
from babygpt.errors import RecipeError

WINDOWS = pack(np.array([0, 25 * 7 + 1]), 8, "stream")  # 25 windows: 7 steps of 4, the last of 1


def test_a_limit_is_micro_batches_or_a_share_of_them() -> None:
    plan = plan_of(Order(25, 4, 0), WINDOWS, micro_batch=1, world_size=2, accumulate=2)
    assert plan.order.steps_per_epoch * plan.micro_batches == 14
    assert [limited_steps(plan, limit) for limit in (1.0, 0.5, 14, 1000, 5, 1)] == [7, 3, 7, 7, 2, 0]


def test_a_trainer_accumulates_what_makes_a_step() -> None:
    plan_of(Order(25, 4, 0), WINDOWS, micro_batch=1, world_size=1, accumulate=None)
    with pytest.raises(
        RecipeError, match=r"4 windows a step on 1 .* are 4 micro-batches, but .* accumulates 2"
    ):
        plan_of(Order(25, 4, 0), WINDOWS, micro_batch=1, world_size=1, accumulate=2)


def test_a_trainer_may_not_repeat_batches() -> None:
    assert accumulation_of(None) is None
    assert accumulation_of(SimpleNamespace(accumulate_grad_batches=3, overfit_batches=0.0)) == 3
    with pytest.raises(RecipeError, match="overfit_batches would repeat"):
        accumulation_of(SimpleNamespace(accumulate_grad_batches=3, overfit_batches=2))
