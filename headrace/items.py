"""Items: what a shop states of an item it sells, decoded and validated in one pass.

A record of the topic `items` states the whole item and replaces the record before. Its key is the item's id, its value
one JSON document whose fields have Google Merchant's names. An empty value says that the item is no longer sold.
`decode` returns an `ItemRecord` or a `Rejection` and never raises, whatever the bytes are. Unknown fields are ignored,
and null means that a field is absent. Every field that is read has a limit. Values as feeds write them are understood
(`12,50 EUR`, `https://schema.org/OutOfStock`). A field other than `id` that cannot be used counts as absent, so that it
does not keep an item from being out of stock or retired; `ignored` names such fields. `docs/item.schema.json` is
generated from these types: it admits exactly the documents that `decode` does not reject, apart from what depends on
the record.

An item may state how many pieces are on hand, when it is sold for less, and how it is bought from its supplier. A
quantity of 0 means out of stock, unless the item can be ordered before it comes (`preorder`, `backorder`).

Source: Google Merchant Center help, "Product data specification"; schema.org, "ItemAvailability".
`quantity` has the name of Google's local inventory feed; the fields of the supply are our own.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from headrace.events import Id, Name, Price, Rejection, id_in_key
from headrace.log.protocol import RECORD_BYTES_MAX, Record

currencies_max: Final = 32
"""Maximum number of currencies in which one item has a price."""
FOREVER_MS: Final = 2**53
"""The end of a sale that states none, in ms since 1970; it is exact in every program that reads JSON."""
SHOPS_OWN: Final = ""
"""Stands for the shop's currency in the prices of an item, if the record names none."""

PriceText = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?( [A-Za-z]{3})?$(?!\n)")]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Quantity = Annotated[float, Meta(ge=0, le=1e9)]
Days = Annotated[float, Meta(ge=0, le=3_650)]
CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Za-z]{3}$(?!\n)")]
Link = Annotated[str, Meta(max_length=2_000)]
ItemReason = Literal[
    "key_missing", "key_invalid", "key_mismatch", "too_large", "schema", "not_json", "bad_utf8", "too_deep"
]  # fmt: skip
"""Why a record of an item cannot be used: some of the reasons of events."""
Availability = Literal["in_stock", "out_of_stock", "preorder", "backorder", "in stock", "out of stock"]

_TEXTS: Final = {
    "title": 500, "brand": 500, "product_type": 500, "image_link": None, "link": None, "item_group_id": None,
    "gtin": None, "external_seller_id": None,
}  # fmt: skip
"""Fields in which a number counts as text, and the length at which names are cut. Longer ids and links are unusable."""
_AMOUNTS: Final = frozenset({"price", "cost_of_goods_sold", "sale_price"})
_NUMBERS: Final = frozenset(
    {"quantity", "on_order", "lead_time_days", "lead_time_spread_days", "pack_size", "minimum_order", "shelf_life_days"}
)
"""Fields in which a text of digits counts as the number, as feeds write it."""
_AVAILABILITIES: Final[Mapping[str, Availability]] = {
    "instock": "in_stock", "available": "in_stock", "limitedavailability": "in_stock", "onlineonly": "in_stock",
    "outofstock": "out_of_stock", "soldout": "out_of_stock", "discontinued": "out_of_stock",
    "unavailable": "out_of_stock", "notavailable": "out_of_stock", "reserved": "out_of_stock",
    "instoreonly": "out_of_stock", "preorder": "preorder", "presale": "preorder", "backorder": "backorder",
    "madetoorder": "backorder",
}  # fmt: skip
"""What the words of feeds and of schema.org mean for a buyer online, in lower case and without blanks and marks."""
_SYMBOLS: Final = {"€": "EUR", "£": "GBP", "₹": "INR", "₺": "TRY", "zł": "PLN", "$": "", "¥": ""}
"""Currencies by their symbols; those of several currencies need the field `currency`."""
_AMOUNT: Final = r"[0-9](?:[0-9.,'\u2019 \u00a0\u202f]*[0-9])?"
_UNIT: Final = "[A-Za-z]{3}|" + "|".join(map(re.escape, _SYMBOLS))
_WRITTEN: Final = re.compile(rf"(?P<before>{_UNIT})?\s*(?P<amount>{_AMOUNT})\s*(?P<after>{_UNIT})?")
_GROUPED: Final = re.compile(r"([0-9]{1,3})((?:[.,'\u2019 \u00a0\u202f][0-9]{3})+)((?:[.,][0-9]{1,6})?)")
_PERIOD: Final = "sale_price_effective_date"
_RETIRED: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ItemDocument(Struct):
    """The value of a record. A price may be a number in `currency`, a text such as "12.50 EUR", or one by currency."""

    id: Id | None = None
    title: Name | None = None
    brand: Name | None = None
    product_type: Name | None = None
    price: Price | PriceText | Annotated[dict[CurrencyCode, Price], Meta(max_length=currencies_max)] | None = None
    cost_of_goods_sold: Price | PriceText | None = None  # not by currency: two such fields crash msgspec 0.22 at exit
    external_seller_id: Annotated[str, Meta(max_length=50)] | None = None
    currency: CurrencyCode | None = None
    availability: Availability | None = None
    image_link: Link | None = None
    link: Link | None = None
    item_group_id: Annotated[str, Meta(max_length=128)] | None = None
    gtin: Annotated[str, Meta(max_length=50)] | None = None
    retired: bool | None = None
    quantity: Quantity | None = None
    sale_price: Price | PriceText | None = None
    sale_price_effective_date: Annotated[str, Meta(max_length=100)] | None = None
    lead_time_days: Days | None = None
    lead_time_spread_days: Days | None = None
    pack_size: Count | None = None
    minimum_order: Count | None = None
    shelf_life_days: Annotated[float, Meta(gt=0, le=3_650)] | None = None
    on_order: Quantity | None = None


class ItemRecord(Struct, frozen=True):
    """What a shop states of an item. Texts are "" where it states none.

    `prices` and `costs` (what the shop pays for one) are by currency in capitals. `available` is whether the item can
    be bought: it is neither out of stock nor retired. `retired` is whether the shop no longer sells it. `seller` is
    which of a marketplace's sellers offers it.

    `quantity` is how many pieces were on hand when the record was written, None if that is not stated;
    `on_order` how many have been ordered from the supplier and have not arrived. From
    `sale_from_ms` until before `sale_until_ms` the price is one of `sale_prices`, if there are any. Of the supply:
    `lead_time_days` pass from an order until it arrives, with the standard deviation `lead_time_spread_days`; orders
    are multiples of `pack_size` and of at least `minimum_order` pieces; a piece can be sold for `shelf_life_days`.
    None of these: it is not stated.
    """

    id: str
    title: str = ""
    brand: str = ""
    category: str = ""
    prices: Mapping[str, float] = {}
    available: bool = True
    retired: bool = False
    link: str = ""
    image_link: str = ""
    seller: str = ""
    costs: Mapping[str, float] = {}
    quantity: float | None = None
    sale_prices: Mapping[str, float] = {}
    sale_from_ms: int = 0
    sale_until_ms: int = FOREVER_MS
    lead_time_days: float | None = None
    lead_time_spread_days: float | None = None
    pack_size: int = 1
    minimum_order: int = 1
    shelf_life_days: float | None = None
    on_order: float = 0.0

    def on_sale(self, time_ms: int) -> bool:
        """Return whether the item is sold at its sale price at a time."""
        return bool(self.sale_prices) and self.sale_from_ms <= time_ms < self.sale_until_ms

    def prices_at(self, time_ms: int) -> Mapping[str, float]:
        """Return the prices at a time, by currency.

        >>> boots = ItemRecord("boots", prices={"EUR": 50.0}, sale_prices={"EUR": 40.0}, sale_from_ms=5)
        >>> boots.prices_at(4), boots.prices_at(5)
        ({'EUR': 50.0}, {'EUR': 40.0})
        """
        return self.sale_prices if self.on_sale(time_ms) else self.prices


_decode = msgspec.json.Decoder(ItemDocument).decode


def decode(record: Record) -> ItemRecord | Rejection:
    """Return what a record states of an item, or the reason why it cannot be used."""
    value, key = record.value, record.key
    if not key:
        return Rejection("key_missing", "wanted the item's id as the record's key, found none")
    try:
        item = id_in_key(key.decode())
        if isinstance(item, Rejection):
            return item
        if not value:
            return ItemRecord(item, available=False, retired=True)
        if len(value) > RECORD_BYTES_MAX:
            return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
        document, _ = _document(value)
    except msgspec.ValidationError as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")
    if document.id not in (None, item):
        return Rejection("key_mismatch", f"wanted id to equal the key {item!r}, found {document.id!r}")
    retired = bool(document.retired)
    sold_out = document.quantity == 0 and document.availability not in ("preorder", "backorder")
    sale = _period(document.sale_price_effective_date)
    assert sale is not None, "a period that cannot be read counts as absent"
    return ItemRecord(
        item, document.title or "", document.brand or "", document.product_type or "",
        _amounts(document.price, document.currency),
        not retired and not sold_out and document.availability not in ("out_of_stock", "out of stock"), retired,
        document.link or "", document.image_link or "", document.external_seller_id or "",
        _amounts(document.cost_of_goods_sold, document.currency), document.quantity,
        _amounts(document.sale_price, document.currency), *sale,
        document.lead_time_days, document.lead_time_spread_days, document.pack_size or 1, document.minimum_order or 1,
        document.shelf_life_days, document.on_order or 0.0,
    )  # fmt: skip


def ignored(value: bytes) -> list[str]:
    """Return of a document that `decode` accepts which fields count as absent as they cannot be used, and why.

    >>> ignored(b'{"title": "Boots", "price": "cheap", "availability": "sold_out"}')
    ['price: wanted another value, found "cheap"']
    """
    return _document(value)[1] if value else []


def _document(value: bytes) -> tuple[ItemDocument, list[str]]:
    """Return a document's usable fields, and what was wrong with the others.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is no document, or its id is unusable.
    """
    document, faults = _usable(value)
    period = document.sale_price_effective_date
    if _period(period) is None:
        text = msgspec.json.encode(period).decode()
        faults.append(f"{_PERIOD}: wanted the times of a sale, start/end, in ISO 8601, found {text}"[:300])
        document.sale_price_effective_date = None
    if faults and any(fault.startswith(_PERIOD) for fault in faults):
        document.sale_price = None  # nobody knows when such a sale starts and ends
    return document, faults


def _usable(value: bytes) -> tuple[ItemDocument, list[str]]:
    """Return the fields of a document whose types fit, and what was wrong with the others. Raises as `_document`."""
    try:
        return _decode(value), []
    except msgspec.ValidationError as error:
        try:
            found = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise error from None  # of two faults, the one that was met first
        if not isinstance(found, dict):
            raise
    document, faults = ItemDocument(), list[str]()
    for name in document.__struct_fields__:
        usable = _normalised(name, found.get(name), found.get("currency"))
        try:
            setattr(document, name, getattr(msgspec.convert({name: usable}, ItemDocument), name))
        except msgspec.ValidationError:
            if name == "id":
                raise
            text = msgspec.json.encode(found[name]).decode()
            faults.append(f"{name}: wanted another value, found {text}"[:300])
    return document, faults


def _normalised(name: str, value: Any, currency: Any) -> Any:
    """Return a field's value as `ItemDocument` has it, if it is known what is meant, else as it is."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _TEXTS:
        text = str(int(value) if value == value // 1 else value) if number else value
        return text[: _TEXTS[name]] if isinstance(text, str) else text
    if name != "id" and isinstance(value, str) and not value.strip():
        return None
    if name == "retired" and (number or isinstance(value, str)):
        return _RETIRED.get(str(value).strip().lower(), value)
    if name == "availability" and isinstance(value, str):
        word = re.sub(r"^https?://schema\.org/", "", value.strip().lower())
        return _AVAILABILITIES.get(re.sub(r"[\s_-]", "", word), value)
    if name in _NUMBERS and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}(\.[0-9]{1,6})?", value.strip()):
        value = float(value)
        number = True
    if name in _NUMBERS and number:
        whole = isinstance(value, float) and value.is_integer()
        value = int(value) if whole else value
        # Shops whose software sells more than there is write less than nothing.
        return max(value, 0) if name == "quantity" else value
    if name in _AMOUNTS and isinstance(value, dict) and value.keys() == {"value", "currency"}:
        return _price(f"{value['value']} {value['currency']}", "") or value
    if name in _AMOUNTS and isinstance(value, str):
        return _price(value, currency if isinstance(currency, str) and len(currency) == 3 else "") or value
    return value


def _period(stated: str | None) -> tuple[int, int] | None:
    """Return when a sale starts and ends, in ms since 1970; None if it cannot be read or ends before it starts.

    Without a period, or without one of its ends, it has no bound there. A time without a zone is in UTC.

    >>> _period("1970-01-02T00:00+0000/1970-01-03T01:00+0100"), _period("1970-01-02/") == (86400000, FOREVER_MS)
    ((86400000, 172800000), True)
    >>> _period("next week"), _period("1970-01-03/1970-01-02")
    (None, None)
    """
    if not stated or not stated.strip():
        return 0, FOREVER_MS
    start, between, end = stated.partition("/")
    if not between:
        return None
    try:
        from_ms, until_ms = _time_ms(start.strip(), 0), _time_ms(end.strip(), FOREVER_MS)
    except (ValueError, OverflowError):
        return None
    return (from_ms, until_ms) if from_ms < until_ms else None


def _time_ms(text: str, without: int) -> int:
    """Return a time in ms since 1970. Raises ValueError or OverflowError."""
    if not text:
        return without
    found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1_000)


def _price(text: str, currency: str) -> str:
    """Return a price as `PriceText` has it; empty if it is not clear which amount or currency is meant.

    >>> [_price(text, "") for text in ("12,50 EUR", "€12.50", "1,299.00 USD", "1.299,00 €", "1,299,000 JPY")]
    ['12.50 EUR', '12.50 EUR', '1299.00 USD', '1299.00 EUR', '1299000 JPY']
    >>> [_price(text, "") for text in ("1,299 USD", "$5", "EUR 5 USD", "12 50")], _price("$5", "CAD")
    (['', '', '', ''], '5')
    """
    match = _WRITTEN.fullmatch(text.strip())
    if match is None or (match["before"] and match["after"]):
        return ""
    unit = match["before"] or match["after"] or ""
    named = _SYMBOLS.get(unit, unit)
    amount = _amount(match["amount"])
    if not amount or (unit and not named and not currency):
        return ""
    return f"{amount} {named}".strip()


def _amount(text: str) -> str:
    """Return an amount with a point and without marks of thousands; empty if it can be read in two ways, or in none."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return text
    if re.fullmatch(r"[0-9]+,[0-9]{1,2}", text):
        return text.replace(",", ".")
    match = _GROUPED.fullmatch(text)
    if match is None:
        return ""
    whole, groups, rest = match.groups()
    marks = set(re.sub("[0-9]", "", groups))
    if len(marks) != 1 or rest[:1] in marks or (not rest and len(groups) == 4 and marks & {",", "."}):
        return ""
    return whole + re.sub("[^0-9]", "", groups) + rest.replace(",", ".")


def _amounts(stated: float | str | dict[str, float] | None, field: str | None) -> dict[str, float]:
    """Return amounts by currency. A currency in the text of an amount counts more than the field."""
    currency = field or SHOPS_OWN
    if stated is None:
        return {}
    if isinstance(stated, dict):
        return {name.upper(): amount for name, amount in stated.items()}
    if isinstance(stated, str):
        amount, _, named = stated.partition(" ")
        return {(named or currency).upper(): float(amount)}
    return {currency.upper(): stated}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an item's document."""
    schema = msgspec.json.schema(ItemDocument)
    properties = schema["$defs"]["ItemDocument"]["properties"]
    for name in properties.keys() - {"id"}:
        properties[name]["anyOf"].append({"description": "Anything else counts as absent, unless it is understood."})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headrace item", **schema}


def reference() -> str:
    """Return the content of docs/item.schema.json."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"
