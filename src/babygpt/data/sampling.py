"""Text that stands for the whole of the data: what a tokenizer is trained on, and what it has to give back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from babygpt.data.sources import Document

__all__ = ["SAMPLE_BYTES", "SAMPLE_CHARS", "excerpts", "text_of"]

SAMPLE_BYTES = 10_000_000  # of text a tokenizer is trained on, at most
SAMPLE_CHARS = 16_384  # of one excerpt, when there is more text than that


def text_of(document: Document) -> str:
    """The text that a tokenizer meets in a document, but for what a chat template adds."""
    if document.text is not None:
        return document.text
    if document.spans is not None:
        return "".join(span.text for span in document.spans)
    contents = (message.get("content") for message in document.messages or ())
    return "\n".join(content for content in contents if isinstance(content, str))


def excerpts(texts: Iterator[str], readable: int) -> Iterator[str]:
    """Text to train a tokenizer on: the first `readable` bytes, or excerpts from all over them.

    Which excerpts is decided by a hash of what they are and where they stand: the same on every run.
    """
    wanted = SAMPLE_BYTES / max(1, readable)
    left, room = readable, SAMPLE_BYTES
    for text in texts:
        for start in range(0, len(text), SAMPLE_CHARS):
            excerpt = text[start : start + SAMPLE_CHARS]
            size = len(excerpt.encode())
            if left < size:
                excerpt = excerpt.encode()[:left].decode(errors="ignore")
                size = left
            if not excerpt or room < size:
                return
            left -= size
            digest = hashlib.blake2b(excerpt.encode(), digest_size=8, salt=start.to_bytes(8, "big")).digest()
            if wanted >= 1 or int.from_bytes(digest, "big") < wanted * 2**64:
                room -= size
                yield excerpt
