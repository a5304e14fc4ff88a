"""When an item must be ordered, and how much of it. Pure, for many items at once.

Stock is reviewed every `review_days`. An order arrives after a lead time that varies. What is on hand and on order must
last until the order after this one could arrive: through the review period and the lead time. The demand within that
time is a mixture of its distributions for three lead times, which have the mean and the spread that are stated.

An item is ordered when what is on hand and on order is at most the *reorder point* s, and then up to the *order-up-to
level* S. By cost, s and the quantity Q = S - s minimise what an order, a piece in the warehouse and a lost sale cost,
with the usual approximation that demand beyond s is lost once in each cycle:

    P(demand > s) = h Q / (p r + h Q)        Q = sqrt(2 r (K + p E[demand - s]+) / h)

where r is the demand per day, K the cost of an order, h that of a piece in stock for a day, and p the margin that is
lost with a sale. By service, s is the least level of which at most the share 1 - fill rate of what is ordered is
lost: E[demand - s]+ <= (1 - fill rate) Q. What cannot be sold before it perishes is not ordered: S is at most the
newsvendor's quantity, the quantile margin / price of the demand within lead time and shelf life.

Source: Hadley and Whitin, "Analysis of inventory systems", 1963, chapter 4 (the iteration for s and Q with lost
sales); Silver, Pyke and Thomas, "Inventory and production management in supply chains", 4th edition, 2017, chapters 4
(EOQ), 6 (fill rate), 9 (newsvendor) and 10 (budgets by marginal analysis). Zheng and Federgruen, Operations Research
39 (1991), compute (s, S) exactly for a demand that does not change; ours does, so that their accuracy would be lost.
"""

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

LEVELS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
"""The levels of the quantiles by which a distribution of demand is given."""
_EDGES: Final = np.concatenate([np.linspace(0, 0.9, 19), np.linspace(0.9, 0.99, 10)[1:], [0.995, 0.998, 0.999, 0.9999]])
_MASS: Final = np.diff(_EDGES) / _EDGES[-1]
_POINTS: Final = tuple(((_EDGES[:-1] + _EDGES[1:]) / 2).tolist())
"""A distribution is approximated by these quantiles with these weights, closer where service levels are."""
_BELOW: Final = np.cumsum(_MASS)
_LEADS: Final = ((-math.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (math.sqrt(3.0), 1 / 6))
"""Lead times in standard deviations from the mean, and their weights: Gauss-Hermite's, exact to the fifth moment."""
_NORMAL: Final = np.array([[NormalDist().inv_cdf(level)] for level in LEVELS])
_iterations: Final = 6
_days_a_year: Final = 365.0
pieces_max: Final = 1e9
cover_max_days: Final = 365.0
"""Days of demand that an order is at most, unless a pack or the minimum is more: of a cheap item the usual formula
orders what lasts for decades."""


class Demand(NamedTuple):
    """What will be demanded within some days: the mean, and the quantiles at LEVELS. Shapes: (I,), (8, I)"""

    mean: Floats
    quantiles: Floats


Expected = Callable[[Floats], Demand]
"""Returns what will be demanded of each item within some days from now. Shape of the days: (I,)"""


class Terms(NamedTuple):
    """What it costs to order, to keep and not to have each item, and how it is bought. Shapes: (I,)

    Attributes:
        cost: what the shop pays for a piece.
        margin: what a sale earns beyond the cost.
        lead_days, lead_spread_days: from an order until it arrives: mean and standard deviation.
        pack: orders are multiples of so many pieces.
        minimum: the least pieces of an order.
        shelf_days: how long a piece can be sold; infinite if it does not perish.
    """

    cost: Floats
    margin: Floats
    lead_days: Floats
    lead_spread_days: Floats
    pack: Floats
    minimum: Floats
    shelf_days: Floats


class Costs(NamedTuple):
    """What holds for all items: the cost of an order line, of keeping stock for a year as a share of its cost, and the
    days between two reviews. `fill_rate` is the share of demanded pieces that is wanted from stock; None: by cost."""

    order: float
    holding_a_year: float = 0.25
    review_days: float = 1.0
    fill_rate: float | None = None


class Levels(NamedTuple):
    """The reorder point and the order-up-to level of each item, and what they are computed from. Shapes: (I,)

    Attributes:
        reorder, up_to: in pieces.
        rate: pieces that are demanded per day.
        expected: mean demand until an order after the next review would arrive.
        short: pieces that are expected to be lost in each cycle, after the stock was at `reorder`.
        perishing: whether the shelf life limits `up_to`.
    """

    reorder: Floats
    up_to: Floats
    rate: Floats
    expected: Floats
    short: Floats
    perishing: NDArray[np.bool_]


class Mixture:
    """The distribution of demand until an order arrives, by weighted points, for each item.

    >>> def sure(days):
    ...     return Demand(2 * days, np.tile(2 * days, (8, 1)))
    >>> within = Mixture.of(sure, np.array([7.0]), np.array([3.0]))
    >>> round(float(within.quantile(np.array([0.5]))[0]), 6), round(float(within.beyond(np.array([14.0]))[0]), 3)
    (14.0, 1.732)
    """

    def __init__(self, points: Floats, weights: Floats) -> None:
        """Take points in any order, shape (I, P), with the same weights for all items, shape (P,)."""
        self._given, self._weights = points, weights

    @cached_property
    def _order(self) -> Places:
        return np.argsort(self._given, axis=1, kind="stable")

    @cached_property
    def points(self) -> Floats:
        """The points in increasing order. Shape (I, P)"""
        return np.take_along_axis(self._given, self._order, axis=1)

    @cached_property
    def _below(self) -> Floats:
        return np.asarray(np.cumsum(self._weights[self._order], axis=1))

    @cached_property
    def short(self) -> Floats:
        """The expected demand beyond each point. Shape (I, P)"""
        above = np.maximum(1.0 - self._below[:, :-1], 0.0) * np.diff(self.points, axis=1)
        found = np.zeros_like(self.points)
        found[:, :-1] = np.cumsum(above[:, ::-1], axis=1)[:, ::-1]
        return found

    @classmethod
    def of(cls, expected: Expected, days: Floats, spread: Floats) -> "Mixture":
        """Return the distribution of demand within a time of this mean and standard deviation."""
        points, weights = [], []
        for deviations, weight in _LEADS:
            points.append(quantiles(expected(np.maximum(days + deviations * spread, 0.0)), _POINTS))
            weights.append(weight * _MASS)
        return cls(np.concatenate(points).T, np.concatenate(weights))

    def at(self, place: Places) -> tuple[Floats, Floats]:
        """Return a point of each item, and the expected demand beyond it. Shapes: (I,)"""
        rows = np.arange(len(place))
        return np.asarray(self.points[rows, place]), np.asarray(self.short[rows, place])

    def place(self, level: Floats) -> Places:
        """Return the place of the least point up to which the demand is with this probability. Shapes: (I,)"""
        return self._place(self._below < level[:, None] - 1e-12)

    def quantile(self, level: Floats) -> Floats:
        """Return the least point up to which the demand is with this probability. Shapes: (I,)"""
        return self.at(self.place(level))[0]

    def least(self, shortage: Floats) -> Places:
        """Return the place of the least point beyond which at most this is expected to be demanded. Shapes: (I,)"""
        return self._place(self.short > shortage[:, None])

    def _place(self, before: NDArray[np.bool_]) -> Places:
        return np.asarray(np.minimum(np.count_nonzero(before, axis=1), self.points.shape[1] - 1))

    def beyond(self, stock: Floats) -> Floats:
        """Return the expected demand beyond a stock. Shapes: (I,)"""
        return np.asarray((np.maximum(self._given - stock[:, None], 0.0) * self._weights).sum(axis=1))

    def above(self, stock: Floats) -> Floats:
        """Return the probability that more than a stock is demanded. Shapes: (I,)"""
        return np.asarray((self._weights * (self._given > stock[:, None] + 1e-9)).sum(axis=1))


def quantiles(demand: Demand, levels: tuple[float, ...]) -> Floats:
    """Return the quantiles at some levels: between those that are given on straight lines, above on an exponential's
    tail, below on a straight line that ends at 0 or before. Shape (P, I)

    >>> normal = Demand(np.array([10.0]), np.array([[3.0], [5], [8], [10], [12], [15], [17], [20]]))
    >>> quantiles(normal, (0.0, 0.5, 0.95, 0.992)).round(1).ravel().tolist()
    [1.0, 10.0, 17.0, 23.0]
    """
    given = np.maximum.accumulate(np.maximum(demand.quantiles, 0.0), axis=0)
    lowest = np.maximum(2 * given[0] - given[1], 0.0)  # the line goes on from the lowest two
    known = np.concatenate([lowest[None], given])
    low, share, tail = _between(levels)
    found = known[low] + share * (known[low + 1] - known[low])
    scale = (given[-1] - given[-2]) / math.log((1 - LEVELS[-2]) / (1 - LEVELS[-1]))
    return np.asarray(found + tail * scale)


@lru_cache(maxsize=8)
def _between(levels: tuple[float, ...]) -> tuple[Places, Floats, Floats]:
    """Return, for each level, the given one below it, how far it is to the next, and how far into the tail.

    Shapes: (P,), (P, 1), (P, 1)
    """
    at, wanted = np.array((0.0, *LEVELS)), np.array(levels)
    low = np.clip(np.searchsorted(at, wanted, side="right") - 1, 0, len(at) - 2)
    share = (np.minimum(wanted, at[-1]) - at[low]) / (at[low + 1] - at[low])
    tail = np.array([max(0.0, math.log((1 - LEVELS[-1]) / max(1 - level, 1e-9))) for level in levels])
    return low, share[:, None], tail[:, None]


def ceiling(expected: Expected, days: Floats, spread: Floats, level: Floats) -> Floats:
    """Return a bound of `Mixture.of(expected, days, spread).quantile(level)` from above, which is much quicker.

    A quantile of a mixture is at most the largest one of its parts: that of the longest lead time, in which most is
    demanded. Shapes: (I,)

    >>> def steady(days):
    ...     return Demand(2 * days, 2 * days + np.sqrt(2 * days) * np.array([[-1.6], [-1.3], [-.7], [0], [.7], [1.3],
    ...                                                                    [1.6], [2.1]]))
    >>> week, level = np.full(3, 7.0), np.array([0.5, 0.9, 0.999])
    >>> ceiling(steady, week, week / 7, level).round(1).tolist()
    [17.5, 22.9, 34.4]
    >>> Mixture.of(steady, week, week / 7).quantile(level).round(1).tolist()
    [13.7, 19.5, 29.2]
    """
    demand = expected(np.maximum(days + _LEADS[-1][0] * spread, 0.0))
    given = np.maximum.accumulate(np.maximum(demand.quantiles, 0.0), axis=0)
    point = np.minimum(np.searchsorted(_BELOW, level + 1e-9), len(_POINTS) - 1)
    above = np.searchsorted(LEVELS, _POINTS)[point]  # of the levels that are given, the next one
    tail = quantiles(demand, _POINTS[-1:])
    return np.asarray(np.concatenate([given, tail])[above, np.arange(len(point))])


def levels(expected: Expected, terms: Terms, costs: Costs, within: Mixture | None = None) -> Levels:
    """Return the reorder points and order-up-to levels.

    Args:
        within: as of `covered`, if that is known.

    >>> def steady(days):
    ...     return Demand(2 * days, 2 * days + np.sqrt(2 * days) * np.array([[-1.6], [-1.3], [-.7], [0], [.7], [1.3],
    ...                                                                    [1.6], [2.1]]))
    >>> one = np.ones(1)
    >>> terms = Terms(6 * one, 4 * one, 7 * one, 3 * one, one, one, np.full(1, np.inf))
    >>> found = levels(steady, terms, Costs(order=45.0))
    >>> found.reorder.tolist(), found.up_to.tolist()
    ([26.0], [240.0])
    >>> levels(steady, terms, Costs(order=45.0, fill_rate=0.99)).reorder.tolist()
    [18.0]
    """
    within = covered(expected, terms, costs.review_days) if within is None else within
    rate, holding, lost = _by_day(expected, terms, costs)
    quantity = _quantity(rate, holding, np.full(len(rate), costs.order), terms)
    for _ in range(_iterations):
        if costs.fill_rate is None:
            place = within.place(_wanted(rate, holding, lost, quantity))
        else:
            place = within.least((1 - costs.fill_rate) * quantity)
        reorder, short = within.at(place)
        quantity = _quantity(rate, holding, costs.order + lost * short, terms)
    reorder = np.ceil(np.minimum(reorder, pieces_max) - 1e-6)
    up_to = reorder + np.maximum(1.0, np.round(quantity))
    perishing = np.zeros(len(rate), np.bool_)
    if np.isfinite(terms.shelf_days).any():
        life = np.where(np.isfinite(terms.shelf_days), terms.shelf_days, 0.0)
        price = np.maximum(terms.cost + lost, 1e-12)
        sells = np.floor(Mixture.of(expected, terms.lead_days + life, terms.lead_spread_days).quantile(lost / price))
        perishing = np.isfinite(terms.shelf_days) & (sells < up_to)
        up_to = np.where(perishing, np.maximum(sells, 0.0), up_to)
        reorder = np.where(perishing, np.minimum(reorder, up_to - 1), reorder)
    mean = expected(costs.review_days + terms.lead_days).mean
    return Levels(reorder, np.minimum(up_to, pieces_max), rate, mean, short, perishing)


def covered(expected: Expected, terms: Terms, review_days: float) -> Mixture:
    """Return the distribution of what is demanded until an order after the next review could arrive."""
    return Mixture.of(expected, review_days + terms.lead_days, terms.lead_spread_days)


def reachable(expected: Expected, terms: Terms, costs: Costs) -> Floats:
    """Return bounds of the reorder points from above: what has more is not due, and `levels` need not tell when it is.

    By cost, the first quantity of the iteration is the least, so that its quantile is the highest. Shapes: (I,)
    """
    rate, holding, lost = _by_day(expected, terms, costs)
    level = np.ones(len(rate))
    if costs.fill_rate is None:
        level = _wanted(rate, holding, lost, _quantity(rate, holding, np.full(len(rate), costs.order), terms))
    return np.ceil(ceiling(expected, costs.review_days + terms.lead_days, terms.lead_spread_days, level))


def _by_day(expected: Expected, terms: Terms, costs: Costs) -> tuple[Floats, Floats, Floats]:
    """Return what is demanded a day, what a piece costs a day in stock, and what a lost sale costs. Shapes: (I,)"""
    month = np.full(len(terms.cost), 28.0)
    rate = np.maximum(expected(month).mean / month, 1e-9)
    holding = np.maximum(terms.cost * costs.holding_a_year / _days_a_year, 1e-12)
    return rate, holding, np.maximum(terms.margin, 0.0)


def _quantity(rate: Floats, holding: Floats, cycle: Floats, terms: Terms) -> Floats:
    """Return how much to order if this is what a cycle costs. Shapes: (I,)"""
    most = rate * cover_max_days
    return np.maximum(np.minimum(np.sqrt(2 * rate * cycle / holding), most), np.maximum(terms.minimum, terms.pack))


def _wanted(rate: Floats, holding: Floats, lost: Floats, quantity: Floats) -> Floats:
    """Return the probability with which the demand is to be covered. Shapes: (I,)"""
    return 1 - holding * quantity / (lost * rate + holding * quantity)


def order(found: Levels, terms: Terms, position: Floats) -> Floats:
    """Return how many pieces of each item to order now. Shapes: (I,)

    Args:
        position: pieces on hand and on order.

    >>> one = np.ones(3)
    >>> terms = Terms(one, one, one, one, 6 * one, 12 * one, np.array([np.inf, np.inf, 3.0]))
    >>> found = Levels(10 * one, 25 * one, one, one, one, np.array([False, False, True]))
    >>> order(found, terms, np.array([11.0, 10.0, 10.0])).tolist()
    [0.0, 18.0, 12.0]
    """
    wanted = np.maximum(found.up_to - position, 0.0)
    packs = wanted / terms.pack
    # What perishes is rounded down, so that the pack's last pieces are not thrown away.
    packs = np.where(found.perishing, np.floor(packs), np.ceil(packs - 1e-9))
    least = np.ceil(terms.minimum / terms.pack)
    pieces = np.where(packs > 0, np.maximum(packs, least), 0.0) * terms.pack
    return np.asarray(np.where(position <= found.reorder, pieces, 0.0))


def worth(found: Levels, terms: Terms, costs: Costs) -> Floats:
    """Return what it earns per day to keep an item in stock by these levels, beside never ordering it. Shapes: (I,)

    It is the margin of what is sold, less what the orders and the stock cost: half of the quantity, and what is left
    in the mean when an order arrives.

    >>> one = np.ones(2)
    >>> terms = Terms(6 * one, 4 * one, 7 * one, 3 * one, one, one, np.full(2, np.inf))
    >>> found = Levels(2 * one, np.array([42.0, 8.0]), np.array([0.5, 0.02]), one, 0 * one, np.zeros(2, np.bool_))
    >>> worth(found, terms, Costs(order=45.0)).round(2).tolist()
    [1.35, -0.09]
    """
    quantity = np.maximum(found.up_to - found.reorder, 1.0)
    cycles = found.rate / quantity
    kept = quantity / 2 + np.maximum(found.reorder - found.expected, 0.0)
    keeping = terms.cost * costs.holding_a_year / _days_a_year
    return np.asarray(terms.margin * (found.rate - found.short * cycles) - costs.order * cycles - keeping * kept)


def gain(expected: Expected, terms: Terms, costs: Costs, position: Floats, pieces: Floats, wait_days: float) -> Floats:
    """Return what ordering so many pieces now earns, beside ordering them only after some days. Shapes: (I,)

    It is the margin of what would be sold out meanwhile, less its share of the order's cost, and what keeping the
    pieces for these days costs.
    """
    waiting = Mixture.of(expected, terms.lead_days + costs.review_days + wait_days, terms.lead_spread_days)
    saved = waiting.beyond(position) - waiting.beyond(position + pieces)
    keeping = terms.cost * costs.holding_a_year / _days_a_year * wait_days
    return np.asarray(saved * (terms.margin - costs.order / np.maximum(pieces, 1.0)) - keeping * pieces)


def within_budget(value: Floats, spent: Floats, budget: float) -> NDArray[np.bool_]:
    """Return which orders to place so that they cost no more than a budget: the most gain per unit of money first.

    An order that no longer fits is left out, and cheaper ones after it may fit. Orders that gain nothing are left out.

    >>> within_budget(np.array([5.0, 9.0, 1.0, -1.0]), np.array([10.0, 30.0, 1.0, 1.0]), 32.0).tolist()
    [True, False, True, False]
    """
    chosen = np.zeros(len(value), np.bool_)
    left = budget
    for place in np.argsort(-value / np.maximum(spent, 1e-12), kind="stable").tolist():
        if value[place] > 0 and 0 < spent[place] <= left:
            chosen[place] = True
            left -= float(spent[place])
    return chosen


def gamma(mean: Floats, variance: Floats) -> Floats:
    """Return the quantiles at LEVELS of gamma distributions, by Wilson and Hilferty's approximation.

    Shapes: (I,); result: (levels, I)

    >>> gamma(np.array([100.0]), np.array([100.0]))[[0, 3, 6]].round(0).ravel().tolist()
    [84.0, 100.0, 117.0]
    """
    shape = np.maximum(mean, 1e-12) ** 2 / np.maximum(variance, 1e-12)
    width = 1 / (9 * np.maximum(shape, 1e-3))
    roots = np.maximum(1 - width + _NORMAL * np.sqrt(width), 0.0)
    return np.asarray(mean * roots * roots * roots)
