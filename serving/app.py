"""The HTTP face: recommendations, health and metrics."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.blobs import Blobs
from headrace.config import ServeSettings
from headrace.errors import Misconfigured
from headrace.log import Log
from headrace.metrics import ServingMetrics
from headrace.process import retried
from headrace.state import State
from learners.shop import Shop
from serving.answers import Answers

shopper_characters_max: Final = 128
n_digits_max: Final = 9
"""Python refuses to read integers of thousands of digits; nobody asks for so many items."""
RECOMMENDATIONS: Final = "/v1/recommendations/{shopper}"


class _Whole(Convertor[str]):
    """All the rest of a path. (Starlette's own `path` ends at a line feed, and an id may hold any character.)"""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("whole", _Whole())


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def _error(status: int, text: str) -> Response:
    return _json({"error": text}, status)


def make_app(answers: Answers, metrics: ServingMetrics, settings: ServeSettings) -> Starlette:
    """Return the application. Its handlers run in threads; `answers` is safe for that."""

    def timed(route: str, handler: Callable[[Request], Response], path: str = "") -> Route:
        def handle(request: Request) -> Response:
            began = time.perf_counter()
            response = handler(request)
            metrics.request(route, response.status_code, time.perf_counter() - began)
            return response

        return Route(path or route, handle, methods=["GET"])

    def recommendations(request: Request) -> Response:
        shopper, text = request.path_params["shopper"], request.query_params.get("n", "20")
        if not 1 <= len(shopper) <= shopper_characters_max:
            return _error(400, f"shopper: wanted 1 to {shopper_characters_max} characters, found {len(shopper)}")
        whole = text.isascii() and text.isdigit() and len(text) <= n_digits_max
        if not (whole and 1 <= int(text) <= settings.recommendations_max):
            return _error(400, f"n: wanted 1 to {settings.recommendations_max}, found {text[:20]!r}")
        answer = answers.recommend(shopper, int(text))
        return _json(answer) if answer else _error(503, "still restoring the newest snapshot")

    def live(request: Request) -> Response:
        return _json({"live": True})

    def ready(request: Request) -> Response:
        behind_s = answers.behind_s()
        if behind_s > settings.stale_s_max:
            return _error(503, f"not caught up: wanted at most {settings.stale_s_max} s behind, found {behind_s:.1f}")
        return _json({"ready": True, "behind_s": round(behind_s, 3)})

    def scrape(request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        metrics.request("other", status, 0.0)
        return _error(status, f"wanted GET {RECOMMENDATIONS}, /health/live, /health/ready or /metrics")

    return Starlette(
        routes=[
            # What is asked for is already decoded, %2F too, so a shopper's id may hold slashes.
            timed(RECOMMENDATIONS, recommendations, RECOMMENDATIONS.replace("{shopper}", "{shopper:whole}")),
            timed("/health/live", live),
            timed("/health/ready", ready),
            timed("/metrics", scrape),
        ],
        exception_handlers={404: refused, 405: refused},
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that the port is known before the server runs.

    Raises:
        Misconfigured: the address cannot be listened on.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        raise Misconfigured(f"serve on {host}:{port}: wanted an address to listen on, found {error}") from error


def run(
    log: Log,
    blobs: Blobs,
    settings: ServeSettings,
    metrics: ServingMetrics,
    stop: threading.Event,
    *,
    make: Callable[[State | None], Shop],
    listener: socket.socket,
) -> None:
    """Serve until `stop` is set.

    Raises:
        BrokenWorld, Misconfigured: following failed for good; answers ended with it. So they do with our own mistakes,
            which are raised, too.
    """
    answers = Answers(log, blobs, make=make, metrics=metrics)
    failures: list[Exception] = []

    def follow() -> None:
        try:
            retried(lambda: answers.follow(stop), stop, deadline_s=settings.retry_s)
        except Exception as error:  # any: told by the thread that ends the process, which must not look like a success
            failures.append(error)
        finally:
            server.should_exit = True

    app = make_app(answers, metrics, settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    follower = threading.Thread(target=follow, name="follower", daemon=True)
    follower.start()
    server.run(sockets=[listener])
    stop.set()
    follower.join(timeout=10)
    if failures:
        raise failures[0]
