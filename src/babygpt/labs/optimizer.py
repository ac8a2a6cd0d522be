"""AdamW or Muon for the blocks' matrices, each at the best of three rates.

A comparison of optimisers at one rate compares the rates. Each run of an arm is a small search: three trainings from
the same weights, and the best of their losses counts. Both arms search as much.
"""

from __future__ import annotations

import math

from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import OF_SEARCH, curves_of, search, within

__all__ = ["LAB"]

RATES = {"adamw": (2e-3, 4e-3, 8e-3), "muon": (1e-2, 2e-2, 4e-2)}


def run(setting: Setting) -> Measured:
    """One search."""
    found = search(setting)
    best = found.fits[found.best]
    outcomes = {**found.outcomes, "best_lr": math.nan if best is None else found.rates[found.best]}
    tried = [(lr, loss) for lr, loss in zip(found.rates, found.losses, strict=True) if math.isfinite(loss)]
    return Measured(outcomes, {**(curves_of(best, "train_loss") if best else {}), "val_loss": tried})


def _arm(name: str, optimizer: str) -> Arm:
    rates = RATES[optimizer]
    about = f"{name} at {', '.join(f'{lr:g}' for lr in rates[:-1])} and {rates[-1]:g}"
    return Arm(optimizer, about, {"optimizer": optimizer, "rates": rates})


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
    arms=(_arm("AdamW", "adamw"), _arm("Muon", "muon")),
    outcomes=(
        Outcome("val_loss", "lowest validation loss of the three, nats a token"),
        Outcome("best_lr", "the rate that had it", ratio=True),
        *OF_SEARCH,
    ),
    contrasts=(Contrast("val_loss", "muon", "adamw"),),
    claims=(within("adamw"), within("muon")),
    run=run,
    plotted=(("train_loss", "step", "nats a token"), ("val_loss", "learning rate", "nats a token")),
)
