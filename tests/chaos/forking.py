"""Real processes without their start-up: a server imports the package once and forks a child for each call.

The test's side is `ForkServer`; run as a program this file is the server. A child is a process like any other:
it has its own id, output file and exit code, is sent signals, and leaves through the interpreter's normal end.
It dies with the test that asked for it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRELOADED = ("babygpt.train", "babygpt.cli", "babygpt.verify", "runs", "publishing")


class Child:
    """A process that the server has forked.

    Attributes:
        pid: its id.
        output: the file of its standard output and error.
    """

    def __init__(self, connection: socket.socket, pid: int, output: Path) -> None:
        self._connection, self.pid, self.output = connection, pid, output
        self._code: int | None = None

    def wait(self, timeout: float = 120) -> int:
        """Its exit code, or minus the signal that killed it."""
        if self._code is None:
            self._connection.settimeout(timeout)
            try:
                self._code = int(_line(self._connection))
            except TimeoutError:
                raise TimeoutError(
                    f"process {self.pid} still runs after {timeout} s:\n{self.text()}"
                ) from None
            self._connection.close()
        return self._code

    def has_ended(self) -> bool:
        """Whether `wait` would return at once."""
        return self._code is not None or bool(select.select([self._connection], [], [], 0)[0])

    def send(self, signum: int) -> None:
        """Sends a signal; nothing happens if it has ended, since its number is not given away before `wait`."""
        if not self.has_ended():
            os.kill(self.pid, signum)

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")


class ForkServer:
    """Starts the server; a context manager that ends it.

    Args:
        folder: for its socket; of a short path.
        env: added to the environment, such as LD_PRELOAD.
        warm_up: `module:function` to call before the first fork, for what else each child would do anew.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, warm_up: str = "") -> None:
        self._address = str(folder / "socket")
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._address, warm_up],
            env={**os.environ, "PYTHONPATH": paths, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the fork server has not come up"

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(self, function: str, *args: Any, output: Path, in_full: bool = True) -> Child:
        """Calls `module:function` with plain values in a child; what it returns is the exit code.

        Unless `in_full`, the child spares itself the interpreter's end, which takes half a second.
        """
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(self._address)
        request = {"function": function, "args": args, "output": str(output), "in_full": in_full}
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Child(connection, int(_line(connection)), output)

    def run(
        self, function: str, *args: Any, output: Path, in_full: bool = True, timeout: float = 120
    ) -> Child:
        """The same, waited for."""
        child = self.start(function, *args, output=output, in_full=in_full)
        child.wait(timeout)
        return child


def _line(connection: socket.socket) -> str:
    received = b""
    while not received.endswith(b"\n"):
        more = connection.recv(1)  # what follows is another line
        if not more:
            raise EOFError("the fork server has gone")
        received += more
    return received.decode()


# -- the server ------------------------------------------------------------------------------------------------------


def serve(address: str, warm_up: str) -> int:
    """Returns in every child with its exit code, and in the server when standard input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    if warm_up:
        _function(warm_up)()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the handlers
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            return 0
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            request = _handle(connection)
            code = int(_call(request) or 0)
            if request["in_full"]:
                return code
            sys.stdout.flush()
            os._exit(code)
        connection.close()


def _handle(connection: socket.socket) -> dict[str, Any]:
    """Forks the child and waits for it; only the child comes back from here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(_line(connection))
    pid = os.fork()
    if pid == 0:
        connection.close()
        return request
    connection.sendall(b"%d\n" % pid)
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)  # whoever asked for it has gone
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        connection.sendall(b"%d\n" % code)
    finally:
        os._exit(0)


def _call(request: dict[str, Any]) -> Any:
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output)
    os.close(nothing)
    return _function(request["function"])(*request["args"])


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[1:]))
