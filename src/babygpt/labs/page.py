"""A lab's page: question, protocol, verdicts with their intervals, curves, and how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from babygpt.labs.framework import NULL, Lab
from babygpt.labs.plots import STYLE, Interval, Line, curves, intervals, to_html
from babygpt.labs.verdicts import Verdict
from babygpt.pages import page, table

__all__ = ["describe", "interval_row", "lab_page", "mean_of", "number_of", "verdict_rows"]

_STYLE = STYLE + (
    ".wide { overflow-x: auto; } .wide th, .wide td { white-space: normal; vertical-align: top;"
    " overflow-wrap: normal; padding: .25rem 1rem .25rem 0; width: auto; min-width: 6rem; } figure { margin: 1rem 0; }"
    " @media (max-width: 40rem) { .wide th, .wide td { display: table-cell; } }"
)


def lab_page(lab: Lab, results: Mapping[str, Any], verdicts: Sequence[Verdict]) -> str:
    """The page.

    Args:
        lab: what was done.
        results: as of `results.json`.
        verdicts: computed from its runs.
    """
    seeds = results["seeds"]
    parts = [
        f"<h1>Lab: {escape(lab.name)}</h1>",
        f"<p><strong>{escape(lab.question)}</strong></p>",
        "<h2>Verdict</h2>",
        *([f"<p>{escape(results['notice'])}</p>"] if results["notice"] else []),
        _verdicts(lab, verdicts),
        *_pictures(lab, verdicts),
        f"<p>Each interval holds the true mean in 95 % of such experiments. {len(verdicts)} comparisons are made"
        f" here,"
        " and of twenty in which nothing differs one is expected to say that something does. No effect seen says that"
        " it is smaller than the interval, not that there is none.</p>",
        "<h2>Protocol</h2>",
        f"<p>{escape(lab.protocol)}</p>",
        table([(arm.name, arm.about) for arm in lab.arms]),
        f"<p>{seeds} pairs: in each, every arm begins with the same weights and sees the same data in the same"
        f" order. {escape(lab.baseline.name)} is run a second time with other seeds, the null comparison.</p>",
        "<h2>Curves</h2>",
        *_curves(lab, results["runs"]),
        *_tables(results["runs"]),
        "<h2>Means</h2>",
        _means(lab, results["runs"]),
        "<h2>Repeat it</h2>",
        f"<p><code>babygpt lab {escape(lab.name)} --scale {escape(results['scale'])} --seeds {seeds}</code>,"
        f" {results['cpu_seconds']:,.0f} CPU seconds here. Every run with its settings stands in"
        " <code>results.json</code>.</p>",
        table(
            [
                ("machine", results["machine"]),
                *((f"{name} version", version) for name, version in results["versions"].items()),
            ]
        ),
    ]
    return page(f"Lab: {lab.name}", parts, _STYLE)


def describe(verdict: Verdict) -> str:
    """A verdict in a line: what is compared, the number with its interval, the words."""
    return f"{verdict.about}: {verdict.outcome} {number_of(verdict)}: {verdict.words}"


def number_of(verdict: Verdict) -> str:
    """The estimate with its interval."""
    found = verdict.estimate
    if math.isnan(found.mean):
        return "no number"
    sign = "+" if verdict.against is not None and not verdict.ratio else ""
    times = "x" if verdict.ratio else ""
    shown = f"{found.mean:{sign}.4g}{times}"
    return shown if math.isnan(found.low) else f"{shown} [{found.low:{sign}.4g}, {found.high:{sign}.4g}]"


def verdict_rows(lab: Lab, verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Verdicts as rows of a table, the first its heads."""
    rows = [["comparison or claim", "verdict", "mean [95 % interval]", "of"]]
    for verdict in verdicts:
        about = verdict.about
        if verdict.bounds is not None:
            about = f"claim: {about} (holds {_in_words(*verdict.bounds)})"
        rows.append([about, verdict.words, number_of(verdict), lab.outcome(verdict.outcome).about])
    return rows


def _in_words(low: float, high: float) -> str:
    if math.isinf(low):
        return f"up to {high:g}"
    return f"from {low:g}" + ("" if math.isinf(high) else f" to {high:g}")


def interval_row(verdict: Verdict) -> Interval:
    """A comparison as a row of a figure."""
    label = (
        "null comparison"
        if verdict.arm == NULL
        else f"{verdict.arm} {'/' if verdict.ratio else '-'} {verdict.against}"
    )
    return Interval(label, verdict.estimate.mean, verdict.estimate.low, verdict.estimate.high)


def mean_of(runs: Iterable[Mapping[str, Any]], arm: str, outcome: str) -> str:
    """The mean of an outcome over an arm's runs that gave a number."""
    values = (run["outcomes"][outcome] for run in runs if run["arm"] == arm)
    known = [v for v in values if v is not None and math.isfinite(v)]
    return f"{sum(known) / len(known):.4g}" if known else "no number"


def _verdicts(lab: Lab, verdicts: Sequence[Verdict]) -> str:
    return _grid(verdict_rows(lab, verdicts))


def _pictures(lab: Lab, verdicts: Sequence[Verdict]) -> Iterator[str]:
    for outcome in lab.outcomes:
        found = [v for v in verdicts if v.outcome == outcome.name and v.bounds is None]
        rows = [interval_row(v) for v in found]
        kind = "ratio" if outcome.ratio else "difference"
        yield to_html(intervals(rows, f"{outcome.about}: {kind}", 1.0 if outcome.ratio else 0.0))


def _curves(lab: Lab, runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for name, x_label, y_label in lab.plotted:
        lines = [
            Line(run["arm"], [(x, math.nan if y is None else y) for x, y in run["curves"][name]])
            for run in runs
            if run["arm"] != NULL and name in run["curves"]
        ]
        yield to_html(curves(lines, name.replace("_", " "), x_label, y_label))


def _tables(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tables of the first pair, each once."""
    seen = set()
    for run in runs:
        if run["number"] or run["arm"] == NULL:
            continue
        for title, rows in run["tables"].items():
            if title not in seen:
                seen.add(title)
                yield f"<h2>{escape(title)}</h2>"
                yield _grid(rows)


def _means(lab: Lab, runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [["arm", *(o.about for o in lab.outcomes)]]
    for arm in [*(a.name for a in lab.arms), NULL]:
        rows.append([arm, *(mean_of(runs, arm, outcome.name) for outcome in lab.outcomes)])
    return _grid(rows)


def _grid(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f'<div class="wide" tabindex="0"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
