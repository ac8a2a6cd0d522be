"""The sha256 of data files, remembered, so that a start reads only the files that are new or were touched.

    CACHE/index/KEY.json   for one list of paths: file -> size, times, inode, sha256; replaced whole

An entry holds as long as the file's size, modification time, change time and inode are what they were. The
change time cannot be set by a program: an edit that keeps the size and puts the old modification time back is
noticed all the same (not on Windows, where that time is the file's creation). A file that was modified within
two seconds before it was read is not remembered, since a second edit could fall into the same tick of the
file system's clock.

The index only ever finds a token store: what names a new one has been read by the very process that builds it
(`store.prepare`). A damaged index is ignored, of two processes that write one the last wins, and one that
cannot be written costs time only.

Cost: a `stat` a file, about 10 microseconds with the look-up.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from babygpt.data.cache import clear_leftovers, publishing
from babygpt.data.formats import refuse_special
from babygpt.errors import DataError, InputError
from babygpt.files import write_text_atomic

__all__ = ["FileState", "Index"]

_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use: FAT's
_SAVE_SECONDS = 30.0  # a process killed in the middle of a long read has kept most of it

_Stamp = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns, inode


@dataclass(frozen=True)
class FileState:
    """A file as it was when it was read.

    Attributes:
        name: POSIX path below the folder it was found in.
        size: bytes.
        mtime_ns: modification time.
        sha256: of its content, hex digits.
        settled: whether the time was old enough for a later edit to show in it.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: str
    settled: bool = True


class Index:
    """What is known of the files behind one list of paths. Use as a context manager: leaving it saves.

    Args:
        paths: the paths as given; each list of them has an index of its own.
        cache: folder of the cache.
        trust: take remembered digests for files that have not been touched; else read every file once.

    Attributes:
        taken_on_trust: how many digests were remembered ones.
    """

    def __init__(self, paths: Sequence[str], cache: Path, *, trust: bool = True) -> None:
        absolute = [os.path.abspath(os.path.expanduser(path)) for path in paths]
        key = hashlib.sha256(json.dumps(absolute).encode()).hexdigest()[:32]
        self._path = cache / "index" / f"{key}.json"
        self._known = _read(self._path)
        self._trust = trust
        self._now: dict[str, tuple[_Stamp, str]] = {}
        self._roots: dict[Path, str] = {}
        self._changed = False
        self._saved_at = time.monotonic()
        self.taken_on_trust = 0

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *exception: object) -> None:
        self._save()

    def state(self, root: Path, name: str) -> FileState:
        """Size, time and digest of `root / name`, read unless it is known.

        Raises:
            DataError: it cannot be read.
        """
        path = self._absolute(root, name)
        try:
            status = os.stat(path)
            refuse_special(root / name, status)
            stamp = _stamp(status)
            known = self._now.get(path) or (self._known.get(path) if self._trust else None)
            if known is not None and known[0] == stamp:
                digest = known[1]
                self.taken_on_trust += path not in self._now
                self._now[path] = known
                return FileState(name, stamp[0], stamp[1], digest)
            return self._read(path, name)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(root / name)) from None

    def was_touched(self, root: Path, name: str) -> bool:
        """Whether a file of the saved index has other times or another inode than it had."""
        path = self._absolute(root, name)
        known = self._known.get(path)
        return known is not None and known[0] != _stamp(os.stat(path))

    def _absolute(self, root: Path, name: str) -> str:
        if root not in self._roots:
            self._roots[root] = os.path.abspath(root)
        return os.path.join(self._roots[root], name)

    def _read(self, path: str, name: str) -> FileState:
        with open(path, "rb") as stream:
            before = _stamp(os.fstat(stream.fileno()))
            now = time.time_ns()
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            settled = before[1] + _SETTLED_NS < now and before == _stamp(os.fstat(stream.fileno()))
        if settled:
            self._now[path] = (before, digest)
            self._changed = True
            if time.monotonic() - self._saved_at > _SAVE_SECONDS:
                self._save()
        return FileState(name, before[0], before[1], digest, settled)

    def _save(self) -> None:
        if not self._changed:
            return
        # What was not met this time is kept while the file is there: a process may have looked at one only.
        rest = {path: entry for path, entry in self._known.items() if path not in self._now}
        kept = {path: entry for path, entry in rest.items() if os.path.exists(path)}
        entries = {path: [*stamp, digest] for path, (stamp, digest) in {**kept, **self._now}.items()}
        body = json.dumps(entries, separators=(",", ":"))
        try:
            clear_leftovers(self._path.parent)
            with publishing(self._path.parent):
                write_text_atomic(self._path, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n")
        except (OSError, InputError):
            return  # a cache that cannot be written; the digests are right all the same
        self._changed = False
        self._saved_at = time.monotonic()


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read(path: Path) -> dict[str, tuple[_Stamp, str]]:
    """A saved index; empty when there is none or it is damaged."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        body = body.removesuffix(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return {}
        found = json.loads(body)
        return {file: ((a, b, c, d), sha) for file, (a, b, c, d, sha) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
