"""A data recipe to two token stores, training and validation, built once and kept in a cache.

1. Read every document once for the hash of its content, and split by it.
2. Load the tokenizer, or train one on the training documents; it has to give text back as it was.
3. Read again, encode, and write both stores.
4. Publish the folder whole under a name that its content decides: the same files with the same settings,
   lie, are never tokenised twice, and two processes at once cannot disturb each other.

    CACHE/data/KEY/   train/  val/  tokenizer/  manifest.json

Finding a store reads no text that was read before (`digests`). Building one trusts no memory: every file is
read again for the name, and looked at once more at the end, so that no store holds what its name does not say.

Memory: one batch of text with its encodings, 16 bytes a document, and the largest text file, held whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from babygpt.data import duplicates
from babygpt.data.arrow import FORMAT_VERSION, StoreManifest, StoreWriter, TokenStore, open_store
from babygpt.data.cache import clear_leftovers, default_cache, publishing
from babygpt.data.encoding import encode
from babygpt.data.excerpts import SAMPLE_BYTES, SAMPLING, excerpts
from babygpt.data.identity import Survey, changed_meanwhile, survey
from babygpt.data.oddities import text_of
from babygpt.data.sources import Document, check_field, content_hash, read_documents
from babygpt.data.split import MIN_DOCUMENTS, choose, copy_split
from babygpt.data.tokenizers import (
    check_round_trip,
    load_tokenizer,
    tokenizer_identity,
    tokenizer_source,
    train_tokenizer,
    vocabulary_size,
)
from babygpt.errors import CheckpointError, DataError, TokenizerError
from babygpt.files import check_name, publish_folder, read_manifest, remove_folder
from babygpt.recipe import DataRecipe
from babygpt.tokenizer_names import TrainedTokenizer

__all__ = [
    "PreparedData",
    "Progress",
    "Sources",
    "StoreManifest",
    "TokenStore",
    "TrainingText",
    "default_cache",
    "look",
    "open_prepared",
    "open_store",
    "prepare",
    "text_to_train_on",
]

Progress = Callable[[str, int, int], None]

_PROBED_DOCUMENTS, _PROBED_CHARS = 64, 2000  # of text a tokenizer has to give back, at most


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
    """

    train: TokenStore
    val: TokenStore
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...]
    fingerprint: str
    key: str
    sources: Sources | None = None

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
    def taken_on_trust(self) -> int:
        """Files that were not read, because they were read before and not touched since."""
        return self.path.taken_on_trust + self.val_path.taken_on_trust


@dataclass(frozen=True)
class TrainingText:
    """What a tokenizer may be trained on.

    Attributes:
        total: UTF-8 bytes of the documents that are not held out.
        readable: of these, from the first on, that may be read.
        texts: one a document; to be read once.
        has_chats: whether there are conversations.
    """

    total: int
    readable: int
    texts: Iterator[str]
    has_chats: bool


def prepare(
    recipe: DataRecipe,
    *,
    model_name: str,
    revision: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    prepared_as: str | None = None,
) -> PreparedData:
    """Build the stores, or find them in the cache. Safe for several processes at once.

    Args:
        recipe: paths, field, split and tokenizer; block, packing and batch size do not matter here.
        model_name: whose tokenizer `auto` means; for `preset:NAME` one is trained, as large as the preset's
            vocabulary.
        revision: of a hub model.
        cache: folder of the cache; `default_cache()` if None.
        progress: called with (stage, documents done, documents in all or 0).
        prepared_as: the key of a store to take, if it is in the cache, without looking at the paths: that of a
            run that goes on.

    Raises:
        DataError: something is missing, malformed or too short, or changes while it is read.
        TokenizerError, ModelError: the tokenizer is missing or unfit.
        SpaceError: the disk is full.
    """
    home = cache or default_cache()
    parent = home / "data"
    clear_leftovers(parent)
    if prepared_as is not None and (known := open_prepared(home, prepared_as)) is not None:
        return known
    check_field(recipe.field, [*recipe.path, *recipe.val_path])
    source = tokenizer_source(recipe.tokenizer, model_name)
    tokenizer = None
    if isinstance(source, str):
        tokenizer = load_tokenizer(source, revision=revision if recipe.tokenizer == "auto" else None)
    sources = look(recipe, home)
    key = _key(recipe, sources, source, tokenizer)
    if (reused := _open(parent / key, reused=True)) is not None:
        return _told(reused, sources)
    if sources.taken_on_trust:
        sources = look(recipe, home, trust=False)
        key = _key(recipe, sources, source, tokenizer)
    builder = _Builder(recipe, sources, source, tokenizer, progress or (lambda stage, done, total: None))
    folder = parent / key
    damaged = folder.exists()  # and could not be opened
    with publishing(parent):
        path = publish_folder(parent, key, builder.fill, builder.facts, replace=damaged)
    if path != folder and (theirs := _open(folder)) is not None:
        remove_folder(path)  # another process was first
        return _told(theirs, sources)
    built = _open(path)
    assert built is not None
    return _told(built, sources)


def _told(data: PreparedData, sources: Sources) -> PreparedData:
    """With what stood behind the paths, and what is to be said of it first."""
    notes = (*sources.path.notes, *sources.val_path.notes, *data.notes)
    return replace(data, sources=sources, notes=notes)


def open_prepared(cache: Path, key: str) -> PreparedData | None:
    """What the cache holds under a key; None where that is nothing, or damaged."""
    return _open(cache / "data" / check_name(key))


def text_to_train_on(recipe: DataRecipe, sources: Sources, progress: Progress) -> TrainingText:
    """The documents that are not held out, for a tokenizer to be trained on."""
    return _Builder(recipe, sources, recipe.tokenizer, None, progress).training_text()


def look(recipe: DataRecipe, cache: Path, *, trust: bool = True) -> Sources:
    """What stands behind a recipe's paths; without `trust` every file is read."""
    return Sources(survey(recipe.path, cache, trust=trust), survey(recipe.val_path, cache, trust=trust))


def _open(folder: Path, *, reused: bool = False) -> PreparedData | None:
    """The prepared data of a cached folder; None when it is not there or damaged."""
    try:
        notes = read_manifest(folder).facts["notes"]
        train, val = open_store(folder / "train"), open_store(folder / "val")
        tokenizer = load_tokenizer(folder / "tokenizer")
    except (CheckpointError, DataError, TokenizerError, KeyError):
        return None
    if reused:
        notes = [*notes, f"tokenised data reused from {folder}"]
    both = f"{train.manifest.fingerprint} {val.manifest.fingerprint}"
    fingerprint = hashlib.sha256(both.encode()).hexdigest()
    return PreparedData(train, val, tokenizer, tuple(notes), fingerprint, folder.name)


def _key(
    recipe: DataRecipe,
    sources: Sources,
    source: str | TrainedTokenizer,
    tokenizer: PreTrainedTokenizerBase | None,
) -> str:
    if isinstance(source, TrainedTokenizer):
        which = f"train:{source.kind}:{source.vocab_size}:{SAMPLING}:{version('tokenizers')}"
    else:
        assert tokenizer is not None
        which = tokenizer_identity(tokenizer)
    held_out = sources.val_path.identity if recipe.val_path else recipe.val_fraction
    less = duplicates.identity_of(recipe.deduplicate)
    parts = [
        FORMAT_VERSION,
        sources.path.identity,
        recipe.field,
        held_out,
        which,
        recipe.train_on_prompts,
        *less,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class _Builder:
    """One build: `fill` writes a folder and leaves in `facts` what is to be told about it."""

    def __init__(
        self,
        recipe: DataRecipe,
        sources: Sources,
        source: str | TrainedTokenizer,
        tokenizer: PreTrainedTokenizerBase | None,
        progress: Progress,
    ) -> None:
        self._recipe = replace(recipe, path=sources.path.paths, val_path=sources.val_path.paths)
        self._sources, self._source = sources, source
        self._tokenizer, self._progress = tokenizer, progress
        self._notes: list[str] = []
        self._has_chats = False
        self._encode = partial(encode, train_on_prompts=recipe.train_on_prompts)
        self._left_out = np.zeros(0, dtype=np.bool_)  # documents that are passed over when reading
        self.facts: dict[str, list[str]] = {"notes": self._notes}

    def fill(self, folder: Path) -> None:
        """Write train/, val/ and tokenizer/ into an empty folder."""
        hashes, num_bytes, is_val, in_tail = self._choose()
        tokenizer = self._tokenizer or self._train_tokenizer(is_val, num_bytes, in_tail)
        check_round_trip(tokenizer, self._first_texts())
        tokenizer.save_pretrained(folder / "tokenizer")
        self._write(folder, tokenizer, hashes, is_val, in_tail)
        file = changed_meanwhile((*self._sources.path.listings, *self._sources.val_path.listings))
        if file is not None:
            raise _changed(file)

    def _first_texts(self) -> Iterator[str]:
        """The beginnings of the first documents: what the tokenizer has to give back."""
        for document in islice(
            read_documents(self._recipe.path, field=self._recipe.field), _PROBED_DOCUMENTS
        ):
            yield text_of(document)[:_PROBED_CHARS]

    def _documents(self, stage: str, total: int) -> Iterator[Document]:
        say = self._notes.append if stage == "reading" else None
        documents = read_documents(self._recipe.path, field=self._recipe.field, say=say)
        for number, document in enumerate(documents):
            if number < len(self._left_out) and self._left_out[number]:
                continue
            yield document
            self._progress(stage, number + 1, total)

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        """Content hash (uint64) and UTF-8 bytes (int64) of each document."""
        hashes, sizes = array("Q"), array("q")
        for document in self._documents("reading", 0):
            hashes.append(content_hash(document))
            sizes.append(len(text_of(document).encode()))
            self._has_chats |= document.messages is not None
        return np.frombuffer(hashes, dtype=np.uint64), np.frombuffer(sizes, dtype=np.int64)

    def _choose(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        """Content hashes, bytes and whether held out of the documents that are taken, and whether the tail is."""
        hashes, num_bytes = self._scan()
        is_val, in_tail = self._hold_out(hashes)
        texts = map(text_of, self._documents("comparing", len(hashes)))
        self._left_out, note = duplicates.choose(self._recipe.deduplicate, hashes, is_val, texts)
        self._notes.append(note)
        taken = ~self._left_out
        return hashes[taken], num_bytes[taken], is_val[taken], in_tail

    def _hold_out(self, hashes: np.ndarray) -> tuple[np.ndarray, bool]:
        """Which documents are held out, bool [documents], and whether the tail of the tokens is instead."""
        fraction = self._recipe.val_fraction
        none = np.zeros(len(hashes), dtype=np.bool_)
        if self._recipe.val_path:
            return none, False
        distinct = len(np.unique(hashes))
        if distinct >= MIN_DOCUMENTS:
            is_val = choose(hashes, fraction)
            self._notes.append(
                f"validation: {is_val.sum()} of {len(hashes)} documents, chosen by their content"
            )
            return is_val, False
        self._notes.append(
            f"validation: the last {fraction:.0%} of the tokens, because there {'is' if distinct == 1 else 'are'} only"
            f" {distinct} different document{'s' * (distinct > 1)} (from {MIN_DOCUMENTS} on, whole documents are held"
            " out)"
        )
        return none, True

    def training_text(self) -> TrainingText:
        """The documents that are not held out."""
        _, num_bytes, is_val, in_tail = self._choose()
        return self._training_text(num_bytes, is_val, in_tail)

    def _training_text(self, num_bytes: np.ndarray, is_val: np.ndarray, in_tail: bool) -> TrainingText:
        total = int(num_bytes[~is_val].sum())
        # Where the tail of the tokens is held out, its first byte is not known before there are tokens: stay
        # well away.
        readable = int(total * (1 - self._recipe.val_fraction) ** 2) if in_tail else total
        documents = zip(self._documents("sampling", len(is_val)), is_val, strict=False)
        texts = (text_of(d) for d, held_out in documents if not held_out)
        return TrainingText(total, readable, texts, self._has_chats)

    def _train_tokenizer(
        self, is_val: np.ndarray, num_bytes: np.ndarray, in_tail: bool
    ) -> PreTrainedTokenizerBase:
        text = self._training_text(num_bytes, is_val, in_tail)
        assert isinstance(self._source, TrainedTokenizer)
        sample = excerpts(text.texts, text.readable)
        kind, size = self._source.kind, self._source.vocab_size
        tokenizer = train_tokenizer(sample, size, kind=kind, chat=text.has_chats)
        share = f"{min(SAMPLE_BYTES, text.readable) / 1e6:.1f} MB of "
        share *= text.readable > SAMPLE_BYTES or in_tail
        self._notes.append(
            f"tokenizer: {len(tokenizer)} entries from {share}the {text.total / 1e6:.1f} MB of training text"
            f"{', with ChatML as its template for conversations' if text.has_chats else ''}"
        )
        return tokenizer

    def _write(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        hashes: np.ndarray,
        is_val: np.ndarray,
        in_tail: bool,
    ) -> None:
        eos = tokenizer.eos_token_id
        which = tokenizer_identity(tokenizer)
        size = vocabulary_size(tokenizer)

        def writer(name: str) -> StoreWriter:
            return StoreWriter(
                folder / name,
                vocab_size=size,
                eos_id=eos if isinstance(eos, int) else -1,
                tokenizer_identity=which,
            )

        documents = self._documents("encoding", len(hashes))
        if in_tail:
            sizes = array("q")
            with writer("whole") as whole:
                for encoded in self._encode(documents, tokenizer):
                    whole.add(encoded.ids, encoded.is_target, encoded.num_bytes)
                    sizes.append(encoded.num_bytes)
            with writer("train") as train, writer("val") as val:
                store = open_store(folder / "whole")
                copy_split(store, sizes, self._recipe.val_fraction, train, val, tokenizer)
            del store
            shutil.rmtree(folder / "whole")
            return
        with writer("train") as train, writer("val") as val:
            for number, encoded in enumerate(self._encode(documents, tokenizer)):
                if number >= len(hashes) or encoded.content_hash != int(hashes[number]):
                    raise _changed(", ".join(self._recipe.path))
                target = val if is_val[number] else train
                target.add(encoded.ids, encoded.is_target, encoded.num_bytes)
            if self._recipe.val_path:
                self._write_given_validation(val, tokenizer, hashes)

    def _write_given_validation(
        self, val: StoreWriter, tokenizer: PreTrainedTokenizerBase, hashes: np.ndarray
    ) -> None:
        documents = read_documents(self._recipe.val_path, field=self._recipe.field, say=self._notes.append)
        trained_on = np.unique(hashes)
        shared = 0
        for encoded in self._encode(documents, tokenizer):
            wanted = np.uint64(encoded.content_hash)
            at = int(np.searchsorted(trained_on, wanted))
            shared += at < len(trained_on) and trained_on[at] == wanted
            val.add(encoded.ids, encoded.is_target, encoded.num_bytes)
        self._notes.append(
            f"validation: the {val.num_documents} documents of data.val_path;"
            f" {shared or 'none'} of them also {'stands' if shared == 1 else 'stand'} in the training data"
        )


def _changed(where: str) -> DataError:
    return DataError("the data changed while it was read", where=where, hint="Start again when it is written")
