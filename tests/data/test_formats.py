from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babygpt.data.cache import default_cache
from babygpt.data.formats import Format, format_of, is_known
from babygpt.data.identity import survey
from babygpt.data.sources import content_hash, read_documents

TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
    min_size=1,
    max_size=6,
)
KINDS = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow", "file.arrow")
CODECS = ("", ".gz", ".zst")


def written(kind: str, texts: list[str]) -> bytes:
    """Records of one column by the libraries' own writers."""
    if kind in ("jsonl", "ndjson"):
        return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    if kind == "json":
        return json.dumps([{"text": text} for text in texts]).encode()
    if kind in ("csv", "tsv"):
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter="," if kind == "csv" else "\t", quoting=csv.QUOTE_ALL)
        writer.writerows([["text"], *([text] for text in texts)])
        return out.getvalue().encode()
    table, sink = pa.table({"n": range(len(texts)), "text": texts}), pa.BufferOutputStream()
    if kind == "parquet":
        parquet.write_table(table, sink, row_group_size=2)
    else:
        with (pa.ipc.new_stream if kind == "arrow" else pa.ipc.new_file)(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return bytes(sink.getvalue().to_pybytes())


def packed(content: bytes, codec: str) -> bytes:
    if codec == ".gz":  # of two members, as split and joined files have
        half = len(content) // 2
        return gzip.compress(content[:half]) + gzip.compress(content[half:])
    if codec == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as out:
            out.write(content)
        return bytes(sink.getvalue().to_pybytes())
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(texts=TEXTS)
def test_every_kind_gives_what_was_written(folder: Path, kind: str, codec: str, texts: list[str]) -> None:
    file = folder / f"a.{kind}{codec}"
    file.write_bytes(packed(written(kind, texts), codec))
    assert [document.text for document in read_documents([str(file)])] == texts


@pytest.mark.parametrize("codec", CODECS)
def test_a_packed_text_is_one_document(tmp_path: Path, codec: str) -> None:
    file = tmp_path / f"a.txt{codec}"
    file.write_bytes(packed(b"\xef\xbb\xbfone\r\ntwo \n\n\xc3\xa9", codec))
    assert [document.text for document in read_documents([str(file)])] == ["one\r\ntwo \n\né"]


def test_names_and_kinds() -> None:
    assert format_of("a.JSONL.GZ") == Format("jsonl", "gzip")
    assert format_of("a.tsv.zst") == Format("tsv", "zstd")
    assert format_of("README") == Format("text")
    assert format_of("a.unknown") == Format("text")
    assert all(map(is_known, ("a.md", "a.PY", "a.json", "a.csv.gz", "a.parquet", "x/a.txt.zst")))
    assert not any(map(is_known, ("a", "a.png", "a.gz", "a.zip", "a.tar.gz", "json")))


def test_one_object_is_one_record_and_rows_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "one"}\n')
    assert [document.text for document in read_documents([str(tmp_path / "a.json")])] == ["one"]
    (tmp_path / "a.csv").write_text('text\n"a\nb"\n\nc\n')
    assert [d.id for d in read_documents([str(tmp_path / "a.csv")])] == [
        f"{tmp_path}/a.csv:{n}" for n in (2, 5)
    ]
    (tmp_path / "a.parquet").write_bytes(written("parquet", ["a", "b", "c"]))
    ids = [document.id for document in read_documents([str(tmp_path / "a.parquet")])]
    assert ids == [f"{tmp_path}/a.parquet:{n}" for n in (1, 2, 3)]


def test_conversations_of_a_table(tmp_path: Path) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho", "name": "b"},
    ]
    table = pa.table({"messages": [turns, turns], "n": [1, 2], "tools": ["[]", None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    documents = list(read_documents([str(tmp_path / "a.parquet")]))
    assert [document.messages for document in documents] == [tuple(turns)] * 2
    assert [document.tools for document in documents] == ["[]", None]
    assert content_hash(documents[0]) != content_hash(documents[1])


def test_a_guess_is_said_once_for_a_folder(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text('{"id": 1, "body": "b"}\n' * 3)
    said: list[str] = []
    assert len(list(read_documents([str(tmp_path)], say=said.append))) == 9
    assert said == [
        f"{tmp_path}: the text is column 'body' (the only column of strings; not read: id; data.field names another)"
    ]


def test_equal_bytes_read_otherwise_are_other_data(tmp_path: Path) -> None:
    names = [
        "a.txt",
        "a.md",
        "a.jsonl",
        "a.json",
        "a.csv",
        "a.tsv",
        "a.parquet",
        "a.arrow",
        "a.txt.gz",
        "a.txt.zst",
    ]
    for name in names:
        (tmp_path / name).write_text('{"text": "a"}')
    found = {name: survey([str(tmp_path / name)], default_cache()).identity for name in names}
    assert found["a.txt"] == found.pop("a.md")
    assert len(set(found.values())) == len(found)
