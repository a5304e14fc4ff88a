"""Buyers and what is remembered of each: a row of numbers that an event changes in a few microseconds.

Sums decay by event time with several half-lives, each twice the one before, so that one exponential gives all of them.
Amounts are in whole `grain`s, so that what a refund takes back leaves nothing behind.
"""

from collections import OrderedDict
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.topics import DAY_MS
from learners.parts.portable import power_of_two
from learners.rounds.session_gate import shopper_number

HALF_LIVES: Final = tuple(182.0 / 2**n for n in range(5))
"""Days: 182, 91, 45.5, 22.75 and 11.4."""
grain: Final = 1e-4
"""The unit of amounts in the shop's currency."""
_SUMS: Final = len(HALF_LIVES)

BORN, FIRST, LAST, SEEN, AT = range(5)
"""Columns of days since the epoch: when the row began, first and last order, last event, and when its sums were
brought up to date."""
SPENT, ORDERS = 5, 6
"""Grains and orders so far, less what was returned."""
LINES, PIECES, RETURNED, LARGEST, GAPS = range(7, 12)
"""Lines and pieces bought, grains returned, grains of the largest order, and the sum of the squares of the gaps between
orders in days."""
GRADE, TOLD = 12, 13
"""The class of value, 0 for none, and the one that was told last."""
WEEKDAYS: Final = slice(14, 21)
"""Orders by weekday, Monday first, decayed by the longest half-life."""
SPENDS: Final = slice(21, 21 + _SUMS)
COUNTS: Final = slice(SPENDS.stop, SPENDS.stop + _SUMS)
"""Decayed grains, and decayed orders, the longest half-life first."""
DAYS: Final = COUNTS.stop
"""Days with an event, decayed by the third half-life."""
RETURNS: Final = DAYS + 1
"""Events that returned something."""
WIDTH: Final = RETURNS + 1
items_kept: Final = 16
"""Newest items that are remembered of each shopper."""
NO_ITEM: Final = -1

Floats = NDArray[np.float64]


def fadings(days: float) -> tuple[float, ...]:
    """Return what is left after some days, by half-life.

    >>> fadings(182.0)
    (0.5, 0.25, 0.0625, 0.00390625, 1.52587890625e-05)
    """
    first = power_of_two(-max(0.0, days) / HALF_LIVES[0])
    second = first * first
    third = second * second
    fourth = third * third
    return first, second, third, fourth, fourth * fourth


class Shoppers:
    """The buyers, in rows. Bounded: the one whose last order is longest ago is forgotten first.

    Attributes:
        rows: what is remembered. Shape (capacity, WIDTH).
        items: numbers of the items bought last, the newest at the end, `NO_ITEM` where there were fewer. Shape
            (capacity, items_kept)
        numbers: a number of each shopper, for samples. Shape (capacity,)
    """

    def __init__(self, shoppers_max: int) -> None:
        self.shoppers_max = shoppers_max
        self._places: OrderedDict[str, int] = OrderedDict()
        self._names: list[str] = []
        capacity = min(shoppers_max, 1_024)
        self.rows = np.zeros((capacity, WIDTH))
        self.items = np.full((capacity, items_kept), NO_ITEM, np.int32)
        self.numbers = np.zeros(capacity, np.int64)
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._places)

    def place(self, shopper: str) -> int | None:
        """Return the row of a shopper, None if there is none."""
        return self._places.get(shopper)

    def __contains__(self, shopper: object) -> bool:
        return shopper in self._places

    def next_forgotten(self) -> str | None:
        """Return who is forgotten when another buyer comes, None as long as there is room."""
        return None if len(self._names) < self.shoppers_max else next(iter(self._places))

    def name(self, place: int) -> str:
        """Return whose row it is."""
        return self._names[place]

    @property
    def in_use(self) -> Floats:
        """The rows in use. Shape (len(self), WIDTH)."""
        return self.rows[: len(self._names)]

    def _enter(self, shopper: str, day: float) -> int:
        if len(self._names) < self.shoppers_max:
            place = len(self._names)
            self._names.append(shopper)
            if place == len(self.rows):
                more = min(place, self.shoppers_max - place)
                self.rows = np.concatenate([self.rows, np.zeros((more, WIDTH))])
                self.items = np.concatenate([self.items, np.full((more, items_kept), NO_ITEM, np.int32)])
                self.numbers = np.concatenate([self.numbers, np.zeros(more, np.int64)])
        else:
            _, place = self._places.popitem(last=False)
            self._names[place] = shopper
            self.forgotten += 1
        self._places[shopper] = place
        self.rows[place] = 0.0
        self.items[place] = NO_ITEM
        self.rows[place, BORN : AT + 1] = day
        self.numbers[place] = shopper_number(shopper)
        return place

    def see(self, place: int, time_ms: int) -> None:
        """Note that a buyer was there."""
        row, day = self.rows[place], time_ms / DAY_MS
        before = float(row[SEEN])
        if day <= before:
            return
        row[SEEN] = day
        if int(day) != int(before):
            row[DAYS] = 1.0 + row[DAYS] * fadings(day - before)[2]

    def buy(
        self, shopper: str, time_ms: int, spent: float, lines: int, pieces: float, items: list[int], *, continues: bool
    ) -> int:
        """Count an order, or a further part of one; return the shopper's row.

        Args:
            spent: in grains.
            items: the numbers of the items, each once.
            continues: whether another part of the same order was counted before.
        """
        day = time_ms / DAY_MS
        place = self._places.get(shopper)
        if place is None:
            place = self._enter(shopper, day)
        else:
            self._places.move_to_end(shopper)
            self.see(place, time_ms)
        values = self.rows[place].tolist()
        faded = fadings(day - values[AT])
        values[AT] = max(day, values[AT])
        count = 0.0 if continues else 1.0
        for n, factor in enumerate(faded):
            values[SPENDS.start + n] = factor * values[SPENDS.start + n] + spent
            values[COUNTS.start + n] = factor * values[COUNTS.start + n] + count
        for n in range(WEEKDAYS.start, WEEKDAYS.stop):
            values[n] *= faded[0]
        values[SPENT] += spent
        values[LINES] += lines
        values[PIECES] += pieces
        if not continues:
            values[WEEKDAYS.start + (int(day) + 3) % 7] += 1.0  # the epoch began on a Thursday
            if values[ORDERS] > 0:
                gap = max(0.0, day - values[LAST])
                values[GAPS] += gap * gap
            values[ORDERS] += 1.0
            values[LAST] = max(day, values[LAST])
        values[LARGEST] = max(values[LARGEST], spent)
        if not values[DAYS]:
            values[DAYS] = 1.0
        self.rows[place] = values
        if newest := items[-items_kept:]:
            kept = self.items[place]
            kept[: -len(newest)] = kept[len(newest) :]
            kept[-len(newest) :] = newest
        return place

    def take_back(self, place: int, time_ms: int, spent: float, orders: int, bought_ms: int | None) -> None:
        """Take back what was returned: as if it had not been bought, where it is known when it was bought.

        When the shopper came, and how often, stays. Grains that were bought at an unknown time are taken from what was
        bought lately.
        """
        row, day = self.rows[place], time_ms / DAY_MS
        faded = np.array(fadings(day - float(row[AT])))
        row[SPENDS] *= faded
        row[COUNTS] *= faded
        row[WEEKDAYS] *= faded[0]
        row[AT] = max(day, float(row[AT]))
        since = np.array(fadings(day - (day if bought_ms is None else bought_ms / DAY_MS)))
        row[SPENDS] = np.maximum(0.0, row[SPENDS] - spent * since)
        row[COUNTS] = np.maximum(0.0, row[COUNTS] - orders * since)
        row[SPENT] -= spent
        row[ORDERS] -= orders
        row[RETURNED] += spent

    def renumber(self, numbers: NDArray[np.int32]) -> None:
        """Follow items to other numbers, by former number; those that have none any more are forgotten."""
        self.items = np.append(numbers, np.int32(NO_ITEM))[self.items]  # `NO_ITEM` is the last, too

    def bounds(self) -> tuple[int, int]:
        """Return the use and the maximum."""
        return len(self), self.shoppers_max

    def state(self) -> dict[str, Any]:
        """Return all rows, and in which order they are forgotten."""
        return {
            "names": list(self._names),
            "order": np.fromiter(self._places.values(), np.int64, len(self._places)),
            "rows": self.in_use.copy(),
            "items": self.items[: len(self._names)].copy(),
            "forgotten": self.forgotten,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], shoppers_max: int) -> tuple[Self, NDArray[np.int64]]:
        """Return what continues where `state` was taken, and the new row of each former one, -1 where it is forgotten.

        Of more than the maximum, the newest are kept.
        """
        found = cls(shoppers_max)
        order, names = state["order"], state["names"]
        kept = order[max(0, len(order) - shoppers_max) :]
        moved = np.full(len(names), -1, np.int64)
        moved[np.sort(kept)] = np.arange(len(kept))
        found._names = [names[place] for place in np.sort(kept)]
        found._places = OrderedDict((names[place], int(moved[place])) for place in kept)
        capacity = max(len(found.rows), len(kept))
        found.rows = np.zeros((capacity, WIDTH))
        found.rows[: len(kept)] = state["rows"][np.sort(kept)]
        found.items = np.full((capacity, items_kept), NO_ITEM, np.int32)
        found.items[: len(kept)] = state["items"][np.sort(kept)]
        found.numbers = np.zeros(capacity, np.int64)
        found.numbers[: len(kept)] = [shopper_number(name) for name in found._names]
        found.forgotten = state["forgotten"]
        return found, moved
