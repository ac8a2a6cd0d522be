"""Lightning's loop counters, derived from the number of completed optimiser steps.

Lightning's own counters depend on the hook a save was made in: one saved at an epoch's end is one epoch short, one
saved at a batch's end is one batch short, and resuming twice adds the errors up. Here nothing is believed but the
count of completed steps; every other counter follows from it and the epoch's length.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

__all__ = ["loop_state_at"]

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
