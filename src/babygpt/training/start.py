"""A run's beginning: a new folder with its recipe and plan resolved, or an old one to go on with.

Everything that is wrong with what the user gave is found here, before anything is written; the folder is made last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from babygpt import planner
from babygpt.checkpoints import newest
from babygpt.data import changes
from babygpt.data.module import LLMDataModule
from babygpt.data.store import Progress
from babygpt.errors import CheckpointError, InputError, RecipeError
from babygpt.files import ensure_space, make_folder, read_manifest, write_json_atomic
from babygpt.machine import MachineFacts, MachinePlan, asked_as_before, detect, installed_versions
from babygpt.model.load import load_config
from babygpt.recipe import Recipe, differences, read_recipe, write_recipe
from babygpt.settings import TrainSettings
from babygpt.training.budget import lengthened
from babygpt.training.module import BabyGPT

__all__ = ["Run", "begin", "build_data", "build_module", "first_words", "pieces", "reopen", "resume"]

Say = Callable[[str], None]

# The newest two and the best, each with weights and two moments in fp32.
_SAVED_COPIES = 3


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
    recipe = settings.recipe
    name = planner.choose_model(recipe.model.name, facts)
    recipe = replace(recipe, model=replace(recipe.model, name=name))
    data = build_data(recipe, batch_size=1, progress=progress)
    for note in data.prepared.notes:
        say(f"data: {note}")
    module_config = _config(recipe, data)
    parameters = planner.parameters_of(module_config)
    recipe = planner.resolve_recipe(recipe, model_name=name, parameters=parameters, block=data.block)
    planned = planner.resolve_plan(settings.machine, facts, recipe, module_config)
    say(f"model: {name}, {parameters:,} parameters, on {facts.describe()}")
    for reason in planned.reasons:
        say(f"plan: {reason}")
    ensure_space(out.parent, _SAVED_COPIES * 12 * parameters, "the checkpoints of this run")
    prepared = data.prepared
    data = build_data(
        recipe, batch_size=planned.plan.micro_batch, workers=planned.plan.workers, prepared_as=prepared.key
    )
    data.setup()
    module = build_module(recipe, planned.plan, data)
    module.check(data)
    recipe = _with_steps(recipe, planned.plan, data, module, say)
    make_folder(out)
    _write_machine(out, facts, planned.plan, planned.reasons)
    changes.remember(out, prepared)
    write_recipe(out / "recipe.yaml", recipe)
    say(f"run: {out}, {recipe.budget.steps:,} steps")
    return Run(out, recipe, planned.plan, settings, None, (data, module))


def pieces(run: Run) -> tuple[LLMDataModule, BabyGPT]:
    """Data and module of a run, built now unless they are already."""
    if run.built is not None:
        return run.built
    data = build_data(
        run.recipe,
        batch_size=run.plan.micro_batch,
        workers=run.plan.workers,
        prepared_as=changes.store_key(run.out),
    )
    return data, build_module(run.recipe, run.plan, data)


def _with_steps(recipe: Recipe, plan: MachinePlan, data: LLMDataModule, module: BabyGPT, say: Say) -> Recipe:
    """The recipe with its budget in steps, timed on this machine if it is given in minutes."""
    seconds = None
    if planner.needs_measuring(recipe.budget):
        minutes = recipe.budget.minutes
        say(
            f"budget: {minutes or 3:g} minutes{'' if minutes else ', since none was given'}; timing a few steps"
        )
        seconds = planner.measure_step(
            module.model, data.micro_batch, plan, data.plan.micro_batches, recipe.optim.name
        )
        say(f"budget: a step takes {seconds.step:.3f} s")
    batches = len(data.validation.rows(plan.micro_batch, 0, 1))
    recipe = planner.resolve_steps(recipe, data.plan, batches, seconds)
    count = -(-len(data.validation.window_ids()) // int(recipe.data.global_batch_size))
    return replace(recipe, validate=replace(recipe.validate, batches=count))


def _new_folder(asked: str | None) -> Path:
    if asked is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"run-{stamp}"
    out = Path(asked)
    if out.exists() and not out.is_dir():
        raise InputError("is a file, not a folder", where=str(out), hint="Give another --out")
    if (out / "recipe.yaml").exists():
        raise RecipeError(
            "the folder already holds another run",
            where=str(out),
            hint=f"Go on with it by --resume {out}, or give another --out",
        )
    return out


# -- a run that goes on ----------------------------------------------------------------------------------------------


def resume(settings: TrainSettings, say: Say) -> Run:
    """Reads a run folder and finds where to go on.

    Raises:
        CheckpointError: it is no run folder.
        RecipeError: a field was given that differs from the run's recipe.
        DataError: the data are not what they were when the run began.
    """
    assert settings.resume is not None
    out = Path(settings.resume)
    if not (out / "recipe.yaml").is_file():
        raise CheckpointError(
            "is not a run folder: it has no recipe.yaml",
            where=str(out),
            hint="Give the folder that --out named",
        )
    recipe = read_recipe(out / "recipe.yaml")
    if recipe.budget.steps is None:
        raise CheckpointError(
            "budget.steps is missing: this is not the recipe.yaml that a run writes",
            where=str(out / "recipe.yaml"),
            hint="Begin a new run from it with --config",
        )
    asked = [
        f for f in settings.given if f.split(".")[0] not in ("machine", "checkpoint", "out", "resume", "json")
    ]
    paths = [name.removeprefix("data.") for name in asked if name in ("data.path", "data.val_path")]
    longer = any(name.startswith("budget.") for name in asked)
    asked = [name for name in asked if name not in ("data.path", "data.val_path") and name[:7] != "budget."]
    wrong = [d for d in differences(recipe, settings.recipe) if d.split(":")[0] in asked]
    if wrong:
        raise RecipeError(
            f"the run was begun with another recipe: {'; '.join(wrong)}",
            where=str(out),
            hint="Leave these fields out to go on, or start a new run with --out",
        )
    found = newest(out / "checkpoints", lambda message: say(f"resume: {message}"))
    done = 0 if found is None else int(read_manifest(found).facts["step"])
    if found is None:
        say("resume: no checkpoint was reached; beginning at step 0")
    if longer:
        recipe = _lengthened(recipe, settings, out, done)
    if found is not None and done >= int(recipe.budget.steps or 0):
        return reopen(out, settings, found)
    found_data = changes.unchanged(out, recipe.data, settings.recipe.data, paths)
    recipe = replace(recipe, data=found_data)
    if paths or longer:
        write_recipe(out / "recipe.yaml", recipe)
        say(f"run: {out}, {recipe.budget.steps:,} steps")
    facts = detect()
    data = build_data(recipe, batch_size=1, prepared_as=changes.store_key(out))
    request = settings.machine
    before = _plan_before(out)
    if before is not None and before[1].same_computer(facts):
        request = asked_as_before(request, before[0])
    planned = planner.resolve_plan(request, facts, recipe, _config(recipe, data))
    for line in _plan_lines(planned, facts, before):
        say(f"plan: {line}")
    _write_machine(out, facts, planned.plan, planned.reasons)
    return Run(out, recipe, planned.plan, settings, found)


def _lengthened(recipe: Recipe, settings: TrainSettings, out: Path, done: int) -> Recipe:
    """The recipe with the budget that is asked for now."""
    if settings.budget.minutes is not None:
        raise RecipeError(
            "a run that goes on is not timed again",
            where="budget.minutes",
            hint="Give budget.steps, budget.tokens or budget.epochs",
        )
    data = build_data(recipe, batch_size=1, prepared_as=changes.store_key(out))
    data.setup()
    asked = planner.resolve_steps(replace(recipe, budget=settings.budget), data.plan, 0, None).budget.steps
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
        return list(planned.reasons)
    now, was = asdict(planned.plan), asdict(before[0])
    changed = [f"{name} {now[name]}, before {was[name]}" for name in now if now[name] != was[name]]
    if not facts.same_computer(before[1]):
        here, there = (f"{f.describe()}, {f.threads} threads" for f in (facts, before[1]))
        changed.append(f"computer {here}, before {there}")
    if not changed:
        return ["as before, so that the run goes on to the same bits"]
    return [*planned.reasons, f"changed: {'; '.join(changed)}. The data stay the same, losses up to rounding"]


# -- the pieces ------------------------------------------------------------------------------------------------------


def build_data(
    recipe: Recipe,
    batch_size: int,
    workers: int = 0,
    progress: Progress | None = None,
    prepared_as: str | None = None,
) -> LLMDataModule:
    """The data module of a recipe; `prepared_as` is the token store of a run that goes on."""
    data = recipe.data
    size = data.global_batch_size
    return LLMDataModule(
        recipe.model.name,
        batch_size,
        path=data.path,
        field=data.field,
        val_path=data.val_path,
        val_fraction=data.val_fraction,
        tokenizer=data.tokenizer,
        block=data.block,
        packing=data.packing,
        global_batch_size=None if size == "auto" else size,
        val_batches=recipe.validate.batches,
        workers=workers,
        seed=recipe.seed,
        revision=recipe.model.revision,
        progress=progress,
        prepared_as=prepared_as,
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


def _config(recipe: Recipe, data: LLMDataModule) -> Any:
    return load_config(
        recipe.model.name, revision=recipe.model.revision, vocab_size=_vocab_size(recipe, data)
    )


def first_words(data: LLMDataModule) -> str:
    """The first few tokens of a validation document: what a sample continues."""
    ids = data.prepared.val.ids(0, min(8, data.prepared.val.num_tokens))
    text = data.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    return str(text)


def _write_machine(out: Path, facts: Any, plan: MachinePlan, reasons: tuple[str, ...]) -> None:
    value = {
        "plan": asdict(plan),
        "reasons": list(reasons),
        "facts": asdict(facts),
        "versions": installed_versions(),
    }
    write_json_atomic(out / "machine.json", value)
