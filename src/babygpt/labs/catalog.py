"""Which labs there are, without importing what they train with."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from babygpt.errors import RecipeError

if TYPE_CHECKING:
    from babygpt.labs.framework import Lab

__all__ = ["NAMES", "check_name", "load"]

# In the order in which a newcomer meets what they are about.
NAMES = (
    "overfit",
    "labels",
    "weight-decay",
    "perplexity",
    "accumulation",
    "schedule",
    "packing",
    "checkpointing",
    "precision",
    "optimizer",
    "learning-rate",
    "batch-size",
    "resume",
    "scaling",
)


def check_name(name: str) -> str:
    """The name, if there is such a lab.

    Raises:
        RecipeError: there is none; the nearest is given.
    """
    if name in NAMES:
        return name
    close = difflib.get_close_matches(name, NAMES, n=1)
    meant = f"Did you mean {close[0]}? " if close else ""
    what = f"there is no lab {name!r}" if name else "no lab is named"
    raise RecipeError(what, where="name", hint=f"{meant}There are {', '.join(NAMES)}")


def load(name: str) -> Lab:
    """A lab by its name: the `LAB` of the file of that name, dashes written as underscores.

    Raises:
        RecipeError: there is none.
    """
    module = importlib.import_module(f"babygpt.labs.{check_name(name).replace('-', '_')}")
    lab: Lab = module.LAB
    return lab
