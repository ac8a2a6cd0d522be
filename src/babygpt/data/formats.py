"""Files by the ends of their names: text, or records one at a time; gzip and zstd are taken off on the way.

    *.jsonl *.ndjson     one JSON value a line
    *.json               one array of records, or one record; an array is never whole in memory
    *.csv *.tsv          a header, then a row a record; every value is a string
    *.parquet            rows; a page of a few columns in memory
    *.arrow              rows of a stream or a file, a batch in memory
    anything else        text: the whole file is one document, and in memory, 2 GiB at most

Each may end in .gz or .zst as well. What was cut off or damaged is an error and never a shorter file: gzip and zstd
know their ends, Arrow has a mark there, Parquet its footer. Memory: one record of at most 64 MiB (`streams`), or one
Arrow batch as it was written.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal, cast

import pyarrow as pa

from babygpt.data.streams import Stream, csv_rows, json_items, json_lines
from babygpt.data.utf8 import decoded
from babygpt.disk import plain_errors
from babygpt.errors import DataError

__all__ = [
    "Format",
    "format_of",
    "is_known",
    "looks_like_file",
    "read_records",
    "read_text",
    "refuse_special",
    "refuse_unread",
]

Kind = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]
Codec = Literal["", "gzip", "zstd"]

_RECORDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_CODECS: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd"}
_TEXT = frozenset(
    f".{suffix}"
    for line in (
        "txt text md markdown rst tex org adoc log html htm xml yaml yml toml ini cfg css sql",
        "py pyi js mjs ts jsx tsx java c h cc cpp hpp cs go rs rb php pl lua r jl scala kt swift hs ml",
        "clj ex erl sh bash",
    )
    for suffix in line.split()
)
_UNREAD = frozenset(
    f".{suffix}"
    for line in ("zip tar tgz xz bz2 7z rar", "pdf doc docx xls xlsx epub", "npy npz pt pkl")
    for suffix in line.split()
)
_LARGEST_TEXT = 2**31  # bytes; a document's tokens have to be counted in 32 bits
_BLOCK = 2**20
_BATCH_BYTES = 2**23  # of a table's rows made into Python objects at once
_ARROW_FILE = b"ARROW1\0\0"
_ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class Format:
    """What a file is read as.

    Attributes:
        kind: of its content.
        codec: what has to be taken off first; empty if nothing.
    """

    kind: Kind
    codec: Codec = ""

    @property
    def tag(self) -> str:
        """A word for it, to tell apart equal bytes that are read differently."""
        return f"{self.kind}+{self.codec}" if self.codec else self.kind


# -- names ---------------------------------------------------------------------------------------------------


def format_of(name: str) -> Format:
    """What a file of this name is read as; of an unknown one, text."""
    suffix, codec = _suffix(name)
    return Format(_RECORDS.get(suffix, "text"), codec)


def is_known(name: str) -> bool:
    """Whether files so named are read where nobody names them one by one: in a folder."""
    suffix, _ = _suffix(name)
    return suffix in _RECORDS or suffix in _TEXT


def refuse_unread(name: str, where: str) -> None:
    """Refuses what is surely no text.

    Raises:
        DataError: the name is an archive's, an office document's or of arrays.
    """
    suffix, _ = _suffix(name)
    if suffix in _UNREAD:
        raise DataError(
            f"{suffix} files are not read",
            where=where,
            hint="Unpack or convert it to text, JSON lines, CSV or Parquet",
        )


def looks_like_file(name: str) -> bool:
    """Whether a name can only be a file's, of a kind that is read or not."""
    suffix, codec = _suffix(name)
    return bool(codec) or suffix in _RECORDS or suffix in _TEXT or suffix in _UNREAD


def _suffix(name: str) -> tuple[str, Codec]:
    stem, suffix = os.path.splitext(name.lower())
    codec = _CODECS.get(suffix, "")
    return (os.path.splitext(stem)[1] if codec else suffix), codec


# -- reading -------------------------------------------------------------------------------------------------


def read_text(file: Path, codec: Codec) -> str:
    """The whole of a text file, line ends kept.

    Raises:
        DataError: it cannot be read, is damaged, is not UTF-8, holds a NUL byte or is larger than 2 GiB.
    """
    content = bytearray()
    with _opened(file, codec) as stream:
        while block := stream.read(_BLOCK):
            content += block
            if len(content) > _LARGEST_TEXT:
                raise DataError(
                    f"it has more than {_LARGEST_TEXT >> 30} GiB of text, the most of one document",
                    where=str(file),
                    hint="Split it into several files, or write one JSON object a line to a .jsonl file",
                )
    return decoded(content, str(file))


def read_records(file: Path, form: Format, columns: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
    """The records of a file in order, each with its place for messages.

    Args:
        file: where it lies.
        form: what it is, and not text.
        columns: what is wanted of a table's columns; everything if None. Other kinds give whole records.

    Raises:
        DataError: it cannot be read, is damaged or not what its name says.
    """
    name = str(file)
    with _opened(file, form.codec) as stream:
        if form.kind == "jsonl":
            yield from json_lines(stream, name)
        elif form.kind == "json":
            yield from json_items(stream, name)
        elif form.kind in ("csv", "tsv"):
            yield from csv_rows(stream, name, "," if form.kind == "csv" else "\t")
        else:
            rows = _parquet_rows if form.kind == "parquet" else _arrow_rows
            with _plain_arrow(name):
                for number, row in zip(count(1), rows(stream, name, columns), strict=False):
                    yield f"{name}:{number}", row


def refuse_special(file: Path, status: os.stat_result) -> None:
    """Refuses a pipe, a socket or a device, which would be waited for and give every reader something else.

    Raises:
        DataError: the file is one.
    """
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            "neither a file nor a folder", where=str(file), hint="To read from a pipe, give - and pipe it in"
        )


@contextmanager
def _opened(file: Path, codec: Codec) -> Iterator[Stream]:
    """The file's bytes; an error of the disk or the codec, at the first or any later block, names the file."""
    try:
        refuse_special(file, os.stat(file))
        with file.open("rb") as raw:
            if not codec:
                yield raw
                return
            if not raw.peek(1):
                raise EOFError("it is empty")
            if codec == "gzip":
                with gzip.open(raw) as plain:
                    yield cast("Stream", plain)
            else:
                with (
                    pa.CompressedInputStream(raw, "zstd") as unpacked,
                    io.BufferedReader(unpacked, _BLOCK) as plain,
                ):
                    yield plain
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(file, codec, error) from None
    except OSError as error:
        if codec == "zstd" and error.errno is None:
            raise _damaged(file, codec, error) from None
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(file)) from None


def _damaged(file: Path, codec: Codec, error: Exception) -> DataError:
    cut = isinstance(error, EOFError) or "Truncated" in str(error)
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return DataError(
        f"the {codec} file is {'cut off' if cut else 'damaged, or no such file'} ({reason})",
        where=str(file),
        hint="Copy or download it again; nothing of it was taken",
    )


# -- tables --------------------------------------------------------------------------------------------------


@contextmanager
def _plain_arrow(where: str) -> Iterator[None]:
    """Arrow's own errors as one of the user's."""
    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise DataError(
            f"cannot be read as its name says ({reason})",
            where=where,
            hint="Was it cut off or written by half?",
        ) from None


def _parquet_rows(stream: Stream, file: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet  # a tenth of a second that other files do not need

    with _seekable(stream) as whole, parquet.ParquetFile(whole, buffer_size=_BLOCK) as table:
        names = _checked_names(table.schema_arrow.names, file)
        for group in range(table.num_row_groups):
            about = table.metadata.row_group(group)
            rows = max(1, min(1000, _BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)))
            taken = None if columns is None else [name for name in columns if name in names]
            for batch in table.iter_batches(rows, row_groups=[group], columns=taken):
                yield from batch.to_pylist()


@contextmanager
def _seekable(stream: Stream) -> Iterator[IO[bytes]]:
    """The stream itself where it is a plain file, else a copy on the disk for as long: Parquet starts at its end."""
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        yield stream
        return
    with tempfile.TemporaryFile() as whole:
        with plain_errors(Path(tempfile.gettempdir())):
            shutil.copyfileobj(stream, whole, _BLOCK)
            whole.seek(0)
        yield whole


class _Watched:
    """A stream for Arrow that remembers the last bytes it gave."""

    closed = False

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._kept = stream.read(len(_ARROW_FILE))
        # A file is a stream behind its name; what follows the stream only helps to jump about in it.
        if self._kept == _ARROW_FILE:
            self._kept = b""
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        kept, self._kept = (self._kept, b"") if size < 0 else (self._kept[:size], self._kept[size:])
        rest = -1 if size < 0 else size - len(kept)
        block = kept + self._stream.read(rest) if rest else kept
        self.last = (self.last + block[-8:])[-8:]
        return block

    def close(self) -> None:
        self.closed = True


def _arrow_rows(stream: Stream, file: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    watched = _Watched(stream)
    with pa.PythonFile(watched, mode="r") as source, pa.ipc.open_stream(source) as reader:
        names = _checked_names(reader.schema.names, file)
        for batch in reader:
            batch.validate(full=True)
            part = batch if columns is None else batch.select([name for name in columns if name in names])
            rows = max(1, min(1000, _BATCH_BYTES * len(part) // max(1, part.nbytes)))
            for start in range(0, len(part), rows):
                yield from part.slice(start, rows).to_pylist()
    whole = watched.last == _ARROW_END
    while stream.read(_BLOCK):  # what follows the rows says whether a compressed file is whole
        pass
    if not whole:
        raise DataError("the Arrow file is cut off", where=file, hint="Copy or download it again")


def _checked_names(names: list[str], file: str) -> list[str]:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DataError(f"two columns are named {name!r}", where=file, hint="Rename one")
    return names
