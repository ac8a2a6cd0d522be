"""The verb lab: an experiment by its name, its verdicts out; or the list of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from babygpt.disk import expanded
from babygpt.labs.catalog import NAMES, check_name, load
from babygpt.labs.framework import SCALES
from babygpt.settings import LabSettings
from babygpt.untrusted import shown

__all__ = ["LabList", "LabResult", "lab"]


@dataclass(frozen=True)
class LabResult:
    """What a lab found.

    Args:
        results: as of `results.json`, the runs' curves left out.
        lines_of_verdicts: for people.
        out: its folder.
    """

    results: dict[str, Any]
    lines_of_verdicts: tuple[str, ...]
    out: str

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**self.results, "out": self.out}

    def lines(self) -> list[str]:
        """For people."""
        return [
            self.results["question"],
            "",
            self.results["protocol"],
            "",
            *([self.results["notice"], ""] if self.results["notice"] else []),
            *(f"  {line}" for line in self.lines_of_verdicts),
            "",
            f"{self.results['seeds']} pairs, {self.results['cpu_seconds']:,.0f} CPU seconds;"
            f" page {Path(self.out) / 'index.html'}, every run {Path(self.out) / 'results.json'}",
        ]


@dataclass(frozen=True)
class LabList:
    """The labs.

    Args:
        labs: name, line, and the cost at each scale.
    """

    labs: tuple[dict[str, Any], ...] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"labs": list(self.labs)}

    def lines(self) -> list[str]:
        """For people."""
        width = max(len(each["name"]) for each in self.labs)
        lines = []
        for each in self.labs:
            runs = next(iter(each["cost"].values()))["runs"]
            work = ", ".join(f"{scale} {_short(cost['tflop'])}" for scale, cost in each["cost"].items())
            lines += [f"{each['name']:<{width}}  {runs} runs; TFLOP: {work}", f"  {each['line']}", ""]
        return [*lines, "TFLOP: of all trainings and validations of a scale, about. Small: minutes."]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def lab(settings: LabSettings) -> LabResult | LabList:
    """Does an experiment, or goes on with it.

    Raises:
        InputError: something given is wrong.
    """
    if settings.list:
        return LabList(tuple(_listed(name) for name in NAMES))
    name, scale = check_name(settings.name), SCALES[settings.scale]
    # What trains is imported once the name is known to be right.
    from babygpt.labs.page import describe
    from babygpt.labs.runner import run_lab
    from babygpt.labs.verdicts import judge

    chosen = load(name)
    out = expanded(settings.out or f"runs/labs/{name}-{scale.name}")
    console = Console(file=sys.stderr)

    def say(message: str) -> None:
        console.print(shown(message), markup=False, highlight=False, soft_wrap=True)

    results = run_lab(chosen, scale, out, settings.seeds, say)
    verdicts = judge(chosen, results["runs"])
    short = {k: v for k, v in results.items() if k != "runs"}
    short["runs"] = [{k: run[k] for k in ("arm", "number", "outcomes")} for run in results["runs"]]
    return LabResult(short, tuple(map(describe, verdicts)), str(out))


def _listed(name: str) -> dict[str, Any]:
    found = load(name)
    costs = {scale.name: found.cost(scale, found.seeds) for scale in SCALES.values()}
    return {
        "name": name,
        "line": found.line,
        "cost": {k: {"runs": c.runs, "tflop": round(c.flops / 1e12, 4)} for k, c in costs.items()},
    }
