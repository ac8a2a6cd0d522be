"""Files that are whole or not there: atomic writes, checksums, folders published once under a manifest.

Publishing a folder: fill a hidden one beside it, flush every file to the disk, write `manifest.json` last,
rename, flush the parent. A folder without a valid manifest was never finished, and no visible name is ever
half-written. Replacing a folder takes two renames; if the machine died between them, `set_aside` finds the old
one and `remove_partials` puts it back. Each file is read once more to be hashed, from the page cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from babygpt.disk import ensure_space, free_bytes, fsync_dir, fsync_file, plain_errors
from babygpt.errors import CheckpointError, InputError
from babygpt.manifests import MANIFEST, FileEntry, Manifest, read_manifest, sealed
from babygpt.strict_json import dumped
from babygpt.untrusted import is_endless

__all__ = [
    "MANIFEST",
    "FileEntry",
    "Manifest",
    "check_file_place",
    "check_name",
    "ensure_space",
    "free_bytes",
    "free_name",
    "make_folder",
    "publish_filled",
    "publish_folder",
    "read_manifest",
    "remove_folder",
    "remove_partials",
    "set_aside",
    "sha256_of",
    "verify_folder",
    "write_atomic",
    "write_json_atomic",
    "write_text_atomic",
]

_PARTIAL, _REPLACED = ".partial-", ".replaced-"


# -- single files ----------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file_place(path: Path, option: str) -> None:
    """Refuses a place where no file can be made, before what is to be written there is worked out.

    Args:
        path: of the file.
        option: by which the user gave it.

    Raises:
        InputError: it is a folder, or there is no folder for it, or its name is too long.
    """
    try:
        if path.is_dir():
            raise InputError(
                "is a folder", where=str(path), hint="Give the name of a file, such as page.html"
            )
        if not path.parent.is_dir():
            hint = f"Make it, or give another {option}"
            raise InputError("there is no such folder", where=str(path.parent), hint=hint)
        with suppress(FileNotFoundError):
            _beside(path, _PARTIAL).lstat()  # the longest name that is needed
    except OSError as error:
        what = f"cannot be written ({(error.strerror or str(error)).lower()})"
        raise InputError(what, where=str(path), hint=f"Give another {option}") from error


def write_atomic(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes a file, so that the path holds the old bytes or the new; may raise SpaceError, InputError.

    Bytes that come in pieces may be read from the old file.
    """
    partial = _beside(path, _PARTIAL)
    with plain_errors(path.parent):
        if is_endless(path):  # to rename over /dev/null would take it from everybody
            raise InputError("is no regular file", where=str(path), hint="Give the name of a file")
        try:
            with open(partial, "xb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        fsync_dir(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_atomic` does."""
    write_atomic(path, text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Writes one JSON value as `write_text_atomic` does; a number that is not finite becomes null."""
    write_text_atomic(path, dumped(value, indent=2) + "\n")


# -- folders ---------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, if missing, and returns once their names are on the disk.

    Raises:
        InputError: it cannot be made there: a file is in the way, or this user may not.
    """
    missing = []
    place = path.absolute()
    while not place.is_dir():
        missing.append(place)
        place = place.parent
    with plain_errors(path):
        for folder in reversed(missing):
            try:
                folder.mkdir(exist_ok=True)
            except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
                reason = str(error.strerror).lower()
                raise InputError(
                    f"the folder cannot be made ({reason})", where=str(path), hint="Choose another place"
                ) from error
            fsync_dir(folder.parent)


def check_name(name: str) -> str:
    """The name, if it can stand for one visible entry of a folder.

    Raises:
        InputError: it is empty, hidden, or leads elsewhere.
    """
    if not name or name.startswith(".") or any(c in name for c in "/\\:\0\n\r"):
        raise InputError(f"{name!r} is no name for a folder", hint="Use letters, digits, '-', '_' and '='")
    return name


def free_name(path: Path) -> Path:
    """The path, or the first with `-v1`, `-v2`, ... behind that is not in use."""
    candidate, version = path, 0
    while os.path.lexists(candidate):
        version += 1
        candidate = path.with_name(f"{path.name}-v{version}")
    return candidate


def publish_folder(
    parent: Path,
    name: str,
    fill: Callable[[Path], None],
    facts: Mapping[str, Any],
    *,
    replace: bool = False,
    expected: Mapping[str, FileEntry] | None = None,
) -> Path:
    """Makes a folder appear whole under its name, or not at all, and returns its path.

    Args:
        parent: where it goes; made if missing.
        name: of the folder; when taken, `-v1`, `-v2`, ... is appended.
        fill: writes the files into the empty folder it is given.
        facts: for the manifest; plain JSON values.
        replace: take the place of what has the name, which is deleted afterwards.
        expected: files that must come out exactly so.

    Raises:
        SpaceError: the disk is full.
        InputError: the name is none, or the parent cannot be written to.
        CheckpointError: the files are not the expected ones.
    """
    check_name(name)
    partial = _beside(parent / name, _PARTIAL)
    with plain_errors(parent):
        make_folder(parent)
        partial.mkdir()
        try:
            fill(partial)
            return publish_filled(partial, parent / name, facts, replace=replace, expected=expected)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def publish_filled(
    folder: Path,
    target: Path,
    facts: Mapping[str, Any],
    *,
    replace: bool = False,
    expected: Mapping[str, FileEntry] | None = None,
) -> Path:
    """Publishes a folder that is filled already, on the same disk and without a manifest, as `publish_folder` does."""
    with plain_errors(target.parent):
        files = _flush(folder)
        if expected is not None and files != dict(expected):
            wrong = sorted(k for k in {*files, *expected} if files.get(k) != expected.get(k))
            raise CheckpointError(f"{wrong[0]} is not what its manifest says", where=str(target))
        write_json_atomic(folder / MANIFEST, sealed(facts, files))
        path = _swap(folder, target) if replace else _rename_to_free(folder, target)
        fsync_dir(target.parent)
    return path


def verify_folder(folder: Path) -> Manifest:
    """Reads every byte of a published folder and compares it with the manifest; files beyond it are let be.

    Raises:
        CheckpointError: names the first file that is missing, of another size, damaged or outside.
    """
    manifest = read_manifest(folder)
    root = folder.resolve()
    paths = {name: folder / name for name in manifest.files}
    try:
        for name, path in paths.items():
            if not path.is_file():
                raise CheckpointError(f"{name} is missing", where=str(folder))
            if not path.resolve().is_relative_to(root):
                raise CheckpointError(f"{name} is a link that leads out of the folder", where=str(folder))
            size, whole = path.stat().st_size, manifest.files[name].size
            if size != whole:
                raise CheckpointError(f"{name} has {size:,} bytes instead of {whole:,}", where=str(folder))
        for name, path in paths.items():
            if sha256_of(path) != manifest.files[name].sha256:
                raise CheckpointError(f"{name} is damaged: its checksum differs", where=str(folder))
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error})", where=str(folder)) from error
    return manifest


def remove_folder(path: Path) -> None:
    """Deletes a folder in such a way that nobody finds half of it, now or after a crash; of a link, only the link."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    doomed = _beside(path, _PARTIAL)
    path.rename(doomed)
    fsync_dir(path.parent)
    shutil.rmtree(doomed)


def set_aside(parent: Path) -> dict[Path, Path]:
    """Folders whose replacement was interrupted between its two renames: where each belongs, and where it is."""
    found: dict[Path, Path] = {}
    if not parent.is_dir():
        return found
    aside = [path for path in parent.iterdir() if path.name.startswith(_REPLACED) and path.is_dir()]
    for path in sorted(aside, key=_age):  # the latest stays
        home = path.with_name(path.name.removeprefix(_REPLACED).rpartition("-")[0] or path.name)
        if not os.path.lexists(home):
            found[home] = path
    return found


def remove_partials(parent: Path) -> None:
    """Clears up what a killed process left; not to be called while another one publishes here."""
    if not parent.is_dir():
        return
    for home, path in set_aside(parent).items():
        path.rename(home)
    for path in sorted(parent.iterdir()):
        if path.name.startswith((_PARTIAL, _REPLACED)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


# -- inside ----------------------------------------------------------------------------------------


def _beside(path: Path, prefix: str) -> Path:
    return path.with_name(f"{prefix}{path.name}-{secrets.token_hex(4)}")


def _age(path: Path) -> tuple[int, str]:
    """For sorting folders by when they were written, those without a manifest first."""
    try:
        return (path / MANIFEST).stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name


def _flush(folder: Path) -> dict[str, FileEntry]:
    """Flushes everything below the folder to the disk and hashes it."""
    files = {}
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(place, name)
            fsync_file(path)
            files[path.relative_to(folder).as_posix()] = FileEntry(path.stat().st_size, sha256_of(path))
        fsync_dir(Path(place))
    return dict(sorted(files.items()))


def _rename_to_free(source: Path, target: Path) -> Path:
    while True:
        path = free_name(target)
        try:
            return source.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # taken in between
                raise


def _swap(source: Path, target: Path) -> Path:
    if not os.path.lexists(target):
        return _rename_to_free(source, target)
    aside = _beside(target, _REPLACED)
    target.rename(aside)
    try:
        source.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    fsync_dir(target.parent)
    remove_folder(aside)
    return target
