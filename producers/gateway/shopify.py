"""Shopify: the events of a web pixel, and the webhooks of orders, refunds and products.

An item's id is the product's, not the variant's: pixel, orders, refunds and products all have it, and variants of one
product are one item to recommend. Global ids (`gid://shopify/Product/1`) count as their last part. An order's
transaction id is the order's id, so that a pixel's `checkout_completed`, `orders/create` and `orders/paid` of one order
are one purchase.

A custom pixel posts events as they are, one or an array, with two fields of its own: `customer` (`init.data.customer`,
of which only the id is read) and `customerPrivacy`. The shopper is the customer, else `clientId`, which also names the
session. A page that a customer views is a `login` in that session, and so is a completed checkout that names a
customer; other pages are unused.

Of a webhook, the query has `topic` and `webhook_id`: the values of its headers `X-Shopify-Topic` and
`X-Shopify-Webhook-Id`. An order without a customer, and a refund, which names none, have a shopper of their own: a
refund takes back what was bought in its transaction, whoever sends it.

An event's id is the pixel's `id` or the webhook's id; without one, it is a digest of the body with the event's place
and time, so that a body that is delivered twice is recognised if it states a time.

Source: Shopify developer documentation, "Web Pixels API" (standard events, `customerPrivacy`), "Webhooks" (topics and
sample payloads) and "Verify webhook deliveries", https://shopify.dev/docs/api/web-pixels-api/standard-events.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

from headrace.events import EventType
from producers.gateway.fields import (
    amount_of,
    currency_of,
    digest_of,
    entries_of,
    event,
    granted,
    id_of,
    json_of,
    line,
    made_of,
    mapping,
    number_of,
    object_of,
    objects,
    time_ms_of,
    words_of,
    written_by_shopper,
)
from producers.gateway.made import BadBody, Made, MadeItem, Refused, Request, Unused

PIXEL_FEED: Final = "shopify-pixel"
WEBHOOK_FEED: Final = "shopify"
PURPOSES: Final = {
    "analyticsprocessingallowed": "analytics",
    "preferencesprocessingallowed": "personalization",
    "marketingallowed": "marketing",
}
"""What each truth value of `customerPrivacy` permits, by its name in lower case."""
PIXEL_EVENTS: Final[Mapping[str, EventType]] = {
    "page_viewed": "login",
    "product_viewed": "view_item",
    "collection_viewed": "view_item_list",
    "search_submitted": "search",
    "product_added_to_cart": "add_to_cart",
    "product_removed_from_cart": "remove_from_cart",
    "cart_viewed": "view_cart",
    "checkout_started": "begin_checkout",
    "checkout_shipping_info_submitted": "add_shipping_info",
    "payment_info_submitted": "add_payment_info",
    "checkout_completed": "purchase",
}
"""The type of each of the pixel's standard events that is used."""
_PIXEL_UNUSED: Final = frozenset({
    "checkout_contact_info_submitted", "checkout_address_info_submitted", "alert_displayed", "ui_extension_errored",
    "clicked", "form_submitted", "input_blurred", "input_changed", "input_focused",
})  # fmt: skip
_PURCHASES: Final = frozenset({"orders/create", "orders/paid"})
_PRODUCTS: Final = frozenset({"products/create", "products/update"})


def signature_valid(secret: bytes, body: bytes, header: str) -> bool:
    """Return whether a webhook's `X-Shopify-Hmac-Sha256` is that of its body, as it was sent; in constant time.

    >>> signature_valid(b"secret", b"{}", "dzJZAsrKgS3CWXM6rNBGtzgXNyx3e42VtAJkdHRRbhM=")
    True
    """
    wanted = base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest())
    return hmac.compare_digest(wanted, header.strip().encode(errors="replace"))


def pixel(request: Request) -> list[list[Made]]:
    """Return what is made of each event of a web pixel, one or an array. Raises BadBody."""
    body, digest = json_of(request.body), digest_of(request.body)
    found = entries_of([body] if isinstance(body, dict) else body, "an event of a pixel, or an array of them")
    return made_of(found, lambda index, entry: _pixel_event(request, entry, f"{digest}-{index}"))


def _pixel_event(request: Request, entry: dict[str, Any], otherwise_id: str) -> list[Made]:
    name, data = words_of(entry.get("name")), mapping(entry.get("data"))
    type_ = PIXEL_EVENTS.get(name)
    if type_ is None:
        wanted = f"wanted one of the pixel's standard events, found {name[:100]!r}"
        return [Unused(name) if name in _PIXEL_UNUSED else Refused("unknown_event", wanted)]
    checkout = mapping(data.get("checkout"))
    order = mapping(checkout.get("order"))
    client = id_of(entry.get("clientId"))
    customer = _id(mapping(entry.get("customer")).get("id"), mapping(order.get("customer")).get("id"))
    if type_ == "purchase" and not _id(order.get("id")):
        return [Refused("schema", "wanted data.checkout.order.id, by which the order's webhook is known, found none")]
    if type_ == "login" and not (client and customer):
        return [Unused(name)]
    stated_ms = time_ms_of(entry.get("timestamp"), "timestamp")
    time_ms = request.received_ms if stated_ms is None else stated_ms
    id_ = id_of(entry.get("id")) or f"{otherwise_id}-{time_ms}"
    common = {"session_id": client, "consent": granted(mapping(entry.get("customerPrivacy")), PURPOSES)}

    def made(type_: EventType, id_: str, fields: dict[str, Any]) -> Made:
        return event(
            request, PIXEL_FEED, type_, id_=id_, shopper=customer or client, time_ms=time_ms, data={**fields, **common}
        )

    if type_ == "login":
        return [made(type_, id_, {})]
    logins = [made("login", f"{id_}-login", {})] if type_ == "purchase" and client and customer else []
    fields = _checkout(checkout) if checkout else _browsing(data)
    if type_ == "view_item_list" and not fields["items"]:
        return [Unused(f"{name} without products")]
    return [*logins, made(type_, id_, fields)]


def _browsing(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of an event before the checkout."""
    cart_line, cart = mapping(data.get("cartLine")), mapping(data.get("cart"))
    collection, result = mapping(data.get("collection")), mapping(data.get("searchResult"))
    variants = [mapping(data["productVariant"])] if "productVariant" in data else []
    for listed in (collection, result):
        variants += objects(listed.get("productVariants"))
    lines = [cart_line] if cart_line else objects(cart.get("lines"))
    cost = mapping(mapping((cart_line or cart).get("cost")).get("totalAmount"))
    priced = [*variants, *(mapping(one.get("merchandise")) for one in lines)]
    return {
        "items": [_variant(one) for one in variants]
        + [_variant(mapping(one.get("merchandise")), one.get("quantity")) for one in lines],
        "currency": currency_of(
            cost.get("currencyCode"), *(mapping(one.get("price")).get("currencyCode") for one in priced[:1])
        ),
        "value": amount_of(cost.get("amount")),
        "search_term": written_by_shopper(result.get("query")),
        "item_list_id": _id(collection.get("id")),
    }


def _checkout(checkout: dict[str, Any]) -> dict[str, Any]:
    codes = [
        words_of(one.get("title"))
        for one in objects(checkout.get("discountApplications"))
        if one.get("type") == "DISCOUNT_CODE"
    ]
    return {
        "items": [
            _variant(mapping(one.get("variant")), one.get("quantity")) for one in objects(checkout.get("lineItems"))
        ],
        "currency": currency_of(checkout.get("currencyCode")),
        "value": amount_of(mapping(checkout.get("totalPrice")).get("amount")),
        "transaction_id": _id(mapping(checkout.get("order")).get("id")),
        "coupon": next(iter(codes), ""),
    }


def _variant(variant: dict[str, Any], quantity: Any = None) -> dict[str, Any]:
    product = mapping(variant.get("product"))
    return line(
        _id(product.get("id")),
        name=product.get("title"),
        brand=product.get("vendor"),
        category=product.get("type"),
        price=mapping(variant.get("price")).get("amount"),
        quantity=quantity,
    )


def _id(*values: Any) -> str:
    """Return the first id that is stated, of a global id its last part.

    >>> _id(None, "gid://shopify/OrderIdentity/17?x=1"), _id(17)
    ('17', '17')
    """
    text = id_of(*values)
    return text.partition("?")[0].rpartition("/")[2] if text.startswith("gid://") else text


def webhook(request: Request) -> list[list[Made]]:
    """Return what is made of a webhook's order, refund or product; other topics are unused. Raises BadBody."""
    topic = request.query.get("topic", "")
    if not topic:
        raise BadBody("schema", "wanted the topic of a webhook, found none")
    body, digest = object_of(json_of(request.body), "an object"), digest_of(request.body)
    return made_of([body], lambda _, entry: [_resource(request, topic, entry, digest)])


def _resource(request: Request, topic: str, found: dict[str, Any], digest: str) -> Made:
    number = _id(found.get("id"))
    if topic in _PURCHASES:
        return _order_event(request, found, digest, "purchase", number, found.get("created_at"), _order(found))
    if topic == "orders/cancelled":
        return _order_event(request, found, digest, "refund", number, found.get("cancelled_at"), {})
    if topic == "refunds/create":
        refund, order = _refund(found), _id(found.get("order_id"))
        if not refund["items"]:
            return Unused("a refund of no items")
        return _order_event(request, found, digest, "refund", order, found.get("created_at"), refund)
    if topic not in _PRODUCTS and topic != "products/delete":
        return Unused(topic[:100])
    if not number:
        return Refused("key_missing", "wanted the product's id, found none")
    return MadeItem(number, _product(number, found) if topic in _PRODUCTS else None)


def _order_event(
    request: Request, found: dict[str, Any], digest: str, type_: EventType, order: str, stated: Any,
    data: dict[str, Any],
) -> Made:  # fmt: skip
    if not order:
        return Refused("schema", "wanted the order's id, found none")
    if found.get("test") is True:
        return Unused("a test order")
    stated_ms = time_ms_of(stated, "created_at or cancelled_at")
    time_ms = request.received_ms if stated_ms is None else stated_ms
    return event(
        request, WEBHOOK_FEED, type_, id_=id_of(request.query.get("webhook_id")) or f"{digest}-{time_ms}",
        shopper=_id(mapping(found.get("customer")).get("id")) or f"order:{order}", time_ms=time_ms,
        data={**data, "transaction_id": order},
    )  # fmt: skip


def _order(order: dict[str, Any]) -> dict[str, Any]:
    codes = [words_of(one.get("code")) for one in objects(order.get("discount_codes"))]
    return {
        "items": [_order_line(one, one.get("quantity")) for one in objects(order.get("line_items"))],
        "currency": currency_of(order.get("currency")),
        "value": amount_of(order.get("total_price")),
        "coupon": next(iter(codes), ""),
    }


def _refund(refund: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a refund; without items if it is one of shipping or of an amount, which takes nothing back."""
    returned = [one for one in objects(refund.get("refund_line_items")) if number_of(one.get("quantity"))]
    back = [one for one in objects(refund.get("transactions")) if one.get("kind") == "refund"]
    return {
        "items": [_order_line(mapping(one.get("line_item")), one.get("quantity")) for one in returned],
        "currency": currency_of(*(one.get("currency") for one in back)),
        "value": amount_of(sum(number_of(one.get("amount")) or 0.0 for one in back)) if back else None,
    }


def _order_line(found: dict[str, Any], quantity: Any) -> dict[str, Any]:
    return line(
        _id(found.get("product_id")),
        name=found.get("title"),
        brand=found.get("vendor"),
        price=found.get("price"),
        quantity=quantity,
    )


def _product(number: str, product: dict[str, Any]) -> dict[str, Any]:
    """Return an item's document: its price is the lowest of its variants', in the shop's currency.

    A product that is a draft, archived or not published is retired. It is out of stock if no variant can be bought: an
    untracked variant always can, and one whose tracking is not stated counts as tracked. Its quantity is that of all
    variants, if each has one and none is sold without.
    """
    variants = objects(product.get("variants"))
    prices = [price for one in variants if (price := number_of(one.get("price"))) is not None and price >= 0]
    image = mapping(product.get("image")) or next(iter(objects(product.get("images"))), {})
    hidden = words_of(product.get("status")) in ("draft", "archived")
    levels = [_level(one) for one in variants]
    document = {
        "id": number,
        "title": words_of(product.get("title")),
        "brand": words_of(product.get("vendor")),
        "product_type": words_of(product.get("product_type")),
        "price": min(prices, default=None),
        "availability": ("in_stock" if any(map(_can_be_bought, variants)) else "out_of_stock") if variants else "",
        "image_link": words_of(image.get("src"), 2_000),
        "retired": True if hidden or product.get("published_at", "") is None else None,
        "quantity": sum(level or 0 for level in levels) if levels and None not in levels else None,
    }
    return {name: value for name, value in document.items() if value is not None and value != ""}


def _level(variant: dict[str, Any]) -> float | None:
    """Return how many pieces of a variant are on hand; None if that does not limit what is sold, or is not known."""
    untracked = "inventory_management" in variant and not variant["inventory_management"]
    left = number_of(variant.get("inventory_quantity"))
    return None if untracked or variant.get("inventory_policy") == "continue" or left is None else max(left, 0.0)


def _can_be_bought(variant: dict[str, Any]) -> bool:
    return _level(variant) != 0.0
