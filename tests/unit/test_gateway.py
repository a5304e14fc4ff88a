"""The gateway's application: each route, who may use it, and the refusals as problem documents."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from headrace.topics import EVENTS
from tests.gateway_shop import PAGE, SECRET, SETTINGS, VIEW, Shop, refused, run, taken


def test_ga4_is_answered_as_google_does(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        body = {"client_id": "1.2", "events": [{"name": "view_cart"}, {"name": "mine"}]}
        path = f"mp/collect?measurement_id=G-1&api_secret={shop.texts['ingest']}"
        checked = taken(await shop.ask("POST", f"/debug/{path}", body, ""))
        assert [one["validationCode"] for one in checked["validationMessages"]] == ["NAME_INVALID"]
        whole = taken(await shop.ask("POST", f"/debug/{path}", b"[", ""))
        assert [one["fieldPath"] for one in whole["validationMessages"]] == ["events"]
        assert not shop.records(EVENTS)
        answer = await shop.ask("POST", f"/{path}", body, "")
        assert (answer.status_code, answer.content) == (204, b"")
        refused(await shop.ask("POST", f"/{path}", b"[", ""), 400, "bad-body")

    assert [event.type for event in run(tmp_path, test).events()] == ["view_cart"]


def test_segment_has_its_key_in_the_header_or_in_the_body(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        call = {"event": "Cart Viewed", "userId": "ann"}
        basic = base64.b64encode(f"{shop.texts['ingest']}:".encode()).decode()
        answer = taken(await shop.ask("POST", "/v1/track", call, "", authorization=f"Basic {basic}"))
        assert (answer["success"], answer["accepted"]) == (True, 1)
        batch = {"batch": [{**call, "type": "track", "messageId": "m"}], "writeKey": shop.texts["ingest"]}
        assert taken(await shop.ask("POST", "/v1/b", batch, "", content_type="text/plain"))["accepted"] == 1
        for wrong in ("hr_x", 7, None, shop.texts["read"]):
            response = await shop.ask("POST", "/v1/t", {**call, "writeKey": wrong}, "")
            refused(response, *((403, "forbidden") if wrong == shop.texts["read"] else (401, "bad-key")))
        refused(await shop.ask("POST", "/v1/t", b"[", ""), 401, "bad-key")
        refused(await shop.ask("POST", "/v1/events", {**VIEW, "writeKey": shop.texts["ingest"]}, ""), 401, "bad-key")

    assert len(run(tmp_path, test).events()) == 2


def test_a_key_in_the_body_is_bound_by_its_own_rate(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        calls = [{"type": "page"}] * 1_000
        body = {"batch": calls, "writeKey": shop.texts["ingest"]}
        found = [(await shop.ask("POST", "/v1/b", body, "")).status_code for _ in range(6)]
        assert found == [200] * 4 + [429] * 2
        assert taken(await shop.ask("POST", "/v1/page", {}, "operate"))["unused"] == 1
        large = {"writeKey": shop.texts["operate"], "batch": [], "more": "x" * 512_000}
        other = SETTINGS.body_bytes_max
        assert other < 512_000
        refused(await shop.ask("POST", "/v1/b", large, ""), 413, "too-large")

    run(tmp_path, test)


@pytest.mark.parametrize("size", [400_000, 1])
def test_large_bodies_count_as_events_also_those_that_are_refused(tmp_path: Path, size: int) -> None:
    async def test(shop: Shop) -> None:
        found = [(await shop.ask("POST", "/v1/events", b"[" * size, "ingest")).status_code for _ in range(14)]
        assert found == ([400] * 11 + [429] * 3 if size > 1 else [400] * 14)

    run(tmp_path, test)


def test_shopifys_webhooks_are_taken_by_their_signature(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        order = {"id": 17, "created_at": "2026-03-01T10:00:00Z", "line_items": [{"product_id": 3, "price": "5"}]}
        body = json.dumps(order).encode()
        signature = base64.b64encode(hmac.new(SECRET, body, hashlib.sha256).digest()).decode()

        async def post(content: bytes, **headers: str) -> Any:
            found = {"x_shopify_topic": "orders/create", "x_shopify_webhook_id": "w1", **headers}
            return await shop.ask("POST", "/v1/shopify/webhooks", content, "", **found)

        for content, wrong in ((body + b" ", signature), (body, ""), (body, "x")):
            refused(await post(content, x_shopify_hmac_sha256=wrong), 401, "bad-signature")
        refused(await post(body, authorization=f"Bearer {shop.texts['operate']}"), 401, "bad-signature")
        for _ in range(12):  # nobody else uses up what the shop may send
            refused(await post(b" " * 400_000, x_shopify_hmac_sha256=signature), 401, "bad-signature")
        answer = taken(await post(body, x_shopify_hmac_sha256=signature))
        assert (answer["accepted"], answer["repeated"]) == (1, 0)
        assert taken(await post(body, x_shopify_hmac_sha256=signature))["repeated"] == 1

    (event,) = run(tmp_path, test).events()
    assert (event.type, event.data.transaction_id, event.source) == ("purchase", "17", "shopify/shopify")


def test_wrong_keys_and_wrong_roles_are_refused_before_the_body_is_read(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        async def never() -> Any:
            raise AssertionError("the body was read")
            yield b""

        for role, status, code in (("", 401, "bad-key"), ("read", 403, "forbidden")):
            headers = {"authorization": f"Bearer {shop.texts[role]}"} if role else {}
            for length, expect in (("2", ""), ("2", "100-continue"), (str(2**30), "100-continue")):
                shown = {**headers, "content-length": length, **({"expect": expect} if expect else {})}
                response = await shop.client.post("/v1/events", content=never(), headers=shown)
                refused(response, status, code)
                assert ("www-authenticate" in response.headers) == (status == 401)
                assert response.headers.get("connection", "") == ("close" if expect else "")
        for method, path in (("PUT", "/v1/items/a"), ("DELETE", "/v1/items/a"), ("PUT", "/v1/shoppers/a/traits")):
            refused(await shop.ask(method, path, {}, "ingest"), 403, "forbidden")
        text = shop.texts["ingest"]
        assert taken(await shop.ask("POST", f"/v1/events?key={text}", VIEW, ""))["accepted"] == 1

    run(tmp_path, test)


def test_pages_may_send_with_their_own_keys_alone(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        text = shop.key("ingest", origins=[PAGE])
        bearer = f"Bearer {text}"
        response = await shop.send(VIEW, authorization=bearer, origin=PAGE)
        assert taken(response)["accepted"] == 1
        assert response.headers["access-control-allow-origin"] == PAGE
        assert response.headers["vary"] == "Origin"
        for origin in ("https://evil.example", "null"):
            response = await shop.send(VIEW, authorization=bearer, origin=origin)
            refused(response, 403, "forbidden")
            assert "access-control-allow-origin" not in response.headers
        wrong = await shop.send({"type": "gift"}, authorization=bearer, origin=PAGE)
        refused(wrong, 400, "all-refused")
        assert wrong.headers["access-control-allow-origin"] == PAGE
        asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
        for path, origin, allowed in (
            ("/v1/events", PAGE, True), ("/v1/events", "https://evil.example", False), ("/v1/items/a", PAGE, True),
        ):  # fmt: skip
            response = await shop.ask("OPTIONS", path, role="", origin=origin, **asked)
            assert response.status_code == 204
            assert (response.headers.get("access-control-allow-origin") == origin) == allowed
            assert ("access-control-allow-methods" in response.headers) == allowed
        also = "https://also.example"
        assert (await shop.send({**VIEW, "id": "e2"}, authorization=bearer, origin=also)).status_code == 200

    run(tmp_path, test, SETTINGS.model_copy(update={"origins": ("https://also.example",)}))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/", 404, "not-found"), ("POST", "/v1/events/", 404, "not-found"),
        ("GET", "/metrics", 404, "not-found"),
        ("POST", "/v2/events", 404, "not-found"), ("POST", "//evil.example/%2e%2e", 404, "not-found"),
        ("GET", "/v1/events", 405, "method-not-allowed"), ("HEAD", "/v1/events", 405, "method-not-allowed"),
        ("DELETE", "/v1/items", 405, "method-not-allowed"), ("TRACE", "/v1/events", 405, "method-not-allowed"),
        ("POST", "/health/live", 405, "method-not-allowed"),
    ],
)  # fmt: skip
def test_other_routes_and_methods_are_refused(tmp_path: Path, method: str, path: str, status: int, code: str) -> None:
    async def test(shop: Shop) -> None:
        response = await shop.ask(method, path, b"{}")
        assert response.headers["connection"] == "close"
        assert ("allow" in response.headers) == (status == 405)
        if method != "HEAD":
            refused(response, status, code)
        assert response.status_code == status
        assert "location" not in response.headers

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 400, "bad-body"), (b"{", {}, 400, "bad-body"), (b'"\xff"', {}, 400, "bad-body"),
        (b"[" * 100_000, {}, 400, "bad-body"), (b'[{"a":1e999}]', {}, 400, "bad-body"), (b"7", {}, 400, "bad-body"),
        (b'[{"id":"\\ud800"}]', {}, 400, "bad-body"), (b"[" + b"{}," * 1_000 + b"{}]", {}, 400, "bad-body"),
        (b"x" * 500_001, {}, 413, "too-large"), (b"{}", {"content_encoding": "br"}, 415, "bad-encoding"),
        (b"{}", {"content_encoding": "gzip"}, 400, "bad-body"),
        (gzip.compress(b"[]", mtime=0)[:-1], {"content_encoding": "gzip"}, 400, "bad-body"),
        (gzip.compress(b"[]", mtime=0) * 2, {"content_encoding": "gzip"}, 400, "bad-body"),
        (gzip.compress(b" " * 2**24), {"content_encoding": "GZIP"}, 413, "too-large"),
        (b"{}", {"transfer_encoding": "chunked", "content_length": "2"}, 400, "bad-body"),
    ],
    ids=count(),
)  # fmt: skip
def test_bodies_of_another_form_are_refused(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    async def test(shop: Shop) -> None:
        refused(await shop.ask("POST", "/v1/events", body, "ingest", **headers), status, code)
        good = gzip.compress(json.dumps(VIEW).encode())
        answer = taken(await shop.ask("POST", "/v1/events", good, "ingest", content_encoding="gzip"))
        assert answer["accepted"] == 1

    run(tmp_path, test)


def test_a_body_that_does_not_end_is_refused_in_time(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        async def slow() -> Any:
            while True:
                yield b"["
                await asyncio.sleep(0.005)

        headers = {"authorization": f"Bearer {shop.texts['ingest']}"}
        response = await shop.client.post("/v1/events", content=slow(), headers=headers)
        refused(response, 408, "too-slow")
        assert response.headers["connection"] == "close"

    run(tmp_path, test, SETTINGS.model_copy(update={"body_s_max": 0.05}))


def test_too_many_requests_at_a_time_are_told_to_come_back(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        gate = asyncio.Event()

        async def waiting() -> Any:
            await gate.wait()
            yield json.dumps(VIEW).encode()

        headers = {"authorization": f"Bearer {shop.texts['ingest']}"}
        begun = [
            asyncio.create_task(shop.client.post("/v1/events", content=waiting(), headers=headers)) for _ in range(2)
        ]
        while shop.doors.requests < 2:
            await asyncio.sleep(0)
        response = await shop.send(VIEW)
        refused(response, 429, "too-many-requests")
        assert response.headers["retry-after"] == "1"
        assert taken(await shop.ask("POST", "/v1/events", {**VIEW, "id": "o"}, "operate"))["accepted"] == 1
        gate.set()
        assert [one.status_code for one in await asyncio.gather(*begun)] == [200, 200]
        assert shop.doors.requests == 0

    run(tmp_path, test)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/items", "/v1/batch", "/v1/identify", "/mp/collect"])
def test_no_body_holds_the_others_up(tmp_path: Path, path: str) -> None:
    """The loop is one thread, so that the work for a body is bounded, whatever it names and repeats."""
    names = ",".join(f'"n{number}":1' for number in range(15_000))
    calls = ",".join(['{"type":"identify","userId":"u","name":"view_cart"}'] * 1_000)
    bodies = [
        b"{\n" * 240_000,
        f'{{"client_id":"c","consent":{{{names}}},"user_properties":{{{names}}},"events":[{calls}]}}'.encode(),
        f'{{"context":{{{names},"consent":{{"categoryPreferences":{{{names}}}}}}},"batch":[{calls}]}}'.encode(),
        f'{{"userId":"u","traits":{{{names}}}}}'.encode(),
    ]

    async def test(shop: Shop) -> None:
        for body in bodies:
            began = time.process_time()
            response = await shop.ask("PUT" if path == "/v1/items" else "POST", path, body)
            assert response.status_code in (200, 204, 400), response.text
            assert time.process_time() - began < 0.5
            shop.s += 1_000

    run(tmp_path, test)


def test_health_and_the_snippet_need_no_key(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        assert taken(await shop.ask("GET", "/health/live", role="")) == {"live": True}
        assert taken(await shop.ask("GET", "/health/ready", role=""))["ready"] is True
        assert taken(await shop.ask("GET", "/openapi.json", role=""))["openapi"] == "3.1.0"
        script = await shop.ask("GET", "/headrace.js", role="")
        assert (script.status_code, script.headers["content-type"].partition(";")[0]) == (200, "text/javascript")

    run(tmp_path, test)
