"""A run that does not fit into the memory goes on in smaller pieces: the plan changes, what is learned does not."""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass, replace

import torch

from babygpt.errors import MachineError
from babygpt.machine import MachinePlan

__all__ = ["Smaller", "is_out_of_memory", "let_go", "smaller"]

# What torch's allocators of the CPU say in a RuntimeError of no class of its own.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Smaller:
    """A plan that takes less memory.

    Args:
        plan: the whole of it.
        change: what makes it smaller, in words.
        option: the same as an argument of the command.
    """

    plan: MachinePlan
    change: str
    option: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _CPU_MESSAGES)


def let_go(error: BaseException) -> None:
    """Frees what the failed computation still holds."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def smaller(plan: MachinePlan, sequences: int) -> Smaller:
    """The plan with the next smaller micro-batch; then with activation checkpointing of every block.

    Args:
        plan: that did not fit.
        sequences: of one device in an optimiser step; the micro-batch stays a divisor of it.

    Raises:
        MachineError: nothing is left to make smaller.
    """
    if plan.micro_batch > 1:
        half = max(1, plan.micro_batch // 2)
        micro = next(n for n in range(half, 0, -1) if sequences % n == 0)
        option = f"--machine.micro_batch {micro}"
        return Smaller(replace(plan, micro_batch=micro), f"micro-batch {micro}", option)
    if plan.activation_checkpointing != 1:
        option = "--machine.activation_checkpointing true"
        return Smaller(replace(plan, activation_checkpointing=True), "activation checkpointing", option)
    raise MachineError(
        "one sequence at a time, with activation checkpointing, does not fit into the memory",
        where=f"machine.device {plan.device}",
        hint="Give a smaller data.block or model, or a machine.precision of fewer bits; or free some memory",
    )
