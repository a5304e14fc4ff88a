"""Items of the gateway: one and many, with the names of feeds, of the Content API and of the Merchant API."""

from typing import Any

import msgspec
import pytest

from headrace.items import FOREVER_MS, ItemRecord, decode
from headrace.log.protocol import Record
from producers.gateway.made import BadBody, Made, MadeItem, Refused
from producers.gateway.merchant import many, one
from tests.made import item_of, made, request

BOOTS = ItemRecord(
    "sku-1", "Red boots", "Acme", "shoes", {"EUR": 49.5}, available=False, image_link="https://shop.example/1.jpg",
    seller="smith", costs={"EUR": 20.0},
)  # fmt: skip
FEED = {
    "id": "sku-1", "title": "Red boots", "brand": "Acme", "product_type": "shoes", "price": "49.50 EUR",
    "availability": "out_of_stock", "image_link": "https://shop.example/1.jpg", "item_group_id": "boots",
    "gtin": 4006381333931, "cost_of_goods_sold": "20 EUR", "external_seller_id": "smith",
    "description": "boots", "condition": "new",
}  # fmt: skip
CONTENT_API = {
    "id": "online:en:DE:sku-1", "offerId": "sku-1", "title": "Red boots", "brand": "Acme", "productTypes": ["shoes"],
    "price": {"value": "49.50", "currency": "EUR"}, "availability": "out of stock",
    "imageLink": "https://shop.example/1.jpg", "itemGroupId": "boots", "gtin": "4006381333931", "channel": "online",
    "costOfGoodsSold": {"value": "20.00", "currency": "EUR"}, "externalSellerId": "smith",
}  # fmt: skip
MERCHANT_API = {
    "name": "accounts/1/productInputs/en~DE~sku-1", "offerId": "sku-1", "contentLanguage": "en",
    "productAttributes": {
        "title": "Red boots", "brand": "Acme", "productTypes": ["shoes"], "availability": "OUT_OF_STOCK",
        "price": {"amountMicros": "49500000", "currencyCode": "EUR"}, "imageLink": "https://shop.example/1.jpg",
        "itemGroupId": "boots", "gtins": ["4006381333931"], "externalSellerId": "smith",
        "costOfGoodsSold": {"amountMicros": "20000000", "currencyCode": "EUR"},
    },
}  # fmt: skip


def stated(made: Made) -> ItemRecord:
    assert isinstance(made, MadeItem), made
    found = decode(Record(0, 0, 0, made.item.encode(), msgspec.json.encode(made.document)))
    assert isinstance(found, ItemRecord), found
    return found


@pytest.mark.parametrize("body", [FEED, CONTENT_API, MERCHANT_API])
def test_an_item_may_be_written_as_a_feed_or_an_api_does(body: dict[str, Any]) -> None:
    (item,) = made(many, [body])
    assert stated(item) == BOOTS
    document = item_of(item)
    assert (document["image_link"], document["item_group_id"]) == ("https://shop.example/1.jpg", "boots")
    assert str(document["gtin"]) == "4006381333931"
    assert document.keys() <= {*FEED} - {"description", "condition"}


def test_one_item_has_the_id_of_its_path() -> None:
    (item,) = made(one, {"title": "Red boots", "retired": True}, {"id": "sku-1"})
    assert stated(item) == ItemRecord("sku-1", "Red boots", available=False, retired=True)
    (refused,) = made(one, {"title": "Red boots"})
    assert isinstance(refused, Refused)


@pytest.mark.parametrize(
    "body",
    [
        [{"id": "a"}, {"id": 2}],
        {"items": [{"id": "a"}, {"id": 2}]},
        b'{"id": "a"}\n\n{"id": 2}\n',
        b'{"id": "a"}\r\n{"id": 2}',
    ],
)
def test_many_items_are_an_array_a_field_or_lines(body: Any) -> None:
    assert [stated(item).id for item in made(many, body)] == ["a", "2"]
    assert [stated(item).id for item in made(many, b'{"id": "a"}\n')] == ["a"]


def test_an_item_that_cannot_be_used_costs_itself() -> None:
    found = made(many, b'{"id": "a"}\n{"id":\n[1]\n{"title": "x"}\n{"id": "b", "title": {}, "price": [], "link": null}')
    assert [one.reason if isinstance(one, Refused) else stated(one).id for one in found] == [
        "a",
        "not_json",
        "schema",
        "key_missing",
        "b",
    ]
    assert stated(found[-1]) == ItemRecord("b")


@pytest.mark.parametrize(
    ("fields", "prices"),
    [
        ({"price": 12.5, "currency": "EUR"}, {"EUR": 12.5}),
        ({"price": {"EUR": 12.5, "USD": "13"}}, {}),
        ({"price": {"EUR": 12.5, "USD": 13}}, {"EUR": 12.5, "USD": 13}),
        ({"price": {"amountMicros": 1, "currencyCode": "EUR"}}, {"EUR": 0.000001}),
        ({"price": {"amount_micros": "12500000"}, "currency": "EUR"}, {"EUR": 12.5}),
        ({"price": "20 EUR", "sale_price": "15 EUR"}, {"EUR": 15}),
        ({"price": "20 EUR", "salePrice": {"value": "15", "currency": "EUR"}}, {"EUR": 15}),
        ({"price": "20 EUR", "sale_price": " "}, {"EUR": 20}),
    ],
)
def test_a_price_may_be_written_as_feeds_and_apis_do(fields: dict[str, Any], prices: dict[str, float]) -> None:
    (item,) = made(many, [{"id": "a", **fields}])
    assert stated(item).prices == prices


@pytest.mark.parametrize(
    ("period", "price"),
    [
        ("2026-03-01T10:00+0000/2026-03-01T11:00+0000", 15),
        ("2026-03-01T10:00+0100 / 2026-03-01T11:00+0100", 20),
        ("2026-03-01T10:01Z/2026-03-02T00:00Z", 20),
        ("next week", 20),
        ({"startTime": "2026-02-01T00:00:00Z", "endTime": "2026-04-01T00:00:00Z"}, 15),
        ({"startTime": "2026-02-01T00:00:00Z"}, 15),
        ({"endTime": "2026-03-01T10:00:10Z"}, 20),
        (5, 15),
        ("", 15),
    ],
)
def test_a_sale_price_counts_while_the_sale_lasts(period: Any, price: float) -> None:
    fields = {"id": "a", "price": "20 EUR", "sale_price": "15 EUR", "sale_price_effective_date": period}
    (item,) = made(many, [fields])
    assert stated(item).prices == {"EUR": price}


@pytest.mark.parametrize(
    ("period", "from_ms", "until_ms"),
    [
        ("2026-04-01T00:00+0000/2026-04-02T00:00+0000", 1_775_001_600_000, 1_775_088_000_000),
        (
            {"startTime": "2026-04-01T00:00:00Z", "endTime": "2026-04-02T00:00:00Z"},
            1_775_001_600_000,
            1_775_088_000_000,
        ),
        ({"startTime": "2026-04-01T00:00:00Z"}, 1_775_001_600_000, FOREVER_MS),
    ],
)
def test_a_sale_that_is_to_come_is_stated(period: Any, from_ms: int, until_ms: int) -> None:
    fields = {
        "offerId": "a",
        "price": "20 EUR",
        "salePrice": "15 EUR",
        "salePriceEffectiveDate": period,
        "quantity": "7",
    }
    (item,) = made(many, [fields])
    assert stated(item) == ItemRecord(
        "a", prices={"EUR": 20}, quantity=7, sale_prices={"EUR": 15}, sale_from_ms=from_ms, sale_until_ms=until_ms
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"), (b"{", "not_json"), (b"[1,\n2", "not_json"), (5, "schema"), ({"items": 5}, "schema"),
        ([{}] * 1001, "too_many"), (b"{}\n" * 1001, "too_many"),
        (b'{"a":\n' * 100_000, "too_deep"),
    ],
)  # fmt: skip
def test_a_body_without_entries_is_refused_whole(body: Any, reason: str) -> None:
    with pytest.raises(BadBody) as caught:
        many(request(body))
    assert caught.value.reason == reason
    with pytest.raises(BadBody):
        one(request([], {"id": "a"}))
