"""The first test of any trainer: can it memorise one batch?

A model that sees the same text again and again has to know it by heart before long, whatever the data. One that
cannot has a fault between labels, gradient and update, and no amount of data mends it. Beside it the same model sees a
fresh batch each step, which it cannot memorise.

A batch is one long window here. Of several, two may begin with the same token and go on differently, and no model can
know which of them it is in: 2 ln 2 nats that stay.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from babygpt import BabyGPT
from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import POSITIONS, measured, trial

__all__ = ["LAB"]


class OneBatch(BabyGPT):
    """Trains on the first batch it sees, again and again."""

    _first: dict[str, torch.Tensor] | None = None

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """A step on the first batch."""
        self._first = self._first or batch
        return super().training_step(self._first, batch_idx)


KINDS: dict[str, Any] = {"repeat": OneBatch, "fresh": BabyGPT}


def run(setting: Setting) -> Measured:
    """One run."""
    with trial(setting, KINDS[setting.variant]) as made:
        return measured(made.fit())


LAB = Lab(
    name="overfit",
    line="Memorise one batch: the first test of any trainer",
    question="Does the loss on one batch, seen again and again, go to nothing?",
    protocol=(
        "The same random weights are trained for the same steps, on the first batch, a window, repeated or on a"
        " fresh one each step, without weight decay and at a constant rate. The loss of the last tenth of the steps"
        " is compared."
    ),
    arms=(
        Arm("one-batch", "the first batch, every step", {"variant": "repeat"}),
        Arm("fresh", "a fresh batch, every step", {"variant": "fresh"}),
    ),
    outcomes=(
        Outcome("train_loss", "training loss at the end, nats a token", ratio=True),
        Outcome("val_loss", "validation loss at the end, nats a token"),
    ),
    contrasts=(Contrast("train_loss", "one-batch", "fresh"), Contrast("val_loss", "one-batch", "fresh")),
    claims=(
        Claim(
            "a sound trainer knows one batch by heart: below 0.1 nats",
            "train_loss",
            "one-batch",
            None,
            -math.inf,  # the interval of a loss near 0 may reach below it
            0.1,
        ),
    ),
    run=run,
    shared=lambda scale: {
        "lr": 1e-2,
        "weight_decay": 0.0,
        "schedule": "constant",
        "batch": 1,
        "block": min(POSITIONS, scale.block * scale.batch),
        "steps": min(scale.steps, 200),
    },
)
