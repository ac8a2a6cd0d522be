"""Accumulated gradients: divided by the step's true targets, or by the number of micro-batches whatever they hold.

Lightning divides each micro-batch's loss by `accumulate_grad_batches`. At an epoch's end fewer micro-batches are
left, and the same division makes that step's gradient too small: with half of them, half. `BabyGPT` divides by the
targets that the whole step has.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from babygpt import BabyGPT
from babygpt.data.labels import IGNORED
from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import curves_of, measured, trial

__all__ = ["LAB", "EachAlike"]

_MICRO_BATCHES = 8
_TOKENS = {"builtin:prose": 5e4, "builtin:python": 3e6}
_NO_RATE = 1e-30  # a schedule has to have one; at this no weight moves


class EachAlike(BabyGPT):
    """Takes the mean of each micro-batch, which Lightning then divides by their number in a whole step."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The mean loss of the micro-batch; one without targets adds nothing."""
        exact = super().training_step(batch, batch_idx)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        mine = (batch["labels"][:, 1:] != IGNORED).sum().clamp(min=1)
        alike = data.step_targets(self.trainer.global_step) / (self.trainer.accumulate_grad_batches * mine)
        return exact * torch.as_tensor(alike)


KINDS: dict[str, type[BabyGPT]] = {"exact": BabyGPT, "each-alike": EachAlike}


def trainings(setting: Setting) -> tuple[Setting, ...]:
    """One epoch at no rate, for the gradients of the same weights; then the training.

    How many steps an epoch has is about what the built-in texts have; a run takes what there are.
    """
    tokens = (1 - setting.val_fraction) * _TOKENS[setting.text]
    epoch = math.ceil(tokens / (setting.batch * setting.block))
    return replace(setting, lr=_NO_RATE, weight_decay=0.0, steps=epoch), setting


def run(setting: Setting) -> Measured:
    """One run."""
    kind = KINDS[setting.variant]
    at_no_rate, trained = trainings(setting)
    with trial(at_no_rate, kind) as still:
        still.data.setup()
        gradients = still.fit(steps=still.data.steps_per_epoch, grad_clip=0.0)
    with trial(trained, kind) as made:
        found = measured(made.fit())
    curve = curves_of(gradients, "grad_norm")
    return Measured({**found.outcomes, "last_step": curve["grad_norm"][-1][1]}, {**found.curves, **curve})


LAB = Lab(
    name="accumulation",
    line="The small last step of an epoch under gradient accumulation",
    question="What does dividing every micro-batch alike do to an epoch's last step, and to the loss?",
    protocol=(
        "A step is 8 micro-batches, and the text is so short that an epoch has few steps; its last one is not"
        " full. At no learning rate the gradient of each step of an epoch is compared on the same weights; then every"
        " arm is trained."
    ),
    arms=(
        Arm("exact", "summed loss divided by the step's true targets", {"variant": "exact"}),
        Arm("one-pass", "the same in one micro-batch", {"variant": "exact", "micro_batch": 0}),
        Arm("each-alike", "mean of each micro-batch, divided by 8", {"variant": "each-alike"}),
    ),
    outcomes=(
        Outcome("last_step", "gradient norm of the epoch's last step, at the first weights", ratio=True),
        Outcome("val_loss", "validation loss at the end, nats a token"),
    ),
    contrasts=tuple(
        Contrast(outcome, arm, "exact")
        for outcome in ("last_step", "val_loss")
        for arm in ("one-pass", "each-alike")
    ),
    run=run,
    trainings=trainings,
    shared=lambda scale: {
        "val_fraction": 0.9,
        "batch": scale.batch * 4,
        "micro_batch": scale.batch * 4 // _MICRO_BATCHES,
        "steps": scale.steps // 4,
    },
    plotted=(
        ("grad_norm", "step of the epoch", "norm of the gradient"),
        ("train_loss", "step", "nats a token"),
    ),
)
