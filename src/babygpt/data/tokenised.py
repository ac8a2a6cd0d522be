"""Files of token ids made elsewhere: which files they are, and their documents.

    *.bin              ids of two bytes, one behind another, as nanoGPT writes them; or behind the header of llm.c
    *.parquet *.arrow  rows with a column `input_ids`, and a saved data set's folder of such rows; optional are one
                       column of targets (`labels`, -100 for none, or a mask) and an `attention_mask` for padding

Ids of a `.bin` are cut into documents behind each end-of-text. A row is a document, unless there are three or more,
all but the last of one length, and some end within a text: such rows are blocks of a stream, and cut like a `.bin`.
Every document ends in one end-of-text: repeated ones are dropped, a missing one is added. Empty documents are dropped.

Memory: one batch of rows, or 8 MB of ids, and the longest document.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babygpt.data.arrow import MANIFEST_NAME, numbers
from babygpt.data.folders import is_pattern
from babygpt.data.hub_datasets import open_saved
from babygpt.data.labels import IGNORED
from babygpt.data.remote import is_remote
from babygpt.data.sources import files_of, is_saved
from babygpt.disk import expanded
from babygpt.errors import DataError

__all__ = ["IDS", "Tokens", "are_blocks", "is_tokenised", "members", "read_tokens"]

IDS = "input_ids"
_TARGETS = ("labels", "is_target", "target_mask", "loss_mask", "completion_mask", "assistant_masks")
_ATTENTION = "attention_mask"
_TEXT = frozenset({"text", "messages", "prompt", "completion"})
_ROWS = 1000
_CHUNK = 1 << 22
_LLM_C = 20240520  # the first four bytes of its files, https://github.com/karpathy/llm.c
_LLM_C_HEADER = 1024


@dataclass(frozen=True)
class Tokens:
    """Ids in a row: int64 [n], and which of them are targets, bool [n]; None when all are."""

    ids: npt.NDArray[np.int64]
    is_target: npt.NDArray[np.bool_] | None = None

    def part(self, start: int, end: int) -> Tokens:
        """Those from `start` to before `end`."""
        return Tokens(self.ids[start:end], None if self.is_target is None else self.is_target[start:end])


def is_tokenised(path: str, field: str = "auto") -> bool:
    """Whether a path holds ids instead of text.

    Args:
        path: as in the recipe.
        field: as in the recipe; `input_ids` takes ids where there is text as well.

    Raises:
        DataError: some files of a folder or a pattern do and some do not, or as `files_of`.
    """
    if path.startswith("builtin:") or is_remote(path):
        return False
    files = members(path)
    found = {file: _has_ids(file, field) for file in files}
    if len(set(found.values())) > 1:
        ids = next(file for file in files if found[file])
        text = next(file for file in files if not found[file])
        raise DataError(f"is tokenised already, and {text} is not", where=ids, hint="Name them apart")
    return any(found.values())


def members(path: str) -> list[str]:
    """The files behind a pattern or a plain folder in the order they are read; else the path itself."""
    if not is_pattern(path) and (not expanded(path).is_dir() or is_saved(path)):
        return [path]
    root, names, _ = files_of(path)
    return [os.path.join(root, name) for name in names]


def _has_ids(path: str, field: str) -> bool:
    place = expanded(path)
    if place.suffix == ".bin":
        return place.is_file()
    names = _column_names(place)
    return IDS in names and (field == IDS or (field == "auto" and not _TEXT & names))


def are_blocks(path: str, eos: int) -> bool:
    """Whether rows of a file or saved data set are cut from a stream without regard to documents, as the module says.

    Raises:
        DataError: as `read_tokens`.
    """
    if path.endswith(".bin"):
        return True
    count, longest, is_short, all_end = 0, 0, False, True
    for row in _rows(path):
        count += 1
        length = len(row.ids)
        longest = longest or length
        if is_short or length > longest:
            return False
        is_short = length < longest
        all_end = all_end and length > 0 and int(row.ids[-1]) == eos
    return count > 2 and not all_end


def read_tokens(path: str, eos: int, *, blocks: bool) -> Iterator[Tokens]:
    """The documents of a path, each with one end-of-text at its end.

    Args:
        path: one of the `members` of one for which `is_tokenised` holds.
        eos: id of end-of-text.
        blocks: what `are_blocks` says.

    Raises:
        DataError: the file is damaged, or its columns do not fit together; says which row.
    """
    rows = _bin(expanded(path)) if path.endswith(".bin") else _rows(path)
    for tokens in _cut(rows, eos) if blocks else rows:
        end = len(tokens.ids)
        while end and tokens.ids[end - 1] == eos:
            end -= 1
        if end:
            yield _ended(tokens, end, eos)


def _ended(tokens: Tokens, end: int, eos: int) -> Tokens:
    if end < len(tokens.ids):
        return tokens.part(0, end + 1)
    ids = np.append(tokens.ids, eos)
    # Nobody meant an end that was not there to be learned where targets are chosen.
    return Tokens(ids, None if tokens.is_target is None else np.append(tokens.is_target, False))


def _cut(rows: Iterable[Tokens], eos: int) -> Iterator[Tokens]:
    """Documents of a stream, cut behind each end-of-text."""
    carried: list[Tokens] = []
    for row in rows:
        start = 0
        for end in (np.flatnonzero(row.ids == eos) + 1).tolist():
            yield _joined([*carried, row.part(start, end)])
            carried, start = [], end
        if start < len(row.ids):
            carried.append(row.part(start, len(row.ids)))
    if carried:
        yield _joined(carried)


def _joined(parts: list[Tokens]) -> Tokens:
    if len(parts) == 1:
        return parts[0]
    masks = [part.is_target for part in parts if part.is_target is not None]
    ids = np.concatenate([part.ids for part in parts])
    return Tokens(ids, np.concatenate(masks) if masks else None)


# -- flat ids ------------------------------------------------------------------------------------------------


def _bin(file: Path) -> Iterator[Tokens]:
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            magic, kind, count = struct.unpack("<iii", stream.read(12).ljust(12, b"\0"))
            start = 0
            if magic == _LLM_C:
                start = _LLM_C_HEADER
                if kind != 1 or size != start + 2 * count:
                    what = f"its header says {count:,} ids of version {kind}, and it has {size:,} bytes"
                    raise DataError(what, where=str(file), hint="Make it anew; version 1 is read")
            if size == start or size % 2:
                raise DataError(
                    f"its {size:,} bytes are no ids of two bytes each",
                    where=str(file),
                    hint="Give ids as nanoGPT writes them (uint16), or a column input_ids in Parquet",
                )
            stream.seek(start)
            while len(ids := np.frombuffer(stream.read(2 * _CHUNK), dtype="<u2")):
                yield Tokens(ids.astype(np.int64))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(file)) from None


# -- rows ----------------------------------------------------------------------------------------------------


def _column_names(place: Path) -> set[str]:
    """The columns of a file or folder; none where it has no columns, or it cannot be told."""
    try:
        if place.suffix == ".parquet" and place.is_file():
            import pyarrow.parquet as parquet  # a tenth of a second that other data do not need

            return set(parquet.read_schema(place).names)
        if place.suffix == ".arrow" and place.is_file():
            with _opened_arrow(place) as reader:
                return set(reader.schema.names)
        if place.is_dir() and not (place / MANIFEST_NAME).exists():
            return _features(place)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        pass  # whoever reads it says what is wrong
    return set()


def _features(folder: Path) -> set[str]:
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        folder = folder / ("train" if "train" in splits else splits[0])
    if not (folder / "state.json").is_file():
        return set()
    return set(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))["features"])


def _opened_arrow(file: Path) -> Any:
    source = pa.OSFile(str(file))
    if source.read(6) == b"ARROW1":
        return pa.ipc.open_file(source)
    source.seek(0)
    return pa.ipc.open_stream(source)


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    place = expanded(path)
    try:
        if place.suffix == ".parquet":
            import pyarrow.parquet as parquet

            with parquet.ParquetFile(place) as table:
                wanted = [name for name in table.schema_arrow.names if name in (IDS, _ATTENTION, *_TARGETS)]
                yield from table.iter_batches(_ROWS, columns=wanted)
        elif place.suffix == ".arrow":
            with _opened_arrow(place) as reader:
                if isinstance(reader, pa.ipc.RecordBatchFileReader):
                    yield from map(reader.get_batch, range(reader.num_record_batches))
                else:
                    yield from reader
        else:
            for rows in open_saved(path).with_format("arrow").iter(_ROWS):
                yield from rows.combine_chunks().to_batches()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"damaged ({' '.join(str(error).split())[:200]})", where=path) from None


def _rows(path: str) -> Iterator[Tokens]:
    number = 0
    for batch in _batches(path):
        names = batch.schema.names
        given = [name for name in _TARGETS if name in names]
        if len(given) > 1:
            raise DataError(
                f"{' and '.join(given)} both say what the targets are",
                where=path,
                hint="Leave one of them out",
            )
        columns = {name: _lists(batch, name, path) for name in (IDS, *given, _ATTENTION) if name in names}
        for row in range(batch.num_rows):
            cells = {name: flat[starts[row] : starts[row + 1]] for name, (starts, flat) in columns.items()}
            yield _row(cells, f"{path}:{number}", given)
            number += 1


def _row(cells: dict[str, npt.NDArray[np.int64]], where: str, given: list[str]) -> Tokens:
    ids = cells[IDS]
    for name, values in cells.items():
        if len(values) != len(ids):
            raise DataError(f"{len(ids)} {IDS} and {len(values)} {name}", where=where)
    is_target = None
    if given:
        values = cells[given[0]]
        is_target = values != (IGNORED if given[0] == "labels" else 0)
        if given[0] == "labels" and not np.array_equal(values[is_target], ids[is_target]):
            raise DataError(
                f"labels differ from {IDS} where they are not {IGNORED}",
                where=where,
                hint="A label stands where its own id does; the shift by one is made in training",
            )
    tokens = Tokens(ids, is_target)
    if _ATTENTION in cells:
        seen = np.flatnonzero(cells[_ATTENTION])
        start, end = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)
        if end - start != len(seen):
            raise DataError(
                "attention_mask has gaps", where=where, hint="Only padding at the ends is left out"
            )
        tokens = tokens.part(start, end)
    return tokens


def _lists(
    batch: pa.RecordBatch, name: str, path: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A column of lists: where each begins, int64 [rows + 1], and all values, int64."""
    column = batch.column(name)
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    inner = kind.value_type if is_list else None
    if inner is None or not (pa.types.is_integer(inner) or pa.types.is_boolean(inner)):
        raise DataError(f"column {name!r} is of type {kind}, not lists of whole numbers", where=path)
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise DataError(f"column {name!r} has rows or values without content", where=path)
    lengths = numbers(column.value_lengths().cast(pa.int64()))
    # Booleans have no cast of their own to eight bytes.
    values = numbers((flat.cast(pa.int8()) if pa.types.is_boolean(inner) else flat).cast(pa.int64()))
    return np.concatenate([[0], np.cumsum(lengths)]), values
