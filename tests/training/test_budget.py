"""A longer budget: only where the steps that are done would have had the same rates."""

from __future__ import annotations

from typing import Any

import pytest

from babygpt.errors import RecipeError
from babygpt.recipe import Budget, Recipe, ScheduleRecipe
from babygpt.training.budget import lengthened


def recipe(name: str, warmup: float, steps: int = 100) -> Recipe:
    schedule: Any = ScheduleRecipe(name=name, warmup=warmup)  # type: ignore[arg-type]
    return Recipe(schedule=schedule, budget=Budget(steps=steps))


@pytest.mark.parametrize(
    ("name", "warmup", "done"),
    [
        ("constant", 10, 100),
        ("constant", 0, 50),
        ("wsd", 10, 79),
        ("wsd", 5, 20),
        ("linear", 10, 10),
        ("cosine", 0.1, 0),
    ],
)
def test_the_steps_done_would_have_been_the_same(name: str, warmup: float, done: int) -> None:
    longer = lengthened(recipe(name, warmup), 250, done)
    assert longer.budget == Budget(steps=250)
    assert longer.schedule == recipe(name, warmup).schedule


@pytest.mark.parametrize(
    ("name", "warmup", "done", "field"),
    [
        ("linear", 10, 50, "schedule.name"),
        ("cosine", 10, 100, "schedule.name"),
        ("wsd", 10, 95, "schedule.name"),
        ("constant", 0.1, 50, "schedule.warmup"),
        ("wsd", 0.1, 20, "schedule.warmup"),
    ],
)
def test_the_field_that_hangs_on_the_length_is_named(name: str, warmup: float, done: int, field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        lengthened(recipe(name, warmup), 250, done)
    assert str(caught.value).startswith(f"{field}: ")
    assert f"the {done:,} that are done" in str(caught.value)


def test_fewer_steps_than_are_done() -> None:
    with pytest.raises(RecipeError, match="50 steps are done, and 40 are asked for"):
        lengthened(recipe("constant", 1), 40, 50)
    assert lengthened(recipe("constant", 1), 60, 50).budget.steps == 60, "shorter than planned is as good"
