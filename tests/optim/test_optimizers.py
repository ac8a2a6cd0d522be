"""AdamW against its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from babygpt.optim.groups import parameter_groups
from babygpt.optim.optimizers import build_optimizer


def _by_hand(p: torch.Tensor, grads: list[torch.Tensor], lr: float, decay: float) -> torch.Tensor:
    first, second = torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(grads, 1):
        first, second = 0.9 * first + 0.1 * g, 0.95 * second + 0.05 * g * g
        p = p - lr * decay * p
        p = p - lr * (first / (1 - 0.9**t)) / ((second / (1 - 0.95**t)).sqrt() + 1e-8)
    return p


@pytest.mark.parametrize("fused", [None, True, False])
def test_update(fused: bool | None) -> None:
    model = nn.Linear(3, 4).double()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    grads = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(3)]
    optimizer = build_optimizer(parameter_groups(model, weight_decay=0.1), 0.01, (0.9, 0.95), fused=fused)
    for step in grads:
        for name, parameter in model.named_parameters():
            parameter.grad = step[name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        decay = 0.1 if name == "weight" else 0.0
        wanted = _by_hand(start[name], [g[name] for g in grads], 0.01, decay)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("meta", False)])
def test_fused_where_every_device_has_it(device: str, fused: bool) -> None:
    model: Any = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, device=device)])
    groups = parameter_groups(model)
    optimizer = build_optimizer(groups, 0.01, (0.9, 0.95))
    assert {g["fused"] for g in optimizer.param_groups} == {fused}
    assert [g["name"] for g in optimizer.param_groups] == ["biases", "matrices"]
    assert "lr" not in groups[0], "the caller's groups are left as they were"
