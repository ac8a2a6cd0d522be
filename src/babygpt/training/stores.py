"""Where the processes of a run meet: key-value stores of torch (TCPStore), each a server in one process.

torchrun's            lives as long as the launch, over all starts of its processes
the first process's   of every other launch; and where torchrun starts the processes again: its own store still
                      holds the addresses of those that are gone, and torch's process group would call them
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from babygpt.errors import MachineError
from babygpt.launch import AT_LAUNCHERS_STORE, Launch
from babygpt.training.guards import SignalGuard

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

__all__ = ["anew", "first_store", "is_lost_connection", "launchers_store", "wait_until"]

_POLL_SECONDS = 0.2
_JOIN_SECONDS = 600.0  # for the first process's computer to start
# Of gloo and NCCL, about the process at the other end.
_LOST = (
    "reset by peer",
    "closed by peer",
    "broken pipe",
    "connection refused",
    "remote process exited",
)


def launchers_store(launch: Launch, guard: SignalGuard, host: str, port: int) -> Store | None:
    """torchrun's, where it has one to share.

    Raises:
        MachineError: it cannot be reached.
        Stopped: a signal has come.
    """
    return _reached(launch, guard, host, port) if launch.has_store else None


def first_store(launch: Launch, guard: SignalGuard, host: str, port: int) -> tuple[Store, int]:
    """The first process's, which opens it, and its port, where 0 is given for any that is free.

    Raises:
        MachineError: it cannot be reached, or not be opened.
        Stopped: a signal has come.
    """
    store = _opened(host, port, is_host=True) if launch.is_first else _reached(launch, guard, host, port)
    return store, int(store.port)


def anew(launch: Launch, guard: SignalGuard, host: str, launchers: Store) -> Store:
    """The first process's at a restart, on a port that it tells at torchrun's; the process group meets there, too."""
    key = f"port of restart {launch.restart}"
    if launch.is_first:
        store, port = first_store(launch, guard, host, 0)
        launchers.set(key, str(port))
    else:
        wait_until(lambda: launchers.check([key]), guard)
        port = int(launchers.get(key))
        store, _ = first_store(launch, guard, host, port)
    os.environ |= {"MASTER_PORT": str(port), AT_LAUNCHERS_STORE: "False"}
    return store


def wait_until(is_so: Callable[[], bool], guard: SignalGuard, seconds: float = math.inf) -> bool:
    """Asks until it is so, in Python, where signals are heard; whether that was within so many seconds.

    Raises:
        Stopped: a signal has come.
    """
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() >= until:
            return False
        guard.raise_if_asked()
        time.sleep(_POLL_SECONDS)
    return True


def _opened(host: str, port: int, *, is_host: bool) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(host, port, None, is_host, wait_for_workers=False, multi_tenant=is_host)
    except RuntimeError as error:
        raise MachineError(
            f"the processes of the run cannot meet at {host}:{port} ({str(error).splitlines()[0]})",
            where="environment",
            hint="Set MASTER_ADDR to the first process's computer and MASTER_PORT to a port that is free there",
        ) from error


def _reached(launch: Launch, guard: SignalGuard, host: str, port: int) -> TCPStore:
    """Once it listens."""

    def listens() -> bool:
        with suppress(OSError), socket.create_connection((host, port), timeout=1):
            return True
        return False

    if wait_until(listens, guard, _JOIN_SECONDS):
        return _opened(host, port, is_host=False)
    raise MachineError(
        f"process {launch.rank} has not reached the first one at {host}:{port} in {_JOIN_SECONDS:.0f} s",
        where="environment",
        hint="See whether that runs, and whether MASTER_ADDR and MASTER_PORT are reachable from every computer",
    )


def is_lost_connection(error: BaseException) -> bool:
    """Whether the process group failed because a process is no more."""
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _LOST)
