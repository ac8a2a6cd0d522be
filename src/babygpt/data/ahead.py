"""Tells a loader process which windows it will be asked for later, so that they are fetched meanwhile.

The sampler runs in the main process and knows the plan. Each micro-batch that it hands out carries the rows of those
that the same process will get next: with n loader processes, which take turns, the n-th from here, the 2n-th, ... Only
what was not told before goes along, so that a process learns of each micro-batch once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch

from babygpt.data.arrow import TokenStore
from babygpt.data.batches import EMPTY_ROW, Int64s, WindowDataset
from babygpt.data.joined import parts_of
from babygpt.data.streamed import StreamedStore

__all__ = ["Ahead", "Foreseen", "StreamedWindows", "is_streamed"]

_WINDOWS_AHEAD = 256  # of a process: 16 MB of pieces, or twice that with masks


def is_streamed(store: TokenStore) -> bool:
    """Whether some of a store's tokens lie elsewhere."""
    return any(isinstance(part, StreamedStore) for part in parts_of(store))


@dataclass(frozen=True)
class Foreseen:
    """A micro-batch, and what comes later.

    Attributes:
        rows: int64 [micro_batch].
        coming: rows that the process has not been told of before, in the order they will be asked for.
    """

    rows: Int64s
    coming: tuple[Int64s, ...]


class Ahead:
    """The micro-batches of a sampler, each with what comes later.

    Args:
        rows: of each micro-batch, int64 [micro_batch]; may be iterated again.
        processes: that load them in turns; 0 counts as one, this one.
    """

    def __init__(self, rows: Iterable[Int64s], processes: int) -> None:
        self._rows, self._processes = rows, max(1, processes)

    def __iter__(self) -> Iterator[Foreseen]:
        rows, turns = iter(self._rows), self._processes
        waiting: deque[Int64s] = deque(islice(rows, 1))
        if not waiting:
            return
        depth = max(2, _WINDOWS_AHEAD // len(waiting[0]))  # micro-batches ahead, of each process
        waiting.extend(islice(rows, turns * (depth + 1) - 1))
        for number in range(turns):  # the first of each process tells of all that waits
            if number < len(waiting):
                yield Foreseen(waiting[number], tuple(islice(waiting, number, None, turns)))
        for _ in range(min(turns, len(waiting))):
            waiting.popleft()
        for new in chain(rows, [None] * len(waiting)):
            if new is not None:
                waiting.append(new)
            coming = (new,) if new is not None else ()
            yield Foreseen(waiting.popleft(), coming)


class StreamedWindows(WindowDataset):
    """Windows of a store of which some lies elsewhere; takes rows alone, or with what comes later."""

    def __getitem__(self, item: Foreseen | Int64s) -> dict[str, torch.Tensor]:
        if isinstance(item, Foreseen):
            rows, coming = item.rows, item.coming
        else:
            rows, coming = item, (np.atleast_1d(item),)
        for later in coming:
            self._expect(later[later != EMPTY_ROW])
        return super().__getitem__(rows)

    def _expect(self, numbers: Int64s) -> None:
        pieces = self.windows.pieces_of(numbers)
        self.store.expect(np.asarray(self.windows.starts[pieces]), np.asarray(self.windows.lengths[pieces]))
