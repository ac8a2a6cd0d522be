"""The verb `data prepare`: text in, token stores in the cache out, and what there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from babygpt.data.arrow import TokenStore
from babygpt.data.corpus import CORPUS_NAME
from babygpt.data.exporting import export, refuse_taken
from babygpt.data.joined import parts_of
from babygpt.data.opening import settings_of
from babygpt.data.prepared import PreparedData
from babygpt.data.several import prepare_several
from babygpt.data.store import prepare
from babygpt.disk import expanded
from babygpt.errors import DataError, RecipeError
from babygpt.presets import provisional_model
from babygpt.settings import PrepareSettings
from babygpt.terminal import stays_in_place
from babygpt.units import file_size_words
from babygpt.untrusted import redacted, shown

__all__ = ["PreparationView", "PrepareResult", "Side", "prepare_data"]

_RAW: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
_SHOWN_SECONDS = 0.1


@dataclass(frozen=True)
class Side:
    """What is trained on, or validated on.

    Args:
        documents: how many.
        tokens: of all documents.
        targets: tokens that are learned.
        bytes_per_token: UTF-8 bytes of the target text for each target token.
    """

    documents: int
    tokens: int
    targets: int
    bytes_per_token: float


@dataclass(frozen=True)
class PrepareResult:
    """What was prepared, or found.

    Args:
        data: what was read.
        train: what is trained on.
        val: what is held out.
        vocabulary: entries of the tokenizer.
        size: bytes on the disk.
        key: the folder's name in the cache, which content, tokenizer and settings decide; with weights those of all
            sources, joined by `+`.
        folder: where it is; with several, the folder that they lie in.
        reused: whether it was there already.
        seconds: it took.
        notes: how it was split, what was reused and why.
        corpus: the `corpus.json` that was written, for `data.path`.
    """

    data: str
    train: Side
    val: Side
    vocabulary: int
    size: int
    key: str
    folder: str
    reused: bool
    seconds: float
    notes: tuple[str, ...]
    corpus: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        rows = [("data", self.data)]
        for name, side in (("train", self.train), ("validation", self.val)):
            counts = f"{side.tokens:,} tokens in {side.documents:,} documents"
            if side.targets < side.tokens:
                counts += f", {side.targets:,} of them targets"
            rows.append((name, f"{counts}, {side.bytes_per_token:.2f} bytes a token"))
        rows += [
            ("vocabulary", f"{self.vocabulary:,} entries"),
            ("on disk", file_size_words(self.size)),
            ("key", self.key),
            ("folder", self.folder),
            *([("corpus", self.corpus)] if self.corpus else []),
            ("time", f"{self.seconds:,.1f} s{', reused' * self.reused}"),
        ]
        return [f"{name:>12}  {value}" for name, value in rows]


def prepare_data(settings: PrepareSettings) -> PrepareResult:
    """Tokenises the data of a recipe, unless the cache has them, and says on standard error how far it is.

    Raises:
        DataError, TokenizerError, ModelError: the data or the tokenizer cannot be used, or teach nothing.
        InputError: the folder for a corpus is there already.
        SpaceError: the disk is full.
    """
    if settings.to is not None:
        refuse_taken(expanded(settings.to))
    began = time.monotonic()

    make = prepare_several if settings.data.weights else prepare
    view = PreparationView(Console(stderr=True))
    with view:
        data = make(
            settings.data,
            model_name=provisional_model(settings.model.name),
            revision=settings.model.revision,
            progress=view,
            say=view.say,
        )
    if not data.train.manifest.num_targets:
        raise DataError(
            "no token of the training data is a target",
            where=redacted(", ".join(settings.data.path)),
            hint="babygpt data inspect shows why",
        )
    corpus = _export(settings, data, view.say) if settings.to is not None else None
    return replace(_result(settings, data, time.monotonic() - began), corpus=corpus)


def _export(settings: PrepareSettings, data: PreparedData, say: Callable[[str], None]) -> str:
    """Writes the corpus; returns the path of its `corpus.json`."""
    assert settings.to is not None
    if data.sources is not None and data.sources.path.listings[0].kind == "corpus":
        raise RecipeError(
            f"{redacted(settings.data.path[0])} is a corpus already",
            where="to",
            hint="Copy its folder instead",
        )
    target = expanded(settings.to)
    say(f"writing the corpus to {target}")
    made = export(data.folder, target, settings_of(settings.data), data.fingerprint)
    if made.name != target.absolute().name:
        say(f"another process made {target} meanwhile; this corpus is in {made.name} beside it")
    return str(target.with_name(made.name) / CORPUS_NAME)


def _result(settings: PrepareSettings, data: PreparedData, seconds: float) -> PrepareResult:
    folders = {part.folder.parent for part in parts_of(data.train)}
    files = (file for folder in folders for file in folder.rglob("*"))
    return PrepareResult(
        data=redacted(", ".join(settings.data.path)),
        train=_side(data.train),
        val=_side(data.val),
        vocabulary=len(data.tokenizer),
        size=sum(file.stat().st_size for file in files if file.is_file()),
        key=data.key,
        folder=str(data.folder if len(folders) == 1 else data.folder.parent),
        reused=data.reused,
        seconds=round(seconds, 3),
        notes=data.notes,
    )


def _side(store: TokenStore) -> Side:
    found = store.manifest
    return Side(found.num_documents, found.num_tokens, found.num_targets, found.bytes_per_target)


class PreparationView:
    """Shows how far reading and tokenising have come: a bar on a terminal, a line a stage elsewhere.

    Args:
        console: where it goes.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._stage = ""
        self._shown_at = 0.0

    def __enter__(self) -> PreparationView:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """So many documents of so many (0: not known) are through a stage."""
        if stage != self._stage:
            self._close()
            self._stage, self._shown_at = stage, 0.0
            if stays_in_place(self._console):
                columns = (TextColumn("data: {task.description}"), BarColumn(), MofNCompleteColumn())
                self._bar = Progress(*columns, console=self._console, transient=True)
                self._task = self._bar.add_task(stage, total=total or None)
                self._bar.start()
            else:
                self._console.print(f"data: {stage}", **_RAW)
        if self._bar is None:
            return
        # There may be millions, and each update takes longer than reading a short document.
        now = time.monotonic()
        if now - self._shown_at >= _SHOWN_SECONDS or done == total:
            self._shown_at = now
            self._bar.update(self._task, completed=done, total=total or None)
        if total and done >= total:
            self._close()

    def say(self, text: str) -> None:
        """Tells what was found or decided, above a bar that is there."""
        self._console.print(shown(f"data: {text}"), **_RAW)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
