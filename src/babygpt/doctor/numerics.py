"""Starts the numeric runs in a process of their own, and tells how it ended where that was not well.

A damaged library may raise, be killed by the system or never return; none of it ends the doctor.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal

from babygpt.doctor.findings import Finding, fault

__all__ = ["Probe", "started"]

What = Literal["numerics", "compile"]

_SECONDS: dict[What, float] = {"numerics": 180.0, "compile": 180.0}
_MENDS = {
    "SIGILL": "This build of torch needs instructions that the processor lacks: install another build",
    "SIGKILL": "The system killed it, most likely for want of memory: end other programs",
}
_REINSTALL = "Make a fresh environment and install BabyGPT in it anew"


@dataclass(frozen=True)
class Probe:
    """A process that is at its runs.

    Args:
        what: which runs.
        process: itself.
        errors: what it writes to standard error.
    """

    what: What
    process: subprocess.Popen[str]
    errors: IO[str]

    def findings(self) -> list[Finding]:
        """Waits for its end, or ends it when its time is up."""
        seconds = _SECONDS[self.what]
        try:
            said, _ = self.process.communicate(timeout=seconds)
            ended = None
        except subprocess.TimeoutExpired:
            self.process.kill()
            said, _ = self.process.communicate()
            ended = f"did not end in {seconds:g} s"
        begun, found = _read(said)
        code = self.process.returncode
        if ended is None and code < 0:
            ended = f"was ended by {signal.Signals(-code).name}"
        elif ended is None and code > 0:
            self.errors.seek(0)
            lines = [line for line in self.errors.read().splitlines() if line.strip()]
            ended = f"ended with {code}: {lines[-1] if lines else 'it said nothing'}"
        if ended is not None:
            mend = next((mend for name, mend in _MENDS.items() if name in ended), _mend(self.what))
            found.append(fault(begun, f"a tiny run of {begun} {ended}", mend))
        return found


@contextmanager
def started(what: What) -> Iterator[Probe]:
    """A process at these runs, ended with the block whatever happens.

    It sees the same packages as this one, whatever put them there.
    """
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "babygpt.doctor.probe", what],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        ) as process,
    ):
        try:
            yield Probe(what, process, errors)
        finally:
            if process.poll() is None:
                process.kill()


def _mend(what: What) -> str:
    return "Train with --machine.compile false" if what == "compile" else _REINSTALL


def _read(said: str) -> tuple[str, list[Finding]]:
    """The run that was begun last, and what was found."""
    begun, found = "imports", []
    for line in said.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # a library of C writes past the redirection
        if isinstance(value, dict) and "begun" in value:
            begun = value["begun"]
        elif isinstance(value, dict):
            found.append(Finding(**value))
    return begun, found
