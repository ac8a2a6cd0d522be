"""A corpus: prepared data as a folder that can be copied anywhere, and read from there in pieces.

    corpus.json           what this file reads: counts, settings, sizes, the sha256 of every file but the shards
    train/  val/          token stores as `arrow` opens them, cut into shards of about 256 MB
        data-*.arrow      a shard
        data-*.sums       blake2b (16 bytes) of each piece of 64 KiB of that shard, one behind the other
        batches.i64       int64 [record batches, 5]: shard, tokens, documents, byte of the first id in the shard, and
                          of the first mask (-1 where there is none)
        lengths.u32       uint32 [documents]: tokens of each
    tokenizer/

Whoever has `corpus.json` can tell whether any byte of the corpus is the one that was written: shards by their
sums, sums by their sha256. What is read of tokens is found by arithmetic on `batches.i64`: opening takes 40 bytes
for each record batch of 4 million tokens, and checksums are 1/4096 of the shards.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from babygpt.data.arrow import StoreManifest
from babygpt.data.remote import is_remote, localise
from babygpt.disk import expanded
from babygpt.errors import DataError
from babygpt.files import FileEntry
from babygpt.untrusted import parse_json, read_bytes, redacted, shown

__all__ = [
    "BATCHES",
    "CORPUS_NAME",
    "FORMAT",
    "LENGTHS",
    "MARK",
    "MOST",
    "SIDES",
    "SUM_BYTES",
    "Corpus",
    "Shard",
    "Side",
    "digest_of",
    "read_corpus",
    "sums_name",
]

CORPUS_NAME, MARK, FORMAT = "corpus.json", "babygpt_corpus", 1
BATCHES, LENGTHS, SUM_BYTES = "batches.i64", "lengths.u32", 16
ROW_BYTES, LENGTH_BYTES = 40, 4  # of a record batch in `batches.i64`, of a document in `lengths.u32`
MOST = 1 << 48  # of bytes, tokens, documents: sums and products of such numbers stay within 63 bits
SIDES = ("train", "val")
_MOST_BYTES = 64_000_000
_MOST_PIECE = 1 << 26
_NAME = re.compile(r"[A-Za-z0-9_-][\w.+-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """A file of ids: its name inside the corpus and its bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Side:
    """What is trained on, or validated on: the store's manifest and its shards, in order."""

    manifest: StoreManifest
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Corpus:
    """The content of a `corpus.json`.

    Attributes:
        key: of this very file's content, 32 hex digits.
        fingerprint: of both stores, as `store.PreparedData` has it.
        tokenizer: what identifies the tokenizer.
        piece: bytes that a checksum covers.
        settings: of the recipe that it was prepared by.
        notes: sentences for people, of the preparation.
        sides: `train` and `val`.
        files: every file but the shards and `corpus.json`.
        withheld: as `store.PreparedData` has it.
    """

    key: str
    fingerprint: str
    tokenizer: str
    piece: int
    settings: dict[str, Any]
    notes: tuple[str, ...]
    sides: dict[str, Side]
    files: dict[str, FileEntry]
    withheld: str | None = None


def sums_name(shard: str) -> str:
    """The file with a shard's checksums."""
    return f"{shard.removesuffix('.arrow')}.sums"


def digest_of(piece: bytes | memoryview) -> bytes:
    """The checksum of a piece."""
    return hashlib.blake2b(piece, digest_size=SUM_BYTES).digest()


def read_corpus(path: str, cache: Path) -> Corpus | None:
    """The corpus that a path of `data.path` names; None where it names anything else.

    Args:
        path: a local path or an address; one of a corpus ends in `corpus.json`.
        cache: folder of the cache, which keeps a copy of the file.

    Raises:
        DataError: it cannot be fetched, is damaged or of another version.
    """
    if re.split(r"[/\\]", re.sub(r"[?#].*", "", path))[-1] != CORPUS_NAME:
        return None
    if is_remote(path):
        (file,) = localise([path], cache)[0].files
    else:
        file = expanded(path)
    try:
        content = read_bytes(file, _MOST_BYTES)
        value = parse_json(content)
    except (OSError, ValueError):
        return None  # as data it gets the message of any other file
    if not isinstance(value, dict) or MARK not in value:
        return None
    return _parsed(value, hashlib.sha256(content).hexdigest()[:32], redacted(path))


def _parsed(value: dict[str, Any], key: str, where: str) -> Corpus:
    if type(value[MARK]) is not int or value[MARK] != FORMAT:
        raise DataError(
            f"a corpus of format {shown(repr(value[MARK]), 40)}, and this version reads {FORMAT}",
            where=where,
            hint="Use the version of BabyGPT that wrote it",
        )
    try:
        fingerprint, tokenizer = _digest(value["fingerprint"]), _digest(value["tokenizer"])
        piece = _whole(value["piece"], 1, _MOST_PIECE)
        sides = {name: _side(name, value["sides"][name]) for name in SIDES}
        files = {_checked(name): _entry(entry) for name, entry in value["files"].items()}
        _check_files(sides, files, piece)
        notes = value["notes"]
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise ValueError("the notes are no list of sentences")
        withheld = value.get("withheld")
        if not isinstance(withheld, str | None):
            raise ValueError("what is withheld is no sentence")
        settings = dict(value["settings"])
        return Corpus(key, fingerprint, tokenizer, piece, settings, tuple(notes), sides, files, withheld)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"no whole {CORPUS_NAME} ({type(error).__name__}: {shown(error, 200)})"
        raise DataError(what, where=where, hint="Copy it again, or prepare the corpus anew") from None


def _side(name: str, value: Any) -> Side:
    shards = tuple(Shard(_checked(shard), _whole(size, 0)) for shard, size in value["shards"])
    if any(not shard.name.startswith(f"{name}/") for shard in shards):
        raise ValueError("a shard lies elsewhere")
    return Side(_manifest(StoreManifest(**value["manifest"])), shards)


def _manifest(found: StoreManifest) -> StoreManifest:
    """What a store is said to hold, each value of its type and none beyond all bounds."""
    _digest(found.fingerprint)
    _whole(found.num_documents, 0)
    _whole(found.eos_id, -1)
    targets, rate = _whole(found.num_targets, 0, _whole(found.num_tokens, 0)), found.bytes_per_target
    masked: Any = found.has_targets
    if type(masked) is not bool or not (masked or targets == found.num_tokens):
        raise ValueError("the manifest of a store does not agree with itself on its targets")
    if type(rate) not in (int, float) or not 0 <= rate <= MOST or not math.isfinite(rate):
        raise ValueError("the manifest of a store has no number of bytes for each target")
    if found.dtype not in ("uint16", "uint32"):
        raise ValueError("the manifest of a store names another kind of ids")
    return found


def _check_files(sides: dict[str, Side], files: dict[str, FileEntry], piece: int) -> None:
    """Every file of the index is listed, as long as what it describes asks for, and none is another's folder."""
    for name, side in sides.items():
        sizes = {
            f"{name}/{LENGTHS}": LENGTH_BYTES * side.manifest.num_documents,
            **{sums_name(s.name): SUM_BYTES * -(-s.size // piece) for s in side.shards},
        }
        for each in (f"{name}/{BATCHES}", *sizes):
            if each not in files:
                raise ValueError(f"{each} is not listed")
        wrong = [each for each, size in sizes.items() if files[each].size != size]
        if wrong or files[f"{name}/{BATCHES}"].size % ROW_BYTES:
            raise ValueError(f"{(*wrong, f'{name}/{BATCHES}')[0]} is not as long as it has to be")
    for name in files:
        if any(str(folder) in files for folder in PurePosixPath(name).parents):
            raise ValueError(f"{name} lies in a file")


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w{1,200}", value, re.ASCII):
        raise ValueError("a fingerprint is malformed")
    return value


def _checked(name: Any) -> str:
    """A name inside the corpus, folders before it; it becomes a part of paths and addresses."""
    parts = str(name).split("/")
    if len(parts) > 4 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"{str(name)[:80]!r} is no name inside a corpus")
    return str(name)


def _entry(value: Any) -> FileEntry:
    size, sha256 = value["size"], value["sha256"]
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("a checksum is malformed")
    return FileEntry(_whole(size, 0), sha256)


def _whole(value: Any, least: int, most: int = MOST) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{shown(repr(value), 40)} is no whole number from {least} to {most}")
    return value
