"""Pages for people: one HTML file each, without scripts and without anything loaded from elsewhere.

What others wrote is escaped, and a content security policy forbids the page everything but its own style, in case that
an escape were missed. A token's id and kind show when it is pointed at, tapped, or reached by the Tab key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from babygpt.data.view import Piece
from babygpt.inspection import InspectResult
from babygpt.terminal import SYMBOLS, visible

__all__ = ["inspect_page", "page", "table"]

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #fff; --soft: #59636e; --line: #d1d9e0;
  --target: #116329; --wash: #dafbe1; --wash2: #b4f1c1; --prompt: #6b4400; --tint: #fff4c2;
  --tint2: #ffe584; --mark: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --page: #0d1117; --soft: #9198a1; --line: #3d444d;
  --target: #7ee787; --wash: #12341d; --wash2: #1c4a2a; --prompt: #eac54f; --tint: #33280a;
  --tint2: #4d3d10; --mark: #79c0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: var(--text); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; vertical-align: top; font-weight: 600; padding: .25rem 1rem .25rem 0; white-space: nowrap;
  width: 1%; }
td { padding: .25rem 0; } tr + tr { border-top: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; padding: .5rem 0; }
summary:focus-visible, .t:focus-visible { outline: 2px solid var(--mark); outline-offset: 1px; }
h3 { font-size: .85rem; font-weight: 600; color: var(--mark); border-top: 1px solid var(--mark);
  margin: .75rem 0 .25rem; }
.w { font: .875rem/1.9 ui-monospace, Menlo, Consolas, monospace; white-space: break-spaces; margin: 0; }
.t { position: relative; border-radius: 2px; }
.y { color: var(--target); background: var(--wash); border-bottom: 2px solid var(--target); }
.y:nth-of-type(even) { background: var(--wash2); }
.q { color: var(--prompt); background: var(--tint); border-bottom: 2px dashed var(--prompt); }
.q:nth-of-type(even) { background: var(--tint2); }
.n { color: var(--soft); border-bottom: 2px dotted var(--soft); }
.s { font-weight: 700; outline: 1px solid currentColor; }
.p { color: var(--soft); border: 1px dashed var(--soft); padding: 0 .4rem; }
.i { font-size: .7em; margin: 0 .15em; }
.t:hover::after, .t:focus::after { content: attr(data-k); position: absolute; left: 0; top: 100%; z-index: 1;
  padding: .1rem .5rem; font: .8rem/1.4 system-ui, sans-serif; white-space: nowrap; color: var(--page);
  background: var(--text); border-radius: 4px; pointer-events: none; }
@media (max-width: 40rem) { th { display: block; width: auto; padding-bottom: 0; }
  td { display: block; padding-top: 0; }
  .t:hover::after, .t:focus::after { position: fixed; left: 1rem; top: auto; bottom: 1rem; } }
"""


def inspect_page(found: InspectResult) -> str:
    """The page of `data inspect`."""
    parts = [
        "<h1>What the model sees</h1>",
        table(found.step_rows()),
        "<h2>The batch</h2>",
        _legend(found.prompt_weight),
        *(_window(found, number) for number in range(1, len(found.windows) + 1)),
        "<h2>The data</h2>",
        table(found.count_rows()),
    ]
    return page("What the model sees", parts)


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page of parts that are HTML already; `style` goes over the house's own."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
    )
    return head + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Rows of a name and a value, in plain text."""
    inside = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(visible(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table>\n{inside}\n</table>"


def _legend(prompt_weight: float) -> str:
    prompt = f' &nbsp;<span class="t q">prompt, counts {prompt_weight:g}</span>' if prompt_weight else ""
    return (
        f'<p><span class="t y">target: learned</span>{prompt} &nbsp;<span class="t n">seen, not learned</span>'
        ' &nbsp;<span class="p">padding</span></p>\n'
        f"<p>{SYMBOLS['bos']} begin of text, {SYMBOLS['eos']} end of text, {SYMBOLS['newline']} line end,"
        f" {SYMBOLS['tab']} tab, \\x1b what cannot be seen. Point at a token, tap it, or go to it by Tab"
        " for its id.</p>"
    )


def _window(found: InspectResult, number: int) -> str:
    view = found.windows[number - 1]
    parts = [f"<details open>\n<summary>{escape(found.window_heading(number))}</summary>"]
    for document in view.documents:
        tokens = "".join(_tokens(document.pieces, found.ids))
        parts.append(f'<h3>{escape(document.in_words())}</h3>\n<p class="w">{tokens}</p>')
    if view.padding:
        parts.append(f'<p><span class="p">{view.padding:,} of padding (id {view.pad_id})</span></p>')
    return "\n".join([*parts, "</details>"])


def _tokens(pieces: Iterable[Piece], ids: bool) -> Iterator[str]:
    for piece in pieces:
        numbers = "+".join(map(str, piece.ids))
        mark, kind = "n", "not learned"
        if piece.is_target or piece.prompt_weight:
            weighed = f"prompt, counts {piece.prompt_weight:g}"
            mark, kind = ("y", "target") if piece.is_target else ("q", weighed)
        name = f", {piece.text}" if piece.special else ""
        classes = f"t {mark}{' s' if piece.special else ''}"
        text = escape(SYMBOLS.get(piece.special) or visible(piece.text))
        shown_id = f'<span class="i">{numbers}</span>' if ids else ""
        about = escape(visible(f"{numbers}: {kind}{name}"))
        yield f'<span class="{classes}" tabindex="0" data-k="{about}">{text}{shown_id}</span>'
        if piece.text.endswith("\n") and not piece.special:
            yield "\n"
