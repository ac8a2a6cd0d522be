"""More windows a step and fewer steps, with the same tokens: what a larger batch costs.

Averaging a gradient over more windows makes it less noisy; past some size there is little noise left to average and
steps are lost for nothing. The rate is what a batch size is usually compared at unfairly: one arm of each size takes
it by the square root of the size.
"""

from __future__ import annotations

from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import measured, trial

__all__ = ["LAB"]

_FACTOR = 4
_LARGER = {"batch": _FACTOR, "steps": 1 / _FACTOR}


def run(setting: Setting) -> Measured:
    """One run, of as many tokens as the others."""
    with trial(setting) as made:
        fitted = made.fit()
    noise = [step["grad_norm"] for step in fitted.steps[len(fitted.steps) // 2 :]]
    found = measured(fitted, grad_norm=sum(noise) / len(noise))
    tokens = [(float(step["tokens"]), step["train_loss"]) for step in fitted.steps]
    return Measured(found.outcomes, {"train_loss": tokens})


LAB = Lab(
    name="batch-size",
    line="A batch four times as large, at the same tokens",
    question="What does a batch four times as large cost at the same number of tokens, with the rate kept or raised?",
    protocol=(
        "The same random weights see the same number of tokens: in the scale's steps and batch, or in a quarter"
        " of the steps"
        " with four times the batch, at the same peak rate or at twice it (the square root of four)."
    ),
    arms=(
        Arm("base", "the scale's batch"),
        Arm("four-times", "four times the batch, a quarter of the steps", times=_LARGER),
        Arm("four-times-sqrt", "the same at twice the rate", times={**_LARGER, "lr": _FACTOR**0.5}),
    ),
    outcomes=(
        Outcome("val_loss", "validation loss at the end, nats a token"),
        Outcome("grad_norm", "mean gradient norm of the second half of the steps", ratio=True),
    ),
    contrasts=tuple(
        Contrast(outcome, arm, against)
        for outcome in ("val_loss", "grad_norm")
        for arm, against in (
            ("four-times", "base"),
            ("four-times-sqrt", "base"),
            ("four-times-sqrt", "four-times"),
        )
    ),
    run=run,
    plotted=(("train_loss", "target tokens", "nats a token"),),
)
