"""The verb `report`: settings in, a page and the numbers on it out.

1. Each run folder is read as it lies there (`run`), its metrics in one pass (`curves`).
2. What is to be said of it becomes rows (`tables`), and these a page (`page`), which appears whole or not at all.

Cost: 0.4 s to start, without torch, and 10 µs a step of metrics. A page is 80 kB and 85 kB for the curves of each run
of a thousand steps or more, beside its samples, of which there are at most 42; of many runs each gets fewer points.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from babygpt.disk import expanded
from babygpt.files import check_file_place, write_text_atomic
from babygpt.report import tables
from babygpt.report.live import serve
from babygpt.report.page import report_page
from babygpt.report.run import RunView, read_run
from babygpt.settings import ReportSettings

if TYPE_CHECKING:
    from babygpt.health import Finding

__all__ = ["NAME", "Numbers", "ReportResult", "report"]

NAME = "report.html"
_POINTS, _LEAST_POINTS = 8000, 200  # of all runs together, and of each curve
_MOST_POINTS = 1000


@dataclass(frozen=True)
class Numbers:
    """What a run has reached.

    Attributes:
        run: its folder, as given.
        state: `finished`, `under way`, `stopped` or `not begun`.
        steps, planned_steps: completed, and of the recipe.
        tokens: target tokens trained on.
        seconds: of training, without validations and saves; None where no speed is known.
        tokens_per_second: over these.
        train_loss: of the last steps, nats a token.
        val_loss, val_perplexity, val_bits_per_byte: of the last validation.
        val_losses: of it, by source.
        best_val_loss, best_step: of the best validation.
        best: the checkpoint folder with the least validation loss.
        findings: what is not well, each with its kind, what is seen and what to do.
    """

    run: str
    state: str
    steps: int
    planned_steps: int | None
    tokens: int
    seconds: float | None
    tokens_per_second: float | None
    train_loss: float | None
    val_loss: float | None
    val_perplexity: float | None
    val_bits_per_byte: float | None
    val_losses: dict[str, float]
    best_val_loss: float | None
    best_step: int | None
    best: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class ReportResult:
    """A page, and the numbers on it.

    Attributes:
        page: the file.
        runs: in the order they were given.
        rows: of the table for people, its head first.
        notes: what is not well with them, in sentences.
    """

    page: str
    runs: tuple[Numbers, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        runs = [{**asdict(run), "findings": [asdict(f) for f in run.findings]} for run in self.runs]
        return {"page": self.page, "runs": runs}

    def lines(self) -> list[str]:
        """For people: a row for each run, what is not well, and where the page is."""
        widths = [max(len(row[column]) for row in self.rows) for column in range(len(self.rows[0]))]
        lines = []
        for row in self.rows:
            cells = [row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        notes = ["", *self.notes] if self.notes else []
        return [*lines, *notes, "", f"page: {self.page}"]


def report(settings: ReportSettings) -> ReportResult:
    """Writes the page about one or several runs; a live one is served until Ctrl-C.

    Raises:
        CheckpointError: one of the folders is no run folder.
        RecipeError: the recipe of one is damaged.
        InputError: the page cannot be written there, or not be served at that port.
        KeyboardInterrupt: how a live page ends.
    """
    points = max(_LEAST_POINTS, min(_MOST_POINTS, _POINTS // len(settings.runs)))
    paths = [expanded(path) for path in settings.runs]
    if settings.live:
        console = Console(stderr=True)
        serve(
            paths,
            points,
            settings.port,
            lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        )
    runs = [read_run(path, points) for path in paths]
    page = expanded(settings.out) if settings.out is not None else runs[0].path / NAME
    check_file_place(page, "--out")
    write_text_atomic(page, report_page(runs))
    notes = [
        f"health of {label}: {finding.what}. {finding.mend}"
        for label, run in zip(tables.labels(runs), runs, strict=True)
        for finding in run.findings
    ]
    return ReportResult(str(page), tuple(map(_numbers, runs)), _rows(runs), tuple(notes))


def _rows(runs: list[RunView]) -> tuple[tuple[str, ...], ...]:
    """State, loss, perplexity, tokens and time of each."""
    chosen = ("state", "steps", "val loss", "perplexity", "tokens", "time")
    at = [tables.SUMMARY.index(name) for name in chosen]
    rows = [
        (label, *(tables.summary(run)[i] for i in at))
        for label, run in zip(tables.labels(runs), runs, strict=True)
    ]
    return (("run", *chosen), *rows)


def _numbers(run: RunView) -> Numbers:
    curves, last, best = run.curves, run.curves.last, run.curves.best
    return Numbers(
        run=str(run.path),
        state=run.state,
        steps=curves.steps,
        planned_steps=run.recipe.budget.steps,
        tokens=curves.tokens,
        seconds=None if curves.seconds is None else round(curves.seconds, 3),
        tokens_per_second=None if curves.speed is None else round(curves.speed, 1),
        train_loss=curves.train_loss,
        val_loss=last.loss if last else None,
        val_perplexity=last.perplexity if last else None,
        val_bits_per_byte=last.bits_per_byte if last else None,
        val_losses=dict(last.sources) if last else {},
        best_val_loss=best.loss if best else None,
        best_step=best.step if best else None,
        best=None if run.best is None else str(run.best.path),
        findings=run.findings,
    )
