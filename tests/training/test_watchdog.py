"""A process that hangs ends, with the stacks of its threads; one that moves does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from babygpt.training.watchdog import Watchdog


def run(code: str) -> tuple[subprocess.CompletedProcess[str], float]:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, time.monotonic() - begun


def test_a_thread_that_waits_for_ever_is_shown_and_ended() -> None:
    done, _ = run(
        """
        import threading
        from babygpt.training.watchdog import Watchdog

        def waits_for_what_never_comes():
            threading.Event().wait()

        with Watchdog(0.5).watching():
            waits_for_what_never_comes()
        """
    )
    assert done.returncode == 1
    assert "stalled: nothing was done for" in done.stderr
    assert "waits_for_what_never_comes" in done.stderr


def test_progress_of_any_kind_keeps_it_quiet_and_its_end_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, seconds: ends.append(seconds))
    watchdog = Watchdog(1.0)
    with watchdog.watching():
        for hook in (
            *("train_batch_end", "validation_batch_end", "validation_end", "save_checkpoint"),
            "train_start",
        ):
            time.sleep(0.4)
            getattr(watchdog, f"on_{hook}")(None, None)
    time.sleep(1.5)
    assert ends == []


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("reader", [True, False])
def test_the_end_shows_a_terminals_cursor_and_needs_no_reader(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, reader: bool
) -> None:
    written, ended = [], []

    def write(descriptor: int, data: bytes) -> int:
        if not reader:
            raise BrokenPipeError
        written.append(data)
        return len(data)

    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("faulthandler.dump_traceback", lambda *args, **kwargs: None)
    Watchdog(1.0)._end(1.0)
    assert ended == [1]
    assert [data.startswith(b"\x1b[?25h") for data in written] == ([terminal] if reader else [])


def test_without_a_time_it_never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Thread", pytest.fail)
    with Watchdog(None).watching():
        pass


def loader_workers(parent: int) -> list[int]:
    """Child processes of a process, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for whoever inherited it to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found by /proc")
@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
def test_a_loader_worker_that_is_gone_ends_the_run(tiny_gpt2: Path, tmp_path: Path, signum: int) -> None:
    (tmp_path / "text.txt").write_text("".join(f"Line {n} of {n % 7}.\n" for n in range(20_000)))
    fields: dict[str, Any] = {
        "model.name": tiny_gpt2,
        "data.path": tmp_path / "text.txt",
        "data.block": 32,
        "data.global_batch_size": 2,
        "budget.steps": 1_000_000,
        "validate.batches": 1,
        "machine.device": "cpu",
        "machine.workers": 1,
        "machine.stall_minutes": 0.1,
        "out": tmp_path / "run",
    }
    args = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    with (tmp_path / "err.txt").open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "babygpt", "train", *args], stderr=err)
    try:
        deadline = time.monotonic() + 120
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and '"step": 20' in metrics.read_text()):
            assert process.poll() is None, (tmp_path / "err.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (worker,) = loader_workers(process.pid)
        os.kill(worker, signum)
        assert process.wait(timeout=60) == 1
        deadline = time.monotonic() + 30  # it has been killed; on a busy computer it takes a moment to go
        while not ended(worker):
            assert time.monotonic() < deadline, "the worker outlives its run"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "err.txt").read_text()
    assert ("stalled" in said) == (signum == signal.SIGSTOP), said[-3000:]
