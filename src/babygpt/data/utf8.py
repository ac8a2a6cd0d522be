"""Bytes to text: UTF-8 without NUL, and what anything else is likely to be."""

from __future__ import annotations

import codecs
import re

from babygpt.errors import DataError

__all__ = ["NotTextError", "decoded", "looks_like"]

_BOM = b"\xef\xbb\xbf"
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "a zip archive or an office document",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "Arrow",
    b"%PDF": "PDF",
    b"SQLite format 3": "SQLite",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"\x7fELF": "a program",
}
_SAMPLE = 4096  # bytes around an error that tell the encoding


class NotTextError(DataError):
    """Bytes that are no UTF-8 text."""


def decoded(content: bytes | bytearray, where: str, *, offset: int = 0) -> str:
    """Text of UTF-8 bytes, a byte order mark at the file's beginning left out.

    Args:
        content: whole lines, or a whole file.
        where: the place, for messages.
        offset: of the content in its file.

    Raises:
        NotTextError: it is not UTF-8, or holds a NUL byte; says where, and what it is likely to be.
    """
    start = len(_BOM) if offset == 0 and content.startswith(_BOM) else 0
    nul = content.find(0)
    try:
        if nul < 0:
            return content[start:].decode() if start else content.decode()
        codecs.utf_8_decode(content[:nul], "strict", True)
    except UnicodeDecodeError as error:
        raise _not_utf8(content, error.start, error.reason, where, offset) from None
    raise _not_utf8(content, nul, "", where, offset)


def looks_like(content: bytes | bytearray) -> str:
    """The kind of a binary file that begins so, in words; empty if none is known."""
    return next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), "")


def _not_utf8(content: bytes | bytearray, at: int, reason: str, where: str, offset: int) -> NotTextError:
    byte = f"byte 0x{content[at]:02x}"
    place = f"not UTF-8 at byte offset {offset + at}"
    # One odd letter at the very end may be of another encoding; after others that are right, it is half a letter.
    if reason == "unexpected end of data" and not content[:at].isascii():
        return NotTextError(
            f"{place} ({byte}): it ends in the middle of a character",
            where=where,
            hint="The file was cut off; copy it again",
        )
    kind = looks_like(content) if offset == 0 else ""
    encoding = _encoding(content, at, offset)
    if encoding:
        what = (
            f"{place} (it looks like {encoding})"
            if encoding[:3] == "UTF"
            else f"{place} ({byte}); probably {encoding}"
        )
        name = {"Latin-1": "LATIN1", "Windows-1252": "CP1252"}.get(encoding, encoding)
        return NotTextError(what, where=where, hint=f"Convert it: iconv -f {name} -t UTF-8 OLD > NEW")
    if kind:
        return NotTextError(
            f"not text: it looks like {kind}",
            where=where,
            hint="Name it with its usual suffix, or convert it",
        )
    if content[at] == 0:
        return NotTextError(
            f"a NUL byte at offset {offset + at}: a binary file, or one that was not written to its end",
            where=where,
            hint="Give text; leave the file out, or remove the NUL bytes (tr -d '\\000')",
        )
    return NotTextError(f"{place} ({byte})", where=where, hint="Convert it, for example with iconv -t UTF-8")


def _encoding(content: bytes | bytearray, at: int, offset: int) -> str:
    """The likely encoding of what is not UTF-8; empty if there is no telling."""
    if offset == 0:
        for mark, encoding in _MARKS.items():
            if content.startswith(mark):
                return encoding
        if looks_like(content):
            return ""
    start = max(0, at - _SAMPLE // 2) & ~1
    sample = content[start : start + _SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if half >= 4 and max(even, odd) > 0.3 * half and min(even, odd) < 0.05 * half:
        return "UTF-16LE" if odd > even else "UTF-16BE"
    if even or odd:
        return ""
    # In one byte a character, letters beyond ASCII stand alone among ASCII ones; elsewhere they come in rows.
    runs = re.findall(rb"[\x80-\xff]+", sample)
    if sum(map(len, runs)) > 1.5 * len(runs) or re.search(rb"[\x81\x8d\x8f\x90\x9d\x00-\x08]", sample):
        return ""
    return "Windows-1252" if re.search(rb"[\x80-\x9f]", sample) else "Latin-1"
