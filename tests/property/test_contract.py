"""The published contract: `decode` and docs/event.schema.json agree on every document."""

import json
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from headrace.events import UNUSED_TYPES, Rejection, decode, json_schema
from headrace.log.protocol import Record

LATE_MS: Final = 253_402_300_799_000
VALIDATOR: Final = Draft202012Validator(json_schema())
OF_THE_RECORD: Final = {"time_ahead", "time_absurd", "key_mismatch", "key_missing", "key_invalid", "too_large"}
"""Reasons that do not follow from the document alone."""

TEXTS: Final = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from([0, 1, 3, 4, 32, 33, 128, 129, 256, 257, 500, 501, 10_001]).map(lambda n: "é" * n),
    st.sampled_from(["(not set)", "(data not available)", "ann"]),
)
NUMBERS: Final = st.one_of(
    st.integers(-2, 3),
    st.floats(-2, 3),
    st.sampled_from(
        [0.0, 1.0, 1.85, -0.0, 1e-300, 10_000_000, 10_000_000.5, 1e9, 1e9 + 1, 100_000, 100_000.0, 100_001]
    ),
)
ODD_TIMES: Final[st.SearchStrategy[Any]] = st.one_of(
    st.sampled_from(
        [
            "2025-01-06T10:00:00Z", "2016-12-31T23:59:60Z", "2016-12-31T23:59:60.5+00:00", "2025-02-29T10:00:00Z",
            "2024-02-29T10:00:00Z", "2100-02-29T10:00:00Z", "2000-02-29T00:00:00Z", "2025-01-06 10:00:00z",
            "2025-01-06t10:00:00.123456789Z", "2025-01-06T24:00:00Z", "2025-01-06T10:00Z", "2025-01-06T10:00:00",
            "2025-04-31T10:00:00Z", "2025-01-06T10:00:00+05:30", "2025-01-06T10:00:00+24:00", "2025-01-06T10:00:00,5Z",
            "2025-01-06", "20250106T100000Z", "2025-13-06T10:00:00Z", "0000-01-06T10:00:00Z", "2025-01-06T10:00:61Z",
            "2025-01-06T10:00:00-00:00", "2025-01-06T10:00:00+0530", "2025-01-06T10:00:00.Z", "2025-1-6T10:00:00Z",
            "2025-01-06T10:00:00Z\n", " 2025-01-06T10:00:00Z", "٢٠٢٥-01-06T10:00:00Z",
        ]
    ),
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.from_regex(
        r"[0-9]{4}-[0-1][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,3})?"
        r"(Z|[+-][0-2][0-9]:[0-5][0-9])",
        fullmatch=True,
    ),
)  # fmt: skip
VALUES: Final[st.SearchStrategy[Any]] = st.one_of(
    TEXTS, NUMBERS, ODD_TIMES, st.none(), st.none(), st.booleans(), st.sampled_from([[], {}, [None], [{}], ["x"] * 9])
)
"""What a field may be changed to."""
KINDS: Final = ("view_item", "purchase", "search", "review", "refund", "login", "page_view", "scroll", "look")
LINE: Final = {
    "item_id": "a", "item_name": "Boots", "item_brand": "b", "item_category": "c", "price": 9.5, "quantity": 2,
    "index": 0, "item_list_id": "l", "propensity": 0.5, "unknown": 1,
}  # fmt: skip
DATA: Final = {
    "session_id": "s", "currency": "EUR", "value": 9.5, "transaction_id": "t", "coupon": "c", "search_term": "boots",
    "item_list_id": "l", "promotion_id": "p", "recommendation_id": "r", "rating": 4.5, "review": "good",
    "made_up": ["time"], "unknown": {},
}  # fmt: skip
ENVELOPE: Final = {
    "id": "1", "source": "shop", "specversion": "1.0", "time": "2025-01-06T10:00:00Z", "subject": "ann",
    "datacontenttype": "application/json",
}  # fmt: skip
HIDDEN: Final = ("_time_ms", "_own_ms", "_counts", "_lines_dropped")


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Return a valid document of which a few fields were changed, added or removed."""
    lines = [draw(st.dictionaries(st.sampled_from(sorted(LINE)), st.none())) for _ in range(draw(st.integers(0, 3)))]
    items: list[Any] = [{"item_id": "a"} | {name: LINE[name] for name in line} for line in lines]
    data: dict[str, Any] = {name: DATA[name] for name in draw(st.sets(st.sampled_from(sorted(DATA))))} | {
        "items": items
    }
    document: dict[str, Any] = {**ENVELOPE, "type": draw(st.sampled_from(KINDS)), "data": data}
    places: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        (document, (*ENVELOPE, "type", "data", *HIDDEN)),
        (data, (*DATA, "items")),
        *((one, tuple(LINE)) for one in items),
    ]
    for _ in range(draw(st.integers(0, 3))):
        place, names = places[draw(st.integers(0, len(places) - 1))]
        name = draw(st.sampled_from(names))
        if draw(st.booleans()):
            is_time = name == "time" and draw(st.booleans())
            place[name] = draw(ODD_TIMES) if is_time else draw(VALUES)
        else:
            place.pop(name, None)
    place_of_line = draw(st.integers(0, 2 * len(items)))
    if place_of_line < len(items):
        items[place_of_line] = draw(VALUES)
    return document


GOOD: Final = {"id": "1", "source": "s", "specversion": "1.0", "time": "2025-01-06T10:00:00Z"}


@settings(max_examples=200, deadline=None)
@given(documents())
@example({**GOOD, "type": "view_item", "subject": None, "data": {"items": [{"item_id": "a", "item_brand": None}]}})
@example({**GOOD, "type": "view_item", "data": {"items": [{"item_id": "a", "quantity": 1.0, "index": 0.0}]}})
@example({**GOOD, "type": "view_item", "data": {"items": [{"item_id": "a", "index": 0.5}]}})
@example({**GOOD, "type": "purchase", "data": {"items": [{"item_id": "a", "quantity": 0}, {"item_id": "b"}]}})
@example({**GOOD, "type": "scroll", "data": {"items": 5, "value": "50 %"}})
@example({**GOOD, "type": "search", "data": {"search_term": "(not set)"}})
@example({**GOOD, "type": "view_item", "_time_ms": "x", "data": {"items": [{"item_id": "a"}]}})
@example({**GOOD, "type": "login", "time": "2025-01-06T10:00:00Z\n", "data": {}})
@example({**GOOD, "type": "login", "time": "٢٠٢٥-01-06T10:00:00Z", "data": {}})
@example({**GOOD, "type": "view_item", "data": {"items": [{"item_id": "a", "price": "(not set)"}]}})
@example(
    {**GOOD, "type": "view_item", "data": {"items": [{"item_id": "a"}], "currency": "(not set)", "value": "(other)"}}
)
@example({**GOOD, "type": "review", "data": {"rating": "(not set)"}})
@example({**GOOD, "type": "refund", "data": {"items": None, "value": None}})
def test_code_and_schema_agree_on_every_document(document: Any) -> None:
    found = decode(Record(0, 0, LATE_MS, b"ann", json.dumps(document).encode()))
    if isinstance(found, Rejection) and found.reason in OF_THE_RECORD:
        return
    accepted = not isinstance(found, Rejection) or found.reason == "unused"
    assert VALIDATOR.is_valid(document) == accepted, found


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(UNUSED_TYPES)), st.one_of(VALUES, st.dictionaries(TEXTS, VALUES)))
def test_ga4s_events_that_teach_nothing_are_unused_whatever_they_carry(kind: str, data: Any) -> None:
    found = decode(Record(0, 0, LATE_MS, b"ann", json.dumps({**GOOD, "type": kind, "data": data}).encode()))
    assert isinstance(found, Rejection)
    assert found.reason == ("unused" if isinstance(data, dict) else "schema")
