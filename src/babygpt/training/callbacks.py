"""What a run of the command writes and shows while it trains: metrics, samples, progress."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from babygpt.errors import NotFiniteError
from babygpt.files import write_atomic
from babygpt.forecast import seconds_words, speed_words
from babygpt.generate import continue_text
from babygpt.run_folder import losses_of_sources, step_in
from babygpt.training.meter import StepRecord
from babygpt.untrusted import shown

__all__ = ["ProgressView", "RunFiles", "Sampler", "cut_after"]

_PLAIN_SECONDS = 10.0


def cut_after(path: Path, step: int) -> None:
    """Drops the lines of a `.jsonl` file that lie after a step: what a killed run wrote past its last checkpoint."""
    if not path.exists():
        return
    # As bytes: a torn line may end inside a character, and text may hold other line ends than ours.
    before = path.read_bytes()
    kept = b"".join(line + b"\n" for line in before.split(b"\n") if step_in(line) <= step)
    if kept != before:
        write_atomic(path, kept)


class _Lines:
    """Appends JSON lines to a file, durable on request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, *objects: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            for value in objects:
                file.write(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n")

    def sync(self) -> None:
        if self._path.exists():
            with self._path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity and no NaN: they become null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


class RunFiles(L.Callback):
    """Writes `metrics.jsonl`: a line for each optimiser step and one for each validation.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._metrics = _Lines(folder / "metrics.jsonl")
        self._module: Any = None
        self.last_record: dict[str, Any] = {}
        self.validations: list[dict[str, Any]] = []
        self._untaken: list[dict[str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Remembers whose records are written."""
        del trainer, stage
        self._module = pl_module

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes what the meter has read."""
        del outputs, batch, batch_idx, pl_module
        self.write(trainer.is_global_zero)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes a validation's line."""
        if trainer.sanity_checking:
            return
        pl_module.flush()
        self.write(trainer.is_global_zero)
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val_")}
        line = {"step": _step(trainer), "tokens": pl_module.meter.tokens, **values}
        self.validations.append(line)
        self._untaken.append(line)
        if trainer.is_global_zero:
            self._metrics.write(line)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Writes the steps that ended the run; every rank raises this one at the same step."""
        if isinstance(exception, NotFiniteError):
            pl_module.flush()
            self.write(trainer.is_global_zero)

    def write(self, on_disk: bool) -> None:
        """Takes the records read so far and appends them."""
        records = self._module.meter.drain()
        if records:
            self.last_record = records[-1].to_dict()
            if on_disk:
                lines = list(map(self._line, records))
                self._metrics.write(*lines)
                self._untaken += lines

    def take(self) -> list[dict[str, Any]]:
        """The lines written since the last call, on the first rank."""
        taken, self._untaken = self._untaken, []
        return taken

    def _line(self, record: StepRecord) -> dict[str, Any]:
        """A step's line; of one passed over or a spike, with the numbers of its windows, so that it can be repeated."""
        values = record.to_dict()
        if record.skipped or record.spike:
            values["windows"] = self._module.trainer.datamodule.windows_of(record.step - 1).tolist()
        return values

    def flush(self) -> None:
        """Writes everything read so far and waits until it is on the disk."""
        self.write(self._module.trainer.is_global_zero)
        if self._module.trainer.is_global_zero:
            self._metrics.sync()


class Sampler(L.Callback):
    """Lets the model write at step 0 and at every validation, into `samples.jsonl`.

    Args:
        folder: the run folder.
        tokenizer: of the model.
        prompt: what it continues.
        view: shows it on the terminal.
    """

    def __init__(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, prompt: str, view: ProgressView
    ) -> None:
        self._lines = _Lines(folder / "samples.jsonl")
        self._tokenizer, self.prompt, self._view = tokenizer, prompt, view
        self.latest = ""

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Generates, on the first rank."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        training = pl_module.model.training
        pl_module.model.eval()
        try:
            self.latest = continue_text(pl_module.model, self._tokenizer, self.prompt, max_new_tokens=48)
        finally:
            pl_module.model.train(training)
        step = _step(trainer)
        self._lines.write({"step": step, "prompt": self.prompt, "text": self.latest})
        self._view.sample(step, self.prompt, self.latest)

    def flush(self) -> None:
        """Waits until the samples so far are on the disk."""
        self._lines.sync()


class ProgressView(L.Callback):
    """A bar on a terminal, plain lines elsewhere: step, loss, validation perplexity, speed, time left.

    Args:
        total_steps: of the run.
        console: where it goes.
        files: whose records are shown.
    """

    def __init__(self, total_steps: int, console: Console, files: RunFiles) -> None:
        self._total, self._console, self._files = total_steps, console, files
        self._bar: Progress | None = None
        self._task: Any = None
        self._perplexity: float | None = None
        self._said_at = 0.0
        self._pace: tuple[int, float] | None = None
        self._speed_told = False

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Starts the bar."""
        del pl_module
        self._pace = (trainer.global_step, time.monotonic())
        if trainer.is_global_zero and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "train", total=self._total, completed=trainer.global_step, numbers=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows the newest record."""
        del pl_module, outputs, batch, batch_idx
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        self._tell_speed(step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=self._numbers())
        elif time.monotonic() - self._said_at >= _PLAIN_SECONDS and self._files.last_record:
            self._said_at = time.monotonic()
            self._console.print(
                f"step {step:>7,}/{self._total:,}  {self._numbers()}  {self._left(step)}", **_RAW
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Shows a validation on a line of its own."""
        del pl_module
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        values = self._files.validations[-1]
        self._perplexity = values["val_perplexity"]
        self._console.print(
            f"validation at step {values['step']:>7,}: loss {values['val_loss']:.4f}"
            f"  perplexity {values['val_perplexity']:,.2f}  bits per byte {values['val_bits_per_byte']:.3f}"
            + "".join(f"  {name} {loss:.4f}" for name, loss in losses_of_sources(values).items()),
            **_RAW,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Ends the bar."""
        del trainer, pl_module
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Ends the bar."""
        del trainer, pl_module, exception
        self._close()

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Shows what the model wrote, on one line."""
        line = shown((prompt + text).replace("\n", "⏎ "))
        width = max(40, min(self._console.width, 160) - 24)
        self._console.print(f"sample at step {step:>7,}:  {line[:width]}", **_RAW)

    def _tell_speed(self, step: int) -> None:
        """Once, as soon as an interval has been timed: what was measured, and what it means for the rest."""
        record = self._files.last_record
        if self._speed_told or not record.get("tokens_per_second"):
            return
        self._speed_told = True
        seconds = record["targets"] / record["tokens_per_second"]
        words = speed_words(seconds, record["targets"], "measured")
        left = seconds_words(seconds * (self._total - step))
        self._console.print(f"speed: {words}; {left} of training left", **_RAW)

    def _numbers(self) -> str:
        record = self._files.last_record
        if not record:
            return ""
        loss = record["train_loss"]
        speed = record["tokens_per_second"]
        parts = [f"loss {loss:.3f}" if math.isfinite(loss) else "loss not finite"]
        parts += [f"val ppl {self._perplexity:,.1f}"] if self._perplexity is not None else []
        parts += [f"{speed:,.0f} tok/s"] if speed else []
        return "  ".join(parts)

    def _left(self, step: int) -> str:
        assert self._pace is not None
        begun, since = self._pace
        seconds = (time.monotonic() - since) / max(1, step - begun) * (self._total - step)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


_RAW: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def _step(trainer: L.Trainer) -> int:
    return int(trainer.global_step)
