"""Weights of a mixture that change where a run goes on: written into its folder, so that it can be gone through again.

    RUN/weights.json   [{"step": of the data's order, "weights": [...]}, ...] in the order they were asked for

recipe.yaml keeps the weights that the run began with. Each entry holds from its step on, whatever was to hold from
there before; a run that goes on from an earlier checkpoint meets the changes that lie ahead of it where they were made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from babygpt.data.mixture import Stretch, in_words, shares_of, stretches_of
from babygpt.data.several import names_of
from babygpt.errors import CheckpointError, RecipeError
from babygpt.files import write_json_atomic
from babygpt.recipe import DataRecipe

__all__ = ["change_weights", "check_weights", "read_changes", "refuse_change"]

_FILE = "weights.json"


def read_changes(out: Path) -> list[Stretch]:
    """The changes of a run folder, in the order they were asked for.

    Raises:
        CheckpointError: the file is not one of ours.
    """
    path = out / _FILE
    if not path.is_file():
        return []
    try:
        return [_change(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"cannot be read ({error})", where=str(path)) from error


def _change(entry: Any) -> Stretch:
    step, weights = entry["step"], tuple(map(float, entry["weights"]))
    if type(step) is not int or step < 0:
        raise ValueError(f"{step!r} is not a step")
    if not any(weights) or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"{weights} are not weights")
    return Stretch(step, weights)


def _is_change(out: Path, recipe: DataRecipe, asked: Sequence[float], step: int) -> bool:
    """Whether other weights hold from a step on than are asked for; arguments as of `change_weights`."""
    changes = read_changes(out)
    now = stretches_of(recipe.weights, [*changes, Stretch(step, tuple(asked))])
    return now != stretches_of(recipe.weights, changes)


def change_weights(
    out: Path, recipe: DataRecipe, asked: Sequence[float], step: int, say: Callable[[str], None]
) -> None:
    """Lets other weights hold from a step on, and writes it down; nothing where they hold there already.

    Args:
        out: the run folder.
        recipe: the run's.
        asked: a number a source.
        step: of the data's order: that of the next step.
        say: tells the user.
    """
    if not _is_change(out, recipe, asked, step):
        return
    now = [*read_changes(out), Stretch(step, tuple(asked))]
    write_json_atomic(out / _FILE, [{"step": c.step, "weights": list(c.weights)} for c in now])
    say(f"mixture: from the next step on {in_words(names_of(recipe.path), asked)}")


def check_weights(out: Path, recipe: DataRecipe, asked: tuple[float, ...]) -> None:
    """Refuses weights that a run cannot go on with.

    Raises:
        RecipeError: the run has none, or another number of sources, or a weight is too small.
    """
    if bool(asked) != bool(recipe.weights):
        raise RecipeError(
            f"the run was begun with{'' if recipe.weights else 'out'} weights, and cannot go on otherwise",
            where=str(out),
            hint="Leave data.weights out to go on, or start a new run with --out",
        )
    replace(recipe, weights=asked).check_sources()
    shares_of(asked)


def refuse_change(out: Path, recipe: DataRecipe, asked: Sequence[float], step: int) -> None:
    """Refuses other weights in a run that is finished; arguments as of `change_weights`.

    Raises:
        RecipeError: they are not those that hold already.
    """
    if _is_change(out, recipe, asked, step):
        raise RecipeError(
            "the run is finished: no step is left for other weights",
            where="data.weights",
            hint="Give a longer budget as well, or leave them out",
        )
