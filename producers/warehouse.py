"""What the simulated shop has of each item: sales take pieces out, deliveries of a simple rule bring pieces in.

It is decided with random numbers of its own, and a shop without a warehouse has the same events as ever. The buyer's
rule is a usual one that knows no forecast: once a day an item whose pieces, those ordered included, have fallen to what
was sold in the week before is ordered up to two weeks' sales, and the delivery comes 4 to 10 days later. So an item
that is wanted more than before runs out.
"""

import heapq
from collections import deque
from typing import Final

import numpy as np
from msgspec import Struct

from producers.scenario import SimulationSettings

FIRST: Final = (2, 9)
"""Least and most pieces of an item when it is added."""
LEAD_DAYS: Final = (4, 10)
"""Least and most days from an order to its delivery."""
REVIEWED_DAYS: Final = 7
"""Days whose sales the buyer's rule looks at."""
SPARE: Final = 1
"""Pieces that the rule keeps of an item that is not sold."""
day_ms: Final = 86_400_000


class Shelf(Struct, gc=False):
    """An item in the warehouse: pieces on hand, those of them in carts, those ordered, and sales of the newest days."""

    on_hand: int
    in_carts: int
    ordered: int
    sold: deque[int]


class Warehouse:
    """The pieces of those items whose stock is limited; of the others there are always enough.

    Attributes:
        changed: items whose pieces on hand have changed since they were stated.
    """

    def __init__(self, settings: SimulationSettings) -> None:
        self._share, self._rng = settings.stocked, np.random.default_rng([settings.seed, 7])
        self._shelves: dict[int, Shelf] = {}
        self._deliveries: list[tuple[int, int, int]] = []
        self._next_ms = settings.start_ms + day_ms
        self.changed: set[int] = set()

    def __bool__(self) -> bool:
        """Return whether the stock of any item may be limited."""
        return self._share > 0

    def add(self, item: int) -> None:
        """Draw whether the stock of a new item is limited, and how much there is of it."""
        if self and self._rng.random() < self._share:
            pieces = int(self._rng.integers(FIRST[0], FIRST[1] + 1))
            self._shelves[item] = Shelf(pieces, 0, 0, deque([0], REVIEWED_DAYS))

    def on_hand(self, item: int) -> int | None:
        """Return the pieces on hand, None if there are always enough."""
        shelf = self._shelves.get(item)
        return None if shelf is None else shelf.on_hand

    def free(self, item: int, wanted: int) -> int:
        """Return how many of the wanted pieces can still be put into a cart."""
        shelf = self._shelves.get(item)
        return wanted if shelf is None else max(0, min(wanted, shelf.on_hand - shelf.in_carts))

    def reserve(self, item: int, pieces: int) -> None:
        """Put pieces into a cart, or with a negative number back."""
        if shelf := self._shelves.get(item):
            shelf.in_carts += pieces

    def sell(self, item: int, pieces: int) -> None:
        """Take pieces that were in a cart out of the warehouse."""
        if shelf := self._shelves.get(item):
            shelf.in_carts -= pieces
            shelf.on_hand -= pieces
            shelf.sold[-1] += pieces
            self.changed.add(item)

    def advance(self, time_ms: int) -> None:
        """Receive what was delivered, and order what is missing, up to a time."""
        while self._shelves and self._next_ms <= time_ms:
            self._deliver(self._next_ms)
            for item, shelf in self._shelves.items():
                week = sum(shelf.sold)
                shelf.sold.append(0)
                if shelf.on_hand + shelf.ordered <= week + SPARE:
                    missing = 2 * week + 2 * SPARE - shelf.on_hand - shelf.ordered
                    lead_ms = round(self._rng.uniform(*LEAD_DAYS) * day_ms)
                    heapq.heappush(self._deliveries, (self._next_ms + lead_ms, item, missing))
                    shelf.ordered += missing
            self._next_ms += day_ms
        self._deliver(time_ms)

    def _deliver(self, time_ms: int) -> None:
        while self._deliveries and self._deliveries[0][0] <= time_ms:
            _, item, pieces = heapq.heappop(self._deliveries)
            shelf = self._shelves[item]
            shelf.on_hand, shelf.ordered = shelf.on_hand + pieces, shelf.ordered - pieces
            self.changed.add(item)
