"""The verb `checkpoint verify`: whether every byte of a checkpoint, of a run's, or of a corpus is as it was written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from babygpt.disk import expanded, plain_errors
from babygpt.errors import CheckpointError, DataError
from babygpt.files import MANIFEST, verify_folder
from babygpt.settings import VerifySettings

__all__ = ["CorpusVerified", "Verified", "VerifyResult", "verify"]

_CORPUS, _NAMED = "corpus.json", 10
_AGAIN = "Copy it again from where it is whole, or prepare the corpus anew"


@dataclass(frozen=True)
class Verified:
    """A checkpoint that is whole.

    Args:
        path: of its folder.
        step: optimiser steps completed; None where the manifest does not say.
        files: how many, without the manifest.
        bytes: of them together.
    """

    path: str
    step: int | None
    files: int
    bytes: int


@dataclass(frozen=True)
class VerifyResult:
    """What was read and found whole.

    Args:
        path: as given.
        checkpoints: each that was read.
    """

    path: str
    checkpoints: tuple[Verified, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"path": self.path, "checkpoints": [asdict(c) for c in self.checkpoints]}

    def lines(self) -> list[str]:
        """For people: a line for each checkpoint."""
        return [f"{c.path} is whole: {c.files} files, {c.bytes:,} bytes" for c in self.checkpoints]


@dataclass(frozen=True)
class CorpusVerified:
    """A prepared corpus that is whole.

    Args:
        path: of its folder.
        files: how many, without its `corpus.json`.
        bytes: of them together.
        fingerprint: of what is in it, as a run remembers it.
    """

    path: str
    files: int
    bytes: int
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        return [f"{self.path} is whole: {self.files} files, {self.bytes:,} bytes ({self.fingerprint[:8]})"]


def verify(settings: VerifySettings) -> VerifyResult | CorpusVerified:
    """Reads every byte of a checkpoint, of every checkpoint of a run, or of a prepared corpus.

    Raises:
        CheckpointError: there is no checkpoint, or one is missing files or damaged; each of these is named.
        DataError: the same of a corpus.
    """
    path = expanded(settings.path)
    if path.name == _CORPUS or (path / _CORPUS).is_file():
        return _verify_corpus(path if path.is_dir() else path.parent)
    found, wrong = [], []
    for folder in _checkpoints(path):
        try:
            manifest = verify_folder(folder)
        except CheckpointError as error:
            wrong.append(error)
            continue
        step = manifest.facts.get("step")
        size = sum(entry.size for entry in manifest.files.values())
        found.append(Verified(str(folder), step, len(manifest.files), size))
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise CheckpointError("; ".join(f"{e.where}: {e.what}" for e in wrong), where=settings.path)
    return VerifyResult(settings.path, tuple(found))


def _checkpoints(path: Path) -> list[Path]:
    """The folders a path stands for: itself, or every checkpoint of a run."""
    if path.is_file():  # `last` where links are not to be had
        from babygpt.checkpoints import resolve

        path = resolve(path)
    if (path / MANIFEST).exists() or not path.is_dir():
        return [path]
    parent = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    # Hidden folders are being written; links lead to folders that are read anyway.
    inside = sorted(p for p in parent.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    if parent != path and not inside:
        raise CheckpointError("holds no checkpoint yet", where=str(path))
    return inside if parent != path or any((p / MANIFEST).exists() for p in inside) else [path]


def _verify_corpus(folder: Path) -> CorpusVerified:
    from babygpt.data.cache import default_cache  # what reads data takes a second to import
    from babygpt.data.checking import damaged, sizes, wrong_sizes
    from babygpt.data.corpus import read_corpus

    corpus = read_corpus(str(folder / _CORPUS), default_cache())
    if corpus is None:
        raise DataError(
            "not to be read as what babygpt data prepare --to writes",
            where=str(folder / _CORPUS),
            hint=_AGAIN,
        )
    with plain_errors(folder):
        wrong = wrong_sizes(folder, corpus) or list(damaged(folder, corpus))
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise DataError("; ".join(wrong[:_NAMED]) + more, where=str(folder), hint=_AGAIN)
    every = sizes(corpus)
    return CorpusVerified(str(folder), len(every), sum(every.values()), corpus.fingerprint)
