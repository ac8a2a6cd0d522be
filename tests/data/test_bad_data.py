"""Bad data, each with its message; what cannot be used leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from babygpt.data.sources import read_documents
from babygpt.data.store import prepare
from babygpt.errors import DataError
from babygpt.recipe import DataRecipe
from web_server import WebServer

Make = Callable[[Path], Any]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return bytes(sink.getvalue().to_pybytes())


def zipped(name: str, content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)  # the same in every process: without the time
    return sink.getvalue()


def arrow(table: pa.Table, *, stream: bool = True) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same in every process, since it is part of a test's name


def parquet_bytes(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


ROWS = lines(*({"text": f"row {n} " + "x" * n} for n in range(400)))
TABLE = pa.table({"text": [f"row {n}" for n in range(3000)]})
USER = {"role": "user", "content": "a"}
SAID = {"role": "assistant", "content": "a"}
PICTURE = {"role": "user", "content": [{"type": "image", "url": "a.png"}, {"type": "text", "text": "a"}]}
NULL_IN_A_LIST = [{"role": "user", "content": "a"}, None]

# name of the file, its content, what the message says
FILES: list[tuple[str, bytes, str]] = [
    # encodings
    ("latin.txt", b"caf\xe9 au lait", "latin.txt: not UTF-8 at byte offset 3 (byte 0xe9); probably Latin-1. Convert"),
    ("windows.txt", b"\x93quoted\x94", "at byte offset 0 (byte 0x93); probably Windows-1252. Convert it: iconv -f C"),
    ("wide.txt", "text".encode("utf-16"), "byte offset 0 (it looks like UTF-16). Convert it: iconv -f UTF-16"),
    ("wide-le.txt", "plain text".encode("utf-16-le"), "it looks like UTF-16LE"),
    ("wide-be.txt", "plain text".encode("utf-16-be"), "it looks like UTF-16BE"),
    ("wider.txt", "text".encode("utf-32"), "it looks like UTF-32"),
    ("wide.jsonl", '{"text": "a"}\n'.encode("utf-16"), "wide.jsonl:1: not UTF-8 at byte offset 0 (it looks like UTF"),
    ("wide.csv", "text\na\n".encode("utf-16"), "wide.csv:1: not UTF-8 at byte offset 0 (it looks like UTF-16)"),
    ("japanese.txt", "日本語の文章".encode("shift_jis"), "japanese.txt: not UTF-8 at byte offset 0 (byte 0x93). "),
    ("cut.txt", "naïve é".encode()[:-1], "byte offset 7 (byte 0xc3): it ends in the middle of a character"),
    ("late.jsonl", ROWS + b'{"text": "\xff\xfe"}\n', "late.jsonl:401: not UTF-8 at byte offset 88100 (byte 0xff)"),
    # binary files
    ("nul.txt", b"text\0text", "nul.txt: a NUL byte at offset 4: a binary file"),
    ("nul.jsonl", b'{"text": "a"}\n\0\0\0\0\n', "nul.jsonl:2: a NUL byte at offset 14"),
    ("nul.csv", b"text\na\0b\n", "nul.csv:2: a NUL byte at offset 6"),
    ("nul.json", b'[{"text": "a"},\n\0]', "a NUL byte at offset 16"),
    ("packed.txt", gz(b"text"), "packed.txt: not text: it looks like gzip. Name it with its usual suffix"),
    ("table.txt", parquet_bytes(text=["a"]), "table.txt: not text: it looks like Parquet"),
    ("image.txt", b"\x89PNG\r\n\x1a\n\0\0", "image.txt: not text: it looks like an image"),
    ("a.zip", b"PK\x03\x04", "a.zip: .zip files are not read. Unpack or convert it"),
    ("a.tar.gz", gz(b"a"), ".tar files are not read"),
    ("a.xlsx", b"PK\x03\x04", ".xlsx files are not read"),
    # compression
    ("short.jsonl.gz", gz(ROWS)[:-300], "short.jsonl.gz: the gzip file is cut off"),
    ("trailer.jsonl.gz", gz(ROWS)[:-4], "trailer.jsonl.gz: the gzip file is cut off"),
    ("flipped.txt.gz", gz(ROWS)[:-8] + b"\0" * 8, "the gzip file is damaged, or no such file (CRC check "),
    ("plain.txt.gz", b"plain text", "the gzip file is damaged, or no such file (Not a gzipped file"),
    ("none.txt.gz", b"", "the gzip file is cut off (it is empty)"),
    ("more.txt.gz", gz(b"text") + b"more", "the gzip file is damaged, or no such file"),
    ("short.txt.zst", zstd(ROWS)[:-20], "short.txt.zst: the zstd file is cut off"),
    ("plain.txt.zst", b"plain text", "plain.txt.zst: the zstd file is damaged, or no such file"),
    ("more.csv.zst", zstd(b"text\na\n") + b"more", "more.csv.zst: the zstd file is damaged, or no such file"),
    # JSON
    ("a.jsonl", b'{"text": "a"}\n{"text": oops}\n', "a.jsonl:2: the line is not JSON"),
    ("list.jsonl", b'{"text": "a"}\n\n["b"]\n', "list.jsonl:3: found a list, not a JSON object"),
    ("cut.jsonl", b'{"text": "a"}\n{"text": "b', "cut.jsonl:2: the line is not JSON (Unterminated string"),
    ("pretty.jsonl", b'{\n "text": "a"\n}\n', "pretty.jsonl:1: the line is not JSON (Expecting property name"),
    ("spread.jsonl", b"[\n", "One value over several lines goes into a .json file"),
    ("twice.jsonl", b'{"text": "a", "text": "b"}\n', "twice.jsonl:1: the key 'text' stands twice in one object"),
    ("deep.jsonl", b"[" * 100_000, "deep.jsonl:1: the line is nested too deeply"),
    ("deep.json", b"[" * 100_000, "deep.json:1: nested too deeply"),
    ("open.json", b'[{"text": "a"},\n {"text": "b"}\n', "open.json:3: the array is not closed. Was the file cut off"),
    ("cut.json", b'[{"text": "a"},\n {"text": "b', "cut.json:2: ends too early (Unterminated string"),
    ("comma.json", b'[{"text": "a"}\n {"text": "b"}]', "comma.json:2: the array goes on with no comma"),
    ("bad.json", b'[{"text": "a"},\n\n {"text": oops}]', "bad.json:3: not JSON (Expecting value)"),
    ("two.json", b'{"text": "a"}\n{"text": "b"}\n', "two.json:2: a second value follows the first. Name a file of o"),
    ("behind.json", b'[{"text": "a"}]\n]', "behind.json:2: something follows the array"),
    ("twice.json", b'[{"a": 1,\n "a": 2}]', "twice.json:1: the key 'a' stands twice in one object"),
    ("number.json", b"3", "number.json:1: found a number, not a JSON object"),
    ("strings.json", b'["a", "b"]', "strings.json:1 (item 1): found a string, not a JSON object"),
    ("void.json", b"[]", "void.json: the file is empty"),
    # records
    ("mixed.jsonl", lines({"text": "a"}, {"body": "b"}), "mixed.jsonl:2: no field 'text', which the first record ha"),
    ("kinds.jsonl", lines({"text": "a"}, {"text": ["b"]}), "kinds.jsonl:2: field 'text' holds a list, not a string"),
    ("nested.jsonl", lines({"text": {"body": "b"}}), "nested.jsonl:1: field 'text' holds an object, not a string"),
    ("null.jsonl", lines({"text": None, "prompt": "a"}), "null.jsonl:1: field 'text' holds null, not a string. Leave"),
    ("unanswered.jsonl", lines({"prompt": "a", "completion": None}), "field 'completion' holds null, not a string"),
    ("label.jsonl", lines({"prompt": "a", "completion": True}), "not a string. Write it in quotes, as the model is to"),
    ("answers.jsonl", lines({"question": "a", "answer": 3}), "field 'answer' holds a number, not a string. Write it"),
    ("two.jsonl", lines({"instruction": "a", "output": "b", "response": "c"}), "ame the two that are meant prompt and"),
    ("several.jsonl", lines({"title": "a", "body": "b"}), "several columns hold strings: title, body; it has: title"),
    ("both.jsonl", lines({"question": "a", "answer": "b", "content": "c"}), "could be meant: question + answer, or "),
    ("half.jsonl", lines({"prompt": "a"}), "none of the fields text, prompt + completion, messages; it has: prompt"),
    ("numbers.jsonl", lines({"a": 1, "b": "2.5"}), "none of the fields text, prompt + completion, messages; it has:"),
    ("surrogate.jsonl", b'{"text": "\\ud800"}\n', "field 'text' holds half a surrogate pair (U+D800) at character 0"),
    ("from.jsonl", lines({"conversations": [{"from": "martian", "value": "a"}]}), "is from 'martian', which is no k"),
    ("roles.jsonl", lines({"messages": [{"content": "a"}]}), "message 0 of field 'messages' has no role"),
    ("hole.jsonl", lines({"messages": NULL_IN_A_LIST}), "message 1 of field 'messages' has no role: 'None'"),
    ("silent.jsonl", lines({"messages": [], "text": "a"}), "field 'messages' holds an empty list, not a list of me"),
    ("texts-in-a-list.jsonl", lines({"text": ["a", "b"]}), "holds a list, not a string. Write a record for each of"),
    ("columns.json", b'{"text": ["a", "b"]}', "columns.json:1: field 'text' holds a list, not a string. Write a recor"),
    ("inside.json", b'{"data": [{"text": "a"}]}', "it has: data. Are the records those inside of 'data'? Make each o"),
    ("by-number.json", b'{"0": {"text": "a"}, "1": {"text": "b"}}', "Are the records those inside of '0'? Make each o"),
    ("array.jsonl", b'[{"text": "a"}]\n', "found a list, not a JSON object. An array of records goes into a .json fil"),
    ("preferred.jsonl", lines({"prompt": "a", "chosen": "b", "rejected": "c"}), "pairs of a chosen and a rejected ans"),
    ("picture.jsonl", lines({"messages": [PICTURE]}), "message 0 of field 'messages' holds a part of type 'image', an"),
    ("mute.jsonl", lines({"messages": [USER, {"role": "assistant", "content": None}]}), "message 1 of field 'messages"),
    ("number.jsonl", lines({"messages": [{"role": "user", "content": 3}]}), "holds a number as its content, not a str"),
    ("turns.jsonl", lines({"conversation": [["a", "b"]]}), 'no role: "[\'a\', \'b\']". Each message is {"role": "user'),
    ("halves.jsonl", lines({"conversations": [{"human": "a", "bot": "b"}]}), "message 0 of field 'conversations' has "),
    ("table.jsonl", lines({"messages": {"role": ["user"], "content": ["a"]}}), "holds an object, not a list of messag"),
    ("prose.csv", b"messages\nhello\n", "prose.csv:2: field 'messages' holds a string that is not JSON: 'hello'"),
    ("weight.jsonl", lines({"messages": [SAID | {"weight": 0.5}]}), "message 0 of field 'messages' has the weight '0."),
    ("call.jsonl", lines({"messages": [{"role": "assistant", "tool_calls": "[3]"}]}), "holds no call of a tool: '[3]'"),
    ("system.jsonl", lines({"messages": [USER | {"role": "system"}], "system": "b"}), "a system turn stands in field "),
    # CSV
    ("more.csv", b"id,text\n1,a\n2,b,c\n", "more.csv:3: 3 fields, and the header has 2. Quote fields"),
    ("less.csv", b'id,text\n1,"a\nb"\n2\n', "less.csv:4: 1 fields, and the header has 2"),
    ("quote.csv", b'text\n"a\nb\n', "quote.csv:2: a quote that is opened in this row is not closed"),
    ("quotes.csv", b'text\n"a"b\n', "quotes.csv:2: not CSV"),
    ("semicolons.csv", b"id;text\n1;a\n", "the header has one column, 'id;text': separated by ';', not by ','"),
    ("commas.tsv", b"id,text\n1,a\n", "separated by ',', not by '\\t'"),
    ("twice.csv", b"text,text\na,b\n", "twice.csv:1: the header names the column 'text' twice"),
    ("header.csv", b"id,text\n", "header.csv: the file is empty"),
    ("columns.csv", b"title,body\na,b\n", "columns.csv:2: several columns hold strings: title, body"),
    # tables
    ("empty.parquet", parquet_bytes(text=pa.array([], pa.string())), "empty.parquet: the file is empty"),
    ("short.parquet", parquet_bytes(text=["a"] * 99)[:-10], "short.parquet: cannot be read as its name says (Parque"),
    ("text.parquet", b"plain text", "text.parquet: cannot be read as its name says"),
    ("nothing.parquet", b"", "nothing.parquet: cannot be read as its name says"),
    ("binary.parquet", parquet_bytes(text=[b"a"]), "binary.parquet:1: field 'text' holds a bytes, not a string"),
    ("struct.parquet", parquet_bytes(text=[{"body": "b"}]), "struct.parquet:1: field 'text' holds an object, not a "),
    ("null.parquet", parquet_bytes(text=["a", None], content=["", "b"]), "null.parquet:2: field 'text' holds null"),
    ("short.arrow", arrow(TABLE)[:-2000], "short.arrow: cannot be read as its name says (Expected to be able to read"),
    ("unfinished.arrow", arrow(TABLE)[:-8], "unfinished.arrow: the Arrow file is cut off"),
    ("short-file.arrow", arrow(TABLE, stream=False)[:20_000], "short-file.arrow: cannot be read as its name says"),
    ("text.arrow", b"plain text that goes on", "text.arrow: cannot be read as its name says"),
    ("latin.arrow", arrow(TABLE).replace(b"row 7", b"row \xe9"), "latin.arrow: cannot be read as its name says (In "),
    # archives in archives
    ("nested.zip", zipped("inner.zip", b"PK\x03\x04"), "nested.zip: .zip files are not read. Unpack or convert it to "),
    ("zipped.jsonl", zipped("a.jsonl", ROWS), "zipped.jsonl:1: not text: it looks like a zip archive or an office doc"),
    # nothing
    ("empty.txt", b"", "empty.txt: the file is empty"),
    ("bom.txt", b"\xef\xbb\xbf", "bom.txt: the file is empty"),
    ("blank.jsonl", b"\n \r\n\n", "blank.jsonl: the file is empty"),
    ("texts.jsonl", lines({"text": ""}, {"text": ""}), "texts.jsonl: no record of the file holds text"),
]  # fmt: skip


def refusal(cache: Path, *paths: Path | str, **fields: Any) -> str:
    """What is said of the data, of which nothing may be left but the copies of what was fetched whole."""
    recipe = DataRecipe(path=tuple(map(str, paths)), **fields)
    with pytest.raises(DataError) as error:
        prepare(recipe, model_name="preset:gpt2-1m", cache=cache)
    left = [path for path in cache.rglob("*") if path.is_file() and path.name[-5:] != ".lock"]
    assert [path for path in left if path.parent.name not in ("index", "remote") or path.name[0] == "."] == []
    return str(error.value)


@pytest.mark.parametrize(("name", "content", "found"), FILES, ids=[name for name, _, _ in FILES])
def test_a_bad_file_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / "cache", tmp_path / name)
    assert found in message
    assert name in message
    assert "\n" not in message


def test_a_line_without_end_is_not_taken_into_memory(tmp_path: Path) -> None:
    for name, begin in (("a.jsonl", b'{"text": "'), ("a.csv", b"text\n")):
        with (tmp_path / name).open("wb") as file:
            file.write(begin)
            file.truncate(2**30)  # a hole: it takes no room
        with pytest.raises(
            DataError, match=r"is longer than 64 MiB, the most of one record\. Split it"
        ) as error:
            next(read_documents([str(tmp_path / name)]))
        assert name in str(error.value)


def test_an_item_or_field_without_end_is_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("babygpt.data.streams.LONGEST_RECORD", 2**20)
    (tmp_path / "a.json").write_bytes(b'[{"text": "a"},\n{"text": "' + b"x" * 2**22 + b'"}]')
    assert "a.json:2: an item is longer than 1 MiB" in refusal(tmp_path / "cache", tmp_path / "a.json")
    (tmp_path / "a.csv").write_bytes(b'text\n"a\n' + b"x\n" * 2**20)
    message = refusal(tmp_path / "cache", tmp_path / "a.csv")
    assert "a.csv:2: a field (is its quote closed?) is longer than 1 MiB" in message


def test_a_text_that_is_too_large_for_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("babygpt.data.formats._LARGEST_TEXT", 2**22)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"x" * (2**22 + 1)))
    assert "GiB of text, the most of one document. Split" in refusal(
        tmp_path / "cache", tmp_path / "a.txt.gz"
    )


def linked_in_a_circle(folder: Path) -> Path:
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "data" / "a.txt").write_text("a")
    (folder / "data" / "deep" / "back").symlink_to(folder / "data")
    return folder / "data"


def linked_to_itself(folder: Path) -> Path:
    (folder / "a.txt").symlink_to(folder / "a.txt")
    return folder / "a.txt"


def linked_to_nothing(folder: Path) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "a.txt").symlink_to(folder / "gone")
    return folder / "data"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.txt")
    return folder / "a.txt"


def a_pipe_in_a_folder(folder: Path) -> Path:
    (folder / "data").mkdir()
    os.mkfifo(folder / "data" / "a.txt")
    return folder / "data"


def a_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(folder / "a.txt"))
    return folder / "a.txt"


def no_match(folder: Path) -> Path:
    (folder / "a.txt").write_text("a")
    return folder / "**" / "*.md"


def an_archive_that_matches(folder: Path) -> Path:
    (folder / "a.zip").write_bytes(b"PK")
    return folder / "*"


def empty_files(folder: Path) -> Path:
    (folder / "data").mkdir()
    for name in ("a.txt", "b.jsonl", "c.csv"):
        (folder / "data" / name).touch()
    return folder / "data"


def one_bad_of_two(folder: Path) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "a.jsonl").write_bytes(ROWS)
    (folder / "data" / "b.jsonl").write_bytes(b"{\n")
    return folder / "data"


PLACES: list[tuple[Make, str]] = [
    (linked_in_a_circle, "deep/back: the link leads back to"),
    (linked_to_itself, "a.txt: the link leads to nothing, or in a circle"),
    (linked_to_nothing, "a.txt: cannot be read (No such file or directory)"),
    (a_pipe, "a.txt: neither a file nor a folder. To read from a pipe, give -"),
    (a_pipe_in_a_folder, "data/a.txt: neither a file nor a folder"),
    (a_socket, "/a.txt: neither a file nor a folder"),
    (no_match, "**/*.md: no file matches"),
    (an_archive_that_matches, "a.zip: .zip files are not read"),
    (empty_files, "data: all of the files are empty"),
    (one_bad_of_two, "b.jsonl:1: the line is not JSON"),
    (lambda folder: folder / "gone.txt", "gone.txt: no such file or folder"),
    (lambda folder: folder, "the folder holds no text"),
    (lambda folder: "builtin:poems", "no such built-in corpus"),
    (lambda folder: "nosuch://host/a.jsonl", "Protocol not known: nosuch"),
    (lambda folder: "file:///etc/hosts", "Give its path without file://"),
    (lambda folder: "https://", "https://: not an address"),
    (lambda folder: "http://host:port/a.jsonl", "not an address"),
    (lambda folder: "https://host/a.zip", ".zip files are not read"),
]


@pytest.mark.skipif(os.name == "nt", reason="needs links, pipes and sockets")
@pytest.mark.parametrize(("make", "found"), PLACES, ids=[found for _, found in PLACES])
def test_a_bad_place_is_named(tmp_path: Path, make: Make, found: str) -> None:
    assert found in refusal(tmp_path / "cache", make(tmp_path))


def test_a_folder_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "closed").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("a")
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # the rights themselves do not bind whoever may do everything
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    message = refusal(tmp_path / "cache", tmp_path / "data")
    assert "data/closed: the folder cannot be read (Permission denied). Grant the right" in message


FIELDS = [
    ({"text": "a"}, "body", "no field 'body'; it has: text"),
    (
        {"meta": {"body": "a"}},
        "meta.body",
        "no field 'meta.body'; it has: meta. Fields inside of other fields",
    ),
    ({"meta": {"body": "a"}}, "meta", "field 'meta' holds an object, not a string"),
    ({"count": 3}, "count", "field 'count' holds a number, not a string"),
]


@pytest.mark.parametrize(("record", "field", "found"), FIELDS, ids=[field for _, field, _ in FIELDS])
def test_a_field_that_is_not_there(tmp_path: Path, record: Any, field: str, found: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(record))
    assert found in refusal(tmp_path / "cache", tmp_path / "a.jsonl", field=field)


def test_a_field_of_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert "all of the data is plain text" in refusal(tmp_path / "cache", tmp_path / "a.txt", field="body")


SERVED: list[tuple[Any, bytes, str, str]] = [
    (None, b"<html><body>Not found", "", "the answer is an HTML page, not data"),
    (None, b'{"text": "a"}\n', "text/html", "the answer is an HTML page, not data"),
    (404, b"", "", "the server answers 404 (Not Found). Check the address"),
    (403, b"", "", "the server answers 403 (Forbidden). It may need a token"),
    (503, b"", "", "cannot be fetched: the server answers 503 (Service Unavailable) (5 tries)"),
    (
        ("cut", 3),
        b'{"text": "a"}\n',
        "",
        "cannot be fetched: the connection was cut (5 tries, 3 of 14 bytes came)",
    ),
    (None, b'{"text": "a', "", "a.jsonl:1: the line is not JSON"),
    (None, b"", "", "a.jsonl: the file is empty"),
]


@pytest.mark.parametrize(("fault", "content", "kind", "found"), SERVED)
def test_a_bad_answer(
    web: WebServer, tmp_path: Path, fault: Any, content: bytes, kind: str, found: str
) -> None:
    web.files["/a.jsonl"], web.faults, web.ranges = content, [fault] * 5, False
    if kind:
        web.types["/a.jsonl"] = kind
    assert found in refusal(tmp_path / "cache", web.url("/a.jsonl"))


def test_bad_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BABYGPT_STANDARD_INPUT", "")
    stdin = SimpleNamespace(buffer=io.BytesIO(b"{not json"), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    message = refusal(tmp_path / "cache", "-")
    assert ".jsonl:1: the line is not JSON" in message
