"""Every kind of answer is read from real processes, on both logs, and what happens shows in them."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.events import Data, Event, Item, at, encode
from headrace.impressions import Impression, decode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.log.scan import topic_records
from headrace.rules import Categories, RuleSet, When, record_of
from headrace.segments import Segment, SegmentRules
from headrace.segments import record_of as segments_record_of
from headrace.topics import EVENTS, IMPRESSIONS, ITEMS
from operators.child import Child, Children, total
from tests.shards import ONLINE

SHOPPERS = 30


class Shop:
    """A shop of shirts and hats, its processes, and what they answer."""

    def __init__(self, url: str, folder: Path, children: Children) -> None:
        self.log: Log = open_log(url)
        self.log.create()
        self.number, self.appender = 0, self.log.appender()
        base = ("--log", url, "--blobs", str(folder / "blobs"))
        for number in range(20):
            kind = ("shirts", "hats")[number % 2]
            stated = {
                "title": f"{kind} {number}", "product_type": f"Wear > {kind}", "price": f"{10 + number} EUR",
                "brand": f"brand {number % 3}", "link": f"https://shop.example/{number}",
            }  # fmt: skip
            self.appender.append(Outgoing(ITEMS, f"i{number}".encode(), json.dumps(stated).encode()))
        for shopper in range(SHOPPERS):
            for step in range(4):
                self.publish(f"s{shopper}", "view_item", f"i{(shopper + 2 * step) % 20}")
            self.publish(f"s{shopper}", "purchase", "i1", "i3", transaction_id=f"T{shopper}")
        self.appender.flush()
        self.online: Child = children.start("online", "online", *base, "--metrics-port", "0", up=False)
        self.server: Child = children.start("serve", "serve", *base, "--port", "0")
        self.online.wait_until_up()
        self.wait = children.wait_until

    def publish(self, shopper: str, kind: Any, *items: str, **data: Any) -> None:
        """Append an event of now, which is sent at the next flush."""
        self.number += 1
        time_s = time.time()
        event = Event(
            f"e{self.number}", "shop", kind, at(int(1000 * time_s)), Data([Item(one) for one in items], **data), "1.0",
            shopper,
        )  # fmt: skip
        self.appender.append(Outgoing(EVENTS, shopper.encode(), encode(event)))

    def lines(self, path: str, **body: Any) -> list[Any]:
        """Return the lines of an answer, asked by POST if there is a body."""
        data = json.dumps(body).encode() if body else None
        try:
            with urllib.request.urlopen(f"{self.server.address}{path}", data=data, timeout=30) as answer:
                return [json.loads(line) for line in answer.read().splitlines()]
        except urllib.error.HTTPError as error:
            return [json.loads(error.read())]

    def table(self, path: str) -> list[str]:
        """Return the lines of an answer that is a table."""
        with urllib.request.urlopen(f"{self.server.address}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
        return text.splitlines()

    def ask(self, path: str, **body: Any) -> Any:
        """Return an answer."""
        (found,) = self.lines(path, **body)
        return found

    def items(self, path: str, **body: Any) -> list[str]:
        """Return the items of an answer."""
        return [item["item_id"] for item in self.ask(path, **body).get("items", ())]


@pytest.fixture
def shop(log_url: str, tmp_path: Path, children: Children) -> Iterator[Shop]:
    """Yield a shop whose events are all in the answers."""
    found = Shop(log_url, tmp_path, children)
    found.wait("all is learned", lambda: total(found.online.scrape(), "headrace_events_total") >= found.number)
    found.wait("everything is in the answers", lambda: found.ask("/v1/popular").get("fresh", {}).get("entry", 0) > 0)
    found.wait("the server has caught up", lambda: total(found.server.scrape(), "headrace_lag_records") == 0)
    found.wait("all items are, too", lambda: len(found.items("/v1/new?category=Wear&n=20")) == 20)
    found.wait("the last order is, too", lambda: "i3" in found.items("/v1/bought-together/i1"))
    yield found
    found.appender.close()
    found.log.close()


def test_every_kind_of_answer(shop: Shop) -> None:
    asked: dict[str, Callable[[], list[str]]] = {
        "GET /v1/recommendations/{shopper}": lambda: shop.items("/v1/recommendations/s3?n=5"),
        "POST /v1/recommendations": lambda: shop.items(
            "/v1/recommendations", events=[{"type": "view_item", "items": ["i4"]}], n=5
        ),
        "GET /v1/similar/{item}": lambda: shop.items("/v1/similar/i4?n=5"),
        "GET /v1/bought-together/{item}": lambda: shop.items("/v1/bought-together/i1"),
        "GET /v1/trending": lambda: shop.items("/v1/trending?n=5"),
        "GET /v1/new": lambda: shop.items("/v1/new?category=Wear&n=5"),
        "GET /v1/popular": lambda: shop.items("/v1/popular?brand=brand%201&n=5"),
        "POST /v1/rerank": lambda: shop.items("/v1/rerank", shopper="s1", items=["i7", "i2", "i9"]),
        "POST /v1/lists": lambda: [
            item["item_id"]
            for one in shop.ask("/v1/lists", shopper="s1", lists=[{"n": 3}, {"kind": "new", "n": 3}])["lists"]
            for item in one["items"]
        ],
        "POST /v1/bulk": lambda: [line["shopper"] for line in shop.lines("/v1/bulk", shoppers=["s1", "s2"], n=3)],
        "GET /v1/explanations/{shopper}": lambda: shop.items("/v1/explanations/s3?n=5"),
        "GET /v1/neighbours/{item}": lambda: list(shop.ask("/v1/neighbours/i4?n=5")["learners"]),
        "GET /v1/audience/{item}": lambda: [one["shopper"] for one in shop.ask("/v1/audience/i4?n=5")["shoppers"]],
        "GET /v1/items/{item}": lambda: [shop.ask("/v1/items/i4")["item_id"]],
        "GET /v1/items": lambda: shop.items("/v1/items?n=5"),
        "GET /v1/shoppers/{shopper}": lambda: [shop.ask("/v1/shoppers/s1")["shopper"]],
        "GET /v1/shoppers": lambda: [json.dumps(shop.ask("/v1/shoppers?n=5"))],
        "GET /v1/history": lambda: [json.dumps(shop.ask("/v1/history?n=5"))],
        "GET /v1/shoppers/{shopper}/profile": lambda: list(shop.ask("/v1/shoppers/s1/profile")["traits"]),
        "GET /v1/segments": lambda: [json.dumps(shop.ask("/v1/segments")["shoppers"])],
        "GET /v1/segments/{segment}": lambda: [shop.ask("/v1/segments/none")["detail"]],
        "GET /v1/shoppers/{shopper}/segments": lambda: [shop.ask("/v1/shoppers/s1/segments")["shopper"]],
        "GET /v1/shoppers/{shopper}/intent": lambda: [json.dumps(shop.ask("/v1/shoppers/s1/intent"))],
        "GET /v1/shoppers/{shopper}/value": lambda: [shop.ask("/v1/shoppers/s1/value")["orders"]],
        "GET /v1/items/{item}/demand": lambda: [json.dumps(shop.ask("/v1/items/i1/demand")["history"])],
        "GET /v1/demand": lambda: [json.dumps(shop.ask("/v1/demand?n=5"))],
        "GET /v1/items/{item}/stock": lambda: [shop.ask("/v1/items/i1/stock")["item"]],
        "GET /v1/stock/plan": lambda: [json.dumps(shop.ask("/v1/stock/plan?n=5"))],
        "GET /v1/stock/plan.csv": lambda: shop.table("/v1/stock/plan.csv?n=5"),
        "GET /v1/retention": lambda: [json.dumps(shop.ask("/v1/retention?n=5"))],
        "GET /v1/retention.csv": lambda: shop.table("/v1/retention.csv?n=5"),
        "GET /v1/purchase/{shopper}": lambda: [shop.ask("/v1/purchase/s1")["shopper"]],
    }
    declared = {f"{route.method} {route.path}" for kind in ONLINE.kinds for route in kind.surface.routes}
    assert set(asked) == declared, "a new kind of answer has no test"
    answers = {name: ask() for name, ask in asked.items()}
    assert all(answers.values()), answers
    assert set(answers["POST /v1/rerank"]) == {"i7", "i2", "i9"}
    assert answers["POST /v1/bulk"] == ["s1", "s2"]
    assert len(set(answers["POST /v1/lists"])) == 6
    (first, *_) = shop.ask("/v1/recommendations/s3?n=5")["items"]
    assert first["name"]
    assert first["link"].startswith("https://shop.example/")
    assert first["currency"] == "EUR"
    assert first["reason"]["text"]
    assert shop.ask("/v1/popular?colour=red")["detail"].endswith("found 'colour'")

    # What happens shows, in the answers of whoever did it and of everybody else, and so do rules.
    shop.publish("newcomer", "view_item", "i4")
    shop.appender.flush()
    shop.wait("the view shows", lambda: "i4" not in shop.items("/v1/recommendations/newcomer?n=20"))
    shop.appender.append(record_of("*", RuleSet(categories=Categories(never=("Wear > hats",)))))
    shop.appender.flush()
    shop.wait("the rule holds", lambda: "i5" not in shop.items("/v1/popular?n=20"))
    for path in ("/v1/recommendations/s3?n=20", "/v1/similar/i4?n=20", "/v1/new?n=20", "/v1/trending?n=20"):
        assert {int(item[1:]) % 2 for item in shop.items(path)} == {0}, path

    # Rules for some shoppers alone follow who is in their segment, and the impression says so.
    shop.appender.append(segments_record_of(SegmentRules(segments={"regular": Segment("orders >= 2")})))
    hides = RuleSet(hidden=("i6",))
    shop.appender.append(record_of("home", RuleSet(when=(When(("regular",), rules=hides),))))
    shop.appender.flush()
    path = "/v1/recommendations/newcomer?n=20&placement=home"
    shop.wait("the segment is known", lambda: "unknown_segments" not in shop.ask(path)["rules"])
    assert (shop.ask(path)["segments"], "i6" in shop.items(path)) == ([], True)
    for _ in range(2):
        shop.publish("newcomer", "purchase", "i8", transaction_id=f"N{shop.number}")
    shop.appender.flush()
    shop.wait("the shopper is in the segment", lambda: shop.ask(path)["segments"] == ["regular"])
    assert "i6" not in shop.items(path)

    def shown() -> list[str]:
        found = [decode(record) for record in topic_records(shop.log, IMPRESSIONS)]
        return [name for one in found if isinstance(one, Impression) for name in one.segments]

    shop.wait("impressions have the segment", lambda: "regular" in shown())
