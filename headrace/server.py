"""An HTTP server: connections in bounded numbers, each request within a deadline, and a clean end.

uvicorn speaks HTTP (`H11Protocol`); how connections are accepted, limited and ended is here, because uvicorn's own
server neither ends slow connections nor bounds how many are in a TLS handshake.
"""

import asyncio
import resource
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any, Final, Protocol

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from headrace.errors import Misconfigured

keep_alive_s: Final = 20
"""How long a connection without a request is kept."""
head_bytes_max: Final = 16 * 2**10
"""Most bytes of a request's line and headers."""
pieces_max, piece_bytes_min = 1_000, 64
"""A body may have as many pieces as it likes (chunks, or what comes at once), beyond the first if they are no smaller
on average."""
answer_s_max: Final = 20.0
"""Longest time, in seconds, after that for a request to arrive, until it is answered; then its connection is cut."""
stop_s_max: Final = 4.0
"""Longest time, in seconds, that requests in progress have when the server stops."""
backlog: Final = 256
"""Connections that wait to be accepted; as many are accepted in one turn of the loop."""
other_files: Final = 64 + 4 * backlog
"""Open files beside connections: the log, blobs, and connections that are turned away within a few turns."""
tick_s: Final = 0.5


class Observer(Protocol):
    """Is told what the server does with connections."""

    def count_turned_away(self) -> None:
        """Count a connection that was ended, as too many were open, or for slowness."""

    def refuse(self) -> Response:
        """Count what is no HTTP, and return its answer."""


class Connections:
    """The open connections, those without a request in progress in the order in which they became idle.

    Where as many are open as may be, a new one takes the place of the one that has been idle longest, so that whoever
    holds connections open does not keep others out; only if none is idle, the new one is closed at once.
    """

    def __init__(self, connections_max: int, observer: Observer) -> None:
        self._most, self.observer = connections_max, observer
        self._open: OrderedDict[_Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: "_Connection") -> bool:
        """Return whether a new connection may stay."""
        if len(self._open) >= self._most:
            idle = next((one for one in self._open if not one.busy), None)
            self.observer.count_turned_away()
            if idle is None:
                return False
            self.leave(idle)
            idle.cut()
        self._open[connection] = None
        return True

    def used(self, connection: "_Connection") -> None:
        """Note that a connection has become idle."""
        if connection in self._open:
            self._open.move_to_end(connection)

    def leave(self, connection: "_Connection") -> None:
        """Note that a connection has ended."""
        self._open.pop(connection, None)


class _Requests(h11.Connection):
    """What a client sends, as HTTP; refuses what costs far more work than its bytes: chunks of a few bytes each."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, head_bytes_max)
        self._pieces = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._pieces, self._bytes = self._pieces + 1, self._bytes + len(event.data)
            if self._pieces > pieces_max and self._bytes < self._pieces * piece_bytes_min:
                raise h11.RemoteProtocolError("chunks of a few bytes each")
        elif isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        return event


class _Connection(H11Protocol):
    """A connection. Its time is limited in each state: in the TLS handshake, with a request, and idle.

    It counts from its acceptance on, and so does its TLS handshake, which is therefore begun here.
    """

    def __init__(
        self, connections: Connections, request_s_max: float, tls: ssl.SSLContext | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.conn = _Requests()
        self._all, self._within_s, self._tls = connections, request_s_max, tls
        self._admitted = self._speaks = self._idle = False
        self._early = b""
        self._handshake: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def asked(self) -> bool:
        """Whether a whole head has come that is not answered yet."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever uvicorn's types say
        return cycle is not None and not cycle.response_complete

    @property
    def busy(self) -> bool:
        """Whether it waits for an answer. One whose client does not read the answers waits for its client."""
        return self.asked and not self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self.transport = transport
        self._admitted = self._all.admit(self)
        if not self._admitted:
            transport.abort()
            return
        self._within(self._within_s, self._check)
        if self._tls is None:
            self._speak(transport)
        else:
            transport.pause_reading()
            self._handshake = self.loop.create_task(self._encrypt(transport, self._tls))

    async def _encrypt(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Let the handshake take place; the deadline ends one that does not."""
        try:
            encrypted = await self.loop.start_tls(transport, self, tls, server_side=True)
        except OSError:  # TLS' own errors, too
            encrypted = None
        if encrypted is None:  # it failed, or the connection has ended
            transport.abort()
        else:
            self._speak(encrypted)

    def _speak(self, transport: asyncio.Transport) -> None:
        self._speaks = True
        super().connection_made(transport)
        if self._early:
            super().data_received(self._early)
            self._early = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._all.leave(self)
        if self._speaks:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._speaks:
            self._early += data  # what came with the end of the handshake
            return
        if self._idle:
            self._begin()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._all.used(self)
        self._idle = True
        # One that does not read its answer cannot be closed in order, so that it is cut after uvicorn has tried.
        self._within(keep_alive_s + 1.0, self.cut)
        super().on_response_complete()
        if self.asked:  # by a request that came before the answer to the one before
            self._begin()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; if an answer has begun, there is no way but to end the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.cut()
            return
        response = self._all.observer.refuse()
        head = h11.Response(status_code=response.status_code, headers=response.raw_headers)
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _begin(self) -> None:
        """Limit the time of a request that begins."""
        self._idle = False
        self._within(self._within_s, self._check)

    def _within(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after some time, in place of what was to be called."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, then)

    def _check(self) -> None:
        """Cut a connection whose head has not come in time; give one that waits for its answer some more."""
        if self.busy:
            self._within(answer_s_max, self.cut)
        else:
            self._all.observer.count_turned_away()
            self.cut()

    def cut(self) -> None:
        """End the connection at once."""
        self.transport.abort()


def raise_file_limit(connections_max: int) -> None:
    """Let the process open as many files as its connections need. Raises Misconfigured if it may not."""
    wanted = connections_max + other_files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise Misconfigured(
                f"connections_max {connections_max}: wanted a limit of open files of {wanted} or more, found"
                f" {hard} (ulimit -n)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def serving(
    app: Starlette,
    listener: socket.socket,
    observer: Observer,
    *,
    connections_max: int,
    request_s_max: float,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Connections]:
    """Answer requests during the block, and those in progress at its end, for up to `stop_s_max`.

    Args:
        listener: a listening socket, which is closed at the end.
        connections_max: most open connections.
        request_s_max: longest time, in seconds, that a TLS handshake, or a request's head, may take to arrive.
    """
    loop, state = asyncio.get_running_loop(), ServerState()
    config = uvicorn.Config(
        app, log_config=None, log_level="error", access_log=False, lifespan="off", ws="none", proxy_headers=False,
        timeout_keep_alive=keep_alive_s,
    )  # fmt: skip
    config.load()
    connections = Connections(connections_max, observer)

    async def tell_the_date() -> None:
        while True:
            state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            await asyncio.sleep(tick_s)

    def connected() -> _Connection:
        options = {"config": config, "server_state": state, "app_state": {}, "_loop": loop}
        return _Connection(connections, request_s_max, tls, **options)

    dating = asyncio.create_task(tell_the_date())
    server = await loop.create_server(connected, sock=listener, backlog=backlog)
    try:
        yield connections
    finally:
        dating.cancel()
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=stop_s_max)
