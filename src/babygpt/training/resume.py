"""A run that goes on: what its folder says, what may be asked of it, and what has changed since."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from babygpt import budgets, planner
from babygpt.checkpoints import newest
from babygpt.computer import detect
from babygpt.data import changes
from babygpt.data.choosing import Progress
from babygpt.data.module import LLMDataModule
from babygpt.data.order import data_step, skips_of
from babygpt.errors import CheckpointError, RecipeError
from babygpt.files import read_manifest
from babygpt.forecast import plan_words
from babygpt.machine import MachineFacts, MachinePlan, asked_as_before
from babygpt.recipe import Recipe, differences, write_recipe
from babygpt.run_folder import recipe_of
from babygpt.settings import TrainSettings
from babygpt.training.budget import lengthened
from babygpt.training.parts import build_data, config_of, of_data
from babygpt.training.spikes import read_rollbacks, undo
from babygpt.training.start import Run, Say, reopen, write_machine
from babygpt.training.weights import change_weights, check_weights, refuse_change

__all__ = ["recipe_of", "resume"]

_NO_RECIPE = ("machine", "checkpoint", "out", "resume", "log", "json")


def resume(settings: TrainSettings, say: Say, progress: Progress | None = None) -> Run:
    """Reads a run folder and finds where to go on.

    Args:
        settings: as given.
        say: tells the user what was found and decided.
        progress: of preparing the data, where the cache has them no more.

    Raises:
        CheckpointError: it is no run folder.
        RecipeError: a field was given that differs from the run's recipe.
        DataError: the data are not what they were when the run began.
    """
    assert settings.resume is not None
    out = Path(settings.resume)
    recipe = recipe_of(out)
    if recipe.budget.steps is None:
        raise CheckpointError(
            "budget.steps is missing: this is not the recipe.yaml that a run writes",
            where=str(out / "recipe.yaml"),
            hint="Begin a new run from it with --config",
        )
    asked = [f for f in settings.given if f.split(".")[0] not in _NO_RECIPE]
    paths = [name.removeprefix("data.") for name in asked if name in ("data.path", "data.val_path")]
    reweighted = "data.weights" in asked and bool(settings.data.weights or recipe.data.weights)
    longer = any(name.startswith("budget.") for name in asked)
    free = ("data.path", "data.val_path", "data.weights")
    asked = [name for name in asked if name not in free and name[:7] != "budget."]
    wrong = [d for d in differences(recipe, settings.recipe) if d.split(":")[0] in asked]
    if wrong:
        raise RecipeError(
            f"the run was begun with another recipe: {'; '.join(wrong)}",
            where=str(out),
            hint="Leave these fields out to go on, or start a new run with --out",
        )
    if reweighted:
        check_weights(out, recipe.data, settings.data.weights)
    rollbacks = read_rollbacks(out)
    undo(out / "checkpoints", rollbacks)
    found = newest(out / "checkpoints", lambda message: say(f"resume: {message}"))
    done = 0 if found is None else int(read_manifest(found).facts["step"])
    if found is None:
        say("resume: no checkpoint was reached; beginning at step 0")
    if longer:
        if paths:  # where the data lay may be gone, or an address whose secrets were not written down
            recipe = replace(recipe, data=changes.unchanged(out, recipe.data, settings.recipe.data, paths))
        recipe = _lengthened(recipe, settings, out, done, say, progress)
    next_step = data_step(done, skips_of([(r.to, r.seen) for r in rollbacks]))
    if found is not None and done >= int(recipe.budget.steps or 0):
        if reweighted:
            refuse_change(out, recipe.data, settings.data.weights, next_step)
        return reopen(out, settings, found)
    found_data = changes.unchanged(out, recipe.data, settings.recipe.data, paths)
    recipe = replace(recipe, data=found_data)
    if paths or longer:
        write_recipe(out / "recipe.yaml", recipe)
        say(f"run: {out}, {recipe.budget.steps:,} steps")
    if found is not None:
        say(f"resume: going on after step {done:,} of {recipe.budget.steps:,}")
    plan = _plan_again(out, recipe, settings, say, progress)
    if reweighted:
        change_weights(out, recipe.data, settings.data.weights, next_step, say)
    return Run(out, recipe, plan, settings, found)


def _plan_again(
    out: Path, recipe: Recipe, settings: TrainSettings, say: Say, progress: Progress | None
) -> MachinePlan:
    """The plan of this start, written down."""
    facts = detect()
    request = settings.machine
    data = _data_of(out, recipe, settings, say, progress)
    changes.check_prepared(out, data.prepared)
    before = _plan_before(out)
    if before is not None and before[1].same_computer(facts):
        request = asked_as_before(request, before[0])
    planned = planner.resolve_plan(request, facts, recipe, config_of(recipe, data))
    for line in _plan_lines(planned, facts, before):
        say(f"plan: {line}")
    write_machine(out, facts, planned.plan, planned)
    return planned.plan


def _data_of(
    out: Path, recipe: Recipe, settings: TrainSettings, say: Say, progress: Progress | None
) -> LLMDataModule:
    return build_data(
        recipe,
        batch_size=1,
        progress=progress,
        say=of_data(say),
        prepared_as=changes.store_key(out),
        cache_gb=settings.machine.most_cached,
    )


def _lengthened(
    recipe: Recipe, settings: TrainSettings, out: Path, done: int, say: Say, progress: Progress | None
) -> Recipe:
    """The recipe with the budget that is asked for now."""
    if settings.budget.minutes is not None:
        raise RecipeError(
            "a run that goes on is not timed again",
            where="budget.minutes",
            hint="Give budget.steps, budget.tokens, budget.epochs or budget.flops",
        )
    data = _data_of(out, recipe, settings, say, progress)
    data.setup()
    flops = budgets.step_flops(recipe, config_of(recipe, data))
    asked = budgets.resolve_steps(
        replace(recipe, budget=settings.budget), data.plan, 0, None, flops
    ).budget.steps
    assert asked is not None
    return recipe if asked == recipe.budget.steps else lengthened(recipe, asked, done)


def _plan_before(out: Path) -> tuple[MachinePlan, MachineFacts] | None:
    """The plan and the computer of the run's last process; None where the file does not say."""
    try:
        value = json.loads((out / "machine.json").read_text(encoding="utf-8"))
        plan, facts = value["plan"], value["facts"]
        kinds = {name: tuple(facts[name]) for name in ("devices", "bf16_devices")}
        return MachinePlan(**plan), MachineFacts(**{**facts, **kinds})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plan_lines(
    planned: planner.Planned, facts: MachineFacts, before: tuple[MachinePlan, MachineFacts] | None
) -> list[str]:
    """What to tell about the plan of a run that goes on: that it is the same, or what has changed."""
    if before is None:
        return plan_words(planned)
    now, was = asdict(planned.plan), asdict(before[0])
    changed = [f"{name} {now[name]}, before {was[name]}" for name in now if now[name] != was[name]]
    if not facts.same_computer(before[1]):
        here, there = (f"{f.describe()}, {f.threads} threads" for f in (facts, before[1]))
        changed.append(f"computer {here}, before {there}")
    if not changed:
        return ["as before, so that the run goes on to the same bits"]
    return [
        *plan_words(planned),
        f"changed: {'; '.join(changed)}. The data stay the same, losses up to rounding",
    ]
