"""A connection that speaks HTTP/1.1: what comes becomes exchanges, which are answered in their order.

llhttp parses (`httptools`); what it lets through although two readers may read it differently is refused here. Source:
RFC 9112, "HTTP/1.1".
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote

import httptools
from starlette.requests import Request
from starlette.responses import Response

from headrace.connections import Connections
from headrace.exchange import Exchange, FunctionExchange

keep_alive_s: Final = 20.0
"""How long a connection without a request is kept."""
head_bytes_max: Final = 16 * 2**10
"""Most bytes of a request's line and headers; also of what follows in a body without being data, such as trailers."""
feed_bytes: Final = 4 * 2**10
"""Bytes that are parsed at a time. Requests that wait take far more memory than their bytes, so that no more are parsed
while one waits. A head is found too long once it is so much longer."""
pieces_max, piece_bytes_min = 1_000, 64
"""A body may have as many pieces as it likes (chunks, or what comes at once), beyond the first if they are no smaller
on average."""
answer_s_max: Final = 20.0
"""Longest time, in seconds, after that for a request to arrive, until it is answered; then its connection is cut."""


class MakeExchange(Protocol):
    """Makes the exchange of a request that begins to arrive."""

    def __call__(self, wire: "Connection", scope: dict[str, Any], *, keeps: bool, expects: bool) -> Exchange:
        """Return the exchange."""


_FRAMING: Final = (b"content-length", b"transfer-encoding")


class _NoHttp(Exception):
    """What came is no HTTP, or may be read in two ways."""


class Connection(asyncio.Protocol):
    """A connection. Its time is limited in each state: in the TLS handshake, with a request, and idle.

    It counts from its acceptance on, and so does its TLS handshake, which is therefore begun here.

    Attributes:
        deadline_s: when its time is over, by the loop's clock.
    """

    def __init__(
        self, connections: Connections, make: MakeExchange, request_s_max: float, tls: ssl.SSLContext | None
    ) -> None:
        self._all, self._make, self._within_s, self._tls = connections, make, request_s_max, tls
        self._loop = asyncio.get_running_loop()
        self.deadline_s = self._loop.time() + request_s_max
        self._extended = self._idle = False
        self._speaks = self._over = self._closing = False  # TLS is set up; no more requests are read; it ends
        self._transport: asyncio.Transport
        self._handshake: asyncio.Task[None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._rest = memoryview(b"")  # has come, and is not parsed yet
        self._exchanges: deque[Exchange] = deque()  # in the order of their answers
        self._incoming: Exchange | None = None  # the one whose body arrives, even if it has been answered
        self._target, self._headers = b"", list[tuple[bytes, bytes]]()
        self._idle_bytes = 0  # parsed since a head was complete or data of a body came
        self._pieces = self._bytes = 0  # of the body that arrives
        self._reading = True
        self._writable = asyncio.Event()
        self._writable.set()

    # What the set of connections asks

    @property
    def busy(self) -> bool:
        """Whether it waits for an answer. One whose client does not read the answers waits for its client."""
        return bool(self._exchanges) and self._exchanges[0].ready and self._writable.is_set()

    def end_late(self) -> None:
        """End it as its time is over; but one that waits for its answer gets some more."""
        if self.busy and not self._extended:
            self._extended = True
            self.deadline_s = self._loop.time() + answer_s_max
            return
        if not (self._idle or self._closing or self._extended):
            self._all.observer.count_turned_away()
        self.cut()

    def stop(self) -> None:
        """End it after the answer in progress."""
        if self.busy:
            self._exchanges[0].keeps = False
        else:
            self._close()

    def cut(self) -> None:
        """End it at once."""
        self._closing = True
        self._transport.abort()

    def _close(self) -> None:
        """End it once the client has what was sent."""
        self._lose()
        self._transport.close()

    def _lose(self) -> None:
        """Drop what has come and was not answered."""
        self._closing, self._rest = True, memoryview(b"")
        for exchange in self._exchanges:
            exchange.lose()
        self._exchanges.clear()

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._client = peer[:2] if isinstance(peer, tuple) else None
        if not self._all.admit(self):
            self.cut()
        elif self._tls is None:
            self._speaks = True
        else:
            transport.pause_reading()
            self._handshake = self._loop.create_task(self._encrypt(transport, self._tls))

    async def _encrypt(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Let the handshake take place; the deadline ends one that does not."""
        try:
            encrypted = await self._loop.start_tls(transport, self, tls, server_side=True)
        except OSError:  # TLS' own errors, too
            encrypted = None
        if encrypted is None:  # it failed, or the connection has ended
            transport.abort()
            return
        self._transport, self._speaks = encrypted, True
        self._go_on()  # something may have come with the end of the handshake

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.leave(self)
        self._lose()
        self._writable.set()
        del self._parser  # it refers to this connection

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._idle:
            self._limit_request()
        self._rest = memoryview(bytes(self._rest) + data) if self._rest else memoryview(data)
        if self._speaks:
            self._go_on()

    # From bytes to exchanges

    def _go_on(self) -> None:
        """Parse what has come as far as it is wanted, and begin the answer whose turn it is."""
        while self._rest and self._hungry and not self._closing:
            self._feed()
        if self._closing:
            return
        if self._exchanges and self._writable.is_set():
            first = self._exchanges[0]
            if not first.ready:
                first.invite()
            elif not first.begun:
                first.begun = True
                first.begin()
        self._read_or_not()

    @property
    def _hungry(self) -> bool:
        """Whether more should be parsed: no request waits for another one, and no body for being taken."""
        return len(self._exchanges) < 2 and not (self._incoming and self._incoming.full)

    def _read_or_not(self) -> None:
        wanted = self._hungry and not self._rest
        if wanted == self._reading or self._closing:
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _feed(self) -> None:
        """Parse a piece of what has come. Raises what a method that the parser calls has raised by mistake."""
        piece = self._rest[:feed_bytes]
        parsed = len(piece)
        self._idle_bytes += parsed
        try:
            if not self._over:  # what follows the last request is dropped
                self._parser.feed_data(piece)
                if self._idle_bytes > head_bytes_max:
                    raise _NoHttp
        except httptools.HttpParserUpgrade as offset:
            parsed = offset.args[0]
            self._stay()
        except (httptools.HttpParserError, _NoHttp) as error:
            mistake = error.__context__
            if mistake is not None and not isinstance(mistake, _NoHttp):
                raise mistake from None
            self._refuse()
        self._rest = self._rest[parsed:]

    def _stay(self) -> None:
        """Go on with HTTP/1.1 where a client offers another protocol, as Java's does by default.

        The parser would leave the body to that protocol, so that a new one reads it.
        """
        assert self._incoming is not None
        framing = [pair for pair in self._incoming.scope["headers"] if pair[0] in _FRAMING]
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % pair for pair in framing))

    def on_message_begin(self) -> None:
        """Called by the parser, as are the methods below."""
        if self._incoming is None:  # see `_stay`
            self._target, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        if self._incoming is None:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is None:  # trailers are dropped
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._incoming is not None:
            return
        method, version = self._parser.get_method().decode(), self._parser.get_http_version()
        hosts, expects = 0, False
        for name, value in self._headers:
            if name == b"host":
                hosts += 1
            elif name == b"expect":
                expects = value.lower() == b"100-continue"
            elif name == b"transfer-encoding" and (value.lower() != b"chunked" or version != "1.1"):
                raise _NoHttp
        if method == "CONNECT" or version not in ("1.0", "1.1") or hosts > 1 or (version == "1.1" and not hosts):
            raise _NoHttp
        path, _, query = self._target.partition(b"?")
        text = path.decode("latin-1")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": version,
            "method": method, "scheme": "https" if self._tls else "http", "root_path": "",
            "path": unquote(text) if "%" in text else text, "raw_path": path, "query_string": query,
            "headers": self._headers, "client": self._client,
        }  # fmt: skip
        keeps = version == "1.1" and self._parser.should_keep_alive()
        self._incoming = self._make(self, scope, keeps=keeps, expects=expects and version == "1.1")
        self._exchanges.append(self._incoming)
        self._idle_bytes = self._pieces = self._bytes = 0

    def on_body(self, body: bytes) -> None:
        self._idle_bytes, self._pieces, self._bytes = 0, self._pieces + 1, self._bytes + len(body)
        if self._pieces > pieces_max and self._bytes < self._pieces * piece_bytes_min:
            raise _NoHttp
        assert self._incoming is not None
        self._incoming.take(body)

    def on_message_complete(self) -> None:
        incoming = self._incoming
        if incoming is None or self._parser.should_upgrade():  # see `_stay`
            return
        self._incoming, self._idle_bytes = None, 0
        incoming.end()
        self._over = not incoming.keeps
        if incoming.done and not self._exchanges:
            self._limit_idleness()

    def _refuse(self) -> None:
        """Answer what is no HTTP after the answers before; if its own has begun, only the connection's end tells."""
        if self._over:  # what follows the last request is dropped
            return
        self._over, incoming = True, self._incoming
        if incoming is not None:
            if incoming.started:
                self.cut()
                return
            self._exchanges.remove(incoming)
            incoming.lose()
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "headers": []}
        refusal = FunctionExchange(self._answer_refusal, self, scope, keeps=False)
        refusal.end()
        self._exchanges.append(refusal)

    def _answer_refusal(self, request: Request, body: bytes | None, answer: Callable[[Response], None]) -> None:
        answer(self._all.observer.refuse())

    def _limit_request(self) -> None:
        self._idle = self._extended = False
        self.deadline_s = self._loop.time() + self._within_s

    def _limit_idleness(self) -> None:
        self._idle = True
        self.deadline_s = self._loop.time() + keep_alive_s

    # What exchanges ask; see `Wire`

    @property
    def date(self) -> bytes:
        return self._all.date

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    async def writable(self) -> None:
        await self._writable.wait()

    def read_on(self) -> None:
        if self._rest or not self._reading:
            self._loop.call_soon(self._go_on)

    def spawn(self, task: asyncio.Task[None]) -> None:
        self._all.tasks.add(task)
        task.add_done_callback(self._all.tasks.discard)

    def finish(self, exchange: Exchange) -> None:
        if self._closing:
            return
        self._exchanges.popleft()
        if not exchange.keeps:
            self._limit_idleness()  # to read the answer
            self._close()
            return
        self._all.used(self)
        if self._exchanges or self._rest:
            self._limit_request()
            self._loop.call_soon(self._go_on)  # after the others' turns
        else:
            self._limit_idleness()
            self._read_or_not()
