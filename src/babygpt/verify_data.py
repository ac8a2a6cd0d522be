"""The verb `data verify`: whether every byte of a prepared corpus is as it was written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from babygpt.data.cache import default_cache
from babygpt.data.checking import damaged, sizes, wrong_sizes
from babygpt.data.corpus import CORPUS_NAME, read_corpus
from babygpt.data.remote import is_remote
from babygpt.disk import plain_errors
from babygpt.errors import DataError
from babygpt.settings import VerifyDataSettings

__all__ = ["CorpusVerified", "verify_data"]

_NAMED = 10


@dataclass(frozen=True)
class CorpusVerified:
    """A corpus that is whole.

    Args:
        path: of its `corpus.json`.
        files: how many, without it.
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


def verify_data(settings: VerifyDataSettings) -> CorpusVerified:
    """Reads every byte of a corpus and compares it with the checksums it was written with.

    Raises:
        DataError: there is no corpus, or files of it are missing or damaged; each of these is named.
    """
    if is_remote(settings.path):
        raise DataError(
            "lies elsewhere, where every piece is compared with its checksum when it is fetched",
            where=settings.path,
            hint="Only a corpus on a disk of this computer has to be verified",
        )
    given = Path(settings.path).expanduser()
    file = given if given.name == CORPUS_NAME else given / CORPUS_NAME
    corpus = read_corpus(str(file), default_cache())
    if corpus is None:
        raise DataError(
            f"no prepared corpus: there is no readable {CORPUS_NAME}",
            where=str(file),
            hint="Name what babygpt data prepare --to has written",
        )
    with plain_errors(file.parent):
        wrong = wrong_sizes(file.parent, corpus) or list(damaged(file.parent, corpus))
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise DataError(
            "; ".join(wrong[:_NAMED]) + more,
            where=str(file.parent),
            hint="Copy these files again from where they are whole, or prepare the corpus anew",
        )
    every = sizes(corpus)
    return CorpusVerified(str(file), len(every), sum(every.values()), corpus.fingerprint)
