"""Hub data sets through the real `datasets` library and a hub of files on this computer."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from babygpt.data import several
from babygpt.data.hub_datasets import HubName, hub_name
from babygpt.data.remote import is_remote, localise
from babygpt.errors import DataError
from hub_server import HubServer, hub_server

TALES = [
    f"tale {number}: " + os.urandom(8000).hex() for number in range(120)
]  # long, so that files are large
TALKS = [
    {"messages": [{"role": "user", "content": "ö?"}, {"role": "assistant", "content": str(n)}]}
    for n in range(9)
]

# A process of its own, since the hub's libraries read their variables when they are imported. A line is a path;
# with a second argument it is killed once so many of 100 rows have come.
ASKING = """
import json, os, signal, sys
from pathlib import Path
from babygpt.data import hub_datasets, hub_rows
from babygpt.data.remote import localise
from babygpt.errors import DataError

hub_rows._COMMIT_SECONDS = 0.0 if sys.argv[2] else 60.0  # 0: after each row
said = []

def say(text):
    said.append(text)
    if sys.argv[2] and text.endswith(f": {sys.argv[2]} of 100 rows came"):
        os.kill(os.getpid(), signal.SIGKILL)

for path in map(str.strip, sys.stdin):
    said.clear()
    try:
        if path.endswith("]"):
            (found,) = localise([path], Path(sys.argv[1]), say)
            answer = {"file": str(found.files[0]), "note": found.notes[0], "said": said[:1]}
        else:
            answer = {"rows": list(hub_datasets.open_hub(path)["text"])}
    except DataError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


@contextmanager
def asking(hub: HubServer, home: Path, killed_after: str = "") -> Iterator[Callable[[str], Any]]:
    """Gives what tells a process a path and returns its answer; None once it was killed."""
    environment = {**os.environ, **hub.environment, "HF_HOME": str(home / "hf"), "USE_TORCH": "0"}
    command = [sys.executable, "-c", ASKING, str(home / "cache"), killed_after]
    with subprocess.Popen(
        command, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True
    ) as process:

        def ask(path: str) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            return json.loads(line) if line else None

        yield ask
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if killed_after else 0), errors


def table(texts: list[str]) -> bytes:
    """Parquet with a picture beside the text."""
    out = io.BytesIO()
    rows = [{"text": text, "picture": {"bytes": b"\x89PNG", "path": None}} for text in texts]
    parquet.write_table(pa.Table.from_pylist(rows), out, row_group_size=10)
    return out.getvalue()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as running:
        files = {f"data/train-{n}-of-3.parquet": table(TALES[n * 40 :][:40]) for n in range(3)}
        running.repositories["ann/tales"] = files
        both = {
            "data/train-0-of-1.parquet": table(["not asked for"]),
            "data/validation-0-of-1.parquet": table(["held out"]),
        }
        running.repositories["ann/few"] = both
        head = "---\nconfigs:\n- config_name: talks\n  data_files: talks.jsonl\n---\n"
        lines = "".join(json.dumps(talk) + "\n" for talk in TALKS)
        running.repositories["ann/talks"] = {"README.md": head.encode(), "talks.jsonl": lines.encode()}
        yield running


def rows_of(file: str) -> list[Any]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def test_rows_are_fetched_once_and_a_killed_process_is_gone_on_from(hub: HubServer, tmp_path: Path) -> None:
    part, copies = "ann/tales[:100]", tmp_path / "cache" / "remote"
    commit, size = hub.commit("ann/tales"), len(hub.repositories["ann/tales"]["data/train-0-of-3.parquet"])
    with asking(hub, tmp_path, killed_after="55") as ask:
        assert ask(part) is None
    assert [path.name for path in copies.iterdir() if path.suffix == ".jsonl"] == []
    assert hub.bytes_of("train-2-of-3.parquet") == 0
    hub.sent.clear()
    with asking(hub, tmp_path) as ask:
        first = ask(part)
        before = "going on after the 55 that came before"
        assert first["said"] == [f"{part}: fetching the first 100 rows, {before}"]
        assert first["note"].startswith(f"{part}: rows 1 to 100 of commit {commit}, ")
        assert [row["text"] for row in rows_of(first["file"])] == TALES[:100]
        # Of the file in which it was killed, at its 15th row, the first of four groups of ten rows is not read again.
        assert hub.bytes_of("train-0-of-3.parquet") == 0
        assert size * 0.7 < hub.bytes_of("train-1-of-3.parquet") < size * 0.9
        again = ask(part)
        assert (again["file"], again["said"]) == (first["file"], [])
        assert again["note"] == f"{part}: commit {commit} as before, the rows in the cache are used"

        few = ask("ann/few::validation[:7]")
        assert few["note"].startswith("ann/few::validation[:7]: rows 1 to 1 of commit ")
        assert few["note"].endswith(" MB; it has no more")
        assert (
            [row["text"] for row in rows_of(few["file"])]
            == ask("ann/few::validation")["rows"]
            == ["held out"]
        )
        assert rows_of(ask("ann/talks:talks[:5]")["file"]) == TALKS[:5]
        unknown = "ann/few::test[:5]: the data set has no split named test; it has: train, validation."
        assert ask("ann/few::test[:5]") == {"error": unknown}
        assert len(list(copies.iterdir())) == 6  # a copy and an entry each, nothing half-written

        hub.sent.clear()
        hub.cut_after = size  # before the last of four groups of rows
        broken = ask("ann/tales[:90]")["error"]
        assert broken.startswith("ann/tales[:90]: the hub's data set cannot be streamed (")
        assert broken.endswith("Start again later: what came is gone on with.")
        hub.cut_after = None
        mended = ask("ann/tales[:90]")
        assert mended["said"] == [
            "ann/tales[:90]: fetching the first 90 rows, going on after the 30 that came before"
        ]
        assert [row["text"] for row in rows_of(mended["file"])] == TALES[:90]

        # This process has HF_HUB_OFFLINE=1.
        (offline,) = localise([part], tmp_path / "cache")
        assert str(offline.files[0]) == first["file"]
        assert offline.notes[0] == f"{part}: the rows in the cache are used, of commit {commit}"
        with pytest.raises(DataError, match="the hub cannot be reached"):
            localise(["ann/tales[:101]"], tmp_path / "cache")

        hub.repositories["ann/tales"]["data/train-0-of-3.parquet"] = table(TALES[1:40])
        newer = ask(part)
        assert [row["text"] for row in rows_of(newer["file"])] == TALES[1:101]
        assert hub.commit("ann/tales") in newer["note"]
        assert not Path(first["file"]).exists()


def test_names_of_hub_data_sets() -> None:
    assert hub_name("a/b") == HubName("a/b", None, None, None)
    assert hub_name("b:c") == HubName("b", "c", None, None)
    assert hub_name("a/b:c:d[:12]") == HubName("a/b", "c", "d", 12)
    assert hub_name("a/b::d") == HubName("a/b", None, "d", None)
    for name in ("a/b[:0]", "a/b[:1%]", "a/b[5:]", "a/b:c[:-1]"):
        with pytest.raises(DataError, match="not a number of rows"):
            hub_name(name)
    with pytest.raises(DataError, match="nor a data set's name"):
        hub_name("a/b/c")


def test_what_is_a_part_of_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/b[:5]", "a:c[:5]", "a/b:c:d[:1%]"):
        assert is_remote(path)
    for path in ("a/b", "./b[:5]", "/a[:5]", "a/b/c[:5]", "x*[:5]", "a[0-9]", "a[:5].txt"):
        assert not is_remote(path)
    (tmp_path / "b[:5]").touch()
    assert not is_remote("b[:5]")  # a file of this name
    assert several.names_of(["a/b[:5]", "a/b:c[:500]"]) == ("b", "c")
