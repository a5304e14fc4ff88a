"""The gateway's OpenAPI document: it is one, it has each route, and a real gateway answers as it says."""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from operators.child import Children
from producers.gateway import openapi
from producers.gateway.routes import UNOFFERED
from tests.gateway_process import HOST, GatewayProcess, running
from tests.gateway_shop import SECRET, Shop, run

CHECKS: Final = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
]  # fmt: skip
DOCUMENT: Final = openapi.document()
SCHEMA: Final = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS: Final = {
    f"{found.ok().method.upper()} {found.ok().path}": found.ok()
    for found in SCHEMA.get_all_operations()
    if isinstance(found, Ok)
}


class Signed(requests.auth.AuthBase):
    """Signs a webhook's body, as Shopify does."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        assert isinstance(body, str | bytes)
        content = body.encode() if isinstance(body, str) else body
        digest = hmac.new(SECRET, content, hashlib.sha256).digest()
        request.headers["X-Shopify-Hmac-Sha256"] = base64.b64encode(digest).decode()
        return request


class Bearer(requests.auth.AuthBase):
    """Sends a key."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._text}"
        return request


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Yield a gateway that has Shopify's secret."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "secret").write_bytes(SECRET)
    log = f"sqlite:{folder / 'log.db'}"
    environ = {"HEADRACE_LOG": log, "HEADRACE_BLOBS": str(folder / "blobs"), "HEADRACE_HOST": HOST}
    with Children(folder, environ) as children:
        children.start("online", "online", "--metrics-port", "0", up=False)
        answers = children.start("serve", "serve", "--port", "0").address
        with running(folder, shopify_secret_file=str(folder / "secret"), answers=answers) as found:
            yield found
            found.child.check()


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    SCHEMA.validate()
    names = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names) == len(OPERATIONS)


def test_it_has_each_route_and_no_other(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        assert (await shop.ask("GET", "/openapi.json", role="")).json() == DOCUMENT

    routes = {
        (method, route.path.replace(":whole", ""))
        for route in run(tmp_path, test).app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    stated = {(method.upper(), path) for path, found in DOCUMENT["paths"].items() for method in found}
    assert routes == stated


NOT_OFFERED: Final = [f"{one.method} {one.path}" for one in UNOFFERED]


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_what_is_not_offered_says_why(gateway: GatewayProcess, name: str) -> None:
    assert OPERATIONS[name].definition.raw["responses"].keys() == {"501"}
    method, path = name.split(" ")
    answer = gateway.ask(method, path.replace("{", "").replace("}", ""))
    assert (answer.status, answer.problem) == (501, "not-offered")


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in NOT_OFFERED])
def test_a_gateway_answers_as_the_document_says(gateway: GatewayProcess, name: str) -> None:
    operation, url = OPERATIONS[name], f"http://{HOST}:{gateway.port}"
    signs = operation.path.startswith("/v1/shopify/webhooks")
    keys: list[requests.auth.AuthBase] = [*[Bearer(gateway.texts["operate"])] * 4, Bearer("hr_x")]
    statuses = set[int]()
    with requests.Session() as session:

        @settings(
            max_examples=12, deadline=None, phases=[Phase.generate], database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy(), st.sampled_from([Signed()] if signs else keys))
        def check(case: Any, auth: requests.auth.AuthBase) -> None:
            case.headers = {k: v for k, v in (case.headers or {}).items() if k.lower() != "authorization"}
            response = case.call(base_url=url, session=session, auth=auth)
            case.validate_response(response, checks=CHECKS)
            statuses.add(response.status_code)

        check()
    print(name, statuses)
    unknown = {404} if "404" in operation.definition.raw["responses"] else set()
    assert statuses & ({200, 202, 204} | unknown)
