"""Run views to one HTML file that holds everything it shows, its curves' library included, and asks nobody for more.

What others wrote (names, samples, paths, versions) is escaped where it is text, and stands in a block of JSON without
`<`, `>` and `&` where the curves read it. A content security policy names the page's own style and scripts by their
sha256 and forbids everything else, in case that an escape were missed.

The library is uPlot (MIT; its licence stands beside it and in the page): 50 kB, where plotly.js would be 4.5 MB a page.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from babygpt.recipe import to_yaml
from babygpt.report import tables
from babygpt.report.curves import Curves
from babygpt.report.run import RunView, Sample
from babygpt.untrusted import shown

__all__ = ["report_page"]

_HERE = Path(__file__).parent
_CHARTS = (
    ("loss", "Loss, nats a token"),
    ("sources", "Validation loss by source"),
    ("lr", "Learning rate"),
    ("grad_norm", "Gradient norm, before clipping"),
    ("speed", "Tokens a second"),
)
_KEYS = "Arrow keys move, with Shift faster; plus and minus zoom; 0 shows everything."


def report_page(runs: Sequence[RunView]) -> str:
    """The page about one run, or of several beside each other."""
    names = [_text(name) for name in tables.labels(runs)]
    several = len(runs) > 1
    title = f"{len(runs)} runs" if several else names[0]
    parts = [
        f"<header><h1>{title}</h1>{_theme()}</header>",
        "<main>",
        _summary(runs),
        _curves(runs, names),
        *([_differences(runs)] if several else []),
    ]
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        parts.append(_run(run, name, f"run{number}", several))
    parts += ["</main>", _data_block(runs)]
    return _document(title, "\n".join(parts))


# -- the file ------------------------------------------------------------------------------------------------


@functools.cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8").strip()


def _document(title: str, body: str) -> str:
    licence = "uPlot, MIT licence\n" + _asset("uplot/LICENSE")
    style = f"/* {licence} */\n{_asset('uplot/uPlot.min.css')}\n{_asset('page.css')}"
    scripts = [f"/* {licence} */\n{_asset('uplot/uPlot.iife.min.js')}", _asset("page.js")]
    allowed = " ".join(map(_digest, scripts))
    ours = f"script-src {allowed}; style-src {_digest(style)}"
    policy = f"default-src 'none'; {ours}; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - BabyGPT</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        + "\n".join(f"<script>{script}</script>" for script in scripts)
        + "\n</body>\n</html>\n"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


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
    return f'<section><h2>What was reached</h2>{table}<p class="soft">{note}</p></section>'


def _differences(runs: Sequence[RunView]) -> str:
    rows = tables.differing_fields([run.recipe for run in runs])
    table = (
        _figures("Fields that differ", ("field", *tables.labels(runs)), rows)
        if rows
        else "<p>The recipes are the same in every field.</p>"
    )
    return f"<section><h2>What differs in the recipes</h2>{table}</section>"


# -- curves --------------------------------------------------------------------------------------------------


def _curves(runs: Sequence[RunView], names: Sequence[str]) -> str:
    figures = "\n".join(
        f'<figure data-kind="{kind}"><figcaption id="of-{kind}">{caption}</figcaption>'
        f'<div class="chart" tabindex="0" role="group" aria-labelledby="of-{kind}" aria-describedby="keys"></div>'
        '<ul class="readout"></ul></figure>'
        for kind, caption in _CHARTS
        if kind != "sources" or any(run.curves.sources for run in runs)
    )
    notes = [
        "Drag across a stretch to enlarge it in every chart, double-click to see everything.",
        f'<span id="keys">{_KEYS}</span>',
        "The faint band is the range of the steps, the line their smoothed mean.",
        *_bucket_notes(runs, names),
    ]
    if any(run.curves.spikes or run.curves.resumed for run in runs):
        notes.append("Dashed lines: the run was gone on with there. Dotted lines: spikes of the loss.")
    return (
        f"<section><h2>Curves</h2>{_controls(names)}<noscript><p>The curves need scripts; the numbers are in the"
        f' tables below.</p></noscript><div class="charts">{figures}</div>'
        f'<p class="soft">{" ".join(notes)}</p></section>'
    )


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


def _data_block(runs: Sequence[RunView]) -> str:
    names = tables.labels(runs)
    value = {"runs": [_columns(run.curves, shown(name, 60)) for run, name in zip(runs, names, strict=True)]}
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
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


def _run(run: RunView, name: str, anchor: str, several: bool) -> str:
    """Everything that is said of one run."""
    level, of = ("h3", f" of {name}") if several else ("h2", "")
    events = tables.event_rows(run)
    code = tables.load_code(run)
    sections = [
        ("Validations", _figures(f"Validations{of}", _VALIDATION, tables.validation_rows(run))),
        ("What happened on the way", _facts(events) if events else ""),
        (
            "Plan and what came of it",
            _figures(f"Plan{of}", ("what", "planned", "happened"), tables.plan_rows(run)),
        ),
        ("Samples", _samples(run, of)),
        (
            "Load the best model",
            f"<pre>{_text(code)}</pre>" if code else "<p>There is no checkpoint yet.</p>",
        ),
        ("Train it again", f"<pre>{_text(chr(10).join(tables.again(run)))}</pre>{_recipe(run)}"),
        ("Data", _facts(tables.data_rows(run))),
        ("Computer and versions", _facts(tables.environment_rows(run))),
    ]
    if not run.curves.validations:
        sections[0] = ("Validations", "<p>None yet.</p>")
    body = "\n".join(f"<{level}>{head}</{level}>{content}" for head, content in sections if content)
    top = f"<h2>{name}</h2>" if several else ""
    return f'<section id="{anchor}">{top}{body}</section>'


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
