"""The thread that writes checkpoints: in order, errors where they are asked for, nothing behind a failure."""

from __future__ import annotations

import threading

import pytest

from babygpt.training.writer import BackgroundWriter


def test_works_are_done_in_order_beside_the_caller() -> None:
    writer, done, go = BackgroundWriter(), [], threading.Event()
    writer.submit(lambda: go.wait(10))
    for number in range(50):
        writer.submit(lambda number=number: done.append((number, threading.current_thread().name)))
    assert done == [], "submitting waits for nothing"
    go.set()
    writer.wait()
    assert done == [(number, "checkpoint-writer") for number in range(50)]
    writer.submit(lambda: done.append("again"))
    writer.wait()
    assert done[-1] == "again"


def test_an_error_is_raised_once_and_takes_what_waits_with_it() -> None:
    writer, done = BackgroundWriter(), []
    go = threading.Event()

    def fails() -> None:
        go.wait(10)
        raise OSError("no")

    writer.submit(fails)
    writer.submit(lambda: done.append("behind"))
    writer.check()
    go.set()
    writer.join()
    with pytest.raises(OSError, match="no"):
        writer.check()
    writer.check()
    assert done == []
    writer.submit(lambda: done.append("after"))
    writer.wait()
    assert done == ["after"]


def test_without_room_for_a_thread_the_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("no")

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    writer, done = BackgroundWriter(), []
    writer.submit(lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]
    writer.submit(fails)
    with pytest.raises(OSError, match="no"):
        writer.wait()
    writer.submit(lambda: done.append("after"))
    assert done[1:] == ["after"]
