"""A cosine that steps once an epoch toward step 1000 is a constant rate.

A scheduler that `configure_optimizers` returns bare is stepped by Lightning once an epoch. With T_max = 1000 a run
of three epochs ends at 99.998 % of its rate. What the schedule was for, the fall to a small rate at the end, never
happens.
"""

from __future__ import annotations

from typing import Any

import torch

from babygpt import BabyGPT
from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import curves_of, measured, trial

__all__ = ["LAB", "PerEpoch"]

_T_MAX = 1000


class PerEpoch(BabyGPT):
    """Returns its scheduler bare, as in the tutorial."""

    def configure_optimizers(self) -> Any:
        """The same optimiser; a cosine of 1000 steps, one an epoch."""
        made: Any = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made["optimizer"], T_max=_T_MAX)
        return [made["optimizer"]], [scheduler]


KINDS: dict[str, type[BabyGPT]] = {"per-step": BabyGPT, "per-epoch": PerEpoch, "constant": BabyGPT}


def run(setting: Setting) -> Measured:
    """One run."""
    with trial(setting, KINDS[setting.variant]) as made:
        fitted = made.fit()
    found = measured(fitted, last_rate=fitted.steps[-1]["lr"] / setting.lr)
    return Measured(found.outcomes, {**found.curves, **curves_of(fitted, "lr")})


LAB = Lab(
    name="schedule",
    line="A cosine stepped once an epoch toward 1000, or every step",
    question="Does it matter whether the cosine is stepped every step over the run, or once an epoch toward step 1000?",
    protocol=(
        "The same random weights are trained on the same windows without warm-up: with a cosine over the run's"
        " own steps,"
        " with CosineAnnealingLR(T_max=1000) stepped once an epoch, and at a constant rate. Most of"
        " the text is held out, so that a small run has epochs to count."
    ),
    arms=(
        Arm("per-step", "cosine to 0 over the run, every step", {"variant": "per-step"}),
        Arm("per-epoch", "cosine toward step 1000, once an epoch", {"variant": "per-epoch"}),
        Arm("constant", "no schedule", {"variant": "constant", "schedule": "constant"}),
    ),
    outcomes=(
        Outcome("val_loss", "validation loss at the end, nats a token"),
        Outcome("last_rate", "learning rate of the last step, share of the peak"),
    ),
    contrasts=(
        Contrast("val_loss", "per-epoch", "per-step"),
        Contrast("val_loss", "per-epoch", "constant"),
        Contrast("last_rate", "per-epoch", "per-step"),
    ),
    claims=(
        Claim(
            "stepped once an epoch the rate is slowly lowered to 0", "last_rate", "per-epoch", None, 0.0, 0.05
        ),
        Claim("it ends within a thousandth of its peak", "last_rate", "per-epoch", None, 0.999, 1.0),
    ),
    run=run,
    shared=lambda scale: {"warmup": 0.0, "val_fraction": 0.95},
    plotted=(("lr", "step", "learning rate"), ("train_loss", "step", "nats a token")),
)
