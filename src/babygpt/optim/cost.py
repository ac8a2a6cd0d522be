"""What an optimiser takes of the memory: its state, and what it needs while it updates."""

from __future__ import annotations

import functools
import json
from collections import Counter
from typing import Any

from transformers import PreTrainedConfig

from babygpt.model.cost import UpdateBytes, meta_model
from babygpt.optim.groups import parameter_groups
from babygpt.optim.muon import matrix_shapes
from babygpt.optim.optimizers import OPTIMIZERS

__all__ = ["update_bytes"]


def update_bytes(config: PreTrainedConfig, name: str, *, bf16: bool = False) -> UpdateBytes:
    """Of a model of this configuration; the second call with an equal one is free.

    AdamW keeps two fp32 moments of each parameter and updates in one kernel. Muon keeps one of each hidden matrix; in
    its update there are the moved gradients of all matrices and, of those of one shape at a time, the stack of them,
    of their iterate and of the next one, and three of m x m products, m being a matrix's shorter side.

    Args:
        config: of the model.
        name: `adamw` or `muon`.
        bf16: whether Muon orthogonalises in bf16.
    """
    kind: Any = type(config)
    return _update_bytes(kind, json.dumps(config.to_dict(), sort_keys=True, default=str), name, bf16)


@functools.lru_cache(maxsize=32)
def _update_bytes(config_class: Any, values: str, name: str, bf16: bool) -> UpdateBytes:
    groups = parameter_groups(meta_model(config_class.from_dict(json.loads(values))), OPTIMIZERS[name])
    state = workspace = 0
    for group in groups:
        numbers = sum(p.numel() for p in group["params"])
        if group.get("update") != "muon":
            state += 8 * numbers
            continue
        state += 4 * numbers
        alike = Counter(matrix_shapes(group["params"], group["parts"]))
        size = 2 if bf16 else 4
        stacks = max(size * count * (3 * m * n + 3 * m * m) for (m, n), count in alike.items())
        workspace = max(workspace, 4 * numbers + stacks)
    return UpdateBytes(state, workspace)
