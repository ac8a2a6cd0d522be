"""The bytes of a corpus that lies elsewhere, read in pieces: from memory, the cache, or where it lies.

1. What is asked for is cut into pieces. Of those that nobody in this process has or is fetching, runs are loaded: from
   the disk cache, or by one request for each run of up to 4 MB that it lacks.
2. A piece is compared with its checksum, kept in the cache, and held in memory, where the last 64 MB are.
3. What will be asked for soon is named by `expect`, and loaded by 16 threads in the order it is named.

A piece that does not come is asked for again for some minutes (`transfer`), one whose checksum differs three times;
then whoever asked gets the error, and whoever asks later tries anew. Nothing but the index is needed to read any
byte: where reading begins costs nothing.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from babygpt.data.corpus import Shard, digest_of
from babygpt.data.corpus_index import WRONG_PAUSE, WRONG_TRIES, Index, Place
from babygpt.data.piece_cache import PieceCache
from babygpt.errors import DataError

__all__ = ["Pieces", "Span"]

_REQUESTS = 16  # at once, of a process
_HELD_BYTES = 1 << 26
_RUN_BYTES = 1 << 22  # of one request, at most


@dataclass(frozen=True)
class Span:
    """Bytes of a shard: `size` of them from `start` on."""

    shard: Shard
    start: int
    size: int


class Pieces:
    """What one process reads of a corpus's shards; for any number of threads.

    Args:
        place: of the corpus.
    """

    def __init__(self, place: Place) -> None:
        self._piece = place.corpus.piece
        self.index, self._cache = Index(place), PieceCache(place.pieces, place.most)
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
        self._most_held = max(1, _HELD_BYTES // self._piece)
        self._ahead = _Threads(_REQUESTS)
        weakref.finalize(self, self._ahead.stop)

    def read(self, span: Span) -> memoryview:
        """The bytes of a span.

        Raises:
            DataError: they cannot be fetched, or are not those that were written.
            SpaceError, InputError: the cache cannot be written to.
        """
        if not span.size:
            return memoryview(b"")
        futures, missing = self._claim([span])
        for run in _runs(missing, self._longest):
            self._load(span.shard, run)
        parts = [future.result() for future in futures]
        whole = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        before = span.start % self._piece
        return whole[before : before + span.size]

    def expect(self, spans: Iterable[Span]) -> None:
        """Has spans loaded that will be read soon, in this order; returns at once.

        What fails is tried again by whoever reads it.
        """
        for span in spans:
            _, missing = self._claim([span]) if span.size else ([], [])
            for run in _runs(missing, self._longest):
                self._ahead.do(_Loading(weakref.ref(self), span.shard, run))

    @property
    def _longest(self) -> int:
        return max(1, _RUN_BYTES // self._piece)

    def _claim(self, spans: Sequence[Span]) -> tuple[list[Future[bytes]], list[_Missing]]:
        """What gives each piece of spans, and those of them that are for the caller to load."""
        futures, missing = [], []
        with self._lock:
            for span in spans:
                last = (span.start + span.size - 1) // self._piece
                for number in range(span.start // self._piece, last + 1):
                    key = (span.shard.name, number)
                    if key not in self._held:
                        self._held[key] = Future()
                        missing.append(_Missing(number, self._held[key]))
                    self._held.move_to_end(key)
                    futures.append(self._held[key])
            while len(self._held) > max(self._most_held, len(futures)):
                self._held.popitem(last=False)
        return futures, missing

    def _load(self, shard: Shard, run: Sequence[_Missing]) -> None:
        """Gives each of a run of neighbours its piece, or the error."""
        try:
            lacking = []
            digests = self.index.sums(shard, run[0].number, len(run))
            for piece, digest in zip(run, digests, strict=True):
                if (found := self._cache.get(digest)) is not None:
                    piece.future.set_result(found)
                else:
                    lacking.append(piece)
            for part in _runs(lacking, self._longest):
                first = part[0].number - run[0].number
                wanted = digests[first : first + len(part)]
                contents = self._fetch(shard, part[0].number, wanted)
                for piece, digest, content in zip(part, wanted, contents, strict=True):
                    self._cache.put(digest, content)
                    piece.future.set_result(content)
        except BaseException as error:
            with self._lock:
                for piece in run:
                    if not piece.future.done():
                        self._held.pop((shard.name, piece.number), None)
            for piece in run:
                if not piece.future.done():
                    piece.future.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def _fetch(self, shard: Shard, first: int, digests: Sequence[bytes]) -> list[bytes]:
        """Neighbouring pieces from where the corpus lies, compared with their checksums."""
        start = first * self._piece
        size = min(shard.size, start + len(digests) * self._piece) - start
        for tried in range(1, WRONG_TRIES + 1):
            content = self.index.part(shard.name, start, size)
            pieces = [content[at : at + self._piece] for at in range(0, size, self._piece)]
            wrong = [n for n, piece in enumerate(pieces) if digest_of(piece) != digests[n]]
            if not wrong:
                return pieces
            if tried < WRONG_TRIES:
                time.sleep(WRONG_PAUSE)
        place = start + wrong[0] * self._piece
        raise DataError(
            f"piece {first + wrong[0]:,} (byte {place:,}) is not the one that was written: its checksum differs",
            where=self.index.source(shard.name).shown,
            hint="The corpus changed there, or is damaged: copy it again, whole",
        )


@dataclass(frozen=True)
class _Missing:
    """A piece that is to be loaded: its number in the shard, and what is waited on for it."""

    number: int
    future: Future[bytes]


def _runs(pieces: Sequence[_Missing], longest: int) -> Iterator[list[_Missing]]:
    """Neighbours together, at most so many."""
    run: list[_Missing] = []
    for piece in pieces:
        if run and (piece.number != run[-1].number + 1 or len(run) == longest):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


# -- threads -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Loading:
    """A run to load for those that are still there."""

    pieces: weakref.ref[Pieces]
    shard: Shard
    run: Sequence[_Missing]

    def __call__(self) -> None:
        if (pieces := self.pieces()) is not None:
            pieces._load(self.shard, self.run)


class _Threads:
    """Threads that do jobs in order, and do not keep a process from ending as those of an executor do.

    Args:
        most: started as they are needed.
    """

    def __init__(self, most: int) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._most, self._started = most, 0

    def do(self, job: Callable[[], None]) -> None:
        """Has a job done."""
        if self._started < self._most:
            self._started += 1
            threading.Thread(
                target=_work, args=(self._jobs,), name=f"corpus-{self._started}", daemon=True
            ).start()
        self._jobs.put(job)

    def stop(self) -> None:
        """Ends the threads, after what they are at."""
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in range(self._started):
            self._jobs.put(None)


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # else it lives until the next one comes
