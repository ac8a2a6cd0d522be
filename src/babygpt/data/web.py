"""Files of web servers.

Whole files are asked for with If-None-Match and If-Modified-Since, so that an unchanged file is not sent again, and
gone on with by Range and If-Range, so that parts of two versions are never joined. Answers of 429 and 5xx are waited
for, other refusals are final. A password of the address is sent to its own host only, not to where it redirects.
Parts of files are asked for on connections that stay open: a handshake for each would take longer than the part.
"""

from __future__ import annotations

import base64
import email.message
import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from babygpt.data.connections import kept_connections, opener
from babygpt.data.transfer import Answer, BrokenOffError, Stamp, html_page, no_parts
from babygpt.errors import DataError
from babygpt.untrusted import redacted

__all__ = ["HttpSource"]

_STALLED = 60.0  # seconds without a byte
_PART_SECONDS = 30.0  # for a whole part, and without a byte of it
_PART_BLOCK = 1 << 16
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_SUFFIXES = {
    "application/json": ".json",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.apache.arrow.file": ".arrow",
    "application/vnd.apache.arrow.stream": ".arrow",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
}


class HttpSource:
    """A file that a web server has.

    Args:
        url: its address; a user and password before the host are sent as such.

    Raises:
        DataError: it is no address.
    """

    def __init__(self, url: str) -> None:
        self.shown = redacted(url)
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "babygpt"}
        self._authorization = ""
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname or "", parts.port
            if parts.username is not None:
                secret = (
                    f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
                )
                self._authorization = "Basic " + base64.b64encode(secret.encode()).decode()
            host = host.encode("idna").decode() if not host.isascii() else host
        except ValueError:
            host, port = "", None
        if not host:
            raise DataError(
                "not an address", where=self.shown, hint="Write it as https://host/path/file.jsonl"
            )
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
        path, query = (
            urllib.parse.quote(part, safe="/%:@!$&'()*+,;=~?") for part in (parts.path, parts.query)
        )
        self._url = urllib.parse.urlunsplit((parts.scheme, place, path or "/", query, ""))
        self.path = parts.path
        self._is_html = parts.path.lower().endswith((".html", ".htm"))

    @contextmanager
    def open(self, offset: int, stamp: Stamp | None) -> Iterator[Answer | None]:
        """As `Source.open`."""
        try:
            response = opener().open(self._request(_conditions(offset, stamp)), timeout=_STALLED)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 304 and not offset:
                    yield None
                    return
                raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None
        with response:
            headers = response.headers
            if headers.get_content_type() == "text/html" and "Content-Type" in headers and not self._is_html:
                raise html_page(self.shown)
            start, size = _range_of(response.status, headers)
            if response.status == 206 and start != offset:
                raise BrokenOffError("the server sent another part than was asked for", restart=True)
            found = Stamp(headers.get("ETag", ""), headers.get("Last-Modified", ""), size)

            def read(most: int) -> bytes:
                try:
                    return bytes(response.read(most))
                except (OSError, http.client.HTTPException) as error:
                    raise self._broken(error) from None

            yield Answer(start, found, read, ".html" if self._is_html else _suffix(headers))

    def part(self, start: int, size: int) -> bytes:
        """As `Source.part`."""
        request = self._request({"Range": f"bytes={start}-{start + size - 1}"})
        kept = kept_connections()
        is_whole = False
        try:
            with kept.opener.open(request, timeout=_PART_SECONDS) as response:
                content = self._part(response, start, size)
                is_whole = True
            return content
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:
                    what = f"the file ends before byte {start + size:,}"
                    raise DataError(what, where=self.shown, hint="Copy it there again, whole") from None
                raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None
        finally:
            if not is_whole:
                kept.close()  # what is left of an answer would be taken for the next one

    def _part(self, response: Any, start: int, size: int) -> bytes:
        headers = response.headers
        if headers.get_content_type() == "text/html" and "Content-Type" in headers:
            raise html_page(self.shown)
        first, whole = _range_of(response.status, headers)
        if response.status != 206 and (start, size) != (0, whole):
            raise no_parts(self.shown)
        if first != start:
            raise BrokenOffError("the server sent another part than was asked for")
        content, until = bytearray(), time.monotonic() + _PART_SECONDS
        while block := response.read(min(_PART_BLOCK, size + 1 - len(content))):
            content += block
            if len(content) > size:
                raise BrokenOffError("the server sent more than was asked for")
            if time.monotonic() > until:
                raise BrokenOffError(f"the server is slow: {len(content):,} of {size:,} bytes came")
        if len(content) < size:
            raise BrokenOffError(f"the connection was cut: {len(content):,} of {size:,} bytes came")
        return bytes(content)

    def _request(self, headers: dict[str, str]) -> urllib.request.Request:
        request = urllib.request.Request(self._url, headers=self._headers | headers)
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        return request

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        what = f"the server answers {error.code} ({http.client.responses.get(error.code, 'unknown')})"
        if error.code in _TRY_AGAIN:
            asked = error.headers.get("Retry-After", "")
            return BrokenOffError(what, wait=float(asked) if re.fullmatch(r"\d{1,6}", asked) else 0.0)
        if error.code == 416:
            return BrokenOffError("the file became shorter", restart=True)
        hints = {404: "Check the address", 410: "Check the address"}
        hint = hints.get(error.code, "It may need a token or password, or the address has run out")
        return DataError(what, where=self.shown, hint=hint)

    def _broken(self, error: Exception) -> Exception:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            what = f"the server's certificate does not hold ({cause.verify_message})"
            return DataError(what, where=self.shown, hint="Check the address and this computer's clock")
        if isinstance(error, http.client.InvalidURL):
            return DataError("not an address", where=self.shown, hint="Check data.path")
        if isinstance(cause, TimeoutError):
            return BrokenOffError("the server does not answer in time")
        words = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        return BrokenOffError(f"the connection failed ({redacted(words) or type(cause).__name__})")


def _conditions(offset: int, stamp: Stamp | None) -> dict[str, str]:
    if stamp is None:
        return {"Range": f"bytes={offset}-"} if offset else {}
    if not offset:
        asked = {"If-None-Match": stamp.etag, "If-Modified-Since": stamp.modified}
        return {name: value for name, value in asked.items() if value}
    # A weak tag does not promise equal bytes, and without any promise parts of two versions could be joined.
    sure = stamp.etag if stamp.etag and not stamp.etag.startswith("W/") else stamp.modified
    return {"Range": f"bytes={offset}-", "If-Range": sure} if sure else {}


def _range_of(status: int, headers: email.message.Message) -> tuple[int, int | None]:
    """The first byte that comes, and how many the whole file has."""
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if not found:
            return -1, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _suffix(headers: email.message.Message) -> str:
    """What the file's name should end in, by what the server says of its content."""
    coding = headers.get("Content-Encoding", "").strip().lower()
    kind = _SUFFIXES.get(headers.get_content_type(), "")
    return f"{kind or '.txt'}.gz" if coding in ("gzip", "x-gzip") else kind
