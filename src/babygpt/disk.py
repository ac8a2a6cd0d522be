"""The disk: paths, room and the right to write, plain messages where they lack, and waiting for what is written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from babygpt.errors import InputError, SpaceError
from babygpt.units import file_size_words

__all__ = ["ensure_space", "expanded", "free_bytes", "fsync_dir", "fsync_file", "plain_errors"]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}


def expanded(path: str | Path) -> Path:
    """The path, with a `~` at its beginning taken for a home folder: a shell leaves it in `--out=~/run`.

    Raises:
        InputError: there is no such home folder, as in a container whose user has none.
    """
    if not str(path).startswith("~"):  # pathlib takes ./~name for ~name
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            "there is no home folder for its ~", where=str(path), hint="Give the whole path, or set HOME"
        ) from None


def free_bytes(path: Path) -> int:
    """Bytes this user may still write where the path is, or would be."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def ensure_space(path: Path, needed: int, what: str) -> None:
    """Makes sure of room before it is written to.

    Raises:
        SpaceError: fewer than `needed` bytes are free where the path is, or would be.
    """
    free = free_bytes(path)
    if free < needed:
        what = f"{what} needs {file_size_words(needed)}, and {file_size_words(free)} is free"
        raise SpaceError(what, where=str(path), hint="Free some space, or choose a folder on another disk")


def fsync_file(path: Path) -> None:
    """Returns once the file's bytes are on the disk."""
    with open(path, "r+b" if os.name == "nt" else "rb") as file:  # only Windows asks for the right to write
        os.fsync(file.fileno())


def fsync_dir(path: Path) -> None:
    """Returns once the folder's names are on the disk; does nothing where folders cannot be flushed."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def plain_errors(place: Path) -> Iterator[None]:
    """Turns a full disk or a missing right, whichever library met it, into one message for the user.

    Raises:
        SpaceError: the disk is full, or takes no file so large.
        InputError: the place cannot be written to, or a file elsewhere be looked at.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = _errno_of(error)
        if number in _NO_SPACE:
            what = f"no space left on the device: {file_size_words(free_bytes(place))} is free, and more was needed"
            raise SpaceError(
                what, where=str(place), hint="Free some space; what was finished is kept"
            ) from error
        if number == errno.EFBIG:
            raise SpaceError(
                "a file became larger than it may be here, by ulimit -f or the file system",
                where=str(place),
                hint="Raise the limit (ulimit -f unlimited), or choose a folder on another disk",
            ) from error
        if number in _NO_RIGHT:
            reason = os.strerror(number).lower()
            # What is only read fails for no read-only file system.
            other = None if number == errno.EROFS else _elsewhere(error, place)
            if other is not None:
                raise InputError(
                    reason, where=other, hint="Grant this user the right to it, or give another path"
                ) from error
            what = f"cannot be written to ({reason})"
            raise InputError(what, where=str(place), hint="Choose a folder this user may write to") from error
        raise


def _elsewhere(error: Exception, place: Path) -> str | None:
    """The file of an error where that lies neither below the place nor above it; None otherwise.

    Inside an open folder (`dir_fd`, as of shutil.rmtree) the system names it from there, not from the current folder.
    """
    name = getattr(error, "filename", None)
    if not isinstance(name, str | bytes) or not (os.path.isabs(name) or os.path.lexists(name)):
        return None
    file, here = Path(os.fsdecode(name)).absolute(), place.absolute()
    return None if file.is_relative_to(here) or here.is_relative_to(file) else os.fsdecode(name)


def _errno_of(error: Exception) -> int | None:
    """The system's error number; libraries written in Rust give it in their message only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
