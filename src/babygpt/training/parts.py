"""The parts of any run: its data, its module and its configuration, as a recipe says them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from babygpt import planner, timing
from babygpt.data.choosing import Progress
from babygpt.data.mixture import Stretch
from babygpt.data.module import LLMDataModule
from babygpt.data.sources import Say
from babygpt.errors import RecipeError
from babygpt.machine import MachinePlan
from babygpt.model.load import load_config
from babygpt.recipe import Recipe
from babygpt.training.module import BabyGPT
from babygpt.training.spikes import Rollback

__all__ = [
    "build_data",
    "build_module",
    "config_of",
    "first_words",
    "measured",
    "micro_batches",
    "of_data",
    "require_full_steps",
    "resolved",
    "sequences_of",
    "validation_batches",
]


def build_data(
    recipe: Recipe,
    batch_size: int,
    workers: int = 0,
    progress: Progress | None = None,
    say: Say | None = None,
    prepared_as: str | None = None,
    rollbacks: Sequence[Rollback] = (),
    reweighted: Sequence[Stretch] = (),
    cache_gb: float | None = None,
) -> LLMDataModule:
    """The data module of a recipe; `prepared_as` is the token store of a run that goes on."""
    data = recipe.data
    size = data.global_batch_size
    return LLMDataModule(
        recipe.model.name,
        batch_size,
        path=data.path,
        weights=data.weights,
        field=data.field,
        val_path=data.val_path,
        val_fraction=data.val_fraction,
        deduplicate=data.deduplicate,
        tokenizer=data.tokenizer,
        block=data.block,
        packing=data.packing,
        too_long=data.too_long,
        train_on_prompts=data.train_on_prompts,
        prompt_weight=data.prompt_weight,
        global_batch_size=None if size == "auto" else size,
        val_batches=recipe.validate.batches,
        workers=workers,
        seed=recipe.seed,
        revision=recipe.model.revision,
        progress=progress,
        say=say,
        prepared_as=prepared_as,
        rollbacks=[(r.to, r.seen) for r in rollbacks],
        reweighted=reweighted,
        cache_gb=cache_gb,
    )


def of_data(say: Say) -> Say:
    """What is told of the data, among what a run says besides."""
    return lambda note: say(f"data: {note}")


def build_module(recipe: Recipe, plan: MachinePlan, data: LLMDataModule) -> BabyGPT:
    """The module of a recipe, as the plan runs it."""
    return BabyGPT(
        recipe.model.name,
        float(recipe.optim.lr),
        optimizer=recipe.optim.name,
        weight_decay=recipe.optim.weight_decay,
        betas=recipe.optim.betas,
        schedule=recipe.schedule.name,
        warmup=recipe.schedule.warmup,
        final=recipe.schedule.final,
        dropout=recipe.model.dropout,
        attention=recipe.model.attention,
        activation_checkpointing=plan.activation_checkpointing,
        compile=plan.compile,
        revision=recipe.model.revision,
        vocab_size=_vocab_size(recipe, data),
        seed=recipe.seed,
    )


def _vocab_size(recipe: Recipe, data: LLMDataModule) -> int | None:
    """A preset's vocabulary follows the tokenizer; a pretrained model's is its own."""
    return len(data.tokenizer) if recipe.model.name.startswith("preset:") else None


def config_of(recipe: Recipe, data: LLMDataModule) -> Any:
    """The model's configuration."""
    return load_config(
        recipe.model.name, revision=recipe.model.revision, vocab_size=_vocab_size(recipe, data)
    )


def first_words(data: LLMDataModule) -> str:
    """The first few tokens of a validation document: what a sample continues."""
    ids = data.prepared.val.ids(0, min(8, data.prepared.val.num_tokens))
    text = data.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    return str(text)


def resolved(recipe: Recipe, data: LLMDataModule, parameters: int) -> Recipe:
    """The recipe as a run begins with it, but for its budget.

    Args:
        recipe: with its model named.
        data: of that recipe.
        parameters: of the model.
    """
    return planner.resolve_recipe(
        recipe,
        model_name=recipe.model.name,
        parameters=parameters,
        block=data.block,
        windows=data.prepared.train.num_tokens // data.block,
    )


def sequences_of(recipe: Recipe, plan: MachinePlan) -> int:
    """Of one process in an optimiser step; the last may be short of one."""
    return -(-int(recipe.data.global_batch_size) // (plan.devices * plan.nodes))


def micro_batches(recipe: Recipe, plan: MachinePlan) -> int:
    """Of an optimiser step, one after the other."""
    return -(-int(recipe.data.global_batch_size) // (plan.micro_batch * plan.side_by_side))


def validation_batches(data: LLMDataModule, plan: MachinePlan) -> int:
    """Micro-batches of a validation, one after the other."""
    return len(data.validation.rows(plan.micro_batch, 0, plan.side_by_side))


def measured(
    recipe: Recipe,
    plan: MachinePlan,
    data: LLMDataModule,
    model: PreTrainedModel,
    bounds: tuple[int, int, float] = timing.MEASURED,
) -> timing.StepTime:
    """A few steps of a run timed on one device, as its share of them; what devices tell each other is not in it.

    Args:
        recipe: resolved.
        plan: of this computer.
        data: set up for the plan's micro-batch.
        model: of the recipe, on the CPU.
        bounds: as of `measure_step`.
    """
    return timing.measure_step(
        model, data.micro_batch, plan, micro_batches(recipe, plan), recipe.optim.name, bounds
    )


def require_full_steps(data: LLMDataModule) -> None:
    """Refuses a step that would be mostly empty: a window comes once an epoch, and no step goes beyond one."""
    order = data.plan.order
    if order.global_batch_size > order.num_windows:
        raise RecipeError(
            f"a step of {order.global_batch_size:,} windows is more than the {order.num_windows:,} that the text makes",
            where="data.global_batch_size",
            hint=f"Give at most {order.num_windows}, a smaller data.block, or more text",
        )
