"""Runs to medians, spreads and ratios, and these to tables: pure functions on the result file's objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from contestants import CONTENDERS, REFERENCE

__all__ = ["Spread", "aligned", "learned", "markdown", "rows_of", "summarise"]

Run = dict[str, Any]
# A contender whose loss falls by less than this share of the rounds' median fall did not do the same work.
_FALL = 0.4


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some values."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        """None for no values."""
        return Spread(median(values), min(values), max(values)) if values else None


def tokens_per_second(run: Run) -> float:
    """Of the measured region, by the wall clock."""
    return float(run["tokens"] / run["seconds"])


def tokens_per_cpu_second(run: Run) -> float:
    """Of the measured region, by processor time of all threads and child processes."""
    return float(run["tokens"] / run["cpu_seconds"])


def learned(run: Run, runs: Sequence[Run], initial_loss: float) -> bool:
    """Whether a run's held-out loss fell comparably to the other runs' of its round.

    Args:
        run: the one in question.
        runs: every successful run of the result file.
        initial_loss: held-out loss of the initial weights.
    """
    falls = [initial_loss - each["held_out_loss"] for each in runs if each["round"] == run["round"]]
    fall = float(initial_loss - run["held_out_loss"])
    return fall > 0 and fall >= _FALL * median(falls)


def summarise(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One object for each contender that ran, in the table's order.

    Args:
        result: the result file: `runs` (each with `contender`, `round`, the measures or `error`) and `data`.

    Returns:
        `name`, `title`, the `Spread`s (None where nothing was measured), the notes; ratios to the reference
        are taken within each round, and not in rounds in which a contender did not learn.
    """
    good = [run for run in result["runs"] if "error" not in run]
    initial = result["data"]["held_out_loss"]
    reference = {run["round"]: run for run in good if run["contender"] == REFERENCE}
    summary = []
    for contender in CONTENDERS:
        mine = [run for run in good if run["contender"] == contender.name]
        failed = sum(run["contender"] == contender.name and "error" in run for run in result["runs"])
        if not mine and not failed:
            continue
        fair = [run for run in mine if learned(run, good, initial)]
        notes = list(dict.fromkeys(run["arithmetic"] for run in mine))
        if failed:
            notes.append(f"failed in {failed} of {failed + len(mine)} runs")
        if len(fair) < len(mine):
            notes.append(f"did not learn comparably in {len(mine) - len(fair)} of {len(mine)} runs: no ratio")

        def spread(measure: Callable[[Run], float], runs: Sequence[Run] = tuple(mine)) -> Spread | None:
            return Spread.of([measure(run) for run in runs])

        def ratio(measure: Callable[[Run], float], runs: Sequence[Run] = tuple(fair)) -> Spread | None:
            both = [run for run in runs if run["round"] in reference]
            return Spread.of([measure(run) / measure(reference[run["round"]]) for run in both])

        summary.append(
            {
                "name": contender.name,
                "title": contender.title,
                "rounds": len(mine),
                "tokens_per_second": spread(tokens_per_second),
                "tokens_per_cpu_second": spread(tokens_per_cpu_second),
                "ratio_per_second": ratio(tokens_per_second),
                "ratio_per_cpu_second": ratio(tokens_per_cpu_second),
                "peak_rss_mib": spread(lambda run: run["peak_rss_bytes"] / 2**20),
                "seconds_to_first_step": spread(lambda run: run["seconds_to_first_step"]),
                "held_out_loss": spread(lambda run: run["held_out_loss"]),
                "notes": "; ".join(notes),
            }
        )
    return summary


_HEADER = (
    "contender",
    "tokens/s",
    "ratio",
    "tokens/CPU-s",
    "ratio",
    "peak MiB",
    "first step s",
    "loss",
    "arithmetic and notes",
)


def rows_of(summary: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table's cells, header first; a spread reads `median (low-high)`."""

    def cell(spread: Spread | None, digits: int) -> str:
        if spread is None:
            return "-"
        return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}-{spread.high:.{digits}f})"

    rows: list[tuple[str, ...]] = [_HEADER]
    for each in summary:
        rows.append(
            (
                each["title"],
                cell(each["tokens_per_second"], 0),
                cell(each["ratio_per_second"], 2),
                cell(each["tokens_per_cpu_second"], 0),
                cell(each["ratio_per_cpu_second"], 2),
                f"{each['peak_rss_mib'].median:.0f}" if each["peak_rss_mib"] else "-",
                f"{each['seconds_to_first_step'].median:.1f}" if each["seconds_to_first_step"] else "-",
                f"{each['held_out_loss'].median:.3f}" if each["held_out_loss"] else "-",
                each["notes"],
            )
        )
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """For a terminal: columns of equal width, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    last = len(rows[0]) - 1
    rule = [":--" if column in (0, last) else "--:" for column in range(last + 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
