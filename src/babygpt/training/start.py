"""A run's beginning: a new folder with its recipe and plan resolved.

Everything that is wrong with what the user gave is found here, before anything is written; the folder is made last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from babygpt import budgets, planner
from babygpt.checkpoints import newest
from babygpt.computer import detect, installed_versions
from babygpt.data import changes
from babygpt.data.choosing import Progress
from babygpt.data.efficiency import packing_statistics
from babygpt.data.mixture import in_words
from babygpt.data.module import LLMDataModule
from babygpt.errors import CheckpointError, InputError, MachineError, RecipeError, SpikeSeen
from babygpt.files import ensure_space, make_folder, write_json_atomic
from babygpt.forecast import checkpoint_bytes, plan_words, saved_copies, start_words
from babygpt.machine import MachinePlan
from babygpt.recipe import Recipe, read_recipe, write_recipe
from babygpt.run_folder import holds_run
from babygpt.settings import TrainSettings
from babygpt.timing import StepTime
from babygpt.training import dial
from babygpt.training.memory import Smaller, is_out_of_memory, let_go, smaller
from babygpt.training.module import BabyGPT
from babygpt.training.parts import (
    build_data,
    build_module,
    config_of,
    measured,
    of_data,
    require_full_steps,
    resolved,
    sequences_of,
    validation_batches,
)
from babygpt.training.spikes import read_rollbacks, roll_back
from babygpt.training.weights import read_changes

__all__ = [
    "Run",
    "Say",
    "begin",
    "go_back",
    "new_folder",
    "pieces",
    "reopen",
    "shrink",
    "write_machine",
    "write_measured",
]

Say = Callable[[str], None]
# A network file system shows a new folder to other computers only after a while.
_SEEN_SECONDS = 30.0


@dataclass(frozen=True)
class Run:
    """A run folder, its resolved recipe and plan, and where it goes on from.

    Args:
        out: the run folder.
        recipe: resolved in full.
        plan: of this machine.
        settings: as given, for what is neither recipe nor plan.
        checkpoint: where to go on from; None begins at step 0.
        built: data and module, where finding the plan has built them already.
    """

    out: Path
    recipe: Recipe
    plan: MachinePlan
    settings: TrainSettings
    checkpoint: Path | None
    built: tuple[LLMDataModule, BabyGPT] | None = None

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.out / "checkpoints"

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        assert self.recipe.budget.steps is not None
        return self.recipe.budget.steps


def reopen(out: Path, settings: TrainSettings, checkpoint: Path | None) -> Run:
    """The run that another process has begun or resumed, as it wrote it down.

    Raises:
        CheckpointError: its folder is not to be seen from here.
    """
    until = time.monotonic() + _SEEN_SECONDS
    while not holds_run(out) or not (checkpoint is None or checkpoint.is_dir()):
        if time.monotonic() > until:
            raise CheckpointError(
                "the run folder of the first process is not to be seen from this computer",
                where=str(out),
                hint="Give an --out on a disk that all computers of the run share",
            )
        time.sleep(0.2)
    plan = MachinePlan(**json.loads((out / "machine.json").read_text())["plan"])
    return Run(out, read_recipe(out / "recipe.yaml"), plan, settings, checkpoint)


# -- a new run -------------------------------------------------------------------------------------------------------


def begin(
    settings: TrainSettings,
    say: Say,
    progress: Progress,
    claim: Callable[[Path], None],
) -> Run:
    """Resolves recipe and plan, checks the model on its data, and then makes the run folder.

    Args:
        settings: as given.
        say: tells the user what was found and decided.
        progress: of preparing the data.
        claim: called with the folder before anything is written into it; raises where it is another run's.

    Raises:
        InputError: something given is wrong; nothing has been written.
    """
    out = new_folder(settings.out)
    since = time.monotonic() if settings.begun is None else settings.begun
    facts, preparing = detect(), time.monotonic()
    recipe = dial.provisional(settings.recipe)
    data = build_data(recipe, 1, progress=progress, say=of_data(say), cache_gb=settings.machine.most_cached)
    for note in data.notes_on_length:
        say(f"data: {note}")
    if data.sources:
        say(f"mixture: {in_words(data.sources, recipe.data.weights)}")
    since += time.monotonic() - preparing  # what preparing takes is no part of a budget in minutes
    request = settings.machine
    pace, fits = dial.timed_here(request, facts, data, say), dial.fits_on(request, facts, data)
    recipe = dial.with_size(settings.recipe, data, pace, fits, say, since)
    module_config = config_of(recipe, data)
    parameters = planner.parameters_of(module_config)
    recipe = resolved(recipe, data, parameters)
    planned = planner.resolve_plan(settings.machine, facts, recipe, module_config)
    say(f"model: {recipe.model.name}, {parameters:,} parameters, on {facts.describe()}")
    for line in plan_words(planned):
        say(f"plan: {line}")
    prepared, saved = data.prepared, checkpoint_bytes(planned.memory)
    room = saved_copies(settings.checkpoint.keep) * saved
    ensure_space(out.parent, room, "the checkpoints of this run")
    recipe, plan, built, seconds = _fitting(
        recipe, planned.plan, prepared.key, request.most_cached, say, since, saved
    )
    batches = validation_batches(built[0], plan)
    say(f"plan: {start_words(recipe, seconds, batches, planned.memory)}")
    say(f"expected: {dial.expected(recipe, data)}")
    if recipe.data.packing != "stream":
        windows = built[0].plan.windows
        say(f"data: {packing_statistics(prepared.train.offsets, windows, recipe.data.packing).note()}")
    make_folder(out)
    claim(out)
    new_folder(str(out))  # another run may have begun and ended in it meanwhile
    write_machine(out, facts, plan, planned, seconds)
    changes.remember(out, prepared)
    write_recipe(out / "recipe.yaml", recipe)
    say(f"run: {out}, {recipe.budget.steps:,} steps")
    return Run(out, recipe, plan, settings, None, built)


def _fitting(
    recipe: Recipe,
    plan: MachinePlan,
    prepared_as: str,
    cache_gb: float | None,
    say: Say,
    since: float,
    saved: int,
) -> tuple[Recipe, MachinePlan, tuple[LLMDataModule, BabyGPT], StepTime | None]:
    """Builds data and module and finds the run's steps, with a smaller plan for as long as memory runs out."""
    while True:
        data = build_data(recipe, plan.micro_batch, plan.workers, prepared_as=prepared_as, cache_gb=cache_gb)
        data.setup()
        require_full_steps(data)
        module = build_module(recipe, plan, data)
        try:
            module.check(data)
            recipe, seconds = _with_steps(recipe, plan, data, module, say, since, saved)
            return recipe, plan, (data, module), seconds
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            del data, module
            less, why = _smaller(recipe, plan, error)
            say(_going_on(recipe, less, why))
            plan = less.plan


def shrink(run: Run, error: Exception, say: Say) -> Run:
    """The run with a smaller plan, to go on from its newest checkpoint, after its memory ran out.

    Raises:
        MachineError: nothing is left to make smaller, or several processes would have to agree on it.
    """
    less, why = _smaller(run.recipe, run.plan, error)
    plan = less.plan
    if plan.devices * plan.nodes > 1:
        raise MachineError(
            f"memory ran out on one of several devices ({why})",
            where="machine.micro_batch",
            hint=f"Go on with --resume {run.out} {less.option}",
        ) from error
    say(_going_on(run.recipe, less, why))
    value = json.loads((run.out / "machine.json").read_text(encoding="utf-8"))
    write_json_atomic(run.out / "machine.json", {**value, "plan": asdict(plan)})
    found = newest(run.checkpoints, lambda message: say(f"resume: {message}"))
    return replace(run, plan=plan, checkpoint=found, built=None)


def go_back(run: Run, spike: SpikeSeen, say: Say) -> Run:
    """The run at the checkpoint before a spike, to go on with the data behind it.

    Raises:
        SpikeSeen: several processes would have to go back at once; going on with --resume does.
    """
    roll_back(run.out, spike, say)
    if run.plan.devices * run.plan.nodes > 1:
        raise spike
    return replace(run, checkpoint=newest(run.checkpoints, lambda m: say(f"resume: {m}")), built=None)


def _smaller(recipe: Recipe, plan: MachinePlan, error: Exception) -> tuple[Smaller, str]:
    """The next smaller plan, and what ran out, in words; of the failed computation nothing is kept."""
    let_go(error)
    said = str(error) or type(error).__name__  # Python's own MemoryError says nothing
    return smaller(plan, sequences_of(recipe, plan)), said.splitlines()[0][:100]


def _going_on(recipe: Recipe, less: Smaller, why: str) -> str:
    same = f"the same {sequences_of(recipe, less.plan)} a step"
    return f"memory: it ran out ({why}); going on with {less.change}, {same}"


def pieces(run: Run) -> tuple[LLMDataModule, BabyGPT]:
    """Data and module of a run, built now unless they are already."""
    if run.built is not None:
        return run.built
    data = build_data(
        run.recipe,
        batch_size=run.plan.micro_batch,
        workers=run.plan.workers,
        prepared_as=changes.store_key(run.out),
        rollbacks=read_rollbacks(run.out),
        reweighted=read_changes(run.out),
        cache_gb=run.settings.machine.most_cached,
    )
    return data, build_module(run.recipe, run.plan, data)


def _with_steps(
    recipe: Recipe,
    plan: MachinePlan,
    data: LLMDataModule,
    module: BabyGPT,
    say: Say,
    since: float,
    saved: int,
) -> tuple[Recipe, StepTime | None]:
    """The recipe with its budget in steps, timed on this machine if it is given in minutes, and what was timed."""
    seconds = None
    if budgets.needs_measuring(recipe.budget):
        minutes = budgets.minutes_of(recipe.budget)
        why = ", since none was given" if recipe.budget.minutes is None else ""
        say(f"budget: {minutes:g} minutes{why}; timing a few steps")
        seconds = measured(recipe, plan, data, module.model)
    batches = validation_batches(data, plan)
    flops = budgets.step_flops(recipe, module.model.config)
    spent = time.monotonic() - since
    recipe = budgets.resolve_steps(recipe, data.plan, batches, seconds, flops, spent, saved)
    count = -(-len(data.validation.window_ids()) // int(recipe.data.global_batch_size))
    return replace(recipe, validate=replace(recipe.validate, batches=count)), seconds


def new_folder(asked: str | None) -> Path:
    """Where a new run goes; the folder is not made.

    Args:
        asked: by the user; None takes one under `runs/` by the clock.

    Raises:
        InputError: it cannot be a folder, or holds a run.
    """
    if asked is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"run-{stamp}"
    out = Path(asked)
    # The nearest of its parents that is there says whether it can be made at all.
    there = next((place for place in (out, *out.absolute().parents) if place.exists()), out)
    if there.exists() and not there.is_dir():
        raise InputError("is a file, not a folder", where=str(there), hint="Give another --out")
    if (out / "recipe.yaml").exists():
        raise RecipeError(
            "the folder already holds another run",
            where=str(out),
            hint=f"Go on with it by --resume {out}, or give another --out",
        )
    return out


def write_machine(
    out: Path,
    facts: Any,
    plan: MachinePlan,
    planned: planner.Planned,
    seconds: StepTime | None = None,
) -> None:
    """Writes `machine.json`.

    Args:
        out: the run folder.
        facts: of this computer.
        plan: as it is carried out.
        planned: as it was found, with its reasons and its memory; memory ran out if `plan` is smaller.
        seconds: measured for a budget in minutes.
    """
    predicted: dict[str, Any] = {}
    if plan == planned.plan:
        predicted["memory_bytes"] = planned.memory.total
    if seconds is not None:
        predicted["step_seconds"] = seconds.step
    value = {
        "plan": asdict(plan),
        "reasons": list(planned.reasons),
        "facts": asdict(facts),
        "versions": installed_versions(),
        "predicted": predicted,
    }
    write_json_atomic(out / "machine.json", value)


def write_measured(out: Path, **values: float | None) -> None:
    """Adds to what `machine.json` says was measured.

    Args:
        out: the run folder.
        values: `peak_memory_bytes`; `matrix_peak`, operations a second of all devices at most; `step_flops`, of a
            step's windows.
    """
    path = out / "machine.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    write_json_atomic(path, {**value, "measured": {**value.get("measured", {}), **values}})
