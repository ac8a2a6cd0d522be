"""Windows as lines for a terminal of 80 columns: in colours, and readable without.

Before each line stands what its tokens are: `=` targets, `~` prompts that count, `-` seen and not learned, `.` padding.
Where a line has several kinds, the marks stand below it, one for each column. In colours targets are green and prompts
yellow, from token to token in turn lighter, the rest is dim. What could move a cursor, hide, or turn the direction of
writing is shown as its number; a line end is shown and then made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from babygpt.data.view import Piece, WindowView
from babygpt.untrusted import shown

__all__ = ["SYMBOLS", "aligned", "legend", "stays_in_place", "visible", "window_lines"]

SYMBOLS = {"bos": "⊢", "eos": "⊣", "newline": "↵", "tab": "⇥", "space": "␣"}
_LEGEND = (
    "= target: learned   - seen, not learned   . padding   ── where a document begins",
    f"{SYMBOLS['bos']} begin of text   {SYMBOLS['eos']} end of text   {SYMBOLS['newline']} line end"
    f"   {SYMBOLS['tab']} tab   \\x1b what cannot be seen",
)

_WIDTH = 78  # of 80 columns two are for the mark
_TARGET, _PROMPT, _MASKED, _PADDING = "=", "~", "-", "."
_STYLES = {
    _TARGET: ("green", "bright_green"),
    _PROMPT: ("yellow", "bright_yellow"),
    _MASKED: ("dim", "dim"),
}
# Beside what `shown` escapes: what takes no room and is no accent, but the joiners that some scripts need.
_UNSEEN = re.compile("[\xad\u200b\u2060-\u2065\ufeff\U000e0000-\U000e007f]")


@dataclass(frozen=True)
class _Cell:
    """A character on the screen, its mark and its style, and whether the line ends with it."""

    text: str
    mark: str
    style: str
    ends_line: bool = False


def legend(prompt_weight: float) -> list[str]:
    """What the marks mean; `prompt_weight` is how much prompts count."""
    first, *rest = _LEGEND
    return [first, *([f"{_PROMPT} prompt, counts {prompt_weight:g}"] if prompt_weight else []), *rest]


def visible(text: str) -> str:
    """Text whose every character can be seen, or is a space; tabs and line ends as symbols."""
    safe = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", shown(text))
    return safe.replace("\t", SYMBOLS["tab"]).replace("\n", SYMBOLS["newline"])


def window_lines(view: WindowView, *, ids: bool = False) -> list[Text]:
    """A window, document by document.

    Args:
        view: the window.
        ids: whether each token's id stands behind it.
    """
    lines: list[Text] = []
    for document in view.documents:
        lines.append(Text(f"── {document.in_words()} ".ljust(_WIDTH, "─"), style="cyan"))
        lines += _wrapped(_cells(document.pieces, ids))
    if view.padding:
        lines.append(Text(f"{_PADDING} {view.padding:,} of padding (id {view.pad_id})", style="dim"))
    return lines


def _cells(pieces: Iterable[Piece], ids: bool) -> Iterator[list[_Cell]]:
    """The cells of each piece."""
    for number, piece in enumerate(pieces):
        text = SYMBOLS.get(piece.special) or visible(piece.text)
        if ids:
            text = text.replace(" ", SYMBOLS["space"])
        mark = _TARGET if piece.is_target else _PROMPT if piece.prompt_weight else _MASKED
        style = _STYLES[mark][number % 2] + (" reverse" if piece.special else "")
        line_end = SYMBOLS["newline"] if "\n" in piece.text else ""
        cells = [_Cell(c, mark, style, ends_line=c == line_end and not ids) for c in text]
        if ids:
            cells += [_Cell(c, mark, "dim") for c in f"⟨{'+'.join(map(str, piece.ids))}⟩"]
            cells[-1] = replace(cells[-1], ends_line=bool(line_end))
        yield cells


def _wrapped(pieces: Iterable[list[_Cell]]) -> list[Text]:
    """Cells in lines of at most 78 columns; a piece that fits on one is not broken."""
    lines: list[Text] = []
    line: list[_Cell] = []
    room = _WIDTH
    for cells in pieces:
        needed = sum(cell_len(cell.text) for cell in cells)
        for number, cell in enumerate(cells):
            size = cell_len(cell.text)
            if line and (size > room or (number == 0 and room < needed <= _WIDTH)):
                lines += _line(line)
                line, room = [], _WIDTH
            line.append(cell)
            room -= size
            if cell.ends_line:
                lines += _line(line)
                line, room = [], _WIDTH
    return lines + (_line(line) if line else [])


def _line(cells: list[_Cell]) -> list[Text]:
    """One line with its mark before it, or with its marks below."""
    marks = {cell.mark for cell in cells}
    mixed = len(marks) > 1
    line = Text.assemble((f"{' ' if mixed else min(marks)} ", "dim"), *((c.text, c.style) for c in cells))
    if not mixed:
        return [line]
    below = "".join(cell.mark * cell_len(cell.text) for cell in cells)
    return [line, Text(f"  {below}", style="dim")]


def stays_in_place(console: Console) -> bool:
    """Whether lines can be drawn over: on a real terminal that can move its cursor.

    rich takes a pipe for a terminal where `FORCE_COLOR` asks for colours, as services that run tests do.
    """
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def aligned(rows: Iterable[tuple[str, str]], *, names: int = 14) -> list[str]:
    """Names to the left, values to the right, broken to 80 columns where they have spaces.

    Args:
        rows: of a name and a value; a value's first line keeps its indent.
        names: columns of the names.
    """
    lines = []
    for name, value in rows:
        first, *rest = wrap(value, 78 - names, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{name:>{names}}  {first}", *(f"{'':>{names}}  {more}" for more in rest)]
    return lines
