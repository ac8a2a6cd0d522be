"""The report of runs under way, served to this computer's own browser.

It answers GET and HEAD for two paths, the page and what changes on it, and reads the run folders, nothing else of the
disk; it writes nothing. It listens on 127.0.0.1, and a request has to name that address as its host: a page elsewhere
whose name is made to lead here (DNS rebinding) gets nothing.

What changes is bounded like the page: curves of at most a thousand points, 42 samples, 100 validations. It is put
together when somebody asks and a file of the runs has changed, once a second at most; of the metrics only what is new
is read, so that watching costs a run next to nothing however long it is; samples and manifests, of which a long run has
hundreds and not a line a step, are read again, 5 ms for four hundred of the one and twenty of the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from babygpt.errors import InputError
from babygpt.report.metrics import Metrics
from babygpt.report.page import live_values, report_page
from babygpt.report.run import METRICS, RunView, read_run
from babygpt.run_folder import recipe_of
from babygpt.training.alive import is_at_work

__all__ = ["LiveRuns", "bound", "serve"]

_LEAST_SECONDS = 1.0  # between two readings
_REQUEST_SECONDS = 10.0
_FILES = (
    "recipe.yaml",
    METRICS,
    "samples.jsonl",
    "machine.json",
    "data.json",
    "rollbacks.json",
    "checkpoints",
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class LiveRuns:
    """Run folders, read again as they change.

    Args:
        paths: of the folders.
        points: of each curve, at most.
    """

    def __init__(self, paths: Sequence[Path], points: int) -> None:
        self._paths, self._points = paths, points
        self._metrics: dict[Path, tuple[int | None, Metrics]] = {}
        self._lock = threading.Lock()
        self._read_at, self._stamp = -_LEAST_SECONDS, ""
        self._views: list[RunView] = []

    def views(self) -> tuple[str, list[RunView]]:
        """A name of the state they are in, and what there is to say of them.

        Raises:
            InputError: one of them is no run folder, or no longer.
        """
        with self._lock:
            if time.monotonic() - self._read_at >= _LEAST_SECONDS:
                stamp = _stamp(self._paths)
                if stamp != self._stamp:
                    self._views = [self._read(path) for path in self._paths]
                    self._stamp = stamp
                self._read_at = time.monotonic()
            return self._stamp, self._views

    def _read(self, path: Path) -> RunView:
        recipe = recipe_of(path)
        steps = recipe.budget.steps
        known = self._metrics.get(path)
        if known is None or known[0] != steps:  # a run that goes on longer is judged by its new length
            known = (steps, Metrics(path / METRICS, self._points, steps))
            self._metrics[path] = known
        return read_run(path, self._points, recipe, known[1])


def _stamp(paths: Sequence[Path]) -> str:
    seen: list[Any] = []
    for path in paths:
        seen.append(is_at_work(path))
        for name in _FILES:
            try:
                found = (path / name).stat()
                seen.append((found.st_ino, found.st_size, found.st_mtime_ns))
            except OSError:
                seen.append(None)
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]


def _names(port: int) -> tuple[str, str]:
    """What a browser calls a server of this computer at that port; it leaves out that of the web."""
    after = "" if port == 80 else f":{port}"
    return f"127.0.0.1{after}", f"localhost{after}"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows that would share the port with whoever listens there
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news."""


@dataclass(frozen=True)
class _Answer:
    """What a browser gets: the status, the text and its kind, and headers beside those that all have."""

    status: int
    kind: str
    text: str
    more: dict[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    runs: LiveRuns
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "babygpt", ""

    def do_GET(self) -> None:
        """The page, or what changes on it."""
        try:
            answer = self._answer()
        except InputError as error:
            answer = _Answer(503, "text/plain", str(error))
        except Exception as error:
            # Without an answer the page would take it that nobody serves it any more.
            answer = _Answer(500, "text/plain", f"it cannot be shown ({type(error).__name__}: {error})")
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self) -> None:
        self._send(_Answer(405, "text/plain", "This page is only read.", {"Allow": "GET, HEAD"}))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self) -> _Answer:
        port = self.connection.getsockname()[1]
        if self.headers.get_all("Host") not in [[name] for name in _names(port)]:
            return _Answer(421, "text/plain", f"This page is at http://{_names(port)[0]}/ only.")
        if self.path == "/":
            return _Answer(200, "text/html", report_page(self.runs.views()[1], live=True))
        if self.path != "/data":
            return _Answer(404, "text/plain", "There is nothing else here.")
        stamp, views = self.runs.views()
        tag = {"ETag": f'"{stamp}"'}
        if self.headers.get("If-None-Match") == tag["ETag"]:
            return _Answer(304, "application/json", "", tag)
        text = json.dumps(live_values(views), separators=(",", ":"), allow_nan=False)
        return _Answer(200, "application/json", text, tag)

    def _send(self, answer: _Answer) -> None:
        body = answer.text.encode(errors="backslashreplace")
        self.send_response(answer.status)
        kind = f"{answer.kind}; charset=utf-8"
        for name, value in {**_HEADERS, **answer.more, "Content-Type": kind}.items():
            self.send_header(name, value)
        if answer.status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and answer.status != 304:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said of requests."""


def bound(runs: LiveRuns, port: int | None) -> socketserver.ThreadingTCPServer:
    """A server that listens already; the caller lets it serve, and closes it.

    Args:
        runs: what is served.
        port: None takes one that is free.

    Raises:
        InputError: the port cannot be had.
    """
    try:
        return _Server(("127.0.0.1", port or 0), type("Handler", (_Handler,), {"runs": runs}))
    except OSError as error:
        what = f"cannot be listened on ({(error.strerror or str(error)).lower()})"
        raise InputError(
            what, where=f"port {port or 'of any number'}", hint="Give another --port, or leave it out"
        ) from error


def serve(paths: Sequence[Path], points: int, port: int | None, say: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted.

    Args:
        paths: the run folders.
        points: of each curve, at most.
        port: None takes one that is free.
        say: told where the page is.

    Raises:
        InputError: one of them is no run folder, or the port cannot be had.
        KeyboardInterrupt: Ctrl-C.
    """
    runs = LiveRuns(paths, points)
    runs.views()
    with bound(runs, port) as server:
        say(f"page: http://127.0.0.1:{server.server_address[1]}/ (until Ctrl-C)")
        server.serve_forever(poll_interval=0.2)
