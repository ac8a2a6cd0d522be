"""Which documents are held out for validation, and what is held out where there are too few."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from babygpt.data.arrow import TokenStore
from babygpt.data.writing import StoreWriter
from babygpt.errors import DataError

__all__ = ["MIN_DOCUMENTS", "bytes_of", "choose", "copy_split"]

MIN_DOCUMENTS = 20  # different ones; with fewer, whole documents are too coarse to hold out
_DECODE_TOKENS = 1 << 16
_FORGET_TOKENS = 1 << 24


def choose(hashes: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """Hold out the documents whose content hash, read as a fraction of 2**64, is below `fraction`.

    Equal documents share a hash and so a side. Each side gets at least one: the lowest hash is held out if
    none is below, the highest is kept if all are.

    Args:
        hashes: uint64 [documents], at least two of them different.
        fraction: above 0 and below 1.
    """
    lowest, highest = hashes.min(), hashes.max()
    assert lowest < highest
    border = np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
    # Held out: below the border, yet at least up to the lowest and at most below the highest.
    held_out = hashes < border
    held_out |= hashes == lowest
    held_out &= hashes < highest
    return held_out


def copy_split(
    whole: TokenStore,
    document_bytes: Iterable[int],
    fraction: float,
    train: StoreWriter,
    val: StoreWriter,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Copy a store into two, the last `fraction` of its tokens into `val`; one document is cut in two.

    Args:
        whole: all documents.
        document_bytes: UTF-8 bytes of each document's target text.
        fraction: above 0 and below 1.
        train, val: open writers.
        tokenizer: to tell how many bytes of the cut document fall behind the cut.

    Raises:
        DataError: there are too few tokens for two parts.
    """
    cut = whole.num_tokens - max(2, round(fraction * whole.num_tokens))
    if cut < 2:
        raise DataError(
            f"{whole.num_tokens} tokens are too few to train on some and hold out others",
            where="data.path",
            hint="Give more text",
        )
    forgotten = 0
    for number, num_bytes in zip(range(whole.num_documents), document_bytes, strict=True):
        start, end = int(whole.offsets[number]), int(whole.offsets[number + 1])
        if start - forgotten >= _FORGET_TOKENS:
            whole.forget()
            forgotten = start
        ids = whole.ids(start, end - start)
        mask = whole.target_mask(start, end - start) if whole.has_targets else None
        at = min(max(cut - start, 0), len(ids))
        if at == len(ids):
            train.add(ids, mask, num_bytes)
        elif at == 0:
            val.add(ids, mask, num_bytes)
        else:
            behind_mask = None if mask is None else mask[at:]
            behind = min(num_bytes, bytes_of(ids[at:], behind_mask, tokenizer))
            train.add(ids[:at], None if mask is None else mask[:at], num_bytes - behind)
            val.add(ids[at:], behind_mask, behind)


def bytes_of(
    ids: npt.NDArray[np.unsignedinteger],
    mask: npt.NDArray[np.bool_] | None,
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """UTF-8 bytes of the target tokens' text, decoded in parts to stay small.

    A character cut between two parts counts a few bytes too many.
    """
    targets = (ids if mask is None else ids[mask]).tolist()
    total = 0
    for start in range(0, len(targets), _DECODE_TOKENS):
        part = tokenizer.decode(
            targets[start : start + _DECODE_TOKENS],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        total += len(str(part).encode())
    return total
