"""Applies a mapping to the rows of a file: events as a shop would send them, or why a row gives none."""

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Any, Final, NamedTuple

import msgspec

from headrace.events import NEEDS_ITEMS, Data, EventType, Item
from producers.mapping import EVENT_TYPES, Mapping, TimeField, TypeField, Where, columns_of
from producers.times import DateOrder, number_ms, text_ms, zone_of
from producers.values import Row, Unusable, as_number, as_text, is_missing, lookup

_TEXTS: Final = (
    "session_id", "currency", "transaction_id", "coupon", "search_term", "item_list_id", "promotion_id",
    "recommendation_id", "review", "device", "country",
)  # fmt: skip
_NUMBERS: Final = ("value", "rating")
_ITEM_TEXTS: Final = ("item_name", "item_brand", "item_category", "item_list_id")
_CUT: Final = (*_ITEM_TEXTS, "coupon", "search_term", "promotion_id", "device", "country")
_LONGEST: Final = {"review": 10_000, **dict.fromkeys(_CUT, 500)}
"""Longer texts are cut; longer ids are not: they are absent."""


class MappedEvent(NamedTuple):
    """What rows give: the parts of one event. `faults` are the places of rows that have an unusable value, and why."""

    type: EventType
    time_ms: int
    shopper: str
    data: Data
    faults: Sequence[tuple[int, Unusable]]


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
            found = (lookup(row, column) for column in columns_of(where))
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
            column = ", ".join(columns_of(where))
            raise Unusable("number", f"wanted a number in {column}, found {as_text(value)[:100]!r}") from None
