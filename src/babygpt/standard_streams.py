"""Standard streams that a long run outlives: a terminal that was closed, a pipe whose reader has gone."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

__all__ = ["outlive_readers"]


class _Lasting(io.FileIO):
    """A file that takes what nobody reads any more, or a full disk has no room for, and lets it go."""

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def outlive_readers() -> None:
    """Has what this process writes to its standard error never fail, and opens streams that were closed.

    A run says much there, and no word of it is worth the run. A number below 3 that is closed would be the next file's
    that is opened, into which libraries would then write their messages.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, this one
            os.set_inheritable(descriptor, True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    stream = sys.__stderr__
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # python -u has no buffer
    if sys.stderr is not stream or (stream is not None and type(raw) is not io.FileIO):
        return  # somebody's own, or a console of Windows
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Lasting(2, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
