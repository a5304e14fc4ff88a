"""The assortment: what the shop states of its items. It completes the lines of events that state less."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from sys import intern
from typing import Any, Self

import numpy as np
from msgspec.structs import astuple, replace

from headrace.events import Event
from headrace.items import FOREVER_MS, ItemRecord
from headrace.state import State
from learners.desk.currency import Currency


class Assortment:
    """The newest record of each item. Bounded: the item goes first whose record changed, or was used, least recently.

    A record that repeats the one before changes nothing, so a shop may state all of its items every day.

    Args:
        items_max: most items.

    Attributes:
        watch: is told each item of which something else is stated now.

    >>> assortment = Assortment(items_max=2)
    >>> boots = ItemRecord("boots", "Red boots", available=False)
    >>> assortment.note(boots, 5), assortment.note(boots, 9), assortment.since_ms("boots")
    (True, False, 5)
    >>> assortment.available("boots"), assortment.available("never-stated")
    (False, True)
    """

    def __init__(self, *, items_max: int) -> None:
        self.items_max = items_max
        self._items: OrderedDict[str, ItemRecord] = OrderedDict()  # least recently changed or used first
        self._since_ms: dict[str, int] = {}
        self.watch: Callable[[str], None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def stated(self, item: str) -> ItemRecord | None:
        """Return what is stated of an item, None if nothing is."""
        return self._items.get(item)

    def stated_of(self, items: Iterable[str]) -> list[ItemRecord | None]:
        """Return what is stated of each of some items, quicker than by `stated`."""
        return list(map(self._items.get, items))

    def since_ms(self, item: str) -> int | None:
        """Return the shop time at which an item was stated first, None if it is not stated."""
        return self._since_ms.get(item)

    def items(self) -> list[str]:
        """Return the items that are stated, the one least recently changed or used first."""
        return list(self._items)

    def note(self, stated: ItemRecord, time_ms: int) -> bool:
        """Note what the shop states of an item; return whether it differs from what was stated before.

        Levels alone, which change with each sale, are noted and do not count as a difference.
        """
        before = self._items.get(stated.id)
        if before == stated:
            return False
        if before is not None and (before.quantity, before.on_order) != (stated.quantity, stated.on_order):
            levelled = replace(before, quantity=stated.quantity, on_order=stated.on_order)
            if levelled == stated:
                self._items[stated.id] = levelled
                self._items.move_to_end(stated.id)
                return False
        self._since_ms.setdefault(stated.id, time_ms)
        self._items[stated.id] = replace(
            stated, brand=intern(stated.brand), category=intern(stated.category), seller=intern(stated.seller)
        )
        self._items.move_to_end(stated.id)
        if len(self._items) > self.items_max:
            self._forget(next(iter(self._items)))
        if self.watch:
            self.watch(stated.id)
        return True

    def _forget(self, item: str) -> None:
        del self._items[item], self._since_ms[item]
        if self.watch:
            self.watch(item)

    def available(self, item: str) -> bool:
        """Return whether an item can be bought, as far as is stated: it is neither out of stock nor retired."""
        stated = self._items.get(item)
        return stated is None or stated.available

    def complete(self, event: Event, currency: Currency) -> None:
        """Give the lines of an event the names, brands, categories and prices that they lack."""
        items = self._items
        for line in event.data.items:
            stated = items.get(line.item_id)
            if stated is None:
                continue
            items.move_to_end(line.item_id)
            line.item_name = line.item_name or stated.title
            line.item_brand = line.item_brand or stated.brand
            line.item_category = line.item_category or stated.category
            if line.price is None:
                line.price = currency.price(stated.prices_at(event.time_ms))

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of items and the maximum."""
        return {"items": (len(self._items), self.items_max)}

    def state(self) -> State:
        """Return all records, the one least recently changed or used first."""
        return {
            "records": [list(astuple(stated)) for stated in self._items.values()],
            "since_ms": np.fromiter((self._since_ms[item] for item in self._items), np.int64, len(self._items)),
        }

    @classmethod
    def from_state(cls, state: State, *, items_max: int) -> Self:
        """Return an assortment that continues where `state` was taken; of more items than the maximum, the newest."""
        assortment = cls(items_max=items_max)
        for fields, since_ms in zip(
            state["records"][-items_max:], state["since_ms"][-items_max:].tolist(), strict=True
        ):
            assortment.note(ItemRecord(*fields), since_ms)
        return assortment


def from_version_1(state: list[Any]) -> State:
    """Return the state of an assortment of version 2; one of version 1 knew no links and no times."""
    return {"records": [[*fields, "", ""] for fields in state], "since_ms": np.zeros(len(state), np.int64)}


def from_version_2(state: State) -> State:
    """Return the state of an assortment of version 3; one of version 2 knew no sellers and no costs."""
    return {**state, "records": [[*fields, "", {}] for fields in state["records"]]}


def from_version_3(state: State) -> State:
    """Return the state of an assortment of today; one of version 3 knew no levels, no sales and no supply."""
    unknown: list[Any] = [None, {}, 0, FOREVER_MS, None, None, 1, 1, None, 0.0]
    return {**state, "records": [[*fields, *unknown] for fields in state["records"]]}
