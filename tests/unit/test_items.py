"""What a record of `items` states of an item, and which records are rejected."""

import json
from typing import Any

import pytest

from headrace.events import Rejection
from headrace.items import FOREVER_MS, ItemRecord, decode, ignored
from headrace.log.protocol import Record


def stated(document: Any, key: bytes | None = b"sku-1") -> ItemRecord | Rejection:
    value = document if isinstance(document, bytes | None) else json.dumps(document).encode()
    return decode(Record(0, 0, 0, key, value))


def test_a_record_states_the_whole_item() -> None:
    document = {
        "id": "sku-1", "title": "Red boots", "brand": "Acme", "product_type": "shoes", "price": "12.50 EUR",
        "availability": "in_stock", "image_link": "https://shop/1.jpg", "link": "https://shop/1",
        "item_group_id": "boots", "gtin": "4006381333931", "retired": False, "condition": "new",
        "cost_of_goods_sold": "8 EUR", "external_seller_id": "smith",
    }  # fmt: skip
    assert stated(document) == ItemRecord(
        "sku-1", "Red boots", "Acme", "shoes", {"EUR": 12.5}, link="https://shop/1", image_link="https://shop/1.jpg",
        seller="smith", costs={"EUR": 8.0},
    )  # fmt: skip
    assert stated({}) == ItemRecord("sku-1")
    assert stated(dict.fromkeys(document)) == ItemRecord("sku-1")


@pytest.mark.parametrize(
    ("fields", "costs"),
    [
        ({"cost_of_goods_sold": 8}, {"": 8.0}),
        ({"cost_of_goods_sold": "8,50 EUR", "currency": "USD"}, {"EUR": 8.5}),
        ({"cost_of_goods_sold": {"value": "8.50", "currency": "EUR"}}, {"EUR": 8.5}),
        ({"cost_of_goods_sold": 8, "currency": "eur"}, {"EUR": 8.0}),
        ({"cost_of_goods_sold": -8}, {}), ({"cost_of_goods_sold": "little"}, {}),
    ],
)  # fmt: skip
def test_what_the_shop_pays_is_stated_like_a_price(fields: Any, costs: dict[str, float]) -> None:
    assert stated(fields) == ItemRecord("sku-1", costs=costs)


@pytest.mark.parametrize(
    ("quantity", "found"),
    [
        (3, 3),
        (2.5, 2.5),
        ("12", 12),
        (" 4.0 ", 4),
        (0, 0),
        (-2, 0),
        ("-2", 0),
        ("many", None),
        (1e300, None),
        (True, None),
    ],
)
def test_a_quantity_is_a_number_and_never_negative(quantity: Any, found: float | None) -> None:
    record = stated({"quantity": quantity})
    assert isinstance(record, ItemRecord)
    assert (record.quantity, record.available) == (found, found != 0)


@pytest.mark.parametrize(
    ("availability", "available"), [("in_stock", False), ("preorder", True), ("backorder", True), (None, False)]
)
def test_none_on_hand_is_out_of_stock_unless_it_can_be_ordered_before(availability: Any, available: bool) -> None:
    assert stated({"quantity": 0, "availability": availability}) == ItemRecord("sku-1", available=available, quantity=0)


def test_a_record_states_the_supply() -> None:
    supply = {
        "lead_time_days": 7,
        "lead_time_spread_days": "2.5",
        "pack_size": "6",
        "minimum_order": 12,
        "shelf_life_days": 30,
        "on_order": "5",
    }
    assert stated(supply) == ItemRecord(
        "sku-1",
        lead_time_days=7,
        lead_time_spread_days=2.5,
        pack_size=6,
        minimum_order=12,
        shelf_life_days=30,
        on_order=5,
    )
    unusable = {
        "lead_time_days": -1,
        "lead_time_spread_days": "long",
        "pack_size": 2.5,
        "minimum_order": 0,
        "shelf_life_days": 0,
    }
    assert stated(unusable) == ItemRecord("sku-1")
    assert [fault.partition(":")[0] for fault in ignored(json.dumps(unusable).encode())] == [*unusable]


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("period", "from_ms", "until_ms"),
    [
        (None, 0, FOREVER_MS), ("", 0, FOREVER_MS), ("1970-01-02T01:00+0100/1970-01-03", DAY_MS, 2 * DAY_MS),
        (" 1970-01-02T00:00Z / ", DAY_MS, FOREVER_MS), ("/1970-01-02T00:00:00Z", 0, DAY_MS),
    ],
)  # fmt: skip
def test_a_sale_has_a_price_and_a_period(period: str | None, from_ms: int, until_ms: int) -> None:
    document = {"price": "20 EUR", "sale_price": "15,50 €", "sale_price_effective_date": period}
    found = stated(document)
    assert found == ItemRecord(
        "sku-1", prices={"EUR": 20.0}, sale_prices={"EUR": 15.5}, sale_from_ms=from_ms, sale_until_ms=until_ms
    )
    assert found.prices_at(from_ms) == found.prices_at(until_ms - 1) == {"EUR": 15.5}
    assert found.prices_at(from_ms - 1) == found.prices_at(until_ms) == {"EUR": 20.0}


@pytest.mark.parametrize("period", ["next week", "2026-01-02/2026-01-01", "2026-02-30/2026-03-01", 5, "x" * 101])
def test_a_sale_whose_period_cannot_be_read_is_none(period: Any) -> None:
    document = {"price": 20, "sale_price": 15, "sale_price_effective_date": period}
    found = stated(document)
    assert isinstance(found, ItemRecord)
    assert found.prices_at(1_800_000_000_000) == {"": 20.0}
    assert [fault.partition(":")[0] for fault in ignored(json.dumps(document).encode())] == [
        "sale_price_effective_date"
    ]


def test_a_seller_s_id_is_a_text_that_is_not_cut() -> None:
    assert stated({"external_seller_id": 17}) == ItemRecord("sku-1", seller="17")
    assert stated({"external_seller_id": "s" * 51}) == ItemRecord("sku-1")


@pytest.mark.parametrize(
    ("fields", "prices"),
    [
        ({"price": 12.5}, {"": 12.5}),
        ({"price": 12, "currency": "eur"}, {"EUR": 12.0}),
        ({"price": "12.50"}, {"": 12.5}),
        ({"price": "12.50", "currency": "USD"}, {"USD": 12.5}),
        ({"price": "12.50 eur", "currency": "USD"}, {"EUR": 12.5}),
        ({"price": {"EUR": 12.5, "usd": 13}}, {"EUR": 12.5, "USD": 13.0}),
        ({"currency": "EUR"}, {}),
        ({"price": "12,50 EUR"}, {"EUR": 12.5}),
        ({"price": "€12.50"}, {"EUR": 12.5}),
        ({"price": "12.50€", "currency": "USD"}, {"EUR": 12.5}),
        ({"price": "EUR 12.5"}, {"EUR": 12.5}),
        ({"price": "1,299.00 USD"}, {"USD": 1299.0}),
        ({"price": "1.299,00 eur"}, {"EUR": 1299.0}),
        ({"price": "1 299,00"}, {"": 1299.0}),
        ({"price": "1,299,000.5 JPY"}, {"JPY": 1299000.5}),
        ({"price": "$12.50", "currency": "CAD"}, {"CAD": 12.5}),
        ({"price": {"value": "12.50", "currency": "EUR"}}, {"EUR": 12.5}),
        ({"price": " "}, {}),
    ],
)
def test_a_price_may_be_a_number_a_text_or_one_by_currency(fields: Any, prices: dict[str, float]) -> None:
    assert stated(fields) == ItemRecord("sku-1", prices=prices)


@pytest.mark.parametrize(
    ("fields", "available"),
    [
        ({"availability": "in stock"}, True), ({"availability": "preorder"}, True),
        ({"availability": "backorder"}, True), ({"availability": "out_of_stock"}, False),
        ({"availability": "out of stock"}, False), ({"retired": True}, False),
        ({"retired": True, "availability": "in_stock"}, False), ({"retired": "true"}, False), ({"retired": 1}, False),
        ({"availability": "https://schema.org/OutOfStock"}, False),
        ({"availability": "http://schema.org/InStock"}, True),
        ({"availability": "discontinued"}, False), ({"availability": "sold_out"}, False),
        ({"availability": " Out of Stock "}, False), ({"availability": "PreOrder"}, True),
    ],
)  # fmt: skip
def test_an_item_is_available_unless_it_is_out_of_stock_or_retired(fields: Any, available: bool) -> None:
    found = stated(fields)
    assert isinstance(found, ItemRecord)
    assert (found.available, found.retired) == (available, "retired" in fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"price": "cheap"}, {"price": -1}, {"price": "1,299 USD"}, {"price": "12 50 EUR"}, {"price": "EUR 5 USD"},
        {"price": "$5"}, {"price": {"euro": 1}}, {"price": {"value": "x", "currency": "EUR"}}, {"price": [5]},
        {"currency": "EURO"}, {"title": ["Boots"]}, {"brand": {}}, {"product_type": True}, {"link": "x" * 2_001},
        {"gtin": "5" * 51}, {"gtin": True}, {"item_group_id": "x" * 129},
    ],
)  # fmt: skip
def test_an_unusable_field_does_not_hide_that_an_item_cannot_be_bought(fields: dict[str, Any]) -> None:
    document = {**fields, "availability": "out_of_stock"}
    assert stated(document) == ItemRecord("sku-1", available=False)
    (fault,) = ignored(json.dumps(document).encode())
    assert fault.startswith(f"{next(iter(fields))}: wanted another value, found ")
    assert len(fault) <= 300


def test_unknown_words_count_as_absent() -> None:
    document = {"availability": "sold", "retired": "perhaps", "title": "Boots"}
    assert stated(document) == ItemRecord("sku-1", "Boots")
    assert [fault.partition(":")[0] for fault in ignored(json.dumps(document).encode())] == ["availability", "retired"]


def test_names_are_cut_and_numbers_are_texts() -> None:
    document = {"title": "x" * 501, "brand": 47.0, "product_type": 5, "gtin": 4006381333931, "item_group_id": 1.5}
    assert stated(document) == ItemRecord("sku-1", "x" * 500, "47", "5")
    assert not ignored(json.dumps(document).encode())
    assert not ignored(b"")


@pytest.mark.parametrize("value", [None, b'{"id": "sku-1"}'])
def test_a_key_in_quotes_of_json_is_the_id_that_it_says(value: bytes | None) -> None:
    found = stated(value, b'"sku-1"')
    assert isinstance(found, ItemRecord)
    assert found.id == "sku-1"


@pytest.mark.parametrize("value", [None, b""])
def test_an_empty_value_retires_the_item(value: bytes | None) -> None:
    assert stated(value) == ItemRecord("sku-1", available=False, retired=True)


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"{}", None, "key_missing"), (None, b"", "key_missing"), (b"{}", b"x" * 129, "key_invalid"),
        (b"{}", b"\xff", "bad_utf8"), (b'{"id": "sku-2"}', b"sku-1", "key_mismatch"), (b"noise", b"a", "not_json"),
        (b'{"title": "\xff"}', b"a", "bad_utf8"), (b'{"x":' * 5_000, b"a", "too_deep"), (b"[]", b"a", "schema"),
        (b'{"title": "' + b"x" * 1_000_000 + b'"}', b"a", "too_large"), (b'{"price": NaN}', b"a", "not_json"),
        (b'{"id": ""}', b"a", "schema"), (b'{"id": 5}', b"5", "schema"),
        (b'{"id": "b", "title": 5}', b"a", "key_mismatch"), (b"{}", bytes(8), "key_invalid"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_rejected_with_a_reason(value: bytes, key: bytes | None, reason: str) -> None:
    found = stated(value, key)
    assert isinstance(found, Rejection)
    assert found.reason == reason
    assert len(found.detail) <= 300
