"""The gateway's intake: what becomes of the entries of a body, and what is said of it."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.keys import look_every_s
from headrace.pseudonyms import Pseudonyms, add_secret
from headrace.topics import EVENTS, ITEMS, TRAITS
from tests.gateway_shop import SETTINGS, VIEW, Shop, refused, run, taken


def test_events_are_written_with_pseudonyms_and_an_answer_counts_them(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        for body in (VIEW, [{**VIEW, "id": "e2"}], {"events": [{**VIEW, "id": "e3"}, {**VIEW, "id": "e4"}]}):
            answer = taken(await shop.ask("POST", "/v1/events", body, "ingest"))
            assert (answer["repeated"], answer["unused"], answer["spooled"], answer["refused"]) == (0, 0, 0, [])
        assert answer["accepted"] == 2

    shop = run(tmp_path, test)
    assert [event.id for event in shop.events()] == ["e1", "e2", "e3", "e4"]
    first, secret = shop.events()[0], shop.secret
    assert (first.shopper, first.data.session_id) == (secret.shopper("ann"), secret.session("s1"))
    assert (first.source, first.data.items[0].item_id) == ("acme", "boots")
    assert not any(b"ann" in (record.value or b"") + (record.key or b"") for record in shop.records(EVENTS))


def test_a_body_that_is_partly_good_is_taken_partly(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        answer = taken(
            await shop.send(
                VIEW, {**VIEW, "id": "x1", "type": "gift"}, 7, {**VIEW, "id": "x2", "subject": None},
                {**VIEW, "id": "u", "type": "page_view"}, {**VIEW, "subject": "(not set)"}, VIEW, {**VIEW, "id": "e2"},
            )
        )  # fmt: skip
        assert (answer["accepted"], answer["repeated"], answer["unused"]) == (2, 1, 2)
        assert [(one["index"], one["reason"], one.get("id", "")) for one in answer["refused"]] == [
            (1, "unknown_event", "x1"), (2, "schema", ""), (3, "key_missing", "x2"),
        ]  # fmt: skip
        document = refused(await shop.send({**VIEW, "type": "gift"}), 400, "all-refused")
        assert document["refused"][0]["reason"] == "unknown_event"

    assert [event.id for event in run(tmp_path, test).events()] == ["e1", "e2"]


def test_a_repetition_is_told_and_not_written(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        assert taken(await shop.send(VIEW))["accepted"] == 1
        assert taken(await shop.send(VIEW, {**VIEW, "source": "other"}))["repeated"] == 1
        shop.away = True

    assert len(run(tmp_path, test).events()) == 2


def test_what_was_refused_for_now_is_no_repetition_later(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        shop.away = True
        sent = [{**VIEW, "id": f"e{number}"} for number in range(40)]
        response = await shop.send(*sent)
        refused(response, 503, "unavailable")
        assert int(response.headers["retry-after"]) > 0
        shop.away = False
        assert taken(await shop.send(*sent))["accepted"] == 40

    assert len(run(tmp_path, test).events()) == 40


def test_without_a_log_events_are_acknowledged_as_spooled(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        shop.away = True
        response = await shop.send(VIEW)
        assert response.status_code == 202
        assert (response.json()["accepted"], response.json()["spooled"]) == (1, 1)
        assert taken(await shop.send(VIEW))["repeated"] == 1
        ready = await shop.ask("GET", "/health/ready")
        assert (ready.status_code, ready.json()["log"]) == (200, "the log is away")
        for number in range(9):
            await shop.send({**VIEW, "id": f"f{number}"})
        ready = await shop.ask("GET", "/health/ready")
        assert (ready.status_code, ready.json()["full"]) == (503, ["gateway_spool_bytes"])
        shop.away = False
        while shop.depot.bounds()["gateway_spool_bytes"][0]:
            await asyncio.sleep(0.005)

    assert run(tmp_path, test).events()[0].id == "e1"


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        body = [VIEW, VIEW, {**VIEW, "id": "u", "type": "scroll"}, {}]
        for _ in range(2):
            found = taken(await shop.ask("POST", "/v1/events?dry_run=1", body, "ingest"))
            first, again, unused = found["entries"]
            assert (first["topic"], first["key"]) == ("events", shop.secret.shopper("ann"))
            assert first["document"]["subject"] == first["key"]
            assert (again["repeated"], unused["index"]) == (True, 2)
            assert found["refused"][0]["index"] == 3
        item = taken(await shop.ask("PUT", "/v1/items/a?dry_run=true", {"title": "A", "colour": "red"}))
        assert item["entries"][0]["document"]["title"] == "A"

    shop = run(tmp_path, test)
    assert [shop.records(topic) for topic in (EVENTS, ITEMS, TRAITS)] == [[], [], []]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("former_shopper", "ann@mail.example"), ("email", "ann@mail.example"), ("session_id", None),
        ("ip_override", "10.0.0.1"), ("user_agent", "ann@mail.example"),
    ],
)  # fmt: skip
def test_nothing_personal_gets_through(tmp_path: Path, field: str, value: Any) -> None:
    async def test(shop: Shop) -> None:
        data = {**VIEW["data"], field: value}
        assert taken(await shop.send({**VIEW, "data": data, "customer": value}))["accepted"] == 1

    (record,) = run(tmp_path, test).records(EVENTS)
    assert b"mail" not in (record.value or b"")
    assert b"10.0" not in (record.value or b"")


@pytest.mark.parametrize(
    "event",
    [
        {"session_id": 17}, {"session_id": "s" * 129}, {"session_id": ["s1"]}, {"session_id": {"raw": "s1"}},
    ],
)  # fmt: skip
def test_a_session_that_gets_no_pseudonym_is_not_written(tmp_path: Path, event: dict[str, Any]) -> None:
    async def test(shop: Shop) -> None:
        refused(await shop.send({**VIEW, "data": {**VIEW["data"], **event}}), 400, "all-refused")

    assert not run(tmp_path, test).records(EVENTS)


def test_a_rotation_links_each_shopper_once_the_oldest_first(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        taken(await shop.send(VIEW))
        for _ in range(2):
            add_secret(shop.secrets, 0)
        shop.s += look_every_s
        answer = taken(await shop.send({**VIEW, "id": "e2"}, {**VIEW, "id": "e3"}))
        assert answer["accepted"] == 2
        taken(await shop.send({**VIEW, "id": "e4"}, {**VIEW, "id": "e5", "subject": "bob"}))

    shop = run(tmp_path, test)
    names = Pseudonyms(shop.secrets).names_of("ann")
    new = [event for event in shop.events() if event.shopper == names[0]]
    assert [(one.type, one.data.former_shopper or one.id) for one in new] == [
        ("shopper_renamed", names[2]), ("shopper_renamed", names[1]),
        ("view_item", "e2"), ("view_item", "e3"), ("view_item", "e4"),
    ]  # fmt: skip
    assert len([one for one in shop.events() if one.type == "shopper_renamed"]) == 4


def test_a_client_cannot_rename_shoppers(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        event = {**VIEW, "type": "shopper_renamed", "data": {"former_shopper": "bob"}}
        refused(await shop.send(event), 400, "all-refused")

    assert not run(tmp_path, test).records(EVENTS)


def test_ids_pass_as_they_are_if_the_shop_says_so(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        taken(await shop.send(VIEW, {**VIEW, "id": "e2", "subject": 17}))

    shop = run(tmp_path, test, SETTINGS.model_copy(update={"pseudonymise": False}))
    assert {event.shopper for event in shop.events()} == {"ann", "17"}


def test_consent_is_kept_and_traits_need_it(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        for consent in ([], ["analytics"]):
            data = {**VIEW["data"], "consent": consent}
            taken(await shop.send({**VIEW, "id": f"e{len(consent)}", "data": data}))
        call = {"userId": "ann", "traits": {"plan": "gold", "email": "ann@mail.example", "shoe": 4}}
        none = {"consent": {"categoryPreferences": {"Advertising": False}}}
        assert taken(await shop.ask("POST", "/v1/identify", {**call, "context": none}))["unused"] == 1
        assert taken(await shop.ask("POST", "/v1/identify", call))["accepted"] == 1
        assert taken(await shop.ask("PUT", "/v1/shoppers/a/b/traits", {"plan": "b", "name": "Ann"}))["accepted"] == 1
        assert taken(await shop.ask("PUT", "/v1/shoppers/ann/traits", {"shoe": 4}))["unused"] == 1

    shop = run(tmp_path, test)
    assert [event.data.consent for event in shop.events()] == [[], ["analytics"]]
    stated = {record.key: msgspec.json.decode(record.value or b"")["traits"] for record in shop.records(TRAITS)}
    assert stated == {
        shop.secret.shopper("ann").encode(): {"plan": "gold"}, shop.secret.shopper("a/b").encode(): {"plan": "b"},
    }  # fmt: skip


@pytest.mark.parametrize("item", ["a", "a/b", "..", "../../etc", "%2E%2E%2f", "ä", "日本", "a b", "x" * 128])
def test_an_item_is_stated_and_retired_under_any_id(tmp_path: Path, item: str) -> None:
    async def test(shop: Shop) -> None:
        path = "/v1/items/" + "".join(f"%{byte:02X}" for byte in item.encode())
        assert taken(await shop.ask("PUT", path, {"title": "A", "price": "5 EUR", "colour": "red"}))["accepted"] == 1
        assert taken(await shop.ask("DELETE", path))["accepted"] == 1

    stated, retired = run(tmp_path, test).records(ITEMS)
    assert stated.key == retired.key == item.encode()
    assert (msgspec.json.decode(stated.value or b"")["title"], retired.value) == ("A", None)


@pytest.mark.parametrize("path", ["/v1/items/%00", "/v1/items/a%0Ab", "/v1/items/" + "x" * 129, "/v1/items/"])
def test_an_item_under_no_id_is_refused(tmp_path: Path, path: str) -> None:
    async def test(shop: Shop) -> None:
        refused(await shop.ask("PUT", path, {"title": "A"}), 400, "all-refused")

    assert not run(tmp_path, test).records(ITEMS)


def test_many_items_may_be_lines(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        lines = b'{"id": "a", "title": "A"}\n{"id": \n\n{"offerId": "b", "title": "B"}\n'
        answer = taken(await shop.ask("PUT", "/v1/items", lines))
        assert (answer["accepted"], [one["index"] for one in answer["refused"]]) == (2, [1])

    assert {record.key for record in run(tmp_path, test).records(ITEMS)} == {b"a", b"b"}
