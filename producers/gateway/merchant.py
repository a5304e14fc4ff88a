"""Items with the names of Google Merchant: those of feeds, of the Content API and of the Merchant API.

Feeds write `image_link`, the APIs `imageLink`; the Merchant API nests what it states in `productAttributes` (in its
beta release `attributes`), and writes prices in millionths. What items do not have (`headrace.items`) is left out. The
price is the sale price while the sale lasts, by the clock of the arrival; the sale is stated besides, because one that
is to come says what will sell.

Source: Google Merchant Center help, "Product data specification"; Google for Developers, "Content API for Shopping:
Products" and "Merchant API: ProductInput", https://developers.google.com/merchant/api/reference/rest.
"""

from typing import Any, Final

from producers.gateway.fields import (
    currency_of,
    entries_of,
    id_of,
    json_of,
    made_of,
    mapping,
    number_of,
    object_of,
    time_ms_of,
)
from producers.gateway.made import BadBody, Made, MadeItem, Refused, Request
from producers.values import Unusable

NAMES: Final = {
    "title": ("title",),
    "brand": ("brand",),
    "product_type": ("product_type", "product_types", "google_product_category"),
    "availability": ("availability",),
    "image_link": ("image_link",),
    "link": ("link",),
    "item_group_id": ("item_group_id",),
    "gtin": ("gtin", "gtins"),
    "currency": ("currency",),
    "retired": ("retired",),
    "external_seller_id": ("external_seller_id",),
    "quantity": ("quantity",),
    "lead_time_days": ("lead_time_days",),
    "lead_time_spread_days": ("lead_time_spread_days",),
    "pack_size": ("pack_size",),
    "minimum_order": ("minimum_order",),
    "shelf_life_days": ("shelf_life_days",),
    "on_order": ("on_order",),
}
"""For each field of an item but its id, prices and cost, what it may be called, the first that is stated; of an array,
its first element. The APIs write each name in camel case."""


def one(request: Request) -> list[list[Made]]:
    """Return the item of `PUT /v1/items/{id}`, whose id is `query["id"]`. Raises BadBody."""
    entry, item = object_of(json_of(request.body), "an item as an object"), request.query.get("id", "")
    return made_of([entry], lambda _, entry: [_item(request, entry, item)])


def many(request: Request) -> list[list[Made]]:
    """Return the items of an array, of `items` of an object, or of JSON lines. Raises BadBody.

    A line that is no JSON is refused alone.
    """
    return [
        [entry] if isinstance(entry, Refused) else made_of([entry], lambda _, one: [_item(request, one, _id(one))])[0]
        for entry in _entries(request.body)
    ]


def _entries(body: bytes) -> list[Any]:
    try:
        found = json_of(body)
    except BadBody as fault:
        lines = body.splitlines()
        if fault.reason != "not_json" or len(lines) < 2 or not body.lstrip().startswith(b"{"):
            raise
        return [_line(line) for line in entries_of([line for line in lines if line.strip()], "lines")]
    if isinstance(found, dict):
        found = found.get("items", [found])
    return entries_of(found, "items as an array")


def _line(text: bytes) -> Any:
    try:
        return json_of(text)
    except BadBody as fault:
        return Refused(fault.reason, fault.detail)


def _item(request: Request, entry: dict[str, Any], item: str) -> Made:
    if not item:
        return Refused("key_missing", "wanted the item's id as id or offerId, found none")
    stated = {**entry, **mapping(_named(entry, "product_attributes", "attributes"))}
    document = {name: _scalar(_named(stated, *names)) for name, names in NAMES.items()}
    document |= {"id": _id(entry) or None, "price": _price_now(stated, request.received_ms)}
    document["cost_of_goods_sold"] = _price(_named(stated, "cost_of_goods_sold"))
    document["sale_price"] = _price(_named(stated, "sale_price"))
    document["sale_price_effective_date"] = _period(_named(stated, "sale_price_effective_date"))
    return MadeItem(item, {name: value for name, value in document.items() if value is not None})


def _id(entry: dict[str, Any]) -> str:
    """Return an item's id: the APIs' offer id, for their `id` has the channel, language and country, too."""
    return id_of(_named(entry, "offer_id"), entry.get("id"))


def _named(entry: dict[str, Any], *names: str) -> Any:
    """Return the first of some fields that is stated, in snake case or camel case; None if none is."""
    for name in names:
        first, *rest = name.split("_")
        for written in (name, first + "".join(word.capitalize() for word in rest)):
            if entry.get(written) is not None:
                return entry[written]
    return None


def _scalar(value: Any) -> Any:
    """Return a text, number or truth value, of an array the first; None in place of anything else."""
    value = next(iter(value), None) if isinstance(value, list) else value
    return value if isinstance(value, (str, int, float)) else None


def _price_now(stated: dict[str, Any], now_ms: int) -> Any:
    """Return the price that is in effect, in a form of `headrace.items`; None if none is stated."""
    sale = _price(_named(stated, "sale_price"))
    if sale is not None and _lasts(_named(stated, "sale_price_effective_date"), now_ms):
        return sale
    return _price(_named(stated, "price"))


def _price(found: Any) -> Any:
    """Return a price as `headrace.items` has it.

    >>> _price({"amountMicros": "29990000", "currencyCode": "USD"}), _price({"EUR": 5, "note": []}), _price(" ")
    ('29.99 USD', {'EUR': 5}, None)
    """
    if not isinstance(found, dict):
        found = _scalar(found)
        return None if isinstance(found, str) and not found.strip() else found
    micros = number_of(_named(found, "amount_micros"))
    if micros is not None:
        amount = f"{micros / 1_000_000:.6f}".rstrip("0").rstrip(".")
        return f"{amount} {currency_of(_named(found, 'currency_code'))}".strip()
    return {name: amount for name, value in found.items() if (amount := _scalar(value)) is not None} or None


def _period(stated: Any) -> str | None:
    """Return the times of a sale as `headrace.items` has them, `start/end`; None if none are stated."""
    if isinstance(stated, dict):
        ends = (_scalar(_named(stated, name)) for name in ("start_time", "end_time"))
        return "/".join("" if end is None else str(end) for end in ends)
    return stated if isinstance(stated, str) and stated.strip() else None


def _lasts(stated: Any, now_ms: int) -> bool:
    """Return whether a time is in a period: `start/end`, or an interval of the Merchant API; true without a period."""
    if stated is None or stated == "":
        return True
    if isinstance(stated, str):
        start, _, end = (part.strip() for part in stated.partition("/"))
    else:
        start, end = (_named(mapping(stated), name) for name in ("start_time", "end_time"))
    try:
        start_ms, end_ms = time_ms_of(start, "the sale's start"), time_ms_of(end, "the sale's end")
    except Unusable:
        return False
    return (start_ms is None or start_ms <= now_ms) and (end_ms is None or now_ms < end_ms)
