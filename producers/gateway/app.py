"""The HTTP application of the gateway: from a request to its answer, in one place.

1 find the key and let the request in, before anything of its body is read; 2 read the body within its bounds; 3 let the
route's adapter say what it means, or its call ask the server of answers; 4 pseudonymise and validate; 5 make the
records safe; 6 remember their ids, answer.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route as HttpRoute

from headrace.clock import Clock, wall_ms
from headrace.config import GatewaySettings
from headrace.http import json
from headrace.keys import Key
from headrace.metrics import GatewayMetrics
from headrace.problem import Problem
from producers.gateway import ga4, openapi, segment, shopify
from producers.gateway.answer import answer_of, counts_of, explanation_of
from producers.gateway.asking import Asking
from producers.gateway.body import leave_body, read_body
from producers.gateway.depot import Depot, DepotFull, RecordRefused
from producers.gateway.doors import Doors, key_text
from producers.gateway.gorse.asked import Asked
from producers.gateway.gorse.feedback import FeedbackTypes
from producers.gateway.gorse.forms import GorseSuccess
from producers.gateway.intake import Intake, Taken
from producers.gateway.made import BadBody
from producers.gateway.made import Request as Arrived
from producers.gateway.route import Call, Route, Unoffered
from producers.gateway.routes import CALLS, ROUTES, UNOFFERED
from producers.values import Unusable

STATIC: Final = Path(__file__).parent / "static"
SNIPPET: Final = "/headrace.js"
retry_s: Final = 5
"""After how many seconds a client is told to try again, while records cannot be taken."""
UNKNOWN, SHOPIFY = Key("unknown", "", "read", "", 0), Key("shopify", "shopify", "operate", "", 0)
"""Stand for the keys of requests whose key is in the body, and of Shopify's webhooks, which are signed instead."""
charged_bytes: Final = 1024
"""Bytes of a body that count as an event where it has fewer events, so that the work for a key is bounded."""
preflight_s: Final = 600
"""For how long browsers remember that a page may send."""


class Gateway:
    """Answers requests. Use it in one event loop.

    Args:
        shopify_secret: by which Shopify signs its webhooks; empty to refuse them.
        asking: asks the server of answers; None to refuse questions.
    """

    def __init__(
        self, doors: Doors, intake: Intake, depot: Depot, metrics: GatewayMetrics, settings: GatewaySettings,
        *, shopify_secret: bytes = b"", asking: Asking | None = None, clock: Clock = wall_ms,
    ) -> None:  # fmt: skip
        self._asking, self._feedback = asking, FeedbackTypes(settings.gorse_feedback)
        self._doors, self._intake, self._depot, self._metrics = doors, intake, depot, metrics
        self._settings, self._shopify_secret, self._clock = settings, shopify_secret, clock

    async def take(self, route: Route, request: Request) -> Response:
        """Answer a request to a route that takes a body. Raises Problem."""
        query = {**request.query_params, **request.path_params}
        text = key_text(request.headers, query)
        if route.reply == "segment" and not text:  # trackers in browsers write it into the body
            with self._doors.entered(UNKNOWN):
                body = await self._body(request, segment.body_bytes_max)
            key = self._key(route, segment.write_key(body), request.headers)
            with self._doors.entered(key):
                return await self._answered(route, key, request.headers, query, body)
        key = self._key(route, text, request.headers)
        with self._doors.entered(key):
            return await self._answered(route, key, request.headers, query, await self._body(request))

    async def ask(self, call: Call, request: Request) -> Response:
        """Answer a request to a route that asks the server of answers. Raises Problem."""
        query = {**request.query_params, **request.path_params}
        text = key_text(request.headers, query)
        origin = request.headers.get("origin")
        key = self._doors.key(text, call.role, None if origin in self._settings.origins else origin)
        with self._doors.entered(key):
            body = await self._body(request) if call.body else b""
            self._doors.charge(key, max(1.0, len(body) / charged_bytes))
            arrived = Arrived(body, query, self._clock(), key.shop, self._feedback)
            categories = [one for one in (*request.query_params.getlist("category"), query.get("category", "")) if one]
            scored = request.headers.get("x-api-version") == "2"
            asked = Asked(arrived, list(dict.fromkeys(categories)), scored, self._intake.stated, self._asking, text)
            try:
                found = await call.run(asked)
            except BadBody as error:
                raise Problem("bad-body", str(error)) from None
            except Unusable as error:
                raise Problem("bad-query", f"{error.reason}: {error.detail}") from None
            if found.made:
                if not key.may("ingest"):
                    raise Problem("forbidden", f"wanted a key of the role operate, found one of {key.role}")
                await self._kept(call.path, self._intake.take(found.made, arrived.received_ms), whole=True)
            return json(found.body)

    async def _body(self, request: Request, bytes_max: int | None = None) -> bytes:
        bytes_max = min(bytes_max or self._settings.body_bytes_max, self._settings.body_bytes_max)
        return await read_body(request, bytes_max=bytes_max, seconds_max=self._settings.body_s_max)

    async def _answered(
        self, route: Route, key: Key, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> Response:
        if route.role is None:
            self._check_signature(body, headers)
            query = {
                **query,
                "topic": headers.get("x-shopify-topic", ""),
                "webhook_id": headers.get("x-shopify-event-id", "") or headers.get("x-shopify-webhook-id", ""),
            }
        self._doors.charge(key, len(body) / charged_bytes)
        explain = route.reply == "ga4-debug" or query.get("dry_run") in ("1", "true")
        try:
            taken = self._taken(route, key, query, body, explain=explain)
        except BadBody as error:
            if route.reply == "ga4-debug":
                return json(ga4.validation([(None, error.reason, error.detail)]))
            raise Problem("bad-body", str(error)) from None
        if route.reply == "ga4-debug":
            return json(ga4.validation([(one.index, one.reason, one.detail) for one in taken.refused]))
        return json(explanation_of(taken)) if explain else await self._stored(route, taken)

    def _taken(self, route: Route, key: Key, query: Mapping[str, str], body: bytes, *, explain: bool) -> Taken:
        """Return what becomes of a body. Raises BadBody.

        What is parsed lives only here: while a request waits for the log, its records alone are kept.
        """
        received_ms = self._clock()
        entries = route.adapter(Arrived(body, query, received_ms, key.shop, self._feedback))
        self._doors.charge(key, max(0.0, len(entries) - len(body) / charged_bytes))
        return self._intake.take(entries, received_ms, explain=explain)

    def _key(self, route: Route, text: str, headers: Mapping[str, str]) -> Key:
        if route.role is not None:
            origin = headers.get("origin")
            return self._doors.key(text, route.role, None if origin in self._settings.origins else origin)
        if not self._shopify_secret:
            raise Problem("bad-signature", "wanted the setting gateway.shopify_secret_file, found none")
        return SHOPIFY

    def _check_signature(self, body: bytes, headers: Mapping[str, str]) -> None:
        if not shopify.signature_valid(self._shopify_secret, body, headers.get("x-shopify-hmac-sha256", "")):
            raise Problem("bad-signature", "wanted X-Shopify-Hmac-Sha256 of the body by the shop's secret")

    async def _kept(self, path: str, taken: Taken, *, whole: bool) -> bool:
        """Make what was taken safe; return whether it waits on disk.

        Args:
            whole: whether nothing is taken if an entry is refused.

        Raises:
            Problem: it cannot be taken now, or not at all.
        """
        spooled = False
        if whole and taken.refused:
            raise _all_refused(taken)
        if taken.records:
            try:
                spooled = await self._depot.store(taken.records) == "spool"
            except DepotFull as error:
                raise Problem("unavailable", str(error), retry_s=retry_s) from None
            except RecordRefused as error:
                raise Problem("too-large", str(error)) from None
            self._intake.remember(taken, self._clock())
        self._metrics.count_entries(path, counts_of(taken), (one.reason for one in taken.refused))
        if spooled:
            self._metrics.spooled.inc(len(taken.records))
        return spooled

    async def _stored(self, route: Route, taken: Taken) -> Response:
        spooled = await self._kept(route.path, taken, whole=route.reply == "gorse")
        if route.reply == "gorse":  # its clients know no other status than 200
            return json(GorseSuccess(taken.accepted + taken.repeated + taken.unused))
        if route.reply == "ga4":
            return Response(status_code=204)
        answer = answer_of(taken, spooled=spooled)
        if route.reply == "segment":
            return json({"success": True, **msgspec.structs.asdict(answer)})
        if taken.refused and not (taken.accepted or taken.repeated or taken.unused) and route.reply == "headrace":
            raise _all_refused(taken)
        return json(answer, 202 if spooled else 200)

    def ready(self) -> Response:
        """Answer whether events can be taken, be it that they wait on disk."""
        uses = self._depot.bounds()
        full = [name for name, (used, most) in uses.items() if used > 0.9 * most]
        body = {"ready": not full, "log": self._depot.fault or "reachable", "full": full}
        return json(body, 503 if full else 200)

    def allows(self, origin: str) -> bool:
        """Return whether a page may send, with one key or another."""
        return origin in self._settings.origins or origin in self._doors.origins()


def make_app(gateway: Gateway, metrics: GatewayMetrics) -> Starlette:
    """Return the application: the routes that take bodies, health, the snippet, and the description of all."""
    document = Response(msgspec.json.encode(openapi.document()), media_type="application/json")

    def answered(
        path: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            began, status = time.perf_counter(), 500
            try:
                try:
                    response = await handler(request)
                except Problem as problem:
                    await leave_body(request, problem)
                    response = problem.response()
                _share(gateway, request, response)
                status = response.status_code
                return response
            finally:
                metrics.count_request(path, status, time.perf_counter() - began)

        return handle

    def taking(route: Route) -> HttpRoute:
        async def take(request: Request) -> Response:
            return await gateway.take(route, request)

        return HttpRoute(_pattern(route.path), answered(route.path, take), methods=[route.method])

    def asking(call: Call) -> HttpRoute:
        async def ask(request: Request) -> Response:
            return await gateway.ask(call, request)

        return HttpRoute(_pattern(call.path), answered(call.path, ask), methods=[call.method])

    def refusing(route: Unoffered) -> HttpRoute:
        async def refuse(request: Request) -> Response:
            raise Problem("not-offered", route.why)

        return HttpRoute(_pattern(route.path), answered(route.path, refuse), methods=[route.method])

    def giving(path: str, answer: Callable[[], Response]) -> HttpRoute:
        async def give(request: Request) -> Response:
            return answer()

        return HttpRoute(path, answered(path, give), methods=["GET"])

    async def refuse(request: Request, error: Exception) -> Response:
        if request.method == "OPTIONS":
            return _preflight(gateway, request)
        status = error.status_code if isinstance(error, HTTPException) else 500
        metrics.count_request("other", status, 0.0)
        known = [*((one.method, one.path) for one in ROUTES), *((one.method, one.path) for one in CALLS)]
        paths = sorted({f"{method} {path}" for method, path in known})
        wanted = f"wanted one of {', '.join(paths)}; /openapi.json describes them"
        response = Problem("method-not-allowed" if status == 405 else "not-found", wanted, closes=True).response()
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    async def fail(request: Request, error: Exception) -> Response:
        structlog.get_logger().error("request failed", route=_route_of(request), exc_info=error)
        return Problem("internal", "the gateway's log has the cause", closes=True).response()

    app = Starlette(
        routes=[
            *(refusing(route) for route in UNOFFERED),  # the longer paths of Gorse first
            *(asking(call) for call in CALLS),
            *(taking(route) for route in ROUTES),
            giving("/health/live", lambda: json({"live": True})),
            giving("/health/ready", gateway.ready),
            giving("/openapi.json", lambda: document),
            giving(SNIPPET, lambda: FileResponse(STATIC / "headrace.js", media_type="text/javascript")),
        ],
        exception_handlers={404: refuse, 405: refuse, 500: fail},
    )
    app.router.redirect_slashes = False  # a redirect would repeat the request's path and host in a header
    return app


def _pattern(path: str) -> str:
    """Return a path as Starlette has it: an id or a category may have slashes, and takes all up to what follows."""
    for name in ("id", "shopper", "category"):
        path = path.replace(f"{{{name}}}", f"{{{name}:whole}}")
    return path


def _route_of(request: Request) -> str:
    """Return a request's path with the names of its parameters, not their values: those are ids of shoppers, too."""
    path = request.scope["path"] if "endpoint" in request.scope else ""
    for name, value in request.path_params.items():
        path = path.replace(f"/{value}", f"/{{{name}}}") if value else path
    return path[:100]


def _all_refused(taken: Taken) -> Problem:
    first = taken.refused[0]
    detail = f"{len(taken.refused)} refused; the first: {first.reason}: {first.detail}"
    return Problem("all-refused", detail, refused=taken.refused)


def _share(gateway: Gateway, request: Request, response: Response) -> None:
    """Let the page that sent a request read the answer, if it may send."""
    origin = request.headers.get("origin")
    if origin and gateway.allows(origin):
        response.headers["access-control-allow-origin"] = origin
        response.headers["vary"] = "Origin"


def _preflight(gateway: Gateway, request: Request) -> Response:
    """Answer a browser's question whether a page may send; the key is checked when it does."""
    headers: dict[str, Any] = {"vary": "Origin"}
    origin = request.headers.get("origin")
    if origin and gateway.allows(origin):
        headers |= {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
            "access-control-allow-headers": "authorization, content-type, content-encoding, x-api-key, x-api-version",
            "access-control-max-age": str(preflight_s),
        }
    return Response(status_code=204, headers=headers)
