"""A token store that lies elsewhere, read in pieces as if it were on the disk.

Record batch b holds positions first_b .. first_b + tokens_b, and its ids begin at a byte of its shard that the index
knows: a window is a search on the batches' beginnings and a span of bytes (two where it crosses a border). All else
is as `arrow.TokenStore` has it: windows, order and batches do not know where the tokens are.

Memory: 40 bytes a record batch, 8 a document once documents are asked for, and what `pieces` holds.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from babygpt.data.arrow import Ids, Mask, TargetCumsum, TokenStore
from babygpt.data.corpus import BATCHES, LENGTHS, MOST
from babygpt.data.corpus_index import Place
from babygpt.data.pieces import Pieces, Span
from babygpt.errors import DataError

__all__ = ["StreamedStore"]

_SHARD, _TOKENS, _DOCUMENTS, _IDS, _MASKS = range(5)


class StreamedStore(TokenStore):
    """One side of a corpus. Picklable: another process has requests and memory of its own, and the same cache.

    Args:
        place: of the corpus.
        side: `train` or `val`.

    Raises:
        DataError: its index cannot be fetched, or does not agree with `corpus.json`.
    """

    def __init__(self, place: Place, side: str) -> None:
        self.folder = place.folder / side
        self._place, self._side = place, side
        described = place.corpus.sides[side]
        self.manifest, self._shards = described.manifest, described.shards
        self.num_tokens, self.num_documents = self.manifest.num_tokens, self.manifest.num_documents
        self.has_targets = self.manifest.has_targets
        self._dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        self._pieces, self._process = Pieces(place), os.getpid()
        path = self._pieces.index.path(f"{side}/{BATCHES}")
        numbers = np.fromfile(path, dtype="<i8")
        self._batches: npt.NDArray[np.int64] = numbers[: len(numbers) // 5 * 5].reshape(-1, 5)
        self._chunk_starts = np.cumsum([0, *self._batches[:, _TOKENS]], dtype=np.int64).tolist()
        if not self._agrees():
            raise _disagrees(str(path))

    def _agrees(self) -> bool:
        table, sizes = self._batches, np.array([shard.size for shard in self._shards], dtype=np.int64)
        if (table > MOST).any():
            return False
        counts = tuple(table[:, column].sum(dtype=np.float64) for column in (_TOKENS, _DOCUMENTS))
        if counts != (self.num_tokens, self.num_documents) or (table[:, :_MASKS] < 0).any():
            return False
        if (table[:, _SHARD] >= len(sizes)).any():
            return False
        ends = [table[:, _IDS] + table[:, _TOKENS] * self._dtype.itemsize]
        if self.has_targets:
            if (table[:, _MASKS] < 0).any():
                return False
            ends.append(table[:, _MASKS] + table[:, _TOKENS])
        return all((end <= sizes[table[:, _SHARD]]).all() for end in ends)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 [documents + 1], where each document begins, and the end; fetched when first asked."""
        whole = np.zeros(self.num_documents + 1, dtype=np.int64)
        path = self._reader.index.path(f"{self._side}/{LENGTHS}")
        np.cumsum(np.fromfile(path, dtype="<u4"), dtype=np.int64, out=whole[1:])
        if whole[-1] != self.num_tokens:
            raise _disagrees(str(path))
        return whole

    def __reduce__(self) -> tuple[Any, ...]:
        return (StreamedStore, (self._place, self._side))

    def ids(self, start: int, length: int) -> Ids:
        """Ids [length] from position `start`."""
        ids: Ids = self._read(_IDS, self._dtype, start, length)
        return ids

    def target_mask(self, start: int, length: int) -> Mask:
        """Whether each token from `start` is a target, bool [length]; all True without masks."""
        if not self.has_targets:
            return np.ones(length, dtype=np.bool_)
        mask: Mask = self._read(_MASKS, np.dtype(np.uint8), start, length).astype(np.bool_)
        return mask

    def target_cumsum(self) -> TargetCumsum | None:
        """Targets before each position; every mask is fetched once for each array of positions."""
        return TargetCumsum(self._chunk_starts, _Masks(self), []) if self.has_targets else None

    def forget(self) -> None:
        """Nothing: what is held in memory is bounded."""

    def expect(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        """Begins to fetch what will be read soon, in this order: tokens from `starts` on, as many as `lengths`."""
        columns = [(_IDS, self._dtype.itemsize), *([(_MASKS, 1)] if self.has_targets else [])]
        self._reader.expect(
            span
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
            for column, width in columns
            for span in self._spans(column, width, start, length)
        )

    @property
    def _reader(self) -> Pieces:
        if self._process != os.getpid():  # forked: threads and sockets stayed behind
            self._pieces, self._process = Pieces(self._place), os.getpid()
        return self._pieces

    def _read(self, column: int, dtype: np.dtype[Any], start: int, length: int) -> Any:
        if not 0 <= start <= start + length <= self.num_tokens:
            raise IndexError(f"tokens {start} to {start + length} of a store of {self.num_tokens}")
        reader = self._reader
        spans = self._spans(column, dtype.itemsize, start, length)
        parts = [np.frombuffer(reader.read(span), dtype) for span in spans]
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, dtype)

    def _spans(self, column: int, width: int, start: int, length: int) -> Iterator[Span]:
        """Where the numbers of a column lie."""
        end, batch = start + length, bisect_right(self._chunk_starts, start) - 1
        while start < end:
            first, after = self._chunk_starts[batch], self._chunk_starts[batch + 1]
            row = self._batches[batch]
            size = (min(end, after) - start) * width
            yield Span(self._shards[row[_SHARD]], int(row[column]) + (start - first) * width, size)
            start, batch = after, batch + 1


def _disagrees(where: str) -> DataError:
    what = "the index of the corpus does not agree with its corpus.json"
    return DataError(what, where=where, hint="Prepare the corpus anew")


class _Masks:
    """The masks of each record batch, fetched when it is its turn."""

    def __init__(self, store: StreamedStore) -> None:
        self._store = store

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        store = self._store
        for start, end in pairwise(store._chunk_starts):
            yield store._read(_MASKS, np.dtype(np.uint8), start, end - start)
