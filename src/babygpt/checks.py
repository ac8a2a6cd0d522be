"""Self-checks at the start of training: cheap, numeric, on the very model and batch about to be trained.

Each finds a fault that otherwise shows only as a model that learned the wrong thing, and says what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from babygpt.data.labels import IGNORED
from babygpt.errors import CheckError, InputError
from babygpt.model.attention import model_inputs, packing_leak
from babygpt.model.loss import Head, count_targets, sum_nll
from babygpt.optim.schedules import multiplier

__all__ = ["StepContext", "Verdict", "check_schedule", "failure", "verdicts"]

Verdict = tuple[str, InputError | None]

_ROWS, _COLUMNS = 2, 128
# Two correct implementations differ by the order of summation: about sqrt(vocabulary) roundings of 6e-8.
_LOSS_TOLERANCE = 1e-4
# A leak moves logits by their own size; rounding of an isolated document moves them by about 1e-6.
_LEAK_TOLERANCE = 1e-3


@dataclass(frozen=True)
class StepContext:
    """What is about to be trained on.

    Args:
        batch: a micro-batch on the model's device: int64 [micro_batch, block] tensors.
        tokenizer: of the data.
        block: tokens of a window.
        isolated: whether documents are packed side by side without seeing one another.
    """

    batch: dict[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerBase
    block: int
    isolated: bool


def verdicts(model: PreTrainedModel, head: Head | None, context: StepContext) -> Iterator[Verdict]:
    """Every check that needs the model: what it looks at, in words, and its failure if it fails.

    Those that run the model come last, and only where the others pass: a model is not run on what it cannot take.
    """
    unfit = False
    for about, check in (
        (
            "every id of the tokenizer and the batch has an embedding",
            lambda: _check_vocabulary(model, context),
        ),
        ("the block fits into the model's positions", lambda: _check_positions(model, context.block)),
        ("the first batch has targets", lambda: _check_targets(context)),
        ("padding is no target, and ends of text are", lambda: _check_padding(context)),
        ("the head is tied as the configuration says", lambda: _check_tied(model)),
    ):
        error = failure(check)
        unfit = unfit or error is not None
        yield about, error
    if unfit:
        return
    if context.isolated:
        yield "packed documents do not see each other", failure(lambda: _check_leak(model), model)
    shift = lambda: _check_label_shift(model, head, context.batch)  # noqa: E731
    yield "our loss equals the model's own", failure(shift, model)


def failure(check: Callable[[], object], model: PreTrainedModel | None = None) -> InputError | None:
    """How a check fails, if it does; a model that it runs is in eval mode meanwhile."""
    was_training = model is not None and model.training
    if model is not None:
        model.train(False)
    try:
        check()
    except InputError as error:
        return error
    finally:
        if model is not None:
            model.train(was_training)
    return None


def check_schedule(name: str, total: int, warmup: float, final: float) -> None:
    """The learning rate changes from step to step.

    Args:
        name: the schedule's; `constant` and `wsd` are allowed to stay.
        total: steps of the run.
        warmup, final: as of `schedules.multiplier`.

    Raises:
        CheckError: it does not.
    """
    multipliers = [multiplier(name, step, total, warmup, final) for step in range(min(total, 3))]
    if name not in ("constant", "wsd") and len(multipliers) > 1 and len(set(multipliers)) == 1:
        raise CheckError(
            f"the {name} schedule gives the same learning rate at every step",
            where="schedule",
            hint="It must step every optimiser step over the run's length; check warmup and the budget",
        )


def embedding_rows(model: PreTrainedModel) -> int:
    """How many token ids the model has embeddings for."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def _check_vocabulary(model: PreTrainedModel, context: StepContext) -> None:
    rows = embedding_rows(model)
    entries, largest = len(context.tokenizer), int(context.batch["input_ids"].max())
    if entries > rows or largest >= rows:
        raise CheckError(
            f"the tokenizer has {entries:,} entries (largest id in the batch: {largest:,}) and the model only"
            f" {rows:,} embeddings: the tokenizer does not belong to the model",
            where="data.tokenizer",
            hint="Leave data.tokenizer at auto, or give the tokenizer the model was made with",
        )


def _check_positions(model: PreTrainedModel, block: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and block > positions:
        raise CheckError(
            f"a block of {block} tokens is longer than the model's {positions} positions",
            where="data.block",
            hint=f"Give {positions} or less",
        )


def _counted(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which tokens the loss counts, bool [micro_batch, block]; nothing predicts those of the first column."""
    weights = batch.get("loss_weights")
    return batch["labels"] != IGNORED if weights is None else weights > 0


def _check_targets(context: StepContext) -> None:
    if not bool(_counted(context.batch)[:, 1:].any()):
        raise CheckError(
            "every target of the first batch is masked, so that its loss would be 0/0",
            where="data",
            hint="Look for prompts without completions, or conversations without an assistant's turn",
        )


def _check_padding(context: StepContext) -> None:
    batch = context.batch
    mask, labels, ids = batch.get("attention_mask"), batch["labels"], batch["input_ids"]
    if mask is None:
        return
    if bool(((mask == 0) & _counted(batch)).any()):
        raise CheckError(
            "padding is inside the loss", where="labels", hint="Labels are -100 wherever attention_mask is 0"
        )
    eos = context.tokenizer.eos_token_id
    real_end = (ids == eos) & (mask == 1)
    real_end[:, 0] = False
    if bool((labels != IGNORED)[mask == 1].float().mean() > 0.9) and bool(
        (real_end & (labels == IGNORED)).any()
    ):
        raise CheckError(
            "end-of-text is masked inside the text, so that the model would never learn to stop",
            where="labels",
            hint="Mask padding by length, never by token id",
        )


def _check_tied(model: PreTrainedModel) -> None:
    if not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return
    output: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if output is not None and output.weight is not model.get_input_embeddings().weight:
        raise CheckError(
            "the configuration ties the head to the embeddings, but they are two tensors",
            where="model",
            hint="Call model.tie_weights() after changing either",
        )


@torch.no_grad()
def _check_leak(model: PreTrainedModel) -> None:
    leak = packing_leak(model, embedding_rows(model))
    if not leak <= _LEAK_TOLERANCE:
        raise CheckError(
            f"changing one packed document moves the next one's logits by {leak:.3g}: this model's attention lets"
            " documents see each other",
            where="data.packing",
            hint="Use data.packing stream or padded with this model, or model.attention eager if it has that",
        )


@torch.no_grad()
def _check_label_shift(model: PreTrainedModel, head: Head | None, batch: dict[str, torch.Tensor]) -> None:
    rows = (batch["labels"][:, 1:_COLUMNS] != IGNORED).any(dim=1).nonzero().flatten()[:_ROWS]
    if len(rows) == 0:
        return
    small = {k: v[rows, :_COLUMNS] for k, v in batch.items()}
    inputs = model_inputs(small, isolated="position_ids" in small)
    ours = sum_nll(model, inputs, small["labels"], head) / count_targets(small["labels"])
    with _without_transformers_advice():
        theirs = model(**inputs, labels=small["labels"]).loss
    if not torch.isfinite(ours):
        raise CheckError(
            f"the loss on the first batch is {float(ours)}",
            where="model",
            hint="Its weights hold infinities or overflow; load it afresh, or train another one",
        )
    if not torch.allclose(ours.float(), theirs.float(), rtol=_LOSS_TOLERANCE, atol=_LOSS_TOLERANCE):
        raise CheckError(
            f"our loss on the first batch is {float(ours):.6f} and the model's own is {float(theirs):.6f}:"
            " labels are shifted differently, or the model's loss is not the mean over next tokens",
            where="model",
            hint="Please report this model",
        )


@contextmanager
def _without_transformers_advice() -> Iterator[None]:
    """The model's own loss function warns of a config field that only names itself."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
