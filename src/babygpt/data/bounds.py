"""Bounds for what others' programs may take: seconds, where the system has timers, and memory, where it has limits.

The system limits a process and not a thread. So the limit is 3 GiB on top of what is in use, for others' programs and
for whoever works beside them in this process: more than enough for a batch that is encoded, and soon reached by a
program that wants everything. It counts what can be written to, not addresses: these are reserved by the gigabyte, as
by each thread that allocates for the first time.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["MEMORY", "bounded"]

MEMORY = 3 << 30


@contextmanager
def bounded() -> Iterator[Callable[[float], None]]:
    """Bounds memory, and gives what ends whatever takes more than some seconds from then on; 0 takes it back.

    A thread other than the main one has no timer, and a system without limits no bound of memory.
    """
    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    with _limited_memory():
        if not timed:
            yield lambda seconds: None
            return

        given = 0.0

        def late(signum: int, frame: object) -> None:
            raise TimeoutError(f"it takes more than {given:g} seconds")

        def alarm(seconds: float) -> None:
            nonlocal given
            given = seconds or given
            signal.setitimer(signal.ITIMER_REAL, seconds)

        before = signal.signal(signal.SIGALRM, late)
        try:
            yield alarm
        finally:
            alarm(0)
            signal.signal(signal.SIGALRM, before)


@contextmanager
def _limited_memory() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    with open("/proc/self/statm", "rb") as file:
        size = int(file.read().split()[5]) * resource.getpagesize()  # of what can be written to
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    least = min(limit for limit in (size + MEMORY, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
