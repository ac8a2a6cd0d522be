"""BabyGPT, the LightningModule: a step is model -> summed loss -> log.

Everything that makes a step exact lives here and in `LLMDataModule`, so that plain `L.Trainer` use has it too:

* the gradient is that of (summed loss / true target count of the whole step), for any accumulation and world size:
  `training_step` returns sum_nll * accumulate * world / targets, and Lightning divides by `accumulate`, DDP by `world`
  (where prompts count, the sum is one by weights, and divided by the sum of these);
* random numbers (dropout) are seeded from (seed, step, micro-batch, rank), so resuming needs no generator state;
* on resuming, Lightning's loop counters are derived from the number of completed optimiser steps.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.utils.hooks import RemovableHandle

from babygpt.checks import StepContext, Verdict, check_schedule, failure, verdicts
from babygpt.data.module import LLMDataModule
from babygpt.errors import RecipeError
from babygpt.model.attention import model_inputs, resolve_attention
from babygpt.model.blocks import recompute_blocks
from babygpt.model.gradients import keep_places
from babygpt.model.load import adopt_special_ids, load_model
from babygpt.model.loss import count_targets, find_head, sum_nll
from babygpt.optim.groups import Rule, parameter_groups
from babygpt.optim.optimizers import OPTIMIZERS
from babygpt.planner import should_checkpoint_activations
from babygpt.training.checkpoint_io import PAYLOAD, FolderCheckpointIO, HFPayload
from babygpt.training.guards import SkippedSteps
from babygpt.training.meter import StepMeter, StepRecord, mean_loss
from babygpt.training.position import loop_state_at, total_steps
from babygpt.training.seeds import seed_micro_batch
from babygpt.training.spikes import LossWatch
from babygpt.training.tuning import StepTuning, interval_of
from babygpt.training.updating import clipped, optimizer_on_schedule
from babygpt.training.validation import ValidationSums, sums_of
from babygpt.training.watch import PerplexityWatch

__all__ = ["BabyGPT"]

logger = logging.getLogger("lightning.pytorch.babygpt")


class BabyGPT(L.LightningModule):
    """Any Hugging Face causal language model, trained exactly.

    Args:
        model_name: hub name, local folder (any checkpoint of ours included), or `preset:NAME` for random weights.
        lr: peak learning rate.
        optimizer: `adamw`, or `muon` for the blocks' matrices with AdamW for the rest.
        weight_decay: on the parameters the rules call decayed (matrices, by default).
        betas: AdamW's.
        schedule: `cosine`, `linear`, `wsd` or `constant`, stepping every optimiser step over the run's real length.
        warmup: share of the run if below 1, else steps.
        final: the last multiplier as a share of the peak.
        dropout: every dropout of the model; 0 is right for pretraining.
        attention: `auto`, `sdpa`, `eager` or `flash_attention_2`.
        activation_checkpointing: True, False, n for every n-th block, or `auto`: only where memory demands it.
        compile: compile the model's blocks.
        revision: of a hub model.
        vocab_size: overrides a preset's.
        seed: of a preset's weights and of dropout.
        rules: the weight-decay table; None takes the optimiser's own of `babygpt.optim.groups`.

    Raises:
        ModelError: the model is missing or unfit.
        RecipeError: there is no such optimiser.
    """

    def __init__(
        self,
        model_name: str = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
        lr: float = 2e-4,
        *,
        optimizer: str = "adamw",
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        schedule: str = "cosine",
        warmup: float = 0.02,
        final: float = 0.1,
        dropout: float = 0.0,
        attention: str = "auto",
        activation_checkpointing: bool | int | str = "auto",
        compile: bool = False,
        revision: str | None = None,
        vocab_size: int | None = None,
        seed: int = 0,
        rules: Sequence[Rule] | None = None,
    ) -> None:
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise RecipeError(
                f"there is no optimiser {optimizer!r}",
                where="optimizer",
                hint=f"There are {', '.join(OPTIMIZERS)}",
            )
        self.save_hyperparameters(ignore=["rules"])
        self.model = load_model(
            model_name,
            revision=revision,
            attention=attention,
            dropout=dropout,
            vocab_size=vocab_size,
            seed=seed,
        )
        self.meter = StepMeter()
        self.skipped = SkippedSteps()
        self.updating = False  # whether weights may be between two steps
        self.spike: int | None = None  # the first step whose loss was one
        self.logs_steps = True  # off where the meter's records are all that is read: Lightning's log is slow
        self._rules = OPTIMIZERS[optimizer] if rules is None else tuple(rules)
        self._head = find_head(self.model)
        self._validation = ValidationSums()
        self._interval: list[StepRecord] = []
        self._interval_over = False
        self._validating_since = 0.0
        self._said: set[str] = set()
        self._places: list[RemovableHandle] = []

    # -- the model -----------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Passes through to the Hugging Face model."""
        if "position_ids" in kwargs:
            kwargs.setdefault("use_cache", False)  # with a cache, packed documents would see each other
        return self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)

    def setup(self, stage: str) -> None:
        """Fits the model to the data module's packing and to the memory there is."""
        data = self._data
        if data is not None:
            self._attend_as(data)
            adopt_special_ids(self.model, data.tokenizer)
        if stage != "fit":
            return
        self.train()  # `from_pretrained` leaves eval mode behind, and Lightning keeps and reports it
        on = self.hparams["activation_checkpointing"]
        if on == "auto":
            on = data is not None and should_checkpoint_activations(
                self.model.config, data.batch_size, data.block, self.trainer.strategy.root_device
            )
        recompute_blocks(self.model, int(on))
        for handle in self._places:
            handle.remove()
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        self._places = keep_places(self.model) if on and on_cpu else []

    def configure_callbacks(self) -> list[L.Callback]:
        """What goes with the module through either door."""
        return [PerplexityWatch(), StepTuning()]

    def on_fit_start(self) -> None:
        """The self-checks, on the very model, data and schedule about to be trained."""
        if self._data is not None:
            self.check(self._data)
        total = total_steps(self.trainer, self._data)
        if total is not None:
            h = self.hparams
            check_schedule(h["schedule"], total, h["warmup"], h["final"])

    def check(self, data: LLMDataModule) -> None:
        """The self-checks that need no trainer.

        Raises:
            CheckError: what is wrong and what to do.
            ModelError: a parameter that no rule matches.
        """
        for _, error in self.verdicts(data):
            if error is not None:
                raise error

    def verdicts(self, data: LLMDataModule) -> Iterator[Verdict]:
        """Each of these checks on the first micro-batch: what it looks at, and its failure if it fails."""
        device = next(self.model.parameters()).device
        batch = {k: v.to(device) for k, v in data.micro_batch(0).items()}
        self._attend_as(data)
        context = StepContext(batch, data.tokenizer, data.block, data.isolated)
        yield from verdicts(self.model, self._head, context)
        group = lambda: parameter_groups(self.model, self._rules, self.hparams["weight_decay"])  # noqa: E731
        yield "every parameter is in exactly one group of the optimiser", failure(group)

    # -- a step --------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """A validation before the first step leaves eval mode behind; Lightning would keep it."""
        self.train()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """One micro-batch: the summed loss over the whole step's weight, undoing Lightning's divisions."""
        accumulate, step = self.trainer.accumulate_grad_batches, self.trainer.global_step
        micro, rank = batch_idx % accumulate, self.trainer.global_rank
        seed_micro_batch(self.hparams["seed"], step, micro, rank, self.device)
        if self._data is None and "loss_weights" in batch:
            raise RecipeError(
                "batches in which prompts count come without the data module that knows the sum of their weights",
                where="data.prompt_weight",
                hint="Give the trainer datamodule=, not its loaders",
            )
        nll = self.sum_nll(batch)
        if self._data is None:
            self._say(
                "data: batches of another loader than LLMDataModule's; each micro-batch is divided by its own"
                " targets, so that micro-batches of uneven lengths weigh the same"
            )
            targets = count_targets(batch["labels"])
            self.meter.add(nll.detach(), targets)
            return nll / targets.clamp(min=1)
        self.meter.add(nll.detach())
        return nll * (accumulate * self.trainer.world_size / self._data.step_weight(step))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Any = None,
    ) -> None:
        """The update; then the step is closed in the meter."""
        lr, step = optimizer.param_groups[0]["lr"], self.trainer.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Lightning keeps them until the next forward pass has ended, which is when memory is at its peak.
        optimizer.zero_grad()
        self.updating = False
        targets = weight = None
        if (data := self._data) is not None:
            targets = data.step_targets(step)
            weight = data.step_weight(step) if data.step_prompts(step) else None
        if self.meter.finish_step(step + 1, targets, lr, weight):
            self._say(f"step {step + 1:,}: the gradient is not finite; the step is passed over")
            self.skipped.add(step + 1)
        last = self.trainer.is_last_batch or step + 1 == self.trainer.max_steps
        if last or (step + 1) % interval_of(self.trainer) == 0:
            self.flush()
            self._interval_over = True

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs `train_loss` once an interval, weighted by its tokens so that the epoch's mean is exact."""
        del outputs, batch, batch_idx
        if not self._interval_over:
            return
        records, self._interval, self._interval_over = self._interval, [], False
        mean = mean_loss(records) if self.logs_steps else None
        if mean is not None:
            loss, weight = mean
            self.log(
                "train_loss",
                # Lightning puts a number on the device, and reads it back after every batch for its bar, bar or none.
                torch.tensor(loss, device=self.device if self.trainer.world_size > 1 else "cpu"),
                on_step=True,
                on_epoch=True,
                prog_bar=True,
                batch_size=weight,  # type: ignore[arg-type]  # Lightning multiplies by it, and divides by its sum
                sync_dist=self.trainer.world_size > 1,
            )
            self.log_dict({"lr": records[-1].lr, "grad_norm": records[-1].grad_norm}, batch_size=1)

    def flush(self) -> None:
        """Reads the meter now; every rank must call it at the same step."""
        records = self.meter.flush(self._reduce)
        for record in (r for r in records if r.spike):
            self._say(f"step {record.step:,}: loss {record.train_loss:.3f} is a spike")
            self.spike = self.spike or record.step
        self._interval += records

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by global norm and keeps the norm; of a gradient that is no number, lets the update be."""
        del gradient_clip_algorithm
        parameters, norm = clipped(optimizer, gradient_clip_val)
        self.updating = True
        self.meter.set_grad_norm(norm.detach())
        # Under fp16 the loss scale expects overflows and passes such steps over by itself.
        if self.trainer.precision != "16-mixed" and not self._is_finite(norm):
            # Without a gradient a parameter and its state are left alone; zeros would still decay and forget.
            for parameter in parameters:
                parameter.grad = None
            self.meter.skip_step()

    # -- validation ----------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Begins the sums anew, and stops the clock of the training speed."""
        self._validation = sums_of(self._data)
        self.flush()
        self._validating_since = time.perf_counter()

    def on_validation_end(self) -> None:
        """Starts it again, after the callbacks' samples and saves."""
        self.meter.pause(time.perf_counter() - self._validating_since)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Adds a batch's summed loss and target count."""
        self._validation.add(batch_idx, self.sum_nll(batch), count_targets(batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        """Total loss over total targets, over every rank: independent of the batch size."""
        for name, value in self._validation.metrics(self._reduce).items():
            shown = name in ("val_loss", "val_perplexity")
            self.log(name, value, prog_bar=shown, sync_dist=self.trainer.world_size > 1)

    # -- the optimiser -------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over the rule table's groups, and a schedule that steps every optimiser step."""
        total = total_steps(self.trainer, self._data)
        if total is None and (name := self.hparams["schedule"]) != "constant":
            self._say(f"schedule: the run's length is not known, so that {name} stays at its peak")
        return optimizer_on_schedule(self.model, self._rules, self.hparams, self.trainer.precision, total)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what our folders need; Lightning's own writer gets plain values only."""
        self.flush()
        checkpoint["babygpt"] = {
            "tokens": self.meter.tokens,
            "skipped": list(self.skipped.steps),
            "losses": list(self.meter.watch.losses),
        }
        if isinstance(self.trainer.strategy.checkpoint_io, FolderCheckpointIO):
            checkpoint[PAYLOAD] = HFPayload.of(self, self._data)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Derives Lightning's counters from the completed steps, whatever point the save was made at."""
        ours = checkpoint.get("babygpt", {})
        self.meter = StepMeter(tokens=ours.get("tokens", 0), watch=LossWatch.of(ours.get("losses", [])))
        self.skipped = SkippedSteps(list(ours.get("skipped", [])))
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.state.fn == "fit" and (data := self._data) is not None:
            checkpoint["loops"]["fit_loop"] = loop_state_at(
                checkpoint["loops"]["fit_loop"],
                checkpoint["global_step"],
                data.steps_per_epoch,
                data.micro_batches,
            )

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _data(self) -> LLMDataModule | None:
        data = getattr(self.trainer, "datamodule", None)
        return data if isinstance(data, LLMDataModule) else None

    def sum_nll(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Summed loss of a micro-batch, a scalar; the count of its targets is not in it."""
        inputs = model_inputs(batch, isolated="position_ids" in batch)
        return sum_nll(self.model, inputs, batch["labels"], self._head, weights=batch.get("loss_weights"))

    @property
    def has_head(self) -> bool:
        """Whether the loss applies the head by itself, instead of taking the model's own logits."""
        return self._head is not None

    def _attend_as(self, data: LLMDataModule) -> None:
        """Some models isolate packed documents in their eager attention only."""
        if not data.isolated:
            return
        wanted = resolve_attention(self.model.config, "isolated", self.hparams["attention"])
        if wanted != self.model.config._attn_implementation:
            self._say(f"attention: {wanted}, since this model isolates packed documents with nothing else")
            self.model.set_attn_implementation(wanted)

    def _is_finite(self, norm: torch.Tensor) -> bool:
        """Whether gradient and loss of the step are numbers; ranks share the gradient, and so the answer."""
        nll = self.meter.nll_under_way if self.trainer.world_size == 1 else None
        return math.isfinite((norm if nll is None else norm + nll).item())

    def _reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums over the ranks; every rank gets the sum."""
        if self.trainer.world_size == 1:
            return tensor
        return cast(torch.Tensor, self.trainer.strategy.reduce(tensor.to(self.device), reduce_op="sum"))

    def _say(self, message: str) -> None:
        if message not in self._said and (self._trainer is None or self.trainer.is_global_zero):
            self._said.add(message)
            logger.info(message)
