"""Events: which records are accepted, and which rejection the others get; decoding never raises."""

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events import Data, Event, Item, Rejection, at, decode, encode, items_max
from headrace.log.protocol import RECORD_BYTES_MAX, Record

APPENDED_MS = 1_736_200_000_000
GOOD: dict[str, Any] = {
    "specversion": "1.0", "id": "1", "source": "shop", "type": "view_item", "time": "2025-01-06T10:00:00Z",
    "data": {"items": [{"item_id": "a", "price": 9.5}]},
}  # fmt: skip


def read(value: bytes | None, key: bytes | None = b"ann") -> Event | Rejection:
    return decode(Record(0, 0, APPENDED_MS, key, value))


def decoded(**changed: Any) -> Event | Rejection:
    return read(msgspec.json.encode({**GOOD, **changed}))


def lines(*items: Any) -> dict[str, Any]:
    return {"items": list(items)}


def test_a_good_event() -> None:
    event = decoded()
    assert isinstance(event, Event)
    assert (event.shopper, event.time_ms, event.data.items[0].price) == ("ann", 1_736_157_600_000, 9.5)


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("unknown_event", decoded(type="look_at_item")),
        ("unknown_version", decoded(specversion="2.0")),
        ("schema", decoded(id="")),
        ("schema", decoded(id="x" * 129)),
        ("schema", decoded(id=5)),
        ("schema", decoded(time="2025-01-06T10:00:00")),
        ("schema", decoded(time="yesterday")),
        ("schema", decoded(data=lines({"item_id": "a", "price": -1}))),
        ("schema", decoded(data=lines({"item_id": "a", "quantity": 0}))),
        ("schema", decoded(data=lines({"item_id": "a", "propensity": 0}))),
        ("schema", decoded(data=lines(*[{"item_id": "a"}] * (items_max + 1)))),
        ("schema", decoded(data=lines(*[{"item_id": "a"}] * 10_000))),
        ("schema", decoded(data=None)),
        ("items_missing", decoded(data={})),
        ("items_missing", decoded(type="purchase", data={})),
        ("search_term_missing", decoded(type="search", data={})),
        ("rating_missing", decoded(type="review", data={})),
        ("time_ahead", decoded(time="2025-01-08T10:00:00Z")),
        ("time_absurd", decoded(time="1970-01-01T00:00:00Z")),
        ("key_mismatch", decoded(subject="bob")),
        ("empty", read(None)),
        ("empty", read(b"")),
        ("key_missing", read(b"{}", None)),
        ("key_missing", read(b"{}", b"")),
        ("key_invalid", read(msgspec.json.encode(GOOD), b"k" * 129)),
        ("bad_utf8", read(msgspec.json.encode(GOOD), b"\xff\xfe")),
        ("not_json", read(b"not json")),
        ("not_json", read(msgspec.json.encode(GOOD)[:-1])),
        ("not_json", read(msgspec.json.encode(GOOD).replace(b"9.5", b"NaN"))),
        ("not_json", read(msgspec.json.encode(GOOD).replace(b"9.5", b"Infinity"))),
        ("too_deep", read(b'{"x":' + b"[" * 100_000)),
        ("too_large", read(b" " * (RECORD_BYTES_MAX + 1))),
        ("schema", read(b"[]")),
        ("schema", read(b"null")),
    ],
)
def test_an_unusable_record_is_rejected_with_its_reason(reason: str, event: Event | Rejection) -> None:
    assert isinstance(event, Rejection), event
    assert event.reason == reason
    assert 0 < len(event.detail) <= 400


@pytest.mark.parametrize("price", [b"1e999", b"1e308"])
def test_absurd_prices_are_rejected(price: bytes) -> None:
    assert isinstance(read(msgspec.json.encode(GOOD).replace(b"9.5", price)), Rejection)


def test_unknown_fields_are_ignored_and_the_last_of_duplicate_keys_is_used() -> None:
    twice = msgspec.json.encode({**GOOD, "extra": {"a": [1]}}).replace(b'"id":"1"', b'"id":"1","id":"2"')
    event = read(twice)
    assert isinstance(event, Event)
    assert event.id == "2"


def test_the_largest_invoice_is_accepted() -> None:
    event = decoded(type="purchase", data=lines(*[{"item_id": "a"}] * items_max))
    assert isinstance(event, Event)
    assert len(event.data.items) == items_max


def test_an_event_is_decoded_as_it_was_encoded() -> None:
    event = Event(
        "1", "shop", "purchase", at(1_736_157_600_123), Data([Item("a", price=1.5)], currency="EUR"), "1.0", "ann"
    )
    again = read(encode(event))
    assert isinstance(again, Event)
    assert again.time_ms == 1_736_157_600_123
    assert encode(again) == encode(event)
    assert b"_time_ms" not in encode(again)


@pytest.mark.parametrize(
    ("key", "subject", "shopper"),
    [
        (b"ann", None, "ann"),
        (b'"ann"', None, "ann"),
        (b'"ann"', "ann", "ann"),
        (b'"ann"', '"ann"', '"ann"'),
        (rb'"\u00e4\"n"', None, 'ä"n'),
        (b'"ann', None, '"ann'),
        (b'"a"n"', None, '"a"n"'),
        (b'"', None, '"'),
        (b"1234", None, "1234"),
        (b"{ann}", None, "{ann}"),
        (b"12345678", None, "12345678"),
        ("añ\u200bn\u00a0".encode(), None, "añ\u200bn\u00a0"),
    ],
)
def test_a_key_is_text_or_a_json_string(key: bytes, subject: str | None, shopper: str) -> None:
    found = read(msgspec.json.encode(GOOD if subject is None else {**GOOD, "subject": subject}), key)
    assert isinstance(found, Event), found
    assert found.shopper == shopper


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (struct.pack(">q", 42), "key_invalid"),
        (struct.pack(">i", 42), "key_invalid"),
        (struct.pack(">q", -1), "bad_utf8"),
        (struct.pack(">bi", 0, 7) + b"\x06ann", "key_invalid"),
        (struct.pack(">bi", 0, 7) + b'"ann"', "key_invalid"),
        (bytes(range(16)), "key_invalid"),
        (b"ann\n", "key_invalid"),
        (b'""', "key_invalid"),
        (b'"a\\nb"', "key_invalid"),
        (b'"' + b"k" * 129 + b'"', "key_invalid"),
    ],
    ids=["long", "int", "negative", "avro", "json schema", "uuid", "line", "empty", "escaped", "long text"],
)
def test_a_key_of_a_binary_serialiser_is_refused(key: bytes, reason: str) -> None:
    found = read(msgspec.json.encode(GOOD), key)
    assert isinstance(found, Rejection)
    assert found.reason == reason
    assert "key" in found.detail


@given(st.binary(max_size=300), st.binary(max_size=20))
@settings(max_examples=300)
def test_arbitrary_bytes_do_not_raise(value: bytes, key: bytes) -> None:
    assert isinstance(read(value, key), Event | Rejection)


@given(st.binary(max_size=4), st.integers(0, 200))
@settings(max_examples=300)
def test_a_damaged_event_does_not_raise(noise: bytes, place: int) -> None:
    good = msgspec.json.encode(GOOD)
    assert isinstance(read(good[:place] + noise + good[place + len(noise) :]), Event | Rejection)
