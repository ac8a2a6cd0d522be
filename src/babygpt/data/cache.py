"""The cache folder, and what killed processes left in it.

Whoever publishes into a folder of the cache holds a shared lock on a file beside it for as long. Leftovers are
cleared away only under the exclusive lock, so never beneath somebody who is still writing; the system releases
the lock of a process that is killed. Where locks reach one machine only (some network file systems), leftovers
have to be an hour untouched as well. A build that can be gone on with has a folder and a lock of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from babygpt.disk import expanded, plain_errors
from babygpt.errors import InputError, SpaceError
from babygpt.files import make_folder, remove_partials

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

__all__ = ["building", "clear_leftovers", "default_cache", "publishing"]

_UNTOUCHED_SECONDS = 3600.0
_RESUMABLE_SECONDS = 7 * 24 * 3600.0
_LEFT = (".partial-", ".replaced-")
_BUILDING = ".building-"
_OTHER = "Set BABYGPT_CACHE to a folder"


def default_cache() -> Path:
    """`$BABYGPT_CACHE`, else `$XDG_CACHE_HOME/babygpt`, else `~/.cache/babygpt`.

    Raises:
        InputError: this user has no home folder, and neither variable is set.
    """
    if own := os.environ.get("BABYGPT_CACHE"):
        return expanded(own)
    try:
        return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "babygpt"
    except InputError:
        raise InputError(
            "this user has no home folder for it",
            where="cache",
            hint=f"{_OTHER} that can be written to",
        ) from None


@contextmanager
def publishing(parent: Path) -> Iterator[None]:
    """Keeps `clear_leftovers` out of a folder, made here, while something is published into it.

    Raises:
        InputError: it cannot be made.
    """
    _make(parent)
    lock = _lock(parent, exclusive=False)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def building(parent: Path, name: str, waits: Callable[[], None]) -> Iterator[Path]:
    """A folder, made if missing, for what will be published under a name; only one process at a time has it.

    It stays when the process is killed, for the next one to go on with. Where there are no locks (Windows, some
    network file systems) each process gets a folder of its own, and nobody goes on with it.

    Args:
        parent: the folder of the cache, where `publishing` is held.
        name: of what is built, which its content decides.
        waits: called once if another process is building it, before waiting for that one's end.
    """
    path = parent / f"{_BUILDING}{name}"
    lock = _alone(path.with_name(f"{path.name}.lock"), waits)
    if lock is None:
        path = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    try:
        make_folder(path)
        yield path
    finally:
        if lock is not None:
            if not path.exists():
                path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
            os.close(lock)


def _make(parent: Path) -> None:
    try:
        with plain_errors(parent):
            make_folder(parent)
    except SpaceError:
        raise
    except InputError as error:
        what = f"the cache: {error.what}"
        raise InputError(what, where=error.where, hint=f"{_OTHER} that can be written to") from error


def clear_leftovers(parent: Path) -> None:
    """Removes what killed processes left half-written in a folder; nothing while somebody publishes there.

    What another process could go on with stays for a week, unless it was published since. Never fails: leftovers
    cost only space.
    """
    try:
        now = time.time()
        names = os.listdir(parent)
        left = [str(parent / name) for name in names if name.startswith(_LEFT)]
        old = [str(parent / name) for name in names if name.startswith(_BUILDING)]
        old = [p for p in old if _is_published(p) or _newest([p]) < now - _RESUMABLE_SECONDS]
        if left and _newest(left) > now - _UNTOUCHED_SECONDS:
            left = []
        if not left and not old:
            return
        lock = _lock(parent, exclusive=True)
        if lock is None:
            return
        try:
            if left:
                remove_partials(parent)
            for path in old:
                if os.path.isdir(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)
        finally:
            os.close(lock)
    except (OSError, InputError):
        return


def _is_published(path: str) -> bool:
    """Whether what was built in a folder, or under its lock, is there: its process was killed as it cleared up."""
    parent, name = os.path.split(path)
    return os.path.isdir(os.path.join(parent, name.removeprefix(_BUILDING).removesuffix(".lock")))


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


def _alone(path: Path, waits: Callable[[], None]) -> int | None:
    """A descriptor that holds a lock nobody else has, waited for; None when there is none to be had."""
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            waits = lambda: None  # noqa: E731
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        # Whoever had it may have removed the file, and a third process made another.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)
