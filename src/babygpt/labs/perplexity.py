"""Perplexity: the exponential of the mean loss, not the mean of the exponentials; and where it starts.

A validation step that logs exp(loss) of its batch has Lightning average the exponentials over the batches. The
exponential is convex, so that the mean of the exps is never below the exp of the mean (Jensen), and depends on the
batch size. Before the first step random weights guess evenly: a perplexity of about the vocabulary's size, whatever
that is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from babygpt import BabyGPT, LLMDataModule, validate
from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import Trial, curves_of, trial

__all__ = ["LAB", "AsPrinted"]

_WINDOWS = 128
_SLOWER = 0.1


class AsPrinted(BabyGPT):
    """Keeps the model's own loss of each validation batch, as a step that logs its exp would see them."""

    batch_losses: list[float] | None = None  # None keeps none: they take a forward pass of their own

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """The right sums, and the mean loss of the batch beside them."""
        super().validation_step(batch, batch_idx)
        if self.batch_losses is not None:
            self.batch_losses.append(float(self(**batch).loss))


def read(made: Trial, how: str) -> float:
    """The perplexity on the validation windows, read in one of the two ways, with a window a batch."""
    one_by_one = LLMDataModule(
        str(made.folder),
        1,
        path=made.setting.text,
        val_fraction=made.setting.val_fraction,
        tokenizer=f"train:{made.setting.vocab}",
        block=made.setting.block,
        val_batches=_WINDOWS,
        seed=made.setting.seed,
    )
    module: Any = made.module
    losses: list[float] = []
    module.batch_losses = losses if how == "mean-of-exps" else None
    right = validate(module, one_by_one)["val_perplexity"]
    module.batch_losses = None
    return sum(map(math.exp, losses)) / len(losses) if losses else right


def _before(setting: Setting) -> Setting:
    """What a pretrained start was trained by."""
    return replace(setting, seed=setting.seed + 1, lr=setting.lr / _SLOWER, validations=1)


def run(setting: Setting) -> Measured:
    """One run; a pretrained start has been trained by the same run before, in another data order."""
    with trial(setting, AsPrinted) as made:
        if setting.variant == "pretrained":
            with trial(_before(setting)) as before:
                before.fit()
            made.module.model.load_state_dict(before.module.model.state_dict())
        first = read(made, setting.variant)
        fitted = made.fit()
        outcomes = {"perplexity": read(made, setting.variant), "start": first / setting.vocab}
    return Measured(outcomes, curves_of(fitted, "val_perplexity"))


LAB = Lab(
    name="perplexity",
    line="The exp of the mean or the mean of the exps, and where it starts",
    question="How far off is a perplexity averaged over batches, and where do scratch and pretrained weights start?",
    protocol=(
        "The same run is read twice: as exp of the loss over all validation tokens, and as the mean over validation"
        " batches of one window each of exp of the batch's loss. A third arm starts from the weights of such a run, at"
        " a tenth of the rate."
    ),
    arms=(
        Arm("exp-of-mean", "random weights; exp of the mean over tokens", {"variant": "exp-of-mean"}),
        Arm("mean-of-exps", "random weights; mean over batches of their exps", {"variant": "mean-of-exps"}),
        Arm(
            "pretrained",
            "trained weights, at a tenth of the rate; exp of the mean over tokens",
            {"variant": "pretrained"},
            {"lr": _SLOWER},
        ),
    ),
    outcomes=(
        Outcome("perplexity", "perplexity at the end", ratio=True),
        Outcome("start", "perplexity before the first step, of the vocabulary's size", ratio=True),
    ),
    contrasts=(
        Contrast("perplexity", "mean-of-exps", "exp-of-mean"),
        Contrast("start", "pretrained", "exp-of-mean"),
    ),
    claims=(
        Claim(
            "from scratch perplexity starts at about the vocabulary's size",
            "start",
            "exp-of-mean",
            None,
            0.8,
            1.25,
        ),
    ),
    run=run,
    shared=lambda scale: {"validations": 8},
    trainings=lambda s: (_before(s), s) if s.variant == "pretrained" else (s,),
    plotted=(("val_perplexity", "step", "perplexity"),),
)
