"""Processes that meet, here as threads: what the first tells, who waits, who ends and who gives the reason."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from babygpt.errors import BabyGPTError, DataError, Ended, NotFiniteError, Stopped
from babygpt.launch import Launch
from babygpt.training import meeting as module
from babygpt.training import stores
from babygpt.training.guards import SignalGuard
from babygpt.training.meeting import Meeting, Told, meeting
from babygpt.training.restarts import Begun

TOLD = Told("/runs/one", "/runs/one/checkpoints/step-000003")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "_LINGER_SECONDS", 2.0)
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_USE_AGENT_STORE",
    ):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)


@pytest.fixture
def start() -> Iterator[Callable[..., list[Future[Any]]]]:
    """Starts what each process does once it has met the others; the first is number 0."""
    with ThreadPoolExecutor(4) as pool, socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        held.close()

        def one(rank: int, world: int, work: Callable[[Meeting], Any]) -> Any:
            launch = Launch("torchrun", rank, rank, 0, world, 1, "127.0.0.1", port)
            with meeting(launch, 1, SignalGuard()) as others:
                return work(others)

        yield lambda *work: [pool.submit(one, rank, len(work), each) for rank, each in enumerate(work)]


def fails(error: Exception, *, together: bool = False) -> Callable[[Meeting], None]:
    def work(others: Meeting) -> None:
        if together:
            others.gather(others._count)
        raise error

    return work


def hears(others: Meeting) -> Told:
    told = others.hear()
    others.gather(others._count)
    return told


def tells(others: Meeting) -> None:
    others.tell(TOLD)
    others.gather(others._count)


def outcome(future: Future[Any]) -> tuple[int, str]:
    error = future.exception(timeout=20)
    assert isinstance(error, BabyGPTError), error
    return error.exit_code, str(error)


def test_the_first_tells_all_which_run_it_is(start: Any) -> None:
    first, *others = start(tells, hears, hears)
    assert first.exception(timeout=20) is None
    assert [other.result(timeout=20) for other in others] == [TOLD, TOLD]


def test_nobody_trains_before_all_are_there(start: Any) -> None:
    order: list[str] = []

    def quick(others: Meeting) -> None:
        tells(others)
        order.append("first")

    def slow(others: Meeting) -> None:
        others.hear()
        time.sleep(0.3)
        order.append("slow")
        others.gather(others._count)

    for future in start(quick, slow):
        future.result(timeout=20)
    assert order == ["slow", "first"]


def test_a_refusal_of_the_first_ends_all_with_its_code(start: Any) -> None:
    first, *others = start(fails(DataError("no text", where="notes.txt")), hears, hears)
    assert outcome(first) == (2, "notes.txt: no text.")
    assert [outcome(other) for other in others] == 2 * [(2, "")], "it is said once"


def test_the_first_speaks_for_another_while_all_wait(start: Any) -> None:
    first, refuses, waits = start(tells, fails(DataError("not there", where="/data")), hears)
    assert outcome(first) == (2, "process 1: /data: not there.")
    assert [outcome(each) for each in (refuses, waits)] == 2 * [(2, "")]


def test_a_fault_of_ours_is_told_where_it_is(start: Any) -> None:
    """Its traceback is there only."""
    first, fault = start(tells, fails(ZeroDivisionError("here")))
    assert isinstance(fault.exception(timeout=20), ZeroDivisionError)
    assert outcome(first) == (1, "")


@pytest.mark.parametrize("error", [Stopped(15), NotFiniteError("ten in a row")])
def test_what_all_raise_in_training_is_said_by_the_first(start: Any, error: Exception) -> None:
    def trains(others: Meeting) -> None:
        others.tell(TOLD)
        others.gather(others._count)
        time.sleep(0.2)  # it saves, and is the last to end
        raise error

    first, other = start(trains, fails(error, together=True))
    code = 143 if isinstance(error, Stopped) else 1
    assert outcome(first) == (code, str(error))
    assert outcome(other) == (code, "")


def test_in_training_the_one_that_fails_first_gives_the_reason(start: Any) -> None:
    failed = threading.Event()

    def consequence(others: Meeting) -> None:
        others.gather(others._count)
        failed.wait()
        time.sleep(0.2)
        raise RuntimeError("connection closed by peer")

    def cause(others: Meeting) -> None:
        others.gather(others._count)
        failed.set()
        raise DataError("a file is gone", where="a.txt")

    first, other = start(consequence, cause)
    assert outcome(other) == (2, "a.txt: a file is gone.")
    assert outcome(first) == (2, "")


def test_who_is_silent_knows_the_reason(start: Any) -> None:
    """torchrun may ask any of them for it."""
    first, other = start(fails(DataError("no text", where="notes.txt")), hears)
    assert outcome(first) == (2, "notes.txt: no text.")
    ended = other.exception(timeout=20)
    assert isinstance(ended, Ended)
    assert (str(ended), ended.reason) == ("", "process 0: notes.txt: no text.")


def test_a_process_that_is_killed_is_told_of_by_the_others(start: Any) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer.\nMore of it")
    first, other = start(fails(lost, together=True), fails(lost, together=True))
    said = [outcome(each) for each in (first, other)]
    assert [code for code, _ in said] == [1, 1]
    (message,) = [message for _, message in said if message]
    assert "another process of the run is gone without a word" in message
    assert "--resume" in message
    assert message.endswith(
        "(RuntimeError: [gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer.)"
    )


def test_a_restart_meets_at_a_store_of_its_own_and_knows_what_was_begun() -> None:
    """torchrun's store still holds what the start before has left there."""
    torchruns = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    torchruns.set("default_pg/0/address", "of a process that is gone")
    begun, kept, seen = Begun("/runs/one", "seed: 0"), [], []

    def one(rank: int, restart: int) -> None:
        launch = Launch(
            "torchrun", rank, rank, 0, 2, 1, "127.0.0.1", torchruns.port, restart, restarts=1, has_store=True
        )
        with meeting(launch, 1, SignalGuard()) as others:
            if rank == 0:
                kept.append(others.kept())
                others.keep(begun)
            others.gather(others._count)
        if restart:
            port = int(os.environ["MASTER_PORT"])
            seen.append((port, os.environ["TORCHELASTIC_USE_AGENT_STORE"]))

    for restart in (0, 1):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, (0, 1), (restart, restart)))
    assert kept == [None, begun]
    assert len(set(seen)) == 1
    assert seen[0][0] != torchruns.port
    assert seen[0][1] == "False", "torch's process group meets where its first process opens the store"


def test_a_signal_ends_the_waiting() -> None:
    guard = SignalGuard()
    found = Meeting(Launch(), guard, 2)
    found.open_here()
    guard._handle(15, None)
    with pytest.raises(Stopped):
        found.gather(2)


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        launch = Launch("srun", 0, 0, 0, 2, 1, "127.0.0.1", port)
        with (
            pytest.raises(BabyGPTError, match=f"cannot meet at 127.0.0.1:{port}"),
            meeting(launch, 1, SignalGuard()),
        ):
            pass


@pytest.mark.parametrize("launch", [Launch(), Launch(rank=1, local_rank=1), Launch(rank=1, node=1)])
def test_several_that_do_not_know_where_they_meet_are_refused(launch: Launch) -> None:
    nodes = 2 if launch.is_first else 1
    with (
        pytest.raises(BabyGPTError, match="nothing says where they meet"),
        meeting(launch, nodes, SignalGuard()),
    ):
        pass


def test_one_process_meets_nobody() -> None:
    with meeting(Launch(), 1, SignalGuard()) as others:
        assert not others.is_open
        others.tell(TOLD)
        others.gather(others._count)
    assert "MASTER_PORT" not in os.environ


def test_paths_are_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BABYGPT_STANDARD_INPUT", "7:stdin-0.txt")
    found = module.told_of(Path("runs/one"), None)
    assert found == Told(str(tmp_path / "runs" / "one"), None, "7:stdin-0.txt")
    assert isinstance(Ended(3), BabyGPTError)
