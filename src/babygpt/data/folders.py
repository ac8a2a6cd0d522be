"""Folders and patterns to the files in them, in the order of their paths.

Links to folders are followed; one that leads back to a folder above it is an error, as is a folder that may not be
opened: no part of the data is left out in silence. Hidden names are passed over. A pattern's `*` and `?` stay within
one name, `**` stands for folders at any depth.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from babygpt.data.formats import format_of, is_known
from babygpt.disk import expanded
from babygpt.errors import DataError

__all__ = ["files_below", "is_pattern", "matching", "read_in_a_folder"]

_NOT_BESIDE_TEXT = frozenset({"json", "csv", "tsv"})  # where nobody names them one by one


def files_below(root: Path, *, skipped: frozenset[str] = frozenset(), depth: int | None = None) -> list[str]:
    """POSIX paths of everything below a folder that is no folder, sorted; nothing hidden.

    Args:
        root: the folder.
        skipped: names of folders that are not entered.
        depth: folders that are entered at most, the root counted; all if None.

    Raises:
        DataError: a folder cannot be opened, or a link leads in a circle.
    """
    found: list[str] = []
    left = [""]
    while left:
        inside = left.pop()
        folder = os.path.join(root, inside)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not _is_folder(entry):
                        found.append(inside + entry.name)
                    elif entry.name not in skipped:
                        if entry.is_symlink():
                            _refuse_circle(root, inside, entry.path)
                        if depth is None or inside.count("/") + 1 < depth:
                            left.append(f"{inside}{entry.name}/")
        except OSError as error:
            raise DataError(
                f"the folder cannot be read ({error.strerror})",
                where=folder.rstrip(os.sep),
                hint="Grant the right to read it, or name the files that are wanted",
            ) from None
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: whoever opens it is told
        return False


def _refuse_circle(root: Path, inside: str, link: str) -> None:
    folder = root / inside
    for _ in range(inside.count("/") + 1):
        if os.path.samefile(folder, link):
            raise DataError(
                f"the link leads back to {folder}, a folder above it", where=link, hint="Remove the link"
            )
        folder = folder.parent


def read_in_a_folder(names: Sequence[str]) -> tuple[list[str], str]:
    """Of a folder's files those that are read, and how many of which kinds are not, in words; empty if none."""
    read = [name for name in names if is_known(name)]
    if any(format_of(name).kind == "text" for name in read):
        # Beside code and prose such files are mostly settings and results, not documents.
        read = [name for name in read if format_of(name).kind not in _NOT_BESIDE_TEXT]
    left = sorted({*names} - {*read})
    kinds = Counter(os.path.splitext(name)[1] or "without a suffix" for name in left)
    if not kinds:
        return read, ""
    most = ", ".join(kind for kind, _ in kinds.most_common(5)) + (", ..." if len(kinds) > 5 else "")
    are = "files are of other kinds and" if len(left) > 1 else "file is of another kind and"
    return read, f"{len(left):,} {are} not read ({most})"


def is_pattern(path: str) -> bool:
    """Whether a path, not being there as it is written, is a pattern."""
    return bool(re.search(r"[*?\[]", path)) and not os.path.lexists(os.path.expanduser(path))


def matching(pattern: str) -> tuple[Path, list[str]]:
    """The folder a pattern begins with, and the files below it that match, sorted.

    Raises:
        DataError: nothing matches, or as `files_below`.
    """
    parts = expanded(pattern).parts
    fixed = next(n for n, part in enumerate(parts) if re.search(r"[*?\[]", part))
    root, wanted = Path(*parts[:fixed]), parts[fixed:]
    found: list[str] = []
    if root.is_dir():
        depth = None if "**" in wanted else len(wanted)
        found = [name for name in files_below(root, depth=depth) if _matches(name.split("/"), wanted)]
    if not found:
        raise DataError(
            "no file matches",
            where=pattern,
            hint="Check data.path; * stays within one name, ** stands for folders at any depth",
        )
    return root, found


def _matches(name: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return not name
    if wanted[0] == "**":
        if len(wanted) == 1:
            return bool(name)
        return any(_matches(name[n:], wanted[1:]) for n in range(len(name)))
    return bool(name) and fnmatchcase(name[0], wanted[0]) and _matches(name[1:], wanted[1:])
