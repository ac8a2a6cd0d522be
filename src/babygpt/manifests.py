"""`manifest.json`: what a published folder holds, under a checksum of its own.

{"format": 1, "facts": {...}, "files": {"PATH": {"size": ..., "sha256": "..."}}, "sha256": "of all that"}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from babygpt.errors import CheckpointError
from babygpt.strict_json import finite
from babygpt.untrusted import read_json, shown

__all__ = ["MANIFEST", "FileEntry", "Manifest", "read_manifest", "sealed"]

MANIFEST = "manifest.json"
_FORMAT = 1
_SEAL = "sha256"


@dataclass(frozen=True)
class FileEntry:
    """A file as it was written: its size in bytes and the hex digits of its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a published folder holds.

    Args:
        facts: what the publisher says about it; plain JSON values.
        files: every file but the manifest, by its POSIX path inside.
    """

    facts: dict[str, Any]
    files: dict[str, FileEntry]


def sealed(facts: Mapping[str, Any], files: Mapping[str, FileEntry]) -> dict[str, Any]:
    """The content of a manifest.

    Args:
        facts: what the publisher says; plain JSON values.
        files: by their POSIX paths inside.
    """
    entries = {path: asdict(entry) for path, entry in files.items()}
    content = finite({"format": _FORMAT, "facts": facts, "files": entries})
    return {**content, _SEAL: _seal(content)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a published folder, its files not looked at.

    Raises:
        CheckpointError: there is none, or it is not one of ours.
    """
    path = folder / MANIFEST
    try:
        content = read_json(path)
        facts = dict(content["facts"])
        if content["format"] != _FORMAT:
            what = f"the manifest's format is {content['format']!r}, and this version reads {_FORMAT}"
            raise CheckpointError(what, where=str(folder), hint="Use the version of BabyGPT that wrote it")
        files = {name: _entry(name, value) for name, value in content["files"].items()}
        seal = content.pop(_SEAL, None)  # manifests were not sealed at first
        if content.keys() != {"format", "facts", "files"}:
            raise ValueError("it has entries that are none of ours")
        if seal is not None and seal != _seal(content):
            raise CheckpointError(f"{MANIFEST} is damaged: its checksum differs", where=str(folder))
    except CheckpointError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"has no {MANIFEST}: it was never finished" if folder.is_dir() else "is no folder"
        raise CheckpointError(what, where=str(folder)) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the manifest cannot be read ({error})", where=str(path)) from error
    return Manifest(facts, files)


def _seal(content: Mapping[str, Any]) -> str:
    """The checksum of a manifest's values, however they are spaced and sorted."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(name: str, value: Any) -> FileEntry:
    """Checks one line of a manifest; a path that leads out of the folder is an attack or a bug."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or "\\" in name
        or PureWindowsPath(name).drive
        or not all(len(part.encode()) <= 255 for part in path.parts)
        or shown(name) != name
        or "\n" in name
    ):
        raise ValueError(f"{shown(repr(name), 80)} is not inside the folder")
    size, digest = value["size"], value["sha256"]
    if type(size) is not int or size < 0 or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"the entry of {name} is malformed")
    return FileEntry(size, digest)
