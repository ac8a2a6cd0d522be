"""AdamW or Muon for the blocks' matrices, each at the best of three rates.

A comparison of optimisers at one rate compares the rates. Each run of an arm is a small search: three trainings from
the same weights, and the best of their losses counts. Both arms search as much.
"""

from __future__ import annotations

from dataclasses import replace

from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import curves_of, trial

__all__ = ["LAB"]

RATES = {"adamw": (2e-3, 4e-3, 8e-3), "muon": (5e-3, 1e-2, 2e-2)}


def run(setting: Setting) -> Measured:
    """One search."""
    losses = {}
    curves = {}
    for lr in RATES[setting.optimizer]:
        with trial(replace(setting, lr=lr)) as made:
            fitted = made.fit()
        losses[lr] = fitted.validations[-1]["val_loss"]
        curves[lr] = curves_of(fitted, "train_loss")
    best = min(losses, key=lambda lr: losses[lr])
    outcomes = {"val_loss": losses[best], "best_lr": best}
    return Measured(outcomes, {**curves[best], "val_loss": list(losses.items())})


LAB = Lab(
    name="optimizer",
    line="AdamW or Muon, each at the best of three rates",
    question="Does Muon reach a lower loss than AdamW in the same steps?",
    protocol=(
        "From the same random weights each optimiser is trained three times, at rates a factor of two apart, on"
        " the same"
        " windows; the lowest of the three validation losses counts. Muon updates the matrices of the blocks, AdamW"
        " everything else."
    ),
    arms=(
        Arm("adamw", "AdamW at 0.002, 0.004 and 0.008", {"optimizer": "adamw"}),
        Arm("muon", "Muon at 0.005, 0.01 and 0.02", {"optimizer": "muon"}),
    ),
    outcomes=(
        Outcome("val_loss", "lowest validation loss of the three, nats a token"),
        Outcome("best_lr", "the rate that had it", ratio=True),
    ),
    contrasts=(Contrast("val_loss", "muon", "adamw"),),
    run=run,
    fits=3,
    plotted=(("train_loss", "step", "nats a token"), ("val_loss", "learning rate", "nats a token")),
)
