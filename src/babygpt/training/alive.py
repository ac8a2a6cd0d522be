"""Who is at work in a run folder: one process at a time, and whether the last one ended without a word.

The folder itself is locked, so that nothing has to be written for it and the system lets go of it however a process
ends. A note with the process's number lies in the folder while it trains; one that is found there later belongs to a
process that could not take it away.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from babygpt.errors import InputError
from babygpt.files import write_json_atomic

try:
    import fcntl
except ImportError:  # Windows cannot lock a folder
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone_in", "is_at_work", "noted"]

_NOTE = "process.json"
_held: set[int] = set()


def _let_go() -> None:
    """Of a forked process, a loader's worker for one: it would hold the lock for longer than its parent lives."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder, where the system can.

    Raises:
        InputError: another one is at work in it.
    """
    if fcntl is None:
        yield
        return
    if not out.is_dir():
        yield
        return
    descriptor = os.open(out, os.O_RDONLY)
    _held.add(descriptor)
    try:
        if not _locked(descriptor):
            raise InputError(
                "another process is training in it",
                where=str(out),
                hint="Wait for its end, or end it: Ctrl-C and SIGTERM save first",
            )
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether the lock was to be had; whoever only looks at the run holds it for a moment."""
    for wait in (0.05, 0.15, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is not None:
                time.sleep(wait)
        except OSError:
            return True  # a file system without locks
        else:
            return True
    return False


def is_at_work(out: Path) -> bool:
    """Whether a process trains in a run folder, as far as this system can tell."""
    if fcntl is None:
        return False
    if not out.is_dir():
        return False
    try:
        descriptor = os.open(out, os.O_RDONLY)
    except OSError:  # it has gone since, or may not be read
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(descriptor)
    return False


@contextmanager
def noted(out: Path, micro_batch: int, say: Callable[[str], None]) -> Iterator[None]:
    """Leaves a note in a run folder for as long as this process trains, and tells of one that was left behind.

    Args:
        out: the run folder.
        micro_batch: of the plan.
        say: tells the user.
    """
    path = out / _NOTE
    if path.is_file():
        say(f"resume: {_last_words(path)}")
    write_json_atomic(path, {"pid": os.getpid(), "micro_batch": micro_batch})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _last_words(path: Path) -> str:
    who, advice = "the last process", "give a smaller --machine.micro_batch"
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        who, advice = f"{who} ({int(note['pid'])})", f"{advice} than {int(note['micro_batch'])}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # cut off itself
    return (
        f"{who} ended without a word: it was killed, by the system for want of memory perhaps, or the power"
        f" failed. If memory was short, {advice}"
    )
