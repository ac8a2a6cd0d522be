"""Where a run is, and how long: Lightning's loop counters, derived from the number of completed optimiser steps.

Lightning's own counters depend on the hook a save was made in: one saved at an epoch's end is one epoch short, one
saved at a batch's end is one batch short, and resuming twice adds the errors up. Here nothing is believed but the
count of completed steps; every other counter follows from it and the epoch's length.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from babygpt.data.module import LLMDataModule
from babygpt.data.steps import limited_steps

__all__ = ["loop_state_at", "total_steps"]

_TRACKERS = ("ready", "started", "processed", "completed")


def loop_state_at(
    state: dict[str, Any], completed_steps: int, steps_per_epoch: int, micro_batches: int
) -> dict[str, Any]:
    """The fit loop's state as it is between two optimiser steps.

    Args:
        state: Lightning's fit-loop state dict, as saved.
        completed_steps: optimiser steps completed.
        steps_per_epoch: optimiser steps of an epoch.
        micro_batches: micro-batches of an optimiser step on one rank, now (it may differ from when it was saved).

    Returns:
        A copy: inside an epoch, that epoch is begun and not done; at its end, it is done and no other is begun.
    """
    state = deepcopy(state)
    epochs, inside = divmod(completed_steps, steps_per_epoch)
    begun = epochs + (1 if inside else 0)
    for scope in ("total", "current"):
        epoch = state["epoch_progress"][scope]
        epoch.update(ready=begun, started=begun, processed=epochs, completed=epochs)
    batches = state["epoch_loop.batch_progress"]
    batches["total"].update(dict.fromkeys(_TRACKERS, completed_steps * micro_batches))
    batches["current"].update(dict.fromkeys(_TRACKERS, inside * micro_batches))
    batches["is_last_batch"] = False
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = completed_steps
    for scope in ("total", "current"):
        validation = state["epoch_loop.val_loop.batch_progress"][scope]
        validation.update(dict.fromkeys(_TRACKERS, 0))
    return state


def total_steps(trainer: Any, data: LLMDataModule | None) -> int | None:
    """Optimiser steps of the whole run; None where nothing bounds it, or somebody else's data.

    Lightning's own `estimated_stepping_batches` would make the loader anew, and drop its state at a resume.
    """
    bounds = [trainer.max_steps] if trainer.max_steps != -1 else []
    if trainer.max_epochs not in (None, -1) and data is not None:
        bounds.append(trainer.max_epochs * limited_steps(data.plan, trainer.limit_train_batches))
    return min(bounds) if bounds else None
