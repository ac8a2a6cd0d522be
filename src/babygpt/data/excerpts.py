"""Text to train a tokenizer on: all there is, or excerpts from all over it.

Which excerpts is decided by a hash of what they are and where they stand: the same on every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from babygpt.data.sources import Document

__all__ = ["SAMPLE_BYTES", "SAMPLING", "excerpts", "text_of"]

SAMPLE_BYTES = 10_000_000  # of text a tokenizer is trained on, at most
_SAMPLE_CHARS = 16_384  # of one excerpt, when there is more text than that
SAMPLING = f"{SAMPLE_BYTES}:{_SAMPLE_CHARS}"  # for the names of what was made of it


def excerpts(texts: Iterable[str], readable: int, room: int | None = None) -> Iterator[str]:
    """The first `readable` bytes, or excerpts from all over them.

    Args:
        texts: one a document.
        readable: UTF-8 bytes of them that may be read.
        room: bytes of the excerpts, at most; `SAMPLE_BYTES` if None.
    """
    room = SAMPLE_BYTES if room is None else room
    wanted = room / max(1, readable)
    left = readable
    for text in texts:
        for start in range(0, len(text), _SAMPLE_CHARS):
            excerpt = text[start : start + _SAMPLE_CHARS]
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


def text_of(document: Document) -> str:
    """All text of a document: of spans and messages joined."""
    if document.text is not None:
        return document.text
    if document.spans is not None:
        return "".join(span.text for span in document.spans)
    contents = (message.get("content") for message in document.messages or ())
    return "\n".join(content for content in contents if isinstance(content, str))
