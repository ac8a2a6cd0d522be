"""A process that makes no progress ends, and shows where it hung.

A loader worker that was stopped, a rank that went away, a disk that does not answer: each leaves the training thread
waiting for ever, and a cluster paying for it. Here a thread looks on: when no batch, no validation batch and no save
has ended for the time given, it shows the stacks of all threads and ends the process with exit code 1. Checkpoints
are whole at any instant, so that nothing finished is lost.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import lightning as L

__all__ = ["Watchdog"]


class Watchdog(L.Callback):
    """Ends the process when nothing has moved for too long.

    Args:
        seconds: longest time without a sign of progress; None never ends it. It is noticed at most a tenth of
            that, and at most a second, later.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._last = time.monotonic()
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks on for a while."""
        if self._seconds is None:
            yield
            return
        self._over.clear()
        self._beat()
        thread = threading.Thread(target=self._look_on, args=(self._seconds,), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()

    def on_train_start(self, *args: Any) -> None:
        """A sign of progress, as is each of the following."""
        self._beat()

    def on_train_batch_end(self, *args: Any) -> None:
        """A micro-batch is done."""
        self._beat()

    def on_validation_batch_end(self, *args: Any) -> None:
        """A batch of a validation is done."""
        self._beat()

    def on_validation_end(self, *args: Any) -> None:
        """A validation is done, with its sample."""
        self._beat()

    def on_save_checkpoint(self, *args: Any) -> None:
        """A save has begun, so that the one before it is done."""
        self._beat()

    def _beat(self) -> None:
        self._last = time.monotonic()

    def _look_on(self, seconds: float) -> None:
        while not self._over.wait(min(1.0, seconds / 10)):
            if time.monotonic() - self._last >= seconds:
                self._end(seconds)

    def _end(self, seconds: float) -> None:
        workers = multiprocessing.active_children()
        # What stays in place on a terminal has hidden its cursor, and has no time to show it again.
        cursor = "\x1b[?25h" if os.isatty(2) else ""
        _write(
            f"{cursor}\nbabygpt train: stalled: nothing was done for {seconds:,.1f} s (machine.stall_minutes)."
            " Where each thread was waiting stands below; go on with --resume.\n".encode(),
        )
        faulthandler.dump_traceback(2, all_threads=True)
        for worker in workers:
            worker.kill()
        os._exit(1)


def _write(message: bytes) -> None:
    """Whoever read it may have gone; the process ends all the same."""
    with suppress(OSError):
        os.write(2, message)
