"""Where the best learning rate lies, how a range test finds it, and whether it moves with the width.

A range test raises the rate a little every step and looks where the loss is lowest and where it leaps. A sweep
trains once at each rate. If the best rate of a narrow model is that of a wide one, a search may be done on the
narrow one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from babygpt import BabyGPT
from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import curves_of, trial

__all__ = ["LAB", "vertex"]

_LOWEST, _HIGHEST = 1e-4, 1.0
RATES = tuple(2.5e-4 * 4**n for n in range(4))


class Rising(BabyGPT):
    """Raises the rate by the same factor every step, from a ten-thousandth to 1."""

    def configure_optimizers(self) -> Any:
        """The optimiser at the lowest rate, and the rise."""
        made: Any = super().configure_optimizers()
        steps = self.trainer.max_steps
        for group in made["optimizer"].param_groups:
            group["lr"] = group["initial_lr"] = _LOWEST
        rise = torch.optim.lr_scheduler.LambdaLR(
            made["optimizer"], lambda step: (_HIGHEST / _LOWEST) ** (step / max(1, steps - 1))
        )
        return {"optimizer": made["optimizer"], "lr_scheduler": {"scheduler": rise, "interval": "step"}}


def vertex(rates: list[float], losses: list[float]) -> float:
    """The rate of the lowest loss: the vertex of a parabola, in log rate, through the lowest point and those beside it.

    At an end of the list the end itself. Rates are a constant factor apart.
    """
    at = min(range(len(losses)), key=losses.__getitem__)
    if at in (0, len(losses) - 1):
        return rates[at]
    before, here, after = losses[at - 1 : at + 2]
    shift = 0.5 * (before - after) / (before - 2 * here + after)
    return float(rates[at] * (rates[at + 1] / rates[at]) ** shift)


def run(setting: Setting) -> Measured:
    """A sweep and a range test."""
    losses = []
    for lr in RATES:
        with trial(replace(setting, lr=lr)) as made:
            losses.append(made.fit().validations[-1]["val_loss"])
    with trial(replace(setting, schedule="constant", warmup=0.0), Rising) as made:
        rising = made.fit(grad_clip=1.0)
    test = [(step["lr"], step["train_loss"]) for step in rising.steps]
    lowest = min((p for p in test if math.isfinite(p[1])), key=lambda p: p[1])[0]
    outcomes = {"best_lr": vertex(list(RATES), losses), "val_loss": min(losses), "range_test_lr": lowest}
    curves = {
        "sweep": [(math.log10(lr), loss) for lr, loss in zip(RATES, losses, strict=True)],
        "range_test": [(math.log10(lr), loss) for lr, loss in test],
        **curves_of(rising, "lr"),
    }
    return Measured(outcomes, curves)


LAB = Lab(
    name="learning-rate",
    line="The range test, and whether the best rate moves with the width",
    question="Is the best learning rate of one model that of models half and twice as wide?",
    protocol=(
        "Each width is trained at four rates, a factor of four apart, and the lowest point of the validation"
        " losses is found"
        " with a parabola. Beside it a range test raises the rate every step, from 0.0001 to 1, and takes where"
        " the training"
        " loss is lowest."
    ),
    arms=(
        Arm("width", "the scale's width", {"variant": "1"}),
        Arm("half", "half of it", {"variant": "0.5"}),
        Arm("double", "twice it", {"variant": "2"}),
    ),
    outcomes=(
        Outcome("best_lr", "best rate of the sweep", ratio=True),
        Outcome("val_loss", "lowest validation loss of the sweep, nats a token"),
        Outcome("range_test_lr", "rate of the lowest loss in the range test", ratio=True),
    ),
    contrasts=tuple(
        Contrast(outcome, arm, "width") for outcome in ("best_lr", "val_loss") for arm in ("half", "double")
    ),
    run=lambda setting: run(replace(setting, width=int(setting.width * float(setting.variant)))),
    shared=lambda scale: {"steps": scale.steps // 2},
    fits=5,
    seeds=4,
    plotted=(
        ("sweep", "log10 of the rate", "nats a token"),
        ("range_test", "log10 of the rate", "nats a token"),
    ),
)
