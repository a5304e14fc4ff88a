"""Asks the server of answers over HTTP, from the gateway's loop: kept connections in bounded numbers, and deadlines.

A question changes nothing, so it is asked again where a kept connection turns out to be closed.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httptools
import msgspec

from headrace.errors import Misconfigured
from headrace.problem import Problem

connections_max: Final = 16
"""Most connections to the server; further questions wait for one."""
answer_s_max: Final = 3.0
"""Longest time, in seconds, from a question to its answer, the wait for a connection included."""
answer_bytes_max: Final = 16 * 2**20
retry_s: Final = 2
"""After how many seconds a client is told to try again, while the server is away."""
_read_bytes: Final = 64 * 2**10
_PORTS: Final = {"http": 80, "https": 443}

T = TypeVar("T")


class _Failed(Exception):
    """There is no answer; the text says why."""


class _Closed(_Failed):
    """The server had closed the connection before the question came."""


class _Answer:
    """An answer while it is read, as httptools calls it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body, self.retry_after = bytearray(), b""
        self.complete = self.keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = value

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete, self.keeps = True, self.parser.should_keep_alive()  # the parser knows it only now


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _Refusal(msgspec.Struct):
    """What is read of a problem document."""

    detail: str = ""


class Asking:
    """Asks one server. Use it in one event loop.

    Args:
        url: `http://HOST[:PORT]` or with `https`, the server's address; a path in front of its routes is allowed.

    Raises:
        Misconfigured: the URL cannot be used.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise Misconfigured(f"gateway.answers {url}: {error}") from error
        if parts.scheme not in _PORTS or not host or parts.query or parts.fragment or parts.username or " " in url:
            raise Misconfigured(f"gateway.answers {url}: wanted http://HOST[:PORT] or https://HOST[:PORT]")
        self._host, self._port, self._path = host, port or _PORTS[parts.scheme], parts.path.rstrip("/")
        self._named = parts.netloc
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._free = asyncio.Semaphore(connections_max)
        self._kept: list[_Connection] = []

    async def get(
        self, kind: type[T], key: str, path: Sequence[str], parameters: Mapping[str, Any] | None = None
    ) -> T:  # fmt: skip
        """Return the answer to a question.

        Args:
            kind: what it is decoded as.
            key: the text of the key that asks.
            path: its parts, such as `("v1", "items", "boots")`.
            parameters: of the query string; a list states one several times, and what is empty is left out.

        Raises:
            Problem: there is no answer, or a refusal.
        """
        stated = urlencode({name: value for name, value in (parameters or {}).items() if value}, doseq=True)
        return await self._asked(kind, "GET", key, path, stated, b"")

    async def post(self, kind: type[T], key: str, path: Sequence[str], body: Mapping[str, Any]) -> T:
        """Return the answer to a question that is the JSON object of a body. The arguments are those of `get`."""
        return await self._asked(kind, "POST", key, path, "", msgspec.json.encode(body))

    async def _asked(
        self, kind: type[T], method: str, key: str, path: Sequence[str], query: str, body: bytes
    ) -> T:  # fmt: skip
        target = "/".join((self._path, *(quote(part, safe="", errors="replace") for part in path)))
        head = (
            f"{method} {target}{'?' if query else ''}{query} HTTP/1.1\r\nhost: {self._named}\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(answer_s_max), self._free:
                answer = await self._exchanged(head.encode("latin-1", errors="replace") + body)
        except TimeoutError:
            raise _away(f"wanted an answer within {answer_s_max:g} s, found none") from None
        except (OSError, _Failed) as error:
            raise _away(f"wanted an answer, found: {str(error)[:200]}") from None
        status = answer.parser.get_status_code()
        if status != 200:
            raise _refused(status, answer)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise _away("wanted an answer of headrace serve of this release, found another") from None

    async def _exchanged(self, sent: bytes) -> _Answer:
        while self._kept:
            with suppress(_Closed):
                return await self._exchange(self._kept.pop(), sent)
        limit = {"limit": _read_bytes}
        name = self._host if self._tls else None
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, server_hostname=name, **limit
        )
        return await self._exchange(_Connection(reader, writer), sent)

    async def _exchange(self, connection: _Connection, sent: bytes) -> _Answer:
        """Return the answer; the connection is kept if another question may follow, else closed."""
        reader, writer = connection
        answer, read = _Answer(), 0
        try:
            writer.write(sent)
            while not answer.complete:
                try:
                    data = await reader.read(_read_bytes)
                except ConnectionError:
                    data = b""
                if not data:
                    raise _Failed("the connection ended") if read else _Closed("the connection was closed")
                read += len(data)
                if read > answer_bytes_max:
                    raise _Failed(f"more than {answer_bytes_max} bytes")
                try:
                    answer.parser.feed_data(data)
                except httptools.HttpParserError as error:
                    raise _Failed(f"no HTTP: {error}") from error
        finally:  # cancelled ones as well: what is left of their answer must not be another's
            if answer.keeps:
                self._kept.append(connection)
            else:
                writer.close()
        return answer

    def close(self) -> None:
        """Close the kept connections."""
        for connection in self._kept:
            connection.writer.close()
        self._kept.clear()


def _away(detail: str) -> Problem:
    return Problem("no-answers", f"gateway.answers: {detail}", retry_s=retry_s)


def _refused(status: int, answer: _Answer) -> Problem:
    """Return what the server refused, as the gateway's own problem."""
    try:
        detail = msgspec.json.decode(answer.body, type=_Refusal).detail
    except (msgspec.MsgspecError, UnicodeDecodeError):
        detail = ""
    if status == 404:
        return Problem("unknown", detail)
    if status == 401:
        return Problem("bad-key", detail)
    if status == 403:
        return Problem("forbidden", detail)
    if 400 <= status < 500:
        return Problem("bad-query", detail)
    wait_s = int(answer.retry_after) if answer.retry_after.isdigit() else retry_s
    return Problem("no-answers", detail or f"gateway.answers: status {status}", retry_s=wait_s)
