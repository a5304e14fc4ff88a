"""Occasions: what is known of weeks beside what was sold in them, as factors on an item's ordinary pieces.

The weeks of the history are divided by their factors and the forecast is multiplied by those of the weeks that it is
of. So what an occasion sells moves no level, and is expected when it is known to come again. Without any, every factor
is None, and nothing is multiplied.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.items import ItemRecord
from learners.demand.days_off import DaysOff
from learners.demand.features import history_of
from learners.demand.newcomers import Likeness
from learners.demand.prices import Prices
from learners.demand.promotions import Promotions
from learners.demand.sales import NO_SLOT, Floats, Sales, Slots
from learners.demand.seasons import Seasons

_ahead: Final = 4
"""Weeks that are forecast, at most."""
_recent: Final = 8
"""Weeks whose mean is what an item sells per ordinary week lately."""
_cheaper: Final = 0.98
"""A line that costs less than this share of the regular price was bought on sale."""
_factor_min: Final = 0.05
"""The least factor by which a week of the history is divided."""
_season_days: Final = 7
"""The length of weeks of which seasons are learned."""


def _none(item: str) -> Likeness:
    return Likeness()


class Occasions:
    """What changes the sales of weeks: promotions, regular prices, the yearly season, and holidays.

    Args:
        sales: from which is learned.
        likeness_of: returns what the shop states of an item.
        country: whose holidays are known, as of `DaysOff`.

    Raises:
        headrace.errors.Misconfigured: there is no such country.
    """

    def __init__(self, sales: Sales, likeness_of: Callable[[str], Likeness] = _none, country: str = "") -> None:
        self.sales, self._likeness_of = sales, likeness_of
        self.promotions = Promotions(sales.items_max)
        self.prices = Prices()
        self.seasons = Seasons()
        self.days_off = DaysOff(country)
        self._columns = np.zeros(0, np.int64)  # of categories, by slot, of those sold before the week began

    def hear(self, stated: ItemRecord, time_ms: int) -> None:
        """Note what the shop states of an item."""
        self.promotions.state_sale(stated.id, stated, self.sales, time_ms)
        slot = self.sales.slot(stated.id)
        if slot is not None and slot < len(self._columns):
            found = self._likeness_of(stated.id)
            self._columns[slot] = self.seasons.column(found.category)
            self.prices.state_price(slot, found.price)

    def buy(self, item: str, day: int, pieces: float, price: float | None, regular: float | None) -> None:
        """Note a line, with its price and the regular one that the shop states, None where it is not known."""
        cheaper = price is not None and regular is not None and price < _cheaper * regular
        self.days_off.buy(day, pieces)
        self.promotions.buy(item, day, pieces, cheaper, self.sales)
        if self.sales.week_of(day) == self.sales.week:
            self.prices.buy(item, price, regular)

    def turn(self, week: int) -> None:
        """End the weeks from `week` until the one that the sales have begun."""
        sales = self.sales
        self.days_off.turn(sales, week)
        self.promotions.turn(sales, week, lambda slots: self._usual(slots, week))
        slots = np.arange(len(sales))
        new = [self._likeness_of(sales.name(slot)) for slot in range(len(self._columns), len(sales))]
        columns = [self.seasons.column(one.category) for one in new]
        self._columns = np.concatenate([self._columns, np.array(columns, np.int64)])
        self.prices.turn(sales, week, self._columns, [one.price for one in new], self._unpriced)
        if sales.period_days == _season_days:
            weeks = np.full((1, len(slots)), week)
            pieces, _, _ = sales.before(slots, np.full(len(slots), week + 1), 1)
            # A sale or a holiday comes at another time of the next year.
            for held in (self.promotions.factors(slots, weeks, sales), self.days_off.of_weeks(weeks, sales)):
                pieces = pieces if held is None else pieces / np.maximum(held, _factor_min)
            self.seasons.turn(week, sales.week, self._columns, pieces[0])

    def _usual(self, slots: Slots, week: int) -> Floats:
        """Return what items sold lately per ordinary week before `week`. Shape (S,)"""
        weeks = np.full(len(slots), week)
        history, _ = history_of(self.sales, slots, weeks, self.each)
        ages = np.minimum(week - self.sales.first_weeks(slots), week - self.sales.began)
        return np.asarray(np.add.reduce(history[-_recent:], axis=0) / np.clip(ages, 1.0, _recent))

    def each(self, slots: Slots, weeks: NDArray[np.int64]) -> Floats | None:
        """Return the factor of each item in weeks, None if all are 1. Shapes: slots (R,), weeks and result (n, R)"""
        priced = self.prices.factors(slots, weeks, self._columns, self.sales)
        return _product([self._unpriced(slots, weeks), priced])

    def _unpriced(self, slots: Slots, weeks: NDArray[np.int64]) -> Floats | None:
        """Return the factors as of `each`, without those of regular prices."""
        sales = self.sales
        one = self.promotions.factors(slots, weeks, sales)
        return _product([one, self._seasonal(slots, weeks), self.days_off.of_weeks(weeks, sales)])

    def _seasonal(self, slots: Slots, weeks: NDArray[np.int64]) -> Floats | None:
        if not self.seasons.strength:
            return None
        columns = np.append(self._columns, np.zeros(max(0, len(self.sales) - len(self._columns)), np.int64))
        return self.seasons.factors(weeks, columns[slots])

    def over(self, slots: Slots, weeks: NDArray[np.int64], count: int) -> Floats | None:
        """Return the mean factor of `count` weeks from each of some on. Shapes: slots, weeks, result (R,)"""
        found = self.each(slots, weeks + np.arange(count)[:, None])
        return None if found is None else np.asarray(np.add.reduce(found, axis=0) / count)

    def days(self, slot: int) -> Floats | None:
        """Return the factor of each day of the running week, None if all are 1. Shape (period_days,)"""
        sales = self.sales
        announced = self.promotions.announced(sales.name(slot), sales.week, sales)
        days = sales.first_day(sales.week) + np.arange(sales.period_days)
        found = self.days_off.of_days(days)
        if announced.any():
            found = found * np.where(announced > 0, self.promotions.uplift(np.array([slot]), sales)[0], 1.0)
        return None if np.all(found == 1.0) else np.asarray(found)

    def assumes(self, slot: int) -> list[str]:
        """Return in words which factors the forecasts of an item hold."""
        said, sales = [], self.sales
        weeks = [self.promotions.announced(sales.name(slot), sales.week + n, sales) for n in range(_ahead)]
        if days := int(np.count_nonzero(np.concatenate(weeks))):
            uplift = float(self.promotions.uplift(np.array([slot]), sales)[0])
            said.append(
                f"On {days} of the days that are forecast it is on sale: {uplift:.2f} times as much is expected on"
                " them."
            )
        column = int(self._columns[slot]) if slot < len(self._columns) else 0
        if (priced := self.prices.change(slot, column, sales)) is not None:
            said.append(
                f"Its price is {priced.now:,.2f}, and was {priced.before:,.2f} in the last {_recent} weeks:"
                f" {priced.factor:.2f} times as much is expected (elasticity {priced.elasticity:.2f})."
            )
        weeks_ahead = sales.week + np.arange(_ahead)[:, None]
        season = self._seasonal(np.array([slot]), weeks_ahead)
        if season is not None:
            told = ", ".join(f"{float(one):.2f}" for one in season[:, 0])
            said.append(
                f"By the season of a year ago the next {_ahead} weeks are {told} times those lately"
                f" (strength {self.seasons.strength:.2f})."
            )
        first, until = sales.first_day(sales.week), sales.first_day(sales.week + _ahead)
        held = [day for day in range(first, until) if self.days_off.kind(day) == 0]
        if held and self.days_off.of_weeks(weeks_ahead, sales) is not None:
            own, before = self.days_off.factors.tolist()
            said.append(
                f"{len(held)} of the days that are forecast are holidays of {self.days_off.country}: {own:.2f} times as"
                f" much as usual is expected on them, and {before:.2f} times on the day before."
            )
        return said

    def renumber(self, moved: NDArray[np.int32]) -> None:
        """Follow items to other slots, by former slot."""
        self.promotions.renumber(moved)
        self.prices.renumber(moved, self.sales)
        kept = np.flatnonzero(moved[: len(self._columns)] != NO_SLOT)
        self._columns = self._columns[kept].copy()

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return (
            self.promotions.bounds()
            | self.prices.bounds(self.sales.items_max)
            | self.seasons.bounds()
            | self.days_off.bounds()
        )

    def state(self) -> dict[str, Any]:
        """Return all of it, the sales aside."""
        return {
            "promotions": self.promotions.state(), "seasons": self.seasons.state(), "days_off": self.days_off.state(),
            "prices": self.prices.state(), "columns": self._columns.copy(),
        }  # fmt: skip

    @classmethod
    def from_state(
        cls, state: dict[str, Any], sales: Sales, likeness_of: Callable[[str], Likeness] = _none, country: str = ""
    ) -> Self:
        """Return what continues where `state` was taken."""
        found = cls(sales, likeness_of)
        found.seasons = Seasons.from_state(state["seasons"])
        found.days_off = DaysOff.from_state(state["days_off"], country)
        found.prices = Prices.from_state(state["prices"])
        found._columns = state["columns"].copy()
        found.promotions = Promotions.from_state(state["promotions"], sales.items_max)
        return found


def _product(factors: Sequence[Floats | None]) -> Floats | None:
    """Return the products of factors, bounded; None if all are."""
    known = [one for one in factors if one is not None]
    return np.maximum(reduce(np.multiply, known), _factor_min) if known else None
