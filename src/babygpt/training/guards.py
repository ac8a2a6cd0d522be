"""What may stop or skip a step: signals, and gradients that are no numbers.

A signal's handler only raises a flag; the flag is acted upon at the end of an optimiser step, where everything is
whole and can be saved. Lightning's own handlers act inside the signal, in the middle of a backward pass.

A step whose gradient or loss is infinite or no number is passed over: weights and optimiser state keep their bits,
the data goes on. Many in a row end the run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import lightning as L
import torch

from babygpt.errors import NotFiniteError, Stopped

__all__ = ["SAVE", "Asked", "SignalGuard", "SkippedSteps", "requeue", "slurm_job"]

# Windows has neither.
SAVE = getattr(signal, "SIGUSR1", None)
_HANGUP = getattr(signal, "SIGHUP", None)
_HANDLED = (signal.SIGTERM, signal.SIGINT, *(s for s in (SAVE, _HANGUP) if s is not None))
_AGREE_SECONDS = 1.0
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


@dataclass(frozen=True)
class Asked:
    """What signals ask for at a step's end; every rank has the same answer.

    Args:
        stop: the signal to save and stop for, or 0.
        save: whether to save and go on.
    """

    stop: int
    save: bool


class SignalGuard(L.Callback):
    """SIGTERM and Ctrl-C save and stop at the step's end, SIGUSR1 saves and goes on; a second Ctrl-C stops at once.

    SIGHUP, of a terminal that was closed, stops like SIGTERM, unless it is ignored, as nohup has it.

    Under SLURM, where SIGUSR1 is how a job learns that its time is nearly over, it saves, asks for the job to be
    queued again, and stops.
    """

    def __init__(self) -> None:
        self._stop, self._save = 0, False
        self._next_check = 0
        self._checked = (0, time.monotonic())

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Takes the signals over for a while (in a process's main thread; elsewhere it does nothing)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {signum: signal.getsignal(signum) for signum in _HANDLED}
        self._take()
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over once more: Lightning has put its own handlers in since."""
        del pl_module
        self._next_check, self._checked = 0, (trainer.global_step, time.monotonic())
        if threading.current_thread() is threading.main_thread():
            self._take()

    def raise_if_asked(self) -> None:
        """Ends a run that has done no step yet.

        Raises:
            Stopped: a signal has come.
        """
        if self._stop:
            raise Stopped(self._stop)

    def asked(self, trainer: L.Trainer) -> Asked:
        """What to do at this step's end. Call it after every step, on every rank.

        Ranks agree by the largest of what each has received, about once a second and not after every step; when the
        next time is follows from what they agree on, so that none waits for another.
        """
        if trainer.world_size > 1 and trainer.global_step < self._next_check:
            return Asked(0, False)
        save, self._save = self._save, False
        if trainer.world_size == 1:
            return Asked(self._stop, save)
        step, since = self._checked
        pace = (time.monotonic() - since) / max(1, trainer.global_step - step)
        mine = torch.tensor([self._stop, save, pace], device=trainer.strategy.root_device)
        stop, any_save, slowest = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self._checked = (trainer.global_step, time.monotonic())
        self._next_check = trainer.global_step + max(1, int(_AGREE_SECONDS / max(slowest, 1e-6)))
        return Asked(int(stop), bool(any_save))

    def _take(self) -> None:
        for signum in _HANDLED:
            if signum != _HANGUP or signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if signum == signal.SIGINT and self._stop == signal.SIGINT:
            # Not KeyboardInterrupt, which Lightning would take for itself and end the process with 1.
            raise Stopped(signum, at_once=True)
        if signum == SAVE and not slurm_job():
            self._save = True
        else:
            self._stop = signum


def slurm_job() -> str | None:
    """The number of the SLURM batch job that this process belongs to; None elsewhere and in interactive shells."""
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    job = os.environ.get("SLURM_JOB_ID", "")
    return job if job.isascii() and job.isdigit() else None


def requeue(job: str, say: Callable[[str], None]) -> None:
    """Asks SLURM to queue the job again; that it cannot is said and ends nothing."""
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
        say(f"slurm: job {job} is queued again")
    except (OSError, subprocess.SubprocessError) as error:
        say(f"slurm: job {job} could not be queued again ({error}); submit it again to go on")
