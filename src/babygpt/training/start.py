"""A run's beginning: a new folder with its recipe and plan resolved, and the pieces of any run.

Everything that is wrong with what the user gave is found here, before anything is written; the folder is made last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from babygpt import planner
from babygpt.checkpoints import newest
from babygpt.data import changes
from babygpt.data.efficiency import packing_statistics
from babygpt.data.mixture import Stretch, in_words
from babygpt.data.module import LLMDataModule
from babygpt.data.store import Progress
from babygpt.errors import InputError, MachineError, RecipeError, SpikeSeen
from babygpt.files import ensure_space, make_folder, write_json_atomic
from babygpt.forecast import SAVED_COPIES, checkpoint_bytes, plan_words, start_words
from babygpt.machine import MachinePlan, detect, installed_versions
from babygpt.model.load import load_config
from babygpt.recipe import Recipe, read_recipe, write_recipe
from babygpt.settings import TrainSettings
from babygpt.timing import StepTime, measure_step
from babygpt.training.memory import is_out_of_memory, let_go, smaller
from babygpt.training.module import BabyGPT
from babygpt.training.spikes import Rollback, read_rollbacks, roll_back
from babygpt.training.weights import read_changes

__all__ = [
    "Run",
    "Say",
    "begin",
    "build_data",
    "build_module",
    "config_of",
    "first_words",
    "go_back",
    "pieces",
    "reopen",
    "require_full_steps",
    "resolved",
    "shrink",
    "write_machine",
]

Say = Callable[[str], None]


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
    """The run that another process has begun or resumed, as it wrote it down."""
    plan = MachinePlan(**json.loads((out / "machine.json").read_text())["plan"])
    return Run(out, read_recipe(out / "recipe.yaml"), plan, settings, checkpoint)


# -- a new run -------------------------------------------------------------------------------------------------------


def begin(settings: TrainSettings, say: Say, progress: Progress | None = None) -> Run:
    """Resolves recipe and plan, checks the model on its data, and then makes the run folder.

    Args:
        settings: as given.
        say: tells the user what was found and decided.
        progress: of preparing the data.

    Raises:
        InputError: something given is wrong; nothing has been written.
    """
    out = _new_folder(settings.out)
    facts = detect()
    recipe = planner.with_model(settings.recipe, facts)
    data = build_data(recipe, batch_size=1, progress=progress, cache_gb=settings.machine.most_cached)
    for note in data.notes:
        say(f"data: {note}")
    if data.sources:
        say(f"mixture: {in_words(data.sources, recipe.data.weights)}")
    module_config = config_of(recipe, data)
    parameters = planner.parameters_of(module_config)
    recipe = resolved(recipe, data, parameters)
    planned = planner.resolve_plan(settings.machine, facts, recipe, module_config)
    say(f"model: {recipe.model.name}, {parameters:,} parameters, on {facts.describe()}")
    for line in plan_words(planned):
        say(f"plan: {line}")
    ensure_space(out.parent, SAVED_COPIES * checkpoint_bytes(planned.memory), "the checkpoints of this run")
    prepared = data.prepared
    cached = settings.machine.most_cached
    recipe, plan, built, seconds = _fitting(recipe, planned.plan, prepared.key, cached, say)
    batches = len(built[0].validation.rows(plan.micro_batch, 0, 1))
    say(f"plan: {start_words(recipe, seconds, batches, planned.memory)}")
    if recipe.data.packing != "stream":
        windows = built[0].plan.windows
        say(f"data: {packing_statistics(prepared.train.offsets, windows, recipe.data.packing).note()}")
    make_folder(out)
    write_machine(out, facts, plan, planned, seconds)
    changes.remember(out, prepared)
    write_recipe(out / "recipe.yaml", recipe)
    say(f"run: {out}, {recipe.budget.steps:,} steps")
    return Run(out, recipe, plan, settings, None, built)


def resolved(recipe: Recipe, data: LLMDataModule, parameters: int) -> Recipe:
    """The recipe as a run begins with it, but for its budget.

    Args:
        recipe: with its model named.
        data: of that recipe.
        parameters: of the model.
    """
    return planner.resolve_recipe(
        recipe,
        model_name=recipe.model.name,
        parameters=parameters,
        block=data.block,
        windows=data.prepared.train.num_tokens // data.block,
    )


def _fitting(
    recipe: Recipe, plan: MachinePlan, prepared_as: str, cache_gb: float | None, say: Say
) -> tuple[Recipe, MachinePlan, tuple[LLMDataModule, BabyGPT], StepTime | None]:
    """Builds data and module and finds the run's steps, with a smaller plan for as long as memory runs out."""
    while True:
        data = build_data(recipe, plan.micro_batch, plan.workers, prepared_as=prepared_as, cache_gb=cache_gb)
        data.setup()
        require_full_steps(data)
        module = build_module(recipe, plan, data)
        try:
            module.check(data)
            recipe, seconds = _with_steps(recipe, plan, data, module, say)
            return recipe, plan, (data, module), seconds
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            del data, module
            plan = _smaller(recipe, plan, error, say)


def require_full_steps(data: LLMDataModule) -> None:
    """Refuses a step that would be mostly empty: a window comes once an epoch, and no step goes beyond one."""
    order = data.plan.order
    if order.global_batch_size > order.num_windows:
        raise RecipeError(
            f"a step of {order.global_batch_size:,} windows is more than the {order.num_windows:,} that the text makes",
            where="data.global_batch_size",
            hint=f"Give at most {order.num_windows}, a smaller data.block, or more text",
        )


def shrink(run: Run, error: Exception, say: Say) -> Run:
    """The run with a smaller plan, to go on from its newest checkpoint, after its memory ran out.

    Raises:
        MachineError: nothing is left to make smaller, or several processes would have to agree on it.
    """
    plan = _smaller(run.recipe, run.plan, error, say)
    if plan.devices * plan.nodes > 1:
        raise MachineError(
            "memory ran out on one of several devices",
            where="machine.micro_batch",
            hint=f"Go on with --resume {run.out} --machine.micro_batch {plan.micro_batch}",
        ) from error
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


def _smaller(recipe: Recipe, plan: MachinePlan, error: Exception, say: Say) -> MachinePlan:
    let_go(error)
    sequences = -(-int(recipe.data.global_batch_size) // (plan.devices * plan.nodes))
    less = smaller(plan, sequences)
    now = (
        f"micro-batch {less.micro_batch}"
        if less.micro_batch < plan.micro_batch
        else "activation checkpointing"
    )
    say(
        f"memory: it ran out ({str(error).splitlines()[0][:100]}); going on with {now}, the same {sequences} a step"
    )
    return less


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
    recipe: Recipe, plan: MachinePlan, data: LLMDataModule, module: BabyGPT, say: Say
) -> tuple[Recipe, StepTime | None]:
    """The recipe with its budget in steps, timed on this machine if it is given in minutes, and what was timed."""
    seconds = None
    if planner.needs_measuring(recipe.budget):
        minutes = recipe.budget.minutes
        say(
            f"budget: {minutes or 3:g} minutes{'' if minutes else ', since none was given'}; timing a few steps"
        )
        seconds = measure_step(
            module.model, data.micro_batch, plan, data.plan.micro_batches, recipe.optim.name
        )
    batches = len(data.validation.rows(plan.micro_batch, 0, 1))
    recipe = planner.resolve_steps(recipe, data.plan, batches, seconds)
    count = -(-len(data.validation.window_ids()) // int(recipe.data.global_batch_size))
    return replace(recipe, validate=replace(recipe.validate, batches=count)), seconds


def _new_folder(asked: str | None) -> Path:
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


# -- the pieces ------------------------------------------------------------------------------------------------------


def build_data(
    recipe: Recipe,
    batch_size: int,
    workers: int = 0,
    progress: Progress | None = None,
    prepared_as: str | None = None,
    rollbacks: Sequence[Rollback] = (),
    reweighted: Sequence[Stretch] = (),
    cache_gb: float | None = None,
) -> LLMDataModule:
    """The data module of a recipe; `prepared_as` is the token store of a run that goes on."""
    data = recipe.data
    size = data.global_batch_size
    return LLMDataModule(
        recipe.model.name,
        batch_size,
        path=data.path,
        weights=data.weights,
        field=data.field,
        val_path=data.val_path,
        val_fraction=data.val_fraction,
        deduplicate=data.deduplicate,
        tokenizer=data.tokenizer,
        block=data.block,
        packing=data.packing,
        too_long=data.too_long,
        train_on_prompts=data.train_on_prompts,
        global_batch_size=None if size == "auto" else size,
        val_batches=recipe.validate.batches,
        workers=workers,
        seed=recipe.seed,
        revision=recipe.model.revision,
        progress=progress,
        prepared_as=prepared_as,
        rollbacks=[(r.to, r.seen) for r in rollbacks],
        reweighted=reweighted,
        cache_gb=cache_gb,
    )


def build_module(recipe: Recipe, plan: MachinePlan, data: LLMDataModule) -> BabyGPT:
    """The module of a recipe, as the plan runs it."""
    return BabyGPT(
        recipe.model.name,
        float(recipe.optim.lr),
        optimizer=recipe.optim.name,
        weight_decay=recipe.optim.weight_decay,
        betas=recipe.optim.betas,
        schedule=recipe.schedule.name,
        warmup=recipe.schedule.warmup,
        final=recipe.schedule.final,
        dropout=recipe.model.dropout,
        attention=recipe.model.attention,
        activation_checkpointing=plan.activation_checkpointing,
        compile=plan.compile,
        revision=recipe.model.revision,
        vocab_size=_vocab_size(recipe, data),
        seed=recipe.seed,
    )


def _vocab_size(recipe: Recipe, data: LLMDataModule) -> int | None:
    """A preset's vocabulary follows the tokenizer; a pretrained model's is its own."""
    return len(data.tokenizer) if recipe.model.name.startswith("preset:") else None


def config_of(recipe: Recipe, data: LLMDataModule) -> Any:
    """The model's configuration."""
    return load_config(
        recipe.model.name, revision=recipe.model.revision, vocab_size=_vocab_size(recipe, data)
    )


def first_words(data: LLMDataModule) -> str:
    """The first few tokens of a validation document: what a sample continues."""
    ids = data.prepared.val.ids(0, min(8, data.prepared.val.num_tokens))
    text = data.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    return str(text)


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
