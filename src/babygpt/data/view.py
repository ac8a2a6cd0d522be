"""A batch taken apart for people: of each token its text, and whether the model learns it, only sees it, or neither.

What is a target is read from the batch's own labels, how much prompts count from its `loss_weights`, which ids there
are from its `input_ids`; the windows say where padding begins, as they do to `make_batch`, and the store where
documents do. Text is decoded with the tokens before it, since many tokenizers write a space only between two.

Cost: two calls of the tokenizer's `decode`, of a few tokens, for each token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from babygpt.data.arrow import TokenStore
from babygpt.data.labels import IGNORED
from babygpt.data.packing import Windows

__all__ = ["DocumentView", "Piece", "WindowView", "view_of"]

Special = Literal["", "bos", "eos", "other"]

_CONTEXT = 6  # tokens decoded together with the next one
_LONGEST_CHARACTER = 8  # tokens of one character at most: bytes, and a mark of a word's beginning


@dataclass(frozen=True)
class Piece:
    """A token, or the few that make up one character.

    Attributes:
        text: as decoded in its place; of a special token its name.
        ids: of the tokens.
        is_target: whether the loss counts them.
        special: what kind of special token it is; empty for text.
        prompt_weight: how much the loss counts them where they are no targets.
    """

    text: str
    ids: tuple[int, ...]
    is_target: bool
    special: Special = ""
    prompt_weight: float = 0.0


@dataclass(frozen=True)
class DocumentView:
    """What a window holds of one document.

    Attributes:
        number: of the document in its store, from 0.
        begins, ends: whether its first and its last token are in the window.
        pieces: its tokens.
    """

    number: int
    begins: bool
    ends: bool
    pieces: tuple[Piece, ...]

    def in_words(self) -> str:
        """Which document it is, and whether it is whole."""
        begun = "" if self.begins else ", continued"
        return f"document {self.number:,}{begun}{'' if self.ends else ', goes on in another window'}"


@dataclass(frozen=True)
class WindowView:
    """One row of a batch.

    Attributes:
        number: of the window in its store, from 0.
        documents: in the row's order.
        targets, masked, padding: tokens that are learned, that are only seen, and that fill the row up.
        pad_id: what it is filled up with.
        prompts: tokens that count with the prompts' weight; they are none of the above.
    """

    number: int
    documents: tuple[DocumentView, ...]
    targets: int
    masked: int
    padding: int
    pad_id: int
    prompts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values; a token is [ids, text, target], or [ids, text, false, weight] of a prompt that counts."""
        return {
            "window": self.number,
            "targets": self.targets,
            "prompts": self.prompts,
            "masked": self.masked,
            "padding": self.padding,
            "documents": [
                {
                    "document": each.number,
                    "begins": each.begins,
                    "ends": each.ends,
                    "tokens": [
                        [list(p.ids), p.text, p.is_target, *([p.prompt_weight] if p.prompt_weight else [])]
                        for p in each.pieces
                    ],
                }
                for each in self.documents
            ],
        }


def view_of(
    batch: dict[str, torch.Tensor],
    row: int,
    store: TokenStore,
    windows: Windows,
    window: int,
    tokenizer: PreTrainedTokenizerBase,
) -> WindowView:
    """A row of a batch, as `make_batch` made it.

    Args:
        batch: [rows, block] each: `input_ids`, `labels` and, where prompts count, `loss_weights`.
        row: which.
        store, windows, window: what it was made from.
        tokenizer: of the store.
    """
    ids, labels = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
    is_target = [label != IGNORED for label in labels]
    kinds = list(zip(is_target, _prompt_weights(batch, row, is_target), strict=True))
    documents, at = [], 0
    for piece in range(int(windows.offsets[window]), int(windows.offsets[window + 1])):
        start, length = int(windows.starts[piece]), int(windows.lengths[piece])
        for number, first, last in _documents_in(store, start, start + length):
            span = slice(at + first - start, at + last - start)
            documents.append(
                DocumentView(
                    number=number,
                    begins=first == int(store.offsets[number]),
                    ends=last == int(store.offsets[number + 1]),
                    pieces=tuple(_pieces(ids[span], kinds[span], tokenizer)),
                )
            )
        at += length
    targets, prompts = sum(is_target), sum(weight > 0 for _, weight in kinds)
    return WindowView(
        number=window,
        documents=tuple(documents),
        targets=targets,
        masked=at - targets - prompts,
        padding=len(ids) - at,
        pad_id=ids[-1],
        prompts=prompts,
    )


def _prompt_weights(batch: dict[str, torch.Tensor], row: int, is_target: Sequence[bool]) -> list[float]:
    """How much the loss counts each token of a row that is no target, in as few digits as tell it."""
    if "loss_weights" not in batch:
        return [0.0] * len(is_target)
    weights = batch["loss_weights"][row].numpy()
    return [0.0 if target else float(str(each)) for each, target in zip(weights, is_target, strict=True)]


def _documents_in(store: TokenStore, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first token, token behind the last) of each document between two positions of the flat ids."""
    number = int(np.searchsorted(store.offsets, start, side="right")) - 1
    while start < end:
        last = min(end, int(store.offsets[number + 1]))
        if last > start:
            yield number, start, last
        start, number = last, number + 1


def _pieces(
    ids: Sequence[int], kinds: Sequence[tuple[bool, float]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Piece]:
    """The tokens of one document with their texts; `kinds` is of each whether it is a target, and its prompt weight."""

    def piece(first: int, last: int, text: str, special: Special = "") -> Piece:
        return Piece(text, tuple(ids[first:last]), kinds[first][0], special, kinds[first][1])

    special = _special_tokens(tokenizer)
    start = 0
    for at, number in enumerate(ids):
        if number in special:
            if start < at:  # bytes that make no character
                yield piece(start, at, _text(ids, start, at, tokenizer))
            yield piece(at, at + 1, special[number], _kind_of(number, tokenizer))
            start = at + 1
            continue
        ends = at + 1 == len(ids) or kinds[at + 1] != kinds[start] or at + 1 - start == _LONGEST_CHARACTER
        text = _text(ids, start, at + 1, tokenizer)
        if ends or (text and not text.endswith("\ufffd")):
            yield piece(start, at + 1, text)
            start = at + 1


def _text(ids: Sequence[int], start: int, end: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """What tokens add to the text of those before them."""
    before = ids[max(0, start - _CONTEXT) : start]
    known, whole = _decoded(before, tokenizer), _decoded([*before, *ids[start:end]], tokenizer)
    if whole.startswith(known) and not known.endswith("\ufffd"):
        return whole[len(known) :]
    return _decoded(ids[start:end], tokenizer)


def _decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    added = {
        number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _kind_of(number: int, tokenizer: PreTrainedTokenizerBase) -> Special:
    # One token for both, as GPT-2 has, ends documents and begins none.
    if number == tokenizer.eos_token_id:
        return "eos"
    return "bos" if number == tokenizer.bos_token_id else "other"
