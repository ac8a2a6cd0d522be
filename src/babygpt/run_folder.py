"""What a run folder holds, read as it lies on the disk: the recipe, the lines of its files, checkpoints, rollbacks.

    RUN/recipe.yaml  metrics.jsonl  samples.jsonl  rollbacks.json  checkpoints/NAME/manifest.json

A run may be under way, or have been killed in the middle of a line: a line counts once it is whole, a checkpoint once
its manifest is there. Nothing here imports torch, so that looking at a run takes no longer than reading its files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from babygpt.errors import CheckpointError
from babygpt.files import MANIFEST, read_manifest, set_aside
from babygpt.recipe import Recipe, read_recipe
from babygpt.untrusted import is_endless

__all__ = [
    "ROLLBACKS",
    "Found",
    "GrowingLines",
    "Rollback",
    "best",
    "best_of",
    "checkpoint_at",
    "checkpoint_folders",
    "discover",
    "holds_run",
    "losses_of_sources",
    "read_rollbacks",
    "recipe_of",
    "step_in",
    "whole_lines",
]

ROLLBACKS = "rollbacks.json"
_TAIL = 1024  # bytes of a growing file that are looked at again, a few lines with their speeds


def holds_run(out: Path) -> bool:
    """Whether a folder is a run's: its recipe is there, which is written last as a run begins."""
    return (out / "recipe.yaml").is_file()


def recipe_of(out: Path) -> Recipe:
    """The recipe that a run folder holds.

    Raises:
        CheckpointError: it is no run folder.
        RecipeError: the recipe is damaged.
    """
    if not holds_run(out):
        raise CheckpointError(
            "is not a run folder: it has no recipe.yaml",
            where=str(out),
            hint="Give the folder that --out named",
        )
    return read_recipe(out / "recipe.yaml")


# -- metrics and samples -------------------------------------------------------------------------------------


def step_in(line: bytes) -> float:
    """The step of a JSON line; infinite for what is none, such as the torn last line of a killed process."""
    return _parsed(line)[0]


def _parsed(line: bytes) -> tuple[float, Any]:
    """The step of a line and its value; an infinite step and no value where it is none."""
    try:
        value = json.loads(line)
        return float(value["step"]), value
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return math.inf, None


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a `.jsonl` file of a run, one at a time; none if there is no such file.

    Raises:
        OSError: it cannot be read. ValueError: it is a pipe or a device, which may never end.
    """
    if not path.exists():
        return
    if is_endless(path):
        raise ValueError("it is no regular file")
    with path.open("rb") as file:  # as bytes: text may hold other line ends than ours
        for line in file:
            step, value = _parsed(line)
            if step < math.inf:
                yield value


class GrowingLines:
    """The whole lines of a `.jsonl` file that grows, each once; all of them again where it was cut or put anew.

    Args:
        path: of the file; it may be missing still.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset, self._tail = 0, b""

    def changes(self) -> tuple[bool, Iterator[dict[str, Any]]]:
        """Whether it begins anew, and the lines since the last call, which are to be used up before the next.

        Raises:
            OSError: it cannot be read. ValueError: it is a pipe or a device, which may never end.
        """
        if not self._path.exists():
            anew, self._offset, self._tail = self._offset > 0, 0, b""
            return anew, iter(())
        if is_endless(self._path):
            raise ValueError("it is no regular file")
        file = self._path.open("rb")
        # A run that goes on cuts its file to the checkpoint and writes on: what was read last is no longer there then.
        file.seek(max(0, self._offset - len(self._tail)))
        anew = file.read(len(self._tail)) != self._tail
        if anew:
            self._offset, self._tail = 0, b""
            file.seek(0)
        return anew, self._lines(file)

    def _lines(self, file: BinaryIO) -> Iterator[dict[str, Any]]:
        with file:
            for line in file:
                step, value = _parsed(line)
                if step == math.inf and not line.endswith(b"\n"):
                    return  # under way, or torn
                self._offset, self._tail = self._offset + len(line), (self._tail + line)[-_TAIL:]
                if step < math.inf:
                    yield value


def losses_of_sources(values: dict[str, Any]) -> dict[str, float]:
    """The validation loss of each source, by its name, from a validation's line."""
    prefix = "val_loss/"
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


# -- checkpoints ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A checkpoint on the disk, by its manifest; its other files have not been looked at.

    Args:
        path: of the folder.
        step: optimiser steps completed.
        facts: the manifest's; `val_loss` in nats a target token, or None.
    """

    path: Path
    step: int
    facts: dict[str, Any]


def discover(parent: Path) -> list[Found]:
    """Every checkpoint of a folder, the newest first; of one step, `step-*` first, then the later written.

    Links, hidden and unfinished folders are no checkpoints; one is if its replacement was interrupted, until the
    next `keep` puts it back. Only manifests are read.
    """
    aged: list[tuple[tuple[int, bool, int], Found]] = []
    for path in checkpoint_folders(parent):
        with suppress(CheckpointError, FileNotFoundError):  # a run under way may be deleting it
            found = checkpoint_at(path)
            written = (path / MANIFEST).stat().st_mtime_ns
            aged.append(((found.step, path.name.startswith("step-"), written), found))
    return [found for _, found in sorted(aged, key=lambda pair: pair[0], reverse=True)]


def best(parent: Path) -> Found | None:
    """Of the checkpoints named `babygpt-*`, the one of the least validation loss; of equals the earlier."""
    return best_of(discover(parent))


def best_of(found: Iterable[Found]) -> Found | None:
    """The same of checkpoints that have been discovered."""
    named = [f for f in found if f.path.name.startswith("babygpt-")]
    rated = [f for f in named if _is_number(f.facts.get("val_loss"))]
    return min(rated, key=lambda f: (f.facts["val_loss"], f.step), default=None)


def checkpoint_folders(parent: Path) -> Iterator[Path]:
    """The folders that may be checkpoints: no links, nothing hidden, and those whose replacement was interrupted."""
    if not parent.is_dir():
        return
    for path in sorted(parent.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield path
    yield from set_aside(parent).values()


def checkpoint_at(path: Path) -> Found:
    """The checkpoint of a folder, by its manifest.

    Raises:
        CheckpointError: the manifest is missing, damaged, or gives no step.
    """
    facts = read_manifest(path).facts
    if type(facts.get("step")) is not int or not 0 <= facts["step"] < 2**63:
        raise CheckpointError("the manifest gives no step", where=str(path))
    return Found(path, facts["step"], facts)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


# -- rollbacks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollback:
    """A decision to go back.

    Args:
        spike: the step whose loss was one.
        seen: steps completed when it was seen; their data since `to` are left out.
        to: steps completed in the checkpoint gone back to; 0 is the beginning.
    """

    spike: int
    seen: int
    to: int


def read_rollbacks(out: Path) -> list[Rollback]:
    """The rollbacks of a run folder, in order.

    Raises:
        CheckpointError: the file is not one of ours.
    """
    path = out / ROLLBACKS
    if not path.is_file():
        return []
    try:
        found = [Rollback(**{k: int(v) for k, v in entry.items()}) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"cannot be read ({error})", where=str(path)) from error
    if any(not 0 <= r.to < r.spike <= r.seen for r in found):
        raise CheckpointError("holds a rollback that is none", where=str(path))
    return found
