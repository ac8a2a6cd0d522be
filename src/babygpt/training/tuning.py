"""How a process runs steps: compiled blocks, and Python's garbage collector at rest between them.

* Blocks are compiled on one pass over the run's first micro-batch, after the weights are in place. What looks unlike
  it (validation, generation, a short batch) runs uncompiled, so that nothing is compiled in the middle of a run.
* Compiled kernels add up in an order of their own in each process unless told otherwise; they are, so that a run
  that goes on keeps its bits.
* The collector walks over every object that Python holds, a few hundred milliseconds in a process that has imported
  torch, and at no foreseeable moment. What is there when training begins is left out of its walks, unless the caller
  has chosen what is; it runs
  when an interval is over, over what the interval has left, and at most once a second over all since the beginning.
* Lightning enters a context for its profiler around each of some thirty hooks a step, which need not be built anew.
"""

from __future__ import annotations

import gc
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler

from babygpt.data.module import LLMDataModule
from babygpt.model.blocks import compile_blocks, compiled_only, deterministic, uncompile_blocks

__all__ = ["NoProfiler", "StepTuning", "interval_of"]

_INTERVAL = 50  # steps, where the trainer names none
_LONGEST = 1000  # steps until what died is collected, however seldom the trainer logs
_WHOLE_SECONDS = 1.0  # between walks over everything, which take as long as a small model's step
_NOTHING = nullcontext()


class StepTuning(L.Callback):
    """Goes with every fit of a `BabyGPT` module; whatever it sets is set back when the fit ends, however it ends."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._walked = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compiles if asked, and puts the collector to rest."""
        module: Any = pl_module
        if module.hparams["compile"]:
            self._compile(trainer, module)
        if gc.isenabled():
            gc.collect()
            # There is one place for what is frozen: a caller's own would be thawed with ours.
            freezes = not gc.get_freeze_count()
            if freezes:
                gc.freeze()
            gc.disable()
            self._walked = time.monotonic()
            self._held.callback(_collector_as_before, freezes)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects when an interval is over."""
        del outputs, batch
        accumulate = trainer.accumulate_grad_batches
        every = min(interval_of(trainer), _LONGEST)
        if (batch_idx + 1) % accumulate or trainer.global_step % every:
            return
        if time.monotonic() - self._walked >= _WHOLE_SECONDS:
            gc.collect()
            self._walked = time.monotonic()
        else:
            gc.collect(0)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sets everything back."""
        self._held.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Sets everything back."""
        self._held.close()

    def _compile(self, trainer: L.Trainer, module: Any) -> None:
        module.train()
        found = getattr(trainer, "datamodule", None)
        # Batches of another loader are not known beforehand: each shape is compiled as it comes.
        data = found if isinstance(found, LLMDataModule) else None

        def trial() -> None:
            if data is not None:
                batch = data.on_before_batch_transfer(data.micro_batch(0), 0)
                batch = {name: tensor.to(module.device) for name, tensor in batch.items()}
                with trainer.precision_plugin.train_step_context():
                    nll = module.sum_nll(batch)
                nll.backward()

        with ExitStack() as tried:
            tried.enter_context(deterministic())
            if not compile_blocks(module.model, trial):
                # Uncompiled kernels are as without: some models have one that knows no deterministic way.
                return
            self._held.push(tried.pop_all())
            self._held.callback(uncompile_blocks, module.model)
            if data is not None:
                self._held.enter_context(compiled_only())


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, by one context for all."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Does nothing."""
        del action_name
        return _NOTHING


def interval_of(trainer: L.Trainer) -> int:
    """Optimiser steps of an interval: the trainer's for logging, or 50 where it logs nothing (0, to Lightning)."""
    return getattr(trainer, "log_every_n_steps", 0) or _INTERVAL


def _collector_as_before(thaws: bool) -> None:
    gc.enable()
    if thaws:
        gc.unfreeze()
