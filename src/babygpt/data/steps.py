"""Windows to the steps of a trainer: pure functions of its numbers, under `LLMDataModule`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from babygpt.data.ahead import Ahead, StreamedWindows, is_streamed
from babygpt.data.arrow import TokenStore
from babygpt.data.batches import BatchPlan, WindowDataset, pad_id_of
from babygpt.data.layout import lay_out_sources
from babygpt.data.loaders import InPlace
from babygpt.data.mixture import Mixture, Stretch
from babygpt.data.order import Order
from babygpt.data.packing import Windows
from babygpt.data.prepared import PreparedData
from babygpt.errors import DataError, RecipeError
from babygpt.recipe import DataRecipe

__all__ = ["Laid", "accumulation_of", "laid_out", "limited_steps", "loader_of", "order_of", "plan_of"]


@dataclass(frozen=True)
class Laid:
    """Two stores in windows.

    Args:
        train, val: to be read by their numbers.
        sizes, val_sizes: how many of them each source has.
    """

    train: WindowDataset
    val: WindowDataset
    sizes: tuple[int, ...]
    val_sizes: tuple[int, ...]


def laid_out(data: PreparedData, recipe: DataRecipe, *, may_be_short: bool) -> Laid:
    """Packs both stores into windows.

    Args:
        data: the stores and their tokenizer.
        recipe: how they are packed.
        may_be_short: the training text may be less than a window.

    Raises:
        DataError: there are fewer tokens than one window.
    """

    def dataset(store: TokenStore, short: bool, weight: float) -> tuple[WindowDataset, tuple[int, ...]]:
        windows, sizes = lay_out_sources(store, recipe, may_be_short=short, with_prompts=weight > 0)
        kind = StreamedWindows if is_streamed(store) else WindowDataset
        return kind(store, windows, pad_id_of(data.tokenizer), weight), sizes

    train, sizes = dataset(data.train, may_be_short, recipe.prompt_weight if data.train.has_targets else 0.0)
    try:
        # Answers alone, so that runs of different weights can be compared.
        val, val_sizes = dataset(data.val, True, 0.0)
    except DataError as error:
        raise DataError(f"of the validation data: {error.what}", where=error.where, hint=error.hint) from None
    return Laid(train, val, sizes, val_sizes)


def order_of(laid: Laid, stretches: tuple[Stretch, ...], batch: int, seed: int) -> Order | Mixture:
    """Which windows of the training text each step takes.

    Args:
        laid: the windows.
        stretches: weights of the sources; none takes everything once an epoch.
        batch: windows of a step.
        seed: of the order.
    """
    if stretches:
        return Mixture(laid.sizes, stretches, batch, seed)
    return Order(len(laid.train.windows), batch, seed)


def plan_of(
    order: Order | Mixture,
    windows: Windows,
    micro_batch: int,
    world_size: int,
    accumulate: int | None,
    prompt_weight: float = 0.0,
) -> BatchPlan:
    """The same by rank and micro-batch.

    Args:
        order: which windows a step takes.
        windows: of the whole store.
        micro_batch: windows of one.
        world_size: processes.
        accumulate: micro-batches that the trainer takes for a step; None where there is no trainer.
        prompt_weight: of the batches that are made of the windows.

    Raises:
        RecipeError: it takes another number than there are.
    """
    plan = BatchPlan(order, windows, micro_batch, world_size, prompt_weight)
    if accumulate is not None and accumulate != plan.micro_batches:
        raise RecipeError(
            f"{order.global_batch_size} windows a step on {world_size} device(s) with {micro_batch} at a time are"
            f" {plan.micro_batches} micro-batches, but the trainer accumulates {accumulate}",
            where="accumulate_grad_batches",
            hint=f"Give the trainer accumulate_grad_batches={plan.micro_batches}",
        )
    return plan


def accumulation_of(trainer: Any) -> int | None:
    """Micro-batches that a trainer takes for a step; None where there is no trainer.

    Raises:
        RecipeError: it repeats batches.
    """
    if trainer is None:
        return None
    if getattr(trainer, "overfit_batches", False):
        raise RecipeError(
            "overfit_batches would repeat batches behind the plan's back",
            where="overfit_batches",
            hint="Give a small data file and many epochs instead",
        )
    return int(trainer.accumulate_grad_batches)


def loader_of(
    dataset: WindowDataset, rows: Iterable[Any], workers: int, *, on_cuda: bool
) -> Iterable[dict[str, torch.Tensor]]:
    """Loads the windows of each item of `rows`, ahead of time where they have to be fetched."""
    rows = Ahead(rows, workers) if isinstance(dataset, StreamedWindows) else rows
    if not workers and not on_cuda:
        return InPlace(dataset, rows)
    return DataLoader(dataset, batch_size=None, sampler=rows, num_workers=workers, pin_memory=on_cuda)


def limited_steps(plan: BatchPlan, limit: float) -> int:
    """Steps of an epoch under a trainer's `limit_train_batches`, a number of micro-batches or a share of them."""
    whole = plan.order.steps_per_epoch * plan.micro_batches
    batches = min(limit, whole) if isinstance(limit, int) else int(limit * whole)
    return int(batches // plan.micro_batches)
