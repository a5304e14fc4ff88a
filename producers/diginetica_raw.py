"""DIGINETICA as published: `train-item-views.csv`, and what lies beside it, as `view_item` and `purchase` events.

Columns, separated by semicolons: sessionId, userId (NA for most), itemId, timeframe (milliseconds since the session
began), eventdate. Beside it: `train-purchases.csv` (sessionId, userId, timeframe, eventdate, ordernumber, itemId),
whose rows of one order are one `purchase`; `products.csv` (itemId, pricelog2: the logarithm of the price to base 2) and
`product-categories.csv` (itemId, categoryId). Names of products are published as numbers and are not used.

The time of day of a session is not published. It is derived from the session's id, so that the sessions of a day are
spread over it; each event is marked `made_up: ["time"]`. A shopper without a userId is `session-SESSION`.

Source: CIKM Cup 2016 Track 2, Personalized e-commerce search challenge (DIGINETICA).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import msgspec

from producers.file import ReadOptions, Source, first_lines
from producers.mapped import Numbered, RowReader
from producers.mapping import EventFields, Format, ItemFields, Mapping, TimeField, TypeField
from producers.table import find_columns, rows
from producers.times import text_ms
from producers.values import Row, as_number, is_missing

VIEWS: Final = ("sessionId", "userId", "itemId", "timeframe", "eventdate")
PURCHASES: Final = (*VIEWS, "ordernumber")
day_share_ms: Final = 20 * 3_600_000
"""The part of a day in which sessions begin."""
MAPPING: Final = Mapping(
    event=EventFields(
        type=TypeField("type"), time=TimeField("time", unit="ms"), shopper="shopper", session_id="session",
        transaction_id="order",
    ),
    item=ItemFields(item_id="item", item_category="category", price="price"),
    group=("session", "order"),
    sort=True,
    made_up=("time",),
)  # fmt: skip


@final
class DigineticaRaw(RowReader):
    """Reads the plain or gzipped file of views, and the files beside it."""

    source = Source("diginetica_raw", frozenset({"clock"}))
    description = "DIGINETICA's train-item-views.csv (plain or .gz), with the columns " + ", ".join(VIEWS)

    def __init__(self, path: Path, options: ReadOptions) -> None:
        super().__init__(path, options)
        self._products: dict[str, Row] | None = None

    @classmethod
    def recognises(cls, path: Path) -> bool:
        lines = first_lines(path)[:2]
        return any(find_columns(line, _named(VIEWS))[0] and not _is_purchases(line) for line in lines)

    @classmethod
    def _read_as(cls, path: Path, options: ReadOptions) -> tuple[Mapping, Format]:
        return MAPPING, "jsonl"

    def _rows(self) -> Iterator[Numbered]:
        for number, (session, user, item, frame, day) in self._table(self._path, VIEWS):
            yield from self._row(number, "view_item", session, user, item, frame, day)
        if (purchases := self._beside("train-purchases.csv")) is not None:
            for number, (session, user, item, frame, day, order) in self._table(purchases, PURCHASES):
                order = f"session-{session}" if is_missing(order) else order
                yield from self._row(number, "purchase", session, user, item, frame, day, order)

    def _row(
        self, number: int, type_: str, session: str, user: str, item: str, frame: str, day: str, order: str = ""
    ) -> Iterator[Numbered]:
        spread = int.from_bytes(hashlib.sha256(session.encode()).digest()[:8], "big") % day_share_ms
        try:
            time_ms = text_ms(day, "month-first", self._options.zone) + spread + int(as_number(frame))
        except (ValueError, OverflowError) as error:
            self._reject("time", f"line {number}", f"wanted an eventdate and a timeframe: {error}")
            return
        shopper = f"session-{session}" if is_missing(user) else user
        row = {"type": type_, "time": time_ms, "shopper": shopper, "session": session, "item": item, "order": order}
        yield Numbered(number, msgspec.json.encode(row))

    def _enrich(self, row: Row) -> None:
        if self._products is None:
            self._products = self._read_products()
        row.update(self._products.get(row["item"], {}))

    def _read_products(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        if (prices := self._beside("products.csv")) is not None:
            for number, (item, logarithm) in self._table(prices, ("itemId", "pricelog2")):
                if not is_missing(logarithm):
                    try:
                        found.setdefault(item, {})["price"] = round(2.0 ** as_number(logarithm), 2)
                    except (ValueError, OverflowError) as error:
                        self._reject("price", f"{prices.name}, line {number}", str(error))
        if (categories := self._beside("product-categories.csv")) is not None:
            for _, (item, category) in self._table(categories, ("itemId", "categoryId")):
                found.setdefault(item, {})["category"] = category
        return found

    def _beside(self, name: str) -> Path | None:
        paths = (self._path.parent / name, self._path.parent / f"{name}.gz")
        return next((path for path in paths if path.is_file()), None)

    def _table(self, path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
        lines = self._lines(None if path == self._path else path)
        return rows(lines, _named(columns), self._reject, where=str(path))


def _named(columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in columns}


def _is_purchases(line: bytes) -> bool:
    return find_columns(line, _named(PURCHASES))[0] is not None
