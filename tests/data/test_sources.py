from __future__ import annotations

import datetime
import decimal
import json
import socket
import sys
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from babygpt.data.cache import default_cache
from babygpt.data.identity import survey
from babygpt.data.sources import Document, Span, content_hash, read_documents
from babygpt.errors import DataError


def identity(paths: list[str]) -> str:
    return survey(paths, default_cache()).identity


def read(*paths: Path | str, field: str = "auto") -> list[Document]:
    return list(read_documents([str(path) for path in paths], field=field))


def refusal(*paths: Path | str, field: str = "auto") -> str:
    with pytest.raises(DataError) as error:
        read(*paths, field=field)
    return str(error.value)


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_text_file_is_one_document_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \n\n\xc3\xa9")
    (document,) = read(tmp_path / "a.txt")
    assert document == Document(str(tmp_path / "a.txt"), text="one\r\ntwo \n\né")


def test_a_folder_is_read_in_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a.txt", ".hidden.txt", ".git/x.txt", "image.png", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else name)
    jsonl(tmp_path / "c.jsonl", {"text": "one"}, {"text": ""}, {"text": "two"})
    assert [document.text for document in read(tmp_path)] == ["a.txt", "a/z.md", "b.txt", "one", "two"]


def test_jsonl_records(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    file = jsonl(tmp_path / "a.jsonl", {"text": "t"}, {"text": "u", "n": 3})
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\r\n\n")
    assert read(file) == [Document(f"{file}:1", text="t"), Document(f"{file}:2", text="u")]
    pairs = jsonl(tmp_path / "b.jsonl", {"prompt": "p", "completion": "c"})
    assert read(pairs)[0].spans == (Span("p", False), Span("c", True))
    chat = jsonl(tmp_path / "c.jsonl", {"messages": messages, "id": 3})
    assert read(chat)[0].messages == tuple(messages)


def test_field_names_the_column(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    file = jsonl(tmp_path / "a.jsonl", {"text": "no", "body": "yes", "talk": messages})
    assert read(file, field="body")[0].text == "yes"
    assert read(file, field="talk")[0].messages == tuple(messages)


def test_builtins_are_there_and_clean() -> None:
    documents = read("builtin:python")
    assert len(documents) > 100
    assert sum(len(document.text or "") for document in documents) > 3_000_000
    for part in ("site-packages", "/test/", "/tests/", "pydoc_data"):
        assert not any(part in document.id for document in documents)
    assert len(read("builtin:prose")) > 50


def test_a_saved_data_set(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(
        [{"text": "one", "n": 1}, {"text": None, "n": 2}, {"text": "two", "n": 3}]
    )
    rows.select([0, 2]).save_to_disk(tmp_path / "one")
    assert [document.text for document in read(tmp_path / "one")] == ["one", "two"]
    assert identity([str(tmp_path / "one")]) == identity([str(tmp_path / "one")])
    rows.save_to_disk(tmp_path / "holes")
    assert [document.text for document in read(tmp_path / "holes")] == ["one", "two"]
    splits = datasets.DatasetDict({"train": rows.select([0]), "test": rows.select([2])})
    splits.save_to_disk(tmp_path / "splits")
    assert [document.text for document in read(tmp_path / "splits")] == ["one"]
    datasets.DatasetDict({"a": rows, "b": rows}).save_to_disk(tmp_path / "odd")
    assert "no split named train; it has: a, b" in refusal(tmp_path / "odd")
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"nonsense")
    assert "cannot be read" in refusal(tmp_path / "one")


def test_dates_and_bytes_beside_a_message_do_no_harm(tmp_path: Path) -> None:
    date = datetime.datetime(2024, 1, 2)
    said = {"role": "user", "content": "q", "date": date, "cost": decimal.Decimal("1.5"), "blob": b"b"}
    parquet.write_table(pa.table({"conversation": [[said], [said | {"date": None}]]}), tmp_path / "a.parquet")
    (first, second) = read(tmp_path / "a.parquet")
    assert content_hash(first) != content_hash(second)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"text": "a"}\n{"text": oops}\n', "a.jsonl:2: the line is not JSON"),
        (b'{"text": "a"}\n\n[1]\n', "a.jsonl:3: found a list, not a JSON object"),
        (b'{"body": 1, "title": 2}\n', "it has: body, title"),
        (b'{"prompt": "a"}\n', "it has: prompt"),
        (b'{"text": 3}\n', "field 'text' holds a number, not a string"),
        (b'{"text": null}\n', "no record of the file holds text"),
        (b'{"text": null, "content": "a"}\n', "field 'text' holds null, not a string"),
        (b'{"prompt": "a", "completion": ["b"]}\n', "field 'completion' holds a list"),
        (b'{"messages": []}\n', "no record of the file holds text"),
        (b'{"messages": "hi"}\n', "field 'messages' holds a string"),
        (b'{"messages": [{"content": "hi"}]}\n', "message 0 of field 'messages' has no role"),
        (b'{"messages": [{"role": "user"}]}\n', "message 0 of field 'messages' has no content"),
        (b'{"text": "\\ud800"}\n', "half a surrogate pair (U+D800) at character 0"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "a.jsonl:2: not UTF-8 at byte offset 24 (byte 0xff)"),
        (b"\n\n", "the file is empty"),
        (b"[" * 100_000, "a.jsonl:1"),
    ],
)
def test_a_bad_jsonl_line_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    assert found in refusal(file)


def test_missing_empty_and_foreign_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("./nothing.txt") == "./nothing.txt: no such file or folder. Check data.path."
    assert "no such file or folder" in refusal("nothing.txt")
    assert "no such file or folder" in refusal("a/b/c")
    assert "no such built-in corpus" in refusal("builtin:poems")
    with pytest.raises(DataError, match="no such built-in corpus"):
        identity(["builtin:poems"])
    Path("empty.txt").touch()
    assert "empty.txt: the file is empty" in refusal("empty.txt")
    Path("folder").mkdir()
    Path("folder/image.png").touch()
    assert "folder: the folder holds no text" in refusal("folder")
    Path("folder/a.txt").touch()
    assert "all of the files are empty" in refusal("folder")
    Path("bad.txt").write_bytes(b"good \xe9 bad")
    assert "bad.txt: not UTF-8 at byte offset 5 (byte 0xe9)" in refusal("bad.txt")
    Path("wide.txt").write_bytes("text".encode("utf-16"))
    assert "looks like UTF-16" in refusal("wide.txt")
    Path("store").mkdir()
    Path("store/babygpt.json").touch()
    assert "already tokenised" in refusal("store")
    assert "no path given" in refusal()


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_name_without_network_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no network here")

    from babygpt import hub

    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    hub.reachable.cache_clear()
    began = time.monotonic()
    message = refusal("nobody/nothing")
    hub.reachable.cache_clear()
    assert "the hub cannot be reached" in message
    assert "local file or folder" in message
    assert time.monotonic() - began < 5


def test_content_decides_hash_and_identity(tmp_path: Path) -> None:
    assert content_hash(Document("a", text="x")) == content_hash(Document("b", text="x"))
    different = [
        Document("a", text="x"),
        Document("a", text="y"),
        Document("a", spans=(Span("x", True),)),
        Document("a", spans=(Span("x", False),)),
        Document("a", messages=({"role": "user", "content": "x"},)),
    ]
    assert len({content_hash(document) for document in different}) == len(different)
    assert all(0 <= content_hash(document) < 2**64 for document in different)
    one, two, other = tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "x.jsonl"
    for file in (one, two, other):
        file.write_text('{"text": "a"}')
    assert identity([str(one)]) == identity([str(two)])
    assert identity([str(one)]) != identity([str(other)])  # the same bytes, read otherwise
    assert identity([str(one)]) != identity([str(one), str(two)])
    assert identity(["builtin:prose"]) == identity(["builtin:prose"])
    two.write_text("b")
    assert identity([str(one), str(two)]) != identity([str(two), str(one)])


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_a_disk_that_cannot_be_read_is_named() -> None:
    assert refusal("/proc/self/mem").startswith("/proc/self/mem: cannot be read")
