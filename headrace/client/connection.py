"""The connection of a client to its gateway: requests, and what their answers say."""

import json
import re
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ssl import SSLContext
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from headrace.errors import Misconfigured

answer_bytes_max: Final = 16 * 2**20
"""Most bytes of an answer that are read."""
_PORTS: Final = {"http": 80, "https": 443}


class Answer(NamedTuple):
    """A gateway's answer: its status, the pause that it asks for in seconds (0 for none), and its JSON object."""

    status: int
    after_s: float
    body: dict[str, Any]


class Gateway:
    """One connection to a gateway, kept open between requests. Not thread-safe.

    Raises:
        Misconfigured: the URL or the key cannot be used.
    """

    def __init__(self, url: str, key: str, timeout_s: float, context: SSLContext | None) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise Misconfigured(f"gateway {url}: {error}") from error
        written = (
            parts.path.isascii() and " " not in parts.path and not (parts.query or parts.fragment or parts.username)
        )
        if parts.scheme not in _PORTS or not host or not written:
            raise Misconfigured(f"gateway {url}: wanted http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise Misconfigured("key: wanted printable ASCII characters without spaces")
        self.url, self._path = url, parts.path.rstrip("/")
        port = port or _PORTS[parts.scheme]  # http.client would look for one in an IPv6 address
        self._connection = (
            HTTPSConnection(host, port, timeout=timeout_s, context=context)
            if parts.scheme == "https"
            else HTTPConnection(host, port, timeout=timeout_s)
        )
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def request(self, target: str, body: bytes) -> Answer:
        """Return the answer to a request of this target, such as `POST /v1/events`.

        Raises:
            OSError, HTTPException: there is no answer, or one that is not a gateway's.
        """
        if self._connection.sock is not None:
            with suppress(ConnectionError):  # a server may have closed a connection that was idle
                return self._request_once(target, body)
        return self._request_once(target, body)

    def _request_once(self, target: str, body: bytes) -> Answer:
        method, path = target.split(" ", 1)
        try:
            self._connection.request(method, self._path + path, body or None, self._headers)
            response = self._connection.getresponse()
            status, content = response.status, response.read(answer_bytes_max)
            if not response.isclosed():
                raise HTTPException(f"wanted an answer of at most {answer_bytes_max} bytes")
        except (OSError, HTTPException):
            self._connection.close()
            raise
        try:
            answer = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            if status < 300:
                raise HTTPException(f"wanted a gateway's answer, found {content[:50]!r}")
            answer = {}
        return Answer(status, _seconds(response.headers.get("Retry-After")), answer)

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()


def _seconds(retry_after: str | None) -> float:
    """Return a header's number of seconds, possibly with a fraction; 0 if it has none. (A gateway sends no dates.)

    >>> _seconds("7"), _seconds("0.5"), _seconds("soon"), _seconds(None)
    (7.0, 0.5, 0.0, 0.0)
    """
    found = re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", retry_after or "")
    return float(found[0]) if found else 0.0
