"""A module and a data module under a plain Trainer, on the CPU, without a folder: every number kept, none written.

What an experiment wants of a run is its curves. `fit` is Lightning's door with a recorder beside it: a validation
before the first step, every step's record, a validation at the end and wherever else it is asked for.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from transformers.utils import logging as transformers_logging

from babygpt.data.module import LLMDataModule
from babygpt.errors import Stopped
from babygpt.training.module import BabyGPT

__all__ = ["Fitted", "Probe", "fit", "messages_to", "quiet", "validate"]

Probe = Callable[[Any], Mapping[str, float]]


@dataclass(frozen=True)
class Fitted:
    """What a fit went through.

    Args:
        steps: a record of each optimiser step, as in a run's `metrics.jsonl`.
        validations: step and metrics of each validation, the first at step 0, with what the probe saw.
        seconds: of wall time in training, without the validations.
        cpu_seconds: of this process in the same time, over all threads.
    """

    steps: tuple[dict[str, Any], ...]
    validations: tuple[dict[str, float], ...]
    seconds: float
    cpu_seconds: float


def fit(
    module: BabyGPT,
    data: LLMDataModule,
    *,
    steps: int,
    validate_every: int | None = None,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    grad_clip: float = 1.0,
    probe: Probe | None = None,
) -> Fitted:
    """Trains on the CPU for some optimiser steps.

    Args:
        module: trained in place; a subclass may break any rule.
        data: with as many windows a step as its `global_batch_size` says, in micro-batches of `batch_size`.
        steps: optimiser steps.
        validate_every: steps between validations; None validates at the begin and the end only.
        precision: Lightning's name of it.
        grad_clip: largest norm of the whole gradient; 0 clips nothing.
        probe: called with the module at every validation; what it returns stands in the validation's line.

    Raises:
        InputError: module or data cannot be used; the message says why.
        NotFiniteError: gradients that were no numbers, many steps in a row.
        Stopped: by SIGTERM.
    """
    quiet()
    data.setup()
    accumulate = data.micro_batches
    recorder = _Recorder(steps, probe)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=grad_clip or None,
        val_check_interval=(validate_every or steps) * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=max(1, min(50, steps)),
        use_distributed_sampler=False,
        callbacks=[recorder],
    )
    with _stoppable(trainer):
        trainer.validate(module, datamodule=data, verbose=False)
    with _stoppable(trainer):
        trainer.fit(module, datamodule=data)
    with _stoppable(trainer):
        if recorder.validations[-1]["step"] != steps:
            trainer.validate(module, datamodule=data, verbose=False)
    wall, cpu = recorder.clock.total
    return Fitted(tuple(recorder.steps), tuple(recorder.validations), wall, cpu)


def validate(module: BabyGPT, data: LLMDataModule) -> dict[str, float]:
    """The metrics of a validation on the CPU: `val_loss`, `val_perplexity`, `val_bits_per_byte`.

    Raises:
        InputError: module or data cannot be used; the message says why.
        Stopped: by SIGTERM.
    """
    quiet()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with _stoppable(trainer):
        (metrics,) = trainer.validate(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in metrics.items()}


def quiet() -> None:
    """Lightning's and transformers' own chatter gives way to ours."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def messages_to(say: Callable[[str], None]) -> Iterator[None]:
    """Gives the package's own messages to `say` for a while."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch.babygpt", "babygpt")]

    class _Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    handler = _Handler()
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


@contextmanager
def _stoppable(trainer: L.Trainer) -> Iterator[None]:
    """Tells that it was stopped: Lightning makes of a SIGTERM an exit with code 0, or nothing at the end."""
    try:
        yield
    except SIGTERMException:
        raise Stopped(signal.SIGTERM) from None
    if trainer.received_sigterm:
        raise Stopped(signal.SIGTERM)


class _Clock:
    """Wall and CPU seconds while it runs."""

    def __init__(self) -> None:
        self.total = (0.0, 0.0)
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        self._since = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        if self._since is not None:
            wall, cpu = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
            self.total = (self.total[0] + wall, self.total[1] + cpu)
            self._since = None


class _Recorder(L.Callback):
    def __init__(self, total: int, probe: Probe | None) -> None:
        self.steps: list[dict[str, Any]] = []
        self.validations: list[dict[str, float]] = []
        self.clock = _Clock()
        self._total, self._probe = total, probe

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        # From the second step on: the first pays for what is made once.
        if self.clock._since is None and (trainer.global_step > 0 or self._total == 1):
            self.clock.start()

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.clock.stop()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._drain(pl_module)
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val_")}
        seen = dict(self._probe(pl_module)) if self._probe is not None else {}
        self.validations.append({"step": int(trainer.global_step), **values, **seen})

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.clock.stop()
        self._drain(pl_module)

    def _drain(self, module: Any) -> None:
        module.flush()
        self.steps.extend(record.to_dict() for record in module.meter.drain())
