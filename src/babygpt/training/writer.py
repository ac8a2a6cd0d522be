"""A thread that writes checkpoints while training goes on.

Whatever is submitted runs in order on one thread. A piece of work that fails takes what waits behind it with it,
and its error is raised where the trainer next looks: at the end of the step under way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["BackgroundWriter"]


class BackgroundWriter:
    """Runs pieces of work one after the other, beside the training thread.

    The thread does not keep a process alive: one that is told to stop at once leaves a half-written hidden folder,
    which is no checkpoint and is cleared up later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], object]) -> None:
        """Has the work done after everything submitted before; returns at once.

        Where memory, or a limit, leaves no room for a thread the work is done before this returns.
        """
        with self._lock:
            self._works.append(work)
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="checkpoint-writer", daemon=True)
            try:
                thread.start()  # it waits for the lock, and is known before it can be over
            except RuntimeError:
                pass
            else:
                self._thread = thread
                return
        self._run()

    def check(self) -> None:
        """Raises the error of work that failed, once; does not wait."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def join(self) -> None:
        """Returns when nothing is left to do; raises nothing."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def wait(self) -> None:
        """Returns when everything submitted is done, or raises the error of what failed."""
        self.join()
        self.check()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._error is not None:
                    self._works.clear()
                if not self._works:
                    self._thread = None
                    return
                work = self._works.popleft()
            try:
                work()
            except BaseException as error:  # raised again by check, in the training thread
                self._error = error
