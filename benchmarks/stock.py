"""A simulated warehouse, and what it costs to plan it: ours beside two usual policies and the best that is possible.

    python -m benchmarks.stock --seeds 200 --processes 2 --out FILE

The shop (`benchmarks.stock_world`): 100 items, a year that counts after 60 weeks of history. Unit margin 40 % of the
price; holding 25 % of the cost a year; a lost sale costs the margin; an order of an item costs 5 lines' worth, that
is 5 times the mean value of a customer's line at cost; lead time 7 +- 3 days. Demand drifts and jumps, has a week and
a season, promotions that are announced 28 days before; a third of the items is intermittent; what is demanded while
nothing is on hand is lost and not seen. All policies review each day, and order in the economic quantity (EOQ) of
what they expect.

- `naive`: (s, S) of the textbook: mean and standard deviation of the sales of the last 8 weeks, normal demand in the
  lead time, a safety factor.
- `batch`: newsvendor on a batch forecast: exponential smoothing of weekly sales, whose parameter is chosen anew each
  week for each item on its whole history; the reorder point is the quantile of the critical ratio, with the standard
  deviation of that forecast's errors.
- `ours`: the code that is shipped, `learners.stock.rates` and `learners.stock.policy`, with its defaults.
- `oracle`: our policy with the true rates, past and to come, and the true variance of demand: a bound for forecasts.

Equal service: the safety factors of `naive` and `batch` are chosen on other seeds (from 1,000 on) so that their fill
rate (pieces sold of pieces demanded) there is ours. `cheapest` are the same policies with the factors that cost least
on those seeds, whatever their fill rate. `cost_ratio` is the sum of our costs over that of the other, with a 95 %
interval by a bootstrap over the seeds.

Another part (`benchmarks.stock_speed`, `--many`) tells what the family takes of a shop of many items.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from benchmarks import report, stock_speed
from benchmarks.stock_world import (
    HISTORY_DAYS,
    HOLDING_A_YEAR,
    LEAD_DAYS,
    LEAD_SPREAD_DAYS,
    Planner,
    Seen,
    World,
    run,
    world,
)
from learners.stock.policy import LEVELS, Costs, Demand, Expected, Levels, Terms, gamma, levels, order
from learners.stock.rates import Rates

Floats = NDArray[np.float64]
CHOOSING: Final = 1_000
"""The first of the seeds on which safety factors are chosen."""
FACTORS: Final = {
    "naive": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
    "batch": (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0),
}
"""Of `naive` the safety factor, of `batch` what the standard deviation is multiplied with."""
_NORMAL: Final = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
_resamples: Final = 10_000
_window_weeks: Final = 8
_smoothing: Final = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
_protection: Final = 1.0 + LEAD_DAYS


class Naive:
    """(s, S) on the mean and the standard deviation of the last weeks' sales."""

    def __init__(self, shop: World, factor: float) -> None:
        self._shop, self._factor = shop, factor
        self._weeks: list[Floats] = []
        self._week = np.zeros(len(shop.line))
        self._reorder = self._up_to = np.zeros(len(shop.line))

    def order(self, seen: Seen) -> Floats:
        """Order up to S where the position is at most s."""
        self._week = self._week + seen.sold
        if seen.day % 7 == 6:
            self._weeks = [*self._weeks, self._week][-_window_weeks:]
            self._week = np.zeros_like(self._week)
            if len(self._weeks) > 1:
                self._plan(np.array(self._weeks))
        return np.where(seen.position <= self._reorder, self._up_to - seen.position, 0.0)

    def _plan(self, weeks: Floats) -> None:
        rate, spread = weeks.mean(axis=0) / 7, weeks.std(axis=0, ddof=1)
        deviation = np.sqrt(_protection / 7 * spread**2 + (rate * LEAD_SPREAD_DAYS) ** 2)
        self._reorder = np.ceil(rate * _protection + self._factor * deviation)
        self._up_to = self._reorder + economic(self._shop, rate)


class Batch:
    """Newsvendor on exponential smoothing, whose parameter is chosen anew each week on the whole history."""

    def __init__(self, shop: World, factor: float) -> None:
        self._shop, self._factor = shop, factor
        self._week = np.zeros(len(shop.line))
        self._levels = np.zeros((len(_smoothing), len(shop.line)))
        self._squares = np.zeros_like(self._levels)
        self._weeks = 0
        self._reorder = self._up_to = np.zeros(len(shop.line))

    def order(self, seen: Seen) -> Floats:
        """Order up to S where the position is at most s."""
        self._week = self._week + seen.sold
        if seen.day % 7 == 6:
            if self._weeks:
                errors = self._week - self._levels
                self._squares += errors**2
                self._levels += np.maximum(_smoothing, 1 / (self._weeks + 1))[:, None] * errors
            else:
                self._levels += self._week
            self._weeks += 1
            self._week = np.zeros_like(self._week)
            if self._weeks > 1:
                self._plan()
        return np.where(seen.position <= self._reorder, self._up_to - seen.position, 0.0)

    def _plan(self) -> None:
        best, items = self._squares.argmin(axis=0), np.arange(len(self._week))
        rate = np.maximum(self._levels[best, items] / 7, 1e-6)
        spread = np.sqrt(self._squares[best, items] / (self._weeks - 1))
        deviation = np.sqrt(_protection / 7 * spread**2 + (rate * LEAD_SPREAD_DAYS) ** 2)
        mean = rate * _protection

        def expected(days: Floats) -> Demand:
            spread = self._factor * deviation * np.sqrt(days / _protection)
            return Demand(rate * days, np.maximum(rate * days + _NORMAL[:, None] * spread, 0.0))

        # The lead time's spread is in the deviation already.
        found = levels(expected, terms(self._shop, spread_days=0.0), costs(self._shop))
        self._reorder = np.maximum(found.reorder, np.ceil(mean))
        self._up_to = self._reorder + economic(self._shop, rate)


class Ours:
    """The shipped rates and policy."""

    def __init__(self, shop: World, factor: float = 1.0) -> None:
        self._shop, self._terms, self._costs = shop, terms(shop), costs(shop)
        self._rates = Rates(len(shop.line))
        self._levels: Levels | None = None

    def order(self, seen: Seen) -> Floats:
        """Learn the day, and order by the shipped policy."""
        self._rates.day(seen.sold, seen.lines, seen.away, seen.promoted)
        # Before the year that counts, levels are computed once a week, which is quicker.
        if seen.day >= HISTORY_DAYS or self._levels is None or seen.day % 7 == 6:
            expected = self._rates.expected(seen.day + 1.0, seen.sale_from, seen.sale_until)
            self._levels = levels(expected, self._terms, self._costs)
        return order(self._levels, self._terms, seen.position)


class Oracle:
    """The shipped policy, which knows the true rates of all days and the true variance."""

    def __init__(self, shop: World, factor: float = 1.0) -> None:
        self._shop, self._terms, self._costs = shop, terms(shop), costs(shop)
        self._sums = np.concatenate([np.zeros((1, len(shop.line))), np.cumsum(shop.rate, axis=0)])
        self._levels: Levels | None = None

    def order(self, seen: Seen) -> Floats:
        """Order by what will be demanded."""
        if seen.day >= HISTORY_DAYS or self._levels is None or seen.day % 7 == 6:
            self._levels = levels(self._expected(seen.day + 1), self._terms, self._costs)
        return order(self._levels, self._terms, seen.position)

    def _expected(self, begin: int) -> Expected:
        sums, items = self._sums, np.arange(self._sums.shape[1])

        def expected(days: Floats) -> Demand:
            until = np.minimum(begin + days, len(sums) - 1.001)
            whole = until.astype(np.int64)
            at_end = sums[whole, items] + (until - whole) * (sums[whole + 1, items] - sums[whole, items])
            mean = np.maximum(at_end - sums[begin], 1e-9)
            return Demand(mean, gamma(mean, mean * self._shop.dispersion))

        return expected


POLICIES: Final[dict[str, Callable[[World, float], Planner]]] = {
    "naive": Naive, "batch": Batch, "ours": Ours, "oracle": Oracle,
}  # fmt: skip


def economic(shop: World, rate: Floats) -> Floats:
    """Return the economic order quantity. Shapes: (I,)"""
    return np.maximum(1.0, np.round(np.sqrt(2 * rate * 365 * shop.order_cost / (shop.cost * HOLDING_A_YEAR))))


def terms(shop: World, spread_days: float = LEAD_SPREAD_DAYS) -> Terms:
    """Return how a shop's items are bought."""
    one = np.ones(len(shop.line))
    return Terms(
        shop.cost, shop.price - shop.cost, LEAD_DAYS * one, spread_days * one, one, one, np.full(len(one), np.inf)
    )


def costs(shop: World) -> Costs:
    """Return what an order and stock cost in a shop."""
    return Costs(order=float(shop.order_cost[0]), holding_a_year=HOLDING_A_YEAR)


Task = tuple[int, int, tuple[tuple[str, float], ...]]
"""A seed, the number of items, and policies with their factors."""


def play(task: Task) -> list[list[float]]:
    """Return, for each policy, what a year cost: holding, orders, lost margin, pieces demanded, pieces sold."""
    seed, items, policies = task
    shop = world(seed, items)
    return [[float(one.sum()) for one in run(shop, POLICIES[name](shop, factor))] for name, factor in policies]


def played(
    title: str, seeds: Sequence[int], items: int, policies: Sequence[tuple[str, float]], processes: int
) -> NDArray[np.float64]:
    """Return the outcomes of policies in several shops, with a progress bar. Shape (seeds, policies, 5)"""
    tasks: list[Task] = [(seed, items, tuple(policies)) for seed in seeds]
    found = []
    with (
        Progress(disable=not sys.stderr.isatty()) as progress,
        multiprocessing.get_context("spawn").Pool(processes) as pool,
    ):
        bar = progress.add_task(title, total=len(tasks))
        for one in pool.imap(play, tasks):
            found.append(one)
            progress.advance(bar)
    return np.array(found)


def fill(outcomes: Floats) -> float:
    """Return the share of demanded pieces that was sold. Shape (seeds, 5)"""
    return float(outcomes[:, 4].sum() / outcomes[:, 3].sum())


def cost(outcomes: Floats) -> Floats:
    """Return the costs by seed. Shapes: (seeds, 5), (seeds,)"""
    return np.asarray(outcomes[:, :3].sum(axis=1))


def equal_service(factors: Sequence[float], fills: Sequence[float], wanted: float) -> float:
    """Return the factor of a fill rate, between those that were tried on a straight line.

    >>> equal_service((1.0, 2.0, 3.0), (0.9, 0.92, 0.91), 0.915)
    1.75
    """
    rising = np.maximum.accumulate(np.array(fills))
    return float(np.interp(wanted, rising, np.array(factors)))


def ratio(ours: Floats, other: Floats) -> dict[str, Any]:
    """Return the ratio of summed costs, with a 95 % interval by a bootstrap over the seeds. Shapes: (seeds,)"""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(ours), (_resamples, len(ours)))
    ratios = ours[drawn].sum(axis=1) / other[drawn].sum(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {"cost_ratio": float(ours.sum() / other.sum()), "low": float(low), "high": float(high)}


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Choose the factors, judge the policies, and return the figures."""
    choosing = range(CHOOSING, CHOOSING + args.choosing_seeds)
    tried = [(name, factor) for name, factors in FACTORS.items() for factor in factors]
    found = played("choosing", choosing, args.items, [("ours", 1.0), *tried], args.processes)
    wanted = fill(found[:, 0])
    judged = [("ours", "ours", 1.0), ("oracle", "oracle", 1.0)]
    for name, factors in FACTORS.items():
        places = [1 + place for place, (other, _) in enumerate(tried) if other == name]
        cheapest = factors[int(np.argmin([cost(found[:, place]).sum() for place in places]))]
        equal = equal_service(factors, [fill(found[:, place]) for place in places], wanted)
        judged += [(name, name, equal), (f"{name}, cheapest", name, cheapest)]
    result = played(
        "judging", range(args.seeds), args.items, [(name, factor) for _, name, factor in judged], args.processes
    )
    ours = cost(result[:, 0])
    policies = {}
    for place, (label, _, factor) in enumerate(judged):
        one = result[:, place]
        holding, orders, lost = one[:, :3].mean(axis=0).tolist()
        policies[label] = {
            "factor": factor, "service_level": fill(one), "holding": holding, "orders": orders, "lost_margin": lost,
            "cost": float(cost(one).mean()), **ratio(ours, cost(one)),
        }  # fmt: skip
    return {
        "seeds": args.seeds, "choosing_seeds": args.choosing_seeds, "items": args.items, "service_level_chosen": wanted,
        "policies": policies,
        "cost_ratio": {name: policies[name]["cost_ratio"] for name in FACTORS},
        "service_level": {name: one["service_level"] for name, one in policies.items()},
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    made = report.parser(__doc__.splitlines()[0])
    made.add_argument("--seeds", type=int, default=200, help="shops that are judged; 0: only the speed")
    made.add_argument("--choosing-seeds", type=int, default=30, help="shops on which safety factors are chosen")
    made.add_argument("--items", type=int, default=100, help="items of a shop")
    made.add_argument("--processes", type=int, default=1, help="processes that play shops")
    made.add_argument("--many", type=int, default=131_072, help="items of the shop whose speed is told; 0: none")
    args = made.parse_args(arguments)
    found: dict[str, Any] = {"speed": speed(args.many)} if args.many else {}
    if args.seeds:
        found |= figures(args)
        show(args, found)
    report.write(args.out, found)


def speed(items: int) -> dict[str, Any]:
    """Tell and return what the family takes of a shop of many items."""
    found = stock_speed.plans(items)
    rows = [
        ["levels and gains of all items", f"{1_000 * found['levels_of_all_s']:,.1f}", "1.00"],
        ["a plan", f"{1_000 * found['plan_s']:,.1f}", f"{found['plan_ratio']:.2f}"],
        ["an item", f"{1_000 * found['item_s']:,.2f}", f"{found['item_s'] / found['levels_of_all_s']:.5f}"],
    ]
    report.show(f"{items:,} items with levels, of which {found['due']:,} are due", ("answer", "ms", "ratio"), rows)
    learning = stock_speed.throughput(items)
    without, beside = learning["online_events_a_second"]
    rows = [
        ["the family", f"{learning['events_a_second']:,.0f}", ""],
        ["the shard online without stock and demand", f"{without:,.0f}", "1.00"],
        ["the same and stock", f"{beside:,.0f}", f"{learning['online_ratio']:.2f}"],
    ]
    report.show(f"{learning['events']:,} events of {items:,} items with levels", ("fold", "events/s", "ratio"), rows)
    kept = stock_speed.memory(items)
    rows = [
        [f"{items:,} items", f"{kept['bytes'] / 1e6:,.1f}", f"{kept['bytes_an_item']:,.0f}"],
        ["after as many others were sold", f"{kept['bytes_of_others'] / 1e6:,.1f}",
         f"{kept['bytes_of_others'] / kept['others']:,.0f}"],
    ]  # fmt: skip
    report.show("State", ("of", "MB", "bytes an item"), rows)
    return {"plans": found, "learning": learning, "memory": kept}


def show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Show what the policies cost."""
    rows = [
        [
            name, f"{one['factor']:.2f}", f"{one['service_level']:.4f}", f"{one['holding']:,.0f}",
            f"{one['orders']:,.0f}", f"{one['lost_margin']:,.0f}", f"{one['cost']:,.0f}", f"{one['cost_ratio']:.3f}",
            f"{one['low']:.3f} to {one['high']:.3f}",
        ]
        for name, one in found["policies"].items()
    ]  # fmt: skip
    columns = ("policy", "factor", "fill rate", "holding", "orders", "lost", "cost", "ours / it", "95 %")
    report.show(f"A year of {args.items} items, means of {args.seeds} shops", columns, rows)


if __name__ == "__main__":
    main()
