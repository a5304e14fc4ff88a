"""Prices: how many times as many pieces of an item sell at another regular price.

The *regular price* of a line is the one that the shop states, or if it states none, what the line cost; that of a week
is the median of its lines. So lines on sale, as of `learners.demand.promotions`, teach no price. A week's factor is
`(its price / the price known now) ** -elasticity`: the history is what would have sold at the price that is known now,
and weeks ahead are ordinary until the shop states another price.

The elasticity is the one, of some from 0 to 4, with which the mean of eight weeks would have foretold best what items
sold whose price had changed. Only what was known when a week began is used, as in a forecast, and errors fade. It is
chosen for each category, to whose errors some of the shop's are added, and 0 unless errors are clearly smaller.

A price of more than four times the one before, or of less than a fourth, is taken for a fault of unit: the old price
holds, and after some weeks with it all earlier prices are replaced by it. So they are, too, where a shop begins to
state the price of an item: what lines cost may be another price, as one with a tax.

Source: Tellis, "The price elasticity of selective demand: a meta-analysis of econometric models of sales", Journal of
Marketing Research 25 (1988) (a constant elasticity, mostly between 0 and 4).
"""

from collections.abc import Callable, Sequence
from math import log as logarithm
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.demand.sales import NO_SLOT, Floats, Sales, Slots, weeks_max
from learners.demand.seasons import categories_max
from learners.parts.portable import exp, log, power_of_two

ELASTICITIES: Final = tuple(0.25 * n for n in range(17))
"""Those that are tried."""
ratio_max: Final = 4.0
"""The largest ratio of two prices, and by one the smallest."""
sample_max: Final = 16
"""Lines of an item and week whose prices are remembered: of more, evenly spaced ones."""
_recent: Final = 8
"""Weeks whose mean is what an item sells lately."""
_changed_min: Final = 0.01
"""The least logarithm of a ratio of prices that counts as a change."""
_gains_min: Final = (0.1, 0.03)
"""The least share of the error that an elasticity must save, where prices are not stated and where they are: what
is not stated may be a sale, which ends before its price is of use."""
_known_min: Final = 200.0
"""Error, in usual lines, before which no elasticity is known."""
_shop_prior: Final = 100.0
"""Error, in usual lines, at which a category's own counts as much as the shop's."""
_half_life: Final = 52.0
"""Weeks with changed prices after which errors count half."""
_absent_max: Final = 0.1
"""A week in which an item was out of stock for more than this share teaches nothing, nor do those after it."""
_judged_max: Final = 16_384
"""Most items from which is learned at once; of more, evenly spaced ones."""
doubted_max: Final = 4
"""Weeks in a row with a price that looks like a fault after which it is believed."""
_bound: Final = logarithm(ratio_max)


class Change(NamedTuple):
    """The price of an item lately and now, how many times as much is expected for it, and by which elasticity."""

    before: float
    now: float
    factor: float
    elasticity: float


class Prices:
    """The regular price of each item by week, and what it changes.

    Attributes:
        errors: by elasticity, without and with a stated price, of the shop and of each category, in usual lines. Shape
            (len(ELASTICITIES), 2, 1 + categories_max)
        elasticity: without and with a stated price, of the shop and of each category. Shape (2, 1 + categories_max)
    """

    def __init__(self) -> None:
        self.errors = np.zeros((len(ELASTICITIES), len(_gains_min), 1 + categories_max))
        self.elasticity = np.zeros(self.errors.shape[1:])
        self._lines: dict[str, _Lines] = {}  # of the running week, by item
        self._weekly = np.zeros((weeks_max, 0), np.float32)  # by week and slot; 0 where none is known
        self._facts = np.zeros((len(_FACTS), 0), np.float32)

    def state_price(self, slot: int, price: float | None) -> None:
        """Note the price that the shop states of the item in a slot, None if none."""
        if slot < self._facts.shape[1]:
            self._facts[_STATED, slot] = price or 0.0

    def buy(self, item: str, price: float | None, regular: float | None) -> None:
        """Note a line of the running week: what a piece cost, and the regular price that the shop states, if known."""
        found, stated = regular or price, bool(regular)
        if found:
            lines = self._lines.get(item)
            if lines is None or lines.stated != stated:
                lines = self._lines[item] = _Lines(stated)
            lines.add(found)

    def turn(
        self,
        sales: Sales,
        week: int,
        columns: NDArray[np.int64],
        stated: Sequence[float | None],
        others: Callable[[Slots, NDArray[np.int64]], Floats | None],
    ) -> None:
        """End the weeks from `week` until the one that has begun, of which the first has sold something.

        Args:
            columns: of the categories, by slot.
            stated: the prices that the shop states of items in slots that are new since the last call.
            others: the factors of other occasions, as `Occasions.each`.
        """
        self._room(len(sales), stated)
        if not self._weekly.shape[1]:
            return
        self._learn(sales, week, columns, others)
        self._settle(sales)
        ended = np.arange(max(week, sales.week - weeks_max + 1), sales.week + 1)
        self._weekly[ended % weeks_max] = self._facts[_LAST]
        self._facts[_BEGUN] = self._now(_ALL)

    def _now(self, slots: Slots | slice) -> NDArray[np.float32]:
        """Return the price of items as it is known now, 0 where none is. Shape (S,)"""
        last, stated, _, source, _ = self._facts[:, slots]
        believed = (stated > 0) & ((last == 0) | (source == 1) & _plausible(stated, last))
        return np.asarray(np.where(believed, stated, last))

    def _settle(self, sales: Sales) -> None:
        """Make the prices of the running week the last ones."""
        facts, price = self._facts, self._now(_ALL)
        unknown = facts[_LAST] == 0
        facts[_SOURCE, unknown & (price > 0)] = 1.0
        sold = [(slot, one) for item, one in self._lines.items() if (slot := sales.slot(item)) is not None]
        self._lines = {}
        if sold:
            slots = np.array([slot for slot, _ in sold])
            found = np.array([one.median for _, one in sold], np.float32)
            source = np.array([one.stated for _, one in sold], np.float32)
            last = facts[_LAST, slots]
            fault = (last > 0) & ~_plausible(found, last)
            doubted = np.where(fault, facts[_DOUBTED, slots] + 1.0, 0.0)
            anew = (last == 0) | (source != facts[_SOURCE, slots]) | (doubted >= doubted_max)
            price[slots] = np.where(fault & ~anew, last, found)
            facts[_DOUBTED, slots], facts[_SOURCE, slots] = np.where(anew, 0.0, doubted), source
            self._weekly[:, slots[anew]] = found[anew]
        facts[_LAST] = price
        self._weekly[:, unknown] = price[unknown]

    def _learn(
        self, sales: Sales, week: int, columns: NDArray[np.int64],
        others: Callable[[Slots, NDArray[np.int64]], Floats | None],
    ) -> None:  # fmt: skip
        """Learn from how well each elasticity would have foretold a week, of items whose price had changed."""
        if week <= sales.week - weeks_max + _recent:
            return
        begun = self._facts[_BEGUN].astype(np.float64)
        before = week - np.arange(_recent, 0, -1)
        logs = _ratios(self._weekly[before % weeks_max].astype(np.float64), begun)
        slots = np.flatnonzero(np.any(np.abs(logs) > _changed_min, axis=0))
        slots = slots[:: -(-len(slots) // _judged_max) or 1]
        if not len(slots):
            return
        weeks = np.arange(week - _recent, week + 1)[:, None] + np.zeros(len(slots), np.int64)
        pieces, _, absent = sales.before(slots, np.full(len(slots), week + 1), _recent + 1)
        held = others(slots, weeks)
        if held is not None:
            pieces = pieces / held
        ages = np.minimum(week - sales.first_weeks(slots), week - sales.began)
        line = np.maximum(1.0, sales.usual(slots))
        there = (ages >= 1) & np.all(absent <= _absent_max, axis=0)
        step, factor = exp(ELASTICITIES[1] * logs[:, slots]), np.ones((_recent, len(slots)))
        group = self._facts[_SOURCE, slots].astype(np.int64) * self.errors.shape[2] + columns[slots]
        kept = power_of_two(-1.0 / _half_life)
        self.errors *= kept
        for errors in self.errors:
            guess = np.add.reduce(pieces[:-1] * factor, axis=0) / np.clip(ages, 1.0, _recent)
            missed = np.where(there, np.abs(pieces[-1] - guess) / line, 0.0)
            rows = np.bincount(group, missed, errors.size).reshape(errors.shape)
            rows[:, 0] = np.add.reduce(rows, axis=1)
            errors += rows
            factor = factor * step
        self.elasticity = np.array([_best(self.errors[:, n], gain) for n, gain in enumerate(_gains_min)])

    def factors(
        self, slots: Slots, weeks: NDArray[np.int64], columns: NDArray[np.int64], sales: Sales
    ) -> Floats | None:
        """Return the factors of items in weeks, beside the price that is known now; None if all are 1.

        Shapes: slots (R,), weeks and result (n, R), columns by slot
        """
        known = min(self._weekly.shape[1], len(columns))
        if not known or not self.elasticity.any():
            return None
        there = slots < known
        place = np.where(there, slots, 0)
        inside = there & (weeks > sales.week - weeks_max) & (weeks < sales.week)
        weekly = np.where(inside, self._weekly[weeks % weeks_max, place], 0.0).astype(np.float64)
        logs = _ratios(weekly, self._now(place).astype(np.float64))
        return exp(-self._own(place, columns[place]) * logs) if logs.any() else None

    def _own(self, slots: Slots, columns: NDArray[np.int64]) -> Floats:
        """Return the elasticity of each item. Shapes: (S,)"""
        return np.asarray(self.elasticity[self._facts[_SOURCE, slots].astype(np.int64), columns])

    def _room(self, items: int, stated: Sequence[float | None]) -> None:
        """Make room for items; in the table of weeks not before a price is known."""
        new = np.zeros((len(_FACTS), items - self._facts.shape[1]), np.float32)
        new[_STATED] = [one or 0.0 for one in stated]
        self._facts = np.concatenate([self._facts, new], axis=1)
        if self._lines or self._weekly.shape[1]:
            more = np.zeros((weeks_max, items - self._weekly.shape[1]), np.float32)
            self._weekly = np.concatenate([self._weekly, more], axis=1)

    def change(self, slot: int, column: int, sales: Sales) -> Change | None:
        """Return how the price of an item differs from that of lately, None if it does not or changes nothing."""
        if slot >= self._weekly.shape[1]:
            return None
        elasticity = float(self._own(np.array([slot]), np.array([column]))[0])
        now = float(self._now(np.array([slot]))[0])
        before = self._weekly[(sales.week - np.arange(1, _recent + 1)) % weeks_max, slot].astype(np.float64)
        log_ratio = float(np.mean(_ratios(before[:, None], np.array([now]))))
        if not elasticity or abs(log_ratio) <= _changed_min:
            return None
        ratio, power = exp(np.array([log_ratio, log_ratio * elasticity])).tolist()
        return Change(ratio * now, now, power, elasticity)

    def bounds(self, items_max: int) -> dict[str, tuple[int, int]]:
        """Return how many items were bought in the running week, and the most."""
        return {"priced": (len(self._lines), items_max)}

    def renumber(self, moved: NDArray[np.int32], sales: Sales) -> None:
        """Follow items to other slots, by former slot."""
        self._lines = {item: lines for item, lines in self._lines.items() if sales.slot(item) is not None}
        kept = np.flatnonzero(moved[: self._facts.shape[1]] != NO_SLOT)
        self._facts = self._facts[:, kept].copy()
        if self._weekly.shape[1]:
            self._weekly = self._weekly[:, kept].copy()

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "errors": self.errors.copy(), "elasticity": self.elasticity.copy(), "weekly": self._weekly.copy(),
            "facts": self._facts.copy(),
            "lines": [[item, one.stated, one.seen, one.step, list(one.prices)] for item, one in self._lines.items()],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return what continues where `state` was taken."""
        found = cls()
        found.errors, found.elasticity = state["errors"].copy(), state["elasticity"].copy()
        found._weekly, found._facts = state["weekly"].copy(), state["facts"].copy()
        for item, stated, seen, step, prices in state["lines"]:
            one = found._lines[item] = _Lines(stated)
            one.seen, one.step, one.prices = seen, step, list(prices)
        return found


_FACTS: Final = ("last", "stated", "begun", "source", "doubted")
_ALL: Final = slice(None)
_LAST, _STATED, _BEGUN, _SOURCE, _DOUBTED = range(5)
"""The newest week's price, the one that is stated, and the one that was known when the week began, 0 where none is; 1
if the newest is a stated one; weeks in a row whose price was not believed."""


class _Lines:
    """Prices of evenly spaced lines of an item and week, `stated` or what they cost."""

    def __init__(self, stated: bool) -> None:
        self.stated, self.seen, self.step = stated, 0, 1
        self.prices: list[float] = []

    def add(self, price: float) -> None:
        """Note the price of a line.

        >>> lines = _Lines(True)
        >>> for n in range(100):
        ...     lines.add(float(n))
        >>> len(lines.prices), lines.step, lines.median
        (12, 8, 47.0)
        """
        self.seen += 1
        if self.seen % self.step == 0:
            self.prices.append(price)
            if len(self.prices) == sample_max:
                self.prices, self.step = self.prices[1::2], 2 * self.step

    @property
    def median(self) -> float:
        """The lower of the two in the middle, if there are two: a price that a line had."""
        return sorted(self.prices)[(len(self.prices) - 1) // 2]


def _best(errors: Floats, gain_min: float) -> Floats:
    """Return the elasticities of the shop and of categories. Shapes: (len(ELASTICITIES), columns), (columns,)"""
    shop = errors[:, :1]
    if shop[0, 0] < _known_min:
        return np.zeros(errors.shape[1])
    curves = errors + _shop_prior * shop / shop[0, 0]
    curves[:, 0] = shop[:, 0]
    saved = 1.0 - curves.min(axis=0) / curves[0]
    return np.where(saved > gain_min, np.array(ELASTICITIES)[np.argmin(curves, axis=0)], 0.0)


def _plausible(price: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether a price may follow another one. Shapes: (S,)"""
    return np.asarray((price <= ratio_max * before) & (before <= ratio_max * price))


def _ratios(prices: Floats, now: Floats) -> Floats:
    """Return the logarithms of the ratios of prices, bounded, 0 where one is not known. Shapes: (n, R), (R,)"""
    known = (prices > 0) & (now > 0)
    ratio = np.where(known, prices, 1.0) / np.where(known, now, 1.0)
    return np.clip(log(np.where(known, ratio, 1.0)), -_bound, _bound)
