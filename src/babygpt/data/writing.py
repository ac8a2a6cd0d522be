"""Writes a token store (`arrow` says what it looks like), so that it can go on where a killed process stopped.

The data file is an Arrow stream: a schema, record batches, an end. Batches are only ever appended. `commit` ends
one, waits for the disk, and returns a position; a writer that begins at a position cuts off what lies behind it.
The same documents with the same commits give the same bytes, however often the writing was interrupted.

Memory: one record batch, twice while it is written. On leaving, the file is read once for the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babygpt.data.arrow import (
    DATA_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    Mask,
    StoreManifest,
    flat,
    numbers,
)
from babygpt.disk import fsync_dir
from babygpt.errors import DataError

__all__ = ["Position", "StoreWriter", "dtype_of"]

_BATCH_TOKENS = 4 << 20  # tokens of a record batch; list offsets are int32, so a batch must stay below 2**31
_MAX_DOCUMENT = (1 << 31) - 1 - _BATCH_TOKENS
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class Position:
    """How far a store has been written.

    Attributes:
        num_tokens, num_documents, num_targets: so far.
        target_bytes: UTF-8 bytes of the target text so far.
        size: bytes of the data file.
    """

    num_tokens: int = 0
    num_documents: int = 0
    num_targets: int = 0
    target_bytes: int = 0
    size: int = 0


def dtype_of(vocab_size: int) -> np.dtype[Any]:
    """What ids are kept as: two bytes where they fit, else four."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class _Pending:
    """Documents that are not in the file yet, in one place: many small arrays would leave memory in shreds.

    Args:
        dtype: of their ids.
        masked: whether there are masks.
    """

    def __init__(self, dtype: np.dtype[Any], masked: bool) -> None:
        self._ids = np.empty(_BATCH_TOKENS, dtype=dtype)
        self._mask = np.empty(_BATCH_TOKENS if masked else 0, dtype=np.uint8)
        self._lengths = array("q")
        self.num_tokens = 0

    def add(self, ids: npt.NDArray[Any], is_target: Mask | None) -> None:
        """Ids [n] and which are targets, bool [n], or None when all are."""
        end = self.num_tokens + len(ids)
        if end > len(self._ids):
            self._ids = np.resize(self._ids, end)
            self._mask = np.resize(self._mask, end) if len(self._mask) else self._mask
        self._ids[self.num_tokens : end] = ids
        if len(self._mask):
            self._mask[self.num_tokens : end] = 1 if is_target is None else is_target
        self._lengths.append(len(ids))
        self.num_tokens = end

    @property
    def num_documents(self) -> int:
        """How many there are."""
        return len(self._lengths)

    def batch(self, schema: pa.Schema) -> pa.RecordBatch:
        """All of them; to be forgotten before others are added."""
        lengths = np.frombuffer(self._lengths, dtype=np.int64)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        columns = [self._ids, self._mask][: len(schema)]
        lists = [pa.ListArray.from_arrays(offsets, pa.array(each[: self.num_tokens])) for each in columns]
        return pa.record_batch(lists, schema=schema)

    def forget(self) -> None:
        """Of what a long document took nothing more than usual stays."""
        if len(self._ids) > _BATCH_TOKENS:
            self._ids = np.empty(_BATCH_TOKENS, dtype=self._ids.dtype)
            self._mask = np.empty(_BATCH_TOKENS if len(self._mask) else 0, dtype=np.uint8)
        self._lengths = array("q")
        self.num_tokens = 0


class StoreWriter:
    """Writes a store document by document. Use as a context manager.

    The manifest is written last, on leaving without an exception: a folder without one is not a store.

    Args:
        folder: made here, unless the writing goes on.
        vocab_size: one more than the largest id; up to 65,536 ids take two bytes each, more take four.
        eos_id: id of end-of-text.
        tokenizer_identity: what goes into the fingerprint for the tokenizer.
        masked: whether there is a mask column; without, every token is a target.
        begin_at: where to go on, as an earlier writer's `commit` gave it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        vocab_size: int,
        eos_id: int,
        tokenizer_identity: str,
        masked: bool = False,
        begin_at: Position | None = None,
    ) -> None:
        self._folder, self._eos_id, self._identity, self._masked = folder, eos_id, tokenizer_identity, masked
        self._dtype = dtype_of(vocab_size)
        fields = [pa.field("input_ids", pa.list_(pa.from_numpy_dtype(self._dtype)))]
        if masked:
            fields.append(pa.field("is_target", pa.list_(pa.uint8())))
        self._schema = pa.schema(fields)
        self._pending = _Pending(self._dtype, masked)
        found = begin_at or Position()
        self.num_tokens, self.num_documents = found.num_tokens, found.num_documents
        self.num_targets, self.target_bytes = found.num_targets, found.target_bytes
        self._begin_at = begin_at
        self._file: BinaryIO

    def __enter__(self) -> StoreWriter:
        path = self._folder / DATA_NAME
        if self._begin_at is None:
            self._folder.mkdir(parents=True)
            self._file = path.open("xb")
            self._file.write(self._schema.serialize())
            fsync_dir(self._folder)
        else:
            self._file = path.open("r+b")
            self._file.truncate(self._begin_at.size)
            self._file.seek(self._begin_at.size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._file.write(_END_OF_STREAM)
        finally:
            self._file.close()
        if kind is None:
            self._finish()

    def add(self, ids: npt.NDArray[Any], is_target: Mask | None, num_bytes: int) -> None:
        """Append a document: ids [n], mask [n] or None when all are targets, UTF-8 bytes of target text."""
        if len(ids) > _MAX_DOCUMENT:
            raise DataError(f"a document of {len(ids)} tokens; at most {_MAX_DOCUMENT} fit", hint="Split it")
        assert is_target is None or self._masked
        self._pending.add(ids, is_target)
        self.num_tokens += len(ids)
        self.num_documents += 1
        self.num_targets += len(ids) if is_target is None else int(is_target.sum())
        self.target_bytes += num_bytes
        if self._pending.num_tokens >= _BATCH_TOKENS:
            self._flush()

    def commit(self) -> Position:
        """Returns once everything that was added is on the disk: where another writer may go on."""
        self._flush()
        self._file.flush()
        os.fsync(self._file.fileno())
        return Position(
            num_tokens=self.num_tokens,
            num_documents=self.num_documents,
            num_targets=self.num_targets,
            target_bytes=self.target_bytes,
            size=self._file.tell(),
        )

    def _flush(self) -> None:
        if self._pending.num_documents:
            self._file.write(self._pending.batch(self._schema).serialize())
            self._pending.forget()

    # -- the end -------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        manifest = StoreManifest(
            num_tokens=self.num_tokens,
            num_documents=self.num_documents,
            num_targets=self.num_targets,
            bytes_per_target=self.target_bytes / max(1, self.num_targets),
            eos_id=self._eos_id,
            dtype=self._dtype.name,
            has_targets=self._masked,
            fingerprint=self._fingerprint(),
        )
        features = {
            field.name: {"feature": {"dtype": str(field.type.value_type), "_type": "Value"}, "_type": "List"}
            for field in self._schema
        }
        info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
        state: dict[str, Any] = {
            "_data_files": [{"filename": DATA_NAME}],
            "_fingerprint": manifest.fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        described = {"format": FORMAT_VERSION, **asdict(manifest)}
        for name, content in (("dataset_info.json", info), ("state.json", state), (MANIFEST_NAME, described)):
            (self._folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _fingerprint(self) -> str:
        """Over the file as it is, read and not mapped: what is mapped counts as the process's memory."""
        ids, lengths, masks = (hashlib.sha256() for _ in range(3))
        with (
            pa.OSFile(str(self._folder / DATA_NAME)) as file,
            pa.ipc.open_stream(file) as reader,
        ):
            for batch in reader:
                ids.update(flat(batch.column("input_ids")).data)
                offsets = numbers(batch.column("input_ids").offsets)
                lengths.update(np.diff(offsets.astype(np.int64)).data)
                if self._masked:
                    masks.update(flat(batch.column("is_target")).data)
        digests = [digest.hexdigest() for digest in (ids, lengths, masks)]
        whole = json.dumps([*digests, self._dtype.name, self._identity, self._eos_id])
        return hashlib.sha256(whole.encode()).hexdigest()
