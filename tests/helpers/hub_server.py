"""A Hugging Face hub in a thread: what its own clients ask for data sets, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit


@dataclass
class HubServer:
    """The data sets of a hub.

    Attributes:
        repositories: name to the files of its one branch.
        port: where it listens.
        sent: path of a file and bytes of it, for each answer that had some.
        cut_after: files are no longer sent once so many bytes of them were; None sends all.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    port: int = 0
    sent: list[tuple[str, int]] = field(default_factory=list)
    cut_after: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which a process asks this hub, and asks it quickly."""
        url = f"http://127.0.0.1:{self.port}"
        return {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}

    def commit(self, name: str) -> str:
        """A name for the content of a repository, as long as a commit's."""
        files = sorted((path, _digest(content)) for path, content in self.repositories[name].items())
        return _digest(repr(files).encode())

    def bytes_of(self, end: str) -> int:
        """Bytes that were sent of files whose path ends so."""
        return sum(size for path, size in self.sent if path.endswith(end))


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(r"(/api)?/datasets/([^/]+/[^/]+)(?:/(\w[\w-]*)/([^/]+)(?:/(.*))?)?", path)
        files = self.hub.repositories.get(found[2]) if found else None
        if found is None or files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        api, name, what, _, below = found.groups()
        commit = self.hub.commit(name)
        if not api:
            self._file(files, below or "", commit)
        elif what in (None, "revision"):
            siblings = [{"rfilename": each} for each in files]
            about = {"id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
            self._send(200, json.dumps({**about, "downloads": 0, "likes": 0}).encode())
        elif what == "tree":
            below = f"{below.rstrip('/')}/" if below else ""
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            entries = [e for e in _entries(files) if _is_below(e, below, deep)]
            self._send(200, json.dumps(entries).encode())
        elif what == "paths-info":
            asked = json.loads(self._body)["paths"]
            entries = [entry for entry in _entries(files) if entry["path"] in asked]
            self._send(200, json.dumps(entries).encode())
        else:
            self._send(404, b"{}")

    def _file(self, files: dict[str, bytes], name: str, commit: str) -> None:
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            status, content = 206, content[start : end + 1]
        if self.command == "GET":
            hub = self.hub
            if hub.cut_after is not None and sum(size for _, size in hub.sent) >= hub.cut_after:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            hub.sent.append((name, len(content)))
        self._send(status, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _entries(files: dict[str, bytes]) -> list[dict[str, object]]:
    """The files and folders."""
    folders = {str(each) for name in files for each in PurePosixPath(name).parents} - {"."}
    return [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)] + [
        {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
        for name, content in sorted(files.items())
    ]


def _is_below(entry: dict[str, object], folder: str, deep: bool) -> bool:
    path = str(entry["path"])
    return path.startswith(folder) and (deep or "/" not in path.removeprefix(folder))


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A hub that listens, until it is left."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
