"""When a run of the command saves, and what it keeps.

All decisions are made between optimiser steps and none is remembered: what is on the disk says which checkpoint is
the best and which are the newest, so that a copied, moved or half-deleted run folder is judged as it is.

A step that also validates is saved after its validation, so that going on from it repeats or loses none.

A save copies the state at the step's end and is written, verified and followed by its deletions on a thread of its
own while training goes on. One save is under way at a time: the next waits for it. A write that failed ends the run at
the end of the step that found out.
"""

from __future__ import annotations

import errno
import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from babygpt.checkpoints import LAST, best, best_name, copy_checkpoint, keep, link_last, resolve, step_name
from babygpt.errors import SpikeSeen, Stopped
from babygpt.files import free_name, read_manifest, remove_partials
from babygpt.run_folder import holds_run
from babygpt.training.guards import SignalGuard
from babygpt.training.memory import is_out_of_memory, let_go
from babygpt.training.writer import BackgroundWriter

__all__ = ["RunCheckpoints", "SavePlan", "settle"]


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
        roll_back: whether a spike of the loss ends the fit, to go back.
    """

    folder: Path
    total_steps: int
    validate_every: int
    every_steps: int | None
    every_minutes: float | None
    keep: int
    roll_back: bool = False

    def validates(self, step: int) -> bool:
        """Whether a validation follows the step."""
        return step % self.validate_every == 0 or step >= self.total_steps


def settle(folder: Path, newest: Path) -> None:
    """Ends what a killed process had begun: clears up, and gives the newest checkpoint its step's name and `last`.

    Changes nothing where nothing is left to do.

    Args:
        folder: of the checkpoints.
        newest: where the run goes on from; killed after saving its best, it has no other name yet.
    """
    remove_partials(folder)
    if not newest.name.startswith("step-"):
        newest = copy_checkpoint(newest, step_name(int(read_manifest(newest).facts["step"])))
    last = folder / LAST
    if (resolve(last) if last.is_file() else last.resolve()).name != newest.name:
        link_last(folder, newest)


class RunCheckpoints(L.Callback):
    """Saves the best by validation loss and the newest, keeps few, and stops at a step's end when a signal asks.

    Args:
        plan: when and where.
        guard: whose signals end the run.
        flush: called before a save, so that the metrics on disk reach the saved step.
        say: tells the user what was passed over or deleted.
        writer: the one that the trainer's CheckpointIO writes with.

    Attributes:
        stalled: seconds that training stood still for saves.
        begun: whether the state was restored and training has begun.
    """

    def __init__(
        self,
        plan: SavePlan,
        guard: SignalGuard,
        flush: Callable[[], None],
        say: Callable[[str], None],
        writer: BackgroundWriter,
    ) -> None:
        self._plan, self._guard, self._flush, self._say = plan, guard, flush, say
        self._writer = writer
        self.stalled, self.begun = 0.0, False
        self._seen = self._saved = 0
        self._since = time.monotonic()
        self._best: float | None = None
        self._due = False
        self._stop = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins at the step the run is at."""
        del pl_module
        self._seen, self.begun = trainer.global_step, True
        self._saved = trainer.global_step
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
        self._writer.check()
        self._look_for_spike(trainer, pl_module)
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
        if better:
            self._best = loss
        if self._due:
            self._save(trainer, pl_module, best=best_name(loss) if better else None)
        elif better:
            self._stage(trainer, pl_module, best_name(loss))
            self._then(trainer, self._keep)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The run is over when its last save is on the disk."""
        del trainer, pl_module
        self._wait()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Lets a save that is under way end, but for a second Ctrl-C, which waits for nothing.

        When memory ran out inside a step, the steps before it are saved, so that a smaller plan goes on from there.
        """
        if isinstance(exception, Stopped) and exception.at_once:
            return
        self._writer.join()
        in_a_step = trainer.training and not pl_module.updating and trainer.global_step > self._saved
        if is_out_of_memory(exception) and trainer.world_size == 1 and in_a_step:
            let_go(exception)
            for parameter in pl_module.parameters():
                parameter.grad = None
            try:
                self._save(trainer, pl_module)
                self._wait()
            except Exception as error:
                self._say(
                    f"the steps since {self._saved:,} could not be saved ({type(error).__name__}: {error})"
                )

    def _is_due(self, trainer: L.Trainer, step: int) -> bool:
        if step >= self._plan.total_steps or (self._plan.every_steps and step % self._plan.every_steps == 0):
            return True
        if self._plan.every_minutes is None:
            return False
        late = time.monotonic() - self._since >= 60 * self._plan.every_minutes
        # Clocks of ranks differ; the first rank's is everybody's, so that all save the same step.
        return bool(trainer.strategy.broadcast(late)) if trainer.world_size > 1 else late

    def _save(self, trainer: L.Trainer, pl_module: Any, best: str | None = None) -> None:
        """Saves the step, and before that under the name `best` if that is given.

        In this order: a process that is killed in between goes on from the best, and one that found its step saved
        would never save it as the best.
        """
        name = step_name(trainer.global_step)
        path = self._stage(trainer, pl_module, best or name)

        def follow() -> None:
            newest = path if best is None else copy_checkpoint(path, name)
            link_last(self._plan.folder, newest)
            self._keep()

        self._then(trainer, follow)
        self._since, self._due, self._saved = time.monotonic(), False, trainer.global_step
        if self._stop:
            self._wait()
            run = shlex.quote(str(self._plan.folder.parent))
            self._say(f"step {trainer.global_step:,} is saved; go on with babygpt train --resume {run}")
            raise Stopped(self._stop)

    def _stage(self, trainer: L.Trainer, pl_module: Any, name: str) -> Path:
        """Copies the state, to be written under the name, or the first `-v1`, `-v2`, ... of it that is free."""
        self._wait()
        begun = time.monotonic()
        self._flush_all(pl_module)
        self._look_for_spike(trainer, pl_module)
        run = self._plan.folder.parent
        if trainer.is_global_zero and not holds_run(run):  # writing a checkpoint would make the folder anew
            raise FileNotFoundError(errno.ENOENT, "the run folder is gone", str(run / "recipe.yaml"))
        path = free_name(self._plan.folder / name)
        trainer.save_checkpoint(path)
        self.stalled += time.monotonic() - begun
        return path

    def _look_for_spike(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Steps are read once an interval, and before every save, so that no spike gets into a checkpoint."""
        if self._plan.roll_back and pl_module.spike is not None:
            raise SpikeSeen(pl_module.spike, trainer.global_step)

    def _then(self, trainer: L.Trainer, work: Callable[[], None]) -> None:
        if trainer.is_global_zero:
            self._writer.submit(work)

    def _keep(self) -> None:
        keep(self._plan.folder, newest=self._plan.keep, say=self._say)

    def _wait(self) -> None:
        begun = time.monotonic()
        self._writer.wait()
        self.stalled += time.monotonic() - begun

    def _flush_all(self, pl_module: Any) -> None:
        pl_module.flush()
        self._flush()
