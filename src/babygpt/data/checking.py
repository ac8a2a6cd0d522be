"""Whether a corpus on a disk of this computer is the one that its `corpus.json` speaks of.

Sizes cost a look at each file, and are compared at every start; bytes are read by `babygpt checkpoint verify`. A corpus
elsewhere needs neither: each piece of it is compared when it is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from babygpt.data.corpus import SUM_BYTES, Corpus, digest_of, sums_name
from babygpt.files import sha256_of

__all__ = ["damaged", "sizes", "wrong_sizes"]


def sizes(corpus: Corpus) -> dict[str, int]:
    """The bytes of every file of a corpus but its `corpus.json`, by name."""
    shards = {shard.name: shard.size for side in corpus.sides.values() for shard in side.shards}
    return {name: entry.size for name, entry in corpus.files.items()} | shards


def wrong_sizes(folder: Path, corpus: Corpus) -> list[str]:
    """What is missing or of another size, a sentence each."""
    wrong = []
    for name, size in sizes(corpus).items():
        file = folder / name
        if not file.is_file():
            wrong.append(f"{name} is missing")
        elif (found := file.stat().st_size) != size:
            wrong.append(f"{name} has {found:,} bytes instead of {size:,}")
    return wrong


def damaged(
    folder: Path, corpus: Corpus, progress: Callable[[int], None] = lambda done: None
) -> Iterator[str]:
    """Reads every byte of files that have their sizes; what is damaged, a sentence for each file.

    Args:
        folder: of `corpus.json`.
        corpus: its content.
        progress: called with the bytes of shards read so far.
    """
    unsure, done = set(), 0
    for name, entry in corpus.files.items():
        if sha256_of(folder / name) != entry.sha256:
            unsure.add(name)
            yield f"{name} is damaged: its checksum differs"
    for shard in (shard for side in corpus.sides.values() for shard in side.shards):
        if sums_name(shard.name) in unsure:
            yield f"{shard.name} cannot be checked, since its checksums are damaged"
            continue
        sums, wrong = (folder / sums_name(shard.name)).read_bytes(), []
        with (folder / shard.name).open("rb") as file:
            for number in range(len(sums) // SUM_BYTES):
                piece = file.read(corpus.piece)
                if digest_of(piece) != sums[number * SUM_BYTES : (number + 1) * SUM_BYTES]:
                    wrong.append(number * corpus.piece)
                done += len(piece)
                progress(done)
        if wrong:
            pieces = f"{len(wrong):,} piece{'s' * (len(wrong) > 1)} of {corpus.piece:,} bytes"
            yield f"{shard.name} is damaged in {pieces}, first at byte {wrong[0]:,}"
