"""Paths to what stands behind them: every file with its size, time and sha256, and one digest over the content.

The digest is equal exactly when reading again would give the same documents. Where files lie and what they are
called does not matter, their order does.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from babygpt.data.digests import FileState, Index
from babygpt.data.hub_datasets import open_hub
from babygpt.data.sources import JSONL_SUFFIXES, content_hash, files_of, is_hub_name, is_saved, prose

__all__ = ["Kind", "Listing", "Survey", "changed_meanwhile", "kind_of", "survey"]

Kind = Literal["files", "builtin", "hub"]


@dataclass(frozen=True)
class Listing:
    """What stands behind one path.

    Attributes:
        path: as given.
        kind: `files` for a file or folder, `builtin` for what Python brings along, `hub` for a data set's name.
        files: of a file or folder, and of `builtin:python`; in the order they are read.
        fingerprint: of what is no file: a hub data set's own, and a digest of `builtin:prose`.
        python: the version that brought a built-in corpus along.
    """

    path: str
    kind: Kind
    files: tuple[FileState, ...] = ()
    fingerprint: str = ""
    python: str = ""


@dataclass(frozen=True)
class Survey:
    """What stands behind a list of paths.

    Attributes:
        listings: one a path.
        taken_on_trust: how many files were not read, because the index knew them and they were not touched.
    """

    listings: tuple[Listing, ...]
    taken_on_trust: int

    @property
    def identity(self) -> str:
        """sha256 over the content, in the order it is read."""
        whole = hashlib.sha256()
        for listing in self.listings:
            if listing.kind == "hub":
                whole.update(f"hub:{listing.path}:".encode())
            whole.update(listing.fingerprint.encode())
            for file in listing.files:
                whole.update(b"jsonl" if os.path.splitext(file.name)[1] in JSONL_SUFFIXES else b"text")
                whole.update(bytes.fromhex(file.sha256))
        return whole.hexdigest()


def kind_of(path: str) -> Kind:
    """What a path is read as."""
    if path.startswith("builtin:"):
        return "builtin"
    return "hub" if not is_saved(path) and is_hub_name(path) else "files"


def survey(paths: Sequence[str], cache: Path, *, trust: bool = True) -> Survey:
    """Look at what is behind the paths; a file is read unless the cache's index knows it and it was not touched.

    Args:
        paths: files, folders, data set names, `builtin:python`, `builtin:prose`.
        cache: folder of the cache.
        trust: whether the index may be believed; without, every file is read.

    Raises:
        DataError: something is missing or cannot be read.
    """
    with Index(paths, cache, trust=trust) as index:
        listings = tuple(_listing(path, index) for path in paths)
    return Survey(listings, index.taken_on_trust)


def changed_meanwhile(listings: Sequence[Listing]) -> str | None:
    """A file that came, went, or has another size or time than when it was looked at; None if none."""
    for listing in listings:
        if not listing.files:
            continue
        root, names = files_of(listing.path)
        odd = set(names) ^ {file.name for file in listing.files}
        if odd:
            return str(root / min(odd))
        for file in listing.files:
            status = os.stat(root / file.name)
            if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
                return str(root / file.name)
    return None


def _listing(path: str, index: Index) -> Listing:
    kind = kind_of(path)
    if kind == "hub":
        return Listing(path, kind, fingerprint=open_hub(path)._fingerprint)
    python = platform.python_version() if kind == "builtin" else ""
    if path == "builtin:prose":
        hashes = b"".join(content_hash(document).to_bytes(8, "big") for document in prose())
        return Listing(path, kind, fingerprint=hashlib.sha256(hashes).hexdigest(), python=python)
    root, names = files_of(path)
    return Listing(path, kind, tuple(index.state(root, name) for name in names), python=python)
