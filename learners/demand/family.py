"""The family of demand: how many pieces of each item will sell, with intervals.

Each purchase adds to its items' week, each return takes back from the week in which was bought
(`learners.demand.sales`). With the first purchase or return of a week, what was forecast is judged, one model is
learned anew from the newest weeks of all items, and the next weeks are forecast (`learners.demand.forecaster`).
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from msgspec import Meta, Struct

from headrace.events import Event, Rejection
from headrace.items import decode
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import Chart, Metric, Now, Quality, Route, Surface, Table, Unknown
from headrace.topics import DAY_MS, ITEMS
from learners.demand.forecaster import CLASSES, HORIZONS, SIMPLE, Demand, Forecast, Forecaster, Judged
from learners.demand.model import LEVELS, MEDIAN
from learners.demand.newcomers import First, Likeness, first_weeks_of, recent_weeks
from learners.demand.occasions import Occasions
from learners.demand.page import PAGE
from learners.demand.sales import Sales, Slots, number_of, weeks_max
from learners.desk.family import Desk, DeskSettings
from learners.family import Family, Merges, Moment, Part
from learners.stock.family import StockFamily, StockSettings

_day_s: Final = DAY_MS / 1_000
totals_max: Final = 1_000
"""Most categories in an answer."""
totalled_max: Final = 16_384
"""Most items that are added up, those that sell most."""
courses_max: Final = weeks_max
"""Most weeks of an item's history in an answer."""


class DemandSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[demand]`."""

    items_max: Annotated[
        int,
        Meta(
            ge=1,
            le=131_072,
            description="Most items whose sales are remembered; those that have not sold for longest go first, a tenth"
            " at once. One takes about 1.6 kB.",
        ),
    ] = 32_768
    period_days: Annotated[
        int,
        Meta(
            ge=1,
            le=7,
            description="Days of a period of sales, by default a week. With another length all is learned anew; shorter"
            " ones are for a shop that is observed for a few weeks only.",
        ),
    ] = 7
    country: Annotated[
        str,
        Meta(
            max_length=10,
            description="The country whose public holidays are known ahead, by ISO 3166, as `GB`, or a part of one, as"
            " `DE-BY`; empty: none.",
        ),
    ] = ""


class DemandQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for an item's demand."""

    item: Annotated[str, Meta(min_length=1, max_length=128, description="The item's id, percent-encoded.")]
    weeks: Annotated[int, Meta(ge=1, le=courses_max, description="Weeks of the history, at most.")] = 26


class Week(Struct, frozen=True):
    """What was sold in a week: its first day, pieces less what was returned, and the share of it in which the item was
    out of stock."""

    begins: str
    sold: float
    out_of_stock: float


class Ahead(Struct, frozen=True):
    """What is expected of some weeks, in pieces: the mean, the median, and the ends of the 90 % interval.

    `begins` and `ends` are the first and the last day.
    """

    begins: str
    ends: str
    weeks: int
    mean: float
    median: float
    low: float
    high: float


class DayAhead(Struct, frozen=True):
    """What is expected of a day, in pieces, as the share of its weekday in the week."""

    day: str
    mean: float
    median: float


class ItemDemand(Struct, frozen=True):
    """What was sold of an item by week, the current one last, and what is expected; empty before anything is.

    `assumes` states in words on what this rests.
    """

    item: str
    week_days: int
    history: list[Week]
    expected: list[Ahead]
    days: list[DayAhead]
    assumes: list[str]


class TotalsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for the demand of categories and of the shop."""

    n: Annotated[int, Meta(ge=1, le=totals_max, description="Categories, at most, those first that sell most.")] = 20


class Total(Struct, frozen=True):
    """What is expected of a category, or with the name "" of the whole shop, and of how many items."""

    category: str
    items: int
    expected: list[Ahead]


class Totals(Struct, frozen=True):
    """What is expected of the shop and of its categories, whose means add up; empty before anything is."""

    week_days: int
    shop: Total | None
    categories: list[Total]


class HorizonScores(Struct, frozen=True):
    """How good the forecasts of the newest weeks were, for a number of weeks ahead.

    `error` is the sum of absolute errors of the medians by all pieces sold (WAPE), `simple` that of simple methods by
    name, `best` the least of these. `covered` is the share of forecasts whose interval held what came; `classes` has
    the same by class of items, with the number of forecasts.
    """

    weeks: int
    forecasts: int
    error: float
    best: float
    simple: dict[str, float]
    covered: float
    classes: dict[str, tuple[int, float]]


class WeekScores(Struct, frozen=True):
    """A week of the whole shop: its first day, the pieces that were sold, and those that were expected."""

    begins_ms: int
    sold: float
    expected: float


class DemandScores(Struct, frozen=True):
    """The family's part of a record of `scores`."""

    items: int
    weeks: int
    week_days: int
    horizons: list[HorizonScores]
    shop: list[WeekScores] = []


class DemandFamily(Family):
    """Learns what items will sell."""

    name: ClassVar[str] = "demand"
    reads: ClassVar[tuple[str, ...]] = (Desk.name, StockFamily.name)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name, StockFamily.name)
    merges: ClassVar[Merges] = Merges("not", per_shopper="nothing", why="one model learns from the sales of all items")
    parts: ClassVar[Mapping[str, Part]] = {
        "sales": Part(), "forecaster": Part(needs=("sales",)), "stock": Part(), "occasions": Part(needs=("sales",)),
    }  # fmt: skip

    def __init__(self, settings: DemandSettings, reads: Mapping[str, Family]) -> None:
        desk, stock = reads[Desk.name], reads[StockFamily.name]
        assert isinstance(desk, Desk)
        assert isinstance(stock, StockFamily)
        self._settings, self._desk, self._stock = settings, desk, stock
        self.sales = Sales(settings.items_max, settings.period_days)
        self.occasions = Occasions(self.sales, self._likeness, settings.country)
        self.forecaster = Forecaster(self.sales, self.occasions)
        self._away_ms: dict[str, int] = {}  # of items that are out of stock, since when, or since the week's beginning

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""
        if event.type == "purchase":
            day = self._turn(event.time_ms)
            sales, buyer = self.sales, number_of(event.shopper)
            for line in event.data.items:
                stated = self._desk.stated(line.item_id)
                regular = None if stated is None else self._desk.price(stated)
                self.occasions.buy(line.item_id, day, line.quantity, line.price, regular)
                sales.buy(line.item_id, buyer, day, line.quantity, line.price)
                if len(sales) > sales.items_max:
                    moved = sales.fit()
                    assert moved is not None
                    self.forecaster.renumber(moved)
                    self.occasions.renumber(moved)
                self._note_level(line.item_id, event.time_ms)
        elif event.type == "refund":
            self._turn(event.time_ms)
            for line in self._desk.orders.returned:
                self.sales.give_back(line.item_id, number_of(event.shopper), line.quantity)

    def _turn(self, time_ms: int) -> int:
        """Begin a week if another one has come; return the day."""
        day = time_ms // DAY_MS
        sales = self.sales
        week = sales.week_of(day)
        if week > sales.week:
            self.forecaster.begin(week, lambda: self._count_away(sales.first_day(week) * DAY_MS))
        else:
            self.forecaster.proceed()
        return day

    def _count_away(self, until_ms: int) -> None:
        """Note how long items were out of stock in the week that ends."""
        for item, since_ms in self._away_ms.items():
            self._note_away(item, since_ms, until_ms)
            self._away_ms[item] = max(since_ms, until_ms)

    def _note_away(self, item: str, since_ms: int, until_ms: int) -> None:
        slot = self.sales.slot(item)
        if slot is not None and until_ms > since_ms:
            self.sales.away_between(slot, since_ms / DAY_MS, until_ms / DAY_MS)

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note when an item goes out of stock, and when it returns. What cannot be used is the desk's to reject."""
        stated = decode(record)
        if isinstance(stated, Rejection):
            return None
        self.occasions.hear(stated, now.time_ms)
        self._note_stock(stated.id, now.time_ms, out=not stated.available)
        return None

    def _note_level(self, item: str, time_ms: int) -> None:
        """Note whether the running level says that an item which was just sold is sold out."""
        out_ms = self._stock.out_since(item)
        if out_ms is None:
            self._note_stock(item, time_ms // DAY_MS * DAY_MS, out=False)
        elif out_ms == time_ms:
            self._note_stock(item, time_ms, out=True)

    def _note_stock(self, item: str, time_ms: int, *, out: bool) -> None:
        since_ms = self._away_ms.get(item)
        # The shop's time is that of the last event, which may be a late one.
        time_ms = max(time_ms, self.sales.first_day(self.sales.week) * DAY_MS)
        if not out and since_ms is not None:
            self._note_away(item, since_ms, time_ms)
            del self._away_ms[item]
        elif out and since_ms is None and self.sales.slot(item) is not None:
            self._away_ms[item] = time_ms
            if len(self._away_ms) > self._settings.items_max:
                del self._away_ms[next(iter(self._away_ms))]

    def demand(self, item: str, days: float) -> Demand | None:
        """Return what is expected of an item within the next days, of a new one by its neighbours.

        None before anything is learned, and of a new item without neighbours.

        Args:
            days: above 0.
        """
        slot = self.sales.slot(item)
        if slot is None or self._is_new(slot):
            first = self._first(item, slot, max(1, round(days / self.sales.period_days)))
            return None if first is None else Demand(days, first.mean, first.quantiles)
        found = self.forecaster.expected(np.array([slot]), days)
        return None if found is None else Demand(days, float(found.mean[0]), found.quantiles[0])

    def _is_new(self, slot: int) -> bool:
        """Return whether an item has no complete week of its own."""
        return float(self.sales.first_weeks(np.array([slot]))[0]) >= self.sales.week

    def _first(self, item: str, slot: int | None, weeks: int) -> First | None:
        """Return what is expected of the first weeks of a new item."""
        if not self.forecaster.learned or weeks >= recent_weeks:
            return None
        return first_weeks_of(self.sales, weeks, self._likeness(item), self._likeness_of, slot)

    def _likeness(self, item: str) -> Likeness:
        stated = self._desk.stated(item)
        return Likeness(stated.category, self._desk.price(stated), stated.title) if stated else Likeness()

    def _likeness_of(self, slot: int) -> Likeness:
        found = self._likeness(self.sales.name(slot))
        return found if found.price is not None else found._replace(price=self.sales.price(slot))

    def expected(self, slots: Slots, days: float) -> Forecast | None:
        """As `Forecaster.expected`."""
        return self.forecaster.expected(slots, days)

    def answer(self, query: DemandQuery, now: Now) -> ItemDemand:
        """Return the answer to a request over HTTP."""
        sales = self.sales
        slot = sales.slot(query.item)
        if slot is None:
            return self._answer_new(query.item)
        course = sales.course(slot, query.weeks)
        history = [Week(_date(sales.first_day(week)), _round(sold), round(away, 3)) for week, sold, away in course]
        begins = sales.first_day(sales.week)
        expected, days = [], []
        found = self.forecaster.intervals(np.array([slot]))
        for weeks, forecast, low, high in found:
            expected.append(self._ahead(weeks, forecast.mean[0], forecast.quantiles[0], low[0], high[0]))
        if found:
            first = found[0][1]
            shares = sales.weekday_shares(slot)
            own = [float(shares[(begins + n - 4) % 7]) for n in range(sales.period_days)]
            held = self.occasions.days(slot)
            if held is not None:
                own = [share * factor for share, factor in zip(own, held.tolist(), strict=True)]
            total = sum(own)
            if total <= 0:  # the shop has never sold anything on these weekdays
                own, total = [1.0] * len(own), float(len(own))
            days = [
                DayAhead(
                    _date(begins + n),
                    _round(first.mean[0] * share / total),
                    _round(first.quantiles[0, MEDIAN] * share / total),
                )
                for n, share in enumerate(own)
            ]
        return ItemDemand(query.item, sales.period_days, history, expected, days, self._assumes(slot))

    def _answer_new(self, item: str) -> ItemDemand:
        """Return what is expected of an item that the shop states, but that has not been sold."""
        if self._desk.stated(item) is None:
            raise Unknown(f"item {item}: wanted one that has been sold or that the shop states, found none")
        expected, said = [], ["It has not been sold yet."]
        for weeks in HORIZONS:
            if first := self._first(item, None, weeks):
                low, high = first.quantiles[[0, -2]]
                expected.append(self._ahead(weeks, first.mean, first.quantiles, low, high))
                said[1:] = [f"Expected is what {first.neighbours} new items {first.like} sold in their first weeks."]
        return ItemDemand(item, self.sales.period_days, [], expected, [], said)

    def _ahead(self, weeks: int, mean: float, quantiles: Any, low: float, high: float) -> Ahead:
        begins, ends = (self.sales.first_day(self.sales.week + n) for n in (0, weeks))
        rounded = (_round(one) for one in (mean, quantiles[MEDIAN], low, high))
        return Ahead(_date(begins), _date(ends - 1), weeks, *rounded)

    def totals(self, query: TotalsQuery, now: Now) -> Totals:
        """Return the answer to a request over HTTP.

        The spread of a total is that of its items, as if they were independent, and that of the whole shop, which moves
        all of them.
        """
        sales = self.sales
        means = sales.means()
        slots = np.sort(np.argsort(-means, kind="stable")[:totalled_max])
        slots = slots[means[slots] > 0]
        stated = [self._desk.stated(sales.name(slot)) for slot in slots.tolist()]
        sold = np.array([one is None or not one.retired for one in stated], np.bool_)
        slots, stated = slots[sold], [one for one in stated if one is None or not one.retired]
        found = self.forecaster.intervals(slots) if len(slots) else []
        if not found:
            return Totals(sales.period_days, None, [])
        names, group = np.unique([one.category if one else "" for one in stated], return_inverse=True)
        shop, categories = (
            Total("", len(slots), []),
            [Total(str(name), int(count), []) for name, count in zip(names, np.bincount(group), strict=True)],
        )
        for weeks, forecast, _, _ in found:
            common = self.forecaster.factor(HORIZONS.index(weeks))[1]
            spread = (forecast.quantiles[:, _HIGH] - forecast.quantiles[:, _LOW]) / (2 * _normal)
            by_group = [np.bincount(group, one) for one in (forecast.mean, spread * spread)]
            means_of, variances_of = (one.tolist() for one in by_group)
            sums: list[tuple[Total, float, float]] = [(shop, sum(means_of), sum(variances_of))]
            sums += zip(categories, means_of, variances_of, strict=True)
            for total, mean, variance in sums:
                wide = _interval * float(np.sqrt(variance + (common * mean) ** 2))
                total.expected.append(
                    self._ahead(weeks, mean, [mean] * len(LEVELS), max(0.0, mean - wide), mean + wide)
                )
        known = [one for one in categories if one.category]
        known.sort(key=lambda one: (-one.expected[0].mean, one.category))
        return Totals(sales.period_days, shop, known[: query.n])

    def _assumes(self, slot: int) -> list[str]:
        sales = self.sales
        said = []
        if not self.forecaster.learned:
            return ["Nothing is expected yet: that takes some weeks of sales."]
        said.append(
            f"Learned from the sales of {len(sales):,} items until {_date(sales.first_day(sales.week) - 1)}; what was"
            " returned is taken back in the week in which it was bought."
        )
        said.append(f"A line of more than {sales.cap(slot):,.0f} pieces teaches only that many.")
        weeks = [away for _, _, away in sales.course(slot, weeks_max) if away > 0]
        if weeks:
            said.append(
                f"The item was out of stock in {len(weeks)} of the weeks: they are scaled up, and teach nothing else."
            )
        if sales.week - float(sales.first_weeks(np.array([slot]))[0]) < _young_weeks:
            said.append(f"The item was first sold less than {_young_weeks} weeks ago.")
        stated = self._desk.stated(sales.name(slot))
        if stated is not None and not stated.available:
            said.append(
                "The shop no longer sells the item: this is what it would sell."
                if stated.retired
                else "The item is out of stock: this is what would sell if there were some."
            )
        said += self.occasions.assumes(slot)
        said.append("What is not stated ahead stays as it was lately: prices, promotions and the stock.")
        return said

    def scores(self) -> DemandScores:
        """Return how good forecasts were."""
        sales = self.sales
        horizons = [
            _scores(weeks, judged) for weeks, judged in zip(HORIZONS, self.forecaster.judged, strict=True) if judged
        ]
        shop = [
            WeekScores(sales.first_day(one.week) * DAY_MS, float(one.sums[0]), float(one.expected[1]))
            for one in self.forecaster.judged[0]
        ]
        return DemandScores(len(sales), sales.known, sales.period_days, horizons, shop)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        items_max = self._settings.items_max
        tables = self.sales.bounds() | {"away": (len(self._away_ms), items_max)} | self.occasions.bounds()
        return {f"demand_{table}": use for table, use in tables.items()}

    def state(self) -> State:
        """Return the complete state."""
        return {
            "sales": self.sales.state(),
            "forecaster": self.forecaster.state(),
            "occasions": self.occasions.state(),
            "stock": [list(self._away_ms), list(self._away_ms.values())],
        }

    def restore(self, state: State) -> None:
        """Continue where `state` was taken."""
        settings = self._settings
        if "sales" in state:
            self.sales = Sales.from_state(state["sales"], settings.items_max, settings.period_days)
            same = state["sales"]["period_days"] == settings.period_days
            self.occasions = Occasions(self.sales, self._likeness, settings.country)
            if "occasions" in state and same:
                self.occasions = Occasions.from_state(state["occasions"], self.sales, self._likeness, settings.country)
            self.forecaster = Forecaster(self.sales, self.occasions)
            if "forecaster" in state and same:
                self.forecaster = Forecaster.from_state(state["forecaster"], self.sales, self.occasions)
            if (moved := self.sales.fit()) is not None:
                self.forecaster.renumber(moved)
                self.occasions.renumber(moved)
        if "stock" in state:
            names, since_ms = state["stock"]
            count = min(len(names), settings.items_max)
            self._away_ms = dict(list(zip(names, since_ms, strict=True))[-count:])

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the online shard's: 0.3.0 learned no demand."""
        if "buying" not in fold:
            return None
        desk = Desk(DeskSettings(), {})
        stock = StockFamily(StockSettings(), {Desk.name: desk})
        return {}, cls(DemandSettings(), {Desk.name: desk, StockFamily.name: stock}).state()

    # Functions that the surface names.

    def series(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the scores, by weeks ahead and measure."""
        for one in self.scores().horizons:
            for measure in _MEASURES:
                yield (f"{one.weeks}", measure), getattr(one, measure)


_LOW, _HIGH = LEVELS.index(0.1), LEVELS.index(0.9)
_normal: Final = 1.2816
"""Standard deviations from the middle to the 90 % quantile of a normal distribution."""
_interval: Final = 1.6449
"""Those to the ends of its 90 % interval."""
_MEASURES: Final = ("error", "best", "covered")
_young_weeks: Final = 13


def _date(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


def _round(pieces: float) -> float:
    return round(float(pieces), 2)


def _scores(weeks: int, judged: list[Judged]) -> HorizonScores:
    sums = np.add.reduce([one.sums for one in judged])
    counts, inside = np.add.reduce([one.counts for one in judged])
    sold = max(1.0, float(sums[0]))
    simple = {name: float(missed) / sold for name, missed in zip(SIMPLE, sums[2:], strict=True)}
    total = float(counts.sum())
    classes = {
        name: (int(count), float(there / count))
        for name, count, there in zip(CLASSES, counts, inside, strict=True) if count
    }  # fmt: skip
    return HorizonScores(
        weeks, int(total), float(sums[1]) / sold, min(simple.values()), simple, float(inside.sum()) / max(1.0, total),
        classes,
    )  # fmt: skip


def _rows(scores: DemandScores) -> Iterable[tuple[Any, ...]]:
    for one in scores.horizons:
        yield f"{one.weeks}", one.error, *(one.simple[name] for name in SIMPLE), one.covered


def _class_rows(scores: DemandScores) -> Iterable[tuple[Any, ...]]:
    for one in scores.horizons[:1]:
        for name, (count, covered) in one.classes.items():
            yield f"{name}: {count:,} forecasts", covered


def _nearest(scores: DemandScores) -> HorizonScores | None:
    return scores.horizons[0] if scores.horizons else None


def _lines(scores: DemandScores) -> dict[str, float]:
    found = {}
    for one in scores.horizons:
        found[f"{one.weeks} ahead"] = one.error
        found[f"{one.weeks} ahead, best simple method"] = one.best
    return found


DemandFamily.surface = Surface(
    doc="How many pieces of each item will sell within the next weeks, with intervals.",
    settings=DemandSettings,
    scores=DemandScores,
    hears=(ITEMS,),
    full_by_design=("demand_lines", "demand_buffered"),
    labels={
        "weeks_ahead": "`1`, `2` and `4`",
        "demand_measure": "`error`, `best` (the error of the best simple method) and `covered`",
    },
    metrics=(
        Metric(
            name="headrace_demand_score",
            help="Forecasts of the newest weeks: error by pieces sold, that of the best simple method, share covered.",
            labels=("weeks_ahead", "demand_measure"), read=DemandFamily.series, read_interval_s=10.0,
        ),
    ),
    routes=(
        Route(
            path="/v1/items/{item}/demand",
            doc="What was sold of an item by week, and what is expected of the next weeks and days, with intervals.",
            query=DemandQuery,
            answer=ItemDemand,
            call=DemandFamily.answer,
        ),
        Route(
            path="/v1/demand",
            doc="What is expected of the next weeks of the whole shop and of each category, with intervals.",
            query=TotalsQuery,
            answer=Totals,
            call=DemandFamily.totals,
        ),
    ),
    tables=(
        Table(
            title="Demand", columns=("weeks ahead", "error", *SIMPLE, "in 90 % interval"), rows=_rows,
            note="Sum of absolute errors by all pieces sold, over the newest weeks; beside it that of simple methods.",
        ),
        Table(
            title="Intervals of demand", columns=("pieces a week", "covered"), rows=_class_rows,
            note="Share of the forecasts one week ahead whose 90 % interval held what came, by class of items.",
        ),
    ),
    charts=(Chart(title="error of forecasts of demand", lines=_lines),),
    pages=(PAGE,),
    quality=Quality(
        name="error of demand one week ahead",
        of=lambda scores: one.error if (one := _nearest(scores)) else None,
        higher_is_better=False,
        percent=True,
    ),
    teaches={
        "purchase": "pieces of its items in this week",
        "refund": "what was returned, which is taken back in the week in which it was bought",
    },
    demo={"simulated": {"period_days": 1}},
    benchmark="benchmarks.demand",
)  # fmt: skip
