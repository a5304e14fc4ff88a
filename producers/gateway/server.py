"""The gateway's process: it answers requests, and ends once all that was taken is safe."""

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.responses import Response

from headrace.config import GatewaySettings
from headrace.connection import head_bytes_max
from headrace.errors import Misconfigured
from headrace.metrics import GatewayMetrics
from headrace.problem import Problem
from headrace.server import serving
from producers.gateway.depot import Depot
from producers.gateway.doors import Doors
from producers.gateway.intake import Intake

tick_s: Final = 0.5


class _Observer:
    """Counts connections that are ended, and requests that are no HTTP."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    def count_turned_away(self) -> None:
        self._metrics.turned_away.inc()

    def refuse(self) -> Response:
        wanted = f"wanted HTTP/1.1, a head of at most {head_bytes_max} bytes, and chunks of more than a few bytes"
        response = Problem("bad-request", wanted, closes=True).response()
        self._metrics.count_request("other", response.status_code, 0.0)
        return response


def tls_context(settings: GatewaySettings) -> ssl.SSLContext | None:
    """Return the TLS context of the setting `certificate`; None without. Raises Misconfigured."""
    if not settings.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.certificate, settings.certificate_key or None)
    except (OSError, ssl.SSLError) as error:
        files = f"{settings.certificate} {settings.certificate_key}".strip()
        raise Misconfigured(f"gateway.certificate {files}: wanted a certificate and its key, found: {error}") from error
    return context


async def serve(
    app: Starlette, listener: socket.socket, depot: Depot, doors: Doors, intake: Intake, metrics: GatewayMetrics,
    settings: GatewaySettings, stop: threading.Event,
) -> None:  # fmt: skip
    """Answer until `stop` is set; then answer the requests in progress, and return once all that was taken is safe."""
    writing = asyncio.create_task(depot.run())
    try:
        async with serving(
            app, listener, _Observer(metrics), connections_max=settings.connections_max,
            request_s_max=settings.body_s_max, tls=tls_context(settings),
        ) as connections:  # fmt: skip
            while not stop.is_set() and not writing.done():
                metrics.connections.set(len(connections))
                uses = depot.bounds() | intake.bounds()
                uses |= {
                    "gateway_requests": (doors.requests, doors.requests_max),
                    "gateway_connections": (len(connections), settings.connections_max),
                }
                metrics.set_depot(uses, bool(depot.fault), depot.refused)
                await asyncio.wait([writing], timeout=tick_s)
    finally:
        depot.stop()
        await writing


def read_secret(path: str) -> bytes:
    """Return the secret in a file, without the line's end; empty if no file is named. Raises Misconfigured."""
    if not path:
        return b""
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise Misconfigured(f"gateway.shopify_secret_file {path}: wanted a file, found: {error.strerror}") from error
    if not secret:
        raise Misconfigured(f"gateway.shopify_secret_file {path}: wanted a secret, found an empty file")
    return secret
