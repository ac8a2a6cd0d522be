"""LLMDataModule: token stores to exact batches, under Lightning.

1. `prepare_data` builds (or finds) the token stores, once a node.
2. `setup` packs them into windows and lays the windows out over steps, ranks and micro-batches.
3. `train_dataloader` yields micro-batches, beginning at the trainer's completed optimiser steps; nothing but that
   number decides the position, so a resumed run needs no loader state.
4. `step_targets(step)` gives the true number of target tokens of a whole optimiser step, over every rank, and
   `step_weight(step)` what its summed loss is divided by: the same, unless prompts count as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from babygpt.data.agreement import check_agreement
from babygpt.data.batches import BatchPlan, ValidationPlan, WindowDataset
from babygpt.data.block import resolve_block
from babygpt.data.choosing import Progress
from babygpt.data.joined import parts_of
from babygpt.data.layout import notes_on_length
from babygpt.data.loaders import EpochLoader, StepRows
from babygpt.data.mixture import Stretch, go_on, stretches_of
from babygpt.data.order import data_step, skips_of
from babygpt.data.prepared import PreparedData
from babygpt.data.several import names_of, prepare_several
from babygpt.data.sources import Say
from babygpt.data.steps import Laid, accumulation_of, laid_out, loader_of, order_of, plan_of
from babygpt.data.store import prepare
from babygpt.errors import RecipeError
from babygpt.recipe import DataRecipe
from babygpt.untrusted import redacted

__all__ = ["VALIDATION_TOKENS", "LLMDataModule"]

VALIDATION_TOKENS = 16_384


class LLMDataModule(L.LightningDataModule):
    """Text to batches ready for `model(**batch)`: ids, labels and a mask or positions, int64 [micro_batch, block].

    Args:
        model_name: whose tokenizer and positions are used: hub name, local folder, or `preset:NAME`.
        batch_size: windows of one micro-batch on one device.
        path: files, folders, hub data sets, a corpus, or `builtin:python`, `builtin:prose`.
        weights: shares of the training windows, a number for each of `path`; empty takes everything once an epoch.
            Where a checkpoint was trained with others, these hold from its step on.
        field: the text column of `.jsonl` and data sets.
        val_path: validation data; empty means that `val_fraction` of `path` is held out.
        deduplicate: `none`, or leave out of training `exact` or `near` duplicates.
        tokenizer: `auto`, `train:N`, `train:unigram:N`, a folder or a hub name, with `file:` before it as its file is.
        block: tokens of a window.
        packing: `stream`, `isolated` or `padded`.
        too_long: what becomes of a document longer than a window: `split`, `cut`, `drop` or `refuse`.
        train_on_prompts: whether prompts are targets, too.
        prompt_weight: how much prompts count in the training loss where they are no targets, 0 to 1; above 0 a training
            batch holds `loss_weights`, too.
        global_batch_size: windows of one optimiser step over all ranks and micro-batches; left out, it is
            `batch_size` x devices x the trainer's `accumulate_grad_batches`.
        val_batches: how many batches of `global_batch_size` windows a validation reads; `auto` is about
            16,384 tokens, None is all.
        workers, seed: loader processes, and the data order's seed.
        revision: of a hub model or tokenizer.
        cache: where token stores are kept.
        progress: called with (stage, documents done, documents in all or 0) while they are built.
        say: told each note as it arises, and what takes long.
        rollbacks: (to, seen) pairs, as `order.skips_of` takes them: data that the run has left out.
        reweighted: changes of the weights, as `mixture.stretches_of` takes them.
        prepared_as: key of the token store to take without looking at the paths, as `store.prepare` does.
        cache_gb: most gigabytes kept on the disk of a corpus that lies elsewhere; None decides by what is free.

    Raises:
        DataError, TokenizerError, RecipeError: the data cannot be used; the message says why and what to do.
    """

    def __init__(
        self,
        model_name: str = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
        batch_size: int = 8,
        *,
        path: str | tuple[str, ...] | list[str] = "builtin:python",
        weights: Sequence[float] = (),
        field: str = "auto",
        val_path: str | tuple[str, ...] | list[str] = (),
        val_fraction: float = 0.05,
        deduplicate: str = "none",
        tokenizer: str = "auto",
        block: int | str = "auto",
        packing: str = "stream",
        too_long: str = "split",
        train_on_prompts: bool = False,
        prompt_weight: float = 0.0,
        global_batch_size: int | None = None,
        val_batches: int | str | None = "auto",
        workers: int = 0,
        seed: int = 0,
        revision: str | None = None,
        cache: str | Path | None = None,
        progress: Progress | None = None,
        say: Say | None = None,
        rollbacks: Sequence[tuple[int, int]] = (),
        reweighted: Sequence[Stretch] = (),
        prepared_as: str | None = None,
        cache_gb: float | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise RecipeError(f"must be at least 1, not {batch_size}", where="batch_size")
        self.model_name, self.revision = model_name, revision
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.block = resolve_block(block, model_name, revision)
        self.recipe = DataRecipe(
            path=(path,) if isinstance(path, str) else tuple(path),
            weights=tuple(weights),
            field=field,
            val_path=(val_path,) if isinstance(val_path, str) else tuple(val_path),
            val_fraction=val_fraction,
            deduplicate=deduplicate,  # type: ignore[arg-type]
            tokenizer=tokenizer,
            block=self.block,
            packing=packing,  # type: ignore[arg-type]
            too_long=too_long,  # type: ignore[arg-type]
            train_on_prompts=train_on_prompts,
            prompt_weight=prompt_weight,
            global_batch_size=global_batch_size or "auto",
        )
        self.recipe.check_sources()
        self._stretches = stretches_of(self.recipe.weights, reweighted)
        self._global_batch_size, self._val_batches = global_batch_size, val_batches
        self._cache, self._progress = Path(cache) if cache is not None else None, progress
        self._say, self._prepared_as, self._cache_gb = say, prepared_as, cache_gb
        self._skips, self.rollbacks = skips_of(rollbacks), len(rollbacks)
        self._prepared: PreparedData | None = None
        self._laid: Laid | None = None
        self._plan: BatchPlan | None = None

    # -- Lightning's hooks ---------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Builds the token stores, or finds them in the cache."""
        _ = self.prepared

    def setup(self, stage: str | None = None) -> None:
        """Packs the stores into windows and lays them out for this trainer.

        Args:
            stage: of the trainer; `validate` alone asks for no whole window of training text.

        Raises:
            DataError: there are fewer tokens than one window.
            RecipeError: the trainer's accumulation does not give the recipe's global batch.
        """
        data, only_validates = self.prepared, stage == "validate"
        shortest = min(part.num_tokens for part in parts_of(data.train))
        if self._laid is None or (shortest < self.block and not only_validates):
            self._laid = laid_out(data, self.recipe, may_be_short=only_validates)
        self._plan = self._planned()

    def train_dataloader(self) -> EpochLoader:
        """Micro-batches of this rank, sized as one whole epoch."""
        plan = self.plan
        return EpochLoader(
            self._loader(self._windows.train, StepRows(self)), plan.order.steps_per_epoch * plan.micro_batches
        )

    def val_dataloader(self) -> EpochLoader:
        """Validation batches of this rank."""
        rows = self.validation.rows(self.batch_size, self.rank, self.world_size)
        return EpochLoader(self._loader(self._windows.val, rows), len(rows))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Drops a mask that is all ones, while looking at it costs no wait for a device."""
        del dataloader_idx
        if isinstance(batch, dict) and "attention_mask" in batch and bool(batch["attention_mask"].all()):
            return {k: v for k, v in batch.items() if k != "attention_mask"}
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch without waiting for it; on a CPU nothing is left to do, which Lightning finds out slowly."""
        return (
            batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must agree with for its position to mean the same data, and the data in words."""
        if self._plan is None:
            return {}
        state = {**self.identity(), "data_in_words": self.prepared.in_words}
        if self.recipe.weights:
            state["data_step"] = self.data_step(self.completed_steps)
            state["weights"] = [[s.step, list(s.weights)] for s in self._stretches]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares a checkpoint's data with this one's.

        Raises:
            CheckpointError: they differ, with each difference.
        """
        there = {"prompt_weight": 0.0, **state_dict}
        words, step, weights = (there.pop(name, None) for name in ("data_in_words", "data_step", "weights"))
        here = f"{redacted(', '.join(self.recipe.path))} here gives {self.prepared.in_words}"
        check_agreement(
            self.identity(),
            there,
            words=(here, words or ""),
            weighted=(bool(self.recipe.weights), bool(weights)),
        )
        if weights:
            before = [Stretch(int(at), tuple(map(float, each))) for at, each in weights]
            self._stretches = go_on(before, self._stretches, int(step))
            self._plan = self._planned()

    # -- what a step needs ---------------------------------------------------------------------------------------

    @property
    def prepared(self) -> PreparedData:
        """The token stores and the tokenizer."""
        if self._prepared is None:
            make = prepare_several if self.recipe.weights else prepare
            self._prepared = make(
                self.recipe,
                model_name=self.model_name,
                revision=self.revision,
                cache=self._cache,
                progress=self._progress,
                say=self._say,
                prepared_as=self._prepared_as,
                cache_gb=self._cache_gb,
            )
        return self._prepared

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people: how the text was split and tokenised, and what becomes of too long documents."""
        return (*self.prepared.notes, *self.notes_on_length)

    @property
    def notes_on_length(self) -> tuple[str, ...]:
        """Of them, what becomes of too long documents."""
        data, recipe = self.prepared, self.recipe
        return tuple(notes_on_length(data.train, data.val, self.block, recipe.packing, recipe.too_long))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the data."""
        return self.prepared.tokenizer

    @property
    def plan(self) -> BatchPlan:
        """Which windows each step, rank and micro-batch takes."""
        if self._plan is None:
            raise RuntimeError("LLMDataModule.setup() has not been called")
        return self._plan

    @property
    def validation(self) -> ValidationPlan:
        """Which validation windows are read."""
        size = self.plan.order.global_batch_size
        batches = self._val_batches
        if batches == "auto":
            batches = max(1, -(-VALIDATION_TOKENS // (size * self.block)))
        return ValidationPlan(self._windows.val_sizes, None if batches is None else int(batches) * size)

    @property
    def isolated(self) -> bool:
        """Whether documents are packed without seeing one another."""
        return self.recipe.packing == "isolated"

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self.trainer.world_size if self.trainer is not None else 1

    @property
    def completed_steps(self) -> int:
        """Optimiser steps completed: the one thing that decides the data position."""
        return self.trainer.global_step if self.trainer is not None else 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which every training window comes once."""
        return self.plan.order.steps_per_epoch

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one rank in one optimiser step: the trainer's `accumulate_grad_batches`."""
        return self.plan.micro_batches

    def step_targets(self, step: int) -> int:
        """Target tokens of a whole optimiser step, over all ranks and micro-batches."""
        return self.plan.step_targets(self.data_step(step))

    def step_prompts(self, step: int) -> int:
        """Tokens of the same that count with `prompt_weight`."""
        return self.plan.step_prompts(self.data_step(step))

    def step_weight(self, step: int) -> float:
        """The sum of all their weights: what the summed loss is divided by."""
        return self.plan.step_weight(self.data_step(step))

    def data_step(self, step: int) -> int:
        """Which step of the data's order an optimiser step takes: its own, or one further by what is left out."""
        return data_step(step, self._skips)

    def windows_of(self, step: int) -> np.ndarray:
        """Window numbers of a whole optimiser step, int64 [windows]."""
        return self.plan.order.windows_of(self.data_step(step))

    def micro_batch(self, number: int) -> dict[str, torch.Tensor]:
        """The micro-batch of a number, counted from the run's first; 0 is what the self-checks look at."""
        step, micro = divmod(number, self.plan.micro_batches)
        return self._windows.train[self.plan.rows(self.data_step(step), micro, self.rank)]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that are mixed; none without weights."""
        return names_of(self.recipe.path) if self.recipe.weights else ()

    @property
    def bytes_per_target(self) -> float:
        """UTF-8 bytes of validation text for each target token: bits per byte = loss / ln 2 / this."""
        return self.prepared.val.manifest.bytes_per_target

    def identity(self) -> dict[str, Any]:
        """The values that make data and order what they are."""
        return {
            "data_fingerprint": self.prepared.fingerprint,
            "block": self.block,
            "packing": self.recipe.packing,
            "too_long": self.recipe.too_long,
            "prompt_weight": self.recipe.prompt_weight,
            "global_batch_size": self.plan.order.global_batch_size,
            "seed": self.seed,
        }

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _windows(self) -> Laid:
        assert self._laid is not None, "setup() comes first"
        return self._laid

    def _planned(self) -> BatchPlan:
        accumulate = accumulation_of(self.trainer)
        size = self._global_batch_size or self.batch_size * self.world_size * (accumulate or 1)
        order = order_of(self._windows, self._stretches if self.recipe.weights else (), size, self.seed)
        train = self._windows.train
        return plan_of(
            order, train.windows, self.batch_size, self.world_size, accumulate, train.prompt_weight
        )

    def _loader(self, dataset: WindowDataset, rows: Any) -> Iterable[dict[str, torch.Tensor]]:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return loader_of(dataset, rows, self.workers, on_cuda=on_cuda)
