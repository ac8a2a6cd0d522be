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
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from babygpt.data.borders import SpanEncoder
from babygpt.data.chat import Rendered, Specials, render_all
from babygpt.data.sources import Document, content_hash
from babygpt.data.texts import BATCH_CHARS, Ids
from babygpt.errors import TokenizerError

__all__ = ["Encoded", "encode"]

Mask = npt.NDArray[np.bool_]
Body = tuple[Ids, Mask]

_BATCH_DOCUMENTS = 10_000
_BESIDE_CHARS = 2 * BATCH_CHARS  # encoded while templates run


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
    """Encode documents in order, a batch in memory at a time, of conversations two.

    The tokenizer is not to be used for anything else before the last document is taken.

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
    prefix, specials, encoder = _prefix(tokenizer), Specials(tokenizer), SpanEncoder(tokenizer)

    def finished(batch: list[Document], rendered: list[Rendered], bodies: list[Body]) -> Iterator[Encoded]:
        for document, whole, (ids, mask) in zip(batch, rendered, bodies, strict=True):
            start = prefix if document.messages is None else prefix[:0]
            all_ids, all_mask = _finish(start, ids, mask, whole, eos, specials)
            yield Encoded(
                ids=all_ids,
                is_target=None if train_on_prompts or document.text is not None else all_mask,
                num_bytes=whole.num_bytes,
                content_hash=content_hash(document),
            )

    # Conversations are encoded, without Python's lock, while the next are rendered. That is done in this thread, whose
    # templates can be stopped by a timer. They share a bound of memory (`bounds`), and so nothing long is encoded then.
    with ThreadPoolExecutor(1) as other:
        before: tuple[list[Document], list[Rendered], Future[list[Body]]] | None = None
        for batch in _batches(documents):
            rendered = render_all(batch, tokenizer, specials, train_on_prompts=train_on_prompts)
            spans = [each.spans for each in rendered]
            bodies = before[2].result() if before else []
            size = sum(len(span.text) for each in spans for span in each)
            beside = size <= _BESIDE_CHARS and any(each.is_chat for each in rendered)
            now = (batch, rendered, other.submit(encoder.encode, spans)) if beside else None
            if before:
                yield from finished(before[0], before[1], bodies)
            before = now
            if not beside:
                yield from finished(batch, rendered, encoder.encode(spans))
        if before:
            yield from finished(before[0], before[1], before[2].result())


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
        if chars >= BATCH_CHARS or len(batch) >= _BATCH_DOCUMENTS:
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
    starts = not len(prefix) or np.array_equal(ids[: len(prefix)], prefix)  # the text brought its own start
    if end < len(ids):  # and its own end, once or more often: keep the first and what it is
        ids, mask = ids[: end + 1], mask[: end + 1]
    else:
        is_target = rendered.spans[-1].is_target
        if rendered.is_chat and end and is_target:
            is_target = int(ids[-1]) not in specials.ids
        ids, mask = np.concatenate([ids, np.array([eos], np.uint32)]), np.concatenate([mask, [is_target]])
    if starts:
        return ids, mask
    # The start counts as the first span's: BOS before a prompt is no target.
    start_mask = np.full(len(prefix), rendered.spans[0].is_target, np.bool_)
    return np.concatenate([prefix, ids]), np.concatenate([start_mask, mask])


def _prefix(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """The special tokens the tokenizer puts at a text's start; what it puts behind is not wanted."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for at in range(len(full) - len(plain) + 1):
        if full[at : at + len(plain)] == plain:
            return np.array(full[:at], dtype=np.uint32)
    return np.empty(0, dtype=np.uint32)
