"""Shopify: the events of a web pixel, webhooks of orders, refunds and products, and their signatures."""

from typing import Any

import msgspec
import pytest

from headrace.events import Event, Item
from headrace.items import ItemRecord
from headrace.items import decode as decode_item
from headrace.log.protocol import Record
from learners.desk.joins import Joins
from learners.desk.orders import Orders
from producers.gateway.made import BadBody, Made, MadeEvent, MadeItem, Refused, Unused
from producers.gateway.shopify import PIXEL_EVENTS, pixel, signature_valid, webhook
from tests.made import RECEIVED_MS, consent_of, decoded, made, request, the_event

VARIANT = {
    "id": "45737", "sku": "RB-42", "title": "42", "price": {"amount": 49.5, "currencyCode": "EUR"},
    "product": {"id": "8950", "title": "Red boots", "vendor": "Acme", "type": "shoes", "url": "/products/boots"},
}  # fmt: skip
CART_LINE = {
    "cost": {"totalAmount": {"amount": 99, "currencyCode": "EUR"}}, "merchandise": VARIANT, "quantity": 2,
}  # fmt: skip
CHECKOUT = {
    "currencyCode": "EUR", "totalPrice": {"amount": 104.9, "currencyCode": "EUR"}, "email": "ann@example.com",
    "order": {"id": "gid://shopify/OrderIdentity/5551", "customer": {"id": "gid://shopify/Customer/77"}},
    "lineItems": [{"quantity": 2, "title": "Red boots", "variant": VARIANT}, {"quantity": 1, "variant": None}],
    "discountApplications": [{"type": "AUTOMATIC", "title": "Sale"}, {"type": "DISCOUNT_CODE", "title": "MAY"}],
    "shippingAddress": {"phone": "+47 123"}, "token": "t0k",
}  # fmt: skip
ORDER: dict[str, Any] = {
    "id": 5551, "created_at": "2026-03-01T11:00:02+01:00", "currency": "EUR", "total_price": "104.90",
    "email": "ann@example.com", "browser_ip": "10.0.0.1", "customer": {"id": 77, "first_name": "Ann"}, "test": False,
    "discount_codes": [{"code": "MAY", "amount": "1.00"}],
    "line_items": [
        {
            "product_id": 8950, "variant_id": 45737, "sku": "RB-42", "title": "Red boots", "vendor": "Acme",
            "price": "49.50", "quantity": 2,
        },
        {"product_id": None, "title": "Tip", "price": "5.00", "quantity": 1},
    ],
}  # fmt: skip
REFUND = {
    "id": 9, "order_id": 5551, "created_at": "2026-03-01T10:00:05Z",
    "refund_line_items": [{"quantity": 1, "line_item": ORDER["line_items"][0]}],
    "transactions": [{"kind": "refund", "amount": "49.50", "currency": "EUR"}],
}  # fmt: skip
PRODUCT = {
    "id": 8950, "title": "Red boots", "vendor": "Acme", "product_type": "shoes", "status": "active",
    "published_at": "2026-01-01T00:00:00Z", "body_html": "<p>boots</p>", "image": {"src": "https://cdn.example/1.jpg"},
    "variants": [
        {"price": "59.50", "inventory_policy": "deny", "inventory_quantity": 0},
        {"price": "49.50", "inventory_policy": "deny", "inventory_quantity": 3},
    ],
}  # fmt: skip


def seen(name: str, data: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "e1", "clientId": "c1", "name": name, "timestamp": "2026-03-01T10:00:00.500Z", "data": data or {},
        "context": {"document": {"location": {"href": "/"}}, "navigator": {"userAgent": "Mozilla"}}, **fields,
    }  # fmt: skip


def hooked(topic: str, body: Any, webhook_id: str = "w1") -> Made:
    (one,) = made(webhook, body, {"topic": topic, "webhook_id": webhook_id})
    return one


def event_of(one: Made) -> Event:
    found = decoded(one)
    assert isinstance(found, Event), found
    return found


def stated(one: Made) -> ItemRecord:
    assert isinstance(one, MadeItem)
    found = decode_item(Record(0, 0, 0, one.item.encode(), msgspec.json.encode(one.document)))
    assert isinstance(found, ItemRecord), found
    return found


def test_a_viewed_product_is_an_item() -> None:
    event = the_event(pixel, seen("product_viewed", {"productVariant": VARIANT}))
    assert (event.id, event.source, event.type, event.shopper) == ("e1", "acme/shopify-pixel", "view_item", "c1")
    assert event.time.isoformat() == "2026-03-01T10:00:00.500000+00:00"
    assert event.data.items == [Item("8950", "Red boots", "Acme", "shoes", price=49.5)]
    assert (event.data.currency, event.data.session_id) == ("EUR", "c1")


def test_lists_searches_and_carts_have_their_products() -> None:
    boots = [Item("8950", "Red boots", "Acme", "shoes", price=49.5)]
    listed = {"collection": {"id": "c9", "title": "Home", "productVariants": [VARIANT]}}
    event = the_event(pixel, seen("collection_viewed", listed))
    assert (event.type, event.data.item_list_id, event.data.items) == ("view_item_list", "c9", boots)
    found = {"searchResult": {"query": "boots", "productVariants": [VARIANT]}}
    event = the_event(pixel, seen("search_submitted", found))
    assert (event.type, event.data.search_term, event.data.items) == ("search", "boots", boots)
    cart = {"cart": {"cost": CART_LINE["cost"], "lines": [CART_LINE]}}
    for name, data in (("product_added_to_cart", {"cartLine": CART_LINE}), ("cart_viewed", cart)):
        event = the_event(pixel, seen(name, data))
        assert (event.data.items[0].quantity, event.data.value, event.data.currency) == (2, 99, "EUR")


@pytest.mark.parametrize("name", PIXEL_EVENTS)
def test_each_standard_event_is_of_its_type(name: str) -> None:
    listed = {"id": "c9", "query": "boots", "productVariants": [VARIANT]}
    data = {"productVariant": VARIANT, "collection": listed, "searchResult": listed, "cartLine": CART_LINE}
    if "checkout" in name or "payment" in name:
        data = {"checkout": CHECKOUT}
    *_, last = made(pixel, seen(name, data, customer={"id": "77"}))
    assert event_of(last).type == PIXEL_EVENTS[name]


def test_an_array_is_taken_as_far_as_it_is_good() -> None:
    events = [
        seen("page_viewed"), seen("checkout_contact_info_submitted"), seen("mine"), 5,
        seen("cart_viewed", timestamp="?"),
        seen("cart_viewed", clientId=None), seen("collection_viewed", {"collection": {"id": 1}}), seen("cart_viewed"),
        seen("checkout_completed", {"checkout": {**CHECKOUT, "order": None}}),
    ]  # fmt: skip
    assert [one.reason if isinstance(one, Refused) else type(one) for (one,) in pixel(request(events))] == [
        Unused, Unused, "unknown_event", "schema", "schema", "key_missing", Unused, MadeEvent, "schema",
    ]  # fmt: skip


def test_a_customers_page_joins_the_guest() -> None:
    viewed = {"productVariant": VARIANT}
    events = [seen("product_viewed", viewed), seen("page_viewed", customer={"id": 77}), seen("product_viewed", viewed)]
    joins = Joins(sessions_max=9)
    moves = [joins.follow(event_of(one)) for one in made(pixel, events)]
    assert [(move.from_shopper, move.to_shopper) for move in moves if move] == [("c1", "77")]


def test_an_order_told_of_by_pixel_and_webhooks_is_one_purchase() -> None:
    login, bought = made(pixel, seen("checkout_completed", {"checkout": CHECKOUT}))
    by_pixel, by_hook = event_of(bought), event_of(hooked("orders/create", ORDER))
    assert (event_of(login).type, event_of(login).shopper, event_of(login).data.session_id) == ("login", "77", "c1")
    assert event_of(login).id != by_pixel.id
    for event in (by_pixel, by_hook):
        assert (event.type, event.shopper, event.data.transaction_id) == ("purchase", "77", "5551")
        assert (event.data.value, event.data.currency, event.data.coupon) == (104.9, "EUR", "MAY")
        assert [(item.item_id, item.price, item.quantity) for item in event.data.items] == [("8950", 49.5, 2)]
    assert (by_hook.id, by_hook.source, by_hook.own_ms) == ("w1", "acme/shopify", RECEIVED_MS - 8_000)
    (unnamed,) = made(pixel, seen("checkout_completed", {"checkout": CHECKOUT}, clientId=None))
    assert (event_of(unnamed).type, event_of(unnamed).shopper) == ("purchase", "77")
    orders = Orders(orders_max=9)
    purchases = [by_pixel, by_hook, event_of(hooked("orders/paid", ORDER, "w2"))]
    assert [orders.buy(event) for event in purchases] == [True, False, False]


@pytest.mark.parametrize("customer", [ORDER["customer"], None])
def test_refunds_take_back_pieces_and_a_cancelled_order_the_rest(customer: Any) -> None:
    orders = Orders(orders_max=9)
    orders.buy(event_of(hooked("orders/create", {**ORDER, "customer": customer})))
    one = event_of(hooked("refunds/create", REFUND))
    assert [(item.item_id, item.quantity) for item in one.data.items] == [("8950", 1)]
    assert (one.type, one.data.transaction_id, one.data.value, one.data.currency) == ("refund", "5551", 49.5, "EUR")
    assert orders.refund(one)
    cancelled = event_of(hooked("orders/cancelled", {**ORDER, "cancelled_at": "2026-03-01T10:00:06Z"}))
    assert orders.refund(cancelled)
    assert cancelled.shopper == ("77" if customer else "order:5551")
    assert [(item.item_id, item.quantity) for item in cancelled.data.items] == [("8950", 1)]


def test_a_refund_of_no_items_takes_nothing_back() -> None:
    assert hooked("refunds/create", {**REFUND, "refund_line_items": []}) == Unused("a refund of no items")


def test_webhooks_of_which_nothing_is_kept_are_unused() -> None:
    assert hooked("customers/update", {"id": 77, "email": "ann@example.com"}) == Unused("customers/update")
    assert hooked("orders/create", {**ORDER, "test": True}) == Unused("a test order")


@pytest.mark.parametrize("topic", ["orders/create", "orders/cancelled", "refunds/create", "products/update"])
def test_a_resource_without_an_id_is_refused(topic: str) -> None:
    refused = hooked(topic, {**REFUND, "id": None, "order_id": {}})
    assert isinstance(refused, Refused)
    assert refused.reason in ("schema", "key_missing")


def test_a_webhook_without_an_id_has_one_that_a_second_delivery_shares() -> None:
    def id_of(body: Any, received_ms: int) -> str:
        ((one,),) = webhook(request(body, {"topic": "orders/create"}, received_ms=received_ms))
        assert isinstance(one, MadeEvent)
        return str(one.document["id"])

    assert id_of(ORDER, RECEIVED_MS) == id_of(ORDER, RECEIVED_MS + 1)
    untimed = {**ORDER, "created_at": None}
    assert id_of(untimed, RECEIVED_MS) != id_of(untimed, RECEIVED_MS + 1)


def test_a_product_is_an_item_at_its_lowest_price() -> None:
    item = stated(hooked("products/update", PRODUCT))
    assert item == ItemRecord(
        "8950", "Red boots", "Acme", "shoes", {"": 49.5}, available=True, image_link="https://cdn.example/1.jpg",
        quantity=3,
    )  # fmt: skip
    assert hooked("products/delete", {"id": 8950}) == MadeItem("8950", None)
    assert stated(hooked("products/create", {"id": 8950})) == ItemRecord("8950")


@pytest.mark.parametrize(
    ("variant", "available"),
    [
        ({"inventory_quantity": 0, "inventory_policy": "deny"}, False),
        ({"inventory_quantity": -2, "inventory_policy": "deny", "inventory_management": "shopify"}, False),
        ({"inventory_quantity": 0, "inventory_policy": "continue"}, True),
        ({"inventory_quantity": 0, "inventory_policy": "deny", "inventory_management": None}, True),
        ({}, True),
    ],
)
def test_a_product_is_available_if_a_variant_can_be_bought(variant: Any, available: bool) -> None:
    assert stated(hooked("products/update", {"id": 1, "variants": [variant]})).available == available


@pytest.mark.parametrize(
    ("variants", "quantity"),
    [
        ([{"inventory_quantity": 5}, {"inventory_quantity": -2}], 5),
        ([{"inventory_quantity": 0}], 0),
        ([{"inventory_quantity": 5}, {"inventory_quantity": 1, "inventory_policy": "continue"}], None),
        ([{"inventory_quantity": 5}, {}], None),
        ([], None),
    ],
)
def test_a_product_s_quantity_is_that_of_all_variants_if_it_limits_all(variants: Any, quantity: int | None) -> None:
    assert stated(hooked("products/update", {"id": 1, "variants": variants})).quantity == quantity


@pytest.mark.parametrize("fields", [{"status": "draft"}, {"status": "archived"}, {"published_at": None}])
def test_a_product_that_is_not_sold_is_retired(fields: dict[str, Any]) -> None:
    assert stated(hooked("products/update", {**PRODUCT, **fields})).retired


@pytest.mark.parametrize(
    ("privacy", "purposes"),
    [
        ({"analyticsProcessingAllowed": True, "marketingAllowed": False}, ["analytics"]),
        ({"preferencesProcessingAllowed": True, "marketingAllowed": True}, ["marketing", "personalization"]),
        ({"analyticsProcessingAllowed": False, "saleOfDataAllowed": True}, []),
        (None, "not stated"),
    ],
)
def test_consent_lists_what_is_granted(privacy: Any, purposes: Any) -> None:
    (one,) = made(pixel, seen("cart_viewed", customerPrivacy=privacy))
    assert consent_of(one) == purposes


def test_nothing_made_holds_personal_data() -> None:
    text = repr([*made(pixel, seen("checkout_completed", {"checkout": CHECKOUT})), hooked("orders/create", ORDER)])
    for personal in ("ann@example.com", "+47 123", "10.0.0.1", "Mozilla", "Ann"):
        assert personal not in text


def test_a_body_without_entries_is_refused_whole() -> None:
    for adapter, body, query in (
        (pixel, 5, {}), (pixel, [{}] * 1001, {}), (webhook, [], {"topic": "orders/create"}), (webhook, {}, {}),
    ):  # fmt: skip
        with pytest.raises(BadBody):
            adapter(request(body, query))


def test_a_signature_is_that_of_the_body_and_the_secret() -> None:
    header = "dzJZAsrKgS3CWXM6rNBGtzgXNyx3e42VtAJkdHRRbhM="  # by openssl dgst -hmac
    assert signature_valid(b"secret", b"{}", f" {header}\n")
    for secret, body, signature in (
        (b"secret", b"{} ", header), (b"other", b"{}", header), (b"secret", b"{}", header[:-2]),
        (b"secret", b"{}", ""), (b"secret", b"{}", "é\ud800"),
    ):  # fmt: skip
        assert not signature_valid(secret, body, signature)
