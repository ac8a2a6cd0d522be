"""When a run of the command saves, and what it keeps.

All decisions are made between optimiser steps and none is remembered: what is on the disk says which checkpoint is
the best and which are the newest, so that a copied, moved or half-deleted run folder is judged as it is.

A step that also validates is saved after its validation, so that going on from it repeats or loses none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from babygpt.checkpoints import best, best_name, copy_checkpoint, keep, link_last, step_name
from babygpt.errors import Stopped
from babygpt.training.guards import SignalGuard

__all__ = ["RunCheckpoints", "SavePlan"]


@dataclass(frozen=True)
class SavePlan:
    """When to save and validate.

    Args:
        folder: where checkpoints go.
        total_steps: optimiser steps of the run; its last is always saved.
        validate_every: optimiser steps between validations.
        every_steps: optimiser steps between saves, or None.
        every_minutes: minutes between saves, or None.
        keep: how many of the newest are kept beside the best.
    """

    folder: Path
    total_steps: int
    validate_every: int
    every_steps: int | None
    every_minutes: float | None
    keep: int

    def validates(self, step: int) -> bool:
        """Whether a validation follows the step."""
        return step % self.validate_every == 0 or step >= self.total_steps


class RunCheckpoints(L.Callback):
    """Saves the best by validation loss and the newest, keeps few, and stops at a step's end when a signal asks.

    Args:
        plan: when and where.
        guard: whose signals end the run.
        flush: called before a save, so that the metrics on disk reach the saved step.
        say: tells the user what was passed over or deleted.
    """

    def __init__(
        self, plan: SavePlan, guard: SignalGuard, flush: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._plan, self._guard, self._flush, self._say = plan, guard, flush, say
        self._seen = 0
        self._since = time.monotonic()
        self._best: float | None = None
        self._due = False
        self._stop = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins at the step the run is at."""
        del pl_module
        self._seen = trainer.global_step
        found = best(self._plan.folder)
        self._best = None if found is None else found.facts["val_loss"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At a step's end: save when due, or leave it to the validation that follows."""
        del outputs, batch, batch_idx
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        asked = self._guard.asked(trainer)
        self._stop = asked.stop
        self._due = bool(asked.stop) or asked.save or self._is_due(trainer, step)
        if step >= self._plan.total_steps:
            # A last step off the interval is validated all the same; the flag also ends the fit, as max_steps does.
            trainer.should_stop = True
        if self._stop or (self._due and not self._plan.validates(step)):
            self._save(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """After a validation inside the fit: save the best, and the step if it is due."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        loss = float(trainer.callback_metrics["val_loss"])
        better = math.isfinite(loss) and (self._best is None or loss < self._best)
        if self._due:
            saved = self._save(trainer, pl_module)
            if better and trainer.is_global_zero:
                copy_checkpoint(saved, best_name(loss))
        elif better:
            self._flush_all(pl_module)
            trainer.save_checkpoint(_free(self._plan.folder / best_name(loss)))
        if better:
            self._best = loss
            if trainer.is_global_zero:
                keep(self._plan.folder, newest=self._plan.keep, say=self._say)
        trainer.strategy.barrier("checkpoints")

    def _is_due(self, trainer: L.Trainer, step: int) -> bool:
        if step >= self._plan.total_steps or (self._plan.every_steps and step % self._plan.every_steps == 0):
            return True
        if self._plan.every_minutes is None:
            return False
        late = time.monotonic() - self._since >= 60 * self._plan.every_minutes
        # Clocks of ranks differ; the first rank's is everybody's, so that all save the same step.
        return bool(trainer.strategy.broadcast(late)) if trainer.world_size > 1 else late

    def _save(self, trainer: L.Trainer, pl_module: Any) -> Path:
        self._flush_all(pl_module)
        path = _free(self._plan.folder / step_name(trainer.global_step))
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            link_last(self._plan.folder, path)
            keep(self._plan.folder, newest=self._plan.keep, say=self._say)
        self._since, self._due = time.monotonic(), False
        if self._stop:
            raise Stopped(self._stop)
        return path

    def _flush_all(self, pl_module: Any) -> None:
        pl_module.flush()
        self._flush()


def _free(path: Path) -> Path:
    """The path, or the first `-v1`, `-v2`, ... that is not in use: a published checkpoint is never changed."""
    candidate, version = path, 0
    while candidate.exists():
        version += 1
        candidate = path.with_name(f"{path.name}-v{version}")
    return candidate
