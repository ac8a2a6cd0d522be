"""Texts to token ids, in batches that the tokenizer spreads over the cores.

A very long text is cut at line ends for the same reason, with proof that the cuts change no token.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

__all__ = ["BATCH_CHARS", "Ids", "encode_texts"]

Ids = npt.NDArray[np.uint32]

BATCH_CHARS = 2_000_000  # text held encoded at once; an encoding takes about 100 bytes a token
_PIECE_CHARS = 50_000  # a longer text is cut into pieces of about this many characters
_CONTEXT_CHARS = 400  # read on either side of a piece, so that its border tokens come out as in the whole
_AGREE = 4  # tokens on either side of a cut that the neighbouring pieces must agree on
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    """Ids of each text, uint32, without special tokens of the tokenizer's own."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        plain = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        return [np.array(ids, dtype=np.uint32) for ids in plain]
    backend.no_truncation()
    backend.no_padding()
    longest = 2 * _PIECE_CHARS
    short = [text for text in texts if len(text) <= longest]
    encodings = iter(backend.encode_batch_fast(short, add_special_tokens=False))
    out = []
    for text in texts:
        if len(text) <= longest:
            ids = np.asarray(array("I", next(encodings).ids), np.uint32)  # a third of the time of np.array
        elif (cut := _encode_long(text, backend)) is not None:
            ids = cut
        else:
            ids = np.array(backend.encode(text, add_special_tokens=False).ids, dtype=np.uint32)
        out.append(ids)
    return out


def _encode_long(text: str, backend: Any) -> Ids | None:
    """Ids of a long text through pieces encoded in parallel, or None where that is not exact.

    Pieces meet behind single line ends. Each is encoded with some context on both sides; a cut holds when no
    token straddles it and both neighbours give the same tokens around it.
    """
    cuts = [0]
    while (cut := _CUT.search(text, cuts[-1] + _PIECE_CHARS)) is not None:
        cuts.append(cut.end())
    cuts.append(len(text))
    spans = list(pairwise(cuts))
    out: list[Ids] = []
    # Tokens before and behind the last cut, as the piece on its left gives them.
    expected: tuple[Ids, Ids] | None = None
    at_once = max(1, BATCH_CHARS // _PIECE_CHARS)
    for first in range(0, len(spans), at_once):
        group = spans[first : first + at_once]
        froms = [max(0, start - _CONTEXT_CHARS) for start, _ in group]
        pieces = [text[begin : end + _CONTEXT_CHARS] for begin, (_, end) in zip(froms, group, strict=True)]
        encodings = backend.encode_batch(pieces, add_special_tokens=False)
        for begin, (start, end), encoding in zip(froms, group, encodings, strict=True):
            ids = np.array(encoding.ids, dtype=np.uint32)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + begin
            low = _cut_index(offsets, start) if start else 0
            high = _cut_index(offsets, end) if end < len(text) else len(ids)
            if low is None or high is None:
                return None
            if start and not _agree(expected, (ids[:low], ids[low:])):
                return None
            expected = ids[max(0, high - _AGREE) : high], ids[high : high + _AGREE]
            out.append(ids[low:high])
    return np.concatenate(out)


def _cut_index(offsets: npt.NDArray[np.int64], cut: int) -> int | None:
    """How many tokens lie before character `cut`; None when one straddles it.

    Ends decide, not starts: byte-level tokenizers that trim offsets report a line end as an empty range
    behind itself.
    """
    behind = np.flatnonzero(offsets[:, 1] > cut)
    index = int(behind[0]) if len(behind) else len(offsets)
    if index < len(offsets) and offsets[index, 0] < cut:
        return None
    return index


def _agree(expected: tuple[Ids, Ids] | None, found: tuple[Ids, Ids]) -> bool:
    assert expected is not None
    before, behind = expected
    return np.array_equal(before, found[0][len(found[0]) - len(before) :]) and np.array_equal(
        behind, found[1][: len(behind)]
    )
