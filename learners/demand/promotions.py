"""Promotions: how many times as many pieces of an item sell on days on sale as on other days.

A day counts as on sale if the stated sale holds at its noon, or if it is between two days of a week of which a line
cost less than the stated regular price, or one of them.
The *uplift* of an item is what it sold on such days by what it sold lately on as many ordinary days; that of the
shop stands for an item until it has enough of its own. Each item's share of days on sale is kept by week, so a week's
factor is `1 + share * (uplift - 1)`, with the uplift as it is known now.

Source: the shares of a sale as exposure are those of a Poisson rate with a gamma prior, as in `learners.stock.rates`.
"""

from collections.abc import Callable
from math import fsum
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.items import FOREVER_MS, ItemRecord
from headrace.topics import DAY_MS
from learners.demand.sales import NO_SLOT, Floats, Sales, Slots, weeks_max
from learners.parts.portable import power_of_two

uplift_max: Final = 20.0
"""The largest uplift; the least is 1."""
_begin: Final = (3.0, 1.5)
"""Lines sold on sale, and expected without, that a shop begins with: sales that double what is sold."""
_own_prior: Final = 10.0
"""Usual lines expected without a sale after which an item's own uplift counts as much as the shop's."""
_half_life: Final = 52.0
"""Weeks with sales after which what they sold counts half."""
_half: Final = 0.5
"""Part of a day at which is asked whether a sale holds."""


class Promotions:
    """The days on sale of each item and week, and the uplift.

    Args:
        items_max: most items whose stated sale is remembered.

    Attributes:
        shop: lines that were sold on sale, and how many were expected without. Shape (2,)
    """

    def __init__(self, items_max: int) -> None:
        self.items_max = items_max
        self.shop = np.array(_begin)
        self._windows: dict[str, tuple[int, int]] = {}  # of stated sales: from, until
        self._days: dict[str, int] = {}  # of the running week, by item: a bit for each day on sale
        self._pieces: dict[str, float] = {}  # of the running week, by item: pieces that were bought on sale
        self._shares = np.zeros((weeks_max, 0), np.float32)
        self._promoted = np.zeros((2, 0))  # by item: as `shop`, in pieces

    @property
    def known(self) -> bool:
        """Whether any item was on sale, or will be."""
        return bool(self._windows or self._days) or self._shares.shape[1] > 0

    def state_sale(self, item: str, stated: ItemRecord, sales: Sales, time_ms: int) -> None:
        """Note what a record states; the days of this week of a sale that was stated before are kept."""
        if item in self._windows and sales.week != NO_SLOT:
            from_ms, until_ms = self._windows[item]
            self._mark(item, _bits(sales, sales.week, from_ms, min(until_ms, time_ms)))
        self._windows.pop(item, None)
        if stated.sale_prices and stated.sale_until_ms > time_ms:
            self._windows[item] = stated.sale_from_ms, stated.sale_until_ms
            if len(self._windows) > self.items_max:
                del self._windows[next(iter(self._windows))]

    def buy(self, item: str, day: int, pieces: float, cheaper: bool, sales: Sales) -> None:
        """Note a line: whether it cost less than the regular price is `cheaper`."""
        window = self._windows.get(item)
        if not cheaper and window is None:
            return
        if sales.week_of(day) != sales.week:
            return
        noon = (day + _half) * DAY_MS
        if cheaper:
            self._mark(item, _filled(self._days.get(item, 0) | 1 << (day - sales.first_day(sales.week))))
        elif window is None or not window[0] <= noon < window[1]:
            return
        self._pieces[item] = self._pieces.get(item, 0.0) + pieces

    def _mark(self, item: str, bits: int) -> None:
        if bits:
            self._days[item] = self._days.get(item, 0) | bits

    def turn(self, sales: Sales, week: int, usual: Callable[[Slots], Floats]) -> None:
        """End the weeks from `week` until the one that has begun, of which the first has sold something.

        Args:
            usual: what slots sold lately per ordinary week. It is called before the weeks are noted.
        """
        if not self._windows and not self._days and not self._shares.shape[1]:
            return
        self._room(len(sales))
        ended = range(max(week, sales.week - weeks_max + 1), sales.week)
        self._shares[[one % weeks_max for one in range(max(week, sales.week - weeks_max + 1), sales.week + 1)]] = 0.0
        if week in ended:
            self._learn(sales, self._ended(sales, week), usual)
        for item, (from_ms, until_ms) in list(self._windows.items()):
            slot = sales.slot(item)
            for one in ended if slot is not None else ():
                bits = _bits(sales, one, from_ms, until_ms) | (self._days.get(item, 0) if one == week else 0)
                self._shares[one % weeks_max, slot] = bits.bit_count() / sales.period_days
            if until_ms <= sales.first_day(sales.week) * DAY_MS:
                del self._windows[item]
        if week in ended:
            for item, bits in self._days.items():
                slot = sales.slot(item)
                if slot is not None:
                    row = self._shares[week % weeks_max]
                    row[slot] = max(float(row[slot]), bits.bit_count() / sales.period_days)
        self._days, self._pieces = {}, {}

    def _ended(self, sales: Sales, week: int) -> dict[int, tuple[float, float]]:
        """Return the share of days on sale and the pieces that were bought on them, by slot, of the week that ends."""
        found = {}
        for item in sorted(self._windows.keys() | self._days.keys()):
            slot = sales.slot(item)
            if slot is None:
                continue
            bits = self._days.get(item, 0) | _bits(sales, week, *self._windows.get(item, (0, 0)))
            if bits:
                found[slot] = bits.bit_count() / sales.period_days, self._pieces.get(item, 0.0)
        return found

    def _learn(self, sales: Sales, ended: dict[int, tuple[float, float]], usual: Callable[[Slots], Floats]) -> None:
        """Learn the uplift from the pieces of a week that were bought on sale."""
        if not ended:
            return
        slots = np.array(sorted(ended))
        share, pieces = np.array([ended[slot] for slot in slots.tolist()]).T
        expected = usual(slots) * share
        line = np.maximum(1.0, sales.usual(slots))
        # One huge order is not an uplift: what counts is at most the largest one.
        known = expected > 0
        sold = np.where(known, np.minimum(pieces, uplift_max * expected), 0.0)
        kept = power_of_two(-1.0 / _half_life)
        self.shop *= kept
        self._promoted *= kept
        self._promoted[0, slots] += sold
        self._promoted[1, slots] += expected
        self.shop += fsum((sold / line).tolist()), fsum((expected / line).tolist())

    def uplift(self, slots: Slots, sales: Sales) -> Floats:
        """Return how many times as much is sold on sale. Shape (S,)"""
        shop = float(self.shop[0] / self.shop[1])
        prior = _own_prior * np.maximum(1.0, sales.usual(slots))
        sold, expected = self._promoted[:, slots]
        return np.asarray(np.clip((sold + prior * shop) / (expected + prior), 1.0, uplift_max))

    def factors(self, slots: Slots, weeks: NDArray[np.int64], sales: Sales) -> Floats | None:
        """Return the factor of each item in weeks, None if it is 1 for all.

        Shapes: slots (R,), weeks and result (n, R). Of weeks that are not over it is what is stated.
        """
        if not self.known:
            return None
        self._room(len(sales))
        inside = (weeks > sales.week - weeks_max) & (weeks < sales.week)
        share = np.where(inside, self._shares[weeks % weeks_max, slots], 0.0).astype(np.float64)
        if self._windows or self._days:
            for column, slot in enumerate(slots.tolist()):
                item = sales.name(slot)
                if item in self._windows or item in self._days:
                    for row in np.flatnonzero(weeks[:, column] >= sales.week).tolist():
                        share[row, column] = self.announced(item, int(weeks[row, column]), sales).sum()
        if not share.any():
            return None
        there = np.unique(slots[share.any(axis=0)])
        uplift = np.ones(int(slots.max()) + 1)
        uplift[there] = self.uplift(there, sales)
        return np.asarray(1.0 + share * (uplift[slots] - 1.0))

    def announced(self, item: str, week: int, sales: Sales) -> Floats:
        """Return, for each day of a week that is not over, its part of the week if it is on sale. Shape (days,)"""
        bits = _bits(sales, week, *self._windows.get(item, (0, 0)))
        if week == sales.week:
            bits |= self._days.get(item, 0)
        return np.array([(bits >> n & 1) / sales.period_days for n in range(sales.period_days)])

    def _room(self, items: int) -> None:
        more = items - self._shares.shape[1]
        if more > 0:
            self._shares = np.concatenate([self._shares, np.zeros((weeks_max, more), np.float32)], axis=1)
            self._promoted = np.concatenate([self._promoted, np.zeros((2, more))], axis=1)

    def renumber(self, moved: NDArray[np.int32]) -> None:
        """Follow items to other slots, by former slot."""
        kept = np.flatnonzero(moved[: self._shares.shape[1]] != NO_SLOT)
        self._shares, self._promoted = self._shares[:, kept].copy(), self._promoted[:, kept].copy()

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of the stated sales."""
        return {"promotions": (len(self._windows), self.items_max)}

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "shop": self.shop.copy(), "shares": self._shares.copy(), "promoted": self._promoted.copy(),
            "windows": [[item, *window] for item, window in self._windows.items()],
            "days": [[item, bits] for item, bits in self._days.items()],
            "pieces": [[item, pieces] for item, pieces in self._pieces.items()],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], items_max: int) -> Self:
        """Return what continues where `state` was taken."""
        found = cls(items_max)
        found.shop, found._shares, found._promoted = (state[name].copy() for name in ("shop", "shares", "promoted"))
        found._windows = {item: (from_ms, until_ms) for item, from_ms, until_ms in state["windows"][-items_max:]}
        found._days, found._pieces = dict(state["days"]), dict(state["pieces"])
        return found


def _filled(bits: int) -> int:
    """Return bits with those between the first and the last.

    >>> f"{_filled(0b0100010):07b}"
    '0111110'
    """
    return (1 << bits.bit_length()) - (bits & -bits)


def _bits(sales: Sales, week: int, from_ms: int, until_ms: int) -> int:
    """Return a bit for each day of a week at whose noon a sale holds."""
    begins, bits = sales.first_day(week), 0
    if min(until_ms, FOREVER_MS) <= begins * DAY_MS or from_ms >= (begins + sales.period_days) * DAY_MS:
        return 0
    for n in range(sales.period_days):
        if from_ms <= (begins + n + _half) * DAY_MS < until_ms:
            bits |= 1 << n
    return bits
