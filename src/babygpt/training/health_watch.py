"""Looks at a run's curves while it trains, and says once of each kind what is not well and how to mend it.

At every validation, and every hundred steps, later when the steps have grown by a hundredth: a look takes a
millisecond or a few, and 60 after a million steps, of which 24 bytes each are kept. Nothing is written: whoever has
the lines of `metrics.jsonl` finds the same in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L

from babygpt.health import Finding, curves_of, findings, joined
from babygpt.training.callbacks import RunFiles

__all__ = ["HealthWatch"]

_EVERY = 100  # steps
_SHARE = 100  # looks are at least this part of the steps so far apart, so that all together stay cheap
_FEWEST_WAITS = 50  # micro-batches, before the time that the loader takes is worth a word
_SHORT_WAIT = 0.005  # seconds; so long the trainer itself may take between two batches


class HealthWatch(L.Callback):
    """Tells what is not well.

    Args:
        files: whose lines are looked at.
        before: lines that `metrics.jsonl` held when a run went on.
        total_steps: of the run.
        say: told each finding, on the first rank.
    """

    def __init__(
        self,
        files: RunFiles,
        before: Iterable[dict[str, Any]],
        total_steps: int,
        say: Callable[[str], None],
    ) -> None:
        self._total, self._say = total_steps, say
        self._new: list[dict[str, Any]] = []
        files.tell(self._new.extend)
        self.found: tuple[Finding, ...] = ()  # at the last look
        self._curves = curves_of(before, total_steps)
        self._told = {finding.kind for finding in findings(self._curves)}
        self._looked = 0
        self._began = self._ended = 0.0
        self._waited, self._worked, self._batches = 0.0, 0.0, 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Notes how long the batch was waited for."""
        del trainer, pl_module, batch, batch_idx
        self._began = time.perf_counter()
        if self._ended:
            self._waited += self._began - self._ended
            self._batches += 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks, when it is time."""
        del pl_module, outputs, batch
        self._ended = time.perf_counter()
        self._worked += self._ended - self._began
        accumulate = trainer.accumulate_grad_batches
        step = trainer.global_step
        if step % _EVERY == 0 and (batch_idx + 1) % accumulate == 0 and step - self._looked >= step / _SHARE:
            self._looked = step
            self._look(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Looks; and what a validation and its save take is no waiting for data."""
        del pl_module
        self._ended = 0.0
        if not trainer.sanity_checking:
            self._look(trainer)

    def _look(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        self._curves = joined(self._curves, curves_of(self._new, self._total, self._waiting()))
        self._new.clear()
        self.found = findings(self._curves)
        for finding in self.found:
            if finding.kind not in self._told:
                self._told.add(finding.kind)
                self._say(f"health at step {trainer.global_step:,}: {finding.what}. {finding.mend}")

    def _waiting(self) -> float | None:
        """The share of the time that goes by until the next batch is there; None where it is nothing to speak of."""
        if self._batches < _FEWEST_WAITS or self._waited < _SHORT_WAIT * self._batches:
            return None
        return self._waited / (self._waited + self._worked)
