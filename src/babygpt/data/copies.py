"""Copies in the cache of what lies elsewhere, each with an entry that says of which version it is.

    KEY.json            what is copied, its version, and the copy's name and size
    KEY-SHA-NAME        the copy: KEY of what is copied, SHA of the content, NAME tells the kind

The name of a copy is made from its content, so that it is whole or not there and never two things.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from babygpt.data.transfer import Stamp
from babygpt.disk import fsync_dir
from babygpt.files import write_json_atomic
from babygpt.untrusted import read_json

__all__ = ["Copy", "damaged", "keep", "key_of", "known"]

_NAME = 80  # characters of a name that are kept


@dataclass(frozen=True)
class Copy:
    """A copy that is there in its size.

    Attributes:
        file: it.
        stamp: the version of what was copied.
    """

    file: Path
    stamp: Stamp


def key_of(what: str) -> str:
    """The key of what is copied: a digest, since addresses may hold secrets."""
    return hashlib.sha256(what.encode()).hexdigest()[:24]


def known(parent: Path, key: str) -> Copy | None:
    """The copy under a key; None where there is none."""
    try:
        value = read_json(parent / f"{key}.json")
        file = parent / value["file"]
        stamp = Stamp(str(value["etag"]), str(value["modified"]), value["declared"])
        is_ours = re.fullmatch(rf"{key}-[0-9a-f]{{16}}-[\w.-]+", value["file"]) is not None
        return Copy(file, stamp) if is_ours and file.stat().st_size == value["size"] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep(whole: Path, parent: Path, key: str, *, name: str, sha256: str, shown: str, stamp: Stamp) -> Path:
    """Gives a file, which is whole and on the disk, its name as the copy under a key, and writes the entry.

    Args:
        whole: the file, on the same disk.
        parent: the folder of the copies.
        key: the copy that was under it is deleted.
        name: the end of it tells the kind.
        sha256: of the content.
        shown: what was copied, without secrets.
        stamp: its version.
    """
    before = known(parent, key)
    tail = re.sub(r"[^\w.-]", "_", name)[-_NAME:]
    file, size = parent / f"{key}-{sha256[:16]}-{tail or 'data'}", whole.stat().st_size
    os.replace(whole, file)
    fsync_dir(parent)
    entry = {"url": shown, "file": file.name, "size": size}
    entry |= {"etag": stamp.etag, "modified": stamp.modified, "declared": stamp.size}
    write_json_atomic(parent / f"{key}.json", entry)
    if before is not None and before.file != file:
        before.file.unlink(missing_ok=True)
    return file


def damaged(file: Path, sha256: str) -> bool:
    """Whether a copy is no longer what its name says."""
    return sha256[:16] not in file.name.split("-")[:2][-1]
