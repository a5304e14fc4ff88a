"""An HTTP server: connections in bounded numbers, each request within a deadline, and a clean end."""

import asyncio
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from starlette.types import ASGIApp

from headrace.connection import Connection, MakeExchange
from headrace.connections import Connections, Observer
from headrace.direct import Direct, Waiting
from headrace.errors import Misconfigured
from headrace.exchange import AppExchange, FunctionExchange

stop_s_max: Final = 4.0
"""Longest time, in seconds, that requests in progress have when the server stops."""
backlog: Final = 256
"""Connections that wait to be accepted; as many are accepted in one turn of the loop."""
other_files: Final = 64 + 4 * backlog
"""Open files beside connections: the log, blobs, and connections that are turned away within a few turns."""
tick_s, stop_tick_s = 0.25, 0.01
"""Seconds between two looks at the deadlines of connections, and at those that are left when the server stops."""


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
    app: ASGIApp | Direct,
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
        request_s_max: longest time, in seconds, that a TLS handshake, or a request's head, may take to arrive; where
            routes are `Direct`, its body, too.
    """
    loop = asyncio.get_running_loop()
    make: MakeExchange = (
        partial(FunctionExchange, Waiting(app, loop)) if isinstance(app, Direct) else partial(AppExchange, app)
    )
    connections = Connections(connections_max, observer)

    async def tick() -> None:
        while True:
            connections.tell_date()
            connections.end_late(loop.time())
            await asyncio.sleep(tick_s)

    ticking = asyncio.create_task(tick())
    server = await loop.create_server(
        lambda: Connection(connections, make, request_s_max, tls), sock=listener, backlog=backlog
    )
    try:
        yield connections
    finally:
        server.close()
        connections.stop()
        stop_at = loop.time() + stop_s_max
        while (connections or connections.tasks) and loop.time() < stop_at:
            await asyncio.sleep(stop_tick_s)
        connections.cut()
        ticking.cancel()
