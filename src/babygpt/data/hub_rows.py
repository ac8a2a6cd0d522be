"""The first rows of a hub data set, streamed to a copy in the cache: no more of it is downloaded than they take.

    CACHE/remote/KEY.json, KEY-SHA-NAME.jsonl   the rows of one commit of the repository (`copies`)
    CACHE/remote/.building-KEY-VERSION/         those that came so far, and `progress.json`

The copy is read like any other file of records: twice or more, at any time, and always the same. The rows are those of
`datasets`, each an object on its line, without the bytes of pictures and sounds. A process that is killed is gone on
from: of the file of the data set in which it was, a part is read once more, and nothing before that. The place
is a file's number and a row's in it, not the library's state of a stream, which some of its versions restore wrongly.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from babygpt.data.cache import building
from babygpt.data.copies import keep, key_of, known
from babygpt.data.hub_datasets import HubName, builder_of, hub_name, one_split, refused
from babygpt.data.transfer import Stamp
from babygpt.errors import DataError
from babygpt.files import sha256_of, write_json_atomic
from babygpt.untrusted import read_json

__all__ = ["first_rows"]

_COMMIT_SECONDS = 10.0  # what a killed process loses at most
_BATCH_ROWS = 100  # made into Python objects at once


@dataclass(frozen=True)
class _Done:
    """How far a copy is.

    Attributes:
        versions: of what reads the rows; of another one nothing is gone on with.
        file: number of the data set's file that is read.
        rows: taken from it.
        all_rows: taken in all.
        size: bytes written.
    """

    versions: str
    file: int = 0
    rows: int = 0
    all_rows: int = 0
    size: int = 0


def first_rows(path: str, parent: Path, say: Callable[[str], None]) -> tuple[Path, str]:
    """The copy of the rows that a path names, and a sentence on how it came there.

    Args:
        path: `owner/name[:ROWS]`.
        parent: the folder of the copies.
        say: told when rows are fetched, how far it is, and of another process that does.

    Raises:
        DataError: no such data set, no network, or the stream broke off for good.
    """
    import datasets

    name, key = hub_name(path), key_of(path)
    copy = known(parent, key)
    if copy is not None and datasets.config.HF_HUB_OFFLINE:
        return copy.file, f"{path}: the rows in the cache are used, of {copy.stamp.etag}"
    builder = builder_of(name, path)
    version = _version_of(builder)
    unchanged = f"{path}: {version} as before, the rows in the cache are used"
    if copy is not None and copy.stamp.etag == version:
        return copy.file, unchanged

    def waits() -> None:
        say(f"{path}: another process is fetching the same rows; waiting for it")

    with building(parent, f"{key}-{key_of(version)}", waits) as work:
        copy = known(parent, key)
        if copy is not None and copy.stamp.etag == version:
            shutil.rmtree(work)
            return copy.file, unchanged
        try:
            done = _fetch(builder, name, path, work, say)
        except DataError:
            if not (work / "progress.json").exists():  # nothing came
                shutil.rmtree(work)
            raise
        rows, kind = work / "rows.jsonl", f"{name.repository.rpartition('/')[2]}.jsonl"
        stamp = Stamp(etag=version)
        file = keep(rows, parent, key, name=kind, sha256=sha256_of(rows), shown=path, stamp=stamp)
        shutil.rmtree(work)
    less = "" if done.all_rows == name.rows else "; it has no more"
    return file, f"{path}: rows 1 to {done.all_rows:,} of {version}, {done.size / 1e6:,.1f} MB{less}"


def _version_of(builder: Any) -> str:
    """The commit that the files are of, in words; without the hub, what the library has in its own cache."""
    address = str(builder.base_path or "")
    repository, at, commit = address.partition("@")
    if repository.startswith("hf://") and at:
        return f"commit {commit.partition('/')[0]}"
    return f"what datasets keeps as {builder.hash}"


def _fetch(builder: Any, name: HubName, path: str, work: Path, say: Callable[[str], None]) -> _Done:
    """Writes the rows to `rows.jsonl` in a folder, from where another process was."""
    files = _files(builder, name, path)
    done, most = _begun(work, len(files)), int(name.rows or 0)
    before = f", going on after the {done.all_rows:,} that came before" if done.all_rows else ""
    say(f"{path}: fetching the first {most:,} rows{before}")
    with (work / "rows.jsonl").open("ab") as out:
        out.truncate(done.size)
        committed = time.monotonic()
        try:
            for now in _written(out, islice(_rows(files, done, path), most - done.all_rows), done):
                done = now
                if time.monotonic() - committed >= _COMMIT_SECONDS:
                    _commit(out, work, done)
                    say(f"{path}: {done.all_rows:,} of {most:,} rows came")
                    committed = time.monotonic()
        finally:
            if done.all_rows:
                _commit(out, work, done)
    if not done.all_rows:
        raise DataError("the data set has no rows", where=path)
    return done


def _files(builder: Any, name: HubName, path: str) -> list[Callable[[int], Iterator[Any]]]:
    """For each file of the data set what gives its rows, from a number on."""
    try:
        if builder.name == "parquet":
            addresses = one_split(dict(builder.config.data_files), path, name.split)
            return [partial(_parquet_rows, address) for address in addresses]
        stream = one_split(builder.as_streaming_dataset(), path, name.split)
        if stream.features:  # what is not known is not decoded
            stream = stream.decode(False)
        shards = int(stream.num_shards)
    except DataError:
        raise
    except Exception as error:
        raise refused("streamed", error, path) from error

    def rows(number: int, first: int) -> Iterator[Any]:
        return islice(stream.shard(shards, number), first, None)

    return [partial(rows, number) for number in range(shards)]


def _parquet_rows(address: str, first: int) -> Iterator[Any]:
    """Rows of a Parquet file of the hub, in the thread that asks for them; the groups before are not read.

    `datasets` reads such files ahead in threads of Arrow's, up to hundreds of megabytes, and a process that ends
    meanwhile is aborted.
    """
    import pyarrow.parquet as parquet
    from huggingface_hub import HfFileSystem

    with (
        HfFileSystem().open(address, "rb", cache_type="none") as file,
        parquet.ParquetFile(file, pre_buffer=False) as table,
    ):
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if first < size:
                for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False):
                    yield from batch.slice(min(first, len(batch))).to_pylist()
                    first -= min(first, len(batch))
            else:
                first -= size


def _rows(
    files: Sequence[Callable[[int], Iterator[Any]]], done: _Done, path: str
) -> Iterator[tuple[int, int, Any]]:
    """The rows from a place on: the file each is of, its number there from 1, and the row."""
    for file in range(done.file, len(files)):
        first = done.rows if file == done.file else 0
        try:
            for number, row in enumerate(files[file](first), first + 1):
                yield file, number, row
        except Exception as error:  # of the library and of those below it
            raise refused("streamed", error, path, "Start again later: what came is gone on with") from error


def _written(out: BinaryIO, rows: Iterator[tuple[int, int, Any]], done: _Done) -> Iterator[_Done]:
    """Writes the rows; yields how far the copy is after each."""
    for count, (file, number, row) in enumerate(rows, done.all_rows + 1):
        line = json.dumps(row, ensure_ascii=False, default=_plain).encode() + b"\n"
        done = replace(done, file=file, rows=number, all_rows=count, size=done.size + out.write(line))
        yield done


def _plain(value: Any) -> Any:
    """What JSON has no form for: of bytes, which are no text, their number; of dates and the like, their text."""
    return {"bytes": len(value)} if isinstance(value, bytes) else str(value)


# -- progress ------------------------------------------------------------------------------------------------


def _begun(work: Path, files: int) -> _Done:
    """How far the copy in a folder is; what cannot be gone on with counts for nothing."""
    import datasets
    import pyarrow as pa

    new = _Done(f"{datasets.__version__} {pa.__version__} {files}")
    try:
        done = _Done(**read_json(work / "progress.json"))
        there = (work / "rows.jsonl").stat().st_size
    except (OSError, ValueError, TypeError):
        return new
    return done if done.versions == new.versions and there >= done.size else new


def _commit(out: BinaryIO, work: Path, done: _Done) -> None:
    """Writes down how far the copy is, once it is on the disk."""
    out.flush()
    os.fsync(out.fileno())
    write_json_atomic(work / "progress.json", asdict(done))
