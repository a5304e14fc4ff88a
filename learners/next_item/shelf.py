"""The shelf: every item that is known, in columns, so that rules and filters hold for many items at once.

It follows from the fold and is no part of it. Only where answers are made is there a shelf; the fold's tables then tell
it which items have changed.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.items import ItemRecord
from learners.desk.family import Desk
from learners.next_item.catalogue import Catalogue
from learners.next_item.history import Facts, History
from learners.next_item.traits import Traits
from learners.stock.family import StockFamily

changed_max: Final = 10_000
"""Most changed items that wait to be looked at."""
never_ms: Final = np.iinfo(np.int64).max
_NOTHING: Final = Facts()


class Product(NamedTuple):
    """What answers tell of an item. It is another object as soon as any of it has changed.

    `currency` is that of the price, "" without one.
    """

    facts: Facts
    currency: str
    link: str
    image_link: str


class Names:
    """Numbers for the names of brands, sellers or categories. They are made anew when most are no longer in use."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of a name."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = len(self.names)
            self.names.append(name)
        return found

    def __len__(self) -> int:
        return len(self.names)


class Shelf:
    """The items that the catalogue, lines of events or the shop know, one row each.

    What the shop states of an item goes before what lines say of it. Rows are reused; `version` grows with every change
    of a column.

    Args:
        desk: None where the shard has none; then all items are available.
        stock: None where the shard has none; then it is not known how long stock lasts.

    Attributes:
        products: what is known of each item.
        brands, categories, sellers: the names by number.
        begun: how often all rows were given anew.

    Shapes:
        brand, category, seller: (rows,) int32; price, margin, lasts: (rows,) float64, NaN if it is not known; present,
        available, stated: (rows,) bool; slot: (rows,) int32, -1 for what is not in the catalogue
    """

    def __init__(
        self,
        catalogue: Catalogue,
        history: History,
        traits: Traits,
        desk: Desk | None,
        stock: StockFamily | None = None,
    ) -> None:
        self._catalogue, self._lines, self._traits, self._desk = catalogue, history.lines, traits, desk
        self._stock = stock
        self._changed: set[str] = set()
        self.version = self.begun = 0
        self._watch()

    def _watch(self) -> None:
        """Be told of changes from now on, and look at everything."""
        self.begun += 1
        self._catalogue.watch = self._lines.watch = self._note
        self._currency = self.currency
        if self._desk:
            self._desk.assortment.watch = self._note
        if self._stock:
            self._stock.watch = self._note
        self.brands, self.categories, self.sellers = Names(), Names(), Names()
        self._rows: dict[str, int] = {}
        self.products: dict[str, Product] = {}
        self._ids, self._ids_changed = list[str](), True
        self._free: list[int] = []
        self.items: list[str] = []
        self._size(0)
        known = dict.fromkeys((*self._catalogue.items(), *self._lines.items()))
        if self._desk:
            known |= dict.fromkeys(self._desk.assortment.items())
        self._look_at(known)

    def _size(self, rows: int) -> None:
        self.brand, self.category, self.seller = (np.zeros(rows, np.int32) for _ in range(3))
        self.price, self.margin, self.lasts = (np.full(rows, np.nan) for _ in range(3))
        self.present, self.available, self.stated = (np.zeros(rows, np.bool_) for _ in range(3))
        self._since_ms = np.full(rows, never_ms, np.int64)
        self.slot, self._of_slot = np.full(rows, -1, np.int32), np.full(rows, -1, np.int32)

    def _note(self, item: str) -> None:
        self._changed.add(item)
        if len(self._changed) >= changed_max:
            self.sync()

    def sync(self) -> None:
        """Look at the items that have changed."""
        if self._currency != self.currency:  # all prices are others
            self._watch()
        if self._changed:
            changed, self._changed = self._changed, set()
            self._look_at(changed)
            if len(self.brands) + len(self.categories) + len(self.sellers) > 3 * len(self._rows) + changed_max:
                self._watch()

    def _look_at(self, items: Iterable[str]) -> None:
        self.version += 1
        gone, found = list[str](), list[str]()
        for item in items:
            (gone if self._unknown(item) else found).append(item)
        for item in gone:  # first, as others may have their slots now
            row = self._rows.pop(item, None)
            if row is not None:
                self._ids_changed = True
                del self.products[item]
                self._place(row, -1)
                self.present[row] = False
                self._free.append(row)
        for item in found:
            self._put(item)

    def _unknown(self, item: str) -> bool:
        stated = self._desk is not None and self._desk.stated(item) is not None
        return not stated and self._catalogue.slot(item) is None and self._lines.of(item) is None

    def _put(self, item: str) -> None:
        row = self._rows.get(item)
        if row is None:
            if self._free:
                row = self._free.pop()
                self.items[row] = item
            else:
                row = len(self.items)
                self.items.append(item)
                if row >= len(self.brand):
                    self._grow(row + 1)
            self._rows[item] = row
            self._ids_changed = True
        stated = self._desk.stated(item) if self._desk else None
        facts = self._facts_of(item, stated)
        self.products[item] = Product(
            facts, "" if facts.price is None else self.currency, stated.link if stated else "",
            stated.image_link if stated else "",
        )  # fmt: skip
        self.brand[row], self.category[row] = self.brands.number(facts.brand), self.categories.number(facts.category)
        self.seller[row] = self.sellers.number(facts.seller)
        self.price[row] = np.nan if facts.price is None else facts.price
        self.margin[row] = np.nan if facts.margin is None else facts.margin
        self.lasts[row] = np.nan if facts.lasts is None else facts.lasts
        self.present[row], self.available[row] = True, facts.available
        self._since_ms[row] = (self._desk and self._desk.assortment.since_ms(item)) or never_ms
        self.stated[row] = self._since_ms[row] < never_ms
        slot = self._catalogue.slot(item)
        self._place(row, -1 if slot is None else slot)

    def _place(self, row: int, slot: int) -> None:
        before = self.slot[row]
        if before >= 0 and self._of_slot[before] == row:
            self._of_slot[before] = -1
        if slot >= len(self._of_slot):
            self._of_slot = np.pad(self._of_slot, (0, max(slot + 1, 1_024)), constant_values=-1)
        if slot >= 0:
            self._of_slot[slot] = row
        self.slot[row] = slot

    def _grow(self, rows: int) -> None:
        more = max(rows, 2 * len(self.brand), 1_024) - len(self.brand)
        for name in ("brand", "category", "seller", "present", "available", "stated"):
            setattr(self, name, np.pad(getattr(self, name), (0, more)))
        for name in ("price", "margin", "lasts"):
            setattr(self, name, np.pad(getattr(self, name), (0, more), constant_values=np.nan))
        self._since_ms = np.pad(self._since_ms, (0, more), constant_values=never_ms)
        self.slot = np.pad(self.slot, (0, more), constant_values=-1)

    def ids(self) -> list[str]:
        """Return the items in the order of their ids. The list is only to be read."""
        if self._ids_changed:
            # Sorting what is mostly in order takes a hundredth of the time of sorting all anew.
            before = [item for item in self._ids if item in self._rows]
            known = set(before)
            self._ids = sorted([*before, *(item for item in self._rows if item not in known)])
            self._ids_changed = False
        return self._ids

    def facts(self, item: str) -> Facts | None:
        """Return what the shop states of an item, before what lines of events said; None if it is not known."""
        found = self.products.get(item)
        return None if found is None else found.facts

    def _facts_of(self, item: str, stated: ItemRecord | None) -> Facts:
        said = self._lines.of(item) or _NOTHING
        lasts = self._stock.lasts(item) if self._stock else None
        if stated is None:
            return said if lasts is None else said._replace(lasts=lasts)
        assert self._desk is not None
        price, cost = self._desk.price(stated), self._desk.cost(stated)
        price = said.price if price is None else price
        return Facts(
            stated.brand or said.brand, stated.category or said.category, price, stated.available,
            stated.title or said.name, stated.seller, None if price is None or cost is None else price - cost,
            lasts,
        )  # fmt: skip

    def stated_of(self, item: str) -> ItemRecord | None:
        """Return what the shop states of an item; None if it states nothing."""
        return self._desk.stated(item) if self._desk else None

    @property
    def currency(self) -> str:
        """The shop's currency, "" as long as it is not known."""
        return self._desk.currency.shop if self._desk else ""

    def row(self, item: str) -> int:
        """Return an item's row, -1 if it is not known."""
        return self._rows.get(item, -1)

    def rows_of(self, slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the rows of slots in use. Shape: as `slots`."""
        return self._of_slot[slots]

    def mask_of(self, items: Iterable[str]) -> NDArray[np.bool_]:
        """Return which rows are of these items. Shape: (rows,)"""
        mask, rows = np.zeros(len(self.brand), np.bool_), self._rows
        mask[[rows[item] for item in items if item in rows]] = True
        return mask

    def named(self, rows: Iterable[int]) -> list[str]:
        """Return the items of rows."""
        items = self.items
        return [items[row] for row in rows]

    def since_ms(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shop times at which items were first stated or viewed; 0 where that is not known. Shape: (N,)"""
        found, slots = self._since_ms[rows], self.slot[rows]
        placed = np.flatnonzero(slots >= 0)
        viewed = self._traits.first_ms(slots[placed])
        found[placed] = np.minimum(found[placed], np.where(viewed < 0, never_ms, viewed))
        return np.where(found == never_ms, 0, found)
