"""What a store is built from, twice over: once for what each document is, once for its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from babygpt.data.bits import Bits
from babygpt.data.encoding import Encoded, encode
from babygpt.data.oddities import Tally, text_of
from babygpt.data.sources import content_hash, read_documents

__all__ = ["READING_VERSION", "Origin", "Seen", "Texts", "taken"]

T = TypeVar("T")

# How records become documents, and conversations text: raised where the same data come to others, so that no store
# and no tokenizer in a cache is taken for what would be made today.
READING_VERSION = 3


@dataclass(frozen=True)
class Seen:
    """What a document is, before it has tokens.

    Attributes:
        content_hash: 64 bits; equal documents have equal ones.
        size: UTF-8 bytes of a text, or tokens where they are there already.
        masked: whether some of its tokens may be no targets.
        is_chat: whether it is a conversation.
        withheld: what of it is to count nothing whatever prompts count, in words; empty if nothing is.
    """

    content_hash: int
    size: int
    masked: bool
    is_chat: bool = False
    withheld: str = ""


class Origin(Protocol):
    """Where documents come from; each pass over the same paths gives the same."""

    def seen(self, paths: Sequence[str], say: Callable[[str], None]) -> Iterator[Seen]:
        """What each document is; `say` is told what a person should know of how they were read."""

    def texts(self, paths: Sequence[str]) -> Iterator[str]:
        """The documents' text; none where they are tokens already."""

    def encoded(
        self, paths: Sequence[str], tokenizer: PreTrainedTokenizerBase, left_out: Bits, skip: int
    ) -> Iterator[Encoded]:
        """The tokens of the documents that are not left out; of these, from number `skip` on."""


@dataclass(frozen=True)
class Texts:
    """Documents of text.

    Attributes:
        field, train_on_prompts: as in the recipe.
    """

    field: str
    train_on_prompts: bool = False

    def seen(self, paths: Sequence[str], say: Callable[[str], None]) -> Iterator[Seen]:
        """What each document is."""
        empty, unlearned, example = Tally(), 0, ""
        for document in read_documents(paths, field=self.field, say=say, empty=empty.pass_over):
            if not (self.train_on_prompts or document.is_learned):
                unlearned, example = unlearned + 1, example or document.id
            yield Seen(
                content_hash(document),
                len(text_of(document).encode()),
                masked=document.text is None and not self.train_on_prompts,
                is_chat=document.messages is not None,
                withheld=document.withheld and f"{document.id}: {document.withheld}",
            )
        for found in empty.found:
            say(f"passed over, since without text: {found.in_words()}")
        if unlearned:
            what = "conversation has" if unlearned == 1 else "conversations have"
            say(f"{unlearned:,} {what} no turn of the assistant to learn from, such as {example}")

    def texts(self, paths: Sequence[str]) -> Iterator[str]:
        """The documents' text."""
        return map(text_of, read_documents(paths, field=self.field))

    def encoded(
        self, paths: Sequence[str], tokenizer: PreTrainedTokenizerBase, left_out: Bits, skip: int
    ) -> Iterator[Encoded]:
        """The tokens of the documents that are not left out; of these, from number `skip` on."""
        documents = islice(taken(read_documents(paths, field=self.field), left_out), skip, None)
        return encode(documents, tokenizer, train_on_prompts=self.train_on_prompts)


def taken(each: Iterable[T], left_out: Bits) -> Iterator[T]:
    """Those that are not left out; of more than there were, all: whoever counts will notice."""
    return (one for number, one in enumerate(each) if number >= len(left_out) or not left_out[number])
