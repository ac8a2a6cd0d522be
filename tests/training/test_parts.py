"""The shares of several devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from babygpt.machine import MachinePlan
from babygpt.training.parts import micro_batches, validation_batches


@pytest.mark.parametrize(
    ("device", "devices", "nodes", "wanted"),
    [("cuda", 1, 1, 8), ("cuda", 4, 1, 2), ("cuda", 4, 2, 1), ("cpu", 2, 1, 8), ("cpu", 2, 2, 4)],
)
def test_a_device_does_its_share_of_a_step(device: str, devices: int, nodes: int, wanted: int) -> None:
    """GPUs work side by side; processes on a CPU share its cores, and are no faster than one."""
    plan = MachinePlan(device, "32-true", 4, False, False, 0, devices, nodes, "ddp")
    recipe: Any = SimpleNamespace(data=SimpleNamespace(global_batch_size=32))
    assert micro_batches(recipe, plan) == wanted
    asked: list[tuple[int, int, int]] = []

    def rows(*share: int) -> list[int]:
        asked.append(share)  # type: ignore[arg-type]
        return [0] * wanted

    data: Any = SimpleNamespace(validation=SimpleNamespace(rows=rows))
    assert validation_batches(data, plan) == wanted
    assert asked == [(4, 0, 8 // wanted)]
