"""The model of a run that names none: the size of its family with which the budget reaches the lowest loss.

1. Data are prepared first: tokenizer and windows are the same for every size (`provisional`).
2. What a budget buys of each size is arithmetic for operations and tokens. For minutes a size is timed on this
   computer, the others follow from their operations, and the best is timed in turn, until the best is a timed one.
3. The scaling law (`scaling`) says which of them ends with the lowest loss. The recipe then names it, so that another
   computer trains the same.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from babygpt import planner
from babygpt.budgets import beside_steps, minutes_of, needs_measuring, seconds_for_steps
from babygpt.data.module import LLMDataModule
from babygpt.forecast import checkpoint_bytes
from babygpt.machine import MachineFacts, MachinePlan, MachineRequest
from babygpt.machines import ASSUMED_SHARE, Machine
from babygpt.model.cost import model_cost
from babygpt.presets import is_sized, provisional_model, sized
from babygpt.recipe import Recipe, differences
from babygpt.scaling import LAW, Choice, Size, best_for_tokens, best_size, expected_loss, worth
from babygpt.timing import StepTime
from babygpt.training.memory import is_out_of_memory, let_go, smaller
from babygpt.training.parts import (
    build_data,
    build_module,
    config_of,
    measured,
    resolved,
    sequences_of,
    validation_batches,
)

__all__ = [
    "Pace",
    "assumed_on",
    "expected",
    "fits_on",
    "note_on_size",
    "pace_of",
    "provisional",
    "search",
    "timed_here",
    "with_size",
]

# Width and depth of the sizes to choose from, each about 1.6 times as large as the one before.
_SHAPES = (
    (64, 2), (96, 3), (128, 4), (192, 4), (256, 4), (320, 5), (384, 6), (512, 8), (640, 10), (768, 12), (1024, 16)
)  # fmt: skip
# What is timed first beside the smallest: small, so that it costs little.
_SECOND = 2
# Sizes that timing goes on by at most.
_AT_ONCE = 2
# Of the runs that the law was fitted on.
_BLOCK = 128
# A size is timed for a step or two, and the one that is taken again, longer.
_TIMED = (1, 3, 1.5)
# Passes beyond which more of them add little (`scaling.worth`).
_MANY = 16
# Of what keeps the law from holding.
_NAMED = 3


@dataclass(frozen=True)
class Pace:
    """What a size takes on a computer.

    Args:
        token: seconds of training for each token.
        beside: seconds of all validations and saves of a run.
    """

    token: float
    beside: float


def provisional(recipe: Recipe) -> Recipe:
    """The recipe with a model to prepare its data for, where it leaves the model to us."""
    return _named(recipe, provisional_model(recipe.model.name))


def note_on_size(recipe: Recipe) -> tuple[str, ...]:
    """What is to be said where `provisional(recipe)` is shown; nothing where the recipe names its model."""
    if recipe.model.name != "auto":
        return ()
    stand_in = provisional_model(recipe.model.name)
    return (
        f"model.name auto: a run takes its size as it begins (`babygpt plan` says which); this is of {stand_in}",
    )


def with_size(
    recipe: Recipe,
    data: LLMDataModule,
    time_it: Callable[[Recipe], Pace],
    fits: Callable[[Recipe], bool],
    say: Callable[[str], None],
    since: float | None = None,
) -> Recipe:
    """The recipe with its model named: as it is, or the size that the budget is best spent on.

    Args:
        recipe: as given.
        data: prepared for `provisional(recipe)`.
        time_it: a recipe that names its model, on the computer in question.
        fits: whether a recipe that names its model does so in its memory.
        say: tells what was chosen, and why.
        since: `time.monotonic()` from when on time counts; None counts no time against the budget.
    """
    if recipe.model.name != "auto":
        return recipe
    distinct = data.prepared.train.num_tokens
    sizes = _sizes(recipe, data, fits)
    budget = recipe.budget
    if needs_measuring(budget):
        unit = f"{minutes_of(budget):g} minutes"

        def bought(pace: Pace) -> float:
            gone = 0.0 if since is None else time.monotonic() - since
            return seconds_for_steps(budget, gone, pace.beside) / pace.token

        choice = search(sizes, lambda s: time_it(_named(recipe, s.name)), bought, distinct)
    elif budget.flops is not None:
        flops, unit = budget.flops, f"{budget.flops:.3g} operations"
        choice = best_size(sizes, lambda size: flops / size.flops_per_token, distinct)
    else:
        choice = best_for_tokens(sizes, lambda size: _tokens(recipe, data, size), distinct)
        unit = f"{choice.tokens:,.0f} tokens"
    said = _reason(choice, unit, distinct)
    if choice.size == sizes[-1]:
        said += "; no larger one is on offer, or fits here"
    say(f"model: {choice.size.name} by the scaling law: {said}")
    return _named(recipe, choice.size.name)


def _named(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, model=replace(recipe.model, name=name))


def fits_on(
    request: MachineRequest,
    facts: MachineFacts,
    data: LLMDataModule,
    available: Callable[[str], int] | None = None,
) -> Callable[[Recipe], bool]:
    """What says of a recipe whether the plan that it would get fits; the arguments are those of `resolve_plan`."""

    def fits(recipe: Recipe) -> bool:
        config = config_of(recipe, data)
        recipe = resolved(recipe, data, planner.parameters_of(config))
        return planner.resolve_plan(request, facts, recipe, config, available).fits

    return fits


def _sizes(recipe: Recipe, data: LLMDataModule, fits: Callable[[Recipe], bool]) -> list[Size]:
    """Those that fit; the smallest in any case."""
    found: list[Size] = []
    for shape in _SHAPES:
        one = _named(recipe, sized(*shape))
        if found and not fits(one):
            break
        cost = model_cost(config_of(one, data))
        found.append(Size(one.model.name, cost.parameters, cost.flops_per_token(data.block)))
    return found


def _tokens(recipe: Recipe, data: LLMDataModule, size: Size) -> float:
    """Of a budget in tokens, epochs or steps; larger models take larger steps."""
    budget, distinct = recipe.budget, data.prepared.train.num_tokens
    if budget.tokens is not None:
        return float(budget.tokens)
    if budget.epochs is not None:
        return budget.epochs * distinct
    assert budget.steps is not None
    return float(budget.steps * _step_tokens(resolved(_named(recipe, size.name), data, size.parameters)))


def _reason(choice: Choice, unit: str, distinct: int) -> str:
    if choice.tokens < 1:
        return f"the smallest, since {unit} are too short for any"
    said = f"{unit} train it on {choice.tokens:,.0f} tokens" if "tokens" not in unit else f"{unit} suit it"
    passes = choice.tokens / distinct
    if passes > 1:
        counted = worth(choice.tokens, distinct)
        said += f", {passes:.1f} times the text, counted as {counted:,.0f}"
    if passes > _MANY:
        said += "; more text would do more than so many passes"
    return said


# -- on this computer ------------------------------------------------------------------------------------------------


def search(
    sizes: Sequence[Size], time_it: Callable[[Size], Pace], bought: Callable[[Pace], float], distinct: float
) -> Choice:
    """The best of all sizes, of which as few as will do are timed.

    Args:
        sizes: the smallest first.
        time_it: a size on this computer.
        bought: tokens that the budget buys at a pace.
        distinct: tokens of the text.
    """
    # Two, since one does not tell whether operations hold a size up or something else.
    timed = {at: time_it(sizes[at]) for at in sorted({0, min(_SECOND, len(sizes) - 1)})}
    while True:
        paces = {sizes[n].flops_per_token: pace for n, pace in timed.items()}
        choice = best_size(sizes, _bought_at(paces, bought), distinct)
        at = sizes.index(choice.size)
        if at in timed:
            return choice
        # What is much larger than all that was timed may be far slower than it is hoped to be, and long to time.
        at = min(at, max(timed) + _AT_ONCE)
        timed[at] = time_it(sizes[at])


def _bought_at(paces: Mapping[int, Pace], bought: Callable[[Pace], float]) -> Callable[[Size], float]:
    return lambda size: bought(pace_of(size, paces))


def pace_of(size: Size, timed: Mapping[int, Pace]) -> Pace:
    """What a size would take: between two timed sizes on the line that joins them across their operations.

    It errs on the hopeful side, so that a size that might be better is timed before it is passed over. The line is
    right where each token has a fixed cost, and hopeful where operations become faster with size. Above the largest
    that line goes on, or the power of the operations that joins them, whichever promises more; below the smallest
    seconds are in proportion.

    Args:
        size: in question.
        timed: by operations for each token.
    """
    known, flops = sorted(timed), size.flops_per_token
    above = min(bisect.bisect_left(known, flops), len(known) - 1)
    if above == 0:
        return _scaled(timed[known[0]], flops / known[0])
    low, high = known[above - 1], known[above]
    less, more = timed[low], timed[high]
    way = (flops - low) / (high - low)
    token = less.token + way * (more.token - less.token)
    if flops <= high:
        return Pace(token, less.beside + way * (more.beside - less.beside))
    power = math.log(more.token / less.token) / math.log(high / low)
    return _scaled(more, max(1.0, min(token / more.token, math.pow(flops / high, power))))


def _scaled(pace: Pace, factor: float) -> Pace:
    return Pace(pace.token * factor, pace.beside * factor)


def timed_here(
    request: MachineRequest, facts: MachineFacts, data: LLMDataModule, say: Callable[[str], None]
) -> Callable[[Recipe], Pace]:
    """What times a recipe on this computer, by a step or two of its very model on its very data.

    Args:
        request: what the user asks of the machine.
        facts: of this computer.
        data: prepared.
        say: tells each pace.
    """

    def time_it(recipe: Recipe) -> Pace:
        config = config_of(recipe, data)
        recipe = resolved(recipe, data, planner.parameters_of(config))
        planned = planner.resolve_plan(request, facts, recipe, config)
        seconds, batches = _timed(recipe, planned.plan, data, request)
        beside = beside_steps(seconds, batches, checkpoint_bytes(planned.memory))
        pace = Pace(seconds.step / _step_tokens(recipe), beside)
        say(f"budget: {recipe.model.name} does {1 / pace.token:,.0f} tokens/s here")
        return pace

    return time_it


def _timed(
    recipe: Recipe, plan: MachinePlan, data: LLMDataModule, request: MachineRequest
) -> tuple[StepTime, int]:
    """A recipe's step, with a smaller plan for as long as memory runs out, and the micro-batches of a validation."""
    while True:
        parts = build_data(
            recipe, plan.micro_batch, prepared_as=data.prepared.key, cache_gb=request.most_cached
        )
        parts.setup()
        try:
            model = build_module(recipe, plan, parts).model
            return measured(recipe, plan, parts, model, _TIMED), validation_batches(parts, plan)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
            plan = smaller(plan, sequences_of(recipe, plan)).plan


def assumed_on(machine: Machine, request: MachineRequest, data: LLMDataModule) -> Callable[[Recipe], Pace]:
    """The same of a computer that is not here: operations over the assumed share of its peak."""
    devices = machine.count if request.devices == "auto" else request.devices

    def time_it(recipe: Recipe) -> Pace:
        flops = model_cost(config_of(recipe, data)).flops_per_token(data.block)
        return Pace(flops / (devices * machine.gpu.peak * ASSUMED_SHARE), 1e-9)

    return time_it


def _step_tokens(recipe: Recipe) -> int:
    return int(recipe.data.global_batch_size) * int(recipe.data.block)


# -- what to expect --------------------------------------------------------------------------------------------------


def expected(recipe: Recipe, data: LLMDataModule) -> str:
    """The loss that a run will reach, or why there is nothing to say of it.

    Args:
        recipe: resolved, its budget in steps.
        data: prepared.
    """
    parameters = planner.parameters_of(config_of(recipe, data))
    usual = planner.resolve_recipe(
        Recipe(), model_name=recipe.model.name, parameters=parameters, block=_BLOCK
    )
    usual = replace(usual, budget=recipe.budget, validate=recipe.validate, seed=recipe.seed)
    others = [each.split(":")[0] for each in differences(usual, recipe)]
    if not is_sized(recipe.model.name):
        others.insert(0, "model.name")
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return (
            "no loss is foretold: the scaling law holds for the default recipe, and this one has another"
            f" {', '.join(others[:_NAMED])}{more}"
        )
    distinct = data.prepared.train.num_tokens
    assert recipe.budget.steps is not None
    tokens = recipe.budget.steps * _step_tokens(recipe)
    loss = expected_loss(parameters, tokens, distinct)
    if not LAW.covers(parameters, tokens):
        return f"no loss is foretold: {tokens:,} tokens in {parameters:,} parameters lie beyond the law's own runs"
    low, high = loss * (1 - LAW.error), loss * (1 + LAW.error)
    return f"{low:.2f} to {high:.2f} bits a byte of held-out text by the scaling law"
