"""The token store on disk: Arrow files that `datasets.load_from_disk` opens too, read through flat views.

    data-00000-of-00001.arrow   an Arrow stream of record batches; columns `input_ids` List(uint16 | uint32)
                                and, only when some document has a mask, `is_target` List(uint8); one row a
                                document
    state.json  dataset_info.json   what `datasets` wants beside it
    babygpt.json                the manifest: counts, end-of-text id, fingerprint; written last

Reading maps the file and takes the lists' flat values without a copy; a slice is copied only where it crosses a
border between record batches. Opening looks at the batches' headers only, about 10 microseconds a batch of
4 million tokens, and what is asked of tokens or documents is read when it is asked.
"""

from __future__ import annotations

import json
import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babygpt.errors import DataError

__all__ = [
    "DATA_NAME",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Ids",
    "Mask",
    "StoreManifest",
    "TokenStore",
    "flat",
    "numbers",
    "open_store",
]

FORMAT_VERSION = 1  # of the folder; part of the cache's key
MANIFEST_NAME = "babygpt.json"
DATA_NAME = "data-00000-of-00001.arrow"
_AGAIN = "Prepare the data again"

Ids = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StoreManifest:
    """What a store holds.

    Attributes:
        num_tokens: ids in all documents.
        num_documents: rows.
        num_targets: tokens that are targets by their documents' masks; all of them without masks.
        bytes_per_target: UTF-8 bytes of the target text for each target token, for bits per byte.
        eos_id: id of end-of-text, which ends every document.
        dtype: `uint16` or `uint32`.
        has_targets: whether there is a mask column.
        fingerprint: sha256 over ids, document lengths, masks, tokenizer and end-of-text id, however chunked
            on disk.
    """

    num_tokens: int
    num_documents: int
    num_targets: int
    bytes_per_target: float
    eos_id: int
    dtype: str
    has_targets: bool
    fingerprint: str


class TokenStore:
    """A memory-mapped store. Picklable: another process maps the folder again.

    Attributes:
        folder: where it lies.
        manifest: its counts.
        num_tokens, num_documents: as in the manifest.
        has_targets: whether some tokens are no targets; without, every token is one.
    """

    def __init__(
        self, folder: Path, manifest: StoreManifest, chunks: list[pa.RecordBatch], maps: list[mmap.mmap]
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self.num_tokens, self.num_documents = manifest.num_tokens, manifest.num_documents
        self.has_targets = manifest.has_targets
        self._ids: list[Ids] = []
        self._masks: list[npt.NDArray[np.uint8]] = []
        self._offsets: list[npt.NDArray[np.int32]] = []
        for chunk in chunks:
            self._ids.append(flat(chunk.column("input_ids")))
            self._masks += [flat(chunk.column("is_target"))] if self.has_targets else []
            self._offsets.append(numbers(chunk.column("input_ids").offsets))
            _forget(maps)
        self._maps = maps
        sizes = [len(ids) for ids in self._ids]
        self._chunk_starts: list[int] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).tolist()

    def __len__(self) -> int:
        return self.num_documents

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 [documents + 1], where each document begins in the flat ids, and their end; made when first asked."""
        whole = np.zeros(self.num_documents + 1, dtype=np.int64)
        at = 1
        for start, inside in zip(self._chunk_starts, self._offsets, strict=False):
            np.add(inside[1:], start - int(inside[0]), out=whole[at : at + len(inside) - 1])
            at += len(inside) - 1
        return whole

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_store, (self.folder,))

    def ids(self, start: int, length: int) -> Ids:
        """Ids [length] from position `start`; a read-only view of the file but across its chunks' borders."""
        ids: Ids = self._slice(self._ids, start, length)
        return ids

    def target_mask(self, start: int, length: int) -> Mask:
        """Whether each token from `start` is a target, bool [length]; all True without masks."""
        if not self.has_targets:
            return np.ones(length, dtype=np.bool_)
        mask: Mask = self._slice(self._masks, start, length).astype(np.bool_)
        return mask

    def document(self, number: int) -> Ids:
        """Ids of one document, its end-of-text included."""
        start = int(self.offsets[number])
        return self.ids(start, int(self.offsets[number + 1]) - start)

    def target_cumsum(self) -> TargetCumsum | None:
        """Targets before each position, to be indexed by positions; None without masks. For `packing.pack`."""
        return TargetCumsum(self._chunk_starts, self._masks, self._maps) if self.has_targets else None

    def expect(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        """Is told what will be read soon; what is mapped needs no preparation."""

    def forget(self) -> None:
        """Gives back the memory of what was read; else a pass over a store makes the process as large."""
        _forget(self._maps)

    def _slice(self, chunks: list[Any], start: int, length: int) -> Any:
        end = start + length
        if not 0 <= start <= end <= self.num_tokens:
            raise IndexError(f"tokens {start} to {end} of a store of {self.num_tokens}")
        chunk = bisect_right(self._chunk_starts, start) - 1
        first = self._chunk_starts[chunk]
        if chunk < len(chunks) and end <= self._chunk_starts[chunk + 1]:
            return chunks[chunk][start - first : end - first]
        parts = []
        while start < end:
            first, after = self._chunk_starts[chunk], self._chunk_starts[chunk + 1]
            parts.append(chunks[chunk][start - first : min(end, after) - first])
            start, chunk = after, chunk + 1
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.manifest.dtype)


class TargetCumsum:
    """The number of targets before each position, counted when asked, with one record batch's in memory.

    Reads every mask once for each array of positions.
    """

    def __init__(
        self, starts: list[int], masks: Iterable[npt.NDArray[np.uint8]], maps: list[mmap.mmap]
    ) -> None:
        self._starts, self._masks, self._maps = starts, masks, maps

    def __getitem__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        by_position = np.argsort(positions, kind="stable")
        wanted = positions[by_position]
        counts = np.zeros(len(positions), dtype=np.int64)
        before = 0
        for start, mask in zip(self._starts, self._masks, strict=False):
            # Positions behind the batch's first token, up to its end; of the first token, those before count.
            first, last = np.searchsorted(wanted, (start, start + len(mask)), side="right")
            running = np.cumsum(mask, dtype=np.uint32)
            counts[first:last] = running[wanted[first:last] - start - 1]
            counts[first:last] += before
            before += int(running[-1]) if len(running) else 0
            _forget(self._maps)
        counts[by_position] = counts.copy()
        return counts


def _forget(maps: list[mmap.mmap]) -> None:
    """Lets go of what is in memory of files; each look at one maps 64 kB around it, or more."""
    for mapped in maps if hasattr(mmap, "MADV_DONTNEED") else ():
        mapped.madvise(mmap.MADV_DONTNEED)


def open_store(folder: str | Path) -> TokenStore:
    """Map a store.

    Raises:
        DataError: the folder is no token store, is unfinished, was re-ordered or does not hold what its
            manifest says.
    """
    folder = Path(folder)
    try:
        found = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if found.pop("format", None) != FORMAT_VERSION:
            raise DataError("a token store of another version", where=str(folder), hint=_AGAIN)
        manifest = StoreManifest(**found)
        names = [file["filename"] for file in state["_data_files"]]
    except DataError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"no token store here ({error})", where=str(folder), hint=_AGAIN) from None
    if any("_indices" in key and value for key, value in state.items()):
        # A shuffled or selected data set keeps its table as it was and only adds row numbers: the flat ids
        # would be read in the old order, silently.
        raise DataError(
            "the store was re-ordered by `datasets` (it has row indices beside the table)",
            where=str(folder),
            hint="Prepare the data again, or flatten the indices before saving",
        )
    maps: list[mmap.mmap] = []
    chunks = list(_read_batches(folder, names, maps))
    store = TokenStore(folder, manifest, chunks, maps)
    tokens, documents = store._chunk_starts[-1], sum(chunk.num_rows for chunk in chunks)
    if (tokens, documents) != (manifest.num_tokens, manifest.num_documents):
        raise DataError(
            f"the store holds {tokens} tokens in {documents} documents,"
            f" its manifest says {manifest.num_tokens} in {manifest.num_documents}",
            where=str(folder),
            hint=_AGAIN,
        )
    return store


def _read_batches(folder: Path, names: list[str], maps: list[mmap.mmap]) -> Iterator[pa.RecordBatch]:
    for name in names:
        try:
            # Not pyarrow's memory_map: reading a stream through it asks the system to load every byte.
            with (folder / name).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            maps.append(mapped)
            with pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(mapped))) as reader:
                for batch in reader:
                    if batch.num_rows:
                        yield batch
                    _forget([mapped])
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise DataError(f"damaged ({error})", where=str(folder / name), hint=_AGAIN) from None


def flat(column: pa.ListArray) -> Any:
    """The values of a column of lists, one behind another, as a view."""
    # flatten, not values: values ignores the slice an array may be of.
    return numbers(column.flatten())


def numbers(array: pa.Array) -> Any:
    """An array of numbers as a view of its buffer: what `to_numpy` gives, which imports pandas and takes a second."""
    assert array.null_count == 0
    data = array.buffers()[1]
    dtype = np.dtype(str(array.type))
    whole = np.empty(0, dtype) if data is None else np.frombuffer(data, dtype)
    return whole[array.offset : array.offset + len(array)]
