"""Several token stores, and their windows, one behind the other: as if they were one, and nothing is copied.

Position p of the whole is position p - first_i of store i, and likewise for windows and their pieces. A look costs
a search among the stores more; nothing takes memory.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from babygpt.data.arrow import StoreManifest, TokenStore
from babygpt.data.computed import Computed, Numbers
from babygpt.data.packing import Windows

__all__ = ["JoinedStore", "join_windows", "parts_of"]

Int64s = npt.NDArray[np.int64]


def parts_of(store: TokenStore) -> tuple[TokenStore, ...]:
    """The stores that one is made of: itself, unless it is joined."""
    return store.stores if isinstance(store, JoinedStore) else (store,)


class JoinedStore(TokenStore):
    """Stores of one tokenizer as one. Picklable, as they are.

    Args:
        stores: at least one.
    """

    def __init__(self, stores: Sequence[TokenStore]) -> None:
        self.stores = tuple(stores)
        self.manifest = _manifest(self.stores)
        self.folder = self.stores[0].folder
        self.num_tokens, self.num_documents = self.manifest.num_tokens, self.manifest.num_documents
        self.has_targets = self.manifest.has_targets
        self.firsts = _firsts([store.num_tokens for store in self.stores])

    @cached_property
    def offsets(self) -> Int64s:
        """int64 [documents + 1], where each document begins, and the end."""
        parts = [s.offsets[:-1] + first for s, first in zip(self.stores, self.firsts, strict=False)]
        return np.concatenate([*parts, [self.num_tokens]]).astype(np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return (JoinedStore, (self.stores,))

    def ids(self, start: int, length: int) -> Any:
        """Ids [length] from position `start`."""
        return self._read("ids", start, length)

    def target_mask(self, start: int, length: int) -> Any:
        """Whether each token from `start` is a target, bool [length]."""
        return self._read("target_mask", start, length)

    def target_cumsum(self) -> Any:
        """Targets before each position, to be indexed by positions; None where every token is one."""
        return _TargetsBefore(self) if self.has_targets else None

    def expect(self, starts: Int64s, lengths: Int64s) -> None:
        """As of the stores, each told of its own; what crosses from one to the next is told to the first."""
        parts = np.searchsorted(self.firsts[:-1], starts, side="right") - 1
        for number, store in enumerate(self.stores):
            own, first = parts == number, self.firsts[number]
            store.expect(
                starts[own] - first, np.minimum(lengths[own], store.num_tokens + first - starts[own])
            )

    def _read(self, of: str, start: int, length: int) -> Any:
        end = start + length
        if not 0 <= start <= end <= self.num_tokens:
            raise IndexError(f"tokens {start} to {end} of stores of {self.num_tokens}")
        number = min(bisect_right(self.firsts, start), len(self.stores)) - 1
        parts: list[Any] = []
        while not parts or start < end:
            first, after = self.firsts[number], min(end, self.firsts[number + 1])
            parts.append(getattr(self.stores[number], of)(start - first, after - start))
            start, number = after, number + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _TargetsBefore:
    """The number of targets before each position of joined stores."""

    def __init__(self, whole: JoinedStore) -> None:
        self._stores, self._firsts = whole.stores, whole.firsts
        self._counts = [store.target_cumsum() for store in whole.stores]

    def __getitem__(self, positions: Int64s) -> Int64s:
        found = np.zeros(len(positions), dtype=np.int64)
        for store, first, counts in zip(self._stores, self._firsts, self._counts, strict=False):
            inside = np.clip(positions - first, 0, store.num_tokens)
            found += inside if counts is None else np.asarray(counts[inside])
        return found


def _manifest(stores: Sequence[TokenStore]) -> StoreManifest:
    each = [store.manifest for store in stores]
    targets = sum(m.num_targets for m in each)
    together = hashlib.sha256(" ".join(m.fingerprint for m in each).encode())
    return replace(
        each[0],
        num_tokens=sum(m.num_tokens for m in each),
        num_documents=sum(m.num_documents for m in each),
        num_targets=targets,
        bytes_per_target=sum(m.bytes_per_target * m.num_targets for m in each) / max(1, targets),
        has_targets=any(m.has_targets for m in each),
        fingerprint=together.hexdigest(),
    )


def _firsts(sizes: Sequence[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))


# -- windows -------------------------------------------------------------------------------------------------


class _Behind(Computed):
    """The beginnings of arrays one behind the other, each with a number added to all of its own."""

    def __init__(self, parts: Sequence[Numbers], counts: Sequence[int], added: Sequence[int]) -> None:
        self._firsts = _firsts(counts)
        super().__init__(self._firsts[-1])
        self._parts, self._added = parts, added

    def at(self, places: Int64s) -> Int64s:
        """The numbers at places, int64 of their shape."""
        found = np.empty(places.shape, dtype=np.int64)
        part = np.searchsorted(self._firsts, places, side="right") - 1
        for number in np.unique(part).tolist():
            own = part == number
            found[own] = (
                np.asarray(self._parts[number][places[own] - self._firsts[number]]) + self._added[number]
            )
        return found

    def one(self, place: int) -> int:
        """The number at one place."""
        number = bisect_right(self._firsts, place) - 1
        return int(self._parts[number][place - self._firsts[number]]) + self._added[number]


def join_windows(parts: Sequence[Windows], tokens: Sequence[int]) -> Windows:
    """The windows of joined stores, those of each behind those of the stores before it.

    Args:
        parts: the windows of each store, of one block and packing.
        tokens: the number of tokens of each store.
    """
    windows, pieces = [len(part) for part in parts], [len(part.starts) for part in parts]
    # What ends a store's last window begins the next store's first: only the last store's is kept.
    borders = [*windows[:-1], windows[-1] + 1]
    nothing = [0] * len(parts)
    return Windows(
        block=parts[0].block,
        isolated=parts[0].isolated,
        starts=_Behind([part.starts for part in parts], pieces, _firsts(tokens)),
        lengths=_Behind([part.lengths for part in parts], pieces, nothing),
        offsets=_Behind([part.offsets for part in parts], borders, _firsts(pieces)),
        targets=_Behind([part.targets for part in parts], windows, nothing),
    )
