"""Bytes of an address to a file: retried, gone on with where they broke off, counted against what was declared.

A transfer that breaks off is tried again after half a second, then twice as long each time; five tries in a row that
bring less than a megabyte more than was ever there end it. A part of a file, which a run that is under way waits for,
is tried for some minutes. Where bytes come from is another file's: `web`, `buckets`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from babygpt.disk import ensure_space
from babygpt.errors import DataError

__all__ = [
    "Answer",
    "BrokenOffError",
    "Received",
    "Source",
    "Stamp",
    "html_page",
    "no_parts",
    "part_of",
    "receive",
]

_BLOCK = 2**20
_TRIES = 5
_ENOUGH = 10**6  # bytes that make a try a success, although it broke off
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds
_PATIENT_TRIES = 14  # of a part: four and a half minutes of waiting, and as long as the server takes to fail
_SAID_AFTER = 3  # tries
_HTML = re.compile(rb"\s*<(!doctype\s+html|html)[\s>]", re.IGNORECASE)


@dataclass(frozen=True)
class Stamp:
    """What tells one version of a file from another.

    Attributes:
        etag: the server's name for the version; empty if it gives none.
        modified: when it was written, as the server says it.
        size: bytes; None where it is not declared.
    """

    etag: str = ""
    modified: str = ""
    size: int | None = None


@dataclass(frozen=True)
class Answer:
    """What comes of a file.

    Attributes:
        offset: of the first byte that comes.
        stamp: of the version.
        read: the next block of at most so many bytes; empty at the end, and where the connection was cut.
        suffix: what the file's name should end in, where its address does not say; empty if nothing does.
    """

    offset: int
    stamp: Stamp
    read: Callable[[int], bytes]
    suffix: str = ""


@dataclass(frozen=True)
class Received:
    """A file that came whole: its version, sha256 and size, and `Answer.suffix`."""

    stamp: Stamp
    sha256: str
    size: int
    suffix: str


class Source(Protocol):
    """Where a file is.

    Attributes:
        shown: its address without secrets.
        path: its path there, whose end tells its kind.
    """

    shown: str
    path: str

    def open(self, offset: int, stamp: Stamp | None) -> Any:
        """A context of the bytes from an offset on, or of None where the version is the one of the stamp.

        Raises:
            BrokenOffError: it may go better another time. DataError: it will not.
        """

    def part(self, start: int, size: int) -> bytes:
        """So many bytes from a place on; errors as of `open`.

        Raises:
            DataError: also where only whole files are to be had.
        """


class BrokenOffError(Exception):
    """A transfer that may go better another time.

    Args:
        reason: in words.
        wait: seconds the server asks for.
        restart: nothing of what came can be used.
    """

    def __init__(self, reason: str, *, wait: float = 0.0, restart: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.restart = wait, restart


def receive(source: Source, target: Path, known: Stamp | None, say: Callable[[str], None]) -> Received | None:
    """Fetches a file; None where it is the version that is known.

    Args:
        source: where it is.
        target: a new file; whoever calls removes it when an error is raised.
        known: the version that there is a copy of.
        say: told why it is tried again.

    Raises:
        DataError: it is not there, is not allowed, is an HTML page, or does not come whole.
        SpaceError: it is larger than what is free.
    """
    with target.open("wb") as out:
        partial = _Partial(out, target, source.shown)
        tries = furthest = 0
        while True:
            try:
                if partial.take(source, known):
                    break
                return None
            except BrokenOffError as error:
                if error.restart:
                    partial.restart()
                tries = 0 if partial.size - furthest >= _ENOUGH else tries + 1
                furthest = max(furthest, partial.size)
                if tries == _TRIES:
                    size = partial.stamp and partial.stamp.size
                    came = f", {partial.size:,} of {size:,} bytes came" if size is not None else ""
                    raise DataError(
                        f"cannot be fetched: {error} ({_TRIES} tries{came})",
                        where=source.shown,
                        hint="Try again later; nothing of it was kept",
                    ) from None
                say(f"{source.shown}: {error}; trying again")
                time.sleep(min(max(error.wait, _FIRST_WAIT * 2**tries / 2), _LONGEST_WAIT))
        out.flush()
        os.fsync(out.fileno())
    assert partial.stamp is not None
    return Received(partial.stamp, partial.digest.hexdigest(), partial.size, partial.suffix)


def part_of(source: Source, start: int, size: int, say: Callable[[str], None]) -> bytes:
    """A part of a file, asked for again with growing pauses, each longer or shorter by up to a half, at random.

    Args:
        source: where it is.
        start, size: of the part, in bytes.
        say: told once, if it takes longer than a moment.

    Raises:
        DataError: it is not to be had.
    """
    for tried in range(1, _PATIENT_TRIES + 1):
        try:
            return source.part(start, size)
        except BrokenOffError as error:
            if tried == _PATIENT_TRIES:
                raise DataError(
                    f"bytes {start:,} to {start + size:,} cannot be fetched: {error} ({tried} tries)",
                    where=source.shown,
                    hint="Go on with the run when the server answers again",
                ) from None
            if tried == _SAID_AFTER:
                say(f"{source.shown}: {error}; trying for some minutes more")
            pause = min(_FIRST_WAIT * 2 ** (tried - 1), _LONGEST_WAIT)
            # Random numbers of their own: those of the run are part of what it computes.
            own = pause * (0.5 + secrets.randbelow(1000) / 1000)
            time.sleep(max(min(error.wait, _LONGEST_WAIT), own))
    raise AssertionError("the last try returns or raises")


class _Partial:
    """A file on its way."""

    def __init__(self, out: Any, target: Path, where: str) -> None:
        self._out, self._target, self._where = out, target, where
        self.stamp: Stamp | None = None
        self.suffix = ""
        self.restart()

    def restart(self) -> None:
        self._out.seek(0)
        self._out.truncate()
        self.size, self.digest = 0, hashlib.sha256()

    def take(self, source: Source, known: Stamp | None) -> bool:
        """Takes what is missing; False if nothing is, since the known version is that of today."""
        with source.open(self.size, self.stamp if self.size else known) as answer:
            if answer is None:
                return False
            if answer.offset != self.size:
                self.restart()
            self.stamp, self.suffix = answer.stamp, answer.suffix
            declared = answer.stamp.size
            if declared is not None:
                ensure_space(self._target, declared - self.size, "the file to be fetched")
            while block := answer.read(_BLOCK):
                if self.size == 0 and answer.suffix != ".html" and _HTML.match(block):
                    raise html_page(self._where)
                self._out.write(block)
                self.digest.update(block)
                self.size += len(block)
        if declared is not None and self.size < declared:
            raise BrokenOffError("the connection was cut")
        if declared is not None and self.size > declared:
            raise DataError(
                f"{self.size:,} bytes came where {declared:,} were declared",
                where=self._where,
                hint="The server is at fault, or something between; fetch the file by other means",
            )
        return True


def no_parts(where: str) -> DataError:
    """The refusal of a server that does not send parts."""
    return DataError(
        "the server sends whole files only, and a corpus is read in parts",
        where=where,
        hint="Serve it from an object store or a web server that answers Range requests, as nginx and Caddy do",
    )


def html_page(where: str) -> DataError:
    """The refusal of a page where data was asked for."""
    return DataError(
        "the answer is an HTML page, not data",
        where=where,
        hint="Give the file's own address (raw, download); a page may also ask to log in",
    )
