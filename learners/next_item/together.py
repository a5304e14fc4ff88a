"""Together: which items are bought in one order."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import combinations
from typing import Final, Self

import numpy as np

from headrace.state import State
from learners.next_item.traits import day_ms
from learners.parts.decay import Decay
from learners.protocol import Scores

order_items_max: Final = 20
"""Most items of an order of which pairs are counted, the first ones: a wholesaler's invoice has over a thousand."""


class Together:
    """Counts, for each pair of items, the orders that have both. Mergeable: the counts of several shards add up.

    The affinity of two items is the cosine of their orders: the orders with both, divided by the geometric mean of the
    orders with either one. It is high for what belongs together, not for what everybody buys. A count of `doubt` orders
    is added to each item's, so that two items that were bought once, in the same order, are no pair yet.

    Args:
        half_life_ms: event time in which a count loses half its weight.
        items_max: most items with companions; the one bought least recently is dropped.
        companions_max: companions kept per item; once there are twice as many, the rarer, older half is dropped.
        doubt: orders that are added to each item's.

    >>> together = Together()
    >>> for order in ([1, 2], [1, 2], [1, 3], [3, 4], [3]):
    ...     together.learn(order, 0)
    >>> slots, affinities = together.companions([1], 0)
    >>> slots.tolist(), [round(float(affinity), 2) for affinity in affinities]
    ([2, 3], [0.45, 0.2])

    Source: Linden, Smith & York, "Amazon.com recommendations: item-to-item collaborative filtering", 2003.
    """

    def __init__(
        self, *, half_life_ms: int | None = 180 * day_ms, items_max: int = 1 << 17, companions_max: int = 50,
        doubt: float = 2.0,
    ) -> None:  # fmt: skip
        self.items_max, self.companions_max, self.doubt = items_max, companions_max, doubt
        self._decay = Decay(half_life_ms)
        self._orders: OrderedDict[int, float] = OrderedDict()  # least recently bought first
        self._companions: dict[int, dict[int, float]] = {}

    def learn(self, order: Sequence[int], time_ms: int) -> None:
        """Count the pairs of an order's items, which are distinct."""
        if not order:
            return
        factor = self._decay.advance(time_ms)
        if factor != 1.0:
            for item in self._orders:
                self._orders[item] *= factor
            for counts in self._companions.values():
                for companion in counts:
                    counts[companion] *= factor
        weight = self._decay.weight(time_ms)
        for item in order:
            self._orders[item] = self._orders.get(item, 0.0) + weight
            self._orders.move_to_end(item)
        for one, other in combinations(order[:order_items_max], 2):
            self._count(one, other, weight)
            self._count(other, one, weight)
        while len(self._orders) > self.items_max:
            self._companions.pop(self._orders.popitem(last=False)[0], None)

    def _count(self, item: int, companion: int, weight: float) -> None:
        counts = self._companions.setdefault(item, {})
        counts[companion] = counts.pop(companion, 0.0) + weight  # keeps the order of the last count, newest last
        if len(counts) >= 2 * self.companions_max:
            counted = list(counts.items())
            best = sorted(range(len(counted)), key=lambda place: (counted[place][1], place))[-self.companions_max :]
            self._companions[item] = dict(counted[place] for place in sorted(best))

    def companions(self, items: Sequence[int], time_ms: int) -> Scores:
        """Return what is bought with items, with the sum of the affinities; the items themselves are left out."""
        doubt, found = self.doubt * self._decay.weight(time_ms), dict[int, float]()
        for item in items:
            orders = self._orders.get(item, 0.0) + doubt
            for companion, both in self._companions.get(item, {}).items():
                affinity = both / math.sqrt(orders * (self._orders.get(companion, 0.0) + doubt))
                found[companion] = found.get(companion, 0.0) + affinity
        for item in items:
            found.pop(item, None)
        slots = np.fromiter(found, np.int32, len(found))
        scores = np.fromiter(found.values(), np.float32, len(found))
        above = scores > 0
        return Scores(slots[above], scores[above])

    def take_back(self, item: int, time_ms: int) -> None:
        """Take one order back from an item's; that it was bought with others stays true."""
        if item in self._orders:
            self._orders[item] = max(0.0, self._orders[item] - self._decay.weight(time_ms))

    def forget(self, slots: Sequence[int]) -> None:
        """Drop these slots as items and as companions. Scans the whole table, so call it with many slots at once."""
        gone = set(slots)
        for slot in slots:
            self._orders.pop(slot, None)
            self._companions.pop(slot, None)
        for counts in self._companions.values():
            for slot in gone & counts.keys():
                del counts[slot]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of items, and of all companions."""
        companions = sum(map(len, self._companions.values()))
        return {
            "items": (len(self._orders), self.items_max),
            "companions": (companions, 2 * self.companions_max * self.items_max),
        }

    def state(self) -> State:
        """Return the settings, and the tables as arrays."""
        tables = self._companions.values()
        total = sum(map(len, tables))
        return {
            "items_max": self.items_max,
            "companions_max": self.companions_max,
            "doubt": self.doubt,
            "decay": self._decay.state(),
            "bought": np.fromiter(self._orders, np.int32, len(self._orders)),
            "orders": np.fromiter(self._orders.values(), np.float64, len(self._orders)),
            "items": np.fromiter(self._companions, np.int32, len(tables)),
            "lengths": np.fromiter(map(len, tables), np.int32, len(tables)),
            "companions": np.fromiter((slot for counts in tables for slot in counts), np.int32, total),
            "counts": np.fromiter((count for counts in tables for count in counts.values()), np.float64, total),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(items_max=state["items_max"], companions_max=state["companions_max"], doubt=state["doubt"])
        learner._decay = Decay.from_state(state["decay"])
        learner._orders = OrderedDict(zip(state["bought"].tolist(), state["orders"].tolist(), strict=True))
        companions, counts, start = state["companions"].tolist(), state["counts"].tolist(), 0
        for item, length in zip(state["items"].tolist(), state["lengths"].tolist(), strict=True):
            end = start + length
            learner._companions[item] = dict(zip(companions[start:end], counts[start:end], strict=True))
            start = end
        return learner
