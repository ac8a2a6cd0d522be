"""What may stop or skip a step: signals, and gradients that are no numbers.

A signal's handler only raises a flag; the flag is acted upon at the end of an optimiser step, where everything is
whole and can be saved. Lightning's own handlers act inside the signal, in the middle of a backward pass.

A step whose gradient or loss is infinite or no number is passed over: weights and optimiser state keep their bits,
the data goes on. Many in a row end the run.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import lightning as L
import torch

from babygpt.errors import NotFiniteError, Stopped

__all__ = ["SignalGuard", "SkippedSteps"]

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_MOST_IN_A_ROW = 10


@dataclass
class SkippedSteps:
    """The steps that were passed over; it goes into checkpoints.

    Args:
        steps: their numbers, counted from 1.
    """

    steps: list[int] = field(default_factory=list)

    def add(self, step: int) -> None:
        """Notes a step that is passed over.

        Raises:
            NotFiniteError: it is one too many in a row.
        """
        self.steps.append(step)
        row = _MOST_IN_A_ROW
        if self.steps[-row:] == list(range(step - row + 1, step + 1)):
            raise NotFiniteError(
                f"the gradient was not finite in the {row} steps up to {step:,}, which were passed over. Go on from"
                " an earlier checkpoint as model.name with a smaller optim.lr or a longer schedule.warmup, or in a"
                " wider machine.precision, and look at the data of these steps: metrics.jsonl names their windows."
            )


class SignalGuard(L.Callback):
    """Turns SIGTERM and Ctrl-C into a stop at the step's end, after saving; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._received = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Takes the signals over for a while (in a process's main thread; elsewhere it does nothing)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {signum: signal.getsignal(signum) for signum in _STOPPING}
        self._take()
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over once more: Lightning has put its own handlers in since."""
        del trainer, pl_module
        if threading.current_thread() is threading.main_thread():
            self._take()

    def raise_if_asked(self) -> None:
        """Ends a run that has done no step yet.

        Raises:
            Stopped: a signal has come.
        """
        if self._received:
            raise Stopped(self._received)

    def stop_asked(self, trainer: L.Trainer) -> int:
        """The signal to stop for, agreed by all ranks (the largest number received), or 0. Call it between steps."""
        if trainer.world_size == 1:
            return self._received
        flag = torch.tensor(float(self._received), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(flag, reduce_op="max"))

    def _take(self) -> None:
        for signum in _STOPPING:
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if signum == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signum
