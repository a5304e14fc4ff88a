"""Occasions: what is known of weeks beside what was sold in them, as factors on an item's ordinary pieces.

The weeks of the history are divided by their factors and the forecast is multiplied by those of the weeks that it is
of. So what an occasion sells moves no level, and is expected when it is known to come again. Without any, every factor
is None, and nothing is multiplied.
"""

from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.items import ItemRecord
from learners.demand.features import history_of
from learners.demand.promotions import Promotions
from learners.demand.sales import Floats, Sales, Slots

_ahead: Final = 4
"""Weeks that are forecast, at most."""
_recent: Final = 8
"""Weeks whose mean is what an item sells per ordinary week lately."""
_cheaper: Final = 0.98
"""A line that costs less than this share of the regular price was bought on sale."""
_factor_min: Final = 0.05
"""The least factor by which a week of the history is divided."""


class Occasions:
    """What changes the sales of weeks: promotions."""

    def __init__(self, sales: Sales) -> None:
        self.sales = sales
        self.promotions = Promotions(sales.items_max)

    def hear(self, stated: ItemRecord, time_ms: int) -> None:
        """Note what the shop states of an item."""
        self.promotions.state_sale(stated.id, stated, self.sales, time_ms)

    def buy(self, item: str, day: int, pieces: float, price: float | None, regular: float | None) -> None:
        """Note a line, with its price and the regular one that the shop states, None where it is not known."""
        cheaper = price is not None and regular is not None and price < _cheaper * regular
        self.promotions.buy(item, day, pieces, cheaper, self.sales)

    def turn(self, week: int) -> None:
        """End the weeks from `week` until the one that the sales have begun."""
        self.promotions.turn(self.sales, week, lambda slots: self._usual(slots, week))

    def _usual(self, slots: Slots, week: int) -> Floats:
        """Return what items sold lately per ordinary week before `week`. Shape (S,)"""
        weeks = np.full(len(slots), week)
        history, _ = history_of(self.sales, slots, weeks, self.each)
        ages = np.minimum(week - self.sales.first_weeks(slots), week - self.sales.began)
        return np.asarray(np.add.reduce(history[-_recent:], axis=0) / np.clip(ages, 1.0, _recent))

    def each(self, slots: Slots, weeks: NDArray[np.int64]) -> Floats | None:
        """Return the factor of each item in weeks, None if all are 1. Shapes: slots (R,), weeks and result (n, R)"""
        found = self.promotions.factors(slots, weeks, self.sales)
        return None if found is None else np.maximum(found, _factor_min)

    def over(self, slots: Slots, weeks: NDArray[np.int64], count: int) -> Floats | None:
        """Return the mean factor of `count` weeks from each of some on. Shapes: slots, weeks, result (R,)"""
        found = self.each(slots, weeks + np.arange(count)[:, None])
        return None if found is None else np.asarray(np.add.reduce(found, axis=0) / count)

    def days(self, slot: int) -> Floats | None:
        """Return the factor of each day of the running week, None if all are 1. Shape (period_days,)"""
        announced = self.promotions.announced(self.sales.name(slot), self.sales.week, self.sales)
        if not announced.any():
            return None
        uplift = self.promotions.uplift(np.array([slot]), self.sales)[0]
        return np.where(announced > 0, uplift, 1.0)

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
        return said

    def renumber(self, moved: NDArray[np.int32]) -> None:
        """Follow items to other slots, by former slot."""
        self.promotions.renumber(moved)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return self.promotions.bounds()

    def state(self) -> dict[str, Any]:
        """Return all of it, the sales aside."""
        return {"promotions": self.promotions.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any], sales: Sales) -> Self:
        """Return what continues where `state` was taken."""
        found = cls(sales)
        found.promotions = Promotions.from_state(state["promotions"], sales.items_max)
        return found
