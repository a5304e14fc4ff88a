"""The assortment: what the shop states of its items. It completes the lines of events that state less."""

from collections import OrderedDict
from sys import intern
from typing import Any, Self

from msgspec.structs import astuple, replace

from headrace.events import Event
from headrace.items import ItemRecord
from learners.desk.currency import Currency


class Assortment:
    """The newest record of each item. Bounded: the item goes first whose record changed, or was used, least recently.

    A record that repeats the one before changes nothing, so a shop may state all of its items every day.

    Args:
        items_max: most items.

    >>> assortment = Assortment(items_max=2)
    >>> boots = ItemRecord("boots", "Red boots", available=False)
    >>> assortment.note(boots), assortment.note(boots)
    (True, False)
    >>> assortment.available("boots"), assortment.available("never-stated")
    (False, True)
    """

    def __init__(self, *, items_max: int) -> None:
        self.items_max = items_max
        self._items: OrderedDict[str, ItemRecord] = OrderedDict()  # least recently changed or used first

    def __len__(self) -> int:
        return len(self._items)

    def stated(self, item: str) -> ItemRecord | None:
        """Return what is stated of an item, None if nothing is."""
        return self._items.get(item)

    def note(self, stated: ItemRecord) -> bool:
        """Note what the shop states of an item; return whether it differs from what was stated before."""
        if self._items.get(stated.id) == stated:
            return False
        self._items[stated.id] = replace(stated, brand=intern(stated.brand), category=intern(stated.category))
        self._items.move_to_end(stated.id)
        if len(self._items) > self.items_max:
            self._items.popitem(last=False)
        return True

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
                line.price = currency.price(stated.prices)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of items and the maximum."""
        return {"items": (len(self._items), self.items_max)}

    def state(self) -> list[Any]:
        """Return all records, the one least recently changed or used first."""
        return [list(astuple(stated)) for stated in self._items.values()]

    @classmethod
    def from_state(cls, state: list[Any], *, items_max: int) -> Self:
        """Return an assortment that continues where `state` was taken; of more items than the maximum, the newest."""
        assortment = cls(items_max=items_max)
        for fields in state[-items_max:]:
            assortment.note(ItemRecord(*fields))
        return assortment
