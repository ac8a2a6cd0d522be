"""Where a corpus lies, and what is kept of it whole: checksums, places of record batches, lengths, the tokenizer.

Each file is fetched when it is first asked for, compared with the sha256 that `corpus.json` has of it, and kept; a
process compares it once more before it believes what another has left.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from babygpt.data.cache import clear_leftovers, publishing
from babygpt.data.corpus import SUM_BYTES, Corpus, Shard, sums_name
from babygpt.data.remote import beside
from babygpt.data.transfer import Source, part_of
from babygpt.disk import ensure_space, fsync_file, plain_errors
from babygpt.errors import DataError
from babygpt.files import sha256_of

__all__ = ["WRONG_PAUSE", "WRONG_TRIES", "Index", "Place"]

logger = logging.getLogger(__name__)

WRONG_TRIES, WRONG_PAUSE = 3, 1.0  # how often what is not what was written is fetched, and seconds between
_PART_BYTES = 1 << 22  # of one request


@dataclass(frozen=True)
class Place:
    """Where a corpus is, and where what is fetched of it goes.

    Attributes:
        address: of its `corpus.json`; may hold secrets, so that it is shown and written nowhere.
        corpus: the content of that.
        folder: of its index in the cache.
        pieces: of all corpora's pieces.
        most: bytes that the pieces may take.
    """

    address: str
    corpus: Corpus
    folder: Path
    pieces: Path
    most: int


class Index:
    """The files of a corpus that are kept whole, each fetched when it is first asked for.

    Args:
        place: of the corpus.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._verified: set[str] = set()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._sources: dict[str, Source] = {}
        self._has_said = False

    def path(self, name: str) -> Path:
        """A file on the disk, whole and as `corpus.json` says.

        Raises:
            DataError: it cannot be fetched, or is another one.
        """
        path, wanted = self._place.folder / name, self._place.corpus.files[name]
        with self._locks[name]:
            if name not in self._verified:
                if not (
                    path.is_file() and path.stat().st_size == wanted.size and sha256_of(path) == wanted.sha256
                ):
                    self._fetch(name, path)
                self._verified.add(name)
        return path

    def sums(self, shard: Shard, first: int, count: int) -> list[bytes]:
        """The checksums of a shard's pieces."""
        with self.path(sums_name(shard.name)).open("rb") as file:
            file.seek(first * SUM_BYTES)
            found = file.read(count * SUM_BYTES)
        if len(found) != count * SUM_BYTES:
            raise self._changed(sums_name(shard.name))
        return [found[at : at + SUM_BYTES] for at in range(0, len(found), SUM_BYTES)]

    def part(self, name: str, start: int, size: int) -> bytes:
        """Bytes of any file of the corpus, as they come."""
        return part_of(self.source(name), start, size, self._say)

    def source(self, name: str) -> Source:
        """A file where the corpus lies."""
        if name not in self._sources:
            self._sources[name] = beside(self._place.address, name)
        return self._sources[name]

    def _fetch(self, name: str, path: Path) -> None:
        wanted = self._place.corpus.files[name]
        with plain_errors(path.parent), publishing(path.parent):
            partial = path.with_name(f".partial-{path.name}-{secrets.token_hex(4)}")
            ensure_space(partial, wanted.size, "the index of the corpus")
            try:
                for tried in range(1, WRONG_TRIES + 1):
                    with partial.open("wb") as out:
                        for start in range(0, wanted.size, _PART_BYTES):
                            out.write(self.part(name, start, min(_PART_BYTES, wanted.size - start)))
                    if sha256_of(partial) == wanted.sha256:
                        break
                    if tried == WRONG_TRIES:
                        raise self._changed(name)
                    time.sleep(WRONG_PAUSE)
                fsync_file(partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        clear_leftovers(path.parent)

    def _changed(self, name: str) -> DataError:
        return DataError(
            "is not the file that corpus.json speaks of (its checksum differs)",
            where=self.source(name).shown,
            hint="The corpus changed there, or was copied in part: copy it again, whole",
        )

    def _say(self, text: str) -> None:
        if not self._has_said:
            self._has_said = True
            logger.warning("data: %s", text)
