"""Fills the course with what the labs found: python docs/make_course.py [FOLDER].

    FOLDER/*/results.json   ->  course/results/NAME.json              what is cited, no more; only if FOLDER is given
    course/results/*.json   ->  course/*.md, course/pictures/*.svg    every filled place, every figure

A filled place of a chapter stands between `<!--is WHAT-->` and `<!--/-->`, invisible where the page is read. It never
begins a line but with a table or figure: to Markdown, a line that begins so is HTML.

    effect LAB OUTCOME ARM AGAINST     the estimate with its interval
    verdict LAB OUTCOME ARM AGAINST    what is said of it
    said LAB NUMBER                    the lab's claim of that number
    claim LAB NUMBER                   whether it holds
    mean LAB OUTCOME ARM               of the arm's runs
    setting LAB FIELD                  of the baseline's first run
    machine LAB                        which its runs were made on
    made LAB                           command, cost, machine and versions
    verdicts LAB                       every comparison and claim, as a table
    table LAB TITLE                    a table of the first pair
    figure LAB CURVE [ARM ...]         each arm's curve, or some arms', the mean of their runs
    intervals LAB OUTCOME              the comparisons of an outcome

Verdicts are computed from the runs each time. Where one is no longer what the chapter said, the text around it may be
wrong: that is told, and ends with 1.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from babygpt.labs.catalog import load
from babygpt.labs.framework import NULL
from babygpt.labs.page import interval_row, mean_of, number_of, verdict_rows
from babygpt.labs.plots import Figure, Line, curves, intervals, to_file
from babygpt.labs.verdicts import Verdict, judge

COURSE = Path(__file__).resolve().parent / "course"
PLACE = re.compile(r"<!--is (?P<what>[^>]+?)-->(?P<text>.*?)<!--/-->", re.DOTALL)
_POINTS = 60
_OF_OUTCOMES, _OF_CURVES = 8, 5  # significant digits: comparisons are small differences of large numbers
Result = Mapping[str, Any]


# -- what is kept of a lab -------------------------------------------------------------------------------------------


def compact(results: Result) -> dict[str, Any]:
    """What chapters are made from: outcomes of every run, mean curves of each arm, tables of the first pair."""
    lab, runs = load(results["lab"]), results["runs"]
    first = [run for run in runs if run["number"] == 0 and run["arm"] != NULL]
    return {
        "lab": lab.name,
        "command": f"babygpt lab {lab.name}"
        + (f" --seeds {results['seeds']}" * (results["seeds"] != lab.seeds)),
        "scale": results["scale"],
        "seeds": results["seeds"],
        "cpu_seconds": results["cpu_seconds"],
        "machine": results["machine"],
        "versions": results["versions"],
        "setting": next(run["setting"] for run in first if run["arm"] == lab.baseline.name),
        "runs": [
            {
                "arm": run["arm"],
                "number": run["number"],
                "outcomes": {name: _rounded(value, _OF_OUTCOMES) for name, value in run["outcomes"].items()},
            }
            for run in runs
        ],
        "curves": {
            name: {arm.name: _mean_curve(runs, arm.name, name) for arm in lab.arms}
            for name, _, _ in lab.plotted
        },
        "tables": {title: rows for run in first for title, rows in run["tables"].items()},
    }


def _mean_curve(runs: Sequence[Result], arm: str, name: str) -> list[list[float]]:
    """Point by point over an arm's runs that gave it, each stretch of points drawn together to its mean."""
    lines = [run["curves"][name] for run in runs if run["arm"] == arm and name in run["curves"]]
    shortest = min(map(len, lines), default=0)
    points = [[_mean(line[n][axis] for line in lines) for axis in (0, 1)] for n in range(shortest)]
    together = max(1, math.ceil(shortest / _POINTS))
    parts = [points[n : n + together] for n in range(0, shortest, together)]
    return [[_rounded(_mean(p[axis] for p in part), _OF_CURVES) for axis in (0, 1)] for part in parts]


def _mean(values: Any) -> float:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _rounded(value: float | None, digits: int) -> Any:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def written(result: Result) -> str:
    """As JSON, what is innermost on one line."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda m: re.sub(r"\s*\n\s*", " ", m[0]), text) + "\n"


# -- what stands in a filled place -----------------------------------------------------------------------------------


def found(result: Result) -> list[Verdict]:
    """The lab's verdicts, from its runs."""
    return judge(load(result["lab"]), result["runs"])


def _comparison(result: Result, outcome: str, arm: str, against: str) -> Verdict:
    wanted = (outcome, arm, against)
    return next(v for v in found(result) if v.bounds is None and (v.outcome, v.arm, v.against) == wanted)


def _claim(result: Result, number: str) -> Verdict:
    return [v for v in found(result) if v.bounds is not None][int(number) - 1]


def _setting(result: Result, field: str) -> str:
    value = result["setting"][field]
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _made(result: Result) -> str:
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("babygpt", "torch"))
    return (
        f"`{result['command']}`: {result['seeds']} pairs, {result['cpu_seconds']:,.0f} CPU seconds"
        f" ({result['machine']}; {versions})"
    )


def _verdicts(result: Result) -> str:
    head, *rows = verdict_rows(load(result["lab"]), found(result))
    return _grid([head, *([about, f"**{words}**", *rest] for about, words, *rest in rows)])


def _grid(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["", "", lines[0], "|---" * len(rows[0]) + "|", *lines[1:], "", ""])


def _table(result: Result, *title: str) -> str:
    head, *rows = result["tables"][" ".join(title)]
    return _grid([head, *([f"`{cell}`" if cell[:1] in "'\"" else cell for cell in row] for row in rows)])


KINDS: dict[str, Callable[..., str]] = {
    "effect": lambda result, *which: number_of(_comparison(result, *which)),
    "verdict": lambda result, *which: _comparison(result, *which).words,
    "said": lambda result, number: _claim(result, number).about,
    "claim": lambda result, number: _claim(result, number).words,
    "mean": lambda result, outcome, arm: mean_of(result["runs"], arm, outcome),
    "setting": _setting,
    "machine": lambda result: str(result["machine"]),
    "made": _made,
    "verdicts": _verdicts,
    "table": _table,
    "figure": lambda result, *which: _picture(result, "figure", *which),
    "intervals": lambda result, *which: _picture(result, "intervals", *which),
}


def file_of(kind: str, lab: str, name: str) -> str:
    """Where a figure lies, from the chapters on."""
    return f"pictures/{lab}-{name}{'-intervals' if kind == 'intervals' else ''}.svg"


def _picture(result: Result, kind: str, name: str, *arms: str) -> str:
    return f"\n\n![{drawn(result, kind, name, *arms).name}]({file_of(kind, result['lab'], name)})\n\n"


def drawn(result: Result, kind: str, name: str, *arms: str) -> Figure:
    """A figure of a result, of all arms if none is named."""
    lab = load(result["lab"])
    if kind == "figure":
        labels = next(labels for curve, *labels in lab.plotted if curve == name)
        lines = [
            Line(arm, [(x, math.nan if y is None else y) for x, y in points])
            for arm, points in result["curves"][name].items()
            if arm in (arms or result["curves"][name])
        ]
        figure = curves(lines, f"{lab.name}: {name.replace('_', ' ')}, mean of the runs", *labels)
    else:
        outcome = lab.outcome(name)
        rows = [interval_row(v) for v in found(result) if v.bounds is None and v.outcome == name]
        title = f"{lab.name}: {outcome.about}: {'ratio' if outcome.ratio else 'difference'}"
        figure = intervals(rows, title, 1.0 if outcome.ratio else 0.0)
    assert figure is not None, f"nothing of {lab.name} {name} can be drawn"
    return figure


def filled(text: str, results: Mapping[str, Result]) -> str:
    """A chapter with every place filled anew."""

    def one(match: re.Match[str]) -> str:
        kind, lab, *rest = match["what"].split()
        return f"<!--is {match['what']}-->{KINDS[kind](results[lab], *rest)}<!--/-->"

    return PLACE.sub(one, text)


def figures(text: str, results: Mapping[str, Result]) -> dict[str, str]:
    """A chapter's figures: the SVG by its file."""
    places = (match["what"].split() for match in PLACE.finditer(text))
    return {
        file_of(kind, lab, rest[0]): to_file(drawn(results[lab], kind, *rest))
        for kind, lab, *rest in places
        if kind in ("figure", "intervals")
    }


def changed_verdicts(before: str, after: str) -> list[str]:
    """Places whose verdict is another one now."""
    old, new = PLACE.finditer(before), PLACE.finditer(after)
    return [
        f"{a['what']}: was {a['text']}, is {b['text']}"
        for a, b in zip(old, new, strict=True)
        if a["what"].split()[0] in ("verdict", "claim") and a["text"] not in ("", b["text"])
    ]


def read_results() -> dict[str, Result]:
    """The committed results by lab."""
    files = sorted((COURSE / "results").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def main(folder: str | None = None) -> int:
    """Makes all of it."""
    for file in sorted(Path(folder).glob("*/results.json")) if folder else ():
        result = compact(json.loads(file.read_text(encoding="utf-8")))
        target = COURSE / "results" / f"{result['lab']}.json"
        target.write_text(written(result), encoding="utf-8")
    results, changed = read_results(), []
    for chapter in sorted(COURSE.glob("*.md")):
        before = chapter.read_text(encoding="utf-8")
        after = filled(before, results)
        changed += [f"{chapter.name}: {line}\n" for line in changed_verdicts(before, after)]
        chapter.write_text(after, encoding="utf-8")
        for file, svg in figures(after, results).items():
            (COURSE / file).write_text(svg, encoding="utf-8")
    sys.stderr.writelines(changed)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
