"""Bounds for what others' programs may take: seconds, where the system has timers, and memory, where it has limits."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bounded"]


@contextmanager
def bounded(spare: int) -> Iterator[Callable[[float], None]]:
    """Bounds memory, and gives what ends whatever takes more than some seconds from then on; 0 takes it back.

    A thread other than the main one has no timer, and a system without limits no bound of memory.

    Args:
        spare: bytes of address space that may be added to what is in use.
    """
    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    with _limited_memory(spare):
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
def _limited_memory(spare: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    with open("/proc/self/statm", "rb") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    least = min(limit for limit in (size + spare, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
