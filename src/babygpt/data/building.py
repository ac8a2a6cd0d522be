"""Builds the two stores of a data recipe, and goes on where a killed process stopped.

1. Read every document for the hash of its content, split by it, and choose the duplicates that are left out.
2. Train the tokenizer on the training documents, unless one was given; it has to give text back as it was.
3. Read again, encode, and append to both stores; after every 4 million tokens wait for the disk and write down
   how far both are.
4. End both stores. With too few documents to hold some out, all went into one that is cut in two here.

The work folder (`work`) belongs to one key, which the content of the files decides, so that tokens of a changed
file never mix with those of the old one. A start over a half-done build reads documents again (step 1, and up to
where it goes on) and encodes none twice but those behind the last position.

Memory: one batch of text with its encodings, one record batch a store, and the largest text file, held whole.
Of a document 8 bytes are kept while they are read first (`choosing`), and a quarter of one while they are encoded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from babygpt.data.arrow import DATA_NAME, open_store
from babygpt.data.choosing import Chosen, Progress, choose_documents
from babygpt.data.excerpts import SAMPLE_BYTES, excerpts
from babygpt.data.heap import give_back
from babygpt.data.prompts import check_prompts
from babygpt.data.reading import Origin, taken
from babygpt.data.split import copy_split
from babygpt.data.tokenizers import (
    check_round_trip,
    load_tokenizer,
    tokenizer_identity,
    train_tokenizer,
    vocabulary_size,
)
from babygpt.data.work import Done, begin, keep_tokenizer, kept_hashes
from babygpt.data.writing import StoreWriter, dtype_of
from babygpt.disk import ensure_space
from babygpt.errors import DataError
from babygpt.recipe import DataRecipe
from babygpt.tokenizer_names import TrainedTokenizer
from babygpt.units import file_size_words

__all__ = ["Builder", "TrainingText", "changed"]

_COMMIT_TOKENS = 4 << 20  # what a killed process loses at most: seconds of work
_PROBED_DOCUMENTS, _PROBED_CHARS = 64, 2000  # of text a tokenizer has to give back, at most


@dataclass(frozen=True)
class TrainingText:
    """What a tokenizer may be trained on.

    Attributes:
        total: UTF-8 bytes of the documents that are not held out.
        readable: of these, from the first on, that may be read.
        texts: one a document; to be read once.
        has_chats: whether conversations are among the data.
    """

    total: int
    readable: int
    texts: Iterator[str]
    has_chats: bool


class Builder:
    """One build.

    Args:
        recipe: paths, field and split.
        origin: what reads the paths.
        wanted: the tokenizer to train, where none is given.
        tokenizer: the one to encode with; None trains one.
        progress: called with (stage, documents done, documents in all or 0).
        say: told each note as it arises.

    Attributes:
        notes: sentences about the data, the same however often the build was interrupted.
        withheld: what of the training data is to count nothing whatever prompts count, as `choosing.Chosen` says it.
        went_on_from: documents that an interrupted build had encoded.
    """

    def __init__(
        self,
        recipe: DataRecipe,
        origin: Origin,
        wanted: TrainedTokenizer | None,
        tokenizer: PreTrainedTokenizerBase | None,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self._recipe, self._origin, self._wanted = recipe, origin, wanted
        self._tokenizer, self._progress, self._say = tokenizer, progress, say
        self.notes: list[str] = []
        self.withheld = ""
        self.went_on_from = 0

    def build(self, work: Path) -> Path:
        """Fills a work folder, empty or left by a killed process; returns the folder to be published.

        Raises:
            DataError, TokenizerError: the data or the tokenizer are unfit.
            RecipeError: prompts would count that cannot be told from what is to count nothing.
            SpaceError: the disk has too little room.
        """
        done = begin(work, _COMMIT_TOKENS)
        chosen = self._choose(work)
        self.withheld = chosen.withheld
        check_prompts(self._recipe, chosen.train_masked, chosen.withheld)  # before anything is encoded
        give_back()
        probe = [
            text[:_PROBED_CHARS] for text in islice(self._origin.texts(self._recipe.path), _PROBED_DOCUMENTS)
        ]
        tokenizer = self._ready_tokenizer(work, chosen, probe)
        predicted = _predict(tokenizer, chosen, probe)
        there = sum(position.size for position in done.stores.values())
        copies = 2 if chosen.in_tail else 1
        ensure_space(work, max(0, copies * predicted - there), "the tokenised data")
        self._say(f"on disk: about {file_size_words(predicted)} expected, in {work.parent}")
        if done.documents:
            self.went_on_from = done.documents
            self._say(f"going on after the {done.documents:,} documents that were encoded before")
        self._write(work, tokenizer, chosen, done)
        store = work / "store"
        size = sum((store / side / DATA_NAME).stat().st_size for side in ("train", "val"))
        self._note(f"on disk: {file_size_words(size)}; {file_size_words(predicted)} were expected")
        return store

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._say(text)

    def _choose(self, work: Path) -> Chosen:
        return choose_documents(self._recipe, self._origin, self._progress, self._note, work)

    # -- the tokenizer -------------------------------------------------------------------------------------------

    def _ready_tokenizer(self, work: Path, chosen: Chosen, probe: list[str]) -> PreTrainedTokenizerBase:
        """The tokenizer, trained unless a killed process did, and kept at once."""
        folder = work / "store" / "tokenizer"
        tokenizer = self._tokenizer
        if tokenizer is not None:
            check_round_trip(tokenizer, probe)
            if not folder.exists():
                keep_tokenizer(tokenizer, folder)
            return tokenizer
        text = self._text_to_train_on(chosen)
        if not folder.exists():
            assert self._wanted is not None
            sample, (kind, size) = excerpts(text.texts, text.readable), astuple(self._wanted)
            trained = train_tokenizer(sample, size, kind=kind, chat=text.has_chats)
            check_round_trip(trained, probe)
            keep_tokenizer(trained, folder)
        tokenizer = load_tokenizer(folder)
        some = text.readable > SAMPLE_BYTES or chosen.in_tail
        share = f"{file_size_words(min(SAMPLE_BYTES, text.readable))} of " if some else ""
        self._note(
            f"tokenizer: {len(tokenizer)} entries from {share}the {file_size_words(text.total)} of training text"
            f"{', with ChatML as its template for conversations' if text.has_chats else ''}"
        )
        return tokenizer

    def text_to_train_on(self, work: Path) -> TrainingText:
        """The documents that are not held out; a folder for what is known of them meanwhile."""
        return self._text_to_train_on(self._choose(work))

    def _text_to_train_on(self, chosen: Chosen) -> TrainingText:
        total = chosen.train_size
        # Where the tail of the tokens is held out, its first byte is not known before there are tokens: stay
        # well away.
        readable = int(total * (1 - self._recipe.val_fraction) ** 2) if chosen.in_tail else total

        def texts() -> Iterator[str]:
            every = taken(self._origin.texts(self._recipe.path), chosen.left_out)
            for number, (text, held_out) in enumerate(zip(every, chosen.is_val, strict=False), 1):
                if not held_out:
                    yield text
                self._progress("sampling", number, len(chosen.is_val))

        return TrainingText(total, readable, texts(), chosen.has_chats)

    # -- the stores ----------------------------------------------------------------------------------------------

    def _write(self, work: Path, tokenizer: PreTrainedTokenizerBase, chosen: Chosen, done: Done) -> None:
        eos, store = tokenizer.eos_token_id, work / "store"
        vocabulary, identity = vocabulary_size(tokenizer), tokenizer_identity(tokenizer)

        def writer(folder: Path, masked: bool) -> StoreWriter:
            return StoreWriter(
                folder,
                vocab_size=vocabulary,
                eos_id=eos if isinstance(eos, int) else -1,
                tokenizer_identity=identity,
                masked=masked,
                begin_at=done.stores.get(folder.name),
            )

        if not chosen.in_tail:
            with (
                writer(store / "train", chosen.train_masked) as train,
                writer(store / "val", chosen.val_masked) as val,
            ):
                self._encode(work, tokenizer, chosen, done, {"train": train, "val": val})
            return
        masked = chosen.train_masked
        with writer(work / "whole", masked) as whole:
            self._encode(work, tokenizer, chosen, done, {"whole": whole})
        for side in ("train", "val"):  # what a process left that was killed while it cut
            shutil.rmtree(store / side, ignore_errors=True)
        with writer(store / "train", masked) as train, writer(store / "val", masked) as val:
            fraction = self._recipe.val_fraction
            sizes = map(done.bytes_of.__getitem__, kept_hashes(work, 0))
            copy_split(open_store(work / "whole"), sizes, fraction, train, val, tokenizer)

    def _encode(
        self,
        work: Path,
        tokenizer: PreTrainedTokenizerBase,
        chosen: Chosen,
        done: Done,
        writers: dict[str, StoreWriter],
    ) -> None:
        paths = (*self._recipe.path, *self._recipe.val_path)
        total, since = chosen.count, 0
        hashes = kept_hashes(work, done.documents)

        def commit() -> None:
            done.stores = {name: each.commit() for name, each in writers.items()}
            done.write(work)
            give_back()

        commit()
        encoded = self._origin.encoded(paths, tokenizer, chosen.left_out, done.documents)
        for number, document in enumerate(encoded, done.documents):
            if document.content_hash != next(hashes, None):
                raise changed(", ".join(paths))
            if chosen.in_tail:
                writer = writers["whole"]
                done.bytes_of[document.content_hash] = document.num_bytes
            else:
                writer = writers["val" if chosen.is_val[number] else "train"]
            writer.add(document.ids, document.is_target, document.num_bytes)
            done.documents = number + 1
            since += len(document.ids)
            if since >= _COMMIT_TOKENS:
                commit()
                since = 0
            self._progress("encoding", number + 1, total)
        if done.documents != total:
            raise changed(", ".join(paths))
        commit()


def _predict(tokenizer: PreTrainedTokenizerBase, chosen: Chosen, probe: list[str]) -> int:
    """Bytes that the stores will take, from how many tokens the first texts come to."""
    tokens = float(chosen.size)
    if probe:
        probed = sum(len(ids) for ids in tokenizer(probe, add_special_tokens=False)["input_ids"])
        tokens *= probed / max(1, sum(len(text.encode()) for text in probe))
    masked = chosen.train_masked or chosen.val_masked
    each = dtype_of(vocabulary_size(tokenizer)).itemsize + masked
    return int((tokens + chosen.count) * each + 4 * chosen.count)


def changed(where: str) -> DataError:
    """What is raised where two readings of the same data differ."""
    return DataError("the data changed while it was read", where=where, hint="Start again when it is written")
