"""Memory that runs out: recognised, and answered by a smaller plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from babygpt.errors import MachineError
from babygpt.machine import MachinePlan
from babygpt.training.memory import is_out_of_memory, smaller

PLAN = MachinePlan("cpu", "32-true", 12, False, False, 0, 1, 1, "auto")


def test_what_is_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value), "the CPU's own allocator"
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_the_micro_batch_falls_through_divisors_and_then_activations_are_recomputed() -> None:
    plan, seen = PLAN, []
    for _ in range(4):
        plan = smaller(plan, 12)
        seen.append((plan.micro_batch, plan.activation_checkpointing))
    assert seen == [(6, False), (3, False), (1, False), (1, True)]
    assert (
        smaller(replace(PLAN, micro_batch=1, activation_checkpointing=3), 12).activation_checkpointing is True
    )
    assert smaller(replace(PLAN, micro_batch=8), 15).micro_batch == 3
    with pytest.raises(MachineError, match=r"does not fit into the memory.*smaller data\.block"):
        smaller(plan, 12)
