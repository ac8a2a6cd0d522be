"""Paths to what stands behind them: every file with its size, time and sha256, and one digest over the content.

The digest is equal exactly when reading again would give the same documents. Where files lie and what they are
called does not matter, their order does, and the kind that the end of a name makes of the bytes.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from babygpt.data.copies import damaged
from babygpt.data.digests import FileState, Index
from babygpt.data.formats import format_of
from babygpt.data.hub_datasets import open_hub
from babygpt.data.remote import Located, is_remote, localise
from babygpt.data.sources import content_hash, files_of, is_hub_name, is_saved, prose
from babygpt.errors import DataError

__all__ = ["Kind", "Listing", "Survey", "changed_meanwhile", "kind_of", "survey"]

Kind = Literal["files", "saved", "builtin", "hub", "remote", "corpus"]


@dataclass(frozen=True)
class Listing:
    """What stands behind one path.

    Attributes:
        path: as given; of an address, without its secrets.
        kind: `files` for files, a folder or a pattern, `saved` for a saved data set's folder, `builtin` for what
            Python brings along, `hub` for a data set's name, `remote` for an address, rows of such a data set or
            standard input, `corpus` for prepared data.
        files: in the order they are read; none of a hub data set and `builtin:prose`.
        fingerprint: of what is no file: a hub data set's or a corpus's own, and a digest of `builtin:prose`.
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
        paths: where to read: the paths as given, or the copies in the cache of what they name elsewhere.
        notes: sentences for people: what was fetched, and what lies there and is not read.
    """

    listings: tuple[Listing, ...]
    taken_on_trust: int
    paths: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def identity(self) -> str:
        """sha256 over the content, in the order it is read."""
        whole = hashlib.sha256()
        for listing in self.listings:
            if listing.kind == "hub":
                whole.update(f"hub:{listing.path}:".encode())
            whole.update(listing.fingerprint.encode())
            for file in listing.files:
                whole.update(b"saved" if listing.kind == "saved" else format_of(file.name).tag.encode())
                whole.update(bytes.fromhex(file.sha256))
        return whole.hexdigest()


def kind_of(path: str) -> Kind:
    """What a path is read as."""
    if path.startswith("builtin:"):
        return "builtin"
    if is_remote(path):
        return "remote"
    if is_saved(path):
        return "saved"
    return "hub" if is_hub_name(path) else "files"


def survey(
    paths: Sequence[str], cache: Path, *, trust: bool = True, say: Callable[[str], None] = lambda text: None
) -> Survey:
    """Look at what is behind the paths; a file is read unless the cache's index knows it and it was not touched.

    Args:
        paths: anything of `data.path`.
        cache: folder of the cache, into which is fetched what lies elsewhere.
        trust: whether the index may be believed; without, every file is read.
        say: told what takes long.

    Raises:
        DataError: something is missing, or cannot be read or fetched.
    """
    located = localise(paths, cache, say)
    local = tuple(str(file) for place in located for file in place.files or (place.path,))
    with Index(local, cache, trust=trust) as index:
        found = [_listing(place, index) for place in located]
    notes = [note for place in located for note in place.notes]
    notes += [note for _, note in found if note]
    return Survey(tuple(listing for listing, _ in found), index.taken_on_trust, local, tuple(notes))


def changed_meanwhile(listings: Sequence[Listing]) -> str | None:
    """A file that came, went, or has another size or time than when it was looked at; None if none."""
    for listing in listings:
        if not listing.files or listing.kind == "remote":  # a copy's name says what it holds
            continue
        root, names, _ = files_of(listing.path)
        odd = set(names) ^ {file.name for file in listing.files}
        if odd:
            return str(root / min(odd))
        for file in listing.files:
            status = os.stat(root / file.name)
            if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
                return str(root / file.name)
    return None


def _listing(place: Located, index: Index) -> tuple[Listing, str]:
    """What stands behind a path, and what is to be said of it."""
    path, kind = place.path, kind_of(place.path)
    if place.files:
        states = []
        for file in place.files:
            states.append(index.state(file.parent, file.name))
            if damaged(file, states[-1].sha256):
                what = f"the copy of {path} in the cache is damaged"
                raise DataError(what, where=str(file), hint="Delete it, and it is fetched anew")
        return Listing(path, "remote", tuple(states)), ""
    if kind == "hub":
        found = open_hub(path)
        return Listing(path, kind, fingerprint=found._fingerprint), _downloaded(path, found)
    python = platform.python_version() if kind == "builtin" else ""
    if path == "builtin:prose":
        hashes = b"".join(content_hash(document).to_bytes(8, "big") for document in prose())
        return Listing(path, kind, fingerprint=hashlib.sha256(hashes).hexdigest(), python=python), ""
    root, names, left_out = files_of(path)
    states = [index.state(root, name) for name in names]
    return Listing(path, kind, tuple(states), python=python), left_out and f"{path}: {left_out}"


def _downloaded(path: str, dataset: Any) -> str:
    """What a hub data set takes of the disk beside what is made of it, in words."""
    files = [Path(file["filename"]) for file in dataset.cache_files]
    size = sum(file.stat().st_size for file in files)
    where = f"; {size / 1e6:,.1f} MB of it lie in {files[0].parent}" if files else ""
    return f"{path}: downloaded whole by datasets, which keeps it{where}"
