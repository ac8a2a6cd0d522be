"""A run folder to what there is to say of it, whatever state it is in.

Only its recipe has to be whole. What else is missing or damaged, as in a run that is under way or was killed, is left
out, and said in `notes`. Nothing is written, and no weights are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from babygpt.data.cache import default_cache
from babygpt.errors import CheckpointError, InputError
from babygpt.files import check_name, read_manifest
from babygpt.recipe import Recipe
from babygpt.report.curves import Curves
from babygpt.report.metrics import Metrics
from babygpt.run_folder import (
    Found,
    Rollback,
    best_of,
    discover,
    read_rollbacks,
    recipe_of,
    whole_lines,
)
from babygpt.training.alive import is_at_work
from babygpt.untrusted import read_json

if TYPE_CHECKING:
    from babygpt.health import Finding

__all__ = ["RunView", "Sample", "SourceFiles", "Stored", "read_run"]

T = TypeVar("T")

_MOST_SAMPLES = 40
_MOST_LETTERS = 4000  # of a sample
_MOST_STORES = 50
METRICS, _DATA, _MACHINE = "metrics.jsonl", "data.json", "machine.json"
_DAMAGED = (
    OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
_LARGEST = 200_000_000  # bytes of data.json: a line for each of a million files


@dataclass(frozen=True)
class Sample:
    """What the model wrote.

    Attributes:
        step: completed by then.
        prompt, text: what it was given and what it wrote; cut where they are very long.
    """

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class SourceFiles:
    """What stood behind one path of the recipe.

    Attributes:
        path: as given.
        kind: such as `files`, `hub` or `builtin`.
        files: how many.
        bytes: of them together.
    """

    path: str
    kind: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Stored:
    """The data of a run as `data.json` and the cache know them.

    Attributes:
        key: of the token store in the cache; several, joined by `+`, of a mixture.
        fingerprint: of the tokens.
        train, val: documents and tokens of each side; None in a run that did not write them down.
        sources: behind `path` and `val_path`.
        notes: what was said of the data when they were prepared; empty where the store is not in this cache.
        is_here: whether the store is in this computer's cache.
    """

    key: str
    fingerprint: str
    train: tuple[int, int] | None
    val: tuple[int, int] | None
    sources: tuple[SourceFiles, ...]
    notes: tuple[str, ...]
    is_here: bool


@dataclass(frozen=True)
class RunView:
    """A run as its folder shows it.

    Attributes:
        path: of the folder.
        recipe: of the run.
        curves: what it measured.
        findings: what is not well, by its curves; the worst first.
        samples: in their order; every n-th of very many, and always the first and the last.
        sampled: how many there were.
        machine: the content of `machine.json`; empty if there is none.
        data: what it was trained on; None in a run that has not remembered it.
        checkpoints: those on the disk, the newest first.
        best: of them the one of the least validation loss.
        rollbacks: in their order.
        is_at_work: whether a process trains in it.
        notes: what could not be read.
    """

    path: Path
    recipe: Recipe
    curves: Curves
    findings: tuple[Finding, ...]
    samples: tuple[Sample, ...]
    sampled: int
    machine: dict[str, Any]
    data: Stored | None
    checkpoints: tuple[Found, ...]
    best: Found | None
    rollbacks: tuple[Rollback, ...]
    is_at_work: bool
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name or str(self.path)

    @property
    def state(self) -> str:
        """How far it has come, in words."""
        planned = self.recipe.budget.steps
        if planned is not None and self.curves.steps >= planned:
            return "finished"
        if self.is_at_work:
            return "under way"
        return "stopped" if self.curves.steps else "not begun"


def read_run(
    path: Path, points: int, recipe: Recipe | None = None, metrics: Metrics | None = None
) -> RunView:
    """Reads a run folder.

    Args:
        path: of the folder.
        points: of each curve, at most.
        recipe: of the run, if it was read already.
        metrics: of a run that was read before, to go on with.

    Raises:
        CheckpointError: it is no run folder.
        RecipeError: its recipe is damaged.
    """
    recipe = recipe or recipe_of(path)
    notes: list[str] = []

    def tried(name: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except InputError as error:
            notes.append(f"{name}: {error.what}")
        except FileNotFoundError:
            notes.append(f"{name}: is missing")
        except _DAMAGED as error:
            notes.append(f"{name}: cannot be read ({type(error).__name__})")
        return otherwise

    none: tuple[tuple[Sample, ...], int] = ((), 0)
    samples, sampled = tried("samples.jsonl", lambda: _samples(whole_lines(path / "samples.jsonl")), none)
    none_found: list[Found] = []
    checkpoints = tried("checkpoints", lambda: discover(path / "checkpoints"), none_found)
    if metrics is None:
        metrics = Metrics(path / METRICS, points, recipe.budget.steps)
    tried(METRICS, metrics.read, None)
    return RunView(
        path=path,
        recipe=recipe,
        curves=metrics.curves,
        findings=metrics.findings,
        samples=samples,
        sampled=sampled,
        machine=tried(_MACHINE, lambda: dict(read_json(path / _MACHINE)), {}),
        data=tried(_DATA, lambda: _stored(path / _DATA), None),
        checkpoints=tuple(checkpoints),
        best=best_of(checkpoints),
        rollbacks=tuple(tried("rollbacks.json", lambda: read_rollbacks(path), [])),
        is_at_work=is_at_work(path),
        notes=tuple(notes),
    )


# -- samples -------------------------------------------------------------------------------------------------


def _samples(lines: Iterable[dict[str, Any]]) -> tuple[tuple[Sample, ...], int]:
    """Every n-th sample, the first and the last, and how many there are."""
    kept: list[Sample] = []
    last: Sample | None = None
    every, count = 1, 0
    for line in lines:
        last = Sample(int(line["step"]), *(str(line.get(n, ""))[:_MOST_LETTERS] for n in ("prompt", "text")))
        if count % every == 0:
            kept.append(last)
            if len(kept) > _MOST_SAMPLES:
                kept, every = kept[::2], 2 * every
        count += 1
    if last is not None and kept[-1] != last:
        kept.append(last)
    return tuple(kept), count


# -- data ----------------------------------------------------------------------------------------------------


def _stored(path: Path) -> Stored:
    value = read_json(path, _LARGEST)
    key = str(value["store"])
    sources = tuple(_source(place) for side in ("path", "val_path") for place in value[side])
    notes, is_here = _notes_of(key)
    return Stored(
        key=key,
        fingerprint=str(value["fingerprint"]),
        train=_counts(value.get("train")),
        val=_counts(value.get("val")),
        sources=sources,
        notes=notes,
        is_here=is_here,
    )


def _source(place: dict[str, Any]) -> SourceFiles:
    files = place["files"]
    return SourceFiles(
        str(place["path"]), str(place["kind"]), len(files), sum(_count(size) for _, size, *_ in files)
    )


def _counts(value: Any) -> tuple[int, int] | None:
    return None if value is None else (_count(value["documents"]), _count(value["tokens"]))


def _count(value: Any) -> int:
    count = int(value)
    if not 0 <= count < 2**63:
        raise ValueError("a number in it is none that could be counted")
    return count


def _notes_of(key: str) -> tuple[tuple[str, ...], bool]:
    """What the cache's manifests say of the stores, and whether all of them are there."""
    notes: list[str] = []
    keys = key.split("+")
    try:
        cache = default_cache()
    except InputError:  # this user has none
        return (), False
    for number, one in enumerate(keys[:_MOST_STORES], 1):
        try:
            said = read_manifest(cache / "data" / check_name(one)).facts.get("notes", [])
        except CheckpointError:
            return (), False
        source = f"source {number}: " if len(keys) > 1 else ""
        notes += [f"{source}{note}" for note in said]
    return tuple(notes), True
