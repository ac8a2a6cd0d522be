"""A store's windows, kept beside it where laying them out takes a look at every document or token.

    CACHE/data/KEY/windows/SIDE-PACKING-BLOCK.i64   a header, then starts, lengths, offsets and targets, int64

The name ends in what becomes of too long documents, where they are not split, and in `prompts` where windows without a
target are among them.

Unmasked streams are arithmetic and small stores quick: neither is kept. The file is mapped, so that a run that
goes on pays for the windows it reads. It appears whole or not at all; one of another store or size is made
again, and a cache that cannot be written costs time only.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from babygpt.data.arrow import TokenStore
from babygpt.data.cache import clear_leftovers, publishing
from babygpt.data.joined import join_windows, parts_of
from babygpt.data.packing import Packing, TooLong, Windows, describe_too_long, pack
from babygpt.disk import fsync_file
from babygpt.errors import DataError, InputError
from babygpt.recipe import DataRecipe

__all__ = ["lay_out", "lay_out_sources", "notes_on_length"]

_FORMAT = 1  # raised when packing puts documents elsewhere
_KEPT_FROM = 1 << 20  # tokens
_HEADER = 6
_FIELDS = ("starts", "lengths", "offsets", "targets")


def lay_out(
    store: TokenStore,
    block: int,
    packing: Packing,
    *,
    too_long: TooLong = "split",
    may_be_short: bool = False,
    with_prompts: bool = False,
) -> Windows:
    """The windows of a whole store; arguments and errors as of `packing.pack`.

    Cost: O(1) for an unmasked stream, and for others once they have been laid out; the first time as `pack`.
    """
    if packing == "stream" and not store.has_targets:
        return pack(np.array([0, store.num_tokens]), block, packing, may_be_short=may_be_short)
    with_prompts = with_prompts and store.has_targets
    other = ("" if too_long == "split" else f"-{too_long}") + "-prompts" * with_prompts
    path = store.folder.parent / "windows" / f"{store.folder.name}-{packing}-{block}{other}.i64"
    kept = store.num_tokens >= max(_KEPT_FROM, block)
    if kept and (found := _read(path, store, block, packing)) is not None:
        return found
    windows = pack(
        store.offsets,
        block,
        packing,
        store.target_cumsum(),
        too_long=too_long,
        may_be_short=may_be_short,
        with_prompts=with_prompts,
    )
    if kept:
        _write(path, store, windows)
        windows = _read(path, store, block, packing) or windows
    return windows


def lay_out_sources(
    store: TokenStore, recipe: DataRecipe, *, may_be_short: bool, with_prompts: bool
) -> tuple[Windows, tuple[int, ...]]:
    """The windows of a store that may be joined of several, and how many each of them has.

    Args:
        store: of a recipe, whose block is resolved.
        recipe: block and packing; its paths are named where there are too few tokens in one of several.
        may_be_short, with_prompts: as of `packing.pack`.

    Raises:
        DataError: as of `packing.pack`.
    """
    parts, each = parts_of(store), []
    for path, part in zip(recipe.path, parts, strict=bool(recipe.weights)):
        try:
            each.append(
                lay_out(
                    part,
                    int(recipe.block),
                    recipe.packing,
                    too_long=recipe.too_long,
                    may_be_short=may_be_short,
                    with_prompts=with_prompts,
                )
            )
        except DataError as error:
            if not recipe.weights:
                raise
            raise DataError(f"{error.what} ({error.where})", where=path, hint=error.hint) from None
    windows = join_windows(each, [part.num_tokens for part in parts]) if len(parts) > 1 else each[0]
    return windows, tuple(map(len, each))


def notes_on_length(
    train: TokenStore, val: TokenStore, block: int, packing: Packing, too_long: TooLong
) -> list[str]:
    """What becomes of the documents longer than a window, a sentence for each store that has some."""
    if packing == "stream":
        return []
    found = {
        side: describe_too_long(store.offsets, block, too_long)
        for side, store in (("training", train), ("validation", val))
    }
    return [f"{side}: {said}" for side, said in found.items() if said]


def _header(store: TokenStore, block: int, isolated: bool) -> list[int]:
    return [_FORMAT, int(store.manifest.fingerprint[:15], 16), block, int(isolated)]


def _read(path: Path, store: TokenStore, block: int, packing: Packing) -> Windows | None:
    try:
        whole = np.memmap(path, dtype="<i8", mode="r")
    except (OSError, ValueError):
        return None
    isolated = packing == "isolated"
    if len(whole) < _HEADER or whole[: _HEADER - 2].tolist() != _header(store, block, isolated):
        return None
    pieces, count = whole[_HEADER - 2 : _HEADER].tolist()
    sizes = [pieces, pieces, count + 1, count]
    if min(pieces, count) < 1 or len(whole) != _HEADER + sum(sizes):
        return None
    ends = np.cumsum([_HEADER, *sizes]).tolist()
    arrays = [np.asarray(whole[first:last]) for first, last in pairwise(ends)]
    return Windows(block, isolated, *arrays)


def _write(path: Path, store: TokenStore, windows: Windows) -> None:
    header = [*_header(store, windows.block, windows.isolated), len(windows.starts), len(windows)]
    clear_leftovers(path.parent)
    partial = path.with_name(f".partial-{path.name}-{secrets.token_hex(4)}")
    try:
        with publishing(path.parent):
            with partial.open("xb") as file:
                np.array(header, dtype="<i8").tofile(file)
                for name in _FIELDS:
                    np.asarray(getattr(windows, name), dtype="<i8").tofile(file)
            fsync_file(partial)
            os.replace(partial, path)
    except (OSError, InputError):
        with suppress(OSError):
            partial.unlink()
