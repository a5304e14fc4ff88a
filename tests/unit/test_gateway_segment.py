"""Segment's tracking API: calls and their names, who the shopper is, logins, and the correction of a device's clock."""

from typing import Any

import pytest

from headrace.events import Event, Item
from learners.desk.joins import Joins
from producers.gateway.made import BadBody, Made, MadeEvent, MadeTraits, Refused, Unused
from producers.gateway.segment import ADAPTERS, EVENTS
from tests.made import RECEIVED_MS, consent_of, decoded, made, request, the_event

PRODUCT = {
    "product_id": "507f", "sku": "45790-32", "name": "Monopoly", "brand": "Hasbro", "category": "Games", "price": 19,
    "quantity": 2, "position": 1, "variant": "200 pieces", "url": "https://shop.example/p",
}  # fmt: skip
LINE = Item("507f", "Monopoly", "Hasbro", "Games", price=19, quantity=2, index=1)


def track(event: str, properties: Any = None, **fields: Any) -> dict[str, Any]:
    return {"anonymousId": "g1", "messageId": "m1", "event": event, "properties": properties or {}, **fields}


def tracked(event: str, properties: Any = None, **fields: Any) -> Event:
    return the_event(ADAPTERS["track"], track(event, properties, **fields))


def the_one(call: str, body: Any) -> Made:
    (one,) = made(ADAPTERS[call], body)
    return one


def test_an_order_has_its_products_and_fields() -> None:
    order = {
        "order_id": 5031, "total": 27.5, "revenue": "25.00", "shipping": 3, "coupon": "hasbros", "currency": "USD",
        "products": [PRODUCT, {"sku": "46493-32", "quantity": 0}, {"name": "Uno"}, None],
    }  # fmt: skip
    event = tracked("Order Completed", order, userId="ann", originalTimestamp="2026-03-01T11:00:00.5+01:00")
    assert (event.id, event.source, event.type, event.shopper) == ("m1", "acme/segment", "purchase", "ann")
    assert event.time.isoformat() == "2026-03-01T10:00:00.500000+00:00"
    assert event.data.items == [LINE, Item("46493-32")]
    assert event.lines_dropped == 2
    assert (event.data.transaction_id, event.data.value, event.data.coupon) == ("5031", 25, "hasbros")
    assert (event.data.currency, event.data.session_id) == ("USD", "g1")


def test_device_and_country_are_of_the_context() -> None:
    context = {"device": {"type": "ios"}, "location": {"country": "Japan"}}
    assert tracked("Product Viewed", PRODUCT, context=context).data.device == "ios"
    assert tracked("Product Viewed", PRODUCT, context=context).data.country == "Japan"
    assert tracked("Product Viewed", PRODUCT, context={"device": "ios", "location": None}).data.device == ""


@pytest.mark.parametrize("name", EVENTS)
def test_each_event_of_the_specification_is_of_its_type(name: str) -> None:
    properties = {**PRODUCT, "query": "games", "rating": 4, "order_id": "o1", "products": [PRODUCT]}
    event = tracked(name.title(), properties, userId="ann")
    assert event.type == EVENTS[name]


def test_fields_of_other_events_are_taken() -> None:
    assert tracked("Product Viewed", PRODUCT).data.items == [LINE]
    assert tracked("Products Searched", {"query": "blue roses"}).data.search_term == "blue roses"
    shown = tracked("Product List Viewed", {"list_id": "hot", "products": [PRODUCT]})
    assert (shown.data.item_list_id, shown.data.items) == ("hot", [LINE])
    assert tracked("Promotion Clicked", {"promotion_id": "p1", "position": "top"}).data.promotion_id == "p1"
    review = tracked("Product Reviewed", {"product_id": "507f", "rating": "5", "review_body": "mail me: a@b.c"})
    assert (review.data.rating, review.data.review, review.data.items) == (5, "mail me:", [Item("507f")])


def test_steps_of_a_checkout_are_what_they_state() -> None:
    assert tracked("Checkout Step Completed", {"shipping_method": "UPS"}).type == "add_shipping_info"
    assert tracked("Checkout Step Completed", {"payment_method": "Visa"}).type == "add_payment_info"
    assert the_one("track", track("Checkout Step Completed", {"step": 2})) == Unused("checkout step completed")


@pytest.mark.parametrize(
    ("body", "unused"),
    [
        (track("Coupon Applied"), "coupon applied"),
        (track("Product List Viewed", {"category": "Deals"}), "product list viewed without products"),
        (track("Order Updated", {"products": [PRODUCT]}), "order updated without order_id"),
        (track("Signed In"), "signed in without userId"),
    ],
)
def test_events_of_which_nothing_is_kept_are_unused(body: Any, unused: str) -> None:
    assert the_one("track", body) == Unused(unused)


def test_a_cancelled_order_is_refunded_whole() -> None:
    cancelled = tracked("Order Cancelled", {"order_id": "o1", "products": [PRODUCT]})
    assert (cancelled.type, cancelled.data.transaction_id, cancelled.data.items) == ("refund", "o1", [])
    assert tracked("Order Refunded", {"order_id": "o1", "products": [PRODUCT]}).data.items == [LINE]


@pytest.mark.parametrize(
    ("times", "time_ms"),
    [
        ({}, RECEIVED_MS),
        ({"timestamp": "2026-03-01T10:00:00Z"}, RECEIVED_MS - 10_000),
        # The device's clock is an hour fast: the call was made four seconds before it was sent.
        ({"originalTimestamp": "2026-03-01T11:00:00Z", "sentAt": "2026-03-01T11:00:04Z"}, RECEIVED_MS - 4_000),
        ({"timestamp": "2026-03-01T11:00:00Z", "sentAt": "2026-03-01T11:00:04Z"}, RECEIVED_MS - 4_000),
        (
            {
                "timestamp": "2026-03-01T10:00:03Z", "originalTimestamp": "2026-03-01T11:00:00Z",
                "sentAt": "2026-03-01T11:00:04Z",
            },
            RECEIVED_MS - 7_000,
        ),
    ],
)  # fmt: skip
def test_a_devices_clock_is_corrected(times: dict[str, str], time_ms: int) -> None:
    assert tracked("Cart Viewed", **times).own_ms == time_ms


def test_an_identified_guest_logs_in_and_has_traits() -> None:
    traits = {"email": "ann@example.com", "plan": "gold", "address": {"city": "Oslo"}, "name": "Ann", "orders": 3}
    login, kept = made(ADAPTERS["identify"], {"anonymousId": "g1", "userId": "ann", "messageId": "m", "traits": traits})
    event = decoded(login)
    assert isinstance(event, Event)
    assert (event.type, event.shopper, event.data.session_id) == ("login", "ann", "g1")
    assert kept == MadeTraits("ann", {"orders": 3, "plan": "gold"})
    guest = {"anonymousId": "g1", "traits": {"plan": "gold"}}
    assert the_one("identify", guest) == MadeTraits("g1", {"plan": "gold"})
    assert the_one("identify", {"userId": "ann", "traits": []}) == Unused("identify without traits that are kept")


@pytest.mark.parametrize("context", [{}, {"sessionId": 1_772_359_000}])
@pytest.mark.parametrize(
    "login",
    [
        {"type": "identify", "anonymousId": "g1", "userId": "ann"},
        {"type": "alias", "previousId": "g1", "userId": "ann"},
        {"type": "alias", "previousId": "guest-1", "anonymousId": "g1", "userId": "ann"},
    ],
)
def test_a_login_joins_the_guest_of_the_session(login: dict[str, Any], context: dict[str, Any]) -> None:
    calls = [
        {"type": "track", **track("Product Viewed", PRODUCT)}, login,
        {"type": "track", **track("Product Added", PRODUCT)},
    ]  # fmt: skip
    joins, moves, shoppers = Joins(sessions_max=9), [], []
    for one in made(ADAPTERS["batch"], {"batch": calls, "context": context}):
        event = decoded(one)
        assert isinstance(event, Event)
        moves.append(joins.follow(event))
        shoppers.append(event.shopper)
    assert [(move.from_shopper, move.to_shopper) for move in moves if move] == [("g1", "ann")]
    assert shoppers == ["g1", "ann", "ann"]


def test_a_batch_is_taken_as_far_as_it_is_good() -> None:
    batch = [
        {"type": "track", **track("Cart Viewed")}, {"type": "page", "userId": "ann"}, {"type": "group"}, 5,
        {"type": "wave"}, {"type": "track", "event": "Cart Viewed"}, {"type": "track", **track("My Own")},
        {"type": "alias", "userId": "ann"}, {"type": "track", **track("Cart Viewed", timestamp="soon")},
    ]  # fmt: skip
    sent = {"batch": batch, "sentAt": "2026-03-01T11:00:00Z", "context": {"consent": {}}}
    entries = ADAPTERS["batch"](request(sent))
    assert [one.reason if isinstance(one, Refused) else type(one) for (one,) in entries] == [
        MadeEvent, Unused, Unused, "schema", "schema", "key_missing", "unknown_event", "key_missing", "schema",
    ]  # fmt: skip


def test_a_batch_gives_its_calls_the_time_of_sending_and_the_context() -> None:
    call = {"type": "track", **track("Cart Viewed", timestamp="2026-03-01T11:00:00Z")}
    batch = {"batch": [call], "sentAt": "2026-03-01T11:00:04Z", "context": {"sessionId": "s1", "ip": "10.0.0.1"}}
    event = the_event(ADAPTERS["b"], batch)
    assert (event.own_ms, event.data.session_id) == (RECEIVED_MS - 4_000, "s1")


def test_a_call_without_an_id_has_one_that_a_second_delivery_shares() -> None:
    def ids(received_ms: int, **fields: Any) -> list[str]:
        call = {"type": "track", "userId": "ann", "event": "Cart Viewed", **fields}
        entries = ADAPTERS["batch"](request({"batch": [call, call]}, received_ms=received_ms))
        return [one.document["id"] for (one,) in entries if isinstance(one, MadeEvent)]

    timed = {"timestamp": "2026-03-01T10:00:00Z"}
    assert len(set(ids(RECEIVED_MS, **timed))) == 2
    assert ids(RECEIVED_MS, **timed) == ids(RECEIVED_MS + 1, **timed)
    assert ids(RECEIVED_MS) != ids(RECEIVED_MS + 1)


@pytest.mark.parametrize(
    ("categories", "purposes"),
    [
        ({"Advertising": True, "Analytics": False, "Functional": True}, ["marketing", "personalization"]),
        ({"C0002": True, "C0004": False}, ["analytics"]),
        ({"Advertising": False, "DataSharing": True}, []),
        ({}, "not stated"),
        (None, "not stated"),
    ],
)
def test_consent_lists_what_is_granted(categories: Any, purposes: Any) -> None:
    context = {"consent": {"categoryPreferences": categories}}
    assert consent_of(the_one("track", track("Cart Viewed", context=context))) == purposes


@pytest.mark.parametrize(
    ("call", "body", "reason"),
    [("track", [], "schema"), ("batch", {}, "schema"), ("import", {"batch": [1] * 1001}, "too_many")],
)
def test_a_body_without_entries_is_refused_whole(call: str, body: Any, reason: str) -> None:
    with pytest.raises(BadBody) as caught:
        ADAPTERS[call](request(body))
    assert caught.value.reason == reason
