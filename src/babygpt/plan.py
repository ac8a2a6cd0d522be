"""The verb `plan`: settings in, what a run will need and reach out; nothing is trained and no run folder is made.

1. Data, recipe and machine plan are found as `train` finds them. Data that are not in the cache are prepared.
2. Here, a few optimiser steps are timed on the very model and data. Of another machine the time is arithmetic: the
   FLOPs of a step over the assumed share of its peak.
3. Memory is arithmetic in both cases (`model.cost`), and so are disk, energy and money.

Cost: building the model, and about six seconds of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from babygpt import budgets, planner
from babygpt.computer import detect, memory_available
from babygpt.data.module import LLMDataModule
from babygpt.errors import MachineError
from babygpt.forecast import (
    Duration,
    checkpoint_bytes,
    disk_words,
    duration,
    memory_parts,
    memory_words,
    saved_copies,
    speed_words,
    time_words,
)
from babygpt.machine import MachineFacts, MachinePlan
from babygpt.machine_settings import PlanSettings
from babygpt.machines import ASSUMED_SHARE, Machine
from babygpt.model.cost import MemoryParts, model_cost
from babygpt.prepare import PreparationView
from babygpt.recipe import Recipe
from babygpt.terminal import aligned
from babygpt.timing import StepTime
from babygpt.training import dial
from babygpt.training.memory import is_out_of_memory, let_go, smaller
from babygpt.training.parts import (
    build_data,
    build_module,
    config_of,
    measured,
    micro_batches,
    require_full_steps,
    resolved,
    sequences_of,
    validation_batches,
)
from babygpt.units import size_words

__all__ = ["Alternative", "PlanResult", "plan"]

# A forward pass does a third of a step's operations.
_FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class Alternative:
    """Another way to do the same steps.

    Args:
        micro_batch: sequences at a time.
        activation_checkpointing: whether activations are computed again.
        bytes: predicted.
        fits: into what a run may take.
    """

    micro_batch: int
    activation_checkpointing: bool
    bytes: int
    fits: bool


@dataclass(frozen=True)
class PlanResult:
    """What a run will need and reach.

    Args:
        model: resolved.
        parameters: each counted once.
        machine: in words.
        plan: every field decided.
        reasons: a line for each choice.
        memory: predicted bytes of a device, by part.
        memory_available: bytes of a device.
        fits: whether the prediction is within what a run may take of these.
        flops_per_token: forward and backward.
        flops: of the whole run.
        steps: of the whole run.
        tokens: that the steps read.
        step_seconds: of an optimiser step.
        is_measured: whether that was timed here; else it is assumed.
        seconds: of all steps, without validations and checkpoints.
        time: of the whole run, with these.
        tokens_per_second: of all devices.
        checkpoint_bytes: of one.
        disk_bytes: of those that are kept at a time.
        kilowatt_hours: of all devices; None where their power is not known.
        price: of all devices; None where no price is given.
        expected: the loss to be reached, in words, or why there is none to tell.
        assumptions: of what was not measured.
        alternatives: smaller plans, where this one does not fit.
    """

    model: str
    parameters: int
    machine: str
    plan: MachinePlan
    reasons: tuple[str, ...]
    memory: MemoryParts
    memory_available: int
    fits: bool
    flops_per_token: int
    flops: float
    steps: int
    tokens: int
    step_seconds: float
    is_measured: bool
    seconds: float
    time: Duration
    tokens_per_second: float
    checkpoint_bytes: int
    disk_bytes: int
    kilowatt_hours: float | None
    price: float | None
    expected: str
    assumptions: tuple[str, ...]
    alternatives: tuple[Alternative, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        planned = planner.Planned(self.plan, self.reasons, self.memory, self.memory_available)
        tokens = self.tokens // max(1, self.steps)
        rows = [
            ("model", f"{self.model}, {self.parameters:,} parameters"),
            ("machine", self.machine),
            ("memory", memory_words(planned)),
            *(("", part) for part in memory_parts(self.memory)),
            *(("plan" if not n else "", reason) for n, reason in enumerate(self.reasons)),
            ("work", f"{self.flops_per_token:.3g} FLOPs a token, {self.flops:.3g} in all"),
            ("steps", f"{self.steps:,}, {self.tokens:,} tokens"),
            ("speed", speed_words(self.step_seconds, tokens, "measured" if self.is_measured else "assumed")),
            ("time", time_words(self.time)),
            ("expected", self.expected),
            ("disk", disk_words(self.memory)),
        ]
        if self.kilowatt_hours is not None:
            rows.append(("energy", f"{self.kilowatt_hours:.3g} kWh"))
        if self.price is not None:
            rows.append(("price", f"{self.price:,.2f}"))
        rows += [("assumed", each) for each in self.assumptions]
        return [*aligned(rows, names=10), *self._table()]

    def _table(self) -> Iterator[str]:
        if self.fits:
            return
        yield ""
        yield "This does not fit. Smaller plans, which learn the same:"
        yield f"{'micro-batch':>12}{'checkpointing':>15}{'predicted':>12}"
        for each in self.alternatives:
            checkpointing = "on" if each.activation_checkpointing else "off"
            mark = "  fits" if each.fits else ""
            yield f"{each.micro_batch:>12}{checkpointing:>15}{size_words(each.bytes):>12}{mark}"
        yield "A smaller data.block or model takes less too, and learns something else: that is another recipe."


def plan(settings: PlanSettings) -> PlanResult:
    """Plans a run.

    Raises:
        InputError: something given is wrong.
    """
    other = settings.machine.other
    facts = detect() if other is None else other.facts
    available = memory_available if other is None else lambda device: other.gpu.memory
    notes: list[str] = []
    since = time.monotonic() if settings.begun is None else settings.begun
    recipe, data, since = _resolved(settings, facts, available, notes.append, since)
    config = config_of(recipe, data)
    planned = planner.resolve_plan(settings.machine.request, facts, recipe, config, available)
    cost = model_cost(config)
    tokens = int(recipe.data.global_batch_size) * int(recipe.data.block)
    flops = cost.flops_per_token(int(recipe.data.block))
    data = build_data(recipe, batch_size=planned.plan.micro_batch, prepared_as=data.prepared.key)
    data.setup()
    require_full_steps(data)
    seconds = (
        _timed(recipe, planned, data)
        if other is None
        else _assumed(flops * tokens, planned.plan, micro_batches(recipe, planned.plan), other)
    )
    batches = validation_batches(data, planned.plan)
    one = checkpoint_bytes(planned.memory)
    # What a run would have spent by now, here: imports, the choice of a size, the timing of steps.
    spent = time.monotonic() - since if other is None else 0.0
    recipe = budgets.resolve_steps(recipe, data.plan, batches, seconds, float(flops) * tokens, spent, one)
    steps, taken = recipe.budget.steps or 0, duration(recipe, seconds, batches, one)
    watts = settings.watts if other is None else settings.watts or other.gpu.watts * planned.plan.devices
    return PlanResult(
        model=recipe.model.name,
        parameters=cost.parameters,
        machine=facts.describe() if other is None else f"{other.count} x {other.gpu.name}",
        plan=planned.plan,
        reasons=(*notes, *planned.reasons),
        memory=planned.memory,
        memory_available=planned.available,
        fits=planned.fits,
        flops_per_token=flops,
        flops=float(flops) * tokens * steps,
        steps=steps,
        tokens=tokens * steps,
        step_seconds=seconds.step,
        is_measured=other is None,
        seconds=taken.training,
        time=taken,
        tokens_per_second=tokens / seconds.step,
        checkpoint_bytes=one,
        disk_bytes=saved_copies() * one,
        kilowatt_hours=None if watts is None else watts * taken.whole / 3.6e6,
        price=None if settings.price_per_hour is None else settings.price_per_hour * taken.whole / 3600,
        expected=dial.expected(recipe, data),
        assumptions=tuple(_assumptions(other)),
        alternatives=tuple(_alternatives(planned, recipe, config)),
    )


def _timed(recipe: Recipe, planned: planner.Planned, data: LLMDataModule) -> StepTime:
    """A few steps, here.

    Raises:
        MachineError: they do not fit into the memory.
    """
    plan = planned.plan
    try:
        return measured(recipe, plan, data, build_module(recipe, plan, data).model)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        let_go(error)
        less = smaller(plan, sequences_of(recipe, plan))
        tried = f"micro-batch {plan.micro_batch} of {recipe.data.block} tokens"
        raise MachineError(
            f"memory ran out while steps of {recipe.model.name} with {tried} were timed"
            f" ({memory_words(planned)})",
            where="machine.micro_batch",
            hint=f"Plan with {less.option}; a run would go on with that of its own accord",
        ) from error


def _assumed(flops: int, plan: MachinePlan, micro_batches: int, other: Machine) -> StepTime:
    """Of a step of so many operations, on all devices together."""
    step = flops / (plan.devices * other.gpu.peak * ASSUMED_SHARE)
    return StepTime(step, step * _FORWARD_SHARE / micro_batches)


def _resolved(
    settings: PlanSettings,
    facts: MachineFacts,
    available: Callable[[str], int],
    note: Callable[[str], None],
    since: float,
) -> tuple[Recipe, LLMDataModule, float]:
    """The recipe as a run there would begin with it, its data, and since when a budget in minutes runs."""
    preparing = time.monotonic()
    with PreparationView(Console(stderr=True)) as view:
        data = build_data(dial.provisional(settings.recipe), batch_size=1, progress=view, say=view.say)
        data.prepare_data()
    since += time.monotonic() - preparing  # as in a run, what preparing takes is no part of a budget
    other, request = settings.machine.other, settings.machine.request
    pace = (
        dial.timed_here(request, facts, data, note)
        if other is None
        else dial.assumed_on(other, request, data)
    )
    fits = dial.fits_on(request, facts, data, available)
    recipe = dial.with_size(settings.recipe, data, pace, fits, note, since if other is None else None)
    return resolved(recipe, data, planner.parameters_of(config_of(recipe, data))), data, since


def _assumptions(other: Machine | None) -> Iterator[str]:
    if other is None:
        return
    gpu = other.gpu
    yield f"{ASSUMED_SHARE:.0%} of {gpu.peak / 1e12:,.0f} TFLOP/s a GPU, and no time lost between GPUs"
    yield "samples and saves take no time"
    yield f"{gpu.memory / 1e9:.0f} GB and {gpu.watts:.0f} W a GPU; the processor beside them keeps up"


def _alternatives(planned: planner.Planned, recipe: Recipe, config: Any) -> Iterator[Alternative]:
    """All smaller plans of the same steps, the largest first."""
    plan, room = planned.plan, planner.room_in(planned.available)
    world = plan.devices * plan.nodes
    sequences = -(-int(recipe.data.global_batch_size) // world)
    for checkpointing in (False, True):
        for micro in (n for n in range(plan.micro_batch, 0, -1) if sequences % n == 0):
            memory = planner.memory_of(
                recipe, config, plan.device, plan.precision, micro, checkpointing, world
            )
            needed = memory.needed + planned.memory.process
            yield Alternative(micro, checkpointing, needed, memory.needed <= room)
