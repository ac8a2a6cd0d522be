"""What a run will need, in numbers and in words: the same for the verb plan and at the start of every train."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from babygpt.model.cost import MemoryParts
from babygpt.planner import Planned
from babygpt.recipe import Recipe
from babygpt.settings import CheckpointPlan
from babygpt.timing import StepTime
from babygpt.units import seconds_words, size_words

__all__ = [
    "Duration",
    "checkpoint_bytes",
    "disk_words",
    "duration",
    "memory_parts",
    "memory_words",
    "plan_words",
    "saved_copies",
    "saving_seconds",
    "speed_words",
    "start_words",
    "time_words",
    "validation_seconds",
]

# Tokens of the sample at each validation.
_SAMPLED = 48
# A save reads its bytes again and again: copied, summed as it is written, as the best and as the newest, and once more
# before what it takes the place of is deleted.
_PASSES = 4


@dataclass(frozen=True)
class Duration:
    """Seconds of a run from its first validation on.

    Args:
        training: of all optimiser steps.
        validating: of all validations, with the sample at each.
        validations: how many, the one before step 0 included.
        saving: that checkpoints hold training up.
    """

    training: float
    validating: float
    validations: int
    saving: float

    @property
    def whole(self) -> float:
        """All of it."""
        return self.training + self.validating + self.saving


def duration(recipe: Recipe, seconds: StepTime, batches: int, saved: int) -> Duration:
    """How long a run takes that saves at every validation.

    Args:
        recipe: resolved, with its steps.
        seconds: measured or assumed.
        batches: micro-batches of a validation.
        saved: bytes of a checkpoint.
    """
    steps = int(recipe.budget.steps or 0)
    inside = -(-steps // int(recipe.validate.every_steps))
    return Duration(
        training=steps * seconds.step,
        validating=(1 + inside) * validation_seconds(seconds, batches),
        validations=1 + inside,
        saving=inside * saving_seconds(seconds, saved),
    )


def validation_seconds(seconds: StepTime, batches: int) -> float:
    """Of one validation, with its sample."""
    return batches * seconds.forward + _SAMPLED * seconds.token


def saving_seconds(seconds: StepTime, saved: int) -> float:
    """That one save holds training up."""
    return _PASSES * saved * seconds.byte


def checkpoint_bytes(memory: MemoryParts) -> int:
    """Of one checkpoint: the weights and the optimiser's state."""
    return memory.weights + memory.optimizer


def plan_words(planned: Planned) -> list[str]:
    """What a run takes of this computer and why, a line for each."""
    memory = planned.memory
    return [
        f"memory {memory_words(planned)}: {', '.join(memory_parts(memory))}",
        *planned.reasons,
        f"disk {disk_words(memory)}",
    ]


def start_words(recipe: Recipe, seconds: StepTime | None, batches: int, memory: MemoryParts) -> str:
    """What can be said of a run's time before its first step.

    Args:
        recipe: resolved, with its steps.
        seconds: measured; None where nothing was.
        batches: micro-batches of a validation.
        memory: of the run.
    """
    if seconds is None:
        return "time is told after the first steps; babygpt plan measures it beforehand"
    tokens = int(recipe.data.global_batch_size) * int(recipe.data.block)
    time = duration(recipe, seconds, batches, checkpoint_bytes(memory))
    return f"{speed_words(seconds.step, tokens, 'measured')}; time {time_words(time)}"


def memory_words(planned: Planned) -> str:
    """How much of the memory a run takes at its peak."""
    memory, free = planned.memory, planned.available + planned.memory.process
    fits = "" if planned.fits else ": this does not fit"
    return f"{size_words(memory.total)} at its peak of {size_words(free)} a device{fits}"


def memory_parts(memory: MemoryParts) -> list[str]:
    """A text for each part that takes any."""
    return [f"{name} {size_words(part)}" for name, part in asdict(memory).items() if part]


def saved_copies(keep: int = CheckpointPlan.keep) -> int:
    """Checkpoints that are kept at a time: the newest (`checkpoint.keep`) and the best."""
    return keep + 1


def disk_words(memory: MemoryParts) -> str:
    """What the checkpoints that are kept at a time take."""
    one = checkpoint_bytes(memory)
    copies = saved_copies()
    return f"{size_words(copies * one)}: {copies} checkpoints of {size_words(one)}"


def speed_words(step: float, tokens: int, origin: str) -> str:
    """How fast a run is.

    Args:
        step: seconds of an optimiser step.
        tokens: of it.
        origin: of the seconds.
    """
    return f"{tokens / step:,.0f} tokens/s, {step:.3g} s a step ({origin})"


def time_words(time: Duration) -> str:
    """How long a run takes, and what of that is no training."""
    validating, saving = seconds_words(time.validating), seconds_words(time.saving)
    rest = f"{validating} in {time.validations} validations, {saving} held up by saves"
    return f"{seconds_words(time.whole)}: {seconds_words(time.training)} of training, {rest}"
