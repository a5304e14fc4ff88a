"""A request and its answer on a connection: by an ASGI application, or by a function that is given the whole request.

The function is for routes that never wait; calling it takes neither a task nor messages. Source of ASGI: "ASGI HTTP &
WebSocket Message Format", version 2.3.
"""

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from headrace.problem import failure

question_bytes_max: Final = 2**20
"""Most bytes of the body that a function is given."""
dropped_bytes_max: Final = 8 * 2**20
"""Most bytes of a longer body that are read, so that the client sees the answer."""
unread_bytes_max: Final = 2**16
"""Bytes of a body that an ASGI application has not taken yet, from which on no more are read."""

Function: TypeAlias = Callable[[Request, bytes | None, Callable[[Response], None]], None]
"""Gives the answer to a request with this body (None: it is longer than `question_bytes_max`), at once or in one of the
next rounds of the loop. It must neither wait nor raise an exception; the server sends a response that streams as an
ASGI application would."""
_STATUS_LINES: Final = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = (b"connection", b"close")


class Wire(Protocol):
    """The connection of an exchange."""

    @property
    def date(self) -> bytes:
        """The header `date`, as a line."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    async def writable(self) -> None:
        """Wait until the client has taken enough of what was sent, or is gone."""

    def read_on(self) -> None:
        """Go on with reading, as the body so far was taken."""

    def spawn(self, task: asyncio.Task[None]) -> None:
        """Keep a task until it ends, even if the connection ends before."""

    def finish(self, exchange: "Exchange") -> None:
        """Note that the answer is complete."""

    def cut(self) -> None:
        """End the connection at once."""


class Exchange:
    """A request and its answer. The connection calls `begin` when it is `ready` and its turn, and `invite` before.

    Args:
        scope: the request, as ASGI describes it.
        keeps: whether the connection stays open afterwards.
        expects: whether the client waits for `100 Continue` before it sends the body.

    Attributes:
        begun: whether `begin` was called.
        whole: whether the whole body has come.
        started, done: whether the answer has begun, and is complete.
        gone: whether nobody waits for the answer any more.
    """

    begun = whole = started = done = gone = False
    _mute = _chunked = False
    _left = 0  # bytes of the answer's body by its Content-Length
    _head: tuple[int, Iterable[tuple[bytes, bytes]]]  # of an ASGI answer, until its body begins

    def __init__(self, wire: Wire, scope: dict[str, Any], *, keeps: bool = True, expects: bool = False) -> None:
        self._wire, self.scope, self.keeps, self._expects = wire, scope, keeps, expects
        self._body, self._news = bytearray(), asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether the answer can begin."""
        raise NotImplementedError

    @property
    def full(self) -> bool:
        """Whether no more of the body is wanted now."""
        return False

    def begin(self) -> None:
        """Begin the answer."""
        raise NotImplementedError

    def take(self, piece: bytes) -> None:
        """Take a piece of the body."""
        raise NotImplementedError

    def end(self) -> None:
        """Note that the whole body has come."""
        self.whole = True

    def lose(self) -> None:
        """Note that nobody waits for the answer any more."""
        self.gone = True
        self._news.set()

    def invite(self) -> None:
        """Let a client go on that waits before it sends the body."""
        if self._expects and not (self.started or self.whole or self.gone):
            self._wire.write(_CONTINUE)
        self._expects = False

    def _answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, more: bool = False) -> None:
        """Send the head of the answer, with the first piece of its body in the same packet.

        Raises:
            ValueError: a header has a line break.
        """
        lines, length = [_STATUS_LINES[status], self._wire.date], None
        for header in headers:
            if header == _CLOSE:
                self.keeps = False
                continue
            if header[0] == b"content-length":
                length = int(header[1])
            lines.append(b"%b: %b\r\n" % header)
        self._mute = self.scope["method"] == "HEAD" or status in (204, 304)
        self._left = 0 if self._mute else length or 0
        self._chunked = not self._mute and length is None and self.scope["http_version"] == "1.1"
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keeps:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines):
            raise ValueError("wanted headers of one line each, found a line break")
        self.started = True
        self._send_piece(body, more=more, head=head + b"\r\n")

    def _send_piece(self, piece: bytes, *, more: bool, head: bytes = b"") -> None:
        """Send a piece of the answer's body; the last one completes the answer."""
        if self._mute:
            piece = b""
        elif self._chunked:
            piece = (b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"") + (b"" if more else b"0\r\n\r\n")
        else:
            self._left -= len(piece)
        if head or piece:
            self._wire.write(head + piece)
        if more:
            return
        self.done = True
        if self._left > 0:
            self._wire.cut()  # the client must not take it for the whole answer
        else:
            self._wire.finish(self)

    async def _run(self, app: ASGIApp) -> None:
        """Let an ASGI application answer. What it raises is logged, and ends this request alone."""
        try:
            await app(self.scope, self._receive, self._send)
        except Exception as error:
            structlog.get_logger().error("request failed", exc_info=error)
        if self.done or self.gone:
            return
        if self.started:
            self._wire.cut()
        else:
            failed = failure()
            self._answer(failed.status_code, failed.raw_headers, bytes(failed.body))

    async def _receive(self) -> Message:
        self.invite()
        if not (self.done or self.gone):
            await self._news.wait()
            self._news.clear()
        if self.done or self.gone:
            return {"type": "http.disconnect"}
        message = {"type": "http.request", "body": bytes(self._body), "more_body": not self.whole}
        self._body = bytearray()
        self._wire.read_on()
        return message

    async def _send(self, message: Message) -> None:
        await self._wire.writable()
        if self.gone:
            return
        if message["type"] == "http.response.start":
            self._head = message["status"], message.get("headers", ())
            return
        piece, more = message.get("body", b""), message.get("more_body", False)
        if self.started:
            self._send_piece(piece, more=more)
        else:
            self._answer(*self._head, piece, more=more)


class AppExchange(Exchange):
    """A request that an ASGI application answers, perhaps before the whole body has come."""

    def __init__(self, app: ASGIApp, wire: Wire, scope: dict[str, Any], **options: bool) -> None:
        super().__init__(wire, scope, **options)
        self._app = app

    @property
    def ready(self) -> bool:
        return True

    @property
    def full(self) -> bool:
        return not self.done and len(self._body) >= unread_bytes_max

    def begin(self) -> None:
        self._wire.spawn(asyncio.get_running_loop().create_task(self._run(self._app)))

    def take(self, piece: bytes) -> None:
        if not self.done:
            self._body += piece
            self._news.set()

    def end(self) -> None:
        super().end()
        self._news.set()


class FunctionExchange(Exchange):
    """A request that a function answers once the whole of it has come."""

    def __init__(self, function: Function, wire: Wire, scope: dict[str, Any], **options: bool) -> None:
        super().__init__(wire, scope, **options)
        self._function, self._bytes = function, 0
        if self._expects:
            self._bytes = sum(int(value) for name, value in scope["headers"] if name == b"content-length")
            self.whole = self._bytes > question_bytes_max
            self._bytes = self._bytes if self.whole else 0

    @property
    def ready(self) -> bool:
        return self.whole

    def begin(self) -> None:
        body: bytes | None = bytes(self._body)
        if self._bytes > question_bytes_max:
            body, self.keeps = None, False
        self._function(Request(self.scope), body, self._respond)

    def _respond(self, response: Response) -> None:
        if self.gone:
            return
        content = getattr(response, "body", None)
        if content is None:  # it streams
            self._wire.spawn(asyncio.get_running_loop().create_task(self._run(response)))
        else:
            self._answer(response.status_code, response.raw_headers, content)

    def take(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes <= question_bytes_max:
            self._body += piece
        elif self._bytes > dropped_bytes_max:
            self.whole = True
