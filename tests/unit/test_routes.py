"""The routes of the server: each literal path is answered by its own route, whatever parameters others have."""

import re

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from headrace.http import counted_route
from headrace.metrics import ServingMetrics
from headrace.surface import Route
from learners.families import FAMILIES
from serving.app import OTHERS, in_order

ROUTES = [route for kind in FAMILIES for route in kind.surface.routes]


def answered_by(routes: list[Route], method: str, path: str) -> str:
    """Return the path, as declared, of the route that takes a request."""

    def never(request: Request, body: bytes) -> Response:
        raise AssertionError("only the pattern is asked")

    metrics = ServingMetrics([])
    tried = [(route.path, counted_route(metrics, route.path, never, method=route.method)) for route in routes]
    tried += [(other, counted_route(metrics, other, never)) for other in OTHERS]
    return next(declared for declared, one in tried if one.method == method and one.pattern.match(path))


@pytest.mark.parametrize("order", [ROUTES, ROUTES[::-1]], ids=["as listed", "backwards"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_gets_its_requests(route: Route, order: list[Route]) -> None:
    found = in_order(order)
    assert sorted(found, key=str) == sorted(ROUTES, key=str)
    path = re.sub(r"{\w+}", "ann", route.path)
    assert answered_by(found, route.method, path) == route.path


@pytest.mark.parametrize("path", OTHERS)
def test_no_parameter_takes_health_or_metrics(path: str) -> None:
    assert answered_by(in_order(ROUTES), "GET", path) == path


@pytest.mark.parametrize(
    ("declared", "asked", "answers"),
    [
        (("/v1/a/{x}", "/v1/a/newest"), "/v1/a/newest", "/v1/a/newest"),
        (("/v1/a/{x}/size", "/v1/a/all/size"), "/v1/a/all/size", "/v1/a/all/size"),
        (("/v1/a/{x}", "/v1/a/b/{x}"), "/v1/a/b/ann", "/v1/a/b/{x}"),
        (("/v1/a/{x}", "/v1/a/{x}/size"), "/v1/a/ann/size", "/v1/a/{x}/size"),
    ],
)
def test_a_word_comes_before_a_parameter_in_its_place(declared: tuple[str, str], asked: str, answers: str) -> None:
    some = ROUTES[0]
    routes = [msgspec.structs.replace(some, method="GET", path=path) for path in declared]
    for order in (routes, routes[::-1]):
        assert answered_by(in_order(order), "GET", asked) == answers
