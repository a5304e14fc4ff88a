"""The console's process: it answers requests until it is told to stop."""

import asyncio
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Final

from starlette.responses import Response

from headrace.server import serving
from operators.console.app import Console, Room, hosts_of
from operators.console.audit import Audit
from operators.console.desk import Desk, key_in
from operators.console.doors import Sessions
from operators.console.jobs import Jobs
from operators.console.pages import PAGES
from operators.console.people import People
from operators.deployment import Deployment

tick_s: Final = 0.2


class _Observer:
    """Nobody counts what is refused before it is a request."""

    def count_turned_away(self) -> None:
        """Do nothing."""

    def refuse(self) -> Response:
        """Return the answer to what is no HTTP."""
        return Response("wanted HTTP/1.1", 400, {"connection": "close"})


async def serve(deployment: Deployment, people: People, listener: socket.socket, stop: threading.Event) -> None:
    """Answer until `stop` is set.

    Raises:
        Misconfigured: the audit cannot be written, or a file that a setting names cannot be read.
    """
    settings = deployment.settings.console
    port = listener.getsockname()[1]
    desk = Desk(deployment, answers=settings.answers, key=key_in(settings.key_file))
    with closing(Audit(Path(settings.audit))) as audit, closing(desk):
        # Commands read their settings from the environment, so they act on the same shop.
        jobs = Jobs(audit, {"HEADRACE_LOG": deployment.settings.log, "HEADRACE_BLOBS": deployment.settings.blobs})
        sessions = Sessions(people, idle_s=settings.idle_s, session_s=settings.session_s)
        room = Room(desk, jobs, people, audit)
        hosts = hosts_of(settings, deployment.settings.host, port)
        app = Console(room, settings, hosts, PAGES, sessions).app()
        async with serving(
            app, listener, _Observer(), connections_max=settings.connections_max,
            request_s_max=settings.request_s_max,
        ):  # fmt: skip
            while not stop.is_set():
                await asyncio.sleep(tick_s)
        await jobs.stop()
