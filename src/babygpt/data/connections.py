"""What asks web servers: on a new connection each time, or on one of a thread and host that stays open.

The second is for many small requests, each of which would take longer to shake hands than to be answered. An idle
connection that the server has closed meanwhile is opened again once, without being noticed.
"""

from __future__ import annotations

import http.client
import os
import threading
import urllib.request
import weakref
from typing import Any

__all__ = ["Connections", "kept_connections", "opener"]


def opener(*connecting: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """For web servers only, behind a proxy or not: no redirect to file:, ftp: or data: is followed.

    Args:
        connecting: what makes connections; by default a new one for each request.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        *(connecting or (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler())),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Kept:
    """A connection that goes on after an answer; `urllib` is given it where it expects a new one.

    Args:
        make: of `http.client`.
        host, timeout: of the connection.
    """

    sock = None  # urllib closes the socket that it finds here

    def __init__(self, make: type[http.client.HTTPConnection], host: str, timeout: float) -> None:
        self._make, self._host, self._timeout = make, host, timeout
        self._tunnel: tuple[Any, ...] = ()
        self._begin()

    def _begin(self) -> None:
        self._connection = self._make(self._host, timeout=self._timeout)
        self._answered = False
        if self._tunnel:
            self._connection.set_tunnel(*self._tunnel)

    def set_debuglevel(self, level: int) -> None:
        """Says nothing."""

    def set_tunnel(self, host: str, port: int | None = None, headers: Any = None) -> None:
        """Through a proxy to a host; another than before takes a connection of its own."""
        if self._tunnel != (host, port, headers):
            self._tunnel = (host, port, headers)
            self.close()

    def request(self, method: str, url: str, body: Any, headers: dict[str, str], **more: Any) -> None:
        """Asks, without asking that the connection be closed."""
        self._asked = (method, url, body, {k: v for k, v in headers.items() if k != "Connection"}), more
        try:
            self._connection.request(*self._asked[0], **more)
        except (OSError, http.client.HTTPException) as error:
            self._ask_anew(error)

    def getresponse(self) -> http.client.HTTPResponse:
        """The answer."""
        try:
            response = self._connection.getresponse()
        except (ConnectionError, http.client.HTTPException) as error:
            self._ask_anew(error)
            response = self._connection.getresponse()
        self._answered = True
        return response

    def _ask_anew(self, error: Exception) -> None:
        """Once more on a new connection, where the old one may only have been idle for too long."""
        if not self._answered:
            raise error
        self.close()
        self._connection.request(*self._asked[0], **self._asked[1])

    def close(self) -> None:
        """Begins anew with the next request."""
        self._connection.close()
        self._begin()


class Connections:
    """The open connections of a thread, and what asks on them."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._open: dict[Any, _Kept] = {}
        weakref.finalize(self, _close, self._open)  # when its thread ends
        self.opener = opener(_Plain(self), _Secure(self))

    def to(self, make: type[http.client.HTTPConnection]) -> Any:
        """What `urllib` calls for a connection to a host."""

        def connect(host: str, timeout: float, **settings: Any) -> _Kept:
            del settings  # of the certificates: what they are by default
            if (make, host) not in self._open:
                self._open[make, host] = _Kept(make, host, timeout)
            return self._open[make, host]

        return connect

    def close(self) -> None:
        """Closes them all."""
        _close(self._open)


def _close(connections: dict[Any, _Kept]) -> None:
    for connection in connections.values():
        connection.close()


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connections.to(http.client.HTTPConnection), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connections.to(http.client.HTTPSConnection), req)


_of_thread = threading.local()


def kept_connections() -> Connections:
    """Those of this thread, and of this process: a forked one would share the sockets."""
    found: Connections | None = getattr(_of_thread, "connections", None)
    if found is None or found.process != os.getpid():
        found = _of_thread.connections = Connections()
    return found
