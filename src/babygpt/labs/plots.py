"""Curves and intervals as inline SVG, without scripts: they take the page's own colours, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["STYLE", "Interval", "Line", "curves", "intervals"]

STYLE = """
svg { width: 100%; max-width: 46rem; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } .axis, .zero { stroke: var(--line); fill: none; } .zero { stroke-dasharray: 4 3; }
.c0 { --c: #0969da; } .c1 { --c: #bc4c00; } .c2 { --c: #1a7f37; } .c3 { --c: #8250df; }
.c4 { --c: #bf3989; } .c5 { --c: #9a6700; }
.line { stroke: var(--c); fill: none; stroke-width: 1.2; opacity: .75; } .dot { fill: var(--c); }
.key { border-bottom: 3px solid var(--c); margin-right: 1rem; }
@media (prefers-color-scheme: dark) { .c0 { --c: #58a6ff; } .c1 { --c: #f0883e; } .c2 { --c: #56d364; }
  .c3 { --c: #bc8cff; } .c4 { --c: #f778ba; } .c5 { --c: #e3b341; } }
"""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 260, 64, 12, 10, 36
_COLOURS = 6
_APART = 60  # figures nearer to each other than this would overlap


@dataclass(frozen=True)
class Line:
    """A curve: the lines of one group have one colour and one entry in the legend."""

    group: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    """An estimate: where it lies, and from where to where it may."""

    label: str
    mean: float
    low: float
    high: float


def curves(lines: Sequence[Line], title: str, x_label: str, y_label: str) -> str:
    """A figure of curves with a legend; points that are not finite are left out."""
    kept = [
        Line(line.group, [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)])
        for line in lines
    ]
    points = [point for line in kept for point in line.points]
    if not points:
        return ""
    x0, x1 = _range([x for x, _ in points])
    y0, y1 = _range([y for _, y in points])

    def at(x: float, y: float) -> str:
        right = _LEFT + (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)
        return f"{right:.1f},{_TOP + (y1 - y) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    colours = {group: n % _COLOURS for n, group in enumerate(dict.fromkeys(line.group for line in kept))}
    drawn = "".join(
        f'<polyline class="line c{colours[line.group]}" points="{" ".join(at(*p) for p in line.points)}"/>'
        for line in kept
    )
    low, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    axes = (
        f'<polyline class="axis" points="{_LEFT},{_TOP} {_LEFT},{low} {right},{low}"/>'
        f'<text x="{_LEFT}" y="{low + 15}">{x0:.4g}</text>'
        f'<text x="{right}" y="{low + 15}" text-anchor="end">{x1:.4g}</text>'
        f'<text x="{(_LEFT + right) / 2}" y="{low + 30}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="{_LEFT - 5}" y="{_TOP + 10}" text-anchor="end">{y1:.4g}</text>'
        f'<text x="{_LEFT - 5}" y="{low}" text-anchor="end">{y0:.4g}</text>'
        f'<text x="12" y="{(_TOP + low) / 2}" text-anchor="middle" transform="rotate(-90 12 {(_TOP + low) / 2})">'
        f"{escape(y_label)}</text>"
    )
    legend = "".join(f'<span class="key c{n}">{escape(group)}</span>' for group, n in colours.items())
    name = f"{title}: {y_label} by {x_label}"
    return _figure(name, f"{axes}{drawn}", _HEIGHT, f"<strong>{escape(title)}</strong> &nbsp; {legend}")


def intervals(rows: Sequence[Interval], title: str, nothing: float) -> str:
    """A figure of estimates with their intervals; the broken line is where there would be no effect."""
    rows = [row for row in rows if all(map(math.isfinite, (row.mean, row.low, row.high)))]
    if not rows:
        return ""
    x0, x1 = _range([nothing, *(v for row in rows for v in (row.low, row.high))])
    height = 28 * len(rows) + 30

    def at(x: float) -> float:
        return round(230 + (x - x0) / (x1 - x0) * (_WIDTH - 250), 1)

    drawn = [
        f'<line class="zero" x1="{at(nothing)}" x2="{at(nothing)}" y1="4" y2="{height - 22}"/>',
        f'<text x="{at(nothing)}" y="{height - 6}" text-anchor="middle">{nothing:g}</text>',
    ]
    for end, anchor in ((x0, "start"), (x1, "end")):
        if abs(at(end) - at(nothing)) > _APART:
            drawn.append(f'<text x="{at(end)}" y="{height - 6}" text-anchor="{anchor}">{end:.3g}</text>')
    for n, row in enumerate(rows):
        y = 18 + 28 * n
        drawn.append(
            f'<text x="222" y="{y + 4}" text-anchor="end">{escape(row.label)}</text>'
            f'<line class="line c0" x1="{at(row.low)}" x2="{at(row.high)}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot c0" cx="{at(row.mean)}" cy="{y}" r="4"/>'
        )
    return _figure(title, "".join(drawn), height, f"<strong>{escape(title)}</strong>")


def _figure(name: str, inside: str, height: int, caption: str) -> str:
    picture = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">{inside}</svg>'
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
