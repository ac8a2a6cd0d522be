"""Streams of bytes to records: JSON lines, CSV rows and the items of a JSON array, one in memory at a time.

A record may have 64 MiB; what is longer is refused before it is in memory. An array is
parsed from a buffer that is read on in steps twice as long each while its next item is not whole, so that an item of n
characters is looked at 2n at most.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

from babygpt.data.utf8 import decoded
from babygpt.errors import DataError

__all__ = ["Stream", "csv_rows", "json_items", "json_lines"]

LONGEST_RECORD = 64 * 2**20  # bytes of a line, characters of an array's item or of a CSV file's field
_BLOCK = 2**18


class Stream(Protocol):
    """What is read from: a file, or one that is decompressed on the way."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102
    def readline(self, size: int = -1, /) -> bytes: ...  # noqa: D102


# -- lines ---------------------------------------------------------------------------------------------------


def _lines(stream: Stream, file: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1, line ends kept, a byte order mark dropped."""
    offset = number = 0
    while line := stream.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise _too_long("the line", f"{file}:{number}")
        yield number, decoded(line, f"{file}:{number}", offset=offset)
        offset += len(line)


def _too_long(what: str, where: str) -> DataError:
    return DataError(
        f"{what} is longer than {LONGEST_RECORD >> 20} MiB, the most of one record",
        where=where,
        hint="Split it into several records, or give the text as a .txt file",
    )


def json_lines(stream: Stream, file: str) -> Iterator[tuple[str, Any]]:
    """The values of a file of one JSON value a line, with their places; empty lines are passed over.

    Raises:
        DataError: a line is not UTF-8, not JSON, too long or holds a key twice.
    """
    for number, line in _lines(stream, file):
        if text := line.strip():
            yield f"{file}:{number}", _json(text, f"{file}:{number}", number)


def _json(text: str, where: str, number: int) -> Any:
    try:
        return _DECODER.decode(text)
    except _TwiceError as error:
        raise _twice(error, where) from None
    except RecursionError:
        raise DataError("the line is nested too deeply", where=where) from None
    except ValueError as error:
        whole = number == 1 and text in ("{", "[")
        raise DataError(
            f"the line is not JSON ({error}): {_shown(text)}",
            where=where,
            hint="One value over several lines goes into a .json file" if whole else "One JSON object a line",
        ) from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


class _TwiceError(ValueError):
    """A key that an object holds twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for n, name in enumerate(names) if name in names[:n]))
    return found


def _twice(error: _TwiceError, where: str) -> DataError:
    return DataError(
        f"the key {str(error)!r} stands twice in one object",
        where=where,
        hint="Only one of them can be meant; remove the other",
    )


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def csv_rows(stream: Stream, file: str, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows below the header, with their places; quoted fields may hold line breaks.

    Raises:
        DataError: a row has another number of fields than the header, a quote is not closed, a name stands twice
            in the header, or the header is separated by something else.
    """
    csv.field_size_limit(LONGEST_RECORD)
    reader = csv.reader((line for _, line in _lines(stream, file)), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        where = f"{file}:{reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _bad_csv(error, where, f"{file}:{reader.line_num}") from None
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = _checked_header(row, where, delimiter)
        elif len(row) != len(header):
            raise DataError(
                f"{len(row)} fields, and the header has {len(header)}",
                where=where,
                hint="Quote fields that hold the separator, a line break or a quote",
            )
        else:
            yield where, dict(zip(header, row, strict=True))


def _bad_csv(error: csv.Error, first: str, last: str) -> DataError:
    if "field limit" in str(error):
        return _too_long("a field (is its quote closed?)", first)
    if "unexpected end" in str(error):
        return DataError(
            "a quote that is opened in this row is not closed", where=first, hint="Close or double it"
        )
    return DataError(
        f"not CSV ({error})", where=last, hint="A quote in a field is written twice, and the field is quoted"
    )


def _checked_header(row: list[str], where: str, delimiter: str) -> list[str]:
    others = [mark for mark in ",;\t|" if mark != delimiter and mark in row[0]]
    if len(row) == 1 and others:
        raise DataError(
            f"the header has one column, {_shown(row[0])}: separated by {others[0]!r}, not by {delimiter!r}",
            where=where,
            hint="Separate by commas, or by tabs in a .tsv file",
        )
    for number, name in enumerate(row):
        if name in row[:number]:
            raise DataError(f"the header names the column {name!r} twice", where=where, hint="Rename one")
    return row


# -- JSON over many lines ------------------------------------------------------------------------------------


def json_items(stream: Stream, file: str) -> Iterator[tuple[str, Any]]:
    """The items of a file that is one JSON array, or its one other value, with their places.

    Raises:
        DataError: it is not UTF-8, not JSON, ends too early, or an item is too long or holds a key twice.
    """
    text = _Text(stream, file)
    first = text.next_character()
    if first != "[":
        if first:
            yield f"{file}:{text.line}", text.value()
        if text.next_character():
            raise text.error("a second value follows the first", "Name a file of one value a line .jsonl")
        return
    text.skip()
    number = 0
    mark = text.next_character()
    while mark != "]":
        number += 1
        where = f"{file}:{text.line} (item {number})"
        yield where, text.value()
        mark = text.next_character()
        if mark == ",":
            text.skip()
            text.next_character()
        elif mark != "]":
            raise text.error(
                "the array goes on with no comma" if mark else "the array is not closed", _CUT_OFF
            )
    text.skip()
    if text.next_character():
        raise text.error("something follows the array", "Put everything into one array")


_CUT_OFF = "Was the file cut off? Copy it again"
_SPACE = re.compile(r"[ \t\r\n]*")
_NEAR = 16  # characters before the buffer's end in which an error may only mean that more has to be read


class _Text:
    """JSON text, read on as it is parsed."""

    def __init__(self, stream: Stream, file: str) -> None:
        self._stream, self._file = stream, file
        self._text, self._at, self._offset, self._rest = "", 0, 0, b""
        self._line, self._counted = 1, 0  # the line at a place in the buffer
        self._ended = False

    @property
    def line(self) -> int:
        """The line of what is read next."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def next_character(self) -> str:
        """The next one that is no white space, not taken; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read(_BLOCK)

    def skip(self) -> None:
        """Takes one character."""
        self._at += 1

    def value(self) -> Any:
        """The JSON value that begins here."""
        size = _BLOCK
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                # A number that reaches the buffer's end may go on.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            except _TwiceError as error:
                raise _twice(error, f"{self._file}:{self.line}") from None
            except RecursionError:
                raise self.error("nested too deeply") from None
            except json.JSONDecodeError as error:
                is_open = error.msg.startswith("Unterminated string")  # said of where it begins
                if self._ended or not (is_open or error.pos > len(self._text) - _NEAR):
                    early = is_open or not self._text[error.pos :].strip()
                    self._at = error.pos
                    what, hint = ("ends too early", _CUT_OFF) if early else ("not JSON", None)
                    raise self.error(f"{what} ({error.msg})", hint) from None
            except ValueError as error:
                raise self.error(f"not JSON ({error})") from None
            if len(self._text) - self._at > LONGEST_RECORD:
                raise _too_long("an item", f"{self._file}:{self.line}")
            self._read(size)
            size = min(2 * size, LONGEST_RECORD)

    def error(self, what: str, hint: str | None = None) -> DataError:
        """An error at this line."""
        return DataError(what, where=f"{self._file}:{self.line}", hint=hint)

    def _read(self, size: int) -> None:
        block = self._stream.read(size)
        self._ended = not block
        content = self._rest + block
        # A character that the block's end cuts waits for the next block.
        whole = len(content) if self._ended else _whole_characters(content)
        text = decoded(content[:whole], f"{self._file}:{self.line}", offset=self._offset)
        self._text, self._at, self._counted = self._text[self._at :] + text, 0, 0
        self._rest = content[whole:]
        self._offset += whole


def _whole_characters(content: bytes) -> int:
    """The length without a character at the end that is not whole."""
    for back in range(1, min(4, len(content) + 1)):
        byte = content[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) - back if length > back else len(content)
        if byte < 0x80:
            break
    return len(content)
