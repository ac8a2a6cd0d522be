"""What a run shows while it trains: a view that stays in place on a terminal, plain lines elsewhere.

Nothing is read off the device for it: it shows what the meter has read. A view is drawn when it is time, twice a
second at most and for a hundredth of the time at most, so that a step costs a look at the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType

from babygpt.computer import memory_total, peak_memory_bytes
from babygpt.run_folder import losses_of_sources
from babygpt.terminal import stays_in_place
from babygpt.training.callbacks import RunFiles
from babygpt.training.dashboard import Status, Trace, clock, lines
from babygpt.training.health_watch import HealthWatch
from babygpt.training.peak import matrix_peak
from babygpt.untrusted import shown

__all__ = ["ProgressView"]

_PLAIN_SECONDS = 10.0
_DRAW_SECONDS = 0.5
_WORTH_MEASURING = 1e13  # operations of a run beside which 0.3 s are little: minutes of two cores
_SHARE = 100  # draws are this many times as long apart as one takes
_RAW: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


class ProgressView(L.Callback):
    """Shows step, loss, validation, speed, share of the peak, memory, time left, health and a curve.

    Args:
        total_steps: of the run.
        console: where it goes.
        files: whose records are shown.
        health: whose findings are shown.
        step_flops: asked as training begins for the operations of a step, forward and backward; None where they are not
            known.
        measured: told what the devices multiply at most, in operations a second; of a short run that nobody watches
            it is not measured.
    """

    def __init__(
        self,
        total_steps: int,
        console: Console,
        files: RunFiles,
        health: HealthWatch,
        step_flops: Callable[[], float] | None = None,
        measured: Callable[[float], None] = lambda peak: None,
    ) -> None:
        self._total, self._console, self._files, self._health = total_steps, console, files, health
        self._ask_flops, self._measured = step_flops, measured
        self._step_flops: float | None = None
        self._live: Live | None = None
        self._drawn: tuple[int, list[int]] = (0, [])
        self._draw_at = 0.0
        self._trace = Trace()
        self._share: float | None = None
        self._peak: float | None = None
        self._device = torch.device("cpu")
        self._memory_total: int | None = None
        self._validation: dict[str, Any] = {}
        self._said_at = 0.0
        self._pace: tuple[int, float] | None = None
        files.tell(self._hear)

    # -- the run -------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Measures the device, and starts the view."""
        del pl_module
        in_place = trainer.is_global_zero and stays_in_place(self._console)
        self._device = trainer.strategy.root_device
        if trainer.is_global_zero and self._ask_flops is not None:
            self._step_flops = self._ask_flops()
            ahead = self._step_flops * (self._total - trainer.global_step)
            if in_place or ahead >= _WORTH_MEASURING:
                self._peak = trainer.world_size * matrix_peak(self._device, trainer.precision)
                self._measured(self._peak)
        if in_place:
            self._memory_total = _memory_of(self._device)
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._pace = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows where the run is, when it is time."""
        del pl_module, outputs, batch, batch_idx
        if not trainer.is_global_zero:
            return
        now, step = time.monotonic(), trainer.global_step
        if self._live is not None:
            if now >= self._draw_at:
                self._draw(step)
                self._draw_at = now + max(_DRAW_SECONDS, _SHARE * (time.monotonic() - now))
        elif now - self._said_at >= _PLAIN_SECONDS and self._files.last_record:
            self._said_at = now
            left = f"{clock(self._seconds_left(step) or 0)} left"
            self._console.print(f"step {step:>7,}/{self._total:,}  {self._numbers()}  {left}", **_RAW)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Shows a validation on a line of its own."""
        del pl_module
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        values = self._validation = self._files.validations[-1]
        self._console.print(
            f"validation at step {values['step']:>7,}: loss {values['val_loss']:.4f}"
            f"  perplexity {values['val_perplexity']:,.2f}  bits per byte {values['val_bits_per_byte']:.3f}"
            + "".join(f"  {name} {loss:.4f}" for name, loss in losses_of_sources(values).items()),
            **_RAW,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Ends the view; what it last showed stays."""
        del pl_module
        self._close(trainer.global_step)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Ends the view."""
        del pl_module, exception
        self._close(trainer.global_step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Shows what the model wrote, on one line."""
        line = shown((prompt + text).replace("\n", "⏎ "))
        width = max(40, min(self._console.width, 160) - 24)
        self._console.print(f"sample at step {step:>7,}:  {line[:width]}", **_RAW)

    def _hear(self, new: Sequence[dict[str, Any]]) -> None:
        """Takes the lines of an interval."""
        steps = [line for line in new if "train_loss" in line]
        for line in steps:
            self._trace.add(line["train_loss"])
        speed = steps[-1]["tokens_per_second"] if steps else None
        if speed and self._peak and self._step_flops:
            # By the steps and not by the targets: of tokens that are not learned nearly all the work is done, too.
            targets = sum(line["targets"] for line in steps) / len(steps)
            self._share = self._step_flops * speed / max(1.0, targets) / self._peak

    # -- on a terminal -------------------------------------------------------------------------------------------

    def _draw(self, step: int) -> None:
        assert self._live is not None
        console = self._console
        width, height = console.size
        view = lines(self._status(step), width, height, ascii_only=console.options.ascii_only)
        before, lengths = self._drawn
        if width < before:
            # A terminal that became narrower has broken the lines it showed; what they take more goes first.
            broken = sum((length - 1) // width for length in lengths if length)
            codes = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * broken
            console.control(Control(*codes))
        self._drawn = (width, [line.cell_len for line in view])
        self._live.update(Group(*view), refresh=True)

    def _close(self, step: int) -> None:
        if self._live is not None:
            try:
                self._draw(step)
            finally:
                self._live.stop()
                self._live = None

    def _status(self, step: int) -> Status:
        record, found = self._files.last_record, self._health.found
        return Status(
            step=step,
            total=self._total,
            seconds_left=self._seconds_left(step),
            loss=record.get("train_loss"),
            validation=self._validation.get("val_loss"),
            perplexity=self._validation.get("val_perplexity"),
            lr=record.get("lr"),
            grad_norm=record.get("grad_norm"),
            speed=record.get("tokens_per_second"),
            share=self._share,
            peak=self._peak,
            memory=peak_memory_bytes(self._device.type),
            memory_total=self._memory_total,
            health="; ".join(f"{f.kind.replace('_', ' ')}: {f.what}" for f in found),
            trace=tuple(self._trace.points),
        )

    # -- in plain lines ------------------------------------------------------------------------------------------

    def _numbers(self) -> str:
        record = self._files.last_record
        loss, speed = record["train_loss"], record["tokens_per_second"]
        perplexity = self._validation.get("val_perplexity")
        parts = [f"loss {loss:.3f}" if math.isfinite(loss) else "loss not finite"]
        parts += [f"val ppl {perplexity:,.1f}"] if perplexity is not None else []
        parts += [f"{speed:,.0f} tok/s"] if speed else []
        return "  ".join(parts)

    def _seconds_left(self, step: int) -> float | None:
        assert self._pace is not None
        begun, since = self._pace
        if step <= begun:
            return None
        return (time.monotonic() - since) / (step - begun) * (self._total - step)


def _memory_of(device: torch.device) -> int | None:
    """Bytes that a device has; None where it is not told."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_total() if device.type == "cpu" else None
