"""Mapping files: which column of a CSV, Parquet or JSONL file is what in an event.

`docs/publishing.md` has an example.
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct

from headrace.errors import Misconfigured
from headrace.events import NEEDS_ITEMS, Data, EventType, Item
from producers.times import DateOrder, TimeUnit, number_ms, text_ms, zone_of

MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>", "nat", "\\n", "(not set)", "(other)"})
"""What programs write where a value is missing, in lower case; the last two are GA4's."""
EVENT_TYPES: Final[dict[str, EventType]] = {name: name for name in get_args(EventType)}
"""All event types by their names."""

_PLAIN_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d*)?")

Row = dict[str, Any]
Format = Literal["csv", "jsonl", "parquet"]
Scalar = str | int | float | bool


class Unusable(Exception):
    """A row gives no event: the code of the reason, and what was wanted and found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Field(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a value comes from: a column (the first of several that is not empty), or a constant.

    `values` translates a column's values; others stay as they are.
    """

    column: str | tuple[str, ...] | None = None
    value: Scalar | None = None
    values: dict[str, Scalar] = {}


class TimeField(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the time comes from, and how it is written: a `strptime` format, or the unit of a number since 1970.

    Without either, ISO 8601, dates with slashes and numbers are understood. `zone` is that of times that state none.
    Several columns, as of date and time of day, are joined by a blank.
    """

    column: str | tuple[str, ...]
    format: str | None = None
    unit: TimeUnit | None = None
    zone: str | None = None
    date_order: DateOrder | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns."""
        return (self.column,) if isinstance(self.column, str) else self.column


class TypeField(Struct, frozen=True, forbid_unknown_fields=True):
    """The column of the event type; `values` translates it. Rows with any other value are left out."""

    column: str
    values: dict[str, EventType] = {}


class Filter(Struct, frozen=True, forbid_unknown_fields=True, rename={"one_of": "in", "none_of": "not"}):
    """Keeps the rows whose column has this value, one of these, or none of these."""

    column: str
    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    none_of: Scalar | tuple[Scalar, ...] | None = None


Where = str | Field
"""A column, or a table with more about it."""


class ItemFields(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the fields of a line come from."""

    item_id: Where | None = None
    item_name: Where | None = None
    item_brand: Where | None = None
    item_category: Where | None = None
    price: Where | None = None
    quantity: Where | None = None
    index: Where | None = None
    item_list_id: Where | None = None


class EventFields(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the fields of an event come from. As a type, a string is the type itself."""

    type: EventType | TypeField
    time: str | TimeField
    shopper: Where
    session_id: Where | None = None
    currency: Where | None = None
    value: Where | None = None
    transaction_id: Where | None = None
    coupon: Where | None = None
    search_term: Where | None = None
    item_list_id: Where | None = None
    promotion_id: Where | None = None
    recommendation_id: Where | None = None
    rating: Where | None = None
    review: Where | None = None


_TEXTS: Final = (
    "session_id", "currency", "transaction_id", "coupon", "search_term", "item_list_id", "promotion_id",
    "recommendation_id", "review",
)  # fmt: skip
_NUMBERS: Final = ("value", "rating")
_ITEM_TEXTS: Final = ("item_name", "item_brand", "item_category", "item_list_id")
_LONGEST: Final = {"review": 10_000, **dict.fromkeys((*_ITEM_TEXTS, "coupon", "search_term", "promotion_id"), 500)}
"""Longer texts are cut; longer ids are not: they are absent."""


class Mapping(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping file.

    Args:
        format: of the data; by default detected from the content.
        delimiter: of a CSV; by default detected from the header.
        decimal: the mark in its numbers.
        sort: read the whole file and order it by time, for files that are not.
        group: rows that follow each other with the same values here are one event with an item each. If the file is
            sorted, they need not follow each other. A row in which one of these is missing is an event by itself.
        made_up: names of fields that the file does not have, such as `time` where only the order is known.
        filter: rows must pass all.
    """

    event: EventFields
    item: ItemFields = ItemFields()
    format: Format | None = None
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] | None = None
    decimal: Literal[".", ","] = "."
    sort: bool = False
    group: tuple[str, ...] = ()
    made_up: tuple[str, ...] = ()
    filter: tuple[Filter, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that it names, each once."""
        found: dict[str, None] = {}
        event = self.event
        if isinstance(event.type, TypeField):
            found[event.type.column] = None
        found |= dict.fromkeys(self.time.columns)
        for one in (*_fields(event), *_fields(self.item)):
            found |= dict.fromkeys(_columns(one))
        found |= dict.fromkeys((*self.group, *(one.column for one in self.filter)))
        return list(found)

    @property
    def time(self) -> TimeField:
        """Where the time comes from."""
        return self.event.time if isinstance(self.event.time, TimeField) else TimeField(self.event.time)

    @property
    def digest(self) -> str:
        """A digest of its content."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


_PLACES: Final[dict[str, type[Struct]]] = {
    "": Mapping, "event": EventFields, "item": ItemFields, "filter": Filter, "event.time": TimeField,
    "event.type": TypeField,
}  # fmt: skip
"""What a mapping file states where; all other tables are fields."""


class MappedEvent(NamedTuple):
    """What rows give: the parts of one event. `faults` are the places of rows that have an unusable value, and why."""

    type: EventType
    time_ms: int
    shopper: str
    data: Data
    faults: Sequence[tuple[int, Unusable]]


def _fields(struct: Struct) -> Iterator[Where]:
    for name in struct.__struct_fields__:
        found = getattr(struct, name)
        if name not in ("type", "time") and found is not None:
            yield found


def _columns(where: Where) -> tuple[str, ...]:
    column = where if isinstance(where, str) else where.column
    return () if column is None else (column,) if isinstance(column, str) else column


def read_mapping(path: Path) -> Mapping:
    """Return the mapping that a TOML file states.

    Raises:
        Misconfigured: the file is missing, is not TOML, or states something else than a mapping; or it needs more.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Misconfigured(f"mapping {path}: wanted a TOML file, found {error.strerror or error}") from None
    except ValueError as error:  # what tomllib raises, and what is no UTF-8
        raise Misconfigured(f"mapping {path}: wanted a TOML file, found: {error}") from None
    try:
        mapping = msgspec.convert(content, Mapping)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"mapping {path}: {_unknown(str(error))}") from None
    _check(mapping, path)
    return mapping


def _unknown(text: str) -> str:
    """Return a validation error with the names that are known where one is not."""
    if "unknown field" not in text:
        return text
    path = re.search(r"at `\$\.([^`]*)`", text)
    place = re.sub(r"\[.*?\]", "", path[1]) if path else ""
    names = ", ".join(one.encode_name for one in msgspec.structs.fields(_PLACES.get(place, Field)))
    return f"{text}; known are {names}"


def _check(mapping: Mapping, path: Path) -> None:
    for one in (*_fields(mapping.event), *_fields(mapping.item)):
        if isinstance(one, Field) and (one.column is None) == (one.value is None):
            raise Misconfigured(f"mapping {path}: wanted either a column or a value for each field, found {one}")
    for kept in mapping.filter:
        if sum(one is not None for one in (kept.equals, kept.one_of, kept.none_of)) != 1:
            raise Misconfigured(
                f"mapping {path}: filter on {kept.column}: wanted one of equals, in and not, found none or several"
            )
    time = mapping.time
    if time.format is not None and time.unit is not None:
        raise Misconfigured(f"mapping {path}: time: wanted a format or a unit, found both")
    if time.zone is not None:
        zone_of(time.zone)


def is_missing(value: object) -> bool:
    """Return whether a value stands for none.

    >>> [is_missing(value) for value in ("NULL", " ", float("nan"), "(not set)", "0", 0)]
    [True, True, True, True, False, False]
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in MISSING


def as_text(value: object) -> str:
    """Return a value as text; numbers that are whole are written without a fraction.

    >>> as_text(17850.0), as_text(" a "), as_text(True)
    ('17850', 'a', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


def as_number(value: object, decimal: str = ".") -> float:
    """Return a finite number. Raises ValueError.

    A comma is the mark of thousands, unless it is `decimal`, or the only mark and not followed by three digits.

    >>> as_number("1,234.5"), as_number("2,55"), as_number("1.234,5", ","), as_number(2.5, ",")
    (1234.5, 2.55, 1234.5, 2.5)
    """
    text = as_text(value)
    if isinstance(value, str) and (decimal == "," or not _PLAIN_NUMBER.fullmatch(text)):
        text = text.replace("\u00a0", "").replace(" ", "")
        if decimal == "," or ("." not in text and text.count(",") == 1 and len(text.partition(",")[2]) != 3):
            text = text.replace(".", "").replace(",", ".")
        text = text.replace(",", "")
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"wanted a number, found {value}")
    return found


def lookup(row: Row, column: str) -> Any:
    """Return a row's value; in JSON, `a.b` is field b of a. None if there is none.

    >>> lookup({"user": {"id": 7}}, "user.id"), lookup({"user.id": 8}, "user.id"), lookup({}, "x")
    (7, 8, None)
    """
    if column in row:
        return row[column]
    found: Any = row
    for name in column.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


class Mapper:
    """Applies a mapping to rows."""

    def __init__(self, mapping: Mapping, *, zone: tzinfo, order: DateOrder) -> None:
        self._mapping = mapping
        time = mapping.time
        self._zone = zone_of(time.zone) if time.zone else zone
        self._order: DateOrder = time.date_order or order

    def keeps(self, row: Row) -> bool:
        """Return whether a row passes all filters."""
        for one in self._mapping.filter:
            value = lookup(row, one.column)
            text = "" if is_missing(value) else as_text(value)
            if one.equals is not None and text != as_text(one.equals):
                return False
            if one.one_of is not None and text not in map(as_text, one.one_of):
                return False
            if one.none_of is not None:
                unwanted = one.none_of if isinstance(one.none_of, tuple) else (one.none_of,)
                if text in map(as_text, unwanted):
                    return False
        return True

    def group(self, row: Row) -> tuple[str, ...] | None:
        """Return what a row has in common with those of its event; None if it is one by itself, as some is missing."""
        values = [lookup(row, one) for one in self._mapping.group]
        return None if not values or any(map(is_missing, values)) else tuple(map(as_text, values))

    def time(self, row: Row) -> Any:
        """Return a row's time as it is written; None if it is missing."""
        values = [lookup(row, column) for column in self._mapping.time.columns]
        if any(map(is_missing, values)):
            return None
        return values[0] if len(values) == 1 else " ".join(map(as_text, values))

    def time_ms(self, row: Row) -> int:
        """Return a row's time. Raises Unusable."""
        field = self._mapping.time
        names = ", ".join(field.columns)
        if (value := self.time(row)) is None:
            raise Unusable("time_missing", f"wanted a time in {names}, found none")
        try:
            return self._time_ms(value, field)
        except (ValueError, OverflowError, OSError) as error:
            raise Unusable("time", f"wanted a time in {names}, found {as_text(value)[:100]!r}: {error}") from None

    def _time_ms(self, value: Any, field: TimeField) -> int:
        if isinstance(value, (int, float)):
            return number_ms(value, field.unit)
        text = as_text(value)
        if field.unit is not None:
            return number_ms(text, field.unit)
        if field.format is not None:
            found = datetime.strptime(text, field.format)
            return int((found if found.tzinfo else found.replace(tzinfo=self._zone)).timestamp() * 1000)
        if text.replace(".", "", 1).isdigit() and len(text) >= 9:
            return number_ms(text)
        return text_ms(text, self._order, self._zone)

    def event(self, rows: Sequence[Row]) -> MappedEvent | None:
        """Return the event of one row, or of several that are one; None if its type is none of those mapped.

        An unusable value of an item costs the item, one of the event that it can do without costs the value.

        Raises:
            Unusable: a value that it needs is missing or cannot be read.
        """
        mapping, first = self._mapping, rows[0]
        type_ = self._type(first)
        if type_ is None:
            return None
        shopper = self._text(first, mapping.event.shopper)
        if not shopper:
            raise Unusable("key_missing", "wanted the shopper's id, found none")
        data, faults = Data(), list[tuple[int, Unusable]]()
        for place, row in enumerate(rows):
            try:
                item = self._item(row)
            except Unusable as fault:
                faults.append((place, fault))
                continue
            if item is not None:
                data.items.append(item)
        if faults and not data.items and type_ in NEEDS_ITEMS:
            raise faults[0][1]
        for name in _TEXTS:
            if (where := getattr(mapping.event, name)) is not None:
                setattr(data, name, self._text(first, where)[: _LONGEST.get(name)])
        for name in _NUMBERS:
            if (where := getattr(mapping.event, name)) is not None:
                try:
                    setattr(data, name, self._number(first, where))
                except Unusable as fault:
                    faults.append((0, fault))
        data.made_up = list(mapping.made_up)
        return MappedEvent(type_, self.time_ms(first), shopper, data, faults)

    def _type(self, row: Row) -> EventType | None:
        field = self._mapping.event.type
        if not isinstance(field, TypeField):
            return field
        text = as_text(lookup(row, field.column))
        if field.values:
            return field.values.get(text)
        return EVENT_TYPES.get(text)

    def _item(self, row: Row) -> Item | None:
        fields = self._mapping.item
        if fields.item_id is None or not (id_ := self._text(row, fields.item_id)):
            return None
        item = Item(id_)
        for name in _ITEM_TEXTS:
            if (where := getattr(fields, name)) is not None:
                setattr(item, name, self._text(row, where)[: _LONGEST[name]])
        if fields.price is not None:
            item.price = self._number(row, fields.price)
        if fields.quantity is not None and (quantity := self._number(row, fields.quantity)) is not None:
            item = msgspec.structs.replace(item, quantity=int(quantity) if quantity.is_integer() else quantity)
        if fields.index is not None and (index := self._number(row, fields.index)) is not None:
            item.index = int(index)
        return item

    def _value(self, row: Row, where: Where) -> Any:
        """Return a field's value; None if it is missing."""
        if isinstance(where, str):
            value = lookup(row, where)
        elif where.value is not None:
            return where.value
        else:
            found = (lookup(row, column) for column in _columns(where))
            value = next((one for one in found if not is_missing(one)), None)
            if where.values and value is not None:
                value = where.values.get(as_text(value), value)
        return None if is_missing(value) else value

    def _text(self, row: Row, where: Where) -> str:
        value = self._value(row, where)
        return "" if value is None else as_text(value)

    def _number(self, row: Row, where: Where) -> float | None:
        value = self._value(row, where)
        if value is None:
            return None
        try:
            return as_number(value, self._mapping.decimal)
        except ValueError:
            column = ", ".join(_columns(where))
            raise Unusable("number", f"wanted a number in {column}, found {as_text(value)[:100]!r}") from None


def plain(value: Any) -> Any:
    """Return a value of a Parquet file as JSON has it: times in ISO 8601, decimals as text."""
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
