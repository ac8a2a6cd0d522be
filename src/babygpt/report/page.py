"""Run views to the page about them, and to what changes on it while a run trains.

What others wrote (names, samples, paths, versions) is escaped where it is text, and stands in a block of JSON without
`<`, `>` and `&` where the curves read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from babygpt.recipe import to_yaml
from babygpt.report import tables
from babygpt.report.curves import Curves
from babygpt.report.document import document
from babygpt.report.run import RunView, Sample
from babygpt.untrusted import shown

__all__ = ["live_values", "report_page"]

_LIVE = '<p id="live" class="soft" role="status">Live</p>'
_CHARTS = (
    ("loss", "Loss, nats a token"),
    ("sources", "Validation loss by source"),
    ("lr", "Learning rate"),
    ("grad_norm", "Gradient norm, before clipping"),
    ("speed", "Tokens a second"),
)
_KEYS = "Arrow keys move, with Shift faster; plus and minus zoom; 0 shows everything."


def report_page(runs: Sequence[RunView], *, live: bool = False) -> str:
    """The page about one run, or of several beside each other; a live one asks its server for what is new."""
    names = [_text(name) for name in tables.labels(runs)]
    several = len(runs) > 1
    title = f"{len(runs)} runs" if several else names[0]
    parts = _parts(runs, names)
    body = [
        f"<header><h1>{title}</h1>{_theme()}</header>",
        *([_LIVE] if live else []),
        "<main>",
        f"<section><h2>What was reached</h2>{_part('reached', parts)}</section>",
        _curves(runs, names, live=live, notes=_part("notes", parts)),
        *([_differences(runs)] if several else []),
    ]
    for number, name in enumerate(names):
        top = f"<h2>{name}</h2>" if several else ""
        pieces = "\n".join(_part(key, parts) for key in parts if key.startswith(f"run{number}-"))
        body.append(f'<section id="run{number}">{top}{pieces}</section>')
    body += ["</main>", _data_block(runs)]
    return document(title, "\n".join(body), live=live)


def live_values(runs: Sequence[RunView]) -> dict[str, Any]:
    """What changes on a live page: the curves of each run, and by their names the parts that are text and tables."""
    names = [_text(name) for name in tables.labels(runs)]
    return {"runs": _all_columns(runs), "parts": _parts(runs, names)}


def _parts(runs: Sequence[RunView], names: Sequence[str]) -> dict[str, str]:
    """What is said in text and tables, in the order of the page."""
    parts = {"reached": _summary(runs), "notes": _notes(runs, names)}
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        for key, content in _run(run, name, len(runs) > 1).items():
            parts[f"run{number}-{key}"] = content
    return parts


def _part(key: str, parts: Mapping[str, str]) -> str:
    return f'<div id="part-{key}">{parts[key]}</div>'


def _text(value: object) -> str:
    return escape(shown(value))


def _theme() -> str:
    choices = "".join(
        f'<label><input type="radio" name="theme" value="{value}"{" checked" * (value == "system")}>{word}</label>'
        for value, word in (("system", "as the system"), ("light", "light"), ("dark", "dark"))
    )
    return f'<form class="theme soft"><fieldset><legend>Colours</legend>{choices}</fieldset></form>'


# -- tables --------------------------------------------------------------------------------------------------


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names to the left, values to the right."""
    inside = "\n".join(f'<tr><th scope="row">{_text(n)}</th><td>{_text(v)}</td></tr>' for n, v in rows)
    return f'<table class="facts"><tbody>\n{inside}\n</tbody></table>'


def _figures(about: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that may be wider than a phone: it scrolls by itself, and keys reach it."""
    top = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    inside = "\n".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(v)}</td>" for v in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{about}">'
        f'<table class="figures"><thead><tr>{top}</tr></thead><tbody>\n{inside}\n</tbody></table></div>'
    )


def _summary(runs: Sequence[RunView]) -> str:
    rows = [(label, *tables.summary(run)) for label, run in zip(tables.labels(runs), runs, strict=True)]
    table = _figures("What was reached", ("run", *tables.SUMMARY), rows)
    note = "Losses are nats a token; time is that of training, without validations and saves."
    now = _of_each("Now", runs, tables.now_rows)
    return f'{table}<p class="soft">{note}</p>{now}{_of_each("What is not well", runs, tables.health_rows)}'


def _of_each(head: str, runs: Sequence[RunView], rows_of: Callable[[RunView], tables.Rows]) -> str:
    """Rows of every run under a head, each under the run's own name where there are several; nothing where none."""
    rows = [
        (f"{label}: {name}" if len(runs) > 1 else name, text)
        for label, run in zip(tables.labels(runs), runs, strict=True)
        for name, text in rows_of(run)
    ]
    return f"<h3>{head}</h3>{_facts(rows)}" if rows else ""


def _differences(runs: Sequence[RunView]) -> str:
    rows = tables.differing_fields([run.recipe for run in runs])
    table = (
        _figures("Fields that differ", ("field", *tables.labels(runs)), rows)
        if rows
        else "<p>The recipes are the same in every field.</p>"
    )
    return f"<section><h2>What differs in the recipes</h2>{table}</section>"


# -- curves --------------------------------------------------------------------------------------------------


def _curves(runs: Sequence[RunView], names: Sequence[str], *, live: bool, notes: str) -> str:
    figures = "\n".join(
        f'<figure data-kind="{kind}"><figcaption id="of-{kind}">{caption}</figcaption>'
        f'<div class="chart" tabindex="0" role="group" aria-labelledby="of-{kind}" aria-describedby="keys"></div>'
        '<ul class="readout"></ul></figure>'
        for kind, caption in _CHARTS
        if kind != "sources" or live or any(run.curves.sources for run in runs)
    )
    return (
        f"<section><h2>Curves</h2>{_controls(names)}<noscript><p>The curves need scripts; the numbers are in the"
        f' tables below.</p></noscript><div class="charts">{figures}</div>{notes}</section>'
    )


def _notes(runs: Sequence[RunView], names: Sequence[str]) -> str:
    notes = [
        "Drag across a stretch to enlarge it in every chart, double-click to see everything.",
        f'<span id="keys">{_KEYS}</span>',
        "The faint band is the range of the steps, the line their smoothed mean.",
        *_bucket_notes(runs, names),
    ]
    if any(run.curves.spikes or run.curves.resumed for run in runs):
        notes.append("Dashed lines: the run was gone on with there. Dotted lines: spikes of the loss.")
    return f'<p class="soft">{" ".join(notes)}</p>'


def _controls(names: Sequence[str]) -> str:
    across = "".join(
        f'<label><input type="radio" name="across" value="{value}"{" checked" * (value == "step")}>{word}</label>'
        for value, word in (("step", "steps"), ("tokens", "tokens"), ("seconds", "time"))
    )
    runs = "".join(
        f'<label><input type="checkbox" name="run" value="{number}" checked>{name}</label>'
        for number, name in enumerate(names)
    )
    return (
        '<form class="controls">'
        f"<fieldset><legend>Across</legend>{across}</fieldset>"
        '<label>Smoothing <input type="range" id="smoothing" min="0" max="0.99" step="0.01" value="0.6">'
        '<output id="smoothed" for="smoothing">0.60</output></label>'
        '<label><input type="checkbox" id="log">logarithmic loss</label>'
        + (f"<fieldset><legend>Runs</legend>{runs}</fieldset>" if len(names) > 1 else "")
        + '<button type="button" id="reset">Show everything</button></form>'
    )


def _bucket_notes(runs: Sequence[RunView], names: Sequence[str]) -> list[str]:
    """What is not shown step by step."""
    notes = []
    for run, name in zip(runs, names, strict=True):
        whose = f" of {name}" if len(runs) > 1 else ""
        curves = run.curves
        if curves.bucket > 1:
            notes.append(
                f"Each point{whose} stands for {curves.bucket:,} steps, the band for their extremes."
            )
        if len(curves.validations) < curves.validated:
            notes.append(f"Of {curves.validated:,} validations{whose} {len(curves.validations):,} are drawn.")
    return notes


def _all_columns(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    labels = tables.labels(runs)
    return [_columns(run.curves, shown(name, 60)) for run, name in zip(runs, labels, strict=True)]


def _data_block(runs: Sequence[RunView]) -> str:
    text = json.dumps({"runs": _all_columns(runs)}, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="data">{text}</script>'


def _columns(curves: Curves, name: str) -> dict[str, Any]:
    every = curves.validations
    marks = [{"step": step, "kind": "resumed"} for step in curves.resumed]
    marks += [{"step": step, "kind": "spike"} for step in curves.spikes]
    return {
        "name": name,
        "train": {column: [_rounded(v) for v in values] for column, values in curves.train.items()},
        "val": {
            "step": [v.step for v in every],
            "tokens": [v.tokens for v in every],
            "seconds": [_rounded(v.seconds) for v in every],
            "loss": [_rounded(v.loss) for v in every],
        },
        "sources": {shown(s, 60): [_rounded(v.sources.get(s)) for v in every] for s in curves.sources},
        "marks": marks,
    }


def _rounded(value: float | None) -> float | None:
    """To six digits: what a curve shows, in half the bytes; whole numbers as they are."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


# -- a run ---------------------------------------------------------------------------------------------------


def _run(run: RunView, name: str, several: bool) -> dict[str, str]:
    """Everything that is said of one run, in parts; one that is empty has nothing to say yet."""
    level, of = ("h3", f" of {name}") if several else ("h2", "")
    events = tables.event_rows(run)
    code = tables.load_code(run)
    validations = _figures(f"Validations{of}", _VALIDATION, tables.validation_rows(run))
    planned = _figures(f"Plan{of}", ("what", "planned", "happened"), tables.plan_rows(run))
    again = f"<pre>{_text(chr(10).join(tables.again(run)))}</pre>{_recipe(run)}"
    sections = {
        "validations": ("Validations", validations if run.curves.validations else "<p>None yet.</p>"),
        "events": ("What happened on the way", _facts(events) if events else ""),
        "plan": ("Plan and what came of it", planned),
        "samples": ("Samples", _samples(run, of)),
        "load": (
            "Load the best model",
            f"<pre>{_text(code)}</pre>" if code else "<p>There is no checkpoint yet.</p>",
        ),
        "again": ("Train it again", again),
        "data": ("Data", _facts(tables.data_rows(run))),
        "environment": ("Computer and versions", _facts(tables.environment_rows(run))),
    }
    return {
        key: f"<{level}>{head}</{level}>{content}" if content else ""
        for key, (head, content) in sections.items()
    }


_VALIDATION = ("step", "tokens", "time", "loss", "perplexity", "bits/byte")


def _recipe(run: RunView) -> str:
    return f"<details><summary>The whole recipe</summary><pre>{_text(to_yaml(run.recipe))}</pre></details>"


def _samples(run: RunView, of: str) -> str:
    if not run.samples:
        return "<p>None yet.</p>"
    losses = {v.step: v.perplexity for v in run.curves.validations}
    inside = "\n".join(_sample(sample, losses.get(sample.step)) for sample in run.samples)
    fewer = (
        f'<p class="soft">{len(run.samples):,} of {run.sampled:,}, from the whole run.</p>'
        if len(run.samples) < run.sampled
        else ""
    )
    return f'{fewer}<div class="samples" tabindex="0" role="region" aria-label="Samples{of}">{inside}</div>'


def _sample(sample: Sample, perplexity: float | None) -> str:
    known = f", perplexity {tables.number(perplexity, 2)}" if perplexity is not None else ""
    return f"<p>After step {sample.step:,}{known}</p><pre><b>{_text(sample.prompt)}</b>{_text(sample.text)}</pre>"
