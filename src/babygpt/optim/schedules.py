"""Learning-rate schedules as pure functions: step -> multiplier of the peak.

Steps count from 0. Warm-up of w steps gives (step + 1) / w, so that the first step already learns and step w
- 1 is the peak. Then, with p going from 0 at the peak to 1 one step past the last:

    cosine    final + (1 - final) * (1 + cos(pi * p)) / 2
    linear    1 - (1 - final) * p
    wsd       1, and over the last 20 % of the run linearly to final (warm-up, stable, decay)
    constant  1
"""

from __future__ import annotations

import math

from babygpt.errors import RecipeError

__all__ = ["SCHEDULES", "multiplier", "warmup_steps"]

SCHEDULES = ("cosine", "linear", "wsd", "constant")
_WSD_DECAY = 0.2


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up, at most the whole run.

    Args:
        warmup: a share of the run if below 1, else steps.
        total: steps of the run.
    """
    return min(total, round(warmup * total) if warmup < 1 else int(warmup))


def multiplier(name: str, step: int, total: int, warmup: float, final: float) -> float:
    """The factor of the peak learning rate at a step.

    Args:
        name: `cosine`, `linear`, `wsd` or `constant`.
        step: from 0; from `total` on the value stays at its end.
        total: steps of the run.
        warmup: a share of the run if below 1, else steps.
        final: where the decay ends, as a share of the peak.

    Raises:
        RecipeError: an unknown name.
    """
    if name not in SCHEDULES:
        raise RecipeError(
            f"no schedule {name!r}", where="schedule.name", hint=f"One of {', '.join(SCHEDULES)}"
        )
    # Without warm-up the first step is the peak, which is a warm-up of one step.
    warm = max(1, warmup_steps(warmup, total))
    if step < warm:
        return (step + 1) / warm
    peak = warm - 1
    if name == "constant":
        return 1.0
    if name == "wsd":
        peak = max(peak, total - 1 - round(_WSD_DECAY * total))
    progress = min(1.0, max(0.0, (step - peak) / (total - peak)))
    shape = (1 + math.cos(math.pi * progress)) / 2 if name == "cosine" else 1 - progress
    return final + (1 - final) * shape
