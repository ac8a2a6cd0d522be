"""A process for each further device of this computer, where nothing else has started them.

1. The first process of a computer starts them with its own command, and LOCAL_RANK and the like beside it; Lightning
   then takes them as started by somebody else.
2. They meet the first one before torch's process group does (`meeting.py`): a failure of one ends all with its code.
3. One that ends in training breaks the connections of the others, which end by themselves; a process that does not,
   because it waits on a GPU for the one that is gone, is ended here.
4. One whose first process is gone ends soon afterwards, wherever it is (`end_with_parent`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from babygpt.errors import MachineError
from babygpt.launch import Launch
from babygpt.training.meeting import Meeting

__all__ = ["assembled", "end_with_parent"]

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 15.0
_PARENT = "BABYGPT_PARENT"  # the number of the process that has started this one

Child = subprocess.Popen[bytes]


@contextmanager
def assembled(others: Meeting, devices: int, nodes: int, say: Callable[[str], None]) -> Iterator[None]:
    """Starts the processes that nobody has started, waits until all of the run are as far as this one, and looks on.

    Args:
        others: the processes of the run.
        devices: processes of each computer.
        nodes: computers.
        say: tells the user why the process is ended, where it does not end by itself.

    Raises:
        Ended: one of them has ended instead.
        MachineError: this process cannot be started once more for another device.
        Stopped: a signal has come.
    """
    gathered, over = threading.Event(), threading.Event()
    if devices > 1 and not others.launch.by and not others.launch.is_child:
        children = _started(others.launch, devices, nodes)
        look = (children, gathered, over, say)
        threading.Thread(target=_look_on, args=look, name="children", daemon=True).start()
    try:
        others.gather(devices * nodes)
        gathered.set()
        yield
    finally:
        over.set()


def end_with_parent() -> None:
    """Has this process end once the one that has started it is gone, after a while to end in by itself."""
    parent = os.environ.get(_PARENT)
    if parent is not None:
        threading.Thread(target=_outlive, args=(int(parent),), name="parent", daemon=True).start()


def _outlive(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _started(launch: Launch, devices: int, nodes: int) -> list[Child]:
    """This computer's further processes; where they meet is in the environment by now."""
    if sys.argv[0] in ("", "-"):  # typed in, a notebook's, or read from standard input
        raise MachineError(
            f"{devices} devices need as many processes, and this one cannot be started once more: its program is in"
            " no file",
            where="machine.devices",
            hint="Put it into a file, or take machine.devices 1",
        )
    os.environ |= {"NODE_RANK": str(launch.node), "LOCAL_RANK": "0", "WORLD_SIZE": str(devices * nodes)}
    command, mine = [sys.executable, *sys.orig_argv[1:]], {_PARENT: str(os.getpid())}
    return [
        subprocess.Popen(command, env={**os.environ, **mine, "LOCAL_RANK": str(rank)})
        for rank in range(1, devices)
    ]


def _look_on(
    children: Sequence[Child], gathered: threading.Event, over: threading.Event, say: Callable[[str], None]
) -> None:
    """Ends this process where a child has failed and it does not end by itself."""
    while not (failed := [n for n, child in enumerate(children, 1) if _has_failed(child, gathered.is_set())]):
        if over.wait(_POLL_SECONDS):
            return
    if over.wait(_GRACE_SECONDS):
        return
    code = children[failed[0] - 1].returncode
    say(f"process {failed[0]} of this computer has ended ({code}), and this one has waited for it in vain")
    for child in children:
        child.kill()
    os._exit(code if code > 0 else 1)


def _has_failed(child: Child, is_gathered: bool) -> bool:
    """Whether it has ended otherwise than at the run's end or a stop that all take part in (128 + signal)."""
    code = child.poll()
    # Before it has come to the run any end is one: a program may do nothing where its first process is at work.
    return code is not None and (not is_gathered or (code != 0 and code < 128))
