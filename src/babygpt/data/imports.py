"""What was tokenised elsewhere (`tokenised`), taken over as it is: nothing is encoded, everything is checked.

The tokenizer it was made with has to be named. An id beyond its vocabulary is refused. The bytes of the text, for bits
per byte, are looked up id by id where the tokenizer's tokens are bytes, and else decoded, which takes as long
as tokenising.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from babygpt.data.bits import Bits
from babygpt.data.encoding import Encoded
from babygpt.data.reading import Seen, taken
from babygpt.data.split import bytes_of
from babygpt.data.tokenised import Tokens, are_blocks, is_tokenised, members, read_tokens
from babygpt.data.tokenizers import vocabulary_size
from babygpt.errors import DataError, TokenizerError

__all__ = ["Imported", "all_tokenised", "byte_lengths"]


def all_tokenised(paths: Sequence[str], field: str) -> bool:
    """Whether the paths hold ids instead of text.

    Raises:
        DataError: some do and some do not.
    """
    found = {path: is_tokenised(path, field) for path in paths}
    if len(set(found.values())) > 1:
        ids = next(path for path, tokenised in found.items() if tokenised)
        text = next(path for path, tokenised in found.items() if not tokenised)
        raise DataError(
            f"is tokenised already, and {text} is text",
            where=ids,
            hint="Give text only, or tokenised data only, for training and for validation",
        )
    return any(found.values())


class Imported:
    """An origin (`reading.Origin`) of documents that are tokens already.

    Args:
        tokenizer: what they were made with.

    Raises:
        TokenizerError: it has no end-of-text token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(tokenizer.eos_token_id, int):
            raise TokenizerError(
                "the tokenizer has no end-of-text token, so the documents' ends cannot be found",
                hint="Set its eos_token, or use another tokenizer",
            )
        self._tokenizer, self._eos = tokenizer, tokenizer.eos_token_id
        self._blocks: dict[str, bool] = {}

    def seen(self, paths: Sequence[str], say: Callable[[str], None]) -> Iterator[Seen]:
        """What each document is."""
        for path in paths:
            documents = 0
            for tokens in self._documents(path):
                masked = tokens.is_target is not None
                withheld = _left_out(tokens, f"document {documents}")
                yield Seen(
                    _hash(tokens), len(tokens.ids), masked, withheld=withheld and f"{path}: {withheld}"
                )
                documents += 1
            blocks = {self._blocks[file] for file in members(path)}
            cut = f"cut behind each end-of-text (id {self._eos})"
            how = "a row each" if not any(blocks) else cut if all(blocks) else f"a row each or {cut}"
            say(f"{path}: tokenised already, {documents:,} documents, {how}")

    def texts(self, paths: Sequence[str]) -> Iterator[str]:
        """None: there is no text."""
        return iter(())

    def encoded(
        self, paths: Sequence[str], tokenizer: PreTrainedTokenizerBase, left_out: Bits, skip: int
    ) -> Iterator[Encoded]:
        """The tokens of the documents that are not left out; of these, from number `skip` on."""
        every = (tokens for path in paths for tokens in self._documents(path))
        for tokens in islice(taken(every, left_out), skip, None):
            ids = tokens.ids.astype(np.uint32)
            if self._byte_lengths is None:
                num_bytes = bytes_of(ids, tokens.is_target, tokenizer)
            else:
                targets = ids if tokens.is_target is None else ids[tokens.is_target]
                num_bytes = int(self._byte_lengths[targets].sum())
            yield Encoded(ids, tokens.is_target, num_bytes, _hash(tokens))

    @cached_property
    def _byte_lengths(self) -> npt.NDArray[np.int64] | None:
        return byte_lengths(self._tokenizer)

    def _documents(self, path: str) -> Iterator[Tokens]:
        for file in members(path):
            yield from self._documents_of(file)

    def _documents_of(self, path: str) -> Iterator[Tokens]:
        if path not in self._blocks:
            self._blocks[path] = are_blocks(path, self._eos)
        size = vocabulary_size(self._tokenizer)
        any_document = False
        for number, tokens in enumerate(read_tokens(path, self._eos, blocks=self._blocks[path])):
            any_document = True
            if tokens.ids.min() < 0 or tokens.ids.max() >= size:
                at = int(np.flatnonzero((tokens.ids < 0) | (tokens.ids >= size))[0])
                raise DataError(
                    f"document {number} has the id {tokens.ids[at]} as its token {at},"
                    f" and the tokenizer's ids end at {size - 1}",
                    where=path,
                    hint="Name the tokenizer that it was made with by data.tokenizer",
                )
            yield tokens
        if not any_document:
            raise DataError("holds no tokens", where=path, hint="Check data.path")


def byte_lengths(tokenizer: PreTrainedTokenizerBase) -> npt.NDArray[np.int64] | None:
    """UTF-8 bytes that each id stands for in decoded text, 0 for special ones; None where it depends on others.

    A byte-level tokenizer writes each byte of a token as one character.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else json.loads(backend.to_str())["decoder"]
    if decoder is None or decoder["type"] != "ByteLevel":
        return None
    lengths = np.zeros(vocabulary_size(tokenizer), dtype=np.int64)
    for token, number in tokenizer.get_vocab().items():
        lengths[number] = len(token)
    for number, added in tokenizer.added_tokens_decoder.items():
        lengths[number] = 0 if added.special else len(added.content.encode())
    return lengths


def _left_out(tokens: Tokens, name: str) -> str:
    """What of a document is no target, in words; empty where all of it is one."""
    mask = tokens.is_target
    if mask is None or mask.all():
        return ""
    what = "the end" if mask[:-1].all() else f"{int((~mask).sum()):,} of the {len(mask):,} tokens"
    return f"labels or masks leave out {what} of {name}, and do not say why"


def _hash(tokens: Tokens) -> int:
    digest = hashlib.blake2b(b"i", digest_size=8)
    digest.update(tokens.ids.tobytes())
    if tokens.is_target is not None:
        digest.update(b"m" + tokens.is_target.tobytes())
    return int.from_bytes(digest.digest(), "big")
