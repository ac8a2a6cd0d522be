"""What is odd in text, counted without knowing its language.

    empty             a record or file of no characters at all, which is no document
    blank             nothing but white space
    control           control characters but tab, line ends and form feed
    replacement       U+FFFD: what a decoder leaves where bytes were no text
    mojibake          UTF-8 that was read as Latin-1 or Windows-1252: two characters and more for each one meant
    zero_width        zero width space, word joiner, byte order mark inside a text; the joiners that Persian,
                      Hindi and emoji are written with do not count
    bidi              embeddings, overrides and isolates of the writing direction, with which a text can look
                      other than it reads (Boucher and Anderson 2021, arXiv:2111.00169)
    long_line         lines of over 10,000 characters: data or minified code rather than text
    repeated_lines    over 30 % of at least ten lines repeat an earlier one, a filter's limit for web text (Rae et
                      al. 2021, arXiv:2112.11446, table A1)
    mixed_line_ends   more than one of LF, CRLF and CR

Cost: three passes of compiled patterns over a text, and one over its lines; nothing is kept but counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from babygpt.data.sources import Document

__all__ = ["KINDS", "Oddity", "Tally", "odd_in", "text_of"]

# Kind -> in words, and what one of the times it was counted is.
KINDS: dict[str, tuple[str, str]] = {
    "empty": ("without text", "document"),
    "blank": ("white space only", "document"),
    "control": ("control characters", "character"),
    "replacement": ("replacement characters (U+FFFD)", "character"),
    "mojibake": ("UTF-8 read as Latin-1", "character"),
    "zero_width": ("zero-width characters", "character"),
    "bidi": ("characters that turn the direction of writing", "character"),
    "long_line": ("lines of over 10,000 characters", "line"),
    "repeated_lines": ("lines repeated over and over", "line"),
    "mixed_line_ends": ("mixed line ends", "line"),
}

_LONG_LINE = 10_000  # characters
_REPEATED_SHARE, _FEWEST_LINES = 0.3, 10

_CONTROL = "\x00-\x08\x0b\x0e-\x1f\x7f-\x9f"
_PATTERNS = {
    "control": re.compile(f"[{_CONTROL}]"),
    "replacement": re.compile("\ufffd"),
    "zero_width": re.compile("[\u200b\u2060\ufeff]"),
    "bidi": re.compile("[\u202a-\u202e\u2066-\u2069]"),
}
# The bytes 0x80 to 0xBF, which follow a lead byte in UTF-8, as Latin-1 and as Windows-1252 read them.
_FOLLOWING = bytes(range(0x80, 0xC0)).decode("latin-1") + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore")
_FOLLOWS = f"[{_FOLLOWING}]"
# After a single lead, what closes a quotation or a sentence may well be meant: „SPASSÎ“.
_MAY_END = "\xbb\u203a\u201d\u2019\u201c\u2026\xa0"
_FOLLOWS_ONE = f"[{''.join(set(_FOLLOWING) - set(_MAY_END))}]"
# Of the two-byte leads only those of the Latin, Greek and Cyrillic letters: the others begin no common text.
_MOJIBAKE = re.compile(f"[ÂÃÎÏÐÑ]{_FOLLOWS_ONE}|[\xe0-\xef]{_FOLLOWS}{{2}}|[\xf0-\xf4]{_FOLLOWS}{{3}}")
_SUSPECT = re.compile(f"[{_CONTROL}\ufffd\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]|[\xc2-\xf4]{_FOLLOWS}")


@dataclass(frozen=True)
class Oddity:
    """Something odd that documents hold.

    Attributes:
        kind: a key of `KINDS`.
        documents: how many hold it.
        times: how often, in characters or lines as `KINDS` says.
        example: the id of the first of them.
    """

    kind: str
    documents: int
    times: int
    example: str

    def in_words(self) -> str:
        """For people, without its kind."""
        what = KINDS[self.kind][1]
        each = f" ({self.times:,} {what}{'s' * (self.times != 1)})" if what != "document" else ""
        return f"{self.documents:,} document{'s' * (self.documents != 1)}{each}, such as {self.example}"


def text_of(document: Document) -> str:
    """A document's text, of a conversation the messages' contents."""
    if document.text is not None:
        return document.text
    if document.spans is not None:
        return "".join(span.text for span in document.spans)
    contents = (message.get("content") for message in document.messages or ())
    return "\n".join(content for content in contents if isinstance(content, str))


def odd_in(text: str) -> dict[str, int]:
    """How often a text shows each kind of oddity; only kinds that it shows."""
    if not text or text.isspace():
        return {"blank": 1}
    found: dict[str, int] = {}
    if _SUSPECT.search(text):
        found = {kind: len(pattern.findall(text)) for kind, pattern in _PATTERNS.items()}
        found["mojibake"] = len(_MOJIBAKE.findall(text))
        # The C1 controls within mojibake are its own.
        found["control"] -= sum(len(_PATTERNS["control"].findall(m[0])) for m in _MOJIBAKE.finditer(text))
    crlf = text.count("\r\n")
    ends = [crlf, text.count("\n") - crlf, text.count("\r") - crlf]
    found["mixed_line_ends"] = sum(ends) - max(ends)
    lines = text.split("\n")
    found["long_line"] = sum(len(line) > _LONG_LINE for line in lines)
    full = [line for line in map(str.strip, lines) if line]
    repeated = len(full) - len(set(full))
    if len(full) >= _FEWEST_LINES and repeated > _REPEATED_SHARE * len(full):
        found["repeated_lines"] = repeated
    return {kind: times for kind, times in found.items() if times}


@dataclass
class Tally:
    """Adds up what is odd in documents, one after the other."""

    _found: dict[str, Oddity] = field(default_factory=dict)

    def add(self, document_id: str, text: str) -> None:
        """Counts one document."""
        for kind, times in odd_in(text).items():
            self._count(kind, times, document_id)

    def pass_over(self, where: str) -> None:
        """Counts a record or file that is no document, since it has no text."""
        self._count("empty", 1, where)

    def _count(self, kind: str, times: int, where: str) -> None:
        before = self._found.get(kind, Oddity(kind, 0, 0, where))
        self._found[kind] = Oddity(kind, before.documents + 1, before.times + times, before.example)

    @property
    def found(self) -> tuple[Oddity, ...]:
        """What there was, in the order of `KINDS`."""
        return tuple(self._found[kind] for kind in KINDS if kind in self._found)
