"""Attributes of items: the category and the price that events give for each item. A fold, bounded by the catalogue."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State


class ItemAttributes(NamedTuple):
    """The attributes of N items. A category is a number, 0 if it is unknown; an unknown price is NaN.

    Shapes:
        categories: (N,) uint32; prices: (N,) float32, in the shop's currency
    """

    categories: NDArray[np.uint32]
    prices: NDArray[np.float32]


AttributeLookup: TypeAlias = Callable[[Sequence[str]], ItemAttributes]
"""Returns the attributes of items, given their ids."""


class Attributes:
    """Keeps the newest category and price of each item, by its slot.

    >>> attributes = Attributes()
    >>> attributes.learn(1, "shoes", 49.5)
    >>> attributes.learn(1, "", None)  # missing values change nothing
    >>> [column.tolist() for column in attributes.of([0, 1])]
    [[0, 349143447], [nan, 49.5]]
    """

    def __init__(self) -> None:
        self._categories = np.zeros(1024, np.uint32)
        self._prices = np.full(1024, np.nan, np.float32)

    def learn(self, slot: int, category: str, price: float | None) -> None:
        """Learn from one line of an event. "", None and a price that is 0 as a float32 change nothing."""
        price = float(np.float32(price or 0.0))
        if not category and not price:
            return
        if slot >= len(self._categories):
            self._grow(slot + 1)
        if category:
            self._categories[slot] = crc32(category.encode()) or 1
        if price:
            self._prices[slot] = price

    def of(self, slots: Sequence[int]) -> ItemAttributes:
        """Return the attributes of items; -1 is an item without a slot."""
        asked = np.asarray(slots, np.int64)
        known = (asked >= 0) & (asked < len(self._categories))
        categories, prices = np.zeros(len(asked), np.uint32), np.full(len(asked), np.nan, np.float32)
        categories[known], prices[known] = self._categories[asked[known]], self._prices[asked[known]]
        return ItemAttributes(categories, prices)

    def forget(self, slots: Sequence[int]) -> None:
        """Drop the attributes of these slots, which will be reused for other items."""
        known = [slot for slot in slots if slot < len(self._categories)]
        self._categories[known], self._prices[known] = 0, np.nan

    def _grow(self, size: int) -> None:
        more = max(size, 2 * len(self._categories)) - len(self._categories)
        self._categories = np.pad(self._categories, (0, more))
        self._prices = np.pad(self._prices, (0, more), constant_values=np.nan)

    def state(self) -> State:
        """Return all attributes."""
        used = np.flatnonzero((self._categories > 0) | ~np.isnan(self._prices))
        size = int(used[-1]) + 1 if len(used) else 0
        return {"areas": self._categories[:size].copy(), "prices": self._prices[:size].copy()}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return attributes that continue exactly where `state` was taken."""
        attributes = cls()
        size = len(state["areas"])
        attributes._grow(size)
        attributes._categories[:size], attributes._prices[:size] = state["areas"], state["prices"]
        return attributes
