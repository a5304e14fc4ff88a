"""A simulated warehouse: demand that drifts, has seasons and promotions, and sales that end where stock does.

Every shop has some items. The demand of an item is a rate in pieces per day, times

- the weekday's factor and the season's: a wave over the year, with an amplitude and phase of its item's group;
- a promotion's factor: an item has about four promotions a year of 7 or 14 days, in which 2 to 4 times as much is
  demanded. Each is announced 28 days before;
- drift: the rate's logarithm walks at random (0.03 a week), and once in two years it jumps to about a half, or to twice
  as much.

Customers' lines arrive as a Poisson process; a line has 1 + geometric pieces. A third of the items is intermittent:
they sell a line in one to seven weeks. What is demanded beyond what is on hand is lost, and nobody sees it.

Orders arrive after round(N(7, 3)) days, at least 1. The shop's planner sees the stock and the sales of each day, may
order at each day's end, and knows what has been announced.
"""

from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAD_DAYS: Final = 7.0
LEAD_SPREAD_DAYS: Final = 3.0
LEAD_MAX: Final = 24
ANNOUNCED_DAYS: Final = 28
MARGIN: Final = 0.4
"""Of the price."""
HOLDING_A_YEAR: Final = 0.25
"""Of the cost."""
ORDER_LINES: Final = 5.0
"""The cost of an order of an item, in mean values of a customer's line at cost."""
HISTORY_DAYS: Final = 60 * 7
"""Days before costs count: a year is needed to see a season."""
UNKNOWN_DAYS: Final = 8 * 7
"""Days before the first order: nothing is known then, and what is there is enough."""
DAYS: Final = HISTORY_DAYS + 52 * 7
_YEAR: Final = 365.0
_WEEKDAYS: Final = np.array([0.9, 0.85, 0.9, 0.95, 1.1, 1.3, 1.0])


class World(NamedTuple):
    """What happens in a shop, whatever is ordered, and what its planner is told.

    Attributes:
        rate: the true expected demand.
        demand, lines: pieces that are demanded, and customers' lines.
        promoted: whether a promotion runs.
        sale_from, sale_until: the days of the promotion that runs or comes next; infinite after the last.
        line: mean pieces of a line; dispersion: variance of a day's demand over its mean.
        leads: the lead time of an order that is placed on this day.
        cost, price: of a piece; order_cost: of an order of one item.

    Shapes: rate, demand, lines, promoted, sale_from, sale_until, leads: (DAYS + 60, I); others: (I,)
    """

    rate: Floats
    demand: Floats
    lines: Floats
    promoted: NDArray[np.bool_]
    sale_from: Floats
    sale_until: Floats
    line: Floats
    dispersion: Floats
    leads: NDArray[np.int64]
    cost: Floats
    price: Floats
    order_cost: Floats


def world(seed: int, items: int) -> World:
    """Return a shop."""
    rng = np.random.default_rng(seed)
    days = DAYS + 60  # so that what comes after the last day can be asked for
    frequent = rng.lognormal(np.log(1.5), 0.9, items)
    intermittent = rng.random(items) < 1 / 3
    line = 1 + rng.gamma(2.0, 0.5, items)
    rate = np.where(intermittent, line / rng.uniform(7, 49, items), frequent)
    group = rng.integers(0, 5, items)
    amplitude, phase = rng.uniform(0.1, 0.6, 5)[group], rng.uniform(0, 1, 5)[group]
    day = np.arange(days)
    season = np.exp(amplitude * np.sin(2 * np.pi * (day[:, None] / _YEAR + phase)))
    weeks = days // 7 + 1
    steps = rng.normal(0, 0.03, (weeks, items))
    jumps = rng.random((weeks, items)) < 1 / 104
    steps += jumps * rng.choice([-1.0, 1.0], (weeks, items)) * rng.uniform(0.5, 1.1, (weeks, items))
    drift = np.exp(np.cumsum(steps, axis=0) - steps[0])[day // 7]
    promoted, factor, sale_from, sale_until = _promotions(rng, days, items)
    path = rate * season * drift * factor * _WEEKDAYS[day % 7][:, None]
    lines = rng.poisson(path / line)
    more = rng.negative_binomial(np.maximum(lines, 1), 1 / line) * (lines > 0)
    demand = (lines + more).astype(np.float64)
    cost = np.exp(rng.normal(np.log(10), 0.6, items))
    share = rate / line
    order_cost = ORDER_LINES * float((share * line * cost).sum() / share.sum())
    leads = np.clip(np.rint(rng.normal(LEAD_DAYS, LEAD_SPREAD_DAYS, (days, items))), 1, LEAD_MAX - 1)
    return World(
        path, demand, lines.astype(np.float64), promoted, sale_from, sale_until, line, 2 * line - 1,
        leads.astype(np.int64), cost, cost / (1 - MARGIN), np.full(items, order_cost),
    )  # fmt: skip


def _promotions(rng: np.random.Generator, days: int, items: int) -> tuple[NDArray[np.bool_], Floats, Floats, Floats]:
    promoted, factor = np.zeros((days, items), np.bool_), np.ones((days, items))
    sale_from, sale_until = np.full((days, items), np.inf), np.full((days, items), np.inf)
    for item in range(items):
        start, before = int(rng.integers(0, 91)), 0
        while start < days:
            end = start + int(rng.choice([7, 14]))
            promoted[start:end, item], factor[start:end, item] = True, rng.uniform(2.0, 4.0)
            sale_from[before:end, item], sale_until[before:end, item] = start, end
            before = end
            start = end + int(rng.integers(45, 120))
    return promoted, factor, sale_from, sale_until


class Seen(NamedTuple):
    """What the planner sees at a day's end. Shapes: (I,)

    Attributes:
        day: days from the beginning.
        sold, lines: pieces sold on this day, and in how many lines.
        away: the share of the day in which the item was out of stock.
        promoted: whether a promotion runs.
        position: pieces on hand and on order.
        sale_from, sale_until: the days of the promotion that runs or comes next, if it is announced; else infinite.
    """

    day: int
    sold: Floats
    lines: Floats
    away: Floats
    promoted: NDArray[np.bool_]
    position: Floats
    sale_from: Floats
    sale_until: Floats


class Planner(Protocol):
    """Orders for a shop."""

    def order(self, seen: Seen) -> Floats:
        """Return how many pieces of each item to order at a day's end. Called once a day."""


class Outcome(NamedTuple):
    """What a year cost: holding, orders and lost margin; and pieces demanded and sold. Shapes: (I,)"""

    holding: Floats
    orders: Floats
    lost: Floats
    demanded: Floats
    sold: Floats

    @property
    def cost(self) -> Floats:
        """The sum of the costs."""
        return self.holding + self.orders + self.lost


def run(shop: World, planner: Planner) -> Outcome:
    """Let a planner order for a shop; return what the days after its history cost."""
    items = len(shop.line)
    on_hand = np.ceil(shop.rate[:28].mean(axis=0) * 90)
    arriving = np.zeros((LEAD_MAX, items))
    everything = np.arange(items)
    totals = np.zeros((5, items))
    keeping = shop.cost * HOLDING_A_YEAR / _YEAR
    for day in range(DAYS):
        place = day % LEAD_MAX
        on_hand += arriving[place]
        arriving[place] = 0.0
        demanded, lines = shop.demand[day], shop.lines[day]
        told = shop.sale_from[day] <= day + ANNOUNCED_DAYS
        sale = np.where(told, shop.sale_from[day], np.inf), np.where(told, shop.sale_until[day], np.inf)
        sold = np.minimum(demanded, on_hand)
        # It is sold out at the moment in which the day's demand, which comes evenly, has taken all.
        away = np.where(on_hand <= 0, 1.0, np.where(sold < demanded, 1 - on_hand / np.maximum(demanded, 1), 0.0))
        on_hand = on_hand - sold
        seen = Seen(day, sold, np.minimum(lines, sold), away, shop.promoted[day], on_hand + arriving.sum(axis=0), *sale)
        ordered = planner.order(seen) * (day >= UNKNOWN_DAYS)
        arriving[(day + shop.leads[day]) % LEAD_MAX, everything] += ordered
        if day >= HISTORY_DAYS:
            totals += (
                keeping * on_hand, shop.order_cost * (ordered > 0), (shop.price - shop.cost) * (demanded - sold),
                demanded, sold,
            )  # fmt: skip
    return Outcome(*totals)
