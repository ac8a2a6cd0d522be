"""Raw results -> verdicts: pure functions, so that anyone computes them again from `results.json`.

Two arms are compared seed by seed: d_i = y_i - x_i, or log y_i - log x_i where ratios are asked for, and the mean of
d gets Student's interval, mean +- t(0.975, n - 1) s / sqrt(n). If it holds no difference, no effect is seen; which
is not to say that there is none, only that it would be smaller than the interval. Each comparison is wrong in 5 % of
the cases where nothing differs: of twenty, one is expected to be.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from babygpt.labs.framework import NULL, Claim, Contrast, Lab

__all__ = ["NO_EFFECT", "Estimate", "Verdict", "estimate", "false_alarms", "judge", "t_quantile"]

CONFIDENCE = 0.95
NO_EFFECT = "no effect seen"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval of 95 %.

    Args:
        mean: of the differences, or the geometric mean of the ratios.
        low, high: the interval.
        n: seeds.
        not_finite: how many of them gave no number; they are not in the mean.
    """

    mean: float
    low: float
    high: float
    n: int
    not_finite: int = 0


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a comparison or a claim.

    Args:
        about: the comparison or claim in words.
        outcome: what is compared.
        arm, against: of it; `against` None is the number itself.
        ratio: whether the estimate is of ratios.
        estimate: the number.
        words: the verdict.
        bounds: of a claim: where it holds.
    """

    about: str
    outcome: str
    arm: str
    against: str | None
    ratio: bool
    estimate: Estimate
    words: str
    bounds: tuple[float, float] | None = None


def judge(lab: Lab, runs: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Every comparison, the null comparison of each outcome compared, then every claim.

    Args:
        lab: the experiment.
        runs: `arm`, `number` (which pair) and `outcomes` of each run, as in `results.json`.
    """
    compared = dict.fromkeys(c.outcome for c in lab.contrasts)
    nulls = [Contrast(outcome, NULL, lab.baseline.name) for outcome in compared]
    found = [_compare(lab, contrast, runs) for contrast in (*lab.contrasts, *nulls)]
    return [*found, *(_weigh(lab, claim, runs) for claim in lab.claims)]


def _compare(lab: Lab, contrast: Contrast, runs: Sequence[Mapping[str, Any]]) -> Verdict:
    ratio = lab.outcome(contrast.outcome).ratio
    x, y = _pairs(runs, contrast.outcome, contrast.against, contrast.arm)
    found = estimate(x, y, ratio=ratio)
    about = f"{contrast.arm} against {contrast.against}"
    if contrast.arm == NULL:
        about = f"null comparison: {contrast.against} against itself with other seeds"
    return Verdict(
        about, contrast.outcome, contrast.arm, contrast.against, ratio, found, _effect(found, ratio)
    )


def _weigh(lab: Lab, claim: Claim, runs: Sequence[Mapping[str, Any]]) -> Verdict:
    ratio = claim.against is not None and lab.outcome(claim.outcome).ratio
    x, y = _pairs(runs, claim.outcome, claim.against, claim.arm)
    found = estimate(x, y, ratio=ratio)
    if found.not_finite:
        words = f"not to be judged: {found.not_finite} runs gave no number"
    elif claim.low <= found.low and found.high <= claim.high:
        words = "holds"
    elif found.high < claim.low or found.low > claim.high:
        words = "does not hold"
    else:
        words = "undecided"
    return Verdict(
        claim.text, claim.outcome, claim.arm, claim.against, ratio, found, words, (claim.low, claim.high)
    )


def _effect(found: Estimate, ratio: bool) -> str:
    if found.not_finite:
        return f"breaks down in {found.not_finite} of {found.n + found.not_finite} runs"
    if math.isnan(found.low):
        return "not to be judged: it takes two pairs"
    nothing = 1.0 if ratio else 0.0
    if found.low <= nothing <= found.high:
        return NO_EFFECT
    return "higher" if found.mean > nothing else "lower"


def _pairs(
    runs: Iterable[Mapping[str, Any]], outcome: str, against: str | None, arm: str
) -> tuple[list[float], list[float]]:
    """The numbers of two arms by pair; without `against` zeros in its place."""
    numbers: dict[str, dict[int, float]] = {}
    for run in runs:
        value = run["outcomes"][outcome]  # JSON has no NaN: null stands for it
        numbers.setdefault(run["arm"], {})[run["number"]] = math.nan if value is None else value
    mine = numbers.get(arm, {})
    theirs = dict.fromkeys(mine, 0.0) if against is None else numbers.get(against, {})
    both = sorted(mine.keys() & theirs.keys())
    return [theirs[n] for n in both], [mine[n] for n in both]


# -- arithmetic ------------------------------------------------------------------------------------------------------


def estimate(x: Sequence[float], y: Sequence[float], *, ratio: bool = False) -> Estimate:
    """The mean of y - x, or of y / x, over pairs, with its interval of 95 %.

    Args:
        x, y: of the same length, paired by position.
        ratio: compare by y / x: the differences are those of the logarithms. All numbers are above 0.

    Returns:
        An interval of NaN where fewer than two pairs are numbers.
    """
    if ratio:
        x, y = [_log(v) for v in x], [_log(v) for v in y]
    every = [b - a for a, b in zip(x, y, strict=True)]
    d = [v for v in every if math.isfinite(v)]
    n, broken = len(d), len(every) - len(d)
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0, broken)
    mean = math.fsum(d) / n
    half = math.nan
    if n > 1:
        variance = math.fsum((v - mean) ** 2 for v in d) / (n - 1)
        half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * math.sqrt(variance / n)
    values = mean, mean - half, mean + half
    if ratio:
        values = math.exp(values[0]), math.exp(values[1]), math.exp(values[2])
    return Estimate(*values, n, broken)


def false_alarms(
    values: Sequence[float], pairs: int, resamples: int, seed: int = 0, *, ratio: bool = False
) -> int:
    """In how many of some comparisons of runs of one arm, paired by lot, an effect is seen that cannot be there.

    Args:
        values: the outcome in runs of the same arm with different seeds, at least twice as many as pairs.
        pairs: of a comparison; their runs are drawn without replacement.
        resamples: comparisons.
        seed: of the lots.
        ratio: as of `estimate`.
    """
    drawn, alarms = random.Random(seed), 0
    for _ in range(resamples):
        lot = drawn.sample(list(values), 2 * pairs)
        found = estimate(lot[:pairs], lot[pairs:], ratio=ratio)
        alarms += _effect(found, ratio) != NO_EFFECT
    return alarms


@cache
def t_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t for p above one half, by bisection of its distribution function."""
    low, high = 0.0, 1.0
    while _t_cdf(high, degrees) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, degrees) < p else (low, middle)
    return high


def _t_cdf(t: float, degrees: int) -> float:
    """The finite sums for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, even = math.cos(angle), degrees % 2 == 0
    term, total = (1.0, 1.0) if even else (cosine, cosine)
    for k in range(2 if even else 3, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if even:
        inside = math.sin(angle) * total
    else:
        inside = 2 / math.pi * (angle + (math.sin(angle) * total if degrees > 1 else 0.0))
    return (1 + inside) / 2


def _log(value: float) -> float:
    return math.log(value) if value > 0 and math.isfinite(value) else math.nan
