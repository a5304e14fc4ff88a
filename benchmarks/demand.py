"""Forecasts of demand one week ahead, beside simple methods and those for intermittent demand.

    python -m benchmarks.demand --data online_retail.csv.gz [--statsforecast PYTHON] --out FILE

The family of demand folds the purchases and returns of everybody in time order, as a shard does. At the beginning of
each of the last 12 weeks its forecasts are compared with what came. Settings were chosen on the 12 weeks before them.
The items are those sold in at least 13 of the first 26 weeks; what was cancelled or returned counts as not bought in
the week in which it was bought, for all methods. Weeks begin on Mondays; the first and the last may be partial. Another
file, with tabs between `user_id`, `item_id` and `time`, is folded with the same settings; its weeks are the last 104.

- WAPE: the sum of absolute errors by the sum of what was sold, over all items and weeks.
- Pinball loss: the mean over the quantiles .05, .1, .25, .5, .75, .9, .95 and .98, by what was sold. The quantiles of a
  simple method are its forecast times the quantiles of what was sold by what it forecast for this item in the 26 weeks
  before; those of "empirical" are those of the item's own last 26 weeks.
- Covered: share of forecasts whose interval for 90 % held what came, by class of items, and after a drift: from the
  first of the 12 weeks on, half of the items sell three times as much.
- Inputs: errors of simulated shops without and with what is planted in them: sales that are announced, public holidays,
  regular prices that change what sells, prices that change nothing, a season of four weeks and one of the whole year.
- New items: their first four weeks, by their neighbours (`benchmarks/demand_newcomers.py`).
- A second: events that one core folds, by its processor time, the beginnings of weeks aside, which are given beside it.
"""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import demand_statsforecast, report
from benchmarks.customers import baskets
from benchmarks.demand_newcomers import KNOWN, named_shop, newcomers
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, at
from headrace.log.protocol import Record
from headrace.topics import DAY_MS, ITEMS
from learners.demand.days_off import of_country
from learners.demand.family import DemandFamily, DemandSettings
from learners.demand.forecaster import CLASSES, HORIZONS, Forecaster, groups_of
from learners.demand.model import LEVELS, MEDIAN, pinball
from learners.demand.sales import Sales, weeks_max
from learners.desk.family import Desk
from learners.shop import Shop
from learners.stock.family import StockFamily
from producers.file import ReadOptions
from producers.online_retail import OnlineRetail

Floats = NDArray[np.float64]
asked_weeks: Final = 12
"""The newest weeks, in which forecasts are compared with what came."""
baskets_weeks: Final = 104
first_weeks, sold_min = 26, 13
"""Items are those sold in so many of the first weeks."""
drifted: Final = 3.0
_entry: Final = 200
"""Events of a journal entry."""


def load(path: Path) -> list[Event]:
    """Return the purchases and returns in time order.

    Raises:
        headrace.errors.Misconfigured: the file is of neither form.
    """
    if not OnlineRetail.recognises(path):
        found = list(baskets(path))
        last = found[-1].time_ms
        return [event for event in found if event.time_ms > last - baskets_weeks * 7 * DAY_MS]
    found = []
    for record in OnlineRetail(path, ReadOptions(clock=wall_ms)).records():
        event = msgspec.json.decode(record.value, type=Event)
        event.shopper, event.time_ms = record.key.decode(), record.time_ms
        found.append(event)
    return found


class Asked:
    """The forecasts of the weeks that are asked, by week: items, medians, quantiles, and ends of intervals."""

    def __init__(self) -> None:
        self.weeks: dict[int, tuple[list[str], Floats, Floats, Floats, Floats]] = {}


def folded(stream: Sequence[Event]) -> tuple[DemandFamily, Asked, dict[str, float]]:
    """Fold a stream; return the family, the forecasts of the next week at the beginning of each, and what it took."""
    shop = Shop([Desk, StockFamily, DemandFamily], {DemandFamily.name: DemandSettings(items_max=131_072)})
    family = shop.families[DemandFamily.name]
    assert isinstance(family, DemandFamily)
    asked = Asked()
    turning_s, turns = [0.0], [0.0]
    begin = family.forecaster.begin

    def timed(week: int, turned: Callable[[], None] | None = None) -> None:
        start = time.process_time()
        begin(week, turned)
        family.forecaster.finish()
        turning_s[0] += time.process_time() - start
        turns[0] += 1
        for one in family.forecaster.pending:
            if one.week == week and one.horizon == 1:
                names = [family.sales.name(slot) for slot in one.slots.tolist()]
                level = one.simple[1]
                asked.weeks[week] = names, one.quantiles, one.low, one.high, level

    family.forecaster.begin = timed  # type: ignore[method-assign]  # to time it, and to keep what it forecast
    start = time.process_time()
    for number, event in enumerate(stream):
        if shop.prepare(event):
            shop.learn(event, 0, number)
        if number % _entry == 0:
            shop.emit()
    family.sales.apply()
    whole_s = time.process_time() - start
    lines = sum(len(event.data.items) for event in stream)
    return family, asked, {
        "events_per_s": len(stream) / (whole_s - turning_s[0]), "lines_per_s": lines / (whole_s - turning_s[0]),
        "turn_s": turning_s[0] / max(1.0, turns[0]), "events_per_s_with_turns": len(stream) / whole_s,
    }  # fmt: skip


def table_of(family: DemandFamily) -> tuple[list[str], Floats]:
    """Return the items and what was sold of each by week, until the newest. Shape (weeks, items)"""
    sales = family.sales
    first = max(sales.began, sales.week - weeks_max + 1)
    slots = np.arange(len(sales))
    rows = [sales.sold(slots, np.full(len(slots), week)) for week in range(first, sales.week + 1)]
    return [sales.name(slot) for slot in slots.tolist()], np.stack(rows)


def smoothed(sold: Floats, rate: float) -> Floats:
    """Return the forecasts of each week by simple exponential smoothing. Shapes: (weeks, items)"""
    found, level = np.zeros_like(sold), sold[0].copy()
    for week in range(1, len(sold)):
        found[week] = level
        level += rate * (sold[week] - level)
    return found


def croston(sold: Floats, rate: float, factor: float = 1.0) -> Floats:
    """Return the forecasts of each week by the method of Croston, or with 1 - rate / 2 of Syntetos and Boylan."""
    size, gap, since = sold[0].copy(), np.ones(sold.shape[1]), np.ones(sold.shape[1])
    found = np.zeros_like(sold)
    for week in range(1, len(sold)):
        found[week] = factor * size / gap
        there = sold[week] > 0
        size = np.where(there, np.where(size > 0, size + rate * (sold[week] - size), sold[week]), size)
        gap = np.where(there, gap + rate * (since - gap), gap)
        since = np.where(there, 1.0, since + 1.0)
    return found


def tsb(sold: Floats, rate: float) -> Floats:
    """Return the forecasts of each week by the method of Teunter, Syntetos and Babai."""
    size, chance = sold[0].copy(), (sold[0] > 0).astype(np.float64)
    found = np.zeros_like(sold)
    for week in range(1, len(sold)):
        found[week] = size * chance
        there = sold[week] > 0
        size = np.where(there, size + rate * (sold[week] - size), size)
        chance = chance + rate * (there - chance)
    return found


def _rolling(sold: Floats, weeks: int, of: Callable[..., Any]) -> Floats:
    found = np.zeros_like(sold)
    for week in range(1, len(sold)):
        found[week] = of(sold[max(0, week - weeks) : week], axis=0)
    return found


def baselines(sold: Floats) -> dict[str, Floats]:
    """Return the forecasts of each week by simple methods. Shapes: (weeks, items)"""
    last = np.zeros_like(sold)
    last[1:] = sold[:-1]
    return {
        "last week": last, "mean of 8": _rolling(sold, 8, np.mean), "SES(.1)": smoothed(sold, 0.1),
        "SES(.2)": smoothed(sold, 0.2), "median of 8": _rolling(sold, 8, np.median),
        "median of 13": _rolling(sold, 13, np.median), "Croston(.1)": croston(sold, 0.1),
        "SBA(.1)": croston(sold, 0.1, 0.95), "TSB(.1)": tsb(sold, 0.1),
    }  # fmt: skip


def quantiles_beside(sold: Floats, guess: Floats | None, week: int) -> Floats:
    """Return the quantiles of a method for a week: see above. Shape (items, len(LEVELS))"""
    before = slice(max(1, week - 26), week)
    if guess is None:
        return np.asarray(np.quantile(sold[before], LEVELS, axis=0).T)
    ratios = sold[before] / np.maximum(guess[before], 0.5)
    return np.asarray(np.quantile(ratios, LEVELS, axis=0).T * np.maximum(guess[week], 0.5)[:, None])


def loss(truth: Floats, quantiles: Floats) -> float:
    """Return the sum of pinball losses, over the quantiles' mean."""
    return float(np.mean([pinball(truth, quantiles[:, n], level).sum() for n, level in enumerate(LEVELS)]))


def figures_of(
    family: DemandFamily, asked: Asked, skipped: int = 0, weeks: int = asked_weeks
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our figures, and those of the baselines, over the newest weeks before those that are skipped."""
    names, sold = table_of(family)
    chosen = np.count_nonzero(sold[:first_weeks] > 0, axis=0) >= sold_min
    names = [name for name, there in zip(names, chosen, strict=True) if there]
    sold = sold[:, chosen]
    number = {name: n for n, name in enumerate(names)}
    beside = baselines(sold)
    total, errors, losses = (
        0.0,
        dict.fromkeys(("ours", *beside), 0.0),
        dict.fromkeys(("ours", "empirical", *beside), 0.0),
    )
    counts, inside = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    offset = family.sales.week - len(sold) + 1
    for row in range(len(sold) - skipped - weeks, len(sold) - skipped):
        items, quantiles, low, high, level = asked.weeks[row + offset]
        truth = sold[row]
        place = np.array([number.get(item, -1) for item in items])
        here = place >= 0
        ours, ends = np.zeros((len(names), len(LEVELS))), np.zeros((2, len(names)))
        levels = np.zeros(len(names))
        ours[place[here]], levels[place[here]] = quantiles[here], level[here]
        ends[:, place[here]] = low[here], high[here]
        total += truth.sum()
        errors["ours"] += np.abs(truth - ours[:, MEDIAN]).sum()
        losses["ours"] += loss(truth, ours)
        for name, guess in beside.items():
            errors[name] += np.abs(truth - guess[row]).sum()
            losses[name] += loss(truth, quantiles_beside(sold, guess, row))
        losses["empirical"] += loss(truth, quantiles_beside(sold, None, row))
        groups = groups_of(levels)
        counts += np.bincount(groups, minlength=len(CLASSES))
        inside += np.bincount(groups, (ends[0] <= truth) & (truth <= ends[1]), len(CLASSES))
    found: dict[str, Any] = {
        "items": len(names), "wape": errors.pop("ours") / total, "quantile_loss": losses.pop("ours") / total,
        "coverage_90": float(inside.sum() / counts.sum()),
        "coverage_by_class": {
            name: [int(count), float(there / count)]
            for name, count, there in zip(CLASSES, counts, inside, strict=True) if count
        },
    }  # fmt: skip
    best = {"wape": min(errors.values()) / total, "quantile_loss": min(losses.values()) / total}
    found["wape_by_best"] = found["wape"] / best["wape"]
    found["loss_by_best"] = found["quantile_loss"] / best["quantile_loss"]
    others = {
        name: {"wape": errors[name] / total if name in errors else None, "quantile_loss": losses[name] / total}
        for name in losses
    }
    return found, others


def drifting(stream: Sequence[Event]) -> list[Event]:
    """Return a stream in which half of the items sell three times as much in the weeks that are asked."""
    sales = Sales(1)
    from_ms = sales.first_day(sales.week_of(stream[-1].time_ms // DAY_MS) - asked_weeks + 1) * DAY_MS
    found = []
    for event in stream:
        event = msgspec.structs.replace(event, data=msgspec.structs.replace(event.data))
        if event.time_ms >= from_ms:
            event.data.items = [
                msgspec.structs.replace(line, quantity=drifted * line.quantity) if _half(line.item_id) else line
                for line in event.data.items
            ]
        found.append(event)
    return found


def _half(item: str) -> bool:
    return sum(item.encode()) % 2 == 0


def fresh(stream: Sequence[Event]) -> list[Event]:
    """Return a stream that a fold may change."""
    return [
        msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, items=list(event.data.items)))
        for event in stream
    ]


class Simulated(NamedTuple):
    """A simulated shop with a planted truth.

    Attributes:
        told: records of items by day, and the events of each day, in time order.
        rates: the pieces that are expected by day and item. Shape (days, items)
    """

    days: list[tuple[list[Record], Event | None]]
    rates: Floats


def promoted_shop(weeks: int = 44, items: int = 40, seed: int = 3) -> Simulated:
    """Return a shop in which items are on sale for two weeks, told a week ahead, and sell more in them.

    How much more is drawn for each item: 1.3 to 3 times as much. Between two sales of an item are 1 to 5 ordinary
    weeks, at random: they cannot be told from what was sold.
    """
    draw = np.random.default_rng(seed)
    base = np.linspace(0.5, 8.0, items)
    starts: list[list[int]] = []
    for _ in range(items):
        own = [int(draw.integers(1, 6))]
        while own[-1] < weeks:
            own.append(own[-1] + 2 + int(draw.integers(1, 6)))
        starts.append(own)
    uplift = draw.uniform(1.3, 3.0, items)
    days, rates = [], []
    for day in range(7 * weeks):
        week = day // 7
        on_sale = np.array([week in own or week - 1 in own for own in starts])
        told = [
            _record(n, 10.0, 8.0, _begin + day + 7, _begin + day + 21)
            for n, own in enumerate(starts) if day % 7 == 0 and week + 1 in own
        ]  # fmt: skip
        if not day:
            told = [_record(n, 10.0) for n in range(items)] + told
        rate = base * np.where(on_sale, uplift, 1.0)
        rates.append(rate)
        days.append((told, _order(day, draw.poisson(rate), np.where(on_sale, 8.0, 10.0))))
    return Simulated(days, np.array(rates))


_begin: Final = 16_440
"""The day of a simulated shop on which it begins, a Monday: 5 January 2015."""


def _record(item: int, price: float, sale: float | None = None, begins: int = 0, ends: int = 0) -> Record:
    stated: dict[str, Any] = {"id": f"item-{item}", "price": f"{price} EUR", "product_type": f"category-{item % 4}"}
    if sale is not None:
        stated["sale_price"] = f"{sale} EUR"
        dates = (
            datetime.fromtimestamp(day * DAY_MS / 1_000, UTC).strftime("%Y-%m-%dT%H:%MZ") for day in (begins, ends)
        )
        stated["sale_price_effective_date"] = "/".join(dates)
    return Record(0, 0, 0, stated["id"].encode(), msgspec.json.encode(stated))


def _order(day: int, pieces: Any, prices: Floats) -> Event | None:
    lines = [
        Item(f"item-{n}", price=float(prices[n]), quantity=float(count))
        for n, count in enumerate(pieces.tolist())
        if count
    ]
    time_ms = (_begin + day) * DAY_MS + DAY_MS // 2
    data = Data(lines, currency="EUR")
    return Event(f"o-{day}", "s", "purchase", at(time_ms), data, "1.0", f"s-{day}", time_ms) if lines else None


def seasonal_shop(weeks: int = 156, items: int = 24, seed: int = 4, sharp: bool = False) -> Simulated:
    """Return a shop of three years whose four categories have yearly seasons, each with its top in another quarter.

    Each sells from 0.5 to 2 times as much as in the mean of logarithms; with `sharp`, three times as much in four weeks
    of each year, and as usual in all others.
    """
    draw = np.random.default_rng(seed)
    base = np.linspace(1.0, 8.0, items)
    days, rates = [], []
    for day in range(7 * weeks):
        turns = (day / 365.25 - np.arange(items) % 4 / 4.0) % 1.0
        rate = base * (
            np.where(np.abs(turns - 0.5) < _sharp, 3.0, 1.0) if sharp else 2.0 ** np.cos(2.0 * np.pi * turns)
        )
        rates.append(rate)
        told = [_record(n, 10.0) for n in range(items)] if not day else []
        days.append((told, _order(day, draw.poisson(rate), np.full(items, 10.0))))
    return Simulated(days, np.array(rates))


_sharp: Final = 14.0 / 365.25
"""Half of a sharp season, in years."""


def closed_shop(weeks: int = 110, items: int = 24, seed: int = 5) -> Simulated:
    """Return a shop that is closed on the public holidays of Great Britain and sells half more on the day before."""
    draw = np.random.default_rng(seed)
    base = np.linspace(1.0, 8.0, items)
    closed = set(of_country("GB", [2015, 2016, 2017]))
    days, rates = [], []
    for day in range(7 * weeks):
        date = _begin + day
        rate = base * (0.0 if date in closed else 1.5 if date + 1 in closed else 1.0)
        rates.append(rate)
        told = [_record(n, 10.0) for n in range(items)] if not day else []
        days.append((told, _order(day, draw.poisson(rate), np.full(items, 10.0))))
    return Simulated(days, np.array(rates))


def priced_shop(elasticities: Sequence[float], weeks: int = 56, items: int = 60, seed: int = 6) -> Simulated:
    """Return a shop that changes regular prices, by 8 to 35 % up or down, with the elasticities of its four categories.

    A price holds for 4 to 13 weeks, at random, and a new one is stated on the Monday from which it holds.
    """
    draw = np.random.default_rng(seed)
    base, prices = np.linspace(0.5, 8.0, items), np.full(items, 10.0)
    power = np.array(elasticities)[np.arange(items) % len(elasticities)]
    left = draw.integers(1, 14, items)
    days, rates = [], []
    for day in range(7 * weeks):
        told = []
        if day % 7 == 0:
            left -= 1
            for n in np.flatnonzero(left == 0).tolist():
                change = float(draw.uniform(1.08, 1.35)) ** (1 if draw.random() < 0.5 else -1)
                if not 4.0 < prices[n] * change < 25.0:
                    change = 1.0 / change
                prices[n], left[n] = round(prices[n] * change, 2), int(draw.integers(4, 14))
                told.append(_record(n, float(prices[n])))
        if not day:
            told = [_record(n, float(prices[n])) for n in range(items)]
        rate = base * (prices / 10.0) ** -power
        rates.append(rate)
        days.append((told, _order(day, draw.poisson(rate), prices.copy())))
    return Simulated(days, np.array(rates))


class Errors(NamedTuple):
    """Errors (WAPE) of means against the planted rates: of all, and of weeks and items that differ by more than a tenth
    from the week before the forecast. By number of weeks ahead."""

    all: dict[int, float]
    moved: dict[int, float]


def simulated_errors(
    shop: Simulated,
    told: bool = True,
    skipped: int = 28,
    country: str = "",
    season: bool = True,
    prices: bool = True,
) -> tuple[Errors, DemandFamily]:
    """Return the errors of forecasts from the beginnings of the weeks after those that are skipped.

    Args:
        told: whether the shop hears the records.
        country: as of the settings.
        season, prices: whether the season, and elasticities, are learned.
    """
    settings = DemandSettings(country=country)
    one = Shop([Desk, StockFamily, DemandFamily], {DemandFamily.name: settings})
    family = one.families[DemandFamily.name]
    assert isinstance(family, DemandFamily)
    if not season:
        family.occasions.seasons.turn = lambda *_: None  # type: ignore[method-assign]  # to compare without
    if not prices:
        family.occasions.prices.turn = lambda *_: None  # type: ignore[method-assign]
    begin = family.forecaster.begin

    def quick(week: int, turned: Callable[[], None] | None = None) -> None:
        """Begin a week; long before those that count, without learning regressions."""
        begin(week, turned)
        if (week - family.sales.week_of(_begin)) < skipped - 12:
            family.forecaster._steps_left, family.forecaster._lesson = 0, None

    family.forecaster.begin = quick  # type: ignore[method-assign]  # to save time
    items = shop.rates.shape[1]
    weekly = shop.rates[: len(shop.rates) // 7 * 7].reshape(-1, 7, items).sum(axis=1)
    missed, total = np.zeros((len(HORIZONS), 2)), np.zeros((len(HORIZONS), 2))
    for day, (records, event) in enumerate(shop.days):
        if told:
            for record in records:
                one.hear(ITEMS, record)
        if event is not None:
            event = fresh([event])[0]
            if one.prepare(event):
                one.learn(event, 0, day)
        week = day // 7
        if day % 7 == 6:
            one.emit()
        if day % 7 or week < skipped:
            continue
        family.forecaster.finish()
        slots = np.array([family.sales.slot(f"item-{n}") for n in range(items)])
        for place, horizon in enumerate(HORIZONS):
            truth = weekly[week : week + horizon]
            if len(truth) == horizon:
                found = family.expected(slots, 7.0 * horizon)
                assert found is not None
                sold = truth.sum(axis=0)
                error = np.abs(found.mean - sold)
                moved = np.abs(sold / horizon - weekly[week - 1]) > 0.1 * weekly[week - 1]
                missed[place] += error.sum(), error[moved].sum()
                total[place] += sold.sum(), sold[moved].sum()
    every, moving = (missed / np.maximum(total, 1.0)).T.tolist()
    return Errors(*(dict(zip(HORIZONS, errors, strict=True)) for errors in (every, moving))), family


def inputs() -> dict[str, dict[str, Any]]:
    """Return the errors without and with each input, in simulated shops that plant it."""
    sale, closed = promoted_shop(), closed_shop()
    priced = {"prices": priced_shop((0.5, 1.0, 2.0, 3.0)), "prices, no effect": priced_shop((0.0,))}
    season = {kind: seasonal_shop(sharp=kind == "short season") for kind in ("short season", "smooth season")}
    found: dict[str, tuple[Errors, Errors]] = {
        "sales": (simulated_errors(sale, told=False)[0], simulated_errors(sale)[0]),
        "holidays": (
            simulated_errors(closed, skipped=78)[0], simulated_errors(closed, skipped=78, country="GB")[0]
        ),
    }  # fmt: skip
    for kind, shop in priced.items():
        found[kind] = simulated_errors(shop, prices=False)[0], simulated_errors(shop)[0]
    for kind, shop in season.items():
        without, with_ = (simulated_errors(shop, skipped=104, season=there)[0] for there in (False, True))
        found[kind] = without, with_
    return {
        name: {how: errors._asdict() for how, errors in zip(("without", "with"), both, strict=True)}
        for name, both in found.items()
    }


def largest() -> dict[str, float]:
    """Return the memory of as many items as there can be, and the processor time of the beginning of a week."""
    items, draw = 131_072, np.random.default_rng(1)
    tracemalloc.start()
    sales = Sales(items)
    forecaster = Forecaster(sales)
    slots = np.array([sales.enter(f"item-{n}") for n in range(items)])
    rates = draw.lognormal(0.0, 1.5, items)
    took = 0.0
    for week in range(2_000, 2_040):
        start = time.process_time()
        forecaster.turn(week)
        took = time.process_time() - start
        pieces = draw.poisson(rates).astype(np.float64)
        there = pieces > 0
        sales.record(slots[there], np.full(np.count_nonzero(there), sales.first_day(week)), pieces[there])
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"largest_mb": now / 1e6, "largest_mb_max": most / 1e6, "largest_turn_s": took}


def beside(family: DemandFamily, interpreter: Path) -> dict[str, Any]:
    """Return the errors of statsforecast's methods, whose environment is given by its Python."""
    _, sold = table_of(family)
    sold = sold[:, np.count_nonzero(sold[:first_weeks] > 0, axis=0) >= sold_min]
    truth = sold[-asked_weeks:]
    found = demand_statsforecast.forecasts(interpreter, sold, asked_weeks)
    return {
        name: {"wape": float(np.abs(truth - guess).sum() / truth.sum()), "quantile_loss": None}
        for name, guess in found.items()
    }


def newcomers_by_shop(stream: Sequence[Event]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the errors of the first weeks of new items: of the data, if they have names, and of simulated shops."""
    found = {"names tell": newcomers(named_shop(True)), "names tell nothing": newcomers(named_shop(False))}
    named = any(line.item_name for event in stream for line in event.data.items)
    return {"data": newcomers(stream), **found} if named else found


def run(stream: Sequence[Event], statsforecast: Path | None = None) -> dict[str, Any]:
    """Run the protocol and return its figures, and those of the baselines."""
    family, asked, speed = folded(fresh(stream))
    figures, others = figures_of(family, asked)
    if statsforecast is not None:
        others |= beside(family, statsforecast)
    before, _ = figures_of(family, asked, asked_weeks)
    family, asked, _ = folded(fresh(drifting(stream)))
    after, after_others = figures_of(family, asked)
    first, first_others = figures_of(family, asked, asked_weeks - 4, 4)
    return {
        "figures": {
            **figures, **speed, **largest(), "weeks_before": before,
            "after_drift": {
                "coverage_90": after["coverage_90"], "coverage_by_class": after["coverage_by_class"],
                "wape": after["wape"], "coverage_90_first_4": first["coverage_90"], "wape_first_4": first["wape"],
                "ses_wape_first_4": first_others["SES(.2)"]["wape"], "ses_wape": after_others["SES(.2)"]["wape"],
            },
        },
        "baselines": others,
        "inputs": inputs(),
        "newcomers": newcomers_by_shop(stream),
    }  # fmt: skip


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    made = report.parser(__doc__.splitlines()[0])
    made.add_argument("--data", type=Path, required=True, help="Online Retail, or a table of user, item, time")
    made.add_argument("--statsforecast", type=Path, help="Python of an environment with statsforecast")
    options = made.parse_args(arguments)
    if options.statsforecast is not None and not options.statsforecast.exists():
        raise Misconfigured(f"--statsforecast: {options.statsforecast} does not exist")
    found = run(load(options.data), options.statsforecast)
    figures, others = found["figures"], found["baselines"]
    rows = [("ours", figures["wape"], figures["quantile_loss"])]
    rows += [(name, one["wape"], one["quantile_loss"]) for name, one in others.items()]
    report.show(
        f"{figures['items']:,} items, the last {asked_weeks} weeks, one week ahead",
        ("", "WAPE", "pinball loss"),
        [(name, *("" if one is None else f"{one:.4f}" for one in values)) for name, *values in rows],
    )
    report.show(
        "Intervals for 90 %",
        ("pieces a week", "forecasts", "covered", "after drift"),
        [
            (name, f"{count:,}", f"{covered:.3f}", f"{drift[1]:.3f}")
            for name, (count, covered) in [
                ("all", (sum(n for n, _ in figures["coverage_by_class"].values()), figures["coverage_90"])),
                *figures["coverage_by_class"].items(),
            ]
            for drift in [
                [0, figures["after_drift"]["coverage_90"]]
                if name == "all"
                else figures["after_drift"]["coverage_by_class"].get(name, [0, float("nan")])
            ]
        ],
    )
    report.show(
        "Inputs, in simulated shops: errors without and with; of all, and where the weeks differ from the one before",
        ("", *(f"{horizon} ahead{of}" for of in ("", ", changed") for horizon in HORIZONS)),
        [
            (
                name,
                *(
                    f"{both['without'][of][horizon]:.3f}, {both['with'][of][horizon]:.3f}"
                    for of in ("all", "moved")
                    for horizon in HORIZONS
                ),
            )
            for name, both in found["inputs"].items()
        ],
    )
    report.show(
        "The first four weeks of new items, by what is known of them: errors of the mean, and pinball loss",
        ("", *KNOWN),
        [
            (name, *(f"{one['error']:.3f}, {one['quantile_loss']:.3f}" for one in by_known.values()))
            for name, by_known in found["newcomers"].items()
        ],
    )
    drift = figures["after_drift"]
    print(
        f"Four weeks after the drift: WAPE {drift['wape_first_4']:.3f}, SES(.2) {drift['ses_wape_first_4']:.3f},"
        f" covered {drift['coverage_90_first_4']:.3f}. The 12 weeks before: WAPE {figures['weeks_before']['wape']:.4f},"
        f" loss {figures['weeks_before']['loss_by_best']:.3f} of the best baseline's."
    )
    print(
        f"{figures['events_per_s']:,.0f} events/s a core ({figures['lines_per_s']:,.0f} lines/s), beginnings of weeks"
        f" aside, which take {figures['turn_s']:.2f} s each; 131,072 items take {figures['largest_mb']:.0f} MB, at most"
        f" {figures['largest_mb_max']:.0f}, and the beginning of a week {figures['largest_turn_s']:.1f} s"
    )
    report.write(options.out, found)


if __name__ == "__main__":
    report.run(main)
