"""Events: GA4's e-commerce vocabulary in a structured-mode CloudEvent, decoded and validated in one pass.

On the wire an event is one JSON document; its record's key is the shopper's id. `decode` gives an `Event` or a
`Rejection` and never raises for what the bytes hold. Unknown fields are ignored, of a key written twice the last one
counts (both as JSON decoders commonly do); every field that is read has a limit. `docs/event.schema.json` is written
from these types.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct, field

from headrace.log import RECORD_BYTES_MAX, Record

items_max: Final = 2_000
"""Most lines of one event; real invoices have over 1,000."""
ahead_max_ms: Final = 3_600_000
"""How far an event's time may lie ahead of its append time: clocks are wrong, but not by more than an hour."""
time_min_ms: Final = 788_918_400_000
"""Events before 1995 are refused: no online shop is older."""

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(max_length=500)]
Text = Annotated[str, Meta(max_length=10_000)]
Money = Annotated[float, Meta(ge=-1e9, le=1e9)]
Price = Annotated[float, Meta(ge=0, le=1e9)]

EventType = Literal[
    "view_item_list", "select_item", "view_item", "search", "add_to_cart", "remove_from_cart", "add_to_wishlist",
    "view_cart", "begin_checkout", "add_shipping_info", "add_payment_info", "purchase", "refund", "view_promotion",
    "select_promotion", "login", "sign_up", "review",
]  # fmt: skip

NEEDS_ITEMS: Final = frozenset(
    {"view_item_list", "select_item", "view_item", "add_to_cart", "remove_from_cart", "add_to_wishlist", "purchase"}
)


class Item(Struct, gc=False, omit_defaults=True):
    """A line of an event. `propensity` is the probability with which an impression showed the item."""

    item_id: Id
    item_name: Name = ""
    item_brand: Name = ""
    item_category: Name = ""
    price: Price | None = None
    quantity: Annotated[int, Meta(ge=1, le=10_000_000)] = 1
    index: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    item_list_id: Name = ""
    propensity: Annotated[float, Meta(gt=0, le=1)] | None = None


class Data(Struct, gc=False, omit_defaults=True):
    """What happened. Money is in `currency` units; `made_up` names fields that a loader had to invent ("time")."""

    items: Annotated[list[Item], Meta(max_length=items_max)] = field(default_factory=list)
    session_id: Annotated[str, Meta(max_length=128)] = ""
    currency: Annotated[str, Meta(max_length=3)] = ""
    value: Money | None = None
    transaction_id: Annotated[str, Meta(max_length=128)] = ""
    coupon: Name = ""
    search_term: Name = ""
    item_list_id: Name = ""
    promotion_id: Name = ""
    recommendation_id: Annotated[str, Meta(max_length=128)] = ""
    rating: Annotated[float, Meta(ge=0, le=5)] | None = None
    review: Text = ""
    made_up: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(max_length=8)] = field(default_factory=list)


class Event(Struct, gc=False, omit_defaults=True):
    """One event of one shopper. `shopper` is `subject` on the wire; the record's key decides."""

    id: Id
    source: Annotated[str, Meta(min_length=1, max_length=256)]
    type: EventType
    time: Annotated[datetime, Meta(tz=True)]
    data: Data
    specversion: Literal["1.0"]
    shopper: Annotated[str, Meta(max_length=128)] = field(default="", name="subject")
    time_ms: int = field(default=0, name="_time_ms")


Reason = Literal[
    "empty", "too_large", "key_missing", "key_invalid", "key_mismatch", "not_json", "bad_utf8", "too_deep",
    "unknown_event", "unknown_version", "schema", "items_missing", "search_term_missing", "rating_missing",
    "time_ahead", "time_absurd",
]  # fmt: skip
"""Why a record cannot be used: a bounded set, fit for a metric's label."""


class Rejection(NamedTuple):
    """A record that cannot be used, as a value: the reason's code and a sentence with what was wanted and found."""

    reason: Reason
    detail: str


_decode = msgspec.json.Decoder(Event).decode
_encoder = msgspec.json.Encoder()


def decode(record: Record) -> Event | Rejection:
    """Return the event that a record holds, or why it cannot be used. Depends on the record alone.

    Its time is compared with the record's append time, never with the wall clock, so that a replay decides the same.
    """
    value, key = record.value, record.key
    if not value:
        return Rejection("empty", "wanted a JSON document, found an empty value")
    if not key:
        return Rejection("key_missing", "wanted the shopper's id as the record's key, found none")
    if len(value) > RECORD_BYTES_MAX:
        return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
    try:
        event = _decode(value)
        shopper = key.decode()
    except msgspec.ValidationError as error:
        return _rejection(str(error))
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error))
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:200])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")
    if event.shopper != shopper:
        if len(shopper) > 128:
            return Rejection("key_invalid", f"wanted a key of 1 to 128 characters, found {len(shopper)}")
        if event.shopper:
            return Rejection("key_mismatch", f"wanted subject to equal the key {shopper!r}, found {event.shopper!r}")
        event.shopper = shopper
    time_ms = event.time_ms = int(event.time.timestamp() * 1000)
    if time_ms > record.time_ms + ahead_max_ms:
        return Rejection("time_ahead", f"wanted a time at most 1 h after the record was appended, found {event.time}")
    if time_ms < time_min_ms:
        return Rejection("time_absurd", f"wanted a time of 1995 or later, found {event.time}")
    kind, data = event.type, event.data
    if not data.items and kind in NEEDS_ITEMS:
        return Rejection("items_missing", f"wanted at least one of data.items for {kind}, found none")
    if kind == "search" and not data.search_term:
        return Rejection("search_term_missing", "wanted data.search_term for search, found none")
    if kind == "review" and data.rating is None:
        return Rejection("rating_missing", "wanted data.rating for review, found none")
    return event


def _rejection(text: str) -> Rejection:
    if text.endswith("`$.type`"):
        return Rejection("unknown_event", text[:300])
    if text.endswith("`$.specversion`"):
        return Rejection("unknown_version", text[:300])
    return Rejection("schema", text[:300])


def encode(event: Event) -> bytes:
    """Return an event's wire form; `decode` of it with the shopper as key gives an equal event."""
    return _encoder.encode(msgspec.structs.replace(event, time_ms=0))


def at(time_ms: int) -> datetime:
    """Return the time of an event from milliseconds since the epoch.

    >>> at(0).isoformat()
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an event on the wire."""
    schema = msgspec.json.schema(Event)
    wire = schema["$defs"]["Event"]
    del wire["properties"]["_time_ms"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headrace event", **schema}


def reference() -> str:
    """Return docs/event.schema.json."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    print(reference(), end="")
