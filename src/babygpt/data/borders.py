"""Spans of text to token ids, so that no token lies across a border and each span begins as at inference.

What comes out is defined by three encodings, of which the first that fits is taken:

1. the spans' joined text, where it comes to the same tokens as the spans one by one;
2. the joined text, where what comes before each border comes to the tokens it begins with (tokenizers that mark a
   text's start: a span alone has a mark that it has not here);
3. the spans one by one, each but the first without such a mark: some token lies across a border.

Byte-pair encoders need not do all that to tell, as long as they mark no more than a text's start. They cut at special
tokens, then into words, and within a word any row of tokens is right in which every two neighbours are what the two
alone would give. So the spans are encoded one by one, and of each border up to 16 characters before, or what follows
a special token among the last 64, and 16 behind. Where the two tokens on either side come out as in the spans, case 1
or 2 holds, with the same ids; where those before the border change and two more follow, case 3 does. Where neither is
so, a document's borders are looked at with 64 characters before and 32 behind. Anything else, which is rare, is
encoded as the definition says, as is everything by other kinds of tokenizers. How wide a window is decides how often
it leaves a border open, not what comes out: a word that fills one of its sides and goes on across the border leaves
it open, too.

Cost: the text once, and 25 to 50 characters a border, equal ones once; none for a border behind a special token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase

from babygpt.data.sources import Span
from babygpt.data.texts import Ids, encode_texts

__all__ = ["SpanEncoder"]

_WIDTHS = (
    (16, 16),
    (64, 32),
)  # characters on either side of a border; the second where the first leave it open
_LOOK_BACK = max(before for before, _ in _WIDTHS)  # characters in which a special token is looked for
_CONTRACTION = 4  # characters in which two apostrophes, each as in 's or 'll, may move the words behind them
_AGREE = 2  # tokens on either side of a border that must come out as in the spans

Mask = npt.NDArray[np.bool_]
Spans = tuple[Span, ...]


@dataclass(frozen=True)
class _Window:
    """The text around a border.

    Attributes:
        before, behind: on either side.
        at: tokens of the document before the border, when its spans are encoded one by one.
        from_start: whether `before` begins with the text or behind a special token, so that its tokens are right
            from the first on.
        to_end: whether `behind` reaches the text's end.
        within: whether something stands before `before`.
    """

    before: str
    behind: str
    at: int
    from_start: bool
    to_end: bool
    within: bool


class SpanEncoder:
    """Encodes documents of several spans with one tokenizer.

    Args:
        tokenizer: with an end-of-text token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._end = str(tokenizer.eos_token)
        alone, behind, later = encode_texts(["a", f"{self._end}a", f"{self._end}\na"], tokenizer)
        self._marks_start = not np.array_equal(alone, behind[1:])
        marks_each = not np.array_equal(behind[1:], later[len(later) - len(behind) + 1 :])
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._looks_near = isinstance(getattr(backend, "model", None), BPE) and not marks_each
        self._barrier = _barriers(tokenizer)

    def encode(self, documents: Sequence[Spans]) -> list[tuple[Ids, Mask]]:
        """Ids and target mask of each document's spans, without special tokens of the tokenizer's own."""
        merged = [_merge(spans) for spans in documents]
        parts = self._parts(merged)
        ids = [each[0] if len(each) == 1 else np.concatenate(each) for each in parts]
        counts = [[len(part) for part in each] for each in parts]
        several = [number for number, spans in enumerate(merged) if len(spans) > 1]
        unclear = several
        for width in _WIDTHS if self._looks_near else ():
            windows = [
                (number, window)
                for number in unclear
                for window in self._windows(merged[number], list(accumulate(counts[number])), *width)
            ]
            unclear = sorted({number for number, is_clear in self._judge(windows, ids) if not is_clear})
        defined = self._by_definition([merged[n] for n in unclear], [parts[n] for n in unclear])
        for number, (found, lengths) in zip(unclear, defined, strict=True):
            ids[number], counts[number] = found, lengths
        return [
            (found, np.repeat([span.is_target for span in spans], lengths))
            for found, spans, lengths in zip(ids, merged, counts, strict=True)
        ]

    def _parts(self, documents: Sequence[Spans]) -> list[list[Ids]]:
        """Ids of each span, of all but a document's first without the mark of a text's start.

        Such tokenizers put none behind a special token, so that these spans are encoded behind end-of-text.
        """
        before = self._end if self._marks_start else ""
        texts = [
            before + span.text if number else span.text
            for spans in documents
            for number, span in enumerate(spans)
        ]
        encoded = iter(encode_texts(texts, self._tokenizer))
        skipped = int(self._marks_start)
        return [[next(encoded)[skipped * bool(n) :] for n in range(len(spans))] for spans in documents]

    # -- borders -------------------------------------------------------------------------------------------------

    def _windows(
        self, spans: Spans, lengths: Sequence[int], before_chars: int, behind_chars: int
    ) -> Iterator[_Window]:
        """The text around each border that no special token decides."""
        tail, longer = "", False
        for number, span in enumerate(spans[:-1]):
            longer = longer or len(tail) + len(span.text) > _LOOK_BACK
            text = span.text[-_LOOK_BACK:]
            tail = text if len(text) == _LOOK_BACK else (tail + text)[-_LOOK_BACK:]
            barrier = 0  # where the last special token in the tail ends
            for found in self._barrier.finditer(tail):
                barrier = found.end()
            if barrier == len(tail):
                continue
            # At a space, where there is one: words begin there, and the same header gives the same window.
            space = tail.rfind(" ", 0, len(tail) - before_chars // 2 + 1)
            start = barrier or max(0, len(tail) - before_chars, space)
            behind, to_end = "", False
            for following in spans[number + 1 :]:
                behind += following.text[: behind_chars + 1]
                if len(behind) > behind_chars:
                    break
            else:
                to_end = True
            yield _Window(
                before=tail[start:],
                behind=behind if to_end else behind[:behind_chars],
                at=lengths[number],
                from_start=start == barrier and (barrier > 0 or not longer),
                to_end=to_end,
                within=longer or start > 0,
            )

    def _judge(
        self, windows: Sequence[tuple[int, _Window]], ids: Sequence[Ids]
    ) -> Iterator[tuple[int, bool]]:
        """Of each window its document, and whether the ids at its border are those of the definition."""
        mark = self._end if self._marks_start else ""
        befores = [(mark if window.within else "") + window.before for _, window in windows]
        joined = [before + window.behind for before, (_, window) in zip(befores, windows, strict=True)]
        different = list(dict.fromkeys([*befores, *joined]))
        encoded = (found.tolist() for found in encode_texts(different, self._tokenizer))
        ids_of: dict[str, list[int]] = dict(zip(different, encoded, strict=True))
        for (number, window), before, both in zip(windows, befores, joined, strict=True):
            skipped = int(self._marks_start and window.within)
            yield number, _is_clear(window, ids_of[before][skipped:], ids_of[both][skipped:], ids[number])

    def _by_definition(
        self, documents: Sequence[Spans], within: Sequence[list[Ids]]
    ) -> Iterator[tuple[Ids, list[int]]]:
        """Ids of documents and the tokens of each span; `within` as `_parts` gives them."""
        wholes = encode_texts(["".join(span.text for span in spans) for spans in documents], self._tokenizer)
        if self._marks_start:
            texts = [span.text for spans in documents for span in spans]
            alone = iter(encode_texts(texts, self._tokenizer))
            parts_of = [list(islice(alone, len(spans))) for spans in documents]
        else:
            parts_of = list(within)
        for spans, whole, parts, otherwise in zip(documents, wholes, parts_of, within, strict=True):
            if np.array_equal(np.concatenate(parts), whole):
                yield whole, [len(part) for part in parts]
                continue
            befores = encode_texts(list(accumulate(span.text for span in spans))[:-1], self._tokenizer)
            if all(np.array_equal(before, whole[: len(before)]) for before in befores):
                borders = [0, *map(len, befores), len(whole)]
                yield whole, [end - start for start, end in pairwise(borders)]
            else:
                yield np.concatenate(otherwise), [len(part) for part in otherwise]


def _is_clear(window: _Window, before: list[int], both: list[int], ids: Ids) -> bool:
    """Whether a border can be judged by its window; then the spans one by one have the right ids there.

    Args:
        window: the text around it.
        before: ids of what is before the border in it.
        both: ids of all of it.
        ids: of the document, its spans encoded one by one.
    """
    count, kept = len(before), min(_AGREE, len(before))
    if not window.from_start and kept < _AGREE:
        return False
    if ids[max(0, window.at - kept) : window.at].tolist() != before[count - kept :]:
        return False  # what is cut off before the window matters
    kind = _kind(window.behind[0])
    goes_on = kind == _kind(window.before[-1])
    if goes_on and kind == "number":
        return False
    if "'" in window.before[-_CONTRACTION:] and "'" in window.behind[:_CONTRACTION]:
        return False  # what takes which one in is decided word by word from the first on
    if goes_on and not window.from_start and all(_kind(char) == kind for char in window.before):
        return False
    if both[:count] == before:  # a token ends at the border
        if goes_on and not window.to_end and all(_kind(char) == kind for char in window.behind):
            return False
        behind = both[count:] if window.to_end else both[count : count + _AGREE]
        return len(behind) > 0 and behind == ids[window.at : window.at + len(behind)].tolist()
    same = next(n for n, (a, b) in enumerate(zip([*both, -1], before, strict=False)) if a != b)
    return window.to_end or len(both) - same > _AGREE


def _kind(char: str) -> str:
    """What words are cut by: a word may go on across a border in a row of one kind, and numbers are cut by counting."""
    if char.isnumeric():
        return "number"
    return "letter" if char.isalpha() else "space" if char.isspace() else "sign"


def _merge(spans: Spans) -> Spans:
    """Join neighbours of one kind and drop empty spans; at least one span stays."""
    if all(span.text for span in spans) and all(a.is_target != b.is_target for a, b in pairwise(spans)):
        return spans
    groups = groupby((span for span in spans if span.text), key=lambda span: span.is_target)
    merged = tuple(Span("".join(span.text for span in group), kind) for kind, group in groups)
    return merged or spans[-1:]


def _barriers(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Special tokens behind which text is encoded as if nothing stood before it.

    Not those that take white space in or may be part of a longer one; none where some want a border of words or are
    looked for in normalised text.
    """
    added = list(tokenizer.added_tokens_decoder.values())
    if any(token.single_word or token.normalized for token in added):
        return re.compile("(?!)")
    texts = {token.content for token in added}
    found = [
        token.content
        for token in added
        if not token.rstrip and not any(token.content in text for text in texts - {token.content})
    ]
    return re.compile("|".join(map(re.escape, found)) or "(?!)")
