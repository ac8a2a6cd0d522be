"""A web server in a thread, whose answers can be made to fail."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class WebServer:
    """What is served, and how the next requests fail.

    Attributes:
        files: path to content.
        types: path to content type; none is sent for others.
        headers: path to further headers.
        faults: of the next requests, in order: a status (503), ("cut", bytes), ("stall", bytes), or None.
        ranges: whether parts can be asked for.
        tags: whether versions are told apart.
        lengths: whether the size is declared.
        seen: path and headers of each request.
        sent: bytes of each body.
        port: where it listens.
        stop: set to let go of whoever is kept waiting.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[Any] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True
    lengths: bool = True
    seen: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    port: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}{path}"


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    web: WebServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        web, path = self.web, self.path.partition("?")[0]
        web.seen.append((self.path, dict(self.headers)))
        fault = web.faults.pop(0) if web.faults else None
        content = web.files.get(path)
        if isinstance(fault, int):
            self._head(fault, {"Retry-After": "0"} | web.headers.get(path, {}))
        elif content is None:
            self.send_error(404)
        else:
            self._send(path, content, fault)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, path: str, content: bytes, fault: Any) -> None:
        web = self.web
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag} if web.tags else {}
        if web.tags and self.headers.get("If-None-Match") == tag:
            self._head(304, headers)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, status = 0, 200
        if asked and web.ranges and self.headers.get("If-Range", tag) == tag:
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if web.lengths:
            headers["Content-Length"] = str(len(content) - start)
        if path in web.types:
            headers["Content-Type"] = web.types[path]
        self._head(status, headers | web.headers.get(path, {}))
        body = content[start:][: fault[1] if fault else None]
        web.sent.append(len(body))
        self.wfile.write(body)
        if fault and fault[0] == "stall":
            self.wfile.flush()
            web.stop.wait(10)


def start(web: WebServer) -> ThreadingHTTPServer:
    """Serves from a thread of its own; `shutdown` and `server_close` end it."""
    server = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    web.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
