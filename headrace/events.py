"""Events: GA4's e-commerce vocabulary in a structured-mode CloudEvent, decoded and validated in one pass.

On the wire an event is one JSON document; its record's key is the shopper's id. `decode` returns an `Event` or a
`Rejection` and never raises, whatever the bytes are. As in most JSON decoders, unknown fields are ignored and the last
of duplicate keys is used. Null means that an optional field is absent. A line of `items` that cannot be used costs the
line, not the event. Every field that is read has a limit. `docs/event.schema.json` is generated from these types: it
admits exactly the documents that `decode` does not reject, apart from what depends on the record and on the time.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct, field

from headrace.log.protocol import RECORD_BYTES_MAX, Record

items_max: Final = 2_000
"""Maximum number of `items` in one event; real invoices have over 1,000."""
ahead_max_ms: Final = 26 * 3_600_000
"""How far an event's time may be ahead of its append time: two time zones differ by at most 26 hours, so a clock with
the wrong zone or without daylight saving time is admitted. Such a time counts as the append time."""
time_min_ms: Final = 788_918_400_000
"""Events before 1995 are rejected: no online shop is older."""

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(max_length=500)]
Text = Annotated[str, Meta(max_length=10_000)]
Money = Annotated[float, Meta(ge=-1e9, le=1e9)]
Price = Annotated[float, Meta(ge=0, le=1e9)]

EventType = Literal[
    "view_item_list", "select_item", "view_item", "search", "add_to_cart", "remove_from_cart", "add_to_wishlist",
    "view_cart", "begin_checkout", "add_shipping_info", "add_payment_info", "purchase", "refund", "view_promotion",
    "select_promotion", "login", "sign_up", "review", "login_undone", "shopper_renamed",
]  # fmt: skip
"""The types that are learned from: GA4's recommended ones, `review`, `login_undone`, which takes a login back, and
`shopper_renamed`, which the gateway writes where a shopper's pseudonym has changed."""

Purpose = Literal["analytics", "personalization", "marketing"]
"""What a shopper may consent to."""

UnusedType = Literal[
    "ad_click", "ad_exposure", "ad_impression", "ad_query", "ad_reward", "adunit_exposure", "app_background",
    "app_clear_data", "app_exception", "app_remove", "app_store_refund", "app_store_subscription_cancel",
    "app_store_subscription_convert", "app_store_subscription_renew", "app_update", "campaign_details", "click",
    "close_convert_lead", "close_unconvert_lead", "disqualify_lead", "dynamic_link_app_open",
    "dynamic_link_app_update", "dynamic_link_first_open", "earn_virtual_currency", "error", "exception",
    "file_download", "firebase_campaign", "firebase_in_app_message_action", "firebase_in_app_message_dismiss",
    "firebase_in_app_message_impression", "first_open", "first_visit", "form_start", "form_submit", "generate_lead",
    "in_app_purchase", "join_group", "level_end", "level_start", "level_up", "notification_dismiss",
    "notification_foreground", "notification_open", "notification_receive", "notification_send", "os_update",
    "page_view", "post_score", "qualify_lead", "screen_view", "scroll", "select_content", "session_start", "share",
    "spend_virtual_currency", "tutorial_begin", "tutorial_complete", "unlock_achievement", "user_engagement",
    "video_complete", "video_progress", "video_start", "view_search_results", "working_lead",
]  # fmt: skip
"""GA4's other event names, collected automatically or recommended for other purposes. They are counted as unused.

Source: Google Analytics help, "Automatically collected events", "Enhanced measurement events", "Recommended events".
"""

LEARNED_TYPES: Final[tuple[str, ...]] = tuple(one for one in get_args(EventType) if one != "shopper_renamed")
"""The types of which families learn; a renaming only says whose the events are that follow."""
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
    quantity: Annotated[float, Meta(gt=0, le=10_000_000)] = 1
    index: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    item_list_id: Name = ""
    propensity: Annotated[float, Meta(gt=0, le=1)] | None = None


class Data(Struct, gc=False, omit_defaults=True):
    """The payload. Amounts are in units of `currency`; `made_up` names fields that a loader synthesised ("time").

    `consent` are the purposes that the shopper has granted; None where nobody stated any. `former_shopper` is the id
    that a renamed shopper had. `device` is the kind of device, `country` that of the shopper, as in GA4.
    """

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
    former_shopper: Annotated[str, Meta(max_length=128)] = ""
    device: Name = ""
    country: Name = ""
    consent: Annotated[list[Purpose], Meta(max_length=3)] | None = None
    made_up: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(max_length=8)] = field(default_factory=list)


class Event(Struct, gc=False, omit_defaults=True):
    """One event of one shopper. `shopper` is `subject` on the wire and must equal the record's key if it is set.

    The last four fields are not on the wire. `own_ms` is the event's time by its sender's clock, at most its append
    time; 0 where nobody decoded it. `time_ms` is the shop's time at its arrival (`headrace.shard.intake`); until then
    it equals `own_ms`. `counts` is whether it teaches what all shoppers share (`learners.desk`). `lines_dropped` counts
    its unusable lines.
    """

    id: Id
    source: Annotated[str, Meta(min_length=1, max_length=256)]
    type: EventType | UnusedType
    time: Annotated[datetime, Meta(tz=True)]
    data: Data
    specversion: Literal["1.0"]
    shopper: Annotated[str, Meta(max_length=128)] = field(default="", name="subject")
    time_ms: int = field(default=0, name="_time_ms")
    own_ms: int = field(default=0, name="_own_ms")
    counts: bool = field(default=True, name="_counts")
    lines_dropped: int = field(default=0, name="_lines_dropped")


_UNUSED: Final[tuple[str, ...]] = get_args(UnusedType)
UNUSED_TYPES: Final = frozenset(_UNUSED)
PLACEHOLDERS: Final = frozenset({"(not set)", "(other)", "(data not available)", "(not provided)"})
"""Values by which GA4 says that it has none."""
_find_placeholder: Final = re.compile("|".join(map(re.escape, sorted(PLACEHOLDERS))).encode()).search
_OPENING: Final = ord("(")
_TEXTS: Final = (
    "session_id", "transaction_id", "currency", "coupon", "item_list_id", "promotion_id", "device", "country",
)  # fmt: skip
_LINE_TEXTS: Final = ("item_name", "item_brand", "item_category", "item_list_id")
"""Fields of `Data` and `Item` in which a placeholder counts as absent."""
_HIDDEN: Final = ("_time_ms", "_own_ms", "_counts", "_lines_dropped")
_LEAP_SECOND: Final = re.compile(r"(?<=[T ]\d\d:\d\d:)60(?=[.Z+-])", re.IGNORECASE)

Reason = Literal[
    "empty", "too_large", "key_missing", "key_invalid", "key_mismatch", "not_json", "bad_utf8", "too_deep",
    "unknown_event", "unknown_version", "schema", "items_missing", "search_term_missing", "rating_missing",
    "time_ahead", "time_absurd", "skipped", "unused",
]  # fmt: skip
"""Why a record cannot be used: a fixed set of codes, so that they can label a metric. `unused` is not the record's
fault: GA4 sends it, and it teaches nothing. `skipped` is what a person decided (`headrace.shard.decision`)."""


class Rejection(NamedTuple):
    """A record that cannot be used: the code of the reason, and a sentence that states what was wanted and found."""

    reason: Reason
    detail: str


_LINES_SUFFICE: Final = frozenset(get_args(EventType)) - {"search", "review", "shopper_renamed"}
"""The types of which an event with a line can be used."""
_decode = msgspec.json.Decoder(Event).decode
_unquote = msgspec.json.Decoder(str).decode
_CONTROL: Final = re.compile("[\\x00-\\x1f\\x7f]")
_encoder = msgspec.json.Encoder()


def decode(record: Record) -> Event | Rejection:
    """Return a record's event, or the reason why it cannot be used. The result depends only on the record.

    The event's time is compared with the record's append time, never with the wall clock, so that a replay has the same
    result.
    """
    value, key = record.value, record.key
    if not value:
        return Rejection("empty", "wanted a JSON document, found an empty value")
    if not key:
        return Rejection("key_missing", "wanted the shopper's id as the record's key, found none")
    if len(value) > RECORD_BYTES_MAX:
        return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
    repairs = _NO_REPAIRS
    try:
        try:
            event = _decode(value)
        except msgspec.ValidationError as error:
            event, repairs = _repaired(value, error)
        shopper = key.decode()
    except msgspec.ValidationError as error:
        return _rejection(str(error))
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error))
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", f"{'the key: ' if error.object == key else ''}{error}"[:200])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")
    if event.shopper != shopper:
        stated = id_in_key(shopper)
        if isinstance(stated, Rejection):
            return stated
        if event.shopper and event.shopper != stated:
            return Rejection("key_mismatch", f"wanted subject to equal the key {stated!r}, found {event.shopper!r}")
        event.shopper = stated
    time_ms, appended_ms = int(event.time.timestamp() * 1000), record.time_ms
    if time_ms > appended_ms:
        if time_ms > appended_ms + ahead_max_ms:
            return Rejection(
                "time_ahead", f"wanted a time at most 26 h after the record was appended, found {event.time}"
            )
        time_ms = appended_ms
    if time_ms < time_min_ms:
        return Rejection("time_absurd", f"wanted a time of 1995 or later, found {event.time}")
    event.time_ms = event.own_ms = time_ms
    event.counts, event.lines_dropped = True, repairs.lines_dropped
    # Looking for the bytes takes a tenth of the time of looking into the fields, and one byte, as a number, a tenth of
    # that.
    placeholders = _OPENING in value and _find_placeholder(value) is not None
    if event.data.items and event.type in _LINES_SUFFICE and not placeholders:  # nearly all
        return event
    return _used(event, repairs, placeholders=placeholders)


def id_in_key(text: str) -> str | Rejection:
    """Return the id that a record's key states: the key itself or, if it is a JSON string, what that says.

    Serialisers for numbers, UUIDs and Avro, and Confluent's schema prefix, write bytes that may be text by chance. A
    key with a control character is such bytes.

    >>> id_in_key("ann"), id_in_key('"ann"'), id_in_key('"ann')
    ('ann', 'ann', '"ann')
    >>> id_in_key("\\0\\0\\0*").reason
    'key_invalid'
    """
    if len(text) > 1 and text[0] == text[-1] == '"':
        with suppress(msgspec.DecodeError):
            text = _unquote(text)
    if not 1 <= len(text) <= 128:
        return Rejection("key_invalid", f"wanted a key of 1 to 128 characters, found {len(text)}")
    if not text.isprintable() and _CONTROL.search(text):  # the first is a quick test
        return Rejection(
            "key_invalid", f"wanted a key written by a string serialiser, found the bytes {text.encode()!r}"
        )
    return text


class _Repairs(NamedTuple):
    """How many lines of an event were unusable, and what was wrong with the first one."""

    lines_dropped: int
    detail: str


_NO_REPAIRS: Final = _Repairs(0, "")


def _repaired(value: bytes, error: msgspec.ValidationError) -> tuple[Event, _Repairs]:
    """Decode a document that does not fit the types as it is, but may without nulls and without unusable lines.

    Raises:
        ValidationError: it does not fit even so; the text of a fault that no line has.
    """
    try:
        document = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise error from None  # of two faults, the one that was met first
    if not isinstance(document, dict):
        raise error
    document = _without_nulls(document, required=("id", "source", "type", "time", "data", "specversion"))
    for name in _HIDDEN:
        document.pop(name, None)
    time, data, dropped, detail = document.get("time"), document.get("data"), 0, ""
    if isinstance(time, str):
        document["time"] = _LEAP_SECOND.sub("59", time)
    if isinstance(data, dict) and document.get("type") in _UNUSED:
        document["data"] = {}  # it is not read, so it may have any fields
    elif isinstance(data, dict):
        data = document["data"] = _without_nulls(data)
        found = data.get("items")
        if isinstance(found, list) and len(found) <= items_max:
            lines = data["items"] = list[Item]()
            for line in found:
                try:
                    lines.append(_line(line))
                except msgspec.ValidationError as fault:
                    dropped, detail = dropped + 1, detail or str(fault)
    return msgspec.convert(document, Event), _Repairs(dropped, detail)


def _line(line: Any) -> Item:
    if isinstance(line, dict):
        line = _without_nulls(line, required=("item_id",))
        index = line.get("index")
        if isinstance(index, float) and index.is_integer():
            line["index"] = int(index)
    return msgspec.convert(line, Item)


def _without_nulls(document: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a document that are not absent: neither null nor, where optional, a placeholder."""
    return {
        name: value
        for name, value in document.items()
        if name in required or not (value is None or (isinstance(value, str) and value in PLACEHOLDERS))
    }


def _used(event: Event, repairs: _Repairs, *, placeholders: bool) -> Event | Rejection:
    """Return an event, or why it cannot be used; first remove placeholders of GA4, if there may be any."""
    kind, data = event.type, event.data
    if kind in UNUSED_TYPES:
        return Rejection("unused", f"wanted an event that something can be learned from, found GA4's {kind}")
    if placeholders and (unused := _remove_placeholders(event)):
        return unused
    if not data.items and kind in NEEDS_ITEMS:
        if repairs.lines_dropped:
            return Rejection("schema", f"no line of {kind} can be used; the first: {repairs.detail}"[:300])
        return Rejection("items_missing", f"wanted at least one of data.items for {kind}, found none")
    if kind == "search" and not data.search_term:
        return Rejection("search_term_missing", "wanted data.search_term for search, found none")
    if kind == "review" and data.rating is None:
        return Rejection("rating_missing", "wanted data.rating for review, found none")
    if kind == "shopper_renamed" and not data.former_shopper:
        return Rejection("schema", "wanted data.former_shopper for shopper_renamed, found none")
    return event


def _remove_placeholders(event: Event) -> Rejection | None:
    """Remove the placeholders of an event; return why what is left is unused, or None."""
    data = event.data
    if event.shopper in PLACEHOLDERS:
        return Rejection("unused", f"wanted the shopper's id as the record's key, found GA4's {event.shopper}")
    if event.type == "search" and data.search_term in PLACEHOLDERS:
        return Rejection("unused", f"wanted data.search_term for search, found GA4's {data.search_term}")
    for name in _TEXTS:
        if getattr(data, name) in PLACEHOLDERS:
            setattr(data, name, "")
    kept = [line for line in data.items if line.item_id not in PLACEHOLDERS]
    for line in kept:
        for name in _LINE_TEXTS:
            if getattr(line, name) in PLACEHOLDERS:
                setattr(line, name, "")
    gone = len(data.items) - len(kept)
    data.items, event.lines_dropped = kept, event.lines_dropped + gone
    if gone and not kept and event.type in NEEDS_ITEMS:
        return Rejection("unused", f"wanted data.items for {event.type}, found only lines without an item_id")
    return None


def _rejection(text: str) -> Rejection:
    if text.endswith("`$.type`"):
        return Rejection("unknown_event", text[:300])
    if text.endswith("`$.specversion`"):
        return Rejection("unknown_version", text[:300])
    return Rejection("schema", text[:300])


def encode(event: Event) -> bytes:
    """Return an event's wire form; `decode` of it, with the shopper's id as key, returns an equal event."""
    hidden = msgspec.structs.replace(event, time_ms=0, own_ms=0, counts=True, lines_dropped=0)
    return _encoder.encode(hidden)


def at(time_ms: int) -> datetime:
    """Convert milliseconds since the epoch to a datetime in UTC.

    >>> at(0).isoformat()
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(time_ms / 1000, UTC)


_DATE_TIME: Final = (
    r"^(?!0000)(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
    r"[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$(?!\n)"
)
"""RFC 3339's date and time, leap years and leap seconds included."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an event on the wire."""
    schema = msgspec.json.schema(Event)
    definitions = schema["$defs"]
    wire, data, line = definitions["Event"], definitions["Data"], definitions["Item"]
    for name in _HIDDEN:
        del wire["properties"][name]
    wire["properties"]["type"] = {"enum": [*get_args(EventType), *get_args(UnusedType)]}
    wire["properties"]["time"]["pattern"] = _DATE_TIME
    for one in (wire, data, line):
        optional = one["properties"].keys() - set(one["required"])
        one["properties"] |= {name: _or_absent(one["properties"][name]) for name in optional}
    data["properties"]["items"] = _or_absent(
        {
            "type": "array",
            "description": "Lines of the form $defs/Item. One that is of another form is dropped, the others are used.",
            "maxItems": items_max,
        }
    )
    data_type = wire["properties"].pop("data")
    wire["allOf"] = [
        {
            "if": {"properties": {"type": {"enum": list(_UNUSED)}}},
            "then": {"properties": {"data": {"type": "object"}}},
            "else": {"properties": {"data": data_type}},
        },
        _if_type(sorted(NEEDS_ITEMS), {"items": {"type": "array", "contains": {"$ref": "#/$defs/Item"}}}),
        _if_type(["search"], {"search_term": {"type": "string", "minLength": 1}}),
        _if_type(["review"], {"rating": {"type": "number"}}),
        _if_type(["shopper_renamed"], {"former_shopper": {"type": "string", "minLength": 1}}),
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headrace event", **schema}


def _or_absent(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that also admits what counts as absent."""
    known = [one for one in schema.get("anyOf", [schema]) if one != {"type": "null"}]
    return {"anyOf": [*known, {"enum": [None, *sorted(PLACEHOLDERS)]}]}


def _if_type(types: list[str], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the condition that events of these types have these fields in their data."""
    then = {"properties": {"data": {"properties": wanted, "required": list(wanted)}}}
    return {"if": {"properties": {"type": {"enum": types}}}, "then": then}


def reference() -> str:
    """Return the content of docs/event.schema.json."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    print(reference(), end="")
