"""The cache folder, and what killed processes left in it.

Whoever publishes into a folder of the cache holds a shared lock on a file beside it for as long. Leftovers are
cleared away only under the exclusive lock, so never beneath somebody who is still writing; the system releases
the lock of a process that is killed. Where locks reach one machine only (some network file systems), leftovers
have to be an hour untouched as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from babygpt.errors import InputError
from babygpt.files import remove_partials

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

__all__ = ["clear_leftovers", "default_cache", "publishing"]

_UNTOUCHED_SECONDS = 3600.0
_LEFT = (".partial-", ".replaced-")


def default_cache() -> Path:
    """`$BABYGPT_CACHE`, else `$XDG_CACHE_HOME/babygpt`, else `~/.cache/babygpt`."""
    if own := os.environ.get("BABYGPT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "babygpt"


@contextmanager
def publishing(parent: Path) -> Iterator[None]:
    """Keeps `clear_leftovers` out of a folder, made here, while something is published into it."""
    with suppress(OSError):
        parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(parent, exclusive=False)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def clear_leftovers(parent: Path) -> None:
    """Removes what killed processes left half-written in a folder; nothing while somebody publishes there.

    Never fails: leftovers cost only space.
    """
    try:
        left = [entry for entry in os.scandir(parent) if entry.name.startswith(_LEFT)]
        if not left or _newest([entry.path for entry in left]) > time.time() - _UNTOUCHED_SECONDS:
            return
        lock = _lock(parent, exclusive=True)
        if lock is None:
            return
        try:
            remove_partials(parent)
        finally:
            os.close(lock)
    except (OSError, InputError):
        return


def _newest(paths: list[str]) -> float:
    """When something in these files and folders was last written to."""
    times = [os.stat(path, follow_symlinks=False).st_mtime for path in paths]
    for path in paths:
        for folder, folders, files in os.walk(path):
            times += [
                os.stat(os.path.join(folder, n), follow_symlinks=False).st_mtime for n in folders + files
            ]
    return max(times)


def _lock(parent: Path, *, exclusive: bool) -> int | None:
    """A descriptor that holds the folder's lock until it is closed; None when there is none to be had."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(
            parent.with_name(f".{parent.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
        )
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
