"""Runs with paired seeds to ratios of tokens with intervals: pure functions on the lines of the results file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

__all__ = ["interval", "table", "tokens_to"]

Line = dict[str, Any]
# Student's 97.5 % quantiles by degrees of freedom, from 1.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def tokens_to(loss: float, points: Sequence[tuple[float, float]]) -> float | None:
    """Tokens at which a curve first is at a loss, linear between its points; None where it never is."""
    for (before, above), (after, below) in pairwise(points):
        if below <= loss:
            return before + (after - before) * (above - loss) / (above - below) if above > loss else before
    return None


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of 1 to 10 ratios and its 95 % Student interval; that of one ratio has no bounds."""
    logs = [math.log(ratio) for ratio in ratios]
    if len(logs) == 1:
        return ratios[0], 0.0, math.inf
    half = _STUDENT[len(logs) - 2] * stdev(logs) / math.sqrt(len(logs))
    return math.exp(fmean(logs)), math.exp(fmean(logs) - half), math.exp(fmean(logs) + half)


def table(lines: Sequence[Line], reference: str) -> str:
    """Markdown: for each size and text a row an arm, the fewest tokens first.

    Args:
        lines: of the results file; of each arm those count whose pair with the reference is there.
        reference: the arm whose final loss is to be reached.
    """
    cells: dict[tuple[str, str], dict[str, dict[int, Line]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        cells[line["size"], line["corpus"]][line["arm"]][line["seed"]] = line
    rows = [
        f"| size | text | arm | seeds | final loss | below `{reference}` | tokens to its loss | 95 % interval |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | :-- |",
    ]
    for (size, corpus), arms in sorted(cells.items()):
        found = [_row(name, runs, arms.get(reference, {})) for name, runs in arms.items()]
        for _, row in sorted((each for each in found if each), key=lambda each: each[0]):
            rows.append(f"| {size} | {corpus} | {row}")
    return "\n".join(rows)


def _row(name: str, runs: dict[int, Line], reference: dict[int, Line]) -> tuple[float, str] | None:
    seeds = sorted(runs.keys() & reference.keys())
    if not seeds:
        return None
    reached = [tokens_to(reference[s]["loss"], runs[s]["points"]) for s in seeds]
    below = [reference[s]["loss"] - runs[s]["loss"] for s in seeds]
    start = f"{name} | {len(seeds)} | {fmean(runs[s]['loss'] for s in seeds):.4f} | {fmean(below):+.4f} | "
    if any(tokens is None for tokens in reached):
        never = sum(tokens is None for tokens in reached)
        return math.inf, f"{start}not reached by {never} | |"
    ratios = [float(t or 0) / reference[s]["tokens"] for t, s in zip(reached, seeds, strict=True)]
    mean, low, high = interval(ratios)
    bounds = f"{low:.3f} to {high:.3f}" if len(seeds) > 1 else ""
    return mean, f"{start}{mean:.3f} | {bounds} |"
