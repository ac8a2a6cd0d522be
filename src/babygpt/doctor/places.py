"""The folders that a run writes to: room, the right to write, speed, and what publishing a checkpoint asks of them.

A temporary folder is made where the folder is, or would be, and taken away again. Cost: 16 MB written and flushed.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from babygpt.disk import expanded, free_bytes, fsync_dir
from babygpt.doctor.findings import Finding, fault, ok, warning

__all__ = ["check_place"]

_PIECE, _PIECES = 2**20, 16
_FULL, _LITTLE = 2e8, 5e9  # bytes: not one small checkpoint; a few of a model of 100 M parameters
_SLOW = 30e6  # bytes a second
_SLOW_FLUSH = 0.5  # seconds; a checkpoint flushes about ten files
_SKEW = 60.0  # seconds


@dataclass(frozen=True)
class _Speed:
    """What writing took.

    Args:
        rate: bytes a second, flushed.
        flush: seconds of flushing a small file.
    """

    rate: float
    flush: float


def check_place(about: str, folder: Path, choose: str) -> Iterator[Finding]:
    """Tries out what a run does in a folder.

    Args:
        about: what the folder is for.
        folder: which need not be there yet.
        choose: how another one is named.
    """
    place = _nearest(folder)
    if not place.is_dir():
        yield fault(about, f"{place} is a file, not a folder", choose)
        return
    free = free_bytes(place)
    room = f"{place} has {free / 1e9:.1f} GB left"
    if free < _FULL:
        yield fault(about, f"{room}, less than a checkpoint", f"Free some space. {choose}")
        return
    try:
        with tempfile.TemporaryDirectory(
            prefix=".babygpt-doctor-", dir=place, ignore_cleanup_errors=True
        ) as made:
            speed = _write(Path(made))
            yield from _publishes(about, Path(made), choose)
            yield from _keeps_time(about, Path(made))
    except OSError as error:
        what = os.strerror(error.errno).lower() if error.errno else str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        yield fault(
            about, f"{place} cannot be written to ({what})", f"{'Free some space. ' if full else ''}{choose}"
        )
        return
    said = f"{room}, {speed.rate / 1e6:,.0f} MB/s, flushed in {1e3 * speed.flush:.0f} ms"
    if free < _LITTLE:
        yield warning(about, f"{room}: a few checkpoints fill it", f"Free some space. {choose}")
    elif speed.rate < _SLOW or speed.flush > _SLOW_FLUSH:
        yield warning(about, f"{said}: saving is slow", choose)
    else:
        yield ok(about, said)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest of its parents that is there."""
    path = expanded(folder).absolute()
    return next((each for each in (path, *path.parents) if os.path.lexists(each)), path)


def _write(folder: Path) -> _Speed:
    data = os.urandom(_PIECE)  # so that no file system packs it
    begun = time.perf_counter()
    with open(folder / "large", "wb", buffering=0) as file:
        for _ in range(_PIECES):
            file.write(data)
        os.fsync(file.fileno())
    rate = _PIECE * _PIECES / max(time.perf_counter() - begun, 1e-9)
    begun = time.perf_counter()
    with open(folder / "small", "wb", buffering=0) as file:
        file.write(b"x")
        os.fsync(file.fileno())
    fsync_dir(folder)
    return _Speed(rate, time.perf_counter() - begun)


def _publishes(about: str, folder: Path, choose: str) -> Iterator[Finding]:
    """Whether a folder is published by one rename, a file replaced by one, and what is written is read again."""
    (folder / "made").mkdir()
    (folder / "made" / "file").write_bytes(b"new")
    (folder / "old").write_bytes(b"old")
    (folder / "new").write_bytes(b"new")
    try:
        os.rename(folder / "made", folder / "published")
        os.replace(folder / "new", folder / "old")
    except OSError as error:
        what = f"its file system cannot rename ({error.strerror}), by which a checkpoint appears whole"
        yield fault(about, what, choose)
        return
    read = (folder / "published" / "file").read_bytes(), (folder / "old").read_bytes()
    if read != (b"new", b"new"):
        yield fault(about, "its file system gives old content after a rename", choose)
    if not _locks(folder / "lock"):
        yield warning(
            about,
            "its file system has no locks: two processes that want the same data both prepare them",
            "Prepare data in one process first, or choose a folder on a local disk",
        )
    with suppress(OSError, NotImplementedError):
        os.symlink("published", folder / "link")
        if (folder / "link" / "file").read_bytes() != b"new":
            yield warning(about, "its links lead elsewhere", choose)


def _locks(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return True  # Windows, where nothing is locked by this package
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _keeps_time(about: str, folder: Path) -> Iterator[Finding]:
    """Whether files are dated by the clock of this computer: changed data are noticed by their date."""
    (folder / "dated").write_bytes(b"")
    skew = (folder / "dated").stat().st_mtime - time.time()
    if abs(skew) > _SKEW:
        yield warning(
            about, f"its files are dated {skew:+,.0f} s from this computer's clock", "Set both clocks by NTP"
        )
