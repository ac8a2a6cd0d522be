from __future__ import annotations

import gzip
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from babygpt.data import buckets
from babygpt.data.identity import survey
from babygpt.data.remote import is_remote, localise
from babygpt.data.sources import read_documents
from babygpt.data.store import prepare
from babygpt.data.transfer import BrokenOffError
from babygpt.errors import DataError
from babygpt.recipe import DataRecipe, Recipe, read_recipe, write_recipe
from web_server import WebServer

LINES = b"".join(json.dumps({"text": f"document {n} " + "x" * 50}).encode() + b"\n" for n in range(2000))
SECRET = "s3cr3t"


def fetch(url: str, cache: Path) -> tuple[bytes, str]:
    """The copy's content and the note."""
    (located,) = localise([url], cache)
    (file,), (note,) = located.files, located.notes
    return file.read_bytes(), note


def refusal(url: str, cache: Path) -> str:
    with pytest.raises(DataError) as error:
        localise([url], cache)
    assert not [name for name in os.listdir(cache / "remote") if name.startswith(".partial")]
    return str(error.value)


def test_what_is_remote() -> None:
    for path in ("-", "http://a/b", "S3://a/b", "hf://datasets/a/b", "zip://a.txt::http://b"):
        assert is_remote(path)
    for path in ("a.txt", "./-", "C:\\data", "owner/name:part", "builtin:python", "a:b", "--"):
        assert not is_remote(path)


def test_a_file_is_fetched_once_and_again_when_it_changes(web: WebServer, tmp_path: Path) -> None:
    web.files["/a.jsonl"] = LINES
    url = web.url("/a.jsonl")
    content, note = fetch(url, tmp_path)
    assert content == LINES
    assert note == f"{url}: fetched {len(LINES):,} bytes"
    content, note = fetch(url, tmp_path)
    assert content == LINES
    assert "not changed" in note
    assert len(web.sent) == 1
    web.files["/a.jsonl"] = LINES[: LINES.index(b"\n") + 1]
    assert fetch(url, tmp_path)[0] == web.files["/a.jsonl"]
    assert len(os.listdir(tmp_path / "remote")) == 2  # the entry and one copy
    web.tags = False  # a server that does not tell versions apart is asked for everything
    web.files["/a.jsonl"] = LINES
    assert fetch(url, tmp_path)[0] == LINES
    assert "fetched" in fetch(url, tmp_path)[1]


def test_a_broken_transfer_goes_on_where_it_was(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("babygpt.data.transfer._ENOUGH", 10_000)
    web.files["/a.jsonl"] = LINES
    web.faults = [503, ("cut", 60_000), 429, ("cut", 0), ("cut", 50_000), 500]
    assert fetch(web.url("/a.jsonl"), tmp_path)[0] == LINES
    assert [headers.get("Range") for _, headers in web.seen] == [
        *(None, None, "bytes=60000-", "bytes=60000-", "bytes=60000-", "bytes=110000-", "bytes=110000-"),
    ]
    assert sum(web.sent) == len(LINES)


@pytest.mark.parametrize("lacking", ["ranges", "tags"])
def test_without_ranges_or_versions_it_begins_again(web: WebServer, tmp_path: Path, lacking: str) -> None:
    web.files["/a.jsonl"] = LINES
    setattr(web, lacking, False)
    web.faults = [("cut", 60_000), ("cut", 70_000)]
    assert fetch(web.url("/a.jsonl"), tmp_path)[0] == LINES
    assert web.sent == [60_000, 70_000, len(LINES)]


def test_two_versions_are_never_joined(web: WebServer, tmp_path: Path) -> None:
    web.files["/a.jsonl"] = LINES
    old = LINES
    new = LINES.replace(b"document", b"DOCUMENT")

    class Changing(dict[str, bytes]):
        def get(self, path: str, default: Any = None) -> bytes:  # type: ignore[override]
            return old if len(web.seen) == 1 else new

    web.files, web.faults = Changing(), [("cut", 60_000)]
    assert fetch(web.url("/a.jsonl"), tmp_path)[0] == new


def test_a_server_that_stalls_is_asked_again(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("babygpt.data.web._STALLED", 0.1)
    web.files["/a.jsonl"] = LINES
    web.faults = [("stall", 1000)]
    assert fetch(web.url("/a.jsonl"), tmp_path)[0] == LINES
    web.files["/b.jsonl"] = LINES
    web.faults = [("stall", 10)] * 9
    message = refusal(web.url("/b.jsonl"), tmp_path)
    assert "the server does not answer in time (5 tries" in message
    assert f"of {len(LINES):,} bytes came" in message


def test_tries_end(web: WebServer, tmp_path: Path) -> None:
    web.faults = [503] * 9
    assert "the server answers 503 (Service Unavailable) (5 tries)" in refusal(web.url("/a.jsonl"), tmp_path)
    assert len(web.seen) == 5
    web.faults, web.files["/a.jsonl"], web.ranges = [("cut", 100)] * 9, LINES, False
    assert "the connection was cut (5 tries" in refusal(web.url("/a.jsonl"), tmp_path)
    web.faults = []
    message = refusal(web.url("/none.jsonl"), tmp_path)
    assert "404 (Not Found)" in message
    assert "tries" not in message
    message = refusal("http://127.0.0.1:9/a.jsonl", tmp_path)
    assert "the connection failed" in message
    assert sorted(os.listdir(tmp_path / "remote")) == []


@pytest.mark.parametrize("declared", [True, False])
def test_html_is_no_data(web: WebServer, tmp_path: Path, declared: bool) -> None:
    web.files["/a.jsonl"] = b"\n <!DOCTYPE html><html><body>Please log in"
    if declared:
        web.types["/a.jsonl"] = "text/html; charset=utf-8"
    assert "the answer is an HTML page, not data" in refusal(web.url("/a.jsonl"), tmp_path)
    web.files["/page.html"] = web.files["/a.jsonl"]
    assert fetch(web.url("/page.html"), tmp_path)[0] == web.files["/a.jsonl"]


def test_an_undeclared_size_is_said(web: WebServer, tmp_path: Path) -> None:
    web.files["/a.jsonl"], web.lengths = LINES, False
    content, note = fetch(web.url("/a.jsonl"), tmp_path)
    assert content == LINES
    assert "did not say how many" in note


@pytest.mark.parametrize(
    ("path", "kind", "suffix"),
    [
        ("/download", "application/x-ndjson", "download.jsonl"),
        ("/download", "text/csv; charset=utf-8", "download.csv"),
        ("/download", "application/octet-stream", "download"),
        ("/a.txt", "text/csv", "a.txt"),
        ("/a.jsonl.gz", "application/octet-stream", "a.jsonl.gz"),
        ("/", "application/json", "-.json"),
    ],
)
def test_the_kind_is_that_of_the_address_else_of_the_answer(
    web: WebServer, tmp_path: Path, path: str, kind: str, suffix: str
) -> None:
    web.files[path], web.types[path] = LINES, kind
    (located,) = localise([web.url(path)], tmp_path)
    assert located.files[0].name.endswith(suffix)


def test_an_encoded_answer_is_taken_as_what_it_is(web: WebServer, tmp_path: Path) -> None:
    web.files["/a.jsonl"] = gzip.compress(LINES)
    web.headers["/a.jsonl"] = {"Content-Encoding": "gzip"}
    web.types["/a.jsonl"] = "application/x-ndjson"
    (located,) = localise([web.url("/a.jsonl")], tmp_path)
    assert len(list(read_documents([str(located.files[0])]))) == 2000


def test_secrets_are_nowhere(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web.files["/a.jsonl"] = LINES
    url = web.url("/a.jsonl", user=f"me:{SECRET}@") + f"?token={SECRET}&x=1#{SECRET}"
    cache = tmp_path / "cache"
    data = prepare(DataRecipe(path=(url,), tokenizer="train:300"), model_name="preset:gpt2-1m", cache=cache)
    assert data.sources is not None
    written = [str(data.notes), str(data.sources), caplog.text]
    write_recipe(tmp_path / "recipe.yaml", Recipe(data=DataRecipe(path=(url,))))
    written += [str(path) for path in tmp_path.rglob("*")]
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in content
    assert all(SECRET not in text for text in written)
    # It was sent all the same, the password as a header and the query as it stood.
    path, headers = web.seen[0]
    assert path == f"/a.jsonl?token={SECRET}&x=1"
    assert headers["Authorization"].startswith("Basic ")
    for faults in ([404], [503] * 5, [("cut", 10)] * 5):
        web.faults, web.ranges = list(faults), False
        assert SECRET not in refusal(url + "2", cache)
    # What was written down says that something is missing.
    (kept,) = read_recipe(tmp_path / "recipe.yaml").data.path
    assert "the address's query is missing" in refusal(kept, cache)


def test_a_password_does_not_follow_a_redirect(web: WebServer, tmp_path: Path) -> None:
    web.files["/b.jsonl"] = LINES
    web.headers["/a.jsonl"] = {"Location": web.url("/b.jsonl")}
    web.faults = [302]
    assert fetch(web.url("/a.jsonl", user=f"me:{SECRET}@"), tmp_path)[0] == LINES
    assert ["Authorization" in headers for _, headers in web.seen] == [True, False]
    web.headers["/a.jsonl"] = {"Location": "file:///etc/passwd"}
    web.faults = [302]
    message = refusal(web.url("/a.jsonl?1"), tmp_path)
    assert "302" in message or "connection failed" in message


def test_a_damaged_copy_is_not_trained_on(web: WebServer, tmp_path: Path) -> None:
    web.files["/a.jsonl"] = LINES
    (located,) = localise([web.url("/a.jsonl")], tmp_path)
    located.files[0].write_bytes(LINES.replace(b"document 7", b"DOCUMENT 7"))
    with pytest.raises(DataError, match=r"the copy of .* in the cache is damaged"):
        survey([web.url("/a.jsonl")], tmp_path)
    located.files[0].write_bytes(b"short")  # of another size: fetched anew
    assert fetch(web.url("/a.jsonl"), tmp_path)[0] == LINES


def test_an_address_and_its_copy_are_the_same_data(web: WebServer, tmp_path: Path) -> None:
    web.files["/a.jsonl"] = LINES
    (tmp_path / "b.jsonl").write_bytes(LINES)
    (tmp_path / "b.txt").write_bytes(LINES)
    found = [survey([p], tmp_path).identity for p in (web.url("/a.jsonl"), *map(str, tmp_path.glob("b.*")))]
    assert len(found) == 3
    assert found[0] == survey([str(tmp_path / "b.jsonl")], tmp_path).identity
    assert found[0] != survey([str(tmp_path / "b.txt")], tmp_path).identity


# -- other file systems --------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Any:
    """fsspec's own in memory, emptied."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_files_folders_and_patterns_of_a_file_system(memory: Any, tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "picture.png"):
        memory.pipe(f"/data/{name}", json.dumps({"text": name}).encode())

    def texts(path: str) -> list[str | None]:
        files = [str(file) for file in localise([path], tmp_path)[0].files]
        return [document.text for document in read_documents(files)]

    assert texts("memory://data/a.jsonl") == ["a.jsonl"]
    assert texts("memory://data/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert texts("memory://data") == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]
    *notes, left_out = localise(["memory://data"], tmp_path)[0].notes
    assert all("not changed" in note for note in notes)
    assert left_out == "memory://data: 1 file is of another kind and not read (.png)"
    for name in ("a.txt", "b.csv", ".hidden/c.txt"):  # as of a folder on the disk
        memory.pipe(f"/mixed/{name}", name.encode())
    assert texts("memory://mixed") == ["a.txt"]
    memory.pipe("/data/a.jsonl", b'{"text": "new"}')
    assert texts("memory://data/a.jsonl") == ["new"]
    assert "no file matches" in refusal("memory://data/*.csv", tmp_path)
    assert "no such file" in refusal("memory://data/none.jsonl", tmp_path)
    assert ".png" not in str(os.listdir(tmp_path / "remote"))


def test_a_file_system_that_breaks_off(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("babygpt.data.transfer._FIRST_WAIT", 0.0)
    monkeypatch.setattr("babygpt.data.transfer._BLOCK", 10_000)
    memory.pipe("/a.jsonl", LINES)
    offsets: list[int] = []
    faults: list[Exception] = [OSError("reset"), TimeoutError("slow"), ConnectionError("gone")]
    inner = type(memory).open

    def opened(self: Any, path: str, mode: str, **options: Any) -> Any:
        stream = io.BytesIO(inner(self, path, mode).getvalue())
        reads = 0

        class Failing(io.BytesIO):
            def seek(self, at: int, whence: int = 0) -> int:
                offsets.append(at)
                return super().seek(at, whence)

            def read(self, size: int | None = -1) -> bytes:
                nonlocal reads
                reads += 1
                if reads == 3 and faults:
                    raise faults.pop()
                return super().read(size)

        return Failing(stream.getvalue())

    monkeypatch.setattr(type(memory), "open", opened)
    assert fetch("memory://a.jsonl", tmp_path)[0] == LINES
    assert offsets == [0, 20_000, 40_000, 60_000]


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    message = refusal(f"s3://me:{SECRET}@bucket/a.jsonl", tmp_path)
    assert "Install s3fs to access S3" in message
    assert SECRET not in message
    monkeypatch.undo()
    assert "Protocol not known: nosuch" in refusal("nosuch://a/b.jsonl", tmp_path)
    assert "Give its path without file://" in refusal("file:///etc/hosts", tmp_path)


class NoCredentialsError(Exception):
    """As a library of an object store has one."""


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (PermissionError("Forbidden"), "not allowed (Forbidden)"),
        (
            RuntimeError(f"NoCredentials https://a/b?sig={SECRET}"),
            "(RuntimeError: NoCredentials https://a/b?...",
        ),
        (FileNotFoundError("x"), "no such file"),
        (NoCredentialsError("Unable to locate credentials"), "not allowed (Unable to locate credentials)"),
    ],
)
def test_the_errors_of_a_file_system(error: Exception, found: str) -> None:
    class Broken:
        def invalidate_cache(self) -> None:
            raise error

    source = buckets.BucketSource(Broken(), "bucket/a.jsonl", f"s3://me:{SECRET}@bucket/a.jsonl")
    with pytest.raises(DataError) as raised, source.open(0, None):
        pass
    assert found in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("cause", "found"),
    [(TimeoutError(), "the store does not answer in time"), (OSError(16, "Slow down"), "Slow down")],
)
def test_what_a_library_makes_of_a_broken_connection_is_tried_again(cause: Exception, found: str) -> None:
    class Broken:
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            try:
                raise cause
            except OSError as error:
                return bytes(error.args[2])  # s3fs looks at arguments that a timeout lacks

    source = buckets.BucketSource(Broken(), "bucket/a.jsonl", "s3://bucket/a.jsonl")
    with pytest.raises(BrokenOffError) as raised:
        source.part(0, 8)
    assert str(raised.value) == found


# -- standard input ------------------------------------------------------------------------------------------


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives this process something on its standard input."""
    monkeypatch.setenv("BABYGPT_STANDARD_INPUT", "")

    def pipe(content: bytes, *, terminal: bool = False) -> None:
        monkeypatch.setattr(
            sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: terminal)
        )
        monkeypatch.setenv("BABYGPT_STANDARD_INPUT", "")

    return pipe


def test_standard_input_is_kept_by_content(piped: Any, tmp_path: Path) -> None:
    piped(b' \n{"text": "one"}\n{"text": "two"}\n')
    (located,) = localise(["-"], tmp_path)
    assert located.files[0].suffix == ".jsonl"
    assert "read as JSON lines because it begins with {" in located.notes[0]
    assert [document.text for document in read_documents([str(located.files[0])])] == ["one", "two"]
    # It can be read only once, and is asked for more often.
    assert localise(["-"], tmp_path) == [located], "and how it was read is told by whoever asks last"
    piped(b"just text\r\n")
    (text,) = localise(["-"], tmp_path)
    assert text.files[0].read_bytes() == b"just text\r\n"
    assert "read as one text" in text.notes[0]
    assert text.files[0].suffix == ".txt"


def test_further_processes_of_a_run_read_what_the_first_kept(
    piped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(b"text")
    (first,) = localise(["-"], tmp_path)
    owner, name = os.environ["BABYGPT_STANDARD_INPUT"].split(":")
    monkeypatch.setenv("BABYGPT_STANDARD_INPUT", f"{int(owner) + 1}:{name}")
    piped_elsewhere = "the first process of a run only"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert localise(["-"], tmp_path)[0].files == first.files
    monkeypatch.setenv("BABYGPT_STANDARD_INPUT", "")
    assert piped_elsewhere in refusal("-", tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "standard input is empty"),
        (b" \n\n", "standard input is empty"),
        (gzip.compress(b"text", mtime=0), "standard input looks like gzip"),
        (b"PAR1....", "standard input looks like Parquet"),
    ],
)
def test_standard_input_that_is_no_text(piped: Any, tmp_path: Path, content: bytes, found: str) -> None:
    piped(content)
    assert found in refusal("-", tmp_path)
    assert os.listdir(tmp_path / "remote") == []


def test_a_terminal_is_not_waited_for(piped: Any, tmp_path: Path) -> None:
    piped(b"", terminal=True)
    assert "standard input is a terminal" in refusal("-", tmp_path)
