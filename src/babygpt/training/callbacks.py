"""What a run of the command writes while it trains: metrics and samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
from transformers import PreTrainedTokenizerBase

from babygpt.computer import peak_memory_bytes
from babygpt.errors import NotFiniteError
from babygpt.files import write_atomic
from babygpt.generate import continue_text
from babygpt.run_folder import step_in
from babygpt.strict_json import dumped
from babygpt.training.meter import StepRecord

__all__ = ["Listener", "RunFiles", "Sampler", "cut_after"]

Listener = Callable[[Sequence[dict[str, Any]]], None]


def cut_after(path: Path, step: int) -> None:
    """Drops the lines of a `.jsonl` file that lie after a step: what a killed run wrote past its last checkpoint."""
    if not path.exists():
        return
    kept: list[list[int]] = []  # from where to where
    at, last = 0, b"\n"
    # As bytes: a torn line may end inside a character, and text may hold other line ends than ours.
    with path.open("rb") as file:
        for line in file:
            if step_in(line) <= step:
                if not kept or kept[-1][1] != at:
                    kept.append([at, at])
                kept[-1][1], last = at + len(line), line[-1:]
            at += len(line)
        if at and (kept != [[0, at]] or last != b"\n"):
            write_atomic(path, chain(_pieces(file, kept), [] if last == b"\n" else [b"\n"]))


def _pieces(file: BinaryIO, ranges: Sequence[Sequence[int]]) -> Iterator[bytes]:
    """The bytes of these ranges, a megabyte at most at a time."""
    for start, end in ranges:
        file.seek(start)
        while start < end:
            piece = file.read(min(2**20, end - start))
            start += len(piece)
            yield piece


class _Lines:
    """Appends JSON lines to a file, durable on request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, *objects: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            for value in objects:
                file.write(dumped(value, ensure_ascii=False) + "\n")

    def sync(self) -> None:
        if self._path.exists():
            with self._path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())


class RunFiles(L.Callback):
    """Writes `metrics.jsonl`: a line for each optimiser step and one for each validation.

    The last step of an interval holds the most memory used so far, `peak_memory_bytes`, beside the rest.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._metrics = _Lines(folder / "metrics.jsonl")
        self._module: Any = None
        self.last_record: dict[str, Any] = {}
        self.validations: list[dict[str, Any]] = []
        self._listeners: list[Listener] = []

    def tell(self, listener: Listener) -> None:
        """On the first rank, the listener is given each line that is written, in order, several at a time."""
        self._listeners.append(listener)

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
        if trainer.is_global_zero:
            self._append([line])

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
                if (memory := peak_memory_bytes(self._module.device.type)) is not None:
                    lines[-1]["peak_memory_bytes"] = memory
                self._append(lines)

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        self._metrics.write(*lines)
        for listener in self._listeners:
            listener(lines)

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
        show: shows it, given the step, the prompt and the text.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        show: Callable[[int, str, str], None],
    ) -> None:
        self._lines = _Lines(folder / "samples.jsonl")
        self._tokenizer, self.prompt, self._show = tokenizer, prompt, show
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
        self._show(step, self.prompt, self.latest)

    def flush(self) -> None:
        """Waits until the samples so far are on the disk."""
        self._lines.sync()


def _step(trainer: L.Trainer) -> int:
    return int(trainer.global_step)
