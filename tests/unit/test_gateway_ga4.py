"""The Measurement Protocol: what its bodies become, their ids and times, and the answer of the validation server."""

from typing import Any

import pytest

from headrace.events import Item, Rejection
from producers.gateway.ga4 import adapt, validation
from producers.gateway.made import BadBody, MadeEvent, MadeTraits, Refused, Unused
from tests.made import RECEIVED_MS, consent_of, decoded, made, request, the_event


def body(*events: Any, **fields: Any) -> dict[str, Any]:
    return {"client_id": "17.42", "timestamp_micros": "1772359200500000", "events": list(events), **fields}


def test_an_event_has_its_parameters_and_lines() -> None:
    line = {
        "item_id": 7, "item_name": "Red boots", "item_brand": "Acme", "item_category": "shoes", "price": "49,50",
        "quantity": 2, "index": 3, "item_list_id": "home", "item_variant": "42",
    }  # fmt: skip
    params = {
        "items": [line], "currency": "eur", "value": 99, "transaction_id": 1001, "session_id": 1772359100,
        "coupon": "MAY", "engagement_time_msec": "100", "ip_override": "10.0.0.1",
    }  # fmt: skip
    where = {"device": {"category": "mobile"}, "user_location": {"country_id": "FR"}}
    event = the_event(adapt, body({"name": "purchase", "params": params}, user_id="ann", **where))
    assert (event.shopper, event.source, event.type) == ("ann", "acme/ga4", "purchase")
    assert event.time.isoformat() == "2026-03-01T10:00:00.500000+00:00"
    assert event.data.items == [
        Item("7", "Red boots", "Acme", "shoes", price=49.5, quantity=2, index=3, item_list_id="home")
    ]
    assert (event.data.session_id, event.data.transaction_id) == ("17.42.1772359100", "1001")
    assert (event.data.currency, event.data.value, event.data.coupon) == ("EUR", 99, "MAY")
    assert (event.data.device, event.data.country) == ("mobile", "FR")


def test_the_shopper_is_the_user_else_the_device() -> None:
    view = {"name": "view_item", "params": {"items": [{"item_id": "a"}], "session_id": "5"}}
    assert the_event(adapt, body(view)).shopper == "17.42"
    assert the_event(adapt, body(view, user_id="(not set)")).shopper == "17.42"
    app = the_event(adapt, {"app_instance_id": "ab12", "events": [view]})
    assert (app.shopper, app.data.session_id) == ("ab12", "ab12.5")
    user = the_event(adapt, {"user_id": 9, "events": [view]})
    assert (user.shopper, user.data.session_id) == ("9", "9.5")
    (refused,) = made(adapt, {"events": [view]})
    assert isinstance(refused, Refused)
    assert refused.reason == "key_missing"


def test_names_of_ga4_stay_and_others_are_refused() -> None:
    searched = the_event(adapt, body({"name": "view_search_results", "params": {"search_term": "boots"}}))
    assert (searched.type, searched.data.search_term) == ("search", "boots")
    page, own, none = made(adapt, body({"name": "page_view", "params": {"page_location": "/"}}, {"name": "mine"}, {}))
    found = decoded(page)
    assert isinstance(found, Rejection)
    assert found.reason == "unused"
    assert [one.reason for one in (own, none) if isinstance(one, Refused)] == ["unknown_event", "unknown_event"]


def test_a_login_that_names_no_user_is_unused() -> None:
    login = {"name": "login", "params": {"session_id": 5, "method": "mail"}}
    assert made(adapt, body(login)) == [Unused("login without user_id")]
    assert the_event(adapt, body(login, user_id="ann")).data.session_id == "17.42.5"


def test_an_event_that_states_a_time_has_the_same_id_at_each_delivery() -> None:
    event = {"name": "view_cart"}

    def ids(content: Any, received_ms: int) -> list[Any]:
        entries = adapt(request(content, received_ms=received_ms))
        return [one.document["id"] for (one,) in entries if isinstance(one, MadeEvent)]

    first = ids(body(event, event), RECEIVED_MS)
    assert len(set(first)) == 2
    assert ids(body(event, event), RECEIVED_MS + 60_000) == first
    untimed = {"client_id": "1", "events": [event]}
    assert ids(untimed, RECEIVED_MS) != ids(untimed, RECEIVED_MS + 1)


@pytest.mark.parametrize(
    ("stated", "time"),
    [
        (1_772_359_201_000_000, "2026-03-01T10:00:01+00:00"),
        ("1772359201000000", "2026-03-01T10:00:01+00:00"),
        (1_772_359_201_000, "2026-03-01T10:00:01+00:00"),
        (None, "2026-03-01T10:00:00.500000+00:00"),
    ],
)
def test_an_event_has_its_own_time_else_that_of_the_body(stated: Any, time: str) -> None:
    event = the_event(adapt, body({"name": "view_cart", "timestamp_micros": stated}))
    assert event.time.isoformat() == time


def test_an_event_without_a_time_has_that_of_its_arrival() -> None:
    event = the_event(adapt, {"client_id": "1", "events": [{"name": "view_cart"}]})
    assert event.time_ms == RECEIVED_MS


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("soon", "schema"), ([], "schema"), (True, "schema"), (1e308, "schema"),
        ("0001-01-01T00:00:00+23:59", "time_absurd"), (2**70, "time_absurd"),
        (" " * 100 + "2026-03-01T10:00:00Z", "schema"),
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_read_refuses_the_event(stated: Any, reason: str) -> None:
    (refused,) = made(adapt, body({"name": "view_cart", "timestamp_micros": stated}))
    assert isinstance(refused, Refused)
    assert refused.reason == reason


def test_an_unusable_line_costs_itself_and_an_unusable_value_the_value() -> None:
    lines = [{"item_id": "a", "price": "cheap"}, {"item_id": "b", "quantity": 0, "index": -1}, "c", {"item_name": "d"}]
    params = {"items": lines, "currency": "euro", "value": 2e9, "transaction_id": []}
    event = the_event(adapt, body({"name": "add_to_cart", "params": params}))
    assert event.data.items == [Item("b")]
    assert event.lines_dropped == 3
    assert (event.data.currency, event.data.value, event.data.transaction_id) == ("", None, "")


def test_user_properties_are_traits_without_what_identifies_a_person() -> None:
    properties = {
        "plan": {"value": "gold"}, "age": {"value": 41}, "member": {"value": True}, "email": {"value": "x"},
        "firstName": {"value": "Ann"}, "contact": {"value": "ann@example.com"}, "nested": {"value": {}},
        "odd": 1, "huge": {"value": 2**70},
    }  # fmt: skip
    traits = MadeTraits("ann", {"age": 41, "member": True, "plan": "gold"})
    assert made(adapt, body(user_id="ann", user_properties=properties)) == [traits]
    first, second = adapt(request(body({"name": "view_cart"}, {"name": "mine"}, user_properties={"a": {"value": 1}})))
    assert [type(one).__name__ for one in (*first, *second)] == ["MadeTraits", "MadeEvent", "Refused"]


@pytest.mark.parametrize(
    ("stated", "purposes"),
    [
        ({"ad_user_data": "GRANTED", "ad_personalization": "DENIED"}, ["marketing"]),
        ({"ad_user_data": "GRANTED", "ad_personalization": "granted"}, ["marketing", "personalization"]),
        ({"ad_user_data": "DENIED", "ad_personalization": "DENIED"}, []),
        ({}, "not stated"),
        ("GRANTED", "not stated"),
    ],
)
def test_consent_lists_what_is_granted(stated: Any, purposes: Any) -> None:
    (one,) = made(adapt, body({"name": "view_cart"}, consent=stated))
    assert consent_of(one) == purposes


def test_what_a_shopper_types_loses_e_mail_addresses() -> None:
    event = the_event(adapt, body({"name": "search", "params": {"search_term": "order of ann@example.com"}}))
    assert event.data.search_term == "order of"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"), (b"{", "not_json"), (b'"\xff"', "bad_utf8"), (b"[" * 100_000, "too_deep"),
        ([], "schema"), ({}, "schema"), ({"events": {}}, "schema"), ({"events": [{}] * 1001}, "too_many"),
    ],
)  # fmt: skip
def test_a_body_without_entries_is_refused_whole(content: Any, reason: str) -> None:
    with pytest.raises(BadBody) as caught:
        adapt(request(content))
    assert caught.value.reason == reason


def test_the_validation_server_answers_as_googles() -> None:
    faults = [(0, "unknown_event", "has name [_x]"), (1, "items_missing", "has no items"), (None, "too_many", "1001")]
    assert validation([*faults, (2, "key_missing", "none"), (3, "schema", "odd")]) == {
        "validationMessages": [
            {
                "fieldPath": "events", "description": "Event at index: [0] has name [_x]",
                "validationCode": "NAME_INVALID",
            },
            {
                "fieldPath": "events[1].params.items", "description": "Event at index: [1] has no items",
                "validationCode": "VALUE_REQUIRED",
            },
            {"fieldPath": "events", "description": "1001", "validationCode": "EXCEEDED_MAX_ENTITIES"},
            {"fieldPath": "client_id", "description": "none", "validationCode": "VALUE_REQUIRED"},
            {"fieldPath": "events", "description": "Event at index: [3] odd", "validationCode": "VALUE_INVALID"},
        ]
    }  # fmt: skip
