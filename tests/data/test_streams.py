from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babygpt.data.streams import csv_rows, json_items, json_lines
from babygpt.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(
    items=st.lists(VALUES, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
    block=st.integers(1, 40),
    mark=st.booleans(),
)
def test_an_array_is_what_the_parser_of_the_whole_gives(
    items: list[Any], indent: int | None, escaped: bool, block: int, mark: bool
) -> None:
    content = json.dumps(items, indent=indent, ensure_ascii=escaped).encode()
    with patch("babygpt.data.streams._BLOCK", block):
        read = list(json_items(io.BytesIO(b"\xef\xbb\xbf" * mark + content), "a.json"))
    assert [value for _, value in read] == items
    if indent is not None and items:
        starts, line = [], 2
        for item in items:
            starts.append(line)
            line += json.dumps(item, indent=indent).count("\n") + 1
        assert [where for where, _ in read] == [f"a.json:{s} (item {n})" for n, s in enumerate(starts, 1)]


@settings(max_examples=40)
@given(items=st.lists(VALUES, min_size=1, max_size=3), block=st.integers(1, 40), data=st.data())
def test_no_array_is_cut_in_silence(items: list[Any], block: int, data: st.DataObject) -> None:
    content = json.dumps(items, ensure_ascii=False).encode()
    short = content[: data.draw(st.integers(1, len(content) - 1))]
    with patch("babygpt.data.streams._BLOCK", block), pytest.raises(DataError):
        list(json_items(io.BytesIO(short), "a.json"))


@settings(max_examples=40)
@given(
    records=st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_lines_are_what_was_written(records: list[Any], end: str) -> None:
    content = "".join(json.dumps(record) + end for record in records).encode()
    read = list(json_lines(io.BytesIO(content), "a.jsonl"))
    assert [value for _, value in read] == records
    assert [where for where, _ in read] == [
        f"a.jsonl:{1 + n * end.count(chr(10))}" for n in range(len(records))
    ]


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(TEXT, st.text('a\r\n",;\t é', max_size=6)), max_size=5),
    delimiter=st.sampled_from([",", "\t"]),
)
def test_rows_are_what_was_written(rows: list[tuple[str, str]], delimiter: str) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("one", "two"), *rows])
    read = [row for _, row in csv_rows(io.BytesIO(out.getvalue().encode()), "a.csv", delimiter)]
    assert read == [{"one": one, "two": two} for one, two in rows]


class Endless:
    """A stream of the same bytes over and over, and then an end."""

    def __init__(self, begin: bytes, item: bytes, times: int, end: bytes) -> None:
        self._parts = iter([begin, *[item] * times, end])
        self._rest = b""
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        block, self._rest = self._rest[:size], self._rest[size:]
        self.given += len(block)
        return block

    def readline(self, size: int = -1, /) -> bytes:
        return next(self._parts, b"")


ITEM = b'{"text": "' + b"x" * 2000 + b'"},\n'
KINDS: list[tuple[Callable[[Any], Iterator[Any]], Endless]] = [
    (lambda s: json_items(s, "a"), Endless(b"[", ITEM, 4000, b"{}]")),
    (lambda s: json_lines(s, "a"), Endless(b"\n", ITEM.replace(b",", b""), 4000, b"{}")),
    (lambda s: csv_rows(s, "a", ","), Endless(b"one\n", b"x" * 2000 + b"\n", 4000, b"a\n")),
]


@pytest.mark.parametrize(("read", "stream"), KINDS, ids=["array", "lines", "rows"])
def test_memory_does_not_grow_with_the_file(read: Callable[[Any], Iterator[Any]], stream: Endless) -> None:
    tracemalloc.start()
    try:
        count = sum(1 for _ in read(stream))
        assert count == 4001
        assert tracemalloc.get_traced_memory()[1] < 3_000_000  # of 8 MB
    finally:
        tracemalloc.stop()


def test_a_real_error_in_an_array_is_met_where_it_is() -> None:
    """Not first at the file's end, with all of it in memory."""
    stream = Endless(b'[{"text": oops}', b"x" * 10_000, 1000, b"")
    with pytest.raises(DataError, match="not JSON"):
        list(json_items(stream, "a.json"))
    assert stream.given < 1_000_000
