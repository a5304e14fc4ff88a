"""The HTTP application: the routes that families declare, health and metrics."""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import lru_cache
from typing import Any, Final

import msgspec
import structlog
import uvloop
from msgspec import Struct
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from headrace import watchdog
from headrace.config import ServeSettings
from headrace.connection import head_bytes_max
from headrace.direct import Direct, DirectRoute
from headrace.errors import BrokenWorld, LogUnavailable
from headrace.http import counted_route, csv_table, error_handler, json, json_lines, parse_body, parse_query, scrape
from headrace.keys import KeyRing
from headrace.log.protocol import Log
from headrace.metrics import ServingMetrics
from headrace.problem import Problem
from headrace.process import run_with_retries
from headrace.pseudonyms import Pseudonyms
from headrace.server import serving
from headrace.shard.blobs import Blobs
from headrace.surface import Refused, Route, Unknown
from learners.families import Placement
from learners.family import Family
from serving.answers import Answers
from serving.impressions import Impressions, flush_s
from serving.openapi import OPEN, document
from serving.turns import Turns

OTHERS: Final = tuple(path for path, *_ in OPEN)
tick_s: Final = 0.1
"""Time, in seconds, between two looks at whether to stop."""
reopen_s: Final = 2.0
"""Pause, in seconds, between two tries to open a log that is away."""
switch_s: Final = 0.0005
"""Time, in seconds, for which another thread may go on in Python once an answer is wanted; Python's own value is 5 ms.
The turns keep folding out of the way, but not impressions, reports and comparisons."""
hung_s: Final = 60.0
"""Time, in seconds, after which a server that does not stop is ended; longer than a log takes to say that it does not
answer."""


parsed_max: Final = 1_024
"""Most questions of a route whose parameters are kept parsed."""
parsed_bytes_max: Final = 256
"""Most bytes of the parameters of a question that are kept parsed."""

_READ: Final = "headrace.query"
"""The name under which what a request asks is kept with it, as it may be looked at before it is answered."""
_RESTORING: Final = Problem("restoring", "the newest snapshot is being restored", retry_s=1)


def make_app(
    followed: Sequence[Answers], metrics: ServingMetrics, settings: ServeSettings, keys: KeyRing | None = None
) -> Direct:
    """Return the application. Its handlers run in the event loop's thread, which answers while no other thread folds.

    Args:
        keys: those with which questions may be asked; None if anybody may.
    """

    def answering(answers: Answers, route: Route) -> DirectRoute:
        def parse(in_path: tuple[tuple[str, str], ...], query: bytes) -> Struct:
            return parse_query(route.query, [*QueryParams(query).multi_items(), *in_path])

        parsed = lru_cache(parsed_max)(parse)

        def asked(request: Request, body: bytes) -> Struct | Response:
            """Return the query, or the refusal, of a request, which may be read twice."""
            found: Struct | Response | None = request.scope.get(_READ)
            if found is None:
                found = request.scope[_READ] = read(request, body)
            return found

        def read(request: Request, body: bytes) -> Struct | Response:
            if keys and (refused := _refused(keys, request)):
                return refused
            try:
                if route.method == "POST":
                    return parse_body(route.query, body, request.path_params)
                given = request.scope["query_string"]
                parameters = tuple(request.path_params.items())
                return (parsed if len(given) <= parsed_bytes_max else parse)(parameters, given)
            except Refused as refused:
                return _problem(refused)

        def question(request: Request, body: bytes) -> tuple[Route, Struct] | None:
            query = asked(request, body)
            return None if isinstance(query, Response) else (route, query)

        def handle(request: Request, body: bytes) -> Response:
            query = asked(request, body)
            if isinstance(query, Response):
                return query
            try:
                if route.streams:
                    stream = answers.stream(route, query)
                    return _RESTORING.response() if stream is None else json_lines(stream)
                answer = answers.answer(route, query)
            except Refused as refused:
                return _problem(refused)
            if not answer:
                return _RESTORING.response()
            return csv_table(route.csv(answer)) if route.csv else json(answer)

        prepare = answers.prepare if route.prepare else None
        return counted_route(metrics, route.path, handle, method=route.method, question=question, prepare=prepare)

    def live(request: Request, body: bytes) -> Response:
        return json({"live": True})

    def ready(request: Request, body: bytes) -> Response:
        behind_s = max(answers.behind_s() for answers in followed)
        waiting_s = max(answers.waiting_s() for answers in followed)
        if waiting_s > settings.stale_s_max:
            wanted = f"wanted events of at most {settings.stale_s_max} s that are not in the answers"
            return Problem("stale", f"{wanted}, found one of {waiting_s:.1f} s", retry_s=1).response()
        return json({"ready": True, "behind_s": round(behind_s, 3), "waiting_s": round(waiting_s, 3)})

    def metrics_of(request: Request, body: bytes) -> Response:
        return scrape(metrics.registry)

    described = msgspec.json.encode(document(one for answers in followed for one in _declared(answers)))

    def openapi(request: Request, body: bytes) -> Response:
        return Response(described, media_type="application/json")

    routes = {route: answers for answers in followed for route in answers.routes}
    questions = [answering(routes[route], route) for route in in_order(routes)]
    handlers = (live, ready, metrics_of, openapi)
    others = [counted_route(metrics, path, handler) for path, handler in zip(OTHERS, handlers, strict=True)]
    asked = [(route.method, route.path) for answers in followed for route in answers.routes]
    return Direct([*questions, *others], error_handler(metrics, [*asked, *(("GET", path) for path in OTHERS)]))


def in_order(routes: Iterable[Route]) -> list[Route]:
    """Return routes in the order in which they are tried: the first one whose path matches answers.

    A parameter takes slashes, so one at the end would take what ends another path; and a parameter takes a word that
    stands in its place in another path.
    """
    return sorted(routes, key=lambda route: (route.path.endswith("}"), route.path.count("{"), -route.path.count("/")))


def _problem(refused: Refused) -> Response:
    return Problem("unknown" if isinstance(refused, Unknown) else "bad-query", str(refused)).response()


def _declared(answers: Answers) -> Iterator[tuple[type[Family], Route]]:
    for route, family in answers.kinds.items():
        yield family, route


def _refused(keys: KeyRing, request: Request) -> Response | None:
    """Return the answer to a request without a key that allows it; None if it has one."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    key = keys.find(text.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        return Problem("bad-key", "wanted Authorization: Bearer KEY with a key that works, found none").response()
    if key.may("read"):
        return None
    return Problem("forbidden", f"wanted a key of the role read or operate, found {key.role}").response()


def _opened(
    open_log: Callable[[], AbstractContextManager[Log]], followed: Sequence[Answers], retry_s: float,
    stop: threading.Event, stack: ExitStack,
) -> Log | None:  # fmt: skip
    """Return the log once it can be opened, None if `stop` is set before. Meanwhile answers come from snapshots.

    Raises:
        LogUnavailable: it could not be opened for so long, and there are no snapshots.
    """
    since_s, told = time.monotonic(), False
    while not stop.is_set():
        try:
            return stack.enter_context(open_log())
        except LogUnavailable as error:
            if not told:
                structlog.get_logger().error("log away, trying again", error=str(error))
                told = True
            for answers in followed:
                if not answers.restored:
                    answers.restore_kept()
            if not all(answers.restored for answers in followed) and time.monotonic() - since_s > retry_s:
                raise
            stop.wait(reopen_s)
    return None


class Observer:
    """Counts connections that are ended, and requests that are no HTTP."""

    def __init__(self, metrics: ServingMetrics) -> None:
        self._metrics = metrics

    def count_turned_away(self) -> None:
        self._metrics.count_turned_away()

    def refuse(self) -> Response:
        self._metrics.count_request("other", 400, 0.0)
        wanted = f"wanted HTTP/1.1 with a head of at most {head_bytes_max} bytes"
        return Problem("bad-request", wanted, closes=True).response()


def run(
    open_log: Callable[[], AbstractContextManager[Log]],
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

    While the log cannot be opened, answers come from the newest snapshots.

    Args:
        open_log: opens the log, which is closed at the end.
        keys: see `make_app`.
        pseudonyms: see `Answers`.

    Raises:
        BrokenWorld, Misconfigured: following failed after all retries, and the server has stopped. One that has
            restored a state goes on with it while the log is away. Errors of our own also stop it and are raised.
            Of a log that cannot be opened and without snapshots: as well.
    """
    turns = Turns(lambda: max(answers.behind_s() for answers in followed))
    asked = [placement for placement in placements if any(kind.surface.routes for kind in placement.kinds)]
    queue_max = settings.impressions_queue_max
    impressions = Impressions(None, metrics, records_max=queue_max) if settings.impressions else None
    followed = [
        Answers(
            None, blobs, placement, sections, metrics, turns=turns, compare_s=settings.compare_s,
            pseudonyms=pseudonyms, impressions=impressions,
        )
        for placement in asked
    ]  # fmt: skip
    failures: list[Exception] = []

    def following(answers: Answers) -> Callable[[], None]:
        def follow() -> None:
            try:
                while not stop.is_set():
                    try:
                        run_with_retries(lambda: answers.follow(stop), stop, deadline_s=settings.retry_s)
                    except BrokenWorld as error:
                        if stop.is_set() or not (error.retriable and answers.restored):
                            raise
                        # What was learned until now is better than no answers; `/health/ready` tells how old it is.
                        structlog.get_logger().error("log away, answers go on", error=str(error))
            except (
                Exception
            ) as error:  # any error: the main thread raises it, so that the process does not exit with success
                failures.append(error)
            finally:
                stop.set()

        return follow

    async def answer() -> None:
        async with serving(
            make_app(followed, metrics, settings, keys), listener, Observer(metrics),
            connections_max=settings.connections_max, request_s_max=settings.request_s_max,
        ) as connections:  # fmt: skip
            turns.attach(asyncio.get_running_loop())
            try:
                while not stop.is_set():
                    metrics.connections.set(len(connections))
                    if impressions:
                        metrics.set_bounds(impressions.bounds())
                    gc.collect(0)  # a little each time, instead of much at once while somebody waits
                    await asyncio.sleep(tick_s)
            finally:
                turns.detach()

    def to_the_end(act: Callable[[], None]) -> Callable[[], None]:
        def run_and_stop() -> None:
            try:
                act()
            except Exception as error:  # as above
                failures.append(error)
            finally:
                stop.set()

        return run_and_stop

    answered = threading.Event()

    def follow_all() -> None:
        with ExitStack() as stack:
            log = _opened(open_log, followed, settings.retry_s, stop, stack)
            if log is None:
                return
            for answers in followed:
                answers.log = log
            followers = [threading.Thread(target=following(one), name="follower", daemon=True) for one in followed]
            writer: threading.Thread | None = None
            if impressions:
                impressions.log = log
                writer = threading.Thread(
                    target=to_the_end(lambda: impressions.run(answered)), name="impressions", daemon=True
                )
                writer.start()
            for thread in followers:
                thread.start()
            for thread in followers:
                thread.join()
            answered.wait()
            if writer:
                writer.join(flush_s + 1.0)  # not longer, as a log that hangs keeps the process from its end

    following_all = threading.Thread(target=to_the_end(follow_all), name="log", daemon=True)
    http = threading.Thread(target=to_the_end(lambda: uvloop.run(answer())), name="http", daemon=True)
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(switch_s)
    for thread in (following_all, http):
        thread.start()
    stop.wait()
    sys.setswitchinterval(before_s)
    with watchdog.wait("the threads of the server", hung_s):
        http.join()
        answered.set()  # no answer follows, so that the queue of impressions is complete
        following_all.join()
    if failures:
        raise failures[0]
