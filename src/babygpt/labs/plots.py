"""Curves and intervals as SVG, without scripts: in a page, in its colours light and dark, or as a file of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["STYLE", "Figure", "Interval", "Line", "curves", "intervals", "to_file", "to_html"]

_LIGHT = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700")
_DARK = ("#58a6ff", "#f0883e", "#56d364", "#bc8cff", "#f778ba", "#e3b341")
_SHAPES = (
    ".axis, .zero { fill: none; } .zero { stroke-dasharray: 4 3; } .grid { opacity: .5; }"
    " .line { fill: none; stroke-width: 1.4; opacity: .8; }"
)


def _colours(colours: Sequence[str]) -> str:
    return " ".join(
        f".line.c{n} {{ stroke: {c}; }} .dot.c{n} {{ fill: {c}; }} .key.c{n} {{ border-color: {c}; }}"
        for n, c in enumerate(colours)
    )


STYLE = (
    "svg { width: 100%; max-width: 46rem; height: auto; font: 12px system-ui, sans-serif; }"
    " svg text { fill: var(--soft); } .axis, .zero, .grid { stroke: var(--line); }"
    f" .key {{ border-bottom: 3px solid; margin-right: 1rem; }} {_SHAPES} {_colours(_LIGHT)}"
    f" @media (prefers-color-scheme: dark) {{ {_colours(_DARK)} }}"
)
_ALONE = (
    "svg { font: 12px system-ui, sans-serif; } text { fill: #59636e; } .title { fill: #1b1f24; font-weight: 600; }"
    f" .axis, .zero, .grid {{ stroke: #d1d9e0; }} {_SHAPES} {_colours(_LIGHT)}"
)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 260, 64, 12, 10, 36
_APART = 60  # figures nearer to each other than this would overlap
_HEAD, _LETTER = 44, 6.6  # above a figure in a file: its title and legend; width of a letter there


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


@dataclass(frozen=True)
class Figure:
    """A drawing with what stands above it.

    Args:
        name: what is to be seen, for those who cannot.
        title: of it.
        legend: groups, in the order of the colours.
        drawing: the inside of the SVG.
        height: of the drawing, in its own units.
    """

    name: str
    title: str
    legend: tuple[str, ...]
    drawing: str
    height: int


def curves(lines: Sequence[Line], title: str, x_label: str, y_label: str) -> Figure | None:
    """A figure of curves with a legend; points that are not finite are left out. None where none is left."""
    kept = [
        Line(line.group, [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)])
        for line in lines
    ]
    points = [point for line in kept for point in line.points]
    if not points:
        return None
    x0, x1 = _range([x for x, _ in points])
    y0, y1 = _range([y for _, y in points])
    low, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def across(x: float) -> float:
        return round(_LEFT + (x - x0) / (x1 - x0) * (right - _LEFT), 1)

    def down(y: float) -> float:
        return round(_TOP + (y1 - y) / (y1 - y0) * (low - _TOP), 1)

    legend = tuple(dict.fromkeys(line.group for line in kept))
    colours = {group: n % len(_LIGHT) for n, group in enumerate(legend)}
    drawn = "".join(
        f'<polyline class="line c{colours[line.group]}"'
        f' points="{" ".join(f"{across(x)},{down(y)}" for x, y in line.points)}"/>'
        for line in kept
    )
    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{down(y)}" y2="{down(y)}"/>'
        f'<text x="{_LEFT - 5}" y="{down(y) + 4}" text-anchor="end">{y:.6g}</text>'
        for y in _ticks(y0, y1)
    )
    marks = "".join(
        f'<text x="{across(x)}" y="{low + 15}" text-anchor="middle">{x:.6g}</text>' for x in _ticks(x0, x1)
    )
    axes = (
        f'<polyline class="axis" points="{_LEFT},{_TOP} {_LEFT},{low} {right},{low}"/>'
        f'<text x="{(_LEFT + right) / 2}" y="{low + 30}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="12" y="{(_TOP + low) / 2}" text-anchor="middle" transform="rotate(-90 12 {(_TOP + low) / 2})">'
        f"{escape(y_label)}</text>"
    )
    return Figure(f"{title}: {y_label} by {x_label}", title, legend, f"{grid}{marks}{axes}{drawn}", _HEIGHT)


def intervals(rows: Sequence[Interval], title: str, nothing: float) -> Figure | None:
    """A figure of estimates with their intervals; the broken line is where there would be no effect."""
    rows = [row for row in rows if all(map(math.isfinite, (row.mean, row.low, row.high)))]
    if not rows:
        return None
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
    return Figure(title, title, (), "".join(drawn), height)


def to_html(figure: Figure | None) -> str:
    """For a page whose style has `STYLE`; nothing for none."""
    if figure is None:
        return ""
    keys = "".join(
        f'<span class="key c{n % len(_LIGHT)}">{escape(group)}</span>'
        for n, group in enumerate(figure.legend)
    )
    caption = f"<strong>{escape(figure.title)}</strong> &nbsp; {keys}"
    size = f'viewBox="0 0 {_WIDTH} {figure.height}"'
    picture = f'<svg {size} role="img" aria-label="{escape(figure.name)}">{figure.drawing}</svg>'
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"


def to_file(figure: Figure) -> str:
    """As a file of its own, on white: title and legend are drawn too."""
    head = [f'<text class="title" x="10" y="18">{escape(figure.title)}</text>']
    x = 10.0
    for n, group in enumerate(figure.legend):
        head.append(
            f'<line class="line c{n % len(_LIGHT)}" x1="{x:.0f}" x2="{x + 16:.0f}" y1="34" y2="34"/>'
            f'<text x="{x + 21:.0f}" y="38">{escape(group)}</text>'
        )
        x += 40 + _LETTER * len(group)
    top = _HEAD if figure.legend else _HEAD - 18
    height = figure.height + top
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(figure.name)}"><style>{_ALONE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{"".join(head)}\n'
        f'<g transform="translate(0 {top})">{figure.drawing}</g></svg>\n'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range, four to eight of them."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough * 0.999)
    return [step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
