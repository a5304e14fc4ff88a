"""What Gorse's clients write becomes events, traits and items; what cannot be used is refused with all of its body."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from headrace import items
from headrace.config import GatewaySettings
from headrace.events import Event
from headrace.items import ItemRecord
from headrace.topics import ITEMS, TRAITS
from producers.gateway.gorse.feedback import USUAL
from tests.gateway_shop import NOW_MS, SETTINGS, Shop, refused, run

OWN = GatewaySettings(**{**SETTINGS.model_dump(), "gorse_feedback": {"star": "add_to_cart", "dislike": ""}})


def given(type_: str, user: str = "ann", item: str = "boots", time: str = "2026-03-01T10:00:00Z", **more: Any) -> Any:
    return {"FeedbackType": type_, "UserId": user, "ItemId": item, "Timestamp": time, **more}


def events_of(tmp_path: Path, *bodies: list[Any], settings: GatewaySettings = SETTINGS) -> list[Event]:
    """Return the events that a gateway writes of bodies of feedback."""

    async def test(shop: Shop) -> None:
        for body in bodies:
            found = await shop.ask("POST", "/api/feedback", body, "", x_api_key=shop.texts["ingest"])
            assert (found.status_code, found.json()) == (200, {"RowAffected": len(body)}), found.text

    return run(tmp_path, test, settings).events()


@pytest.mark.parametrize("type_", USUAL)
def test_each_usual_type_is_its_event(tmp_path: Path, type_: str) -> None:
    (found,) = events_of(tmp_path, [given(type_, Value=3, Comment="x")])
    assert (found.type, found.source, [line.item_id for line in found.data.items]) == (
        USUAL[type_], "acme/gorse", ["boots"]
    )  # fmt: skip
    assert found.shopper.startswith("p1.")
    assert found.time.isoformat() == "2026-03-01T10:00:00+00:00"


def test_the_setting_adds_types_and_replaces_usual_ones(tmp_path: Path) -> None:
    found = events_of(tmp_path, [given("star"), given("dislike"), given("like")], settings=OWN)
    assert sorted(one.type for one in found) == ["add_to_cart", "add_to_wishlist"]


def test_feedback_that_is_sent_again_is_one_event_and_at_another_time_two(tmp_path: Path) -> None:
    later = given("read", time="2026-03-01T10:00:01Z")
    found = events_of(tmp_path, [given("read"), given("read")], [given("read"), later], [given("like")])
    assert len({one.id for one in found}) == len(found) == 3


def test_feedback_without_a_time_is_of_its_arrival(tmp_path: Path) -> None:
    (found,) = events_of(tmp_path, [{"FeedbackType": "read", "UserId": 17, "ItemId": 4}])
    assert int(found.time.timestamp() * 1000) == NOW_MS
    assert [line.item_id for line in found.data.items] == ["4"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (given("hug"), "unknown_event"),
        (given("read", user=""), "key_missing"),
        (given("read", item=""), "items_missing"),
        (given("read", time="soon"), "schema"),
        (given("read", time="2027-03-01T10:00:00Z"), "time_ahead"),
        ("read", "schema"),
    ],
)
def test_nothing_is_taken_of_a_body_with_feedback_that_cannot_be_used(tmp_path: Path, bad: Any, reason: str) -> None:
    async def test(shop: Shop) -> None:
        for method in ("POST", "PUT"):
            found = refused(await shop.ask(method, "/api/feedback", [given("read"), bad]), 400, "all-refused")
            assert [(one["index"], one["reason"]) for one in found["refused"]] == [(1, reason)]

    assert run(tmp_path, test).events() == []


def test_users_become_traits_also_without_any_that_is_kept(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        body = [{"UserId": "ann", "Labels": {"plan": "gold", "email": "a@b.c", "mood": 3}}, {"UserId": "bob"}]
        assert (await shop.ask("POST", "/api/users", body)).json() == {"RowAffected": 2}
        assert (await shop.ask("POST", "/api/user", {"UserId": "eve", "Labels": ["a"]})).json() == {"RowAffected": 1}
        assert (await shop.ask("PATCH", "/api/user/ann", {"Labels": {"plan": "free"}})).json() == {"RowAffected": 1}
        refused(await shop.ask("POST", "/api/user", {"Labels": {"plan": "gold"}}), 400, "all-refused")
        refused(await shop.ask("POST", "/api/user", body[0], "ingest"), 403, "forbidden")

    records = run(tmp_path, test).records(TRAITS)
    assert [json.loads(record.value or b"")["traits"] for record in records] == [
        {"plan": "gold"}, {}, {}, {"plan": "free"}
    ]  # fmt: skip
    assert records[0].key == records[3].key


def test_items_become_records_of_items(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        boots = {
            "ItemId": "a/b", "IsHidden": True, "Categories": ["shoes", "boots"], "Comment": "Red boots",
            "Labels": {"brand": "Acme", "price": "9.50 EUR", "mood": "calm"}, "Timestamp": "2026-02-24T00:00:00Z",
        }  # fmt: skip
        assert (await shop.ask("POST", "/api/items", [boots, {"ItemId": "hat"}])).json() == {"RowAffected": 2}
        # Changed before any server knows it: what was stated stays.
        assert (await shop.ask("PATCH", "/api/item/a%2Fb", {"IsHidden": False})).json() == {"RowAffected": 1}
        assert (await shop.ask("DELETE", "/api/item/a%2Fb")).json() == {"RowAffected": 1}
        refused(await shop.ask("PATCH", "/api/item/a%2Fb", {"IsHidden": False}), 404, "unknown")
        refused(await shop.ask("POST", "/api/item", {"Comment": "x"}), 400, "all-refused")

    found = [cast("ItemRecord", items.decode(record)) for record in run(tmp_path, test).records(ITEMS)]
    stated = ItemRecord("a/b", "Red boots", "Acme", "shoes > boots", {"EUR": 9.5}, available=False)
    assert found[:2] == [stated, ItemRecord("hat")]
    assert found[2] == ItemRecord("a/b", "Red boots", "Acme", "shoes > boots", {"EUR": 9.5})
    assert found[3].retired


def test_questions_need_a_server_and_a_key(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        found = refused(await shop.ask("GET", "/api/popular", role="read"), 501, "not-offered")
        assert "gateway.answers" in found["detail"]
        refused(await shop.ask("GET", "/api/popular", role="ingest"), 403, "forbidden")
        refused(await shop.ask("GET", "/api/popular", role=""), 401, "bad-key")
        assert "X-API-Key" in (await shop.ask("GET", "/api/popular", role="")).json()["detail"]

    run(tmp_path, test)
