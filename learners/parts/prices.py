"""Prices: the usual price of items or categories, of which a newer one may be above or below."""

from collections import OrderedDict
from math import copysign
from typing import Any, Final

from msgspec import Struct

prices_counted_min: Final = 5
"""Least number of prices of which a mean is known."""
prices_counted_max: Final = 200
"""A mean price averages over about this number of newest prices, so that it follows drifting prices."""
above_max: Final = 2.0
"""Largest excess of a log price that is told."""


class _MeanPrice(Struct, gc=False):
    """A mean of log prices, weighted to newer ones, and the number of prices in it."""

    mean: float
    count: int


class MeanPrices:
    """Mean log prices by name. Above the maximum, the name least recently priced is evicted.

    >>> prices = MeanPrices(9)
    >>> [prices.learn("shoes", level) for level in (3.0, 3.0, 3.0, 3.0, 3.0, 3.5)], prices.above("boots", 3.0)
    ([0.0, 0.0, 0.0, 0.0, 0.0, 0.5], 0.0)
    """

    def __init__(self, names_max: int) -> None:
        self.names_max = names_max
        # Least recently priced first. An OrderedDict, because a dict finds its first key only after all deleted ones.
        self.means: OrderedDict[str, _MeanPrice] = OrderedDict()

    def learn(self, name: str, level: float) -> float:
        """Learn a log price; return its excess over the mean before it, 0 if that mean is of too few prices."""
        means = self.means
        mean_price = means.get(name)
        if mean_price is None:
            means[name] = _MeanPrice(level, 1)
            if len(means) > self.names_max:
                means.popitem(last=False)
            return 0.0
        means.move_to_end(name)
        count, above = mean_price.count, level - mean_price.mean
        known = count >= prices_counted_min
        if count < prices_counted_max:
            mean_price.count = count = count + 1
        mean_price.mean += above / count
        return (above if -above_max < above < above_max else copysign(above_max, above)) if known else 0.0

    def above(self, name: str, level: float) -> float:
        """Return the value that `learn` would return."""
        mean_price = self.means.get(name)
        if mean_price is None or mean_price.count < prices_counted_min:
            return 0.0
        above = level - mean_price.mean
        return above if -above_max < above < above_max else copysign(above_max, above)

    def knows(self, name: str) -> bool:
        """Return whether the mean of a name is of enough prices."""
        mean_price = self.means.get(name)
        return mean_price is not None and mean_price.count >= prices_counted_min

    def state(self) -> list[Any]:
        """Return all means, that of the name least recently priced first."""
        return [[name, mean_price.mean, mean_price.count] for name, mean_price in self.means.items()]

    def restore(self, state: list[Any]) -> None:
        """Continue where `state` was taken; of more names than the maximum, with the newest."""
        self.means = OrderedDict((name, _MeanPrice(mean, count)) for name, mean, count in state[-self.names_max :])
