"""The token store on disk: Arrow files that `datasets.load_from_disk` opens too, read through flat views.

    data-00000-of-00001.arrow   an Arrow stream of record batches; columns `input_ids` List(uint16 | uint32)
                                and, only when some document has a mask, `is_target` List(uint8); one row a
                                document
    state.json  dataset_info.json   what `datasets` wants beside it
    babygpt.json                the manifest: counts, end-of-text id, fingerprint; written last

Writing keeps one record batch in memory. Reading maps the file and takes the lists' flat values without a
copy; a slice is copied only where it crosses a border between record batches. Opening looks at the batches'
headers only, about 10 microseconds a batch of 4 million tokens, and what is asked of tokens or documents is
read when it is asked.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babygpt.errors import DataError

__all__ = ["FORMAT_VERSION", "MANIFEST_NAME", "StoreManifest", "StoreWriter", "TokenStore", "open_store"]

FORMAT_VERSION = 1  # of the folder; part of the cache's key
MANIFEST_NAME = "babygpt.json"
_DATA_NAME = "data-00000-of-00001.arrow"
_BATCH_TOKENS = 4 << 20  # tokens of a record batch; list offsets are int32, so a batch must stay below 2**31
_AGAIN = "Prepare the data again"
_MAX_DOCUMENT = (1 << 31) - 1 - _BATCH_TOKENS

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
        self._ids: list[Ids] = [_flat(chunk.column("input_ids")) for chunk in chunks]
        self._masks: list[npt.NDArray[np.uint8]] = (
            [_flat(chunk.column("is_target")) for chunk in chunks] if self.has_targets else []
        )
        self._offsets: list[npt.NDArray[np.int32]] = [_numbers(c.column("input_ids").offsets) for c in chunks]
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

    def __init__(self, starts: list[int], masks: list[npt.NDArray[np.uint8]], maps: list[mmap.mmap]) -> None:
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
            for mapped in self._maps if hasattr(mmap, "MADV_DONTNEED") else ():
                mapped.madvise(mmap.MADV_DONTNEED)  # else the process's size grows by all masks
        counts[by_position] = counts.copy()
        return counts


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
                yield from (batch for batch in reader if batch.num_rows)
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise DataError(f"damaged ({error})", where=str(folder / name), hint=_AGAIN) from None


def _flat(column: pa.ListArray) -> Any:
    # flatten, not values: values ignores the slice an array may be of.
    return _numbers(column.flatten())


def _numbers(array: pa.Array) -> Any:
    """An array of numbers as a view of its buffer: what `to_numpy` gives, which imports pandas and takes a second."""
    assert array.null_count == 0
    data = array.buffers()[1]
    dtype = np.dtype(str(array.type))
    whole = np.empty(0, dtype) if data is None else np.frombuffer(data, dtype)
    return whole[array.offset : array.offset + len(array)]


class StoreWriter:
    """Writes a store document by document, with one record batch in memory. Use as a context manager.

    The manifest is written last, on leaving without an exception: a folder without one is not a store.

    Args:
        folder: made here; must not exist.
        vocab_size: one more than the largest id; up to 65,536 ids take two bytes each, more take four.
        eos_id: id of end-of-text.
        tokenizer_identity: what goes into the fingerprint for the tokenizer.
    """

    def __init__(self, folder: Path, *, vocab_size: int, eos_id: int, tokenizer_identity: str) -> None:
        self._folder, self._eos_id = folder, eos_id
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._identity = tokenizer_identity
        self._masked = False
        self._pending: list[tuple[Ids, Mask | None]] = []
        self._pending_tokens = 0
        self._hashes = [hashlib.sha256() for _ in range(3)]  # ids, document lengths, masks
        self.num_tokens = self.num_documents = self.num_targets = self.target_bytes = 0
        folder.mkdir(parents=True)
        self._file: Any = None
        self._writer: Any = None

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                if self._writer is None:
                    self._open()
        finally:
            self._close()
        if kind is None:
            self._finish()

    def add(self, ids: npt.NDArray[Any], is_target: Mask | None, num_bytes: int) -> None:
        """Append a document: ids [n], mask [n] or None when all are targets, UTF-8 bytes of target text."""
        if len(ids) > _MAX_DOCUMENT:
            raise DataError(f"a document of {len(ids)} tokens; at most {_MAX_DOCUMENT} fit", hint="Split it")
        if is_target is not None and not self._masked:
            self._begin_masks()
        # A document without a mask hashes as all targets, so the fingerprint is that of the content.
        self._pending.append((np.asarray(ids, dtype=self._dtype), is_target))
        self._pending_tokens += len(ids)
        self.num_tokens += len(ids)
        self.num_documents += 1
        self.num_targets += len(ids) if is_target is None else int(is_target.sum())
        self.target_bytes += num_bytes
        if self._pending_tokens >= _BATCH_TOKENS:
            self._flush()

    def _begin_masks(self) -> None:
        """The first mask: what is already on disk, all of it targets, gets the second column too."""
        self._flush()
        self._close()
        self._masked = True
        if self._writer is None:
            return
        self._writer = None
        plain = self._folder / "plain.arrow"
        (self._folder / _DATA_NAME).rename(plain)
        self._open()
        with pa.memory_map(str(plain), "r") as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                ids = batch.column(0)
                ones = np.ones(len(ids.flatten()), dtype=np.uint8)
                self._hashes[2].update(ones.data)
                mask = pa.ListArray.from_arrays(ids.offsets, pa.array(ones))
                self._writer.write_batch(pa.record_batch([ids, mask], schema=self._schema))
        plain.unlink()

    @property
    def _schema(self) -> pa.Schema:
        fields = [pa.field("input_ids", pa.list_(pa.from_numpy_dtype(self._dtype)))]
        if self._masked:
            fields.append(pa.field("is_target", pa.list_(pa.uint8())))
        return pa.schema(fields)

    def _open(self) -> None:
        self._file = pa.OSFile(str(self._folder / _DATA_NAME), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)

    def _close(self) -> None:
        if self._file is not None:
            self._writer.close()
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._open()
        lengths = np.array([len(ids) for ids, _ in self._pending], dtype=np.int64)
        flat = np.concatenate([ids for ids, _ in self._pending])
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        columns = [pa.ListArray.from_arrays(offsets, pa.array(flat))]
        self._hashes[0].update(flat.data)
        self._hashes[1].update(lengths.data)
        if self._masked:
            masks = [np.ones(len(ids), np.bool_) if mask is None else mask for ids, mask in self._pending]
            mask = np.concatenate(masks).astype(np.uint8)
            columns.append(pa.ListArray.from_arrays(offsets, pa.array(mask)))
            self._hashes[2].update(mask.data)
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._pending, self._pending_tokens = [], 0

    def _finish(self) -> None:
        digests = [digest.hexdigest() for digest in self._hashes]
        whole = json.dumps([*digests, self._dtype.name, self._identity, self._eos_id])
        manifest = StoreManifest(
            num_tokens=self.num_tokens,
            num_documents=self.num_documents,
            num_targets=self.num_targets,
            bytes_per_target=self.target_bytes / max(1, self.num_targets),
            eos_id=self._eos_id,
            dtype=self._dtype.name,
            has_targets=self._masked,
            fingerprint=hashlib.sha256(whole.encode()).hexdigest(),
        )
        features = {
            field.name: {"feature": {"dtype": str(field.type.value_type), "_type": "Value"}, "_type": "List"}
            for field in self._schema
        }
        info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
        state: dict[str, Any] = {
            "_data_files": [{"filename": _DATA_NAME}],
            "_fingerprint": manifest.fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        described = {"format": FORMAT_VERSION, **asdict(manifest)}
        for name, content in (("dataset_info", info), ("state", state), ("babygpt", described)):
            text = json.dumps(content, indent=2) + "\n"
            (self._folder / f"{name}.json").write_text(text, encoding="utf-8")
