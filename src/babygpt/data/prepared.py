"""Prepared data: two token stores, training and validation, with the tokenizer that encoded both.

They lie in a folder of the cache, under a name that says what they were made from:

    CACHE/data/KEY/   train/  val/  tokenizer/  manifest.json

Looking at what is behind a recipe's paths reads no text that was read before (`digests`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from babygpt.data.arrow import TokenStore, open_store
from babygpt.data.identity import Survey, survey
from babygpt.data.sources import Say
from babygpt.data.tokenizers import load_tokenizer
from babygpt.errors import CheckpointError, DataError, TokenizerError
from babygpt.files import check_name, read_manifest
from babygpt.recipe import DataRecipe

__all__ = ["PreparedData", "Sources", "look", "open_prepared"]


@dataclass(frozen=True)
class PreparedData:
    """What training needs of the data.

    Attributes:
        train, val: the stores; no validation document is in `train` unless `val_path` brought it.
        tokenizer: what encoded both.
        notes: sentences for people: how it was split, what was reused.
        fingerprint: sha256 of both stores' fingerprints.
        key: the folder's name in the cache.
        sources: what stood behind `path` and `val_path`; None where the store was found by its key alone.
        reused: whether it was in the cache.
        withheld: what is to count nothing whatever prompts count, in words; empty if nothing is, None if not known.
    """

    train: TokenStore
    val: TokenStore
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...]
    fingerprint: str
    key: str
    sources: Sources | None = None
    reused: bool = True
    withheld: str | None = None

    @property
    def folder(self) -> Path:
        """Where both stores and the tokenizer are."""
        return self.train.folder.parent

    @property
    def masked(self) -> bool:
        """Whether some of what is trained on is no target."""
        return self.train.manifest.num_targets < self.train.num_tokens

    @property
    def in_words(self) -> str:
        """Their size, and enough of the fingerprint to tell two of the same size apart."""
        sides = [f"{s.num_tokens:,} tokens in {s.num_documents:,} documents" for s in (self.train, self.val)]
        return f"{sides[0]} to train on and {sides[1]} to validate on ({self.fingerprint[:8]})"


@dataclass(frozen=True)
class Sources:
    """What stood behind a recipe's paths, and the name that it gives the store.

    Attributes:
        path, val_path: as `identity.survey` found them.
    """

    path: Survey
    val_path: Survey

    @property
    def num_files(self) -> int:
        """Files behind all paths."""
        return sum(len(each.files) for side in (self.path, self.val_path) for each in side.listings)

    @property
    def taken_on_trust(self) -> int:
        """Files that were not read, because they were read before and not touched since."""
        return self.path.taken_on_trust + self.val_path.taken_on_trust


def look(recipe: DataRecipe, cache: Path, *, trust: bool = True, say: Say = lambda text: None) -> Sources:
    """What stands behind a recipe's paths; without `trust` every file is read. `say` is told what takes long."""
    path, val_path = (survey(each, cache, trust=trust, say=say) for each in (recipe.path, recipe.val_path))
    return Sources(path, val_path)


def open_prepared(cache: Path, key: str, *, needs_withheld: bool = False) -> PreparedData | None:
    """What the cache holds under a key.

    Args:
        cache: its folder.
        key: the name.
        needs_withheld: whether it has to be known what is to count nothing.

    Returns:
        None when it is not there, damaged, or lacks what is needed to be known.
    """
    folder = cache / "data" / check_name(key)
    try:
        facts = read_manifest(folder).facts
        notes, withheld = facts["notes"], facts["withheld"] if needs_withheld else facts.get("withheld")
        train, val = open_store(folder / "train"), open_store(folder / "val")
        tokenizer = load_tokenizer(folder / "tokenizer")
    except (CheckpointError, DataError, TokenizerError, KeyError):
        return None
    both = f"{train.manifest.fingerprint} {val.manifest.fingerprint}"
    fingerprint = hashlib.sha256(both.encode()).hexdigest()
    return PreparedData(train, val, tokenizer, tuple(notes), fingerprint, folder.name, withheld=withheld)
