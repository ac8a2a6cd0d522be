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
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babygpt.data.arrow import StoreManifest
from babygpt.data.remote import is_remote, localise
from babygpt.errors import DataError
from babygpt.files import FileEntry
from babygpt.untrusted import parse_json, read_bytes, redacted

__all__ = [
    "BATCHES",
    "CORPUS_NAME",
    "FORMAT",
    "LENGTHS",
    "MARK",
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
    """

    key: str
    fingerprint: str
    tokenizer: str
    piece: int
    settings: dict[str, Any]
    notes: tuple[str, ...]
    sides: dict[str, Side]
    files: dict[str, FileEntry]


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
        file = Path(path).expanduser()
    try:
        content = read_bytes(file, _MOST_BYTES)
        value = parse_json(content)
    except (OSError, ValueError):
        return None  # as data it gets the message of any other file
    if not isinstance(value, dict) or MARK not in value:
        return None
    return _parsed(value, hashlib.sha256(content).hexdigest()[:32], redacted(path))


def _parsed(value: dict[str, Any], key: str, where: str) -> Corpus:
    if value[MARK] != FORMAT:
        raise DataError(
            f"a corpus of format {value[MARK]!r}, and this version reads {FORMAT}",
            where=where,
            hint="Use the version of BabyGPT that wrote it",
        )
    try:
        fingerprint, tokenizer = str(value["fingerprint"]), str(value["tokenizer"])
        piece = _whole(value["piece"], 1, _MOST_PIECE)
        sides = {name: _side(name, value["sides"][name]) for name in SIDES}
        files = {_checked(name): _entry(entry) for name, entry in value["files"].items()}
        for name, side in sides.items():
            wanted = [f"{name}/{BATCHES}", f"{name}/{LENGTHS}", *(sums_name(s.name) for s in side.shards)]
            missing = [each for each in wanted if each not in files]
            if missing:
                raise ValueError(f"{missing[0]} is not listed")
        return Corpus(
            key, fingerprint, tokenizer, piece, dict(value["settings"]), tuple(value["notes"]), sides, files
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"no whole {CORPUS_NAME} ({type(error).__name__}: {error})"
        raise DataError(what, where=where, hint="Copy it again, or prepare the corpus anew") from None


def _side(name: str, value: Any) -> Side:
    shards = tuple(Shard(_checked(shard), _whole(size, 0)) for shard, size in value["shards"])
    if any(not shard.name.startswith(f"{name}/") for shard in shards):
        raise ValueError("a shard lies elsewhere")
    manifest = StoreManifest(**value["manifest"])
    counts = (manifest.num_tokens, manifest.num_documents, manifest.num_targets)
    if manifest.dtype not in ("uint16", "uint32") or any(_whole(count, 0) != count for count in counts):
        raise ValueError("the manifest of a store is malformed")
    return Side(manifest, shards)


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


def _whole(value: Any, least: int, most: int = 1 << 62) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r} is no whole number of at least {least}")
    return value
