"""Documents that stand twice in the data, and validation text that stands in the training text.

exact          equal content: sorting the documents' 64-bit content hashes, O(n log n), 8 bytes a document and 3.
near           MinHash over runs of five words, as web corpora are cleaned with (Lee et al. 2022, arXiv:2107.06499;
               Penedo et al. 2024, arXiv:2406.17557): 128 hashes in 16 bands of 8 name the candidates, and those
               whose signatures agree in 80 % are near duplicates. The first of them stays. More than 10 MB of
               text a second, about 2.5 kB of memory a document that stays.
contamination  runs of 13 tokens (the length of Brown et al. 2020, arXiv:2005.14165, appendix C, where tokens are
               words) of validation documents that stand in training documents too. A document counts when 80 % of
               its tokens lie in such runs (Touvron et al. 2023, arXiv:2307.09288, appendix A.6). One pass over the
               training ids; at most 2**22 validation tokens are looked for, with 32 bytes each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from babygpt.data.arrow import TokenStore
from babygpt.errors import DataError

__all__ = [
    "Contamination",
    "choose",
    "contamination",
    "distinct",
    "identity_of",
    "near",
    "repeated",
    "shared",
    "words_of",
]

_RUN_WORDS, _HASHES, _BANDS, _SIMILAR, _SEED = 5, 128, 16, 0.8, 1
_RUN_TOKENS, _CONTAMINATED = 13, 0.8
_MOST_VAL_TOKENS = 1 << 22
_CHUNK = 1 << 20
_SHARE_BITS = 6  # every share is a pass over all hashes

# Scripts that put no space between words: there every character stands for one.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")

Bools = npt.NDArray[np.bool_]
UInt64s = npt.NDArray[np.uint64]


# -- exact ---------------------------------------------------------------------------------------------------


def repeated(hashes: UInt64s, among: Bools | None = None) -> Bools:
    """Whether each document repeats an earlier one, bool [documents], by their content hashes.

    They are sorted a share at a time, those whose first bits are the same, so that it takes little more memory than
    the hashes and the answer.

    Args:
        hashes: uint64 [documents].
        among: bool [documents], those that are looked at; all if None.
    """
    found = np.zeros(len(hashes), dtype=np.bool_)
    bits = min(_SHARE_BITS, (len(hashes) // _CHUNK).bit_length())
    for share in range(1 << bits):
        numbers = np.concatenate(
            [_of_share(hashes, among, part, share, bits) for part in _parts(len(hashes))]
        )
        _, first = np.unique(hashes[numbers], return_index=True)
        again = np.ones(len(numbers), dtype=np.bool_)
        again[first] = False
        found[numbers[again]] = True
    return found


def distinct(hashes: UInt64s, most: int) -> int:
    """How many different ones there are, counted up to `most` or little more."""
    found = np.empty(0, dtype=np.uint64)
    for part in _parts(len(hashes)):
        found = np.union1d(found, np.unique(hashes[part])[:most])
        if len(found) >= most:
            break
    return len(found)


def shared(train: UInt64s, val: UInt64s) -> int:
    """How many of the second stand among the first."""
    wanted = np.unique(val)
    found = np.zeros(len(wanted), dtype=np.bool_)
    for part in _parts(len(train)) if len(wanted) else ():
        at = np.minimum(np.searchsorted(wanted, train[part]), len(wanted) - 1)
        found[at[wanted[at] == train[part]]] = True
    return int(found[np.searchsorted(wanted, val)].sum()) if len(wanted) else 0


def _parts(count: int) -> list[slice]:
    """At least one."""
    return [slice(start, start + _CHUNK) for start in range(0, max(1, count), _CHUNK)]


def _of_share(
    hashes: UInt64s, among: Bools | None, part: slice, share: int, bits: int
) -> npt.NDArray[np.intp]:
    """The numbers of the documents of a part whose hashes begin with the bits of a share."""
    wanted = np.ones(len(hashes[part]), dtype=np.bool_)
    if bits:
        wanted &= hashes[part] >> np.uint64(64 - bits) == share
    if among is not None:
        wanted &= among[part]
    return np.flatnonzero(wanted) + np.intp(part.start)


# -- near ----------------------------------------------------------------------------------------------------


def identity_of(mode: str) -> tuple[str, ...]:
    """What decides which documents are left out, as part of a token store's name; nothing where none are.

    Args:
        mode: `none`, `exact` or `near`.

    Raises:
        DataError: `near` without its library.
    """
    if mode != "near":
        return () if mode == "none" else (mode,)
    try:
        return ("near", version("rensa"), f"{_RUN_WORDS}:{_HASHES}:{_BANDS}:{_SIMILAR}:{_SEED}")
    except PackageNotFoundError:
        raise DataError(
            "near duplicates are found by the package rensa, which is not installed",
            where="data.deduplicate",
            hint="Install it with pip install rensa, or take data.deduplicate exact",
        ) from None


def words_of(text: str) -> list[str]:
    """The words of a text without case and punctuation; in scripts without spaces its characters."""
    return _WORD.findall(text.lower())


def near(texts: Iterable[str]) -> Iterator[bool]:
    """Whether each text is nearly one that came before it and was not itself left out.

    Texts of fewer than five words are near duplicates only where their words are the same.
    """
    import rensa

    index: Any = rensa.RMinHashDeduplicator(_SIMILAR, _HASHES, use_lsh=True, num_bands=_BANDS, seed=_SEED)
    for number, text in enumerate(texts):
        words = words_of(text)
        runs = [" ".join(words[at : at + _RUN_WORDS]) for at in range(max(1, len(words) - _RUN_WORDS + 1))]
        yield not index.add_pairs([(str(number), runs if words else [text.strip()])])[0]


def choose(mode: str, hashes: UInt64s, is_val: Bools, texts: Iterable[str]) -> tuple[Bools, str]:
    """Which training documents are left out, and a sentence that says how many are duplicates.

    Args:
        mode: `none`, `exact` or `near`.
        hashes: uint64 [documents], of their content.
        is_val: bool [documents]: those held out, which are neither looked at nor left out.
        texts: of all documents; read only for `near`.

    Returns:
        bool [documents], and the sentence.
    """
    copies = repeated(hashes, among=~is_val)
    count, of = int(copies.sum()), f"of {int((~is_val).sum()):,} training documents"
    said = f"duplicates: {_number(count)} {of} {'is' if count < 2 else 'are'} equal to an earlier one"
    if mode == "none":
        hint = "; they stay (data.deduplicate exact leaves them out)" if count else ""
        return np.zeros_like(copies), said + hint
    if mode == "exact":
        return copies, said + (" and left out" if count else "")
    different = ~(copies | is_val)
    nearly = copies.copy()
    compared = (text for text, is_compared in zip(texts, different, strict=False) if is_compared)
    found = list(
        near(compared)
    )  # shorter where the data changed meanwhile, which the store's builder will find
    nearly[np.flatnonzero(different)[: len(found)]] = found
    more = int(nearly.sum()) - count
    return nearly, f"{said}, {_number(more)} nearly so; {_number(count + more)} left out"


def _number(count: int) -> str:
    return f"{count:,}" if count else "none"


# -- contamination -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contamination:
    """Validation text that stands in the training text.

    Attributes:
        tokens: of the validation documents that were looked for; only targets, and only of documents of 13
            tokens or more.
        shared: of these, tokens in runs of 13 that stand in training documents too.
        documents: that were looked for.
        contaminated: of these, documents of which 80 % is shared.
        example: the first contaminated document's number in the validation store; None if there is none.
    """

    tokens: int
    shared: int
    documents: int
    contaminated: int
    example: int | None

    def in_words(self) -> str:
        """For people."""
        if not self.tokens:
            return "not looked for: no validation document has 13 tokens"
        share = f"{self.shared / self.tokens:.1%} of the validation tokens"
        documents = (
            "no document"
            if not self.contaminated
            else f"{self.contaminated:,} of {self.documents:,} documents"
        )
        return f"{share} lie in runs of {_RUN_TOKENS} that are trained on too; {documents} by 80 % or more"


def contamination(
    train: TokenStore, val: TokenStore, progress: Callable[[int, int], None] | None = None
) -> Contamination:
    """Look for a validation store's runs of tokens in a training store.

    Args:
        train, val: of one tokenizer.
        progress: called with (training tokens read, training tokens in all).
    """
    documents = int(np.searchsorted(val.offsets, _MOST_VAL_TOKENS, side="right")) - 1
    documents = max(1, min(documents, val.num_documents))
    offsets = val.offsets[: documents + 1]
    size = min(int(offsets[-1]), _MOST_VAL_TOKENS)
    offsets = np.minimum(offsets, size)
    hashes = _run_hashes(val.ids(0, size))
    starts = np.arange(len(hashes))
    ends = offsets[np.searchsorted(offsets, starts, side="right")]
    inside = starts + _RUN_TOKENS <= ends  # a run does not go on in the next document
    found = np.zeros(len(hashes), dtype=np.bool_)
    wanted = np.unique(hashes[inside])
    found[inside] = _are_in(train, wanted, progress or (lambda done, total: None))[
        np.searchsorted(wanted, hashes[inside])
    ]
    return _summed(offsets, found, val.target_mask(0, size))


def _summed(offsets: npt.NDArray[np.int64], found: Bools, is_target: Bools) -> Contamination:
    """From which runs are shared to which tokens and documents are."""
    edges = np.zeros(len(is_target) + 1, dtype=np.int64)
    starts = np.flatnonzero(found)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + _RUN_TOKENS, -1)
    shared = (np.cumsum(edges)[:-1] > 0) & is_target
    long = np.diff(offsets) >= _RUN_TOKENS
    targets, hits = (np.add.reduceat(mask.astype(np.int64), offsets[:-1]) for mask in (is_target, shared))
    judged = long & (targets > 0)
    contaminated = judged & (hits >= _CONTAMINATED * targets)
    numbers = np.flatnonzero(contaminated)
    return Contamination(
        tokens=int(targets[judged].sum()),
        shared=int(hits[judged].sum()),
        documents=int(judged.sum()),
        contaminated=len(numbers),
        example=int(numbers[0]) if len(numbers) else None,
    )


def _are_in(train: TokenStore, wanted: UInt64s, progress: Callable[[int, int], None]) -> Bools:
    """Which of some sorted hashes are those of a run anywhere in a store, bool [wanted]."""
    found = np.zeros(len(wanted), dtype=np.bool_)
    if not len(wanted):
        return found
    # A table of bits answers for nearly all runs that they are not wanted, without a search.
    shift = np.uint64(64 - max(16, (8 * len(wanted)).bit_length()))
    maybe = np.zeros(1 << (64 - int(shift)), dtype=np.bool_)
    maybe[wanted >> shift] = True
    for start in range(0, train.num_tokens, _CHUNK):
        size = min(_CHUNK + _RUN_TOKENS - 1, train.num_tokens - start)
        hashes = _run_hashes(train.ids(start, size))
        hashes = hashes[maybe[hashes >> shift]]
        at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        found[at[wanted[at] == hashes]] = True
        progress(min(start + _CHUNK, train.num_tokens), train.num_tokens)
    return found


def _run_hashes(ids: npt.NDArray[np.unsignedinteger[Any]]) -> UInt64s:
    """A 64-bit hash of each run of 13 ids, uint64 [ids - 12]: a polynomial in a large odd number, modulo 2**64.

    The expected false matches are the runs looked for times those in the training text over 2**64: 0.0003 at 2**22
    and a billion.
    """
    base = 0x9E3779B97F4A7C15
    mask = (1 << 64) - 1
    doubled = ids.astype(np.uint64) + np.uint64(1)
    doubled *= np.uint64(0xD6E8FEB86659FD93)
    doubled ^= doubled >> np.uint64(32)
    one, length = doubled, 1
    while 2 * length <= _RUN_TOKENS:  # 1, 2, 4, 8 tokens: twice a run is the run and the one behind it
        scale = np.uint64(pow(base, length, mask + 1))
        doubled = doubled[:-length] * scale + doubled[length:] if len(doubled) > length else doubled[:0]
        length *= 2
    count = max(0, len(ids) - _RUN_TOKENS + 1)
    whole = doubled[:count]
    for at in range(length, _RUN_TOKENS):
        whole = whole * np.uint64(base) + one[at : at + count]
    whole = whole * np.uint64(0xBF58476D1CE4E5B9)
    return whole ^ (whole >> np.uint64(31))
