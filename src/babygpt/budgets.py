"""A budget to optimiser steps, before the first of them.

A budget in minutes is what the clock says of the whole command, without the time in which the data are prepared:
loading libraries, choosing and timing, the validations and samples, the checkpoints and the page are in it. Steps are
fixed beforehand, since the schedule follows them: what makes the computer slower later makes the run longer.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from babygpt.data.batches import BatchPlan
from babygpt.data.mixture import Mixture
from babygpt.errors import RecipeError
from babygpt.forecast import saving_seconds, validation_seconds
from babygpt.model.cost import model_cost
from babygpt.recipe import Budget, Recipe
from babygpt.timing import StepTime

__all__ = [
    "beside_steps",
    "minutes_of",
    "needs_measuring",
    "resolve_steps",
    "seconds_for_steps",
    "step_flops",
]

# Of a run, beside the one before its first step; after each it saves.
_VALIDATIONS = 8
_DEFAULT_MINUTES = 3.0
# Of the time of a budget in minutes that is planned for; the rest covers what the short measurement did not see.
_SAFETY = 0.97


def minutes_of(budget: Budget) -> float:
    """Of a budget in minutes, or of none at all."""
    return _DEFAULT_MINUTES if budget.minutes is None else budget.minutes


def beside_steps(seconds: StepTime, batches: int, saved: int) -> float:
    """Seconds of all validations and saves of a run that validates as often as it does by default.

    Args:
        seconds: measured.
        batches: micro-batches of one validation.
        saved: bytes of a checkpoint.
    """
    each = validation_seconds(seconds, batches)
    return each + _VALIDATIONS * (each + saving_seconds(seconds, saved))


def seconds_for_steps(budget: Budget, spent: float, beside: float) -> float:
    """What a budget in minutes leaves to optimiser steps.

    Args:
        budget: in minutes.
        spent: seconds of the budget that have gone by.
        beside: seconds of validations and saves.
    """
    return 60 * minutes_of(budget) * _SAFETY - spent - beside


def resolve_steps(
    recipe: Recipe,
    layout: BatchPlan,
    validation_batches: int,
    seconds: StepTime | None,
    flops: float | None = None,
    spent: float = 0.0,
    saved: int = 0,
) -> Recipe:
    """Turns the budget into steps, and what follows from it.

    Args:
        recipe: resolved but for budget and validation.
        layout: the steps' windows, for their token counts.
        validation_batches: micro-batches of one validation.
        seconds: measured, for a budget in minutes.
        flops: of an optimiser step (`step_flops`), for a budget in these.
        spent: seconds of a budget in minutes that have gone by.
        saved: bytes of a checkpoint.

    Raises:
        RecipeError: the budget buys no step.
    """
    budget = recipe.budget
    if budget.steps is not None:
        steps = budget.steps
    elif budget.tokens is not None:
        steps = max(1, math.ceil(budget.tokens / max(1, _targets_of_a_step(layout))))
    elif budget.epochs is not None:
        steps = max(1, round(budget.epochs * layout.order.steps_per_epoch))
    elif budget.flops is not None:
        assert flops is not None, "a step's operations are counted first"
        steps = int(budget.flops / flops)
        if steps < 1:
            raise RecipeError(
                f"{budget.flops:g} operations are too few: a step takes {flops:.2g}",
                where="budget.flops",
                hint="Give more, or a smaller model",
            )
    else:
        assert seconds is not None, "a budget in minutes is measured first"
        step, beside = _shared(recipe, seconds, validation_batches, saved)
        steps = int(seconds_for_steps(budget, spent, beside) / step)
        if steps < 1:
            raise RecipeError(
                f"{minutes_of(budget):g} minutes are too short: a step takes {step:.2f} s, validations and saves"
                f" {beside:.0f} s, and {spent:.0f} s have gone by",
                where="budget.minutes",
                hint="Give more minutes, or a smaller model",
            )
    every = recipe.validate.every_steps
    return replace(
        recipe,
        budget=Budget(steps=steps),
        validate=replace(
            recipe.validate, every_steps=math.ceil(steps / _VALIDATIONS) if every == "auto" else every
        ),
    )


def _targets_of_a_step(layout: BatchPlan) -> float:
    """Of the first; where prompts count, of the mean step of an epoch: one may be nothing but prompts."""
    order = layout.order
    if not layout.prompt_weight:
        return layout.step_targets(0)
    if not isinstance(order, Mixture):
        return layout.windows.targets.sum() / order.steps_per_epoch
    sizes = np.array(order.sizes)
    of_sources = np.add.reduceat(np.asarray(layout.windows.targets), np.cumsum(sizes) - sizes)
    return float((order.met(order.steps_per_epoch) * of_sources / sizes).sum() / order.steps_per_epoch)


def _shared(recipe: Recipe, seconds: StepTime, batches: int, saved: int) -> tuple[float, float]:
    """Seconds of a step, and of what a run does beside its steps; where it validates as asked, the step bears that."""
    every = recipe.validate.every_steps
    if every == "auto":
        return seconds.step, beside_steps(seconds, batches, saved)
    each = validation_seconds(seconds, batches)
    return seconds.step + (each + saving_seconds(seconds, saved)) / every, each


def needs_measuring(budget: Budget) -> bool:
    """Whether the budget is given in minutes, or not at all."""
    return all(each is None for each in (budget.steps, budget.tokens, budget.epochs, budget.flops))


def step_flops(recipe: Recipe, config: Any) -> float:
    """Operations of an optimiser step of a resolved recipe, forward and backward."""
    block = int(recipe.data.block)
    return float(model_cost(config).flops_per_token(block)) * block * int(recipe.data.global_batch_size)
