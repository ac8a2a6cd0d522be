"""A run that does not fit into the memory goes on in smaller pieces: the plan changes, what is learned does not."""

from __future__ import annotations

import gc
import traceback
from dataclasses import replace

import torch

from babygpt.errors import MachineError
from babygpt.machine import MachinePlan

__all__ = ["is_out_of_memory", "let_go", "smaller"]

# What torch's allocators of the CPU say in a RuntimeError of no class of its own.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory")


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


def smaller(plan: MachinePlan, sequences: int) -> MachinePlan:
    """The plan with the next smaller micro-batch; then with activation checkpointing of every block.

    Args:
        plan: that did not fit.
        sequences: of one device in an optimiser step; the micro-batch stays a divisor of it.

    Raises:
        MachineError: nothing is left to make smaller.
    """
    if plan.micro_batch > 1:
        half = max(1, plan.micro_batch // 2)
        return replace(plan, micro_batch=next(n for n in range(half, 0, -1) if sequences % n == 0))
    if plan.activation_checkpointing != 1:
        return replace(plan, activation_checkpointing=True)
    raise MachineError(
        "one sequence at a time, with activation checkpointing, does not fit into the memory",
        where=f"machine.device {plan.device}",
        hint="Give a smaller data.block or model, or a machine.precision of fewer bits; or free some memory",
    )
