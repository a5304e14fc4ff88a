"""The server's OpenAPI document: it is one, it has each route, and a real server answers as it says."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.topics import EVENTS, ITEMS
from operators.child import Child, Children
from serving import openapi
from tests.shards import ONLINE

CHECKS: Final = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
]  # fmt: skip
DOCUMENT: Final = openapi.document((kind, route) for kind in ONLINE.kinds for route in kind.surface.routes)
SCHEMA: Final = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS: Final = {
    f"{found.ok().method.upper()} {found.ok().path}": found.ok()
    for found in SCHEMA.get_all_operations()
    if isinstance(found, Ok)
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Yield a server of a small shop."""
    folder = tmp_path_factory.mktemp("shop")
    url = f"sqlite:{folder / 'log.db'}"
    with closing(open_log(url)) as log:
        log.create()
        with closing(log.appender()) as appender:
            for number in range(200):
                line = Item(f"i{number % 13}", f"Item {number % 13}", "c", "a > b", 9.5)
                at_time = at(1_750_000_000_000 + 1_000 * number)
                event = Event(f"e{number}", "shop", "view_item", at_time, Data([line]), "1.0", f"s{number % 7}")
                appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))
            for number in range(10):
                stated = {"title": f"Item {number}", "product_type": "a > b", "price": 9.5, "brand": "c"}
                appender.append(Outgoing(ITEMS, f"i{number}".encode(), json.dumps(stated).encode()))
    with Children(folder, cwd=folder) as children:
        base = ("--log", url, "--blobs", str(folder / "blobs"))
        children.start("online", "online", *base, "--metrics-port", "0")
        found = children.start("serve", "serve", *base, "--port", "0")

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{found.address}/v1/popular?n=5", timeout=10) as answer:
                    return bool(json.load(answer)["items"])
            except OSError:
                return False

        children.wait_until("the server answers", answers)
        yield found
        found.check()


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    SCHEMA.validate()
    names = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names) == len(OPERATIONS)


def test_it_has_each_route_and_is_what_a_server_gives(server: Child) -> None:
    with urllib.request.urlopen(f"{server.address}/openapi.json", timeout=10) as answer:
        assert json.load(answer) == DOCUMENT
    declared = {(route.method, route.path) for kind in ONLINE.kinds for route in kind.surface.routes}
    others = {("GET", path) for path, *_ in openapi.OPEN}
    stated = {(method.upper(), path) for path, found in DOCUMENT["paths"].items() for method in found}
    assert stated == declared | others


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_server_answers_as_the_document_says(server: Child, name: str) -> None:
    operation = OPERATIONS[name]
    statuses = set[int]()
    with requests.Session() as session:

        @settings(
            max_examples=12, deadline=None, phases=[Phase.generate], database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy())
        def check(case: Any) -> None:
            response = case.call(base_url=server.address, session=session)
            case.validate_response(response, checks=CHECKS)
            statuses.add(response.status_code)

        check()
    print(name, statuses)
    assert statuses & ({200, 404} if "{" in name else {200}), "of an item that is not known, nothing is told"


def test_every_field_of_an_answer_is_described(server: Child) -> None:
    with urllib.request.urlopen(f"{server.address}/v1/recommendations/ann?n=1", timeout=10) as answer:
        found = json.load(answer)
    described = DOCUMENT["components"]["schemas"]["ItemList"]["properties"]
    assert set(found) == set(chain(described, ("model", "logged", "fresh")))
