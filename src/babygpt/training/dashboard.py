"""What a terminal shows of a run while it trains: pure functions from numbers to lines of a given width.

    step 1,240/10,000 ━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 12%, 12:34 left
    loss 3.412   validation 3.501 (perplexity 33.15)   lr 2.9e-04   gradient norm 1.20
    12,345 tokens/s   45% of 93 GFLOP/s (measured)   memory 3.2 of 24.0 GiB
    health nothing found
    9.010 ⢣⣀⣀⣀
    3.412 ⠀⠀⠀⠈⠉⠒⠒⠤⠤

Each number is one field; fields flow into as many lines as the width asks for, so a narrow terminal shows them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

from babygpt.units import flops_words

__all__ = ["Status", "Trace", "braille", "clock", "lines"]

_POINTS = 256  # of a trace at most: more than a terminal has dots
_CURVE_ROWS, _CURVE_COLUMNS = 4, 100
_LEAST_ROWS = 14  # of a terminal, for there to be room for a curve
_LEAST_WIDTH = 30
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a braille cell, by column and row
_BLANK = 0x2800
_START = 0.1  # of the points, which may lie above the curve's scale: a loss falls most at first


@dataclass
class Trace:
    """A loss over a run in a bounded number of points, each the mean of equally many values."""

    points: list[float] = field(default_factory=list)
    _each: int = 1
    _rest: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Takes the next value; what is no number is left out."""
        if not math.isfinite(value):
            return
        self._rest.append(value)
        if len(self._rest) < self._each:
            return
        self.points.append(sum(self._rest) / len(self._rest))
        self._rest.clear()
        if len(self.points) > _POINTS:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=False)]
            self._each *= 2


@dataclass(frozen=True)
class Status:
    """What is known at a moment; None of what is not.

    Attributes:
        step, total: optimiser steps completed, and of the run.
        seconds_left: at the speed so far.
        loss: of the newest step, nats a target token.
        validation: loss of the last one; `perplexity` exp of it.
        lr, grad_norm: of the newest step.
        speed: target tokens a second.
        share: of the peak, from 0 to 1.
        peak: operations a second of all devices, as they were measured.
        memory: bytes used at most; `memory_total` there are.
        health: what was found, in words; empty if nothing was.
        trace: of the loss.
    """

    step: int
    total: int
    seconds_left: float | None = None
    loss: float | None = None
    validation: float | None = None
    perplexity: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    speed: float | None = None
    share: float | None = None
    peak: float | None = None
    memory: int | None = None
    memory_total: int | None = None
    health: str = ""
    trace: Sequence[float] = ()


def lines(status: Status, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """The view, no line wider than `width` and fewer than `height` of them.

    Args:
        status: what is shown.
        width, height: of the terminal, in characters.
        ascii_only: the terminal can show no other characters.
    """
    shown = [_progress(status, width, ascii_only), *_flow(_fields(status), width)]
    shown.append(_health(status))
    if not ascii_only and height >= _LEAST_ROWS and width >= _LEAST_WIDTH and len(status.trace) > 1:
        shown += _curve(status.trace, width)
    for line in shown:
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return shown[: max(1, height - 1)]


def clock(seconds: float) -> str:
    """As `3:05` or `1:02:03`."""
    whole = int(seconds)
    minutes = (
        f"{whole // 60 % 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"
    )
    return f"{whole // 3600}:{minutes}" if whole >= 3600 else minutes


def _progress(status: Status, width: int, ascii_only: bool) -> Text:
    done = min(1.0, status.step / max(1, status.total))
    left = "" if status.seconds_left is None else f", {clock(status.seconds_left)} left"
    head, tail = f"step {status.step:,}/{status.total:,} ", f" {done:.0%}{left}"
    room = min(60, width - len(head) - len(tail))
    if room < 8:
        return Text(head.rstrip() + tail)
    full = int(done * room)
    mark = "#-" if ascii_only else "━━"
    return Text.assemble(head, (mark[0] * full, "cyan"), (mark[1] * (room - full), "bright_black"), tail)


def _fields(status: Status) -> list[Text]:
    found: list[Text] = []

    def add(name: str, value: str, after: str = "") -> None:
        parts = [(f"{name} ", "dim")] if name else []
        found.append(Text.assemble(*parts, (value, "bold"), (after, "dim")))

    if status.loss is not None:
        add("loss", f"{status.loss:.3f}" if math.isfinite(status.loss) else "not finite")
    if status.validation is not None:
        known = "" if status.perplexity is None else f" (perplexity {status.perplexity:,.2f})"
        add("validation", f"{status.validation:.3f}", known)
    if status.lr is not None:
        add("lr", f"{status.lr:.2e}")
    if status.grad_norm is not None:
        add("gradient norm", f"{status.grad_norm:#.3g}")
    if status.speed:
        add("", f"{status.speed:,.0f}", " tokens/s")
    if status.share is not None and status.peak is not None:
        add("", f"{status.share:.0%}", f" of {flops_words(status.peak)} (measured)")
    if status.memory is not None:
        of = "" if status.memory_total is None else f" of {status.memory_total / 2**30:.1f}"
        add("memory", f"{status.memory / 2**30:.1f}", f"{of} GiB")
    return found


def _flow(fields: Sequence[Text], width: int) -> list[Text]:
    """Fields in as few lines as hold them, three blanks between two."""
    flowed: list[Text] = []
    for each in fields:
        if flowed and len(flowed[-1]) + 3 + len(each) <= width:
            flowed[-1].append("   ").append_text(each)
        else:
            flowed.append(each.copy())
    return flowed


def _health(status: Status) -> Text:
    if status.health:
        return Text.assemble(("health ", "dim"), (status.health, "yellow"))
    return Text.assemble(("health ", "dim"), "nothing found")


# -- the curve -----------------------------------------------------------------------------------------------


def _curve(points: Sequence[float], width: int) -> list[Text]:
    # What the loss falls in its first steps would leave the rest of the run a flat line.
    settled = points[int(_START * len(points)) :] if len(points) >= 20 else points
    low, high = min(points), max(settled)
    labels = [f"{high:.3f}", *[""] * (_CURVE_ROWS - 2), f"{low:.3f}"]
    margin = max(map(len, labels))
    drawn = braille(points, min(_CURVE_COLUMNS, width - margin - 1), _CURVE_ROWS, low, high)
    return [
        Text.assemble((f"{label:>{margin}} ", "dim"), (row, "cyan"))
        for label, row in zip(labels, drawn, strict=True)
    ]


def braille(values: Sequence[float], columns: int, rows: int, low: float, high: float) -> list[str]:
    """A curve in braille characters, two dots across and four down in each.

    Args:
        values: at equal distances, all of them across the whole width.
        columns, rows: characters.
        low, high: the values at the lowest and the highest dots; what lies beyond is drawn there.
    """
    across, down = 2 * columns, 4 * rows
    cells = [[_BLANK] * columns for _ in range(rows)]
    before: int | None = None
    for x in range(across):
        begin = x * len(values) // across
        here = values[begin : max(begin + 1, (x + 1) * len(values) // across)]
        part = 0.5 if high <= low else (sum(here) / len(here) - low) / (high - low)
        y = round((1 - min(1.0, max(0.0, part))) * (down - 1))
        # Down or up from the dot before, so that the curve hangs together.
        reached = y if before is None else before + (y > before) - (y < before)
        for dot in range(min(reached, y), max(reached, y) + 1):
            cells[dot // 4][x // 2] |= _DOTS[x % 2][dot % 4]
        before = y
    return ["".join(map(chr, row)) for row in cells]
