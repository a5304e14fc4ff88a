"""Segment's HTTP tracking API: the calls `track`, `identify`, `page`, `screen`, `alias`, `group` and `batch`.

`track` takes the names of Segment's e-commerce specification, version 2, and their aliases of version 1, in any case.
The shopper is `userId`, else `anonymousId`. A session is `context.sessionId`, else `anonymousId`; `identify` and
`alias` are logins in that session. Groups, pages, screens and the specification's other events are unused.

A device's clock is corrected as Segment does it: the time is that of the arrival, less what passed on the device
between the call and its sending. A `timestamp` beside an `originalTimestamp` is corrected already. Without `sentAt`,
times are taken as they are stated.

An event's id is its `messageId`; without one, it is a digest of the body with the call's place and time, so that a body
that is delivered twice is recognised if it states times.

Source: Segment documentation, "HTTP API Source", "Spec: Common Fields" (timestamps), "Spec: V2 Ecommerce Events",
"Consent on the Profile", https://segment.com/docs/connections/spec/.
"""

from collections.abc import Mapping
from functools import partial
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
    traits_of,
    words_of,
    written_by_shopper,
)
from producers.gateway.made import Adapter, BadBody, Made, MadeTraits, Refused, Request, Unused

FEED: Final = "segment"
body_bytes_max: Final = 512_000
"""Most bytes of a body that has its key in itself. Source: Segment documentation, "HTTP API Source", limits."""
PURPOSES: Final = {
    "analytics": "analytics", "performance": "analytics", "c0002": "analytics",
    "functional": "personalization", "personalization": "personalization", "preferences": "personalization",
    "c0003": "personalization",
    "advertising": "marketing", "marketing": "marketing", "targeting": "marketing", "c0004": "marketing",
}  # fmt: skip
"""What usual categories of consent permit, by their ids in lower case: OneTrust's begin with C."""
EVENTS: Final[Mapping[str, EventType]] = {
    "products searched": "search",
    "product list viewed": "view_item_list", "viewed product category": "view_item_list",
    "viewed product list": "view_item_list", "product list filtered": "view_item_list",
    "promotion viewed": "view_promotion", "viewed promotion": "view_promotion",
    "promotion clicked": "select_promotion", "clicked promotion": "select_promotion",
    "product clicked": "select_item", "clicked product": "select_item",
    "product viewed": "view_item", "viewed product": "view_item",
    "product added": "add_to_cart", "added product": "add_to_cart",
    "wishlist product added to cart": "add_to_cart",
    "product removed": "remove_from_cart", "removed product": "remove_from_cart",
    "cart viewed": "view_cart", "viewed cart": "view_cart",
    "checkout started": "begin_checkout", "started checkout": "begin_checkout",
    "payment info entered": "add_payment_info", "entered payment info": "add_payment_info",
    "order completed": "purchase", "completed order": "purchase",
    "order updated": "purchase", "updated order": "purchase",
    "order refunded": "refund", "refunded order": "refund",
    "order cancelled": "refund", "cancelled order": "refund",
    "product added to wishlist": "add_to_wishlist",
    "product reviewed": "review",
    "signed in": "login", "signed up": "sign_up",
}  # fmt: skip
"""The type of each event of `track`, by its name in lower case."""
_WHOLE_ORDER: Final = frozenset({"order cancelled", "cancelled order"})
"""A cancelled order is refunded as a whole: its lines may have been refunded in part before."""
_UPDATES: Final = frozenset({"order updated", "updated order"})
_STEPS: Final = frozenset({"checkout step completed", "completed checkout step"})
_UNUSED: Final = frozenset({
    "checkout step viewed", "viewed checkout step", "coupon entered", "coupon applied", "coupon denied",
    "coupon removed", "product removed from wishlist", "product shared", "cart shared", "signed out",
    "segment consent preference updated",
})  # fmt: skip
"""Other events of Segment's specifications, in lower case."""


def _single(call: str, request: Request) -> list[list[Made]]:
    body = object_of(json_of(request.body), "an object")
    return _calls(request, [{**body, "type": call}], {})


def _batch(request: Request) -> list[list[Made]]:
    body = object_of(json_of(request.body), "an object with batch")
    return _calls(request, entries_of(body.get("batch"), "batch as an array"), body)


def _calls(request: Request, calls: list[Any], batch: dict[str, Any]) -> list[list[Made]]:
    digest, common = digest_of(request.body), _context(batch)

    def make(index: int, call: dict[str, Any]) -> list[Made]:
        context, sent = {**common, **_context(call)}, call.get("sentAt") or batch.get("sentAt")
        return _call(request, {**call, "context": context, "sentAt": sent}, f"{digest}-{index}")

    return made_of(calls, make)


def _context(call: dict[str, Any]) -> dict[str, Any]:
    """Return what is read of a context: a batch's is copied for each of its calls."""
    context = mapping(call.get("context"))
    return {name: context[name] for name in ("sessionId", "consent", "device", "location") if name in context}


def write_key(body: bytes) -> str:
    """Return the key that a tracker in a browser writes into a body; empty if there is none."""
    try:
        found = json_of(body)
    except BadBody:
        return ""
    key = found.get("writeKey") if isinstance(found, dict) else None
    return key if isinstance(key, str) else ""


ADAPTERS: Final[Mapping[str, Adapter]] = {
    **{name: partial(_single, call) for call in ("track", "identify", "page", "screen", "alias", "group")
       for name in (call, call[0])},
    "batch": _batch, "b": _batch, "import": _batch,
}  # fmt: skip
"""The adapter of each call, by the last part of its path after `/v1/`; trackers in browsers use the first letter."""


def _call(request: Request, call: dict[str, Any], otherwise_id: str) -> list[Made]:
    kind = words_of(call.get("type")).lower()
    if kind in ("page", "screen", "group"):
        return [Unused(kind)]
    if kind not in ("track", "identify", "alias"):
        return [Refused("schema", f"wanted type as one of Segment's calls, found {kind[:100]!r}")]
    user, guest = id_of(call.get("userId")), id_of(call.get("anonymousId"))
    if kind == "alias":
        previous = id_of(call.get("previousId"))
        guest = guest or previous
        if not user or not previous:
            return [Refused("key_missing", "wanted userId and previousId, found only one or none")]
    if not user and not guest:
        return [Refused("key_missing", "wanted userId or anonymousId, found neither")]
    time_ms = _time_ms(request, call)
    context = mapping(call.get("context"))
    shopper, id_ = user or guest, id_of(call.get("messageId")) or f"{otherwise_id}-{time_ms}"
    consent = granted(mapping(mapping(context.get("consent")).get("categoryPreferences")), PURPOSES)
    common = {
        "session_id": id_of(context.get("sessionId")) or guest, "consent": consent,
        "device": words_of(mapping(context.get("device")).get("type")),
        "country": words_of(mapping(context.get("location")).get("country")),
    }  # fmt: skip

    def made(type_: EventType, data: dict[str, Any]) -> Made:
        return event(request, FEED, type_, id_=id_, shopper=shopper, time_ms=time_ms, data={**data, **common})

    if kind == "track":
        name, properties = words_of(call.get("event")).lower(), mapping(call.get("properties"))
        type_ = _type(name, properties)
        if isinstance(type_, Unused | Refused):
            return [type_]
        if type_ in ("login", "sign_up") and not user:
            return [Unused(f"{name} without userId")]
        return [made(type_, _data(name, properties))]
    entries: list[Made] = [made("login", {})] if user and guest else []
    if traits := traits_of(call.get("traits")):
        entries.append(MadeTraits(shopper, traits, consent))
    return entries or [Unused("identify without traits that are kept")]


def _time_ms(request: Request, call: dict[str, Any]) -> int:
    """Return when a call was made, by our clock as far as possible. Raises Unusable."""
    stated, original, sent = (time_ms_of(call.get(name), name) for name in ("timestamp", "originalTimestamp", "sentAt"))
    if stated is not None and original is not None:
        return stated
    called = stated if original is None else original
    if called is None:
        return request.received_ms
    return called if sent is None else request.received_ms - (sent - called)


def _type(name: str, properties: dict[str, Any]) -> EventType | Unused | Refused:
    """Return the type of an event of `track`, or why there is none."""
    if name in _STEPS:
        if words_of(properties.get("payment_method")):
            return "add_payment_info"
        return "add_shipping_info" if words_of(properties.get("shipping_method")) else Unused(name)
    if name in _UNUSED:
        return Unused(name)
    type_ = EVENTS.get(name)
    if type_ is None:
        return Refused("unknown_event", f"wanted an event of Segment's e-commerce specification, found {name[:100]!r}")
    if name in _UPDATES and not id_of(properties.get("order_id")):
        return Unused(f"{name} without order_id")
    if type_ == "view_item_list" and not _products(properties):
        return Unused(f"{name} without products")
    return type_


def _products(properties: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the products of an event: those of `products`, else the one that its properties state."""
    if isinstance(properties.get("products"), list):
        return objects(properties["products"])
    return [properties] if id_of(properties.get("product_id"), properties.get("sku")) else []


def _data(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    order = id_of(properties.get("order_id"))
    products = [] if order and name in _WHOLE_ORDER else _products(properties)
    return {
        "items": [_line(product) for product in products],
        "currency": currency_of(properties.get("currency")),
        "value": amount_of(*(properties.get(field) for field in ("revenue", "subtotal", "total", "value"))),
        "transaction_id": order,
        "coupon": words_of(properties.get("coupon")),
        "search_term": written_by_shopper(properties.get("query")),
        "item_list_id": words_of(properties.get("list_id")),
        "promotion_id": words_of(properties.get("promotion_id")),
        "recommendation_id": id_of(properties.get("recommendation_id")),
        "rating": number_of(properties.get("rating")),
        "review": written_by_shopper(properties.get("review_body"), 10_000),
    }


def _line(product: dict[str, Any]) -> dict[str, Any]:
    return line(
        id_of(product.get("product_id"), product.get("sku")),
        name=product.get("name"),
        brand=product.get("brand"),
        category=product.get("category"),
        price=product.get("price"),
        quantity=product.get("quantity"),
        index=product.get("position"),
    )
