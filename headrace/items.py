"""Items: what a shop states of an item it sells, decoded and validated in one pass.

A record of the topic `items` states the whole item and replaces the record before. Its key is the item's id, its value
one JSON document whose fields have Google Merchant's names. An empty value says that the item is no longer sold.
`decode` returns an `ItemRecord` or a `Rejection` and never raises, whatever the bytes are. Unknown fields are ignored,
and null means that a field is absent. Every field that is read has a limit. Values as feeds write them are understood
(`12,50 EUR`, `https://schema.org/OutOfStock`). A field other than `id` that cannot be used counts as absent, so that it
does not keep an item from being out of stock or retired; `ignored` names such fields. `docs/item.schema.json` is
generated from these types: it admits exactly the documents that `decode` does not reject, apart from what depends on
the record.

Source: Google Merchant Center help, "Product data specification"; schema.org, "ItemAvailability".
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from headrace.events import Id, Name, Price, Rejection, id_in_key
from headrace.log.protocol import RECORD_BYTES_MAX, Record

currencies_max: Final = 32
"""Maximum number of currencies in which one item has a price."""
SHOPS_OWN: Final = ""
"""Stands for the shop's currency in the prices of an item, if the record names none."""

PriceText = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?( [A-Za-z]{3})?$(?!\n)")]
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
_AMOUNTS: Final = frozenset({"price", "cost_of_goods_sold"})
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


class ItemRecord(Struct, frozen=True):
    """What a shop states of an item. Texts are "" where it states none.

    `prices` and `costs` (what the shop pays for one) are by currency in capitals. `available` is whether the item can
    be bought: it is neither out of stock nor retired. `retired` is whether the shop no longer sells it. `seller` is
    which of a marketplace's sellers offers it.
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
    return ItemRecord(
        item, document.title or "", document.brand or "", document.product_type or "",
        _amounts(document.price, document.currency),
        not retired and document.availability not in ("out_of_stock", "out of stock"), retired,
        document.link or "", document.image_link or "", document.external_seller_id or "",
        _amounts(document.cost_of_goods_sold, document.currency),
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
    if name in _AMOUNTS and isinstance(value, dict) and value.keys() == {"value", "currency"}:
        return _price(f"{value['value']} {value['currency']}", "") or value
    if name in _AMOUNTS and isinstance(value, str):
        return _price(value, currency if isinstance(currency, str) and len(currency) == 3 else "") or value
    return value


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
