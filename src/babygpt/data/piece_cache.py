"""Pieces of corpora on the disk: bounded, verified, shared by every process that trains from any corpus.

    CACHE/pieces/AB/ABCD...    a piece, named by its checksum: whole and right, or not there
    CACHE/pieces/ledger        a byte for each 4 KiB that the pieces take

A piece's time is when it was last asked for. The ledger is only ever appended to, which the system does for many
processes at once; when it is longer than the bound allows, one process takes a lock, removes what was asked for
least recently down to 7/8 of the bound, and cuts the ledger to what is left. So the cache goes over its bound by
what is fetched while that happens.

Cost: a look-up reads the piece and its checksum (0.1 ms); a sweep looks at every file, once in an eighth of the bound.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from babygpt.data.corpus import digest_of
from babygpt.disk import free_bytes, plain_errors

try:
    import fcntl
except ImportError:  # Windows: two processes may sweep at once, which costs time only
    fcntl = None  # type: ignore[assignment]

__all__ = ["PieceCache", "bound_of"]

_BLOCK = 4096
_PARTIAL, _UNTOUCHED_SECONDS = ".partial-", 3600.0
_AUTO_SHARE, _AUTO_MOST = 10, 50 * 10**9


def bound_of(folder: Path, gigabytes: float | None) -> int:
    """Bytes that the cache may take.

    Args:
        folder: of the pieces.
        gigabytes: as asked for; None takes a tenth of what is free or taken by the cache already, 50 GB at most.
    """
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    with suppress(OSError):
        taken = os.stat(folder / "ledger").st_size * _BLOCK
        return min(_AUTO_MOST, (free_bytes(folder) + taken) // _AUTO_SHARE)
    return min(_AUTO_MOST, free_bytes(folder) // _AUTO_SHARE)


class PieceCache:
    """Pieces on the disk, for one process.

    Args:
        folder: where they are, made when the first is kept.
        most: bytes.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most

    def get(self, digest: bytes) -> bytes | None:
        """The piece of a checksum; None where it is not there, or damaged."""
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if digest_of(content) != digest:
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    def put(self, digest: bytes, content: bytes | memoryview) -> None:
        """Keeps a piece.

        Raises:
            SpaceError: the disk is full.
            InputError: the cache cannot be written to.
        """
        path = self._path(digest)
        partial = path.with_name(f"{_PARTIAL}{secrets.token_hex(8)}")
        with plain_errors(self._folder):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(content)
                os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            with (self._folder / "ledger").open("ab") as ledger:
                ledger.write(bytes(-(-len(content) // _BLOCK)))
                taken = ledger.tell() * _BLOCK
        if taken > self._most:
            self._sweep()

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / name

    def _sweep(self) -> None:
        with (self._folder / "lock").open("ab") as lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return  # another process is at it
            left = self._remove(self._most - self._most // 8)
            with (self._folder / "ledger").open("r+b") as ledger:
                ledger.truncate(left // _BLOCK)

    def _remove(self, most: int) -> int:
        """Removes the pieces that were asked for least recently; returns the bytes of the others."""
        pieces, total = [], 0
        for folder in os.scandir(self._folder):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                with suppress(OSError):
                    about = entry.stat()
                    if entry.name.startswith(_PARTIAL):
                        if about.st_mtime < time.time() - _UNTOUCHED_SECONDS:
                            os.unlink(entry.path)
                        continue
                    size = -(-about.st_size // _BLOCK) * _BLOCK
                    pieces.append((about.st_mtime_ns, size, entry.path))
                    total += size
        for _, size, path in sorted(pieces):
            if total <= most:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= size
        return total
