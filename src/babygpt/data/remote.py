"""Addresses, the first rows of hub data sets, and standard input to files in the cache.

    CACHE/remote/KEY.json, KEY-SHA-NAME what an address names, or the rows (`copies`)
    CACHE/remote/stdin-SHA.jsonl, .txt  what came on standard input

An address is asked anew at every start, and fetched only where its version is another one. Credentials and queries of
addresses may be secrets: nothing that is written or said holds them, and a KEY is a digest.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from babygpt.data.buckets import bucket_file, bucket_sources
from babygpt.data.cache import clear_leftovers, publishing
from babygpt.data.copies import keep, key_of, known
from babygpt.data.formats import looks_like_file, refuse_unread
from babygpt.data.hub_datasets import is_part_of_hub
from babygpt.data.hub_rows import first_rows
from babygpt.data.transfer import Source, receive
from babygpt.data.utf8 import looks_like
from babygpt.data.web import HttpSource
from babygpt.disk import fsync_dir, plain_errors
from babygpt.errors import DataError
from babygpt.hub import reachable
from babygpt.launch import is_first_process
from babygpt.untrusted import redacted

__all__ = ["STANDARD_INPUT", "Located", "beside", "is_remote", "kept_input", "localise"]

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|[a-z][a-z0-9+.-]+::", re.IGNORECASE)
# A variable with process and file of what came there: of the processes of a run, only the first can read it.
STANDARD_INPUT = "BABYGPT_STANDARD_INPUT"
_INPUT = r"stdin-[0-9a-f]{32}\.(txt|jsonl)"
_BLOCK = 2**20


@dataclass(frozen=True)
class Located:
    """A path and where it lies.

    Attributes:
        path: as given, without secrets.
        files: the copies in the cache; empty for what is no address.
        notes: what was fetched or found there, in sentences.
    """

    path: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def is_remote(path: str) -> bool:
    """Whether a path is an address, the first rows of a hub data set, or standard input."""
    return path == "-" or _ADDRESS.match(path) is not None or is_part_of_hub(path)


def localise(
    paths: Sequence[str], cache: Path, say: Callable[[str], None] = lambda text: None
) -> list[Located]:
    """Copies what the paths name elsewhere into the cache, unless it is there.

    Args:
        paths: anything of `data.path`; what is on this computer is let be.
        cache: folder of the cache.
        say: told in sentences what takes long, and why.

    Raises:
        DataError: something cannot be fetched; the message holds no secret of its address.
        SpaceError, InputError: the cache is full or cannot be written to.
    """
    parent = cache / "remote"
    located = []
    for path in paths:
        if not is_remote(path):
            located.append(Located(path))
            continue
        with plain_errors(parent), publishing(parent):
            parent.mkdir(parents=True, exist_ok=True)
            if path == "-":
                located.append(_standard_input(parent))
            elif is_part_of_hub(path):
                file, note = first_rows(path, parent, say)
                located.append(Located(path, (file,), (note,)))
            else:
                sources, left_out = _sources(path)
                copies = [_copy(source, path, parent, say) for source in sources]
                notes = [
                    *(note for _, note in copies),
                    *([f"{redacted(path)}: {left_out}"] if left_out else []),
                ]
                located.append(Located(redacted(path), tuple(file for file, _ in copies), tuple(notes)))
        clear_leftovers(parent)
    return located


# -- addresses -----------------------------------------------------------------------------------------------


def beside(url: str, name: str) -> Source:
    """A file in the folder of the file that an address names, or below; its query, a signature maybe, goes along.

    Raises:
        DataError: it cannot be asked for.
    """
    path, mark, query = url.partition("?")
    there = f"{path.rpartition('/')[0]}/{name}{mark}{query}"
    return HttpSource(there) if _is_web(there) else bucket_file(there)


def _is_web(url: str) -> bool:
    return url.partition(":")[0].lower() in ("http", "https")


def _sources(url: str) -> tuple[list[Source], str]:
    """The files behind an address, and what lies there and is not read, in words."""
    if "?..." in url:
        raise DataError(
            "the address's query is missing, because it is never written down",
            where=redacted(url),
            hint="Give the whole address with --data.path",
        )
    scheme = url.partition(":")[0].lower()
    if _is_web(url):
        return [_checked(HttpSource(url))], ""
    if scheme in ("file", "local"):
        raise DataError("a file of this computer", where=redacted(url), hint="Give its path without file://")
    if scheme == "hf" and not reachable():
        raise DataError("the hub cannot be reached", where=redacted(url), hint="Give a local file or folder")
    sources, left_out = bucket_sources(url)
    return [_checked(source) for source in sources], left_out


def _checked(source: Source) -> Source:
    refuse_unread(source.path, source.shown)
    return source


def _copy(source: Source, url: str, parent: Path, say: Callable[[str], None]) -> tuple[Path, str]:
    """The copy of one file behind an address, and a note of how it came there."""
    bare = re.sub(r"(?<=://)[^/\s@]+@", "", url)
    key = key_of(f"{bare} {source.path}")
    copy = known(parent, key)
    with _partial(parent) as partial:
        received = receive(source, partial, copy.stamp if copy else None, say)
        if received is None:
            assert copy is not None
            return copy.file, f"{source.shown}: not changed, the copy in the cache is used"
        name = source.path.rpartition("/")[2].lstrip(".-")
        if not looks_like_file(name) or received.suffix.endswith(".gz"):
            name += "" if name.endswith(received.suffix) else received.suffix
        sha256, stamp = received.sha256, received.stamp
        file = keep(partial, parent, key, name=name, sha256=sha256, shown=source.shown, stamp=stamp)
    counted = "" if stamp.size is not None else "; the server did not say how many there should be"
    return file, f"{source.shown}: fetched {received.size:,} bytes{counted}"


@contextmanager
def _partial(parent: Path) -> Iterator[Path]:
    """A name for a file on its way, which is gone or renamed afterwards."""
    path = parent / f".partial-{secrets.token_hex(8)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


# -- standard input ------------------------------------------------------------------------------------------


def _standard_input(parent: Path) -> Located:
    owner, _, name = os.environ.get(STANDARD_INPUT, "").partition(":")
    is_further = not is_first_process()
    known = re.fullmatch(_INPUT, name) is not None and (parent / name).is_file()
    if known and (is_further or owner == str(os.getpid())):
        return _spooled(parent / name)
    if is_further:
        raise DataError(
            "standard input reaches the first process of a run only",
            where="data.path",
            hint="Write it to a file on a disk that all of them see, and give that",
        )
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError(
            "standard input is a terminal",
            where="-",
            hint="Pipe text or JSON lines into it: cat notes.txt | babygpt train --data.path -",
        )
    with _partial(parent) as partial:
        digest, first, size = hashlib.sha256(), b"", 0
        with partial.open("wb") as out:
            while block := sys.stdin.buffer.read(_BLOCK):
                first = first or block.lstrip()[:1]
                if not size:
                    _refuse_binary(block)
                out.write(block)
                digest.update(block)
                size += len(block)
            out.flush()
            os.fsync(out.fileno())
        if not first:
            raise DataError("standard input is empty", where="-", hint="Pipe text or JSON lines into it")
        kind = "jsonl" if first == b"{" else "txt"
        file = parent / f"stdin-{digest.hexdigest()[:32]}.{kind}"
        os.replace(partial, file)
    fsync_dir(parent)
    os.environ[STANDARD_INPUT] = f"{os.getpid()}:{file.name}"
    return _spooled(file)


def kept_input(cache: Path, name: str) -> Path | None:
    """What came on standard input before and is kept under a name, as `Located.files` gave it; None if it is gone."""
    file = cache / "remote" / name
    return file if re.fullmatch(_INPUT, name) and file.is_file() else None


def _spooled(file: Path) -> Located:
    """What was kept. It is told at every look: whoever looks first may not be who tells."""
    lines = file.suffix == ".jsonl"
    how = "JSON lines because it begins with {" if lines else "one text because it does not begin with {"
    size = file.stat().st_size
    return Located("-", (file,), (f"standard input: {size:,} bytes, read as {how}; kept as {file}",))


def _refuse_binary(block: bytes) -> None:
    if kind := looks_like(block):
        raise DataError(f"standard input looks like {kind}", where="-", hint="Unpack or convert it first")
