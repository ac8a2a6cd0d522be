"""Where the best learning rate lies, how a range test finds it, and whether it moves with the width.

A range test raises the rate a little every step and looks where the loss is lowest and where it leaps. A sweep
trains once at each rate. If the best rate of a narrow model is that of a wide one, a search may be done on the
narrow one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from babygpt import BabyGPT
from babygpt.errors import NotFiniteError
from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import OF_SEARCH, curves_of, search, trial

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


def vertex(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate of the lowest loss: the vertex of a parabola, in log rate, through the lowest point and those beside it.

    At an end of the list, and beside an infinite loss, the rate itself. Rates are a constant factor apart.
    """
    at = min(range(len(losses)), key=losses.__getitem__)
    if at in (0, len(losses) - 1):
        return rates[at]
    before, here, after = losses[at - 1 : at + 2]
    if not (math.isfinite(before) and math.isfinite(after)) or before == here == after:
        return rates[at]
    shift = 0.5 * (before - after) / (before - 2 * here + after)
    return float(rates[at] * (rates[at + 1] / rates[at]) ** shift)


def run(setting: Setting) -> Measured:
    """A sweep and a range test."""
    found = search(setting)
    best = math.nan if found.fits[found.best] is None else vertex(found.rates, found.losses)
    lowest, of_test = range_test(setting)
    outcomes = {**found.outcomes, "best_lr": best, "range_test_lr": lowest}
    tried = zip(found.rates, found.losses, strict=True)
    sweep = [(math.log10(lr), loss) for lr, loss in tried if math.isfinite(loss)]
    return Measured(outcomes, {"sweep": sweep, **of_test})


def range_test(setting: Setting) -> tuple[float, dict[str, list[tuple[float, float]]]]:
    """The rate of the lowest loss, and the curves; no number and none where the test breaks down before its end."""
    with trial(_rising(setting), Rising) as made:
        try:
            fitted = made.fit()
        except NotFiniteError:
            return math.nan, {}
    test = [(step["lr"], step["train_loss"]) for step in fitted.steps]
    lowest = min((p for p in test if math.isfinite(p[1])), key=lambda p: p[1])[0]
    return lowest, {"range_test": [(math.log10(lr), loss) for lr, loss in test], **curves_of(fitted, "lr")}


def _rising(setting: Setting) -> Setting:
    return replace(setting, lr=_HIGHEST, rates=(), schedule="constant", warmup=0.0)


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
        Arm("width", "the scale's width"),
        Arm("half", "half of it", times={"width": 0.5}),
        Arm("double", "twice it", times={"width": 2}),
    ),
    outcomes=(
        Outcome("best_lr", "best rate of the sweep", ratio=True),
        Outcome("val_loss", "lowest validation loss of the sweep, nats a token"),
        Outcome("range_test_lr", "rate of the lowest loss in the range test", ratio=True),
        *OF_SEARCH,
    ),
    contrasts=tuple(
        Contrast(outcome, arm, "width") for outcome in ("best_lr", "val_loss") for arm in ("half", "double")
    ),
    run=run,
    shared=lambda scale: {"steps": scale.steps // 2, "rates": RATES},
    trainings=lambda setting: (*setting.searched(), _rising(setting)),
    seeds=4,
    plotted=(
        ("sweep", "log10 of the rate", "nats a token"),
        ("range_test", "log10 of the rate", "nats a token"),
    ),
)
