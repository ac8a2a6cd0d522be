"""Break the rule: weight decay on everything, norms and biases too, instead of on the matrices only.

AdamW takes lr x decay of each decayed weight away every step. Over a run the sum of the rates decides what that
comes to: at a peak of 3e-3, decay 0.1 and a few hundred steps a norm's gain loses a few per cent, which is why so
little is seen. Strong decay, and longer runs (`--scale`), make it plain.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from babygpt import BabyGPT
from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import curves_of, last_loss, trial
from babygpt.optim.groups import Rule

__all__ = ["EVERYTHING", "LAB", "gains_and_biases"]

EVERYTHING = (Rule("everything", lambda name, parameter, module: True, decay=True),)


def gains_and_biases(module: Any) -> dict[str, float]:
    """The mean gain of the layer norms, 1 at first, and the root mean square of all biases, 0 at first."""
    norms = [m for m in module.model.modules() if isinstance(m, nn.LayerNorm)]
    gains = [float(m.weight.detach().mean()) for m in norms]
    biases = [p.detach() for name, p in module.model.named_parameters() if name.endswith("bias")]
    squares = sum(float(b.square().sum()) for b in biases)
    return {
        "norm_gain": sum(gains) / len(gains),
        "bias_rms": math.sqrt(squares / sum(b.numel() for b in biases)),
    }


def run(setting: Setting) -> Measured:
    """One run."""
    rules = EVERYTHING if setting.variant == "everything" else None
    with trial(setting, BabyGPT, rules=rules) as made:
        fitted = made.fit(probe=gains_and_biases)
    last = fitted.validations[-1]
    outcomes = {"val_loss": last["val_loss"], "norm_gain": last["norm_gain"], "bias_rms": last["bias_rms"]}
    outcomes["train_loss"] = last_loss(fitted)
    return Measured(outcomes, curves_of(fitted, "val_loss", "norm_gain", "bias_rms"))


LAB = Lab(
    name="weight-decay",
    line="Break the rule: decay on everything, or on matrices only",
    question="Does weight decay on norms and biases make the validation loss worse, or training unstable?",
    protocol=(
        "The same random weights are trained on the same windows with AdamW, the decay on matrices only or on every"
        " parameter, at the usual 0.1 and ten times it. Beside the losses the mean gain of the layer norms and"
        " the size"
        " of the biases are followed."
    ),
    arms=(
        Arm("matrices", "decay 0.1 on matrices", {"variant": "matrices"}),
        Arm("everything", "decay 0.1 on every parameter", {"variant": "everything"}),
        Arm("matrices-strong", "decay 1.0 on matrices", {"variant": "matrices", "weight_decay": 1.0}),
        Arm(
            "everything-strong",
            "decay 1.0 on every parameter",
            {"variant": "everything", "weight_decay": 1.0},
        ),
    ),
    outcomes=(
        Outcome("val_loss", "validation loss at the end, nats a token"),
        Outcome("norm_gain", "mean gain of the layer norms"),
        Outcome("bias_rms", "root mean square of the biases"),
        Outcome("train_loss", "training loss at the end, nats a token"),
    ),
    contrasts=tuple(
        Contrast(outcome, f"everything{strong}", f"matrices{strong}")
        for outcome in ("val_loss", "norm_gain", "bias_rms")
        for strong in ("", "-strong")
    ),
    claims=(
        Claim(
            "decay on everything makes the validation loss worse, by 0.01 nats or more",
            "val_loss",
            "everything",
            "matrices",
            0.01,
            math.inf,
        ),
    ),
    run=run,
    shared=lambda scale: {"validations": 8},
    plotted=(
        ("norm_gain", "step", "mean gain"),
        ("bias_rms", "step", "root mean square"),
        ("val_loss", "step", "nats a token"),
    ),
)
