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
from learners.demand.model import MEDIAN
from learners.demand.page import PAGE
from learners.demand.sales import Sales, Slots, number_of, weeks_max
from learners.desk.family import Desk, DeskSettings
from learners.family import Family, Merges, Moment, Part

_day_s: Final = DAY_MS / 1_000
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
            " at once. One takes about 1 kB.",
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
    """A week of the whole shop: its first day, the pieces that were sold, and the sum of the medians."""

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
    reads: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name,)
    merges: ClassVar[Merges] = Merges("not", per_shopper="nothing", why="one model learns from the sales of all items")
    parts: ClassVar[Mapping[str, Part]] = {"sales": Part(), "forecaster": Part(needs=("sales",)), "stock": Part()}

    def __init__(self, settings: DemandSettings, reads: Mapping[str, Family]) -> None:
        desk = reads[Desk.name]
        assert isinstance(desk, Desk)
        self._settings, self._desk = settings, desk
        self.sales = Sales(settings.items_max, settings.period_days)
        self.forecaster = Forecaster(self.sales)
        self._away_ms: dict[str, int] = {}  # of items that are out of stock, since when, or since the week's beginning

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""
        if event.type == "purchase":
            day = self._turn(event.time_ms)
            sales, buyer = self.sales, number_of(event.shopper)
            for line in event.data.items:
                sales.buy(line.item_id, buyer, day, line.quantity, line.price)
                if len(sales) > sales.items_max:
                    moved = sales.fit()
                    assert moved is not None
                    self.forecaster.renumber(moved)
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
            self._count_away(sales.first_day(week) * DAY_MS)
            self.forecaster.turn(week)
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
        since_ms = self._away_ms.get(stated.id)
        if stated.available and since_ms is not None:
            self._note_away(stated.id, since_ms, now.time_ms)
            del self._away_ms[stated.id]
        elif not stated.available and since_ms is None and self.sales.slot(stated.id) is not None:
            self._away_ms[stated.id] = now.time_ms
            if len(self._away_ms) > self._settings.items_max:
                del self._away_ms[next(iter(self._away_ms))]
        return None

    def demand(self, item: str, days: float) -> Demand | None:
        """Return what is expected of an item within the next days; None of one that has not sold, or before anything is
        learned.

        Args:
            days: above 0.
        """
        slot = self.sales.slot(item)
        if slot is None:
            return None
        found = self.forecaster.expected(np.array([slot]), days)
        return None if found is None else Demand(days, float(found.mean[0]), found.quantiles[0])

    def expected(self, slots: Slots, days: float) -> Forecast | None:
        """As `Forecaster.expected`."""
        return self.forecaster.expected(slots, days)

    def answer(self, query: DemandQuery, now: Now) -> ItemDemand:
        """Return the answer to a request over HTTP."""
        sales = self.sales
        slot = sales.slot(query.item)
        if slot is None:
            raise Unknown(f"item {query.item}: wanted one that has been sold, found none")
        course = sales.course(slot, query.weeks)
        history = [Week(_date(sales.first_day(week)), _round(sold), round(away, 3)) for week, sold, away in course]
        begins = sales.first_day(sales.week)
        expected, days = [], []
        found = self.forecaster.intervals(np.array([slot]))
        for weeks, forecast, low, high in found:
            ends = begins + weeks * sales.period_days - 1
            one = forecast.quantiles[0]
            expected.append(
                Ahead(
                    _date(begins), _date(ends), weeks, _round(forecast.mean[0]), _round(one[MEDIAN]), _round(low[0]),
                    _round(high[0]),
                )
            )  # fmt: skip
        if found:
            first = found[0][1]
            shares = sales.weekday_shares(slot)
            own = [float(shares[(begins + n - 4) % 7]) for n in range(sales.period_days)]
            total = sum(own)
            days = [
                DayAhead(
                    _date(begins + n),
                    _round(first.mean[0] * share / total),
                    _round(first.quantiles[0, MEDIAN] * share / total),
                )
                for n, share in enumerate(own)
            ]
        return ItemDemand(query.item, sales.period_days, history, expected, days, self._assumes(slot))

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
        said.append("Prices, promotions and the stock stay as they were lately.")
        return said

    def scores(self) -> DemandScores:
        """Return how good forecasts were."""
        sales = self.sales
        horizons = [
            _scores(weeks, judged) for weeks, judged in zip(HORIZONS, self.forecaster.judged, strict=True) if judged
        ]
        shop = [
            WeekScores(sales.first_day(one.week) * DAY_MS, float(one.sums[0]), one.expected)
            for one in self.forecaster.judged[0]
        ]
        return DemandScores(len(sales), sales.known, sales.period_days, horizons, shop)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        items_max = self._settings.items_max
        tables = self.sales.bounds() | {"away": (len(self._away_ms), items_max)}
        return {f"demand_{table}": use for table, use in tables.items()}

    def state(self) -> State:
        """Return the complete state."""
        return {
            "sales": self.sales.state(),
            "forecaster": self.forecaster.state(),
            "stock": [list(self._away_ms), list(self._away_ms.values())],
        }

    def restore(self, state: State) -> None:
        """Continue where `state` was taken."""
        settings = self._settings
        if "sales" in state:
            self.sales = Sales.from_state(state["sales"], settings.items_max, settings.period_days)
            self.forecaster = Forecaster(self.sales)
            if "forecaster" in state and state["sales"]["period_days"] == settings.period_days:
                self.forecaster = Forecaster.from_state(state["forecaster"], self.sales)
            if (moved := self.sales.fit()) is not None:
                self.forecaster.renumber(moved)
        if "stock" in state:
            names, since_ms = state["stock"]
            count = min(len(names), settings.items_max)
            self._away_ms = dict(list(zip(names, since_ms, strict=True))[-count:])

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the online shard's: 0.3.0 learned no demand."""
        if "buying" not in fold:
            return None
        return {}, cls(DemandSettings(), {Desk.name: Desk(DeskSettings(), {})}).state()

    # Functions that the surface names.

    def series(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the scores, by weeks ahead and measure."""
        for one in self.scores().horizons:
            for measure in _MEASURES:
                yield (f"{one.weeks}", measure), getattr(one, measure)


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
