"""Wares: what events tell of each item by itself, its category and its price. A fold, bounded by the catalogue."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State


class Described(NamedTuple):
    """What is known of N items. An `area` is a category's number, 0 where none is known; a price is NaN then.

    Shapes:
        areas: (N,) uint32; prices: (N,) float32, in the shop's currency
    """

    areas: NDArray[np.uint32]
    prices: NDArray[np.float32]


Describe: TypeAlias = Callable[[Sequence[str]], Described]
"""From item ids to what is known of them."""


class Wares:
    """Keeps the newest category and price of each item, by its slot.

    >>> wares = Wares()
    >>> wares.learn(1, "shoes", 49.5)
    >>> wares.learn(1, "", None)  # what an event leaves out is as it was
    >>> [column.tolist() for column in wares.of([0, 1])]
    [[0, 349143447], [nan, 49.5]]
    """

    def __init__(self) -> None:
        self._areas = np.zeros(1024, np.uint32)
        self._prices = np.full(1024, np.nan, np.float32)

    def learn(self, slot: int, area: str, price: float | None) -> None:
        """Take in what a line of an event says of an item: "" and None say nothing, nor does a price of nearly 0."""
        price = float(np.float32(price or 0.0))
        if not area and not price:
            return
        if slot >= len(self._areas):
            self._grow(slot + 1)
        if area:
            self._areas[slot] = crc32(area.encode()) or 1
        if price:
            self._prices[slot] = price

    def of(self, slots: Sequence[int]) -> Described:
        """Return what is known of items; -1 is an item without a slot."""
        asked = np.asarray(slots, np.int64)
        known = (asked >= 0) & (asked < len(self._areas))
        areas, prices = np.zeros(len(asked), np.uint32), np.full(len(asked), np.nan, np.float32)
        areas[known], prices[known] = self._areas[asked[known]], self._prices[asked[known]]
        return Described(areas, prices)

    def forget(self, slots: Sequence[int]) -> None:
        """Drop what is known of these slots: other items will have them."""
        known = [slot for slot in slots if slot < len(self._areas)]
        self._areas[known], self._prices[known] = 0, np.nan

    def _grow(self, size: int) -> None:
        more = max(size, 2 * len(self._areas)) - len(self._areas)
        self._areas = np.pad(self._areas, (0, more))
        self._prices = np.pad(self._prices, (0, more), constant_values=np.nan)

    def state(self) -> State:
        """Return all that is known."""
        used = np.flatnonzero((self._areas > 0) | ~np.isnan(self._prices))
        size = int(used[-1]) + 1 if len(used) else 0
        return {"areas": self._areas[:size].copy(), "prices": self._prices[:size].copy()}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return wares that continue exactly where `state` was taken."""
        wares = cls()
        size = len(state["areas"])
        wares._grow(size)
        wares._areas[:size], wares._prices[:size] = state["areas"], state["prices"]
        return wares
