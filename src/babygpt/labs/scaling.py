"""Predict a run eight times as long from short ones, then train it.

The validation loss against the tokens seen is fitted on four short runs, each with a schedule of its own: as a pure
power, L = A D^-b, a line in the logarithms; or as a power above a floor, L = E + A D^-0.28, with the exponent that
Hoffmann et al. found for tokens (arXiv:2203.15556). The guess to beat is that the long run ends where the longest
short one did.

Three things spoil such a prediction. The first hundred steps learn which tokens are frequent and follow no power, so
that the shortest run lies beyond them. Two seeds differ by half a percent at the end, and with a floor and an exponent
both free that becomes 4 % eight times further on, so that of the two one is taken as known. And no text may be read
twice, so that windows are short and steps small at every scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import trial

__all__ = ["LAB", "predict"]

_TIMES = 8
# Of the longest short run.
_SHARES = (3, 2, 1.5, 1)
_EXPONENT = 0.28
# Windows of a step, their tokens, and steps of the longest short run: eight times as many read 2.6 million tokens.
_BATCH, _BLOCK, _LONGEST = 8, 32, 1280


def predict(how: str, x: Sequence[float], y: Sequence[float], at: float) -> float:
    """The loss at a number of tokens, from others.

    Args:
        how: `last`, `power`, or `floor`.
        x: tokens, rising.
        y: losses, nats.
        at: tokens of the run that is predicted.
    """
    if how == "last":
        return y[-1]
    if how == "power":
        slope, offset = _line([math.log(v) for v in x], [math.log(v) for v in y])
        return math.exp(offset + slope * math.log(at))
    slope, floor = _line([v**-_EXPONENT for v in x], y)
    return float(floor + slope * at**-_EXPONENT)


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least squares: slope and offset."""
    mx, my = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)
    return slope, my - slope * mx


def trainings(setting: Setting) -> tuple[Setting, ...]:
    """The short runs and the long one; the arms of a pair share them."""
    steps = (*(int(setting.steps / share) for share in _SHARES), setting.steps * _TIMES)
    return tuple(replace(setting, arm="", variant="", steps=each) for each in steps)


@lru_cache(maxsize=4)
def _losses(setting: Setting) -> tuple[tuple[float, float], ...]:
    """Tokens and validation loss of each of them."""
    found = []
    for each in trainings(setting):
        with trial(each) as made:
            fitted = made.fit()
        found.append((float(fitted.steps[-1]["tokens"]), fitted.validations[-1]["val_loss"]))
    return tuple(found)


def run(setting: Setting) -> Measured:
    """The short runs, the prediction, and the long run."""
    points = _losses(replace(setting, arm="", variant=""))
    (*short, (at, reached)) = points
    tokens, losses = [p[0] for p in short], [p[1] for p in short]
    predicted = predict(setting.variant, tokens, losses, at)
    outcomes = {"error": abs(predicted / reached - 1), "predicted": predicted, "reached": reached}
    curves = {
        "val_loss": [(math.log10(d), loss) for d, loss in points],
        "prediction": [(math.log10(d), predict(setting.variant, tokens, losses, d)) for d, _ in points],
    }
    return Measured(outcomes, curves)


LAB = Lab(
    name="scaling",
    line="Predict a run eight times as long from short ones, then train it",
    question="Does a power law fitted on short runs predict the loss of one eight times as long?",
    protocol=(
        "Four short runs, from a third of the longest on and each with a schedule of its own, are fitted, the loss of"
        " a run eight times the longest is predicted, and then it is trained. No text is read twice. The error is"
        " relative, without its sign."
    ),
    arms=(
        Arm("last", "predicts the loss of the longest short run", {"variant": "last"}),
        Arm("power", "L = A D^-b", {"variant": "power"}),
        Arm("floor", "L = E + A D^-0.28", {"variant": "floor"}),
    ),
    outcomes=(
        Outcome("error", "relative error of the predicted loss"),
        Outcome("predicted", "predicted loss, nats a token"),
        Outcome("reached", "loss of the long run, nats a token"),
    ),
    contrasts=(
        Contrast("error", "power", "last"),
        Contrast("error", "floor", "last"),
        Contrast("error", "floor", "power"),
    ),
    claims=tuple(
        Claim(f"{arm}: the prediction is within 3 %", "error", arm, None, 0.0, 0.03)
        for arm in ("power", "floor")
    ),
    run=run,
    shared=lambda scale: {
        "optimizer": "muon",
        "lr": 1e-2,
        "text": "builtin:python",
        "batch": _BATCH,
        "block": _BLOCK,
        "steps": min(4 * scale.steps, _LONGEST),
    },
    trainings=trainings,
    seeds=4,
    plotted=(
        ("val_loss", "log10 of the tokens", "nats a token"),
        ("prediction", "log10 of the tokens", "nats a token"),
    ),
)
