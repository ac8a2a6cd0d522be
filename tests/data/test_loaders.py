from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from babygpt.data.batches import BatchPlan
from babygpt.data.loaders import StepRows
from babygpt.data.mixture import Mixture, Stretch
from babygpt.data.order import Order, data_step, skips_of
from babygpt.data.packing import stream_windows


@dataclass
class Place:
    """A run, some steps on."""

    plan: BatchPlan
    completed_steps: int
    rank: int
    skips: tuple[tuple[int, int], ...]

    def data_step(self, step: int) -> int:
        return data_step(step, self.skips)


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    mixed=st.booleans(),
    batch=st.integers(1, 6),
    seed=st.integers(0, 99),
    micro=st.integers(1, 4),
    ranks=st.integers(1, 3),
    stop=st.integers(0, 30),
    rollbacks=st.sampled_from([(), ((2, 5),)]),
)
def test_resuming_at_any_step_gives_the_uninterrupted_order_on_any_ranks(
    sizes, mixed, batch, seed, micro, ranks, stop, rollbacks
) -> None:
    """The order is told step by step from the definition; a run reads on from a step with other ranks than before."""
    windows = stream_windows(sum(sizes) * 4 + 1, 5)
    order: Order | Mixture = Order(sum(sizes), batch, seed)
    if mixed:
        weights = tuple(range(1, len(sizes) + 1))
        order = Mixture(tuple(sizes), (Stretch(0, weights), Stretch(3, weights[::-1])), batch, seed)
    skips = skips_of(rollbacks)
    read: list[int] = []
    places = [Place(BatchPlan(order, windows, micro, ranks), stop, rank, skips) for rank in range(ranks)]
    for rows in zip(*(StepRows(place) for place in places), strict=True):  # a micro-batch of every rank
        read += [window for row in rows for window in row.tolist() if window >= 0]
    end = (stop // order.steps_per_epoch + 1) * order.steps_per_epoch
    wanted = [order.windows_of(data_step(step, skips)) for step in range(stop, end)]
    assert read == np.concatenate(wanted).tolist()
