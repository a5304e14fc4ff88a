"""The HTTP application: the routes that families declare, health and metrics."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from headrace import watchdog
from headrace.config import ServeSettings
from headrace.http import counted_route, error_handler, failure, json, parse_query, problem, scrape
from headrace.keys import KeyRing
from headrace.log.protocol import Log
from headrace.metrics import ServingMetrics
from headrace.process import run_with_retries
from headrace.pseudonyms import Pseudonyms
from headrace.shard.blobs import Blobs
from headrace.surface import Refused, Route
from learners.families import Placement
from serving.answers import Answers

HEALTH: Final = ("/health/live", "/health/ready", "/metrics")
answering_s_max: Final = 3
"""Longest time, in seconds, that requests in progress have when the server stops."""
hung_s: Final = 60.0
"""Time, in seconds, after which a server that does not stop is ended; longer than a log takes to say that it does not
answer."""


def make_app(
    followed: Sequence[Answers], metrics: ServingMetrics, settings: ServeSettings, keys: KeyRing | None = None
) -> Starlette:
    """Return the application. Its handlers run in threads; `Answers` is thread-safe.

    Args:
        keys: those with which questions may be asked; None if anybody may.
    """

    def answering(answers: Answers, route: Route) -> HttpRoute:
        def handle(request: Request) -> Response:
            if keys and (refused := _refused(keys, request)):
                return refused
            try:
                query = parse_query(route.query, [*request.query_params.multi_items(), *request.path_params.items()])
                answer = answers.answer(route, query)
            except Refused as refused:
                return problem(400, str(refused))
            return json(answer) if answer else problem(503, "still restoring the newest snapshot")

        return counted_route(metrics, route.path, handle)

    def live(request: Request) -> Response:
        return json({"live": True})

    def ready(request: Request) -> Response:
        behind_s = max(answers.behind_s() for answers in followed)
        if behind_s > settings.stale_s_max:
            text = f"not caught up: wanted at most {settings.stale_s_max} s behind, found {behind_s:.1f}"
            return problem(503, text)
        return json({"ready": True, "behind_s": round(behind_s, 3)})

    def metrics_of(request: Request) -> Response:
        return scrape(metrics.registry)

    questions = [answering(answers, route) for answers in followed for route in answers.routes]
    others = [
        counted_route(metrics, path, handler) for path, handler in zip(HEALTH, (live, ready, metrics_of), strict=True)
    ]
    paths = [*(route.path for answers in followed for route in answers.routes), *HEALTH]
    refuse = error_handler(metrics, paths)
    app = Starlette(routes=[*questions, *others], exception_handlers={404: refuse, 405: refuse, 500: failure})
    app.router.redirect_slashes = False  # a redirect would repeat the request's path and host in a header
    return app


def _refused(keys: KeyRing, request: Request) -> Response | None:
    """Return the answer to a request without a key that allows it; None if it has one."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    key = keys.find(text.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        response = problem(401, "wanted Authorization: Bearer KEY with a key that works, found none")
        response.headers["www-authenticate"] = 'Bearer realm="headrace"'
        return response
    return None if key.may("read") else problem(403, f"wanted a key of the role read or operate, found {key.role}")


def run(
    log: Log,
    blobs: Blobs,
    settings: ServeSettings,
    metrics: ServingMetrics,
    stop: threading.Event,
    *,
    placements: Sequence[Placement],
    sections: Mapping[str, Any],
    listener: Any,
    keys: KeyRing | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> None:
    """Serve until `stop` is set: follow each shard that has a family with routes, and answer requests.

    Args:
        keys: see `make_app`.
        pseudonyms: see `Answers`.

    Raises:
        BrokenWorld, Misconfigured: following failed after all retries, and the server has stopped. Errors of our own
            also stop the server and are raised.
    """
    asked = [placement for placement in placements if any(kind.surface.routes for kind in placement.kinds)]
    followed = [Answers(log, blobs, placement, sections, metrics, pseudonyms=pseudonyms) for placement in asked]
    failures: list[Exception] = []

    def following(answers: Answers) -> Callable[[], None]:
        def follow() -> None:
            try:
                run_with_retries(lambda: answers.follow(stop), stop, deadline_s=settings.retry_s)
            except (
                Exception
            ) as error:  # any error: the main thread raises it, so that the process does not exit with success
                failures.append(error)
            finally:
                stop.set()

        return follow

    def answering() -> None:
        try:
            server.run(sockets=[listener])
        except Exception as error:  # as above
            failures.append(error)
        finally:
            stop.set()

    server = uvicorn.Server(
        uvicorn.Config(
            make_app(followed, metrics, settings, keys), log_config=None, log_level="warning", access_log=False,
            lifespan="off", timeout_graceful_shutdown=answering_s_max,
        )
    )  # fmt: skip
    # Not in this thread, where the server would replace the process' own handling of signals.
    threads = [threading.Thread(target=following(one), name="follower", daemon=True) for one in followed]
    threads.append(threading.Thread(target=answering, name="http", daemon=True))
    for thread in threads:
        thread.start()
    stop.wait()
    server.should_exit = True
    with watchdog.wait("the threads of the server", hung_s):
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
