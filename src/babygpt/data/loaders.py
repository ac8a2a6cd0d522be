"""What Lightning iterates: batches from wherever the completed steps say to the end of the epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch

from babygpt.data.batches import BatchPlan, WindowDataset

__all__ = ["EpochLoader", "InPlace", "StepRows"]


class EpochLoader:
    """A loader sized as a whole epoch, begun wherever its rows begin.

    A plain wrapper, because under DDP Lightning puts a sampler of its own into a bare DataLoader. The empty state
    tells Lightning that the loader resumes by itself, as it does: from the number of completed steps.
    """

    def __init__(self, loader: Iterable[dict[str, torch.Tensor]], length: int) -> None:
        self._loader = loader
        self._length = length

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(self._loader)

    def __len__(self) -> int:
        return self._length

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes nothing."""
        del state_dict


class InPlace:
    """Loads in this process: a `DataLoader` without others takes as long for its own book-keeping as for a window."""

    def __init__(self, dataset: WindowDataset, rows: Iterable[Any]) -> None:
        self._dataset, self._rows = dataset, rows

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return map(self._dataset.__getitem__, self._rows)


class Position(Protocol):
    """Where a run is in its data: `LLMDataModule`."""

    @property
    def plan(self) -> BatchPlan: ...
    @property
    def completed_steps(self) -> int: ...
    @property
    def rank(self) -> int: ...
    def data_step(self, step: int, /) -> int: ...


class StepRows:
    """The rows of every micro-batch of a rank, from the completed steps to the end of their epoch."""

    def __init__(self, position: Position) -> None:
        self._position = position

    def __iter__(self) -> Iterator[np.ndarray]:
        position, plan = self._position, self._position.plan
        first = position.completed_steps
        last = (first // plan.order.steps_per_epoch + 1) * plan.order.steps_per_epoch
        for step in range(first, last):
            yield from plan.step_rows(position.data_step(step), position.rank)
