"""A budget to steps, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from babygpt.budgets import resolve_steps, step_flops
from babygpt.data.batches import BatchPlan
from babygpt.data.mixture import Mixture, stretches_of
from babygpt.data.order import Order
from babygpt.data.packing import pack
from babygpt.errors import RecipeError
from babygpt.model.load import load_config
from babygpt.planner import resolve_recipe
from babygpt.recipe import Budget, DataRecipe, ModelRecipe, Recipe, ValidateRecipe
from babygpt.timing import StepTime


def resolved(**data: Any) -> Recipe:
    recipe = Recipe(model=ModelRecipe("preset:gpt2-1m"), data=DataRecipe(**{"global_batch_size": 12, **data}))
    return resolve_recipe(recipe, model_name="preset:gpt2-1m", parameters=1_000_000, block=128)


def layout(windows: int = 50, size: int = 12) -> BatchPlan:
    packed = pack(np.array([0, windows * 127 + 1]), 128, "stream", None)
    return BatchPlan(Order(len(packed), size, 0), packed, 4, 1)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (Budget(steps=9), 9),
        (Budget(tokens=12 * 127 * 3), 3),
        (Budget(tokens=12 * 127 * 3 + 1), 4),
        (Budget(tokens=1), 1),
        (Budget(epochs=2), 10),
        (Budget(epochs=0.01), 1),
        (Budget(flops=7.0e9), 7),
        (Budget(flops=7.9e9), 7),
    ],
)
def test_a_budget_in_steps(budget: Budget, steps: int) -> None:
    plan = layout()
    assert plan.order.steps_per_epoch == 5
    done = resolve_steps(replace(resolved(), budget=budget), plan, 3, None, flops=1e9)
    assert done.budget == Budget(steps=steps)
    assert done.validate.every_steps == math.ceil(steps / 8)


def test_a_budget_in_tokens_counts_targets_of_an_epoch_where_a_step_may_have_none() -> None:
    is_target = np.arange(50 * 127 + 1) >= 25 * 127
    cumsum = np.concatenate([[0], np.cumsum(is_target)])
    packed = pack(np.array([0, len(is_target)]), 128, "stream", cumsum, with_prompts=True)
    plan = BatchPlan(Order(len(packed), 12, 0), packed, 4, 1, prompt_weight=0.1)
    each = 25 * 127 // 5  # half of the tokens, in five steps
    recipe = replace(resolved(), budget=Budget(tokens=3 * each))
    assert resolve_steps(recipe, plan, 3, None).budget == Budget(steps=3)


def test_a_budget_in_tokens_counts_the_sources_of_a_mixture_as_they_are_met() -> None:
    """Of nine windows in ten every token is a target, of the others one; the steps have them half and half."""
    is_target = np.arange(100 * 127 + 1) >= 10 * 127
    is_target[1 : 10 * 127 : 127] = True
    cumsum = np.concatenate([[0], np.cumsum(is_target)])
    packed = pack(np.array([0, len(is_target)]), 128, "stream", cumsum, with_prompts=True)
    order = Mixture((10, 90), stretches_of((1, 1)), 20, 0)
    plan = BatchPlan(order, packed, 4, 1, prompt_weight=0.1)
    each = sum(plan.step_targets(step) for step in range(order.steps_per_epoch)) / order.steps_per_epoch
    assert 10 * 127 <= each < 11 * 127
    recipe = replace(resolved(), budget=Budget(tokens=int(30 * each)))
    steps = resolve_steps(recipe, plan, 3, None).budget.steps
    assert steps == pytest.approx(30, abs=1)


def test_minutes_leave_time_for_the_validations() -> None:
    recipe = replace(resolved(), budget=Budget(minutes=2))
    done = resolve_steps(recipe, layout(), 10, StepTime(step=0.5, forward=0.1))
    assert done.budget.steps is not None
    whole = done.budget.steps * 0.5 + 9 * 10 * 0.1
    assert 0.9 * 120 < whole <= 120
    assert (
        resolve_steps(recipe, layout(), 10, StepTime(step=0.5, forward=0.1), spent=20.0).budget.steps
        == done.budget.steps - 40
    )
    often = replace(recipe, validate=ValidateRecipe(every_steps=5))
    steps = resolve_steps(
        often, layout(), 10, StepTime(step=0.5, forward=0.1, byte=1e-6), saved=10**5
    ).budget.steps
    assert steps is not None
    assert 0.9 * 120 < 0.5 * steps + (1 + steps / 5) * 10 * 0.1 + steps / 5 * 4 * 0.1 <= 120
    with pytest.raises(RecipeError, match=r"budget.minutes: 0.1 minutes are too short: a step takes 5.00 s"):
        resolve_steps(replace(resolved(), budget=Budget(minutes=0.1)), layout(), 10, StepTime(5, 1))


def test_validation_as_asked() -> None:
    recipe = replace(resolved(), budget=Budget(steps=100), validate=ValidateRecipe(every_steps=7))
    assert resolve_steps(recipe, layout(), 3, None).validate.every_steps == 7


def test_too_few_operations() -> None:
    with pytest.raises(
        RecipeError, match=r"budget.flops: 1e\+06 operations are too few: a step takes 1e\+09"
    ):
        resolve_steps(replace(resolved(), budget=Budget(flops=1e6)), layout(), 3, None, flops=1e9)


def test_operations_of_a_step() -> None:
    """6 for each parameter that is multiplied and token, and attention's 12 layers x width x block."""
    recipe = replace(resolved(), data=replace(resolved().data, block=128, global_batch_size=4))
    config = load_config("preset:llama-64x2", vocab_size=1000)
    blocks = 2 * (4 * 64 * 64 + 3 * 64 * 176 + 2 * 64) + 64
    each = 6 * (blocks + 1000 * 64) + 12 * 2 * 64 * 128
    assert step_flops(recipe, config) == each * 128 * 4
