"""Mapping files: which column of a CSV, Parquet or JSONL file is what in an event.

`docs/publishing.md` has an example.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from headrace.errors import Misconfigured
from headrace.events import EventType
from producers.times import DateOrder, TimeUnit, zone_of

EVENT_TYPES: Final[dict[str, EventType]] = {name: name for name in get_args(EventType)}
"""All event types by their names."""

Format = Literal["csv", "jsonl", "parquet"]
Scalar = str | int | float | bool


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
    device: Where | None = None
    country: Where | None = None


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
            found |= dict.fromkeys(columns_of(one))
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


def _fields(struct: Struct) -> Iterator[Where]:
    for name in struct.__struct_fields__:
        found = getattr(struct, name)
        if name not in ("type", "time") and found is not None:
            yield found


def columns_of(where: Where) -> tuple[str, ...]:
    """Return the columns that a value comes from."""
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
