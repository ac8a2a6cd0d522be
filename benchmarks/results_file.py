"""A file of results, a JSON object a line, that a killed process leaves whole but for its last line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["append", "lines_of"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines; the torn last one of a killed process is none."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append(path: Path, line: dict[str, Any]) -> None:
    """Adds a line, flushed to the disk; a torn one before it is ended."""
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("ab") as file:
        file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
