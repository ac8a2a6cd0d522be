"""What the validation perplexity says, in words: once at the start, and once more if the run is not learning."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

__all__ = ["NOT_LEARNING_ABOVE", "PerplexityWatch", "describe_start", "fall_in_words", "is_not_learning"]

logger = logging.getLogger("lightning.pytorch.babygpt")

NOT_LEARNING_ABOVE = 1000.0
_SENSIBLE_SHARE = 0.25
_SENSIBLE_STEPS = 100


def describe_start(perplexity: float, vocab_size: int) -> str:
    """One line on what a first validation's perplexity means.

    Args:
        perplexity: exp of the mean loss over the validation targets.
        vocab_size: entries of the vocabulary: the perplexity of guessing evenly.
    """
    seen = f"first validation: perplexity {perplexity:,.1f}"
    if perplexity > 2 * vocab_size:
        return (
            f"{seen}, worse than guessing evenly among {vocab_size:,} tokens: the weights predict something else"
            " than this text; is the tokenizer the model's own?"
        )
    if perplexity > vocab_size / 3:
        return (
            f"{seen}, about the vocabulary's size ({vocab_size:,}): random weights guess evenly; this is training"
            " from scratch"
        )
    if perplexity <= 100:
        return f"{seen}: the weights already predict this kind of text, as pretrained ones do (100 or below)"
    return (
        f"{seen}, between that of pretrained weights (100 or below) and of random ones ({vocab_size:,}): partly"
        " trained, or trained on another kind of text"
    )


def fall_in_words(first: float, last: float) -> str:
    """From where a perplexity fell, and by what factor: with two more digits where it is a small one."""
    fell = first / last
    if 0.995 < fell < 1.005:
        return f"from {first:,.1f}: about the same"
    times = max(fell, 1 / fell)
    digits = 0 if times >= 10 else 2
    return f"from {first:,.1f}: {times:,.{digits}f}x {'lower' if fell > 1 else 'higher'}"


def is_not_learning(perplexity: float, step: int, total_steps: int | None, vocab_size: int) -> bool:
    """Whether a run past a quarter of its steps (and at least 100) still guesses almost evenly."""
    point = max(_SENSIBLE_STEPS, _SENSIBLE_SHARE * (total_steps or 4 * _SENSIBLE_STEPS))
    return step >= point and perplexity > min(NOT_LEARNING_ABOVE, vocab_size / 4)


class PerplexityWatch(L.Callback):
    """Says what the first validation sees, and warns once when the run is not learning."""

    def __init__(self) -> None:
        self._described = False
        self._warned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Reads the validation's perplexity."""
        value = trainer.callback_metrics.get("val_perplexity")
        if value is None or not trainer.is_global_zero:
            return
        perplexity, vocab = float(value), int(pl_module.model.config.get_text_config().vocab_size)
        if not self._described:
            self._described = True
            if trainer.global_step == 0:
                logger.info(describe_start(perplexity, vocab))
        steps = trainer.max_steps if trainer.max_steps != -1 else None
        if not self._warned and is_not_learning(perplexity, trainer.global_step, steps, vocab):
            self._warned = True
            logger.warning(
                f"not learning: validation perplexity is still {perplexity:,.0f} at step {trainer.global_step:,};"
                " try a tenth or ten times the learning rate (optim.lr), a longer warm-up (schedule.warmup), and"
                " look at a few documents of the data"
            )
