"""Documents to token ids and target masks.

    text      what the tokenizer puts at the start (BOS, where it does), the text, one end-of-text
    spans     the same; a token is a target when its span is, and end-of-text when the last span is
    messages  the tokenizer's chat template rendered (it brings its own special tokens); targets are the
              assistant's turns through their end-of-turn token. End-of-text follows unless the rendering ends
              with it already; it is a target only where the last turn has no end-of-turn token of its own, so
              that the model learns one end.

Every document ends in exactly one end-of-text. Where text borders on a target, the ids before the border are
those of the text before it alone: what the model will be given at inference. Texts go to the tokenizer in
batches, which it spreads over the cores; a very long text is cut at line ends for the same reason, with proof
that the cuts change no token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from babygpt.data.chat import Rendered, Specials, render
from babygpt.data.sources import Document, Span, content_hash
from babygpt.errors import TokenizerError

__all__ = ["Encoded", "encode"]

Ids = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]

_BATCH_CHARS = 2_000_000  # text held encoded at once; an encoding takes about 100 bytes a token
_BATCH_DOCUMENTS = 10_000
_PIECE_CHARS = 50_000  # a longer text is cut into pieces of about this many characters
_CONTEXT_CHARS = 400  # read on either side of a piece, so that its border tokens come out as in the whole
_AGREE = 4  # tokens on either side of a cut that the neighbouring pieces must agree on
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


@dataclass(frozen=True)
class Encoded:
    """One document's tokens.

    Attributes:
        ids: uint32 [n], end-of-text last.
        is_target: bool [n], or None when every token is a target.
        num_bytes: UTF-8 bytes of the target text.
        content_hash: the document's `sources.content_hash`.
    """

    ids: Ids
    is_target: Mask | None
    num_bytes: int
    content_hash: int


def encode(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, *, train_on_prompts: bool = False
) -> Iterator[Encoded]:
    """Encode documents in order, a batch in memory at a time.

    Args:
        documents: what to encode.
        tokenizer: with an end-of-text token.
        train_on_prompts: every token is a target, prompts and all turns of a conversation included.

    Raises:
        TokenizerError: the tokenizer has no end-of-text token.
        DataError: a conversation cannot be rendered by the tokenizer's chat template.
    """
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise TokenizerError(
            "the tokenizer has no end-of-text token, so documents would run into each other",
            hint="Set its eos_token, or use another tokenizer",
        )
    # Unless set, the tokenizers library warns in every process forked later, as the loader's workers are.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    prefix, specials = _prefix(tokenizer), Specials(tokenizer)
    for batch in _batches(documents):
        rendered = [render(d, tokenizer, specials, train_on_prompts=train_on_prompts) for d in batch]
        bodies = _encode_spans([each.spans for each in rendered], tokenizer)
        for document, whole, (ids, mask) in zip(batch, rendered, bodies, strict=True):
            start = prefix if document.messages is None else prefix[:0]
            all_ids, all_mask = _finish(start, ids, mask, whole, eos, specials)
            yield Encoded(
                ids=all_ids,
                is_target=None if train_on_prompts or document.text is not None else all_mask,
                num_bytes=whole.num_bytes,
                content_hash=content_hash(document),
            )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        if document.text is not None:
            chars += len(document.text)
        elif document.spans is not None:
            chars += sum(len(span.text) for span in document.spans)
        else:
            chars += sum(len(str(message.get("content"))) for message in document.messages or ())
        if chars >= _BATCH_CHARS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _finish(
    prefix: Ids, ids: Ids, mask: Mask, rendered: Rendered, eos: int, specials: Specials
) -> tuple[Ids, Mask]:
    """Put the start before and exactly one end-of-text behind."""
    end = len(ids)
    while end and ids[end - 1] == eos:
        end -= 1
    if end < len(ids):  # the text brought its own, once or more often: keep the first and what it is
        ends = ids[end : end + 1], mask[end : end + 1]
    else:
        is_target = rendered.spans[-1].is_target
        if rendered.is_chat and end and is_target:
            is_target = int(ids[-1]) not in specials.ids
        ends = np.array([eos], np.uint32), np.array([is_target], np.bool_)
    if np.array_equal(ids[: len(prefix)], prefix):  # the text brought its own start, too
        prefix = prefix[:0]
    # The start counts as the first span's: BOS before a prompt is no target.
    start_mask = np.full(len(prefix), rendered.spans[0].is_target, np.bool_)
    return np.concatenate([prefix, ids[:end], ends[0]]), np.concatenate([start_mask, mask[:end], ends[1]])


def _prefix(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """The special tokens the tokenizer puts at a text's start; what it puts behind is not wanted."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for at in range(len(full) - len(plain) + 1):
        if full[at : at + len(plain)] == plain:
            return np.array(full[:at], dtype=np.uint32)
    return np.empty(0, dtype=np.uint32)


def _encode_spans(
    documents: Sequence[tuple[Span, ...]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Ids, Mask]]:
    """Ids and target mask of each document's joined spans, without special tokens of the tokenizer's own."""
    merged = [_merge(spans) for spans in documents]
    joint = _encode_texts(["".join(span.text for span in spans) for spans in merged], tokenizer)
    several = [number for number, spans in enumerate(merged) if len(spans) > 1]
    flat = _encode_texts([span.text for number in several for span in merged[number]], tokenizer)
    alone, within = _encode_texts(["a"], tokenizer)[0], _encode_within(["a"], tokenizer)[0]
    marks_start = not np.array_equal(alone, within)
    out = []
    taken = 0
    for spans, whole in zip(merged, joint, strict=True):
        if len(spans) == 1:
            out.append((whole, np.full(len(whole), spans[0].is_target, np.bool_)))
            continue
        parts = flat[taken : taken + len(spans)]
        taken += len(spans)
        lengths = _border_lengths(spans, parts, whole, tokenizer)
        if lengths is None:
            if marks_start:
                parts = [parts[0], *_encode_within([span.text for span in spans[1:]], tokenizer)]
            whole, lengths = np.concatenate(parts), [len(part) for part in parts]
        out.append((whole, np.repeat([span.is_target for span in spans], lengths)))
    return out


def _merge(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Join neighbours of one kind and drop empty spans; at least one span stays."""
    groups = groupby((span for span in spans if span.text), key=lambda span: span.is_target)
    merged = tuple(Span("".join(span.text for span in group), kind) for kind, group in groups)
    return merged or spans[-1:]


def _border_lengths(
    spans: tuple[Span, ...], parts: Sequence[Ids], whole: Ids, tokenizer: PreTrainedTokenizerBase
) -> list[int] | None:
    """Tokens of each span in the joint encoding, or None where some token of it straddles a border.

    Encoding the parts and the whole alike settles it for nearly every document. Else (tokenizers that mark a
    text's start, a prompt ending in a space) what comes before each border is encoded as inference will see
    it and compared.
    """
    if np.array_equal(np.concatenate(parts), whole):
        return [len(part) for part in parts]
    texts = ["".join(span.text for span in spans[:count]) for count in range(1, len(spans))]
    befores = _encode_texts(texts, tokenizer)
    if not all(np.array_equal(before, whole[: len(before)]) for before in befores):
        return None
    borders = [0, *(len(before) for before in befores), len(whole)]
    return [end - start for start, end in pairwise(borders)]


def _encode_within(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    """Ids of texts that go on from others: without the mark that some tokenizers put at a text's start.

    They put none behind a special token, so that each text is encoded behind end-of-text.
    """
    end = str(tokenizer.eos_token)
    behind = _encode_texts([end + text for text in texts], tokenizer)
    return [ids[1:] for ids in behind]


# -- texts to ids --------------------------------------------------------------------------------------------


def _encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
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
            ids = np.array(next(encodings).ids, dtype=np.uint32)
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
    at_once = max(1, _BATCH_CHARS // _PIECE_CHARS)
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
