"""GA4's BigQuery export as JSON lines: one row of `events_YYYYMMDD` per line.

Columns that are read: event_name; event_timestamp (microseconds, as a number or a text, or a time such as `2026-03-01
10:00:00 UTC`); user_id, else user_pseudo_id; event_params (`ga_session_id`, `search_term`, `item_list_id`, `currency`,
`value`, `transaction_id`, `coupon`, `promotion_id`); items; ecommerce (transaction_id, purchase_revenue, refund_value);
device.category; geo.country.
`(not set)` and `(other)` are missing values. A line that cannot be used costs itself, an unusable value that the event
can do without costs the value (both are counted as rejected). Left out are events of other names (`page_view`,
`scroll`, …: "event_type"), items without an id ("item") and events that need items and have none but such
("items_missing"). A session is named by the device and its number, because the number is the second in which it began.

Source: Google Analytics Help, [GA4] BigQuery Export schema, https://support.google.com/analytics/answer/7029846.
"""

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, Final, final

import msgspec
from msgspec import Struct

from headrace.events import NEEDS_ITEMS, Data, Item, items_max
from headrace.log.protocol import decode_json
from producers.file import FileReader, Source, first_lines
from producers.mapping import EVENT_TYPES
from producers.sequence import NumberedRecord
from producers.times import number_ms, text_ms
from producers.values import Unusable, as_number, as_text, is_missing

RENAMED: Final[dict[str, str]] = {"view_search_results": "search"}
"""Names that differ from those of events."""


class _Row(Struct):
    event_name: str
    event_timestamp: str | int | float
    user_pseudo_id: Any = None
    user_id: Any = None
    event_params: Any = None
    items: Any = None
    ecommerce: Any = None
    device: Any = None
    geo: Any = None


class _Recognised(Struct):
    event_name: str
    event_timestamp: str | int | float


_decoder = msgspec.json.Decoder(_Row)


@final
class Ga4Export(FileReader):
    """Reads a plain or gzipped file, one line at a time."""

    source = Source("ga4_export")
    description = 'GA4\'s BigQuery export as JSON lines (plain or .gz), {"event_name":…,"event_timestamp":…,…}'

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any(decode_json(line, _Recognised) is not None for line in first_lines(path))

    def _records(self) -> Iterator[NumberedRecord]:
        for number, line in self._lines():
            if (document := line.strip()) and (record := self._record(number, document)) is not None:
                yield record

    def _record(self, number: int, document: bytes) -> NumberedRecord | None:
        where, digest = f"line {number}", self._digest.add(document)
        try:
            row = _decoded(document)
            type_ = RENAMED.get(row.event_name, row.event_name)
            if type_ not in EVENT_TYPES:
                self.left_out["event_type"] += 1
                return None
            time_ms, shopper = _time_ms(row), _text(row.user_id) or _text(row.user_pseudo_id)
            if not shopper:
                raise Unusable("key_missing", "wanted user_id or user_pseudo_id, found neither")
            data = self._data(row, type_, where)
            if data is None:
                self.left_out["items_missing"] += 1
                return None
        except Unusable as problem:
            self._reject(problem.reason, where, problem.detail)
            return None
        return self._event(number, digest, EVENT_TYPES[type_], time_ms, shopper, data, where)

    def _data(self, row: _Row, type_: str, where: str) -> Data | None:
        """Return the data of an event; None if it needs items and its lines name none.

        Raises:
            Unusable: it needs items, and no line can be used.
        """
        parameters, order = _parameters(row.event_params), row.ecommerce if isinstance(row.ecommerce, dict) else {}
        items, faults, found = list[Item](), list[Unusable](), _entries(row.items)[:items_max]
        for line in found:
            try:
                item = _item(line)
            except Unusable as fault:
                faults.append(fault)
                continue
            if item is not None:
                items.append(item)
        if unnamed := len(found) - len(items) - len(faults):
            self.left_out["item"] += unnamed
        if found and not items and type_ in NEEDS_ITEMS:
            if faults:
                raise faults[0]
            return None
        revenue = order.get("refund_value") if row.event_name == "refund" else order.get("purchase_revenue")
        value = None
        try:
            value = _number(parameters.get("value") if is_missing(revenue) else revenue)
        except Unusable as fault:
            faults.append(fault)
        for one in faults:
            self._reject(one.reason, where, one.detail)
        session = _text(parameters.get("ga_session_id"))
        return Data(
            items=items,
            session_id=f"{_text(row.user_pseudo_id)}.{session}"[-128:] if session else "",
            currency=_text(parameters.get("currency")),
            value=value,
            transaction_id=_text(order.get("transaction_id")) or _text(parameters.get("transaction_id")),
            coupon=_text(parameters.get("coupon"), 500),
            search_term=_text(parameters.get("search_term"), 500),
            item_list_id=_text(parameters.get("item_list_id"), 500),
            promotion_id=_text(parameters.get("promotion_id"), 500),
            device=_text(row.device.get("category"), 500) if isinstance(row.device, dict) else "",
            country=_text(row.geo.get("country"), 500) if isinstance(row.geo, dict) else "",
        )


def _decoded(document: bytes) -> _Row:
    try:
        return _decoder.decode(document)
    except msgspec.ValidationError as error:
        raise Unusable("schema", str(error)[:300]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable("not_json", str(error)[:300] or "nested too deeply") from None


def _time_ms(row: _Row) -> int:
    stated = row.event_timestamp
    try:
        if isinstance(stated, str) and ":" in stated:
            return text_ms(stated, "month-first", UTC)
        return number_ms(stated, "us")
    except (ValueError, OverflowError):
        found = repr(stated)[:100]
        raise Unusable("time", f"wanted event_timestamp in microseconds, found {found}") from None


def _entries(found: Any) -> list[Any]:
    """Return what a repeated column holds; none if it is of another form."""
    return found if isinstance(found, list) else []


def _parameters(found: Any) -> dict[str, Any]:
    """Return the values of `event_params` by key; each is in the field of its type."""
    values: dict[str, Any] = {}
    for one in _entries(found):
        if not isinstance(one, dict):
            continue
        value = one.get("value")
        if isinstance(value, dict):
            value = next((field for field in value.values() if not is_missing(field)), None)
        values[str(one.get("key"))] = value
    return values


def _text(value: Any, longest: int | None = None) -> str:
    return "" if is_missing(value) or isinstance(value, (dict, list)) else as_text(value)[:longest]


def _number(value: Any) -> float | None:
    if is_missing(value) or isinstance(value, (dict, list)):
        return None
    try:
        return as_number(value)
    except ValueError:
        raise Unusable("number", f"wanted a number, found {as_text(value)[:100]!r}") from None


def _item(found: Any) -> Item | None:
    """Return the item of a line; None if it has no id. Raises Unusable."""
    if not isinstance(found, dict):
        raise Unusable("schema", f"wanted an item in braces, found {str(found)[:100]}")
    if not (id_ := _text(found.get("item_id"))):
        return None
    item = Item(
        id_,
        _text(found.get("item_name"), 500),
        _text(found.get("item_brand"), 500),
        _text(found.get("item_category"), 500),
        price=_number(found.get("price")),
        item_list_id=_text(found.get("item_list_id"), 500),
    )
    index, quantity = _number(found.get("item_list_index")), _number(found.get("quantity"))
    if index is not None and index >= 0:
        item.index = int(index)
    if quantity:
        item = msgspec.structs.replace(item, quantity=int(quantity) if quantity.is_integer() else quantity)
    return item
