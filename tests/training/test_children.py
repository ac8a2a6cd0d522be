"""What becomes of a run whose further processes end, here programs of one line."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading

import pytest

from babygpt.errors import MachineError
from babygpt.launch import Launch
from babygpt.settings import TrainSettings
from babygpt.training import children as module
from babygpt.training.children import assembled
from babygpt.training.guards import SignalGuard
from babygpt.training.meeting import Meeting

SET = threading.Event()
SET.set()


class Exited(BaseException):
    """In place of the end of this process."""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(os, "_exit", leave)


def programs(*texts: str) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-S", "-c", text]) for text in texts]


@pytest.mark.parametrize(
    ("ends", "code", "words"),
    [
        ("raise SystemExit(2)", 2, "process 2 of this computer has ended (2)"),
        ("import os; os.kill(os.getpid(), 9)", 1, "process 2 of this computer has ended (-9)"),
    ],
)
def test_a_failure_ends_a_process_that_waits_in_vain(ends: str, code: int, words: str) -> None:
    found, said = programs("import time; time.sleep(60)", ends), []
    with pytest.raises(Exited) as caught:
        module._look_on(found, SET, threading.Event(), said.append)
    assert caught.value.args == (code,)
    assert [words in line for line in said] == [True]
    assert found[0].wait(20) == -9, "the other children go with it"


def test_a_process_that_ends_by_itself_is_let_be() -> None:
    over = threading.Event()
    over.set()
    found = programs("raise SystemExit(2)")
    found[0].wait(20)
    module._look_on(found, SET, over, pytest.fail)


def test_ends_that_are_none_of_a_failure() -> None:
    """Of a run that is done, and of one that was stopped by SIGTERM and saves."""
    over = threading.Event()
    found = programs("", "raise SystemExit(143)")
    for child in found:
        child.wait(20)
    threading.Timer(0.2, over.set).start()
    module._look_on(found, SET, over, pytest.fail)


def test_a_program_that_ends_before_it_comes_to_the_run_has_failed() -> None:
    """It would be waited for without end."""
    found, said = programs(""), []
    with pytest.raises(Exited) as caught:
        module._look_on(found, threading.Event(), threading.Event(), said.append)
    assert caught.value.args == (1,)
    assert "process 1 of this computer has ended (0)" in said[0]


@pytest.mark.parametrize("name", ["", "-"])
def test_what_is_in_no_file_cannot_be_started_once_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    with (
        pytest.raises(MachineError, match=r"machine\.devices: 2 devices need as many processes.*in no file"),
        assembled(Meeting(Launch(), SignalGuard(), 1), 2, 1, pytest.fail),
    ):
        pass


@pytest.mark.parametrize(
    "launch", [Launch(), Launch(rank=1, local_rank=1), Launch("torchrun", devices=2, nodes=1)]
)
def test_a_process_is_one_of_several_once(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of a second run would take it for the first."""
    verb = importlib.import_module("babygpt.train")
    monkeypatch.setattr(verb, "launched", lambda: launch)
    monkeypatch.setattr(verb, "_one_of_several", SET)
    with pytest.raises(MachineError, match="done a run on several devices already"):
        verb.train(TrainSettings())


def test_a_child_ends_once_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(Exited) as caught:
        module._outlive(7)
    assert caught.value.args == (1,)
    assert next(parents, None) is None, "as long as it was there the child went on"


@pytest.mark.parametrize(
    "launch", [Launch(), Launch(rank=1, local_rank=1), Launch("torchrun", devices=2, nodes=1)]
)
def test_only_the_first_of_a_computer_starts_others_and_only_where_nobody_has(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["program.py"])
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-S", "-c", "import os; print(os.environ['LOCAL_RANK'])"]
    )
    started: list[str] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.append(f"{env['NODE_RANK']} {env['LOCAL_RANK']} {env['WORLD_SIZE']}")
            super().__init__(command, env=env, stdout=subprocess.DEVNULL)
            self.wait(20)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    devices = 1 if launch == Launch() else 2
    with assembled(Meeting(launch, SignalGuard(), 1), devices, 1, pytest.fail):
        assert started == []
    if launch == Launch():
        with assembled(Meeting(launch, SignalGuard(), 1), 3, 1, pytest.fail):
            assert started == ["0 1 3", "0 2 3"]
