"""The file around a page's content: everything it shows lies in it, its curves' library included.

A content security policy names the page's own style and scripts by their sha256 and forbids everything else, in case
that an escape were missed; a live page may also ask the server that it came from.

The library is uPlot (MIT; its licence stands beside it and in the page): 50 kB, where plotly.js would be 4.5 MB a page.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

__all__ = ["document"]

_HERE = Path(__file__).parent


def document(title: str, body: str, *, live: bool = False) -> str:
    """The whole file.

    Args:
        title, body: as HTML.
        live: whether it asks its server for what is new.
    """
    licence = "uPlot, MIT licence\n" + _asset("uplot/LICENSE")
    style = f"/* {licence} */\n{_asset('uplot/uPlot.min.css')}\n{_asset('page.css')}"
    scripts = [f"/* {licence} */\n{_asset('uplot/uPlot.iife.min.js')}", _asset("page.js")]
    scripts += [_asset("live.js")] if live else []
    allowed = " ".join(map(_digest, scripts))
    ours = f"script-src {allowed}; style-src {_digest(style)}" + ("; connect-src 'self'" if live else "")
    policy = f"default-src 'none'; {ours}; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - BabyGPT</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        + "\n".join(f"<script>{script}</script>" for script in scripts)
        + "\n</body>\n</html>\n"
    )


@functools.cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
