"""The self-checks on the user's own recipe and data: what `train` does up to its first step, and no run folder.

Everything is tried that can be without what failed before it. Cost: data that are not in the cache yet are prepared,
as `train` would; the model is built and run on one micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from rich.console import Console

from babygpt import planner
from babygpt.checks import check_schedule, failure
from babygpt.computer import detect
from babygpt.data.module import LLMDataModule
from babygpt.disk import ensure_space, expanded
from babygpt.doctor.findings import Finding, fault, ok, warning
from babygpt.errors import InputError
from babygpt.forecast import checkpoint_bytes, memory_words, saved_copies
from babygpt.machine import MachinePlan
from babygpt.machine_settings import DoctorSettings
from babygpt.model.cost import model_cost
from babygpt.prepare import PreparationView
from babygpt.recipe import Recipe
from babygpt.training.dial import note_on_size, provisional
from babygpt.training.module import BabyGPT
from babygpt.training.parts import build_data, build_module, config_of, require_full_steps, resolved

__all__ = ["check_recipe"]

T = TypeVar("T")

# Of a run whose budget is no number of steps, for the rates of its first ones.
_STEPS = 1000


def check_recipe(settings: DoctorSettings) -> Iterator[Finding]:
    """Data, model, plan and the self-checks of a recipe, each with its findings."""
    found: list[Finding] = []
    with PreparationView(Console(stderr=True)) as progress:
        prepared = _attempt("data", found, lambda: _prepared(settings, progress))
    yield from found
    if prepared is None:
        return
    recipe, data = prepared
    yield from _data_findings(data)
    planned = _attempt("plan", found := [], lambda: _planned(settings, recipe, data))
    yield from found
    if planned is None:
        return
    recipe, plan, findings = planned
    yield from findings
    built = _attempt("model", found := [], lambda: _built(recipe, plan, data.prepared.key))
    yield from found
    if built is not None:
        yield from _self_checks(recipe, *built)


def _attempt(about: str, found: list[Finding], work: Callable[[], T]) -> T | None:
    """What the work gives; None, and a fault among the findings, where it fails."""
    try:
        return work()
    except InputError as error:
        where = f"{error.where}: " if error.where else ""
        found.append(fault(about, f"{where}{error.what}", error.hint or "Correct the recipe"))
    except Exception as error:
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        found.append(fault(about, what, "Please report it, with this line and the recipe"))
    return None


def _prepared(settings: DoctorSettings, progress: Any) -> tuple[Recipe, LLMDataModule]:
    recipe = provisional(settings.recipe)
    data = build_data(recipe, batch_size=1, progress=progress)
    data.prepare_data()
    return recipe, data


def _data_findings(data: LLMDataModule) -> Iterator[Finding]:
    train, val = data.prepared.train, data.prepared.val
    yield ok(
        "data", f"{train.num_documents:,} documents, {train.num_tokens:,} tokens; {val.num_tokens:,} held out"
    )
    for note in data.notes:
        yield ok("data", note)


def _planned(
    settings: DoctorSettings, recipe: Recipe, data: LLMDataModule
) -> tuple[Recipe, MachinePlan, list[Finding]]:
    facts, config = detect(), config_of(recipe, data)
    parameters = model_cost(config).parameters
    recipe = resolved(recipe, data, parameters)
    planned = planner.resolve_plan(settings.machine, facts, recipe, config)
    plan = planned.plan
    said = f"{parameters:,} parameters, {memory_words(planned)}"
    if not planned.fits:
        mend = "Give a smaller model, data.block or machine.micro_batch, or machine.activation_checkpointing true"
        found = [fault("plan", said, mend)]
    else:
        found = [ok("plan", f"{plan.precision} on {plan.device}, micro-batch {plan.micro_batch}: {said}")]
    found += [ok("plan", note) for note in note_on_size(settings.recipe)]
    if plan.compile and plan.device == "mps":
        found.append(warning("plan", "torch.compile is not reliable on MPS", "Leave machine.compile at auto"))
    room = saved_copies() * checkpoint_bytes(planned.memory)
    ensure_space(expanded(settings.out or "runs"), room, "the checkpoints of this run")
    return recipe, plan, found


def _built(recipe: Recipe, plan: MachinePlan, key: str) -> tuple[LLMDataModule, BabyGPT]:
    data = build_data(recipe, batch_size=plan.micro_batch, prepared_as=key)
    data.setup()
    require_full_steps(data)
    return data, build_module(recipe, plan, data)


def _self_checks(recipe: Recipe, data: LLMDataModule, module: BabyGPT) -> Iterator[Finding]:
    found: list[Finding] = []
    schedule, steps = recipe.schedule, recipe.budget.steps or _STEPS
    rate = (
        "the learning rate changes from step to step",
        failure(lambda: check_schedule(schedule.name, steps, schedule.warmup, schedule.final)),
    )
    for about, error in [*(_attempt("self-check", found, lambda: list(module.verdicts(data))) or ()), rate]:
        if error is None:
            yield ok("self-check", about)
        else:
            yield fault("self-check", f"{error.where}: {error.what}", error.hint or "Correct the recipe")
    yield from found
