"""Timing real steps, which leaves the model as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from babygpt.model.blocks import find_blocks
from babygpt.model.load import load_model
from babygpt.timing import measure_step


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_timing_leaves_no_trace(optimizer: str) -> None:
    model = load_model("preset:gpt2-1m").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ids = torch.arange(64).reshape(2, 32)
    asked: list[int] = []

    def batch(number: int) -> dict[str, torch.Tensor]:
        asked.append(number)
        return {"input_ids": ids, "labels": ids}

    plan: Any = SimpleNamespace(device="cpu", precision="32-true", activation_checkpointing=False)
    random_state = torch.random.get_rng_state()
    seconds = measure_step(model, batch, plan, 2, optimizer)
    assert seconds.step > seconds.forward > 0
    assert 0 < seconds.token < seconds.step
    assert 0 < seconds.byte < 1e-6
    assert asked[:4] == [0, 1, 2, 3]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert torch.equal(random_state, torch.random.get_rng_state())


def test_a_step_is_timed_as_the_plan_has_it() -> None:
    """Blocks that are to be computed again, since nothing less fits, are so here too; afterwards no more."""
    model = load_model("preset:gpt2-1m").train()
    seen: list[bool] = []
    block: Any = next(iter(find_blocks(model).values()))
    block.register_forward_pre_hook(
        lambda *_: seen.append(block.gradient_checkpointing) if torch.is_grad_enabled() else None
    )
    ids = torch.arange(64).reshape(2, 32)
    plan: Any = SimpleNamespace(device="cpu", precision="bf16-mixed", activation_checkpointing=True)
    measure_step(model, lambda _: {"input_ids": ids, "labels": ids}, plan, 1, "adamw", (1, 1, 0.0))
    assert seen
    assert all(seen)
    assert not block.gradient_checkpointing
