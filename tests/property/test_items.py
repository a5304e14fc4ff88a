"""The published contract of items: `decode` and docs/item.schema.json agree on every document."""

import json
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from headrace.events import Rejection
from headrace.items import ItemRecord, decode, ignored, json_schema
from headrace.log.protocol import Record

VALIDATOR: Final = Draft202012Validator(json_schema())
KEY: Final = "sku-1"

TEXTS: Final = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from([1, 50, 51, 128, 129, 500, 501, 2_000, 2_001]).map(lambda n: "é" * n),
)
PRICES: Final = st.one_of(
    st.from_regex(r"[0-9]{0,10}(\.[0-9]{0,7})? ?[A-Za-z]{0,4}\n?", fullmatch=True),
    st.sampled_from(["1,299.00 USD", "€5", "1.299,5", "9" * 5_000]),
    st.sampled_from(["12.50 EUR", "12,50 EUR", "EUR 12.50", "12.50 EUR\n", "١٢ EUR", "-1", "1e3", "12.50  EUR", ""]),
    st.integers(-1, 1), st.floats(-1, 1), st.sampled_from([1e9, 1_000_000_001, 1e300, True]),
    st.dictionaries(st.sampled_from(["EUR", "usd", "EU", "EURO", "EUR\n", "ÄÖÜ"]), st.integers(-1, 2)),
    st.sampled_from([31, 32, 33]).map(lambda n: {f"A{chr(65 + i // 26)}{chr(65 + i % 26)}": 1 for i in range(n)}),
)  # fmt: skip
AVAILABLE: Final = ["in_stock", "out of stock", "preorder", "backorder", "out_of_stock", "in stock", "sold", "In stock"]
ANYTHING: Final[st.SearchStrategy[Any]] = st.one_of(
    TEXTS, PRICES, st.none(), st.booleans(), st.sampled_from([[], {}, [None], [{}]])
)
FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "id": st.just(KEY), "title": TEXTS, "brand": TEXTS, "product_type": TEXTS, "price": PRICES,
    "currency": st.sampled_from(["EUR", "usd", "", "EURO", "E1R", "EUR\n"]), "availability": st.sampled_from(AVAILABLE),
    "cost_of_goods_sold": PRICES, "external_seller_id": TEXTS,
    "image_link": TEXTS, "link": TEXTS, "item_group_id": TEXTS, "gtin": TEXTS, "retired": st.booleans(),
    "quantity": PRICES, "on_order": PRICES, "sale_price": PRICES,
    "pack_size": PRICES, "minimum_order": PRICES, "shelf_life_days": PRICES,
    "lead_time_days": PRICES, "lead_time_spread_days": PRICES,
    "sale_price_effective_date": st.one_of(
        TEXTS, st.sampled_from(["2026-01-01/2026-02-01", "2026-02-30/", "/", "0001-01-01T00:00+23:00/", "9999-12-31/"])
    ),
    "unknown": ANYTHING,
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.fixed_dictionaries({}, optional=FIELDS),
        st.fixed_dictionaries({}, optional={name: st.one_of(kind, ANYTHING) for name, kind in FIELDS.items()}),
        ANYTHING,
    )
)
@example({"id": ""})
@example({"price": {}})
@example({"price": None, "retired": None})
def test_code_and_schema_agree_on_every_document(document: Any) -> None:
    found = decode(Record(0, 0, 0, KEY.encode(), json.dumps(document).encode()))
    if isinstance(found, Rejection) and found.reason == "key_mismatch":
        return
    assert VALIDATOR.is_valid(document) == (not isinstance(found, Rejection)), found


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.one_of(st.none(), st.binary(max_size=4)))
def test_no_bytes_raise(value: bytes, key: bytes | None) -> None:
    decode(Record(0, 0, 0, key, value))


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional={name: ANYTHING for name in FIELDS if name != "id"}))
@example({"gtin": 10**400, "title": 10**19})
def test_no_other_field_hides_that_an_item_is_retired(document: Any) -> None:
    value = json.dumps({**document, "retired": True}).encode()
    found = decode(Record(0, 0, 0, KEY.encode(), value))
    assert isinstance(found, ItemRecord)
    assert found.retired
    assert "retired" not in {fault.partition(":")[0] for fault in ignored(value)}
