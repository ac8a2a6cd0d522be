"""Document lengths to windows: pure arithmetic on arrays, no text and no tensors.

Three packings, all over one flat array of N tokens:

    stream    windows of `block` tokens that overlap by one: window w starts at w * (block - 1). A window's
              first token is context only, so every token but the stream's very first is a target exactly
              once. O(1): the arrays are computed where they are looked at; with masks O(tokens).
    isolated  whole documents packed best-fit-decreasing, none attending to another. A document longer than
              `block` is cut into pieces that overlap by one token, so every token but the document's first is
              a target exactly once.
    padded    the same pieces, one a window.

Instead of splitting a document longer than `block`, isolated and padded can cut it there, drop it, or refuse the data.

Windows without a single target (masked data) are left out: they would cost a forward pass and teach nothing. Where
prompts count, they are kept, so that the windows are those of the same tokens without masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from babygpt.errors import DataError

__all__ = [
    "Computed",
    "Numbers",
    "Packing",
    "Progression",
    "TargetsBefore",
    "TooLong",
    "Windows",
    "describe_too_long",
    "isolated_windows",
    "pack",
    "padded_windows",
    "stream_windows",
]

Packing = Literal["stream", "isolated", "padded"]
TooLong = Literal["split", "cut", "drop", "refuse"]
Int64s = npt.NDArray[np.int64]
Counts = npt.NDArray[Any]  # any integer dtype


class TargetsBefore(Protocol):
    """Indexed by positions, int64 [n], it gives the number of target tokens before each."""

    def __getitem__(self, positions: Any, /) -> Any: ...


class Computed(NDArrayOperatorsMixin):
    """An int64 array that is computed where it is looked at, and takes no memory.

    Args:
        count: numbers in all.
    """

    dtype = np.dtype(np.int64)

    def __init__(self, count: int) -> None:
        self._count = count

    def at(self, places: Int64s) -> Int64s:
        """The numbers at places from 0 to count - 1, int64 of their shape."""
        raise NotImplementedError

    def one(self, place: int) -> int:
        """The number at one place; a loader asks so, window by window, and arrays of one number are slow."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and -self._count <= index < self._count:
            return self.one(index if index >= 0 else index + self._count)
        if isinstance(index, slice):
            index = np.arange(self._count, dtype=np.int64)[index]
        places = np.asarray(index)
        if places.dtype == np.bool_:
            places = np.flatnonzero(places)
        if places.size and not (-self._count <= places.min() and places.max() < self._count):
            raise IndexError(f"{index} in an array of {self._count}")
        found = self.at(np.where(places < 0, places + self._count, places))
        return found if found.ndim else found[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Int64s:
        del copy
        whole: Int64s = np.asarray(self[:], dtype=dtype)
        return whole

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = [np.asarray(each) if isinstance(each, Computed) else each for each in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def sum(self) -> int:
        """Of all numbers."""
        return int(np.asarray(self).sum())

    def tolist(self) -> list[int]:
        """As a list."""
        return list(np.asarray(self).tolist())


class Progression(Computed):
    """first, first + step, first + 2 * step, ..., and a last number of its own.

    Args:
        count: numbers in all.
        first: the first.
        step: between two of them.
        last: the last, whatever the others.
    """

    def __init__(self, count: int, first: int, step: int, last: int) -> None:
        super().__init__(count)
        self._first, self._step, self._last = first, step, last

    def at(self, places: Int64s) -> Int64s:
        """The numbers at places, int64 of their shape."""
        return np.where(places == self._count - 1, self._last, self._first + self._step * places)

    def one(self, place: int) -> int:
        """The number at one place."""
        return self._last if place == self._count - 1 else self._first + self._step * place

    def sum(self) -> int:
        """Of all numbers, in O(1)."""
        n = self._count - 1
        return n * self._first + self._step * (n * (n - 1) // 2) + self._last if self._count else 0


Numbers = Int64s | Computed


@dataclass(frozen=True)
class Windows:
    """Which tokens of the flat array each window holds.

    Attributes:
        block: tokens of a full window.
        isolated: whether the pieces of a window must not attend to each other.
        starts: int64 [pieces], first token of each piece in the flat array.
        lengths: int64 [pieces], tokens of each piece.
        offsets: int64 [windows + 1]; the pieces of window w are offsets[w]:offsets[w + 1].
        targets: int64 [windows], tokens of each window that the loss counts; a piece's first token never is
            one.
    """

    block: int
    isolated: bool
    starts: Numbers
    lengths: Numbers
    offsets: Numbers
    targets: Numbers

    def __len__(self) -> int:
        return len(self.targets)

    def pieces_of(self, windows: Int64s) -> Int64s:
        """The pieces of some windows, int64."""
        firsts, lasts = np.asarray(self.offsets[windows]), np.asarray(self.offsets[windows + 1])
        return np.concatenate([np.arange(a, b) for a, b in zip(firsts, lasts, strict=True)] or [firsts])

    def predicted(self, windows: Int64s | None = None) -> int:
        """Tokens of some windows, or of all, that have one before them in their piece, targets or not."""
        lengths = self.lengths if windows is None else np.asarray(self.lengths[self.pieces_of(windows)])
        return int(lengths.sum()) - len(lengths)


def pack(
    document_offsets: Counts,
    block: int,
    packing: Packing,
    target_mask_cumsum: TargetsBefore | None = None,
    *,
    too_long: TooLong = "split",
    may_be_short: bool = False,
    with_prompts: bool = False,
) -> Windows:
    """Pack documents into windows.

    Args:
        document_offsets: integers [documents + 1], from 0 to the number of tokens.
        block: tokens of a window, at least 2.
        packing: `stream`, `isolated` or `padded`.
        target_mask_cumsum: the number of target tokens before each position, an array [tokens + 1] or what
            can be indexed like one; None means that every token is a target.
        too_long: what becomes of documents longer than `block`; `stream` knows none.
        may_be_short: accept fewer tokens than one window under `stream` (validation data may be small).
        with_prompts: keep windows and pieces without a target, too.

    Raises:
        DataError: the block is below 2, the tokens do not fill one window, a document is longer where that is refused,
            or nothing is a target.
    """
    if block < 2:
        raise DataError(f"a window of {block} tokens has no target", where="data.block", hint="Use 2 or more")
    offsets = np.asarray(document_offsets, dtype=np.int64)
    num_tokens = int(offsets[-1])
    if packing == "stream":
        if num_tokens < block and not may_be_short:
            raise DataError(
                f"the data has {num_tokens} tokens, one window needs {block}",
                where="data.block",
                hint="Give more text or a smaller data.block",
            )
        windows = stream_windows(num_tokens, block, target_mask_cumsum, with_prompts)
    elif packing == "isolated":
        windows = isolated_windows(offsets, block, target_mask_cumsum, too_long, with_prompts)
    elif packing == "padded":
        windows = padded_windows(offsets, block, target_mask_cumsum, too_long, with_prompts)
    else:
        raise DataError(
            f"unknown packing {packing!r}", where="data.packing", hint="Use stream, isolated or padded"
        )
    if not int(windows.targets.sum()):
        raise DataError(
            f"not one of the {num_tokens} tokens is a target"
            f"{'' if too_long == 'split' else f' in what data.too_long {too_long} leaves'}",
            where="data",
            hint="A document needs two tokens or more, and masked data a completion or an assistant's turn",
        )
    return windows


def stream_windows(
    num_tokens: int, block: int, target_mask_cumsum: TargetsBefore | None = None, with_prompts: bool = False
) -> Windows:
    """Windows over the joined stream; the last may be shorter than `block`, never below 2 tokens."""
    count = max(0, -(-(num_tokens - 1) // (block - 1)))
    if target_mask_cumsum is None:
        last = (count - 1) * (block - 1)
        return Windows(
            block=block,
            isolated=False,
            starts=Progression(count, 0, block - 1, last),
            lengths=Progression(count, block, 0, num_tokens - last),
            offsets=Progression(count + 1, 0, 1, count),
            targets=Progression(count, block - 1, 0, num_tokens - last - 1),
        )
    starts = np.arange(count, dtype=np.int64) * (block - 1)
    lengths = np.minimum(block, num_tokens - starts)
    return _one_piece_each(block, *_with_targets(starts, lengths, target_mask_cumsum, with_prompts))


def describe_too_long(document_offsets: Counts, block: int, too_long: TooLong) -> str | None:
    """What becomes of the documents longer than `block`, counted, in words; None where there are none."""
    lengths = np.diff(np.asarray(document_offsets, dtype=np.int64))
    long = lengths[lengths > block]
    if not len(long):
        return None
    tokens, beyond = int(long.sum()), int(long.sum()) - block * len(long)
    done = {
        "split": f"split into pieces that overlap by one token, all {tokens:,} tokens kept",
        "cut": f"cut to their first {block:,} tokens, {beyond:,} of {int(lengths.sum()):,} tokens lost",
        "drop": f"left out, {tokens:,} of {int(lengths.sum()):,} tokens lost",
        "refuse": "refused",
    }
    return (
        f"{len(long):,} of {len(lengths):,} documents are longer than a window of {block:,} tokens (the longest has"
        f" {int(long.max()):,}): {done[too_long]}"
    )


def padded_windows(
    document_offsets: Counts,
    block: int,
    target_mask_cumsum: TargetsBefore | None = None,
    too_long: TooLong = "split",
    with_prompts: bool = False,
) -> Windows:
    """One document, or one piece of a long one, a window."""
    starts, lengths = _pieces(np.asarray(document_offsets, dtype=np.int64), block, too_long)
    return _one_piece_each(block, *_with_targets(starts, lengths, target_mask_cumsum, with_prompts))


def isolated_windows(
    document_offsets: Counts,
    block: int,
    target_mask_cumsum: TargetsBefore | None = None,
    too_long: TooLong = "split",
    with_prompts: bool = False,
) -> Windows:
    """Whole documents, or pieces of long ones, best-fit-decreasing; in a window in the data's order."""
    pieces = _pieces(np.asarray(document_offsets, dtype=np.int64), block, too_long)
    starts, lengths, targets = _with_targets(*pieces, target_mask_cumsum, with_prompts)
    window_of = _best_fit_decreasing(lengths, block)
    num_windows = int(window_of.max()) + 1 if len(window_of) else 0
    by_window = np.argsort(window_of, kind="stable")
    offsets = np.zeros(num_windows + 1, dtype=np.int64)
    np.cumsum(np.bincount(window_of, minlength=num_windows), out=offsets[1:])
    targets_before = np.concatenate([[0], np.cumsum(targets[by_window])])
    return Windows(
        block=block,
        isolated=True,
        starts=starts[by_window],
        lengths=lengths[by_window],
        offsets=offsets,
        targets=np.diff(targets_before[offsets]),
    )


def _one_piece_each(block: int, starts: Int64s, lengths: Int64s, targets: Int64s) -> Windows:
    offsets = np.arange(len(starts) + 1, dtype=np.int64)
    return Windows(
        block=block, isolated=False, starts=starts, lengths=lengths, offsets=offsets, targets=targets
    )


def _pieces(document_offsets: Int64s, block: int, too_long: TooLong) -> tuple[Int64s, Int64s]:
    """Each document in pieces of at most `block` tokens that overlap by one: starts, lengths."""
    lengths = np.diff(document_offsets)
    if too_long == "refuse" and (problem := describe_too_long(document_offsets, block, too_long)):
        raise DataError(
            problem,
            where="data.too_long",
            hint=f"Say what is to become of them: split, cut or drop, or give a data.block of {int(lengths.max())}",
        )
    if too_long == "cut":
        lengths = np.minimum(lengths, block)
    elif too_long == "drop":
        lengths = np.where(lengths > block, 0, lengths)
    # A document of n tokens has n - 1 targets and a piece covers block - 1 of them: documents of 0 or 1
    # tokens get no piece.
    counts = np.maximum(0, -(-(lengths - 1) // (block - 1)))
    document = np.repeat(np.arange(len(lengths)), counts)
    first_piece = np.cumsum(counts) - counts
    inside = (np.arange(len(document)) - first_piece[document]) * (block - 1)
    return document_offsets[document] + inside, np.minimum(block, lengths[document] - inside)


def _with_targets(
    starts: Int64s, lengths: Int64s, target_mask_cumsum: TargetsBefore | None, with_prompts: bool
) -> tuple[Int64s, Int64s, Int64s]:
    """Count each piece's targets (its first token is none); leave out pieces that have none, unless prompts count."""
    if target_mask_cumsum is None:
        return starts, lengths, lengths - 1
    # Asked for at once, since counting takes a look at every token; widened, since the counts may be unsigned.
    counts = np.asarray(target_mask_cumsum[np.concatenate([starts + 1, starts + lengths])]).astype(np.int64)
    targets = counts[len(starts) :] - counts[: len(starts)]
    kept = (targets > 0) | with_prompts
    return starts[kept], lengths[kept], targets[kept]


def _best_fit_decreasing(lengths: Int64s, block: int) -> Int64s:
    """Window of each piece: longest pieces first, each into the fullest window that still has room.

    All pieces of one length are placed together. If r is the smallest room that fits length n, then a window
    with room r goes on being the best fit until it has taken r // n pieces, so windows of equal room are
    filled in bulk: at most one step of the loop for every (length, room) met, and never more steps than
    pieces. Deterministic; ties go to the window opened or moved to that room last.

    Args:
        lengths: int64 [pieces], each from 1 to `block`.
    """
    by_length = np.argsort(-lengths, kind="stable")
    window_of = np.empty(len(lengths), dtype=np.int64)
    with_room: dict[int, list[Int64s]] = {}  # room -> stacked runs of window numbers
    rooms = 0  # bit r is set when with_room[r] is not empty: finds the smallest fitting room in one operation
    num_windows = 0
    sizes, counts = np.unique(lengths, return_counts=True)
    placed = 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            fitting = rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
                run = with_room[room].pop()
                if not with_room[room]:
                    rooms &= ~(1 << room)
            else:
                room = block
                needed = -(-left // (room // size))
                run = np.arange(num_windows, num_windows + needed, dtype=np.int64)
                num_windows += needed
            per_window = room // size
            full = min(len(run), left // per_window)
            taken = np.repeat(run[:full], per_window)
            moved = [(room - per_window * size, run[:full])]
            rest = min(left - len(taken), per_window - 1) if full < len(run) else 0
            if rest:
                taken = np.concatenate([taken, np.repeat(run[full : full + 1], rest)])
                moved.append((room - rest * size, run[full : full + 1]))
            moved.append((room, run[full + (rest > 0) :]))
            window_of[by_length[placed : placed + len(taken)]] = taken
            placed += len(taken)
            left -= len(taken)
            for new_room, windows in moved:
                if len(windows) and new_room:
                    with_room.setdefault(new_room, []).append(windows)
                    rooms |= 1 << new_room
    return window_of
