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
        faults: of the next requests, in order: a status (503), ("cut", bytes), ("stall", bytes), ("wrong", place of a
            byte), or None.
        ranges: whether parts can be asked for.
        tags: whether versions are told apart.
        lengths: whether the size is declared.
        stays: whether connections stay open after an answer.
        delay: seconds before an answer.
        seen: path and headers of each request.
        sent: bytes of each body.
        connections: how many were made.
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
    stays: bool = False
    delay: float = 0.0
    connections: int = 0
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
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.web.connections += 1
        self.protocol_version = "HTTP/1.1" if self.web.stays else "HTTP/1.0"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        web, path = self.web, self.path.partition("?")[0]
        web.seen.append((self.path, dict(self.headers)))
        fault = web.faults.pop(0) if web.faults else None
        web.stop.wait(web.delay)
        content = web.files.get(path)
        if isinstance(fault, int):
            self.close_connection = True
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
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end, status = 0, len(content), 200
        if asked and web.ranges and self.headers.get("If-Range", tag) == tag:
            start, status = int(asked[1]), 206
            if start >= len(content):
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            end = min(end, int(asked[2]) + 1) if asked[2] else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        if web.lengths:
            headers["Content-Length"] = str(end - start)
        if path in web.types:
            headers["Content-Type"] = web.types[path]
        self._head(status, headers | web.headers.get(path, {}))
        body = content[start:end]
        if fault and fault[0] == "wrong":
            place = fault[1] % len(body)
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        elif fault:
            body, self.close_connection = body[: fault[1]], True
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
