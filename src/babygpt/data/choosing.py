"""Reads what every document is, and chooses which are held out and which are left out.

Memory: 8 bytes a document for its hash and 3 while duplicates are looked for, then a quarter of a byte; what else is
to be known of each lies in a file meanwhile.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from babygpt.data import duplicates
from babygpt.data.bits import Bits
from babygpt.data.reading import Origin
from babygpt.data.split import MIN_DOCUMENTS, choose
from babygpt.data.work import keep_hashes
from babygpt.recipe import DataRecipe

__all__ = ["Chosen", "Progress", "choose_documents"]

Progress = Callable[[str, int, int], None]
Bools = npt.NDArray[np.bool_]
UInt64s = npt.NDArray[np.uint64]

_AT_ONCE = 1 << 16  # documents
_FACTS = np.dtype([("size", np.int64), ("masked", np.bool_)])


@dataclass(frozen=True)
class Chosen:
    """The documents that are taken, those of `val_path` last, and how they are split.

    Attributes:
        is_val: of each document taken, whether it is held out.
        left_out: of each document read, whether it is left out of everything.
        in_tail: the tail of the tokens of all is held out instead.
        size: of those taken, UTF-8 bytes or tokens, as `reading.Seen`.
        train_size: of these, what is not held out.
        train_masked, val_masked: whether some tokens of either side may be no targets.
        has_chats: whether some of those read are conversations.
        withheld: the first thing in what `path` names that is to count nothing, as `reading.Seen` says it.
    """

    is_val: Bits
    left_out: Bits
    in_tail: bool
    size: int
    train_size: int
    train_masked: bool
    val_masked: bool
    has_chats: bool
    withheld: str

    @property
    def count(self) -> int:
        """Of the documents that are taken."""
        return len(self.is_val)


class _Facts:
    """Size and mask of each document, in a file without a name."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sizes, self._masked = array("q"), bytearray()

    def add(self, size: int, masked: bool) -> None:
        """The next document's."""
        self._sizes.append(size)
        self._masked.append(masked)
        if len(self._sizes) == _AT_ONCE:
            self._write()

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """All of them in order, some at a time."""
        self._write()
        self._file.seek(0)
        while block := self._file.read(_AT_ONCE * _FACTS.itemsize):
            yield np.frombuffer(block, dtype=_FACTS)

    def _write(self) -> None:
        facts = np.empty(len(self._sizes), dtype=_FACTS)
        facts["size"], facts["masked"] = self._sizes, np.frombuffer(self._masked, dtype=np.bool_)
        self._file.write(facts.tobytes())
        self._sizes, self._masked = array("q"), bytearray()


def choose_documents(
    recipe: DataRecipe,
    origin: Origin,
    progress: Progress,
    note: Callable[[str], None],
    work: Path,
) -> Chosen:
    """Reads all documents once, and looks for `near` duplicates in a second reading.

    Args:
        recipe: paths and split.
        origin: what reads the paths.
        progress: called with (stage, documents done, documents in all or 0).
        note: told what a person should know of the choice.
        work: a folder, in which the hashes of those taken are kept, and what else is known of them lies meanwhile.
    """
    with tempfile.TemporaryFile(dir=work) as file:
        facts = _Facts(file)
        hashes, given, has_chats, withheld = _scan(recipe, origin, progress, note, facts)
        is_val, in_tail = _hold_out(recipe, hashes, given, note)
        texts = origin.texts((*recipe.path, *recipe.val_path))
        left_out, said = duplicates.choose(recipe.deduplicate, hashes, is_val, texts)
        note(said)
        size, masked = [0, 0], [False, False]
        for number, some in enumerate(facts):
            part = slice(number * _AT_ONCE, number * _AT_ONCE + len(some))
            for side in (0, 1):
                taken = some[(is_val[part] == bool(side)) & ~left_out[part]]
                size[side] += int(taken["size"].sum())
                masked[side] |= bool(taken["masked"].any())
    keep_hashes(work, hashes, left_out)
    return Chosen(
        is_val=Bits.of(is_val[~left_out]),
        left_out=Bits.of(left_out),
        in_tail=in_tail,
        size=sum(size),
        train_size=size[0],
        train_masked=masked[0],
        val_masked=masked[1],
        has_chats=has_chats,
        withheld=withheld,
    )


def _scan(
    recipe: DataRecipe, origin: Origin, progress: Progress, note: Callable[[str], None], facts: _Facts
) -> tuple[UInt64s, int, bool, str]:
    """The documents' hashes, how many are those of `val_path`, whether some are conversations, and what is withheld."""
    hashes, given, has_chats, withheld = array("Q"), 0, False, ""
    for paths in (recipe.path, recipe.val_path) if recipe.val_path else (recipe.path,):
        before = len(hashes)
        for seen in origin.seen(paths, note):
            hashes.append(seen.content_hash)
            facts.add(seen.size, seen.masked)
            has_chats |= seen.is_chat
            withheld = withheld or (seen.withheld if paths is recipe.path else "")
            progress("reading", len(hashes), 0)
        given = len(hashes) - before
    return np.frombuffer(hashes, dtype=np.uint64), given if recipe.val_path else 0, has_chats, withheld


def _hold_out(
    recipe: DataRecipe, hashes: UInt64s, given: int, note: Callable[[str], None]
) -> tuple[Bools, bool]:
    """Which documents are held out, bool [documents]; or whether the tail of the tokens of all is."""
    fraction, count = recipe.val_fraction, len(hashes)
    if given:
        shared = duplicates.shared(hashes[: count - given], hashes[count - given :])
        note(
            f"validation: the {given} documents of data.val_path;"
            f" {shared or 'none'} of them also {'stands' if shared == 1 else 'stand'} in the training data"
        )
        return np.arange(count) >= count - given, False
    distinct = duplicates.distinct(hashes, MIN_DOCUMENTS)
    if distinct >= MIN_DOCUMENTS:
        is_val = choose(hashes, fraction)
        note(f"validation: {is_val.sum()} of {count} documents, chosen by their content")
        return is_val, False
    note(
        f"validation: the last {fraction:.0%} of the tokens, because there"
        f" {'is' if distinct == 1 else 'are'} only {distinct} different"
        f" document{'s' * (distinct > 1)} (from {MIN_DOCUMENTS} on, whole documents are held out)"
    )
    return np.zeros(count, dtype=np.bool_), True
