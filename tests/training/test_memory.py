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
        less = smaller(plan, 12)
        plan = less.plan
        seen.append((plan.micro_batch, plan.activation_checkpointing, less.change, less.option))
    assert seen == [
        (6, False, "micro-batch 6", "--machine.micro_batch 6"),
        (3, False, "micro-batch 3", "--machine.micro_batch 3"),
        (1, False, "micro-batch 1", "--machine.micro_batch 1"),
        (1, True, "activation checkpointing", "--machine.activation_checkpointing true"),
    ]
    partly = replace(PLAN, micro_batch=1, activation_checkpointing=3)
    assert smaller(partly, 12).plan.activation_checkpointing is True
    assert smaller(replace(PLAN, micro_batch=8), 15).plan.micro_batch == 3
    with pytest.raises(MachineError, match=r"does not fit into the memory.*smaller data\.block"):
        smaller(plan, 12)
