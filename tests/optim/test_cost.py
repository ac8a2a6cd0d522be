"""What an optimiser takes, against the state of real ones."""

from __future__ import annotations

import pytest
import torch

from babygpt.model.load import load_config, load_model
from babygpt.optim.cost import update_bytes
from babygpt.optim.groups import parameter_groups
from babygpt.optim.muon import matrix_shapes
from babygpt.optim.optimizers import OPTIMIZERS, build_optimizer


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["gpt2-1m", "llama-5m"])
def test_state_is_what_an_optimiser_keeps(preset: str, name: str) -> None:
    model = load_model(f"preset:{preset}", vocab_size=300)
    optimizer = build_optimizer(name, parameter_groups(model, OPTIMIZERS[name]), 1e-3, (0.9, 0.95))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    assert update_bytes(model.config, name).state == sum(t.nbytes for t in kept)


def test_adamw_needs_nothing_more_to_update() -> None:
    config = load_config("preset:gpt2-1m")
    assert update_bytes(config, "adamw").workspace == 0
    assert update_bytes(config, "muon").workspace > update_bytes(config, "muon", bf16=True).workspace > 0


def test_matrices_side_by_side_are_counted_one_by_one() -> None:
    fused, wide, tall = torch.empty(8, 24), torch.empty(8, 32), torch.empty(32, 8)
    assert matrix_shapes([fused, wide, tall], [3, 1, 1]) == [(8, 8)] * 3 + [(8, 32)] * 2
