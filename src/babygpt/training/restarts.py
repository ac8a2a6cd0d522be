"""A launch whose processes are started again, as `torchrun --max-restarts` does: it goes on with the run that it began.

The first process of a launch leaves word of its run where the launcher keeps it over restarts (`meeting.py`). A start
that finds such a word belongs to the same launch; a folder that another one has filled is refused as ever.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from babygpt.recipe import to_yaml
from babygpt.run_folder import holds_run
from babygpt.settings import TrainSettings

__all__ = ["Begun", "begun_by", "going_on"]

# What a run that goes on may be given again: none of it is learned, or it says where the same data lie.
_KEPT = ("machine", "checkpoint", "log", "json", "data.path", "data.val_path")


@dataclass(frozen=True)
class Begun:
    """The run that a launch has begun.

    Args:
        out: its folder, from the root.
        recipe: what was asked for, before anything of it was decided.
    """

    out: str
    recipe: str


def begun_by(settings: TrainSettings, out: Path) -> Begun:
    """What a launch leaves word of before it makes a run's folder."""
    return Begun(os.path.abspath(out), to_yaml(settings.recipe))


def going_on(begun: Begun | None, settings: TrainSettings) -> TrainSettings | None:
    """What is asked for, as `--resume` asks for it; None where there is nothing that this launch could go on with.

    Args:
        begun: by an earlier start of this launch.
        settings: of this start.
    """
    if begun is None or settings.resume is not None or begun.recipe != to_yaml(settings.recipe):
        return None
    if settings.out is not None and os.path.abspath(settings.out) != begun.out:
        return None
    if not holds_run(Path(begun.out)):  # it had not come that far
        return None
    # The budget is in the folder's recipe, as steps; standard input was read by the first start.
    once = "-" in (*settings.data.path, *settings.data.val_path)
    given = [n for n in settings.given if n in _KEPT or n.split(".")[0] in _KEPT]
    given = [n for n in given if not (once and n.startswith("data."))]
    return replace(settings, out=None, resume=settings.out or begun.out, given=tuple(given))
