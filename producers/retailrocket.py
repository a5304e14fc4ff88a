"""RetailRocket's `events.csv`, as `view_item`, `add_to_cart` and `purchase` events.

Columns: timestamp (milliseconds), visitorid, event (view, addtocart, transaction), itemid, transactionid. The rows of a
transaction are one `purchase`. The file is in no order of time, so it is sorted. If `item_properties*.csv` (timestamp,
itemid, property, value; weekly snapshots) lie beside it, an item has the category (`categoryid`) of that time. The
property `available` is not used, and all others are hashed by the publisher.

Source: Retailrocket recommender system dataset, https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset.
"""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from producers.file import ReadOptions, Source, first_lines
from producers.mapped import RowReader
from producers.mapping import EventFields, Format, ItemFields, Mapping, TimeField, TypeField
from producers.table import find_columns, rows
from producers.times import number_ms
from producers.values import Row

CATEGORY: Final = "categoryid"
MAPPING: Final = Mapping(
    event=EventFields(
        type=TypeField("event", {"view": "view_item", "addtocart": "add_to_cart", "transaction": "purchase"}),
        time=TimeField("timestamp", unit="ms"),
        shopper="visitorid",
        transaction_id="transactionid",
    ),
    item=ItemFields(item_id="itemid", item_category=CATEGORY),
    group=("visitorid", "transactionid"),
    sort=True,
)
_EVENTS: Final = {name: (name,) for name in ("timestamp", "visitorid", "event", "itemid", "transactionid")}
_PROPERTIES: Final = {name: (name,) for name in ("timestamp", "itemid", "property", "value")}


@final
class RetailRocket(RowReader):
    """Reads the plain or gzipped file."""

    source = Source("retailrocket")
    description = "RetailRocket's events.csv (plain or .gz), with the columns " + ", ".join(_EVENTS)

    def __init__(self, path: Path, options: ReadOptions) -> None:
        super().__init__(path, options)
        self._columns = tuple(_EVENTS)
        self._categories: dict[str, tuple[list[int], list[str]]] | None = None

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any(find_columns(line, _EVENTS)[0] for line in first_lines(path)[:2])

    @classmethod
    def _read_as(cls, path: Path, options: ReadOptions) -> tuple[Mapping, Format]:
        return MAPPING, "csv"

    def _enrich(self, row: Row) -> None:
        if self._categories is None:
            self._categories = self._read_categories()
        if (found := self._categories.get(row["itemid"])) is not None:
            times, categories = found
            row[CATEGORY] = categories[max(0, bisect_right(times, number_ms(row["timestamp"], "ms")) - 1)]

    def _read_categories(self) -> dict[str, tuple[list[int], list[str]]]:
        """Return each item's categories and since when it has each."""
        changes: dict[str, list[tuple[int, str]]] = {}
        for path in sorted(self._path.parent.glob("item_properties*.csv*")):
            for item, time_ms, category in self._category_rows(path):
                changes.setdefault(item, []).append((time_ms, category))
        found: dict[str, tuple[list[int], list[str]]] = {}
        for item, snapshots in changes.items():
            times, categories = found[item] = [], []
            for time_ms, category in sorted(snapshots):
                if not categories or categories[-1] != category:
                    times.append(time_ms)
                    categories.append(category)
        return found

    def _category_rows(self, path: Path) -> Iterator[tuple[str, int, str]]:
        header, mark = True, CATEGORY.encode()
        lines = self._lines(path)
        wanted = (line for line in lines if header or mark in line[1])  # a tenth of twenty million lines
        for number, (time, item, name, value) in rows(wanted, _PROPERTIES, self._reject, where=str(path)):
            header = False
            if name != CATEGORY:
                continue
            try:
                time_ms = number_ms(time, "ms")
            except (ValueError, OverflowError):
                found = f"wanted a time in milliseconds, found {time[:100]!r}"
                self._reject("row", f"{path.name}, line {number}", found)
                continue
            yield item, time_ms, value
