"""One process at a time in a run folder, and a word about one that could not say any."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from babygpt.errors import InputError
from babygpt.training.alive import alone_in, is_at_work, noted

HOLDS = """
import os, sys, time
from pathlib import Path
from babygpt.training.alive import alone_in, noted
out = Path(sys.argv[1])
with alone_in(out), noted(out, 16, print):
    begun, begins = os.pipe()
    if os.fork() == 0:
        os.write(begins, b"!")
        time.sleep(20)  # a worker that outlives its parent
        os._exit(0)
    os.read(begun, 1)  # only then has it let go of what it was forked with
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")
def test_a_second_process_is_kept_out_until_the_first_ends(
    tmp_path: Path, held: subprocess.Popen[str]
) -> None:
    with pytest.raises(InputError, match="another process is training in it"), alone_in(tmp_path):
        pytest.fail("it is held")
    held.send_signal(signal.SIGKILL)
    held.wait()
    held.stdout.close()  # type: ignore[union-attr]
    before = {p: p.stat().st_mtime_ns for p in [tmp_path, *tmp_path.iterdir()]}
    with alone_in(tmp_path):
        assert {p: p.stat().st_mtime_ns for p in [tmp_path, *tmp_path.iterdir()]} == before
    said: list[str] = []
    with noted(tmp_path, 8, said.append):
        assert json.loads((tmp_path / "process.json").read_text()) == {"pid": os.getpid(), "micro_batch": 8}
    (words,) = said
    assert f"({held.pid}) ended without a word" in words
    assert "--machine.micro_batch than 16" in words
    with noted(tmp_path, 8, pytest.fail):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")
def test_whoever_only_looks_keeps_nobody_out(tmp_path: Path) -> None:
    import fcntl

    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.02, os.close, [looking])
    timer.start()
    with alone_in(tmp_path):
        assert is_at_work(tmp_path)
    timer.join()
    assert not is_at_work(tmp_path)


def test_an_error_takes_the_note_away(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), noted(tmp_path, 8, pytest.fail):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_note_that_was_cut_off_is_one_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "process.json").write_text(text)
    said: list[str] = []
    with noted(tmp_path, 8, said.append):
        pass
    assert "the last process ended without a word" in said[0]


def test_of_a_folder_that_may_not_be_read_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("babygpt.training.alive.os.open", refused)
    assert not is_at_work(tmp_path)


def test_where_there_is_no_folder_there_is_nothing_to_hold(tmp_path: Path) -> None:
    begun = time.monotonic()
    with alone_in(tmp_path / "missing"):
        assert time.monotonic() - begun < 5
