"""A longer budget for a run that goes on: allowed where the steps that are done would have been the same."""

from __future__ import annotations

from dataclasses import replace

from babygpt.errors import RecipeError
from babygpt.optim.schedules import multiplier, warmup_steps
from babygpt.recipe import Budget, Recipe

__all__ = ["lengthened"]


def lengthened(recipe: Recipe, steps: int, done: int) -> Recipe:
    """The recipe with another length, if a run of that length would have done the steps that are done just so.

    Args:
        recipe: of the run, its budget in steps.
        steps: optimiser steps of the longer run.
        done: steps that are done.

    Raises:
        RecipeError: the rates of the steps done hang on the run's length; the field that makes them is named.
    """
    before = recipe.budget.steps
    assert before is not None, "a run's recipe gives its steps"
    if steps < done:
        raise RecipeError(
            f"{done:,} steps are done, and {steps:,} are asked for",
            where="budget.steps",
            hint="Give more, or take an earlier checkpoint as model.name of a new run",
        )
    schedule = recipe.schedule
    if not _same_rates(recipe, before, steps, done):
        begun = replace(schedule, warmup=max(1, warmup_steps(schedule.warmup, before)))
        field, why = "schedule.name", f"{schedule.name} follows the length of the run"
        if _same_rates(replace(recipe, schedule=begun), before, steps, done):
            field, why = "schedule.warmup", f"{schedule.warmup:g} is a share of the length of the run"
        raise RecipeError(
            f"{why}, {before:,} steps so far: one of {steps:,} would have had other rates in the {done:,}"
            " that are done",
            where=field,
            hint="A constant schedule, or wsd before its decay, with a warm-up in steps goes on to any length; or start"
            " a new run from the checkpoint as model.name",
        )
    return replace(recipe, budget=Budget(steps=steps))


def _same_rates(recipe: Recipe, one: int, other: int, done: int) -> bool:
    s = recipe.schedule
    return all(
        multiplier(s.name, step, one, s.warmup, s.final) == multiplier(s.name, step, other, s.warmup, s.final)
        for step in range(done)
    )
