"""The family of stock: what is on hand, when it will be sold out, and what to order.

The shop states levels in its item records (`quantity`, `on_order`); between two records a level goes down with what is
sold. Each day of the shop's time what was sold of each item is learned (`learners.stock.rates`), and it is noted which
items will probably be sold out before an order could arrive. Plans are computed when they are asked for
(`learners.stock.plan`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, get_args

import numpy as np
from msgspec import Meta, Struct

from headrace.events import LEARNED_TYPES, Event, Rejection
from headrace.items import ItemRecord, decode
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import Chart, Metric, Now, Route, Surface, Table, Unknown
from headrace.topics import DAY_MS, ITEMS
from learners.desk.family import Desk, DeskSettings
from learners.family import Family, Merges, Moment, Part
from learners.stock.levels import Levels
from learners.stock.page import PAGE
from learners.stock.plan import (
    ItemStock,
    Plan,
    Planner,
    PlanQuery,
    Risk,
    StockQuery,
    Usual,
    plan_rows,
)

caught_up_max: Final = 28
"""Most days without an event that are learned as days without sales: of a longer time the log holds nothing."""
late_max: Final = 256
"""Most events in a row that are left out as they are of over `caught_up_max` days before: of more, the day was wrong.
So a sender with a wrong clock, or a history that is loaded beside live events, neither loses a day's sales nor has all
items judged at each of its events."""


class StockSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[stock]`."""

    items_max: Annotated[
        int,
        Meta(
            ge=16,
            le=131_072,
            description="Most items whose stock is followed; of which nothing was sold or stated for longest is"
            " forgotten first. One takes about 0.3 kB.",
        ),
    ] = 32_768
    supply_days: Annotated[
        float,
        Meta(ge=0, le=365, description="Days from an order until it arrives, of items that state none."),
    ] = 7.0
    supply_spread_days: Annotated[
        float, Meta(ge=0, le=365, description="Their standard deviation, of items that state none.")
    ] = 3.0
    review_days: Annotated[float, Meta(gt=0, le=90, description="Days between two looks at the plan.")] = 1.0
    margin: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="Margin as a share of the price, of items whose `cost_of_goods_sold` is not stated.",
        ),
    ] = 0.4
    holding_a_year: Annotated[
        float,
        Meta(gt=0, le=10, description="What it costs to keep a piece for a year, as a share of what the shop paid."),
    ] = 0.25
    order_cost_lines: Annotated[
        float,
        Meta(
            gt=0,
            le=1_000,
            description="What an order of an item costs, in mean values at cost of a line that a customer buys.",
        ),
    ] = 5.0
    dead_days: Annotated[
        int, Meta(ge=1, le=3_650, description="Days for which stock lasts from which on it counts as dead.")
    ] = 365
    plan_days: Annotated[
        int,
        Meta(ge=1, le=365, description="Days until the next plan, when a budget decides what is ordered now."),
    ] = 28


class StockScores(Struct, frozen=True):
    """The family's part of a record of `scores`, as of the begin of the day.

    `levels` is of how many items a level is known. `sold_out` counts the items that sold out since the beginning, of
    those whose level was known a day before; `foreseen` those of them of which it had been told the day before at the
    latest, `foreseen_simple` those that a usual rule would have told: the level was below the sales of the last 28
    days within the lead time. `warned` and `warned_simple` count how often an item was told, by both.
    """

    items: int
    levels: int
    risks: dict[str, int]
    sold_out: int
    foreseen: int
    foreseen_simple: int
    warned: int
    warned_simple: int


class StockFamily(Family):
    """Follows stock, and plans it."""

    name: ClassVar[str] = "stock"
    reads: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name,)
    merges: ClassVar[Merges] = Merges("not", per_shopper="nothing", why="a level goes down with the sales to everybody")
    parts: ClassVar[Mapping[str, Part]] = {"levels": Part()}

    def __init__(self, settings: StockSettings, reads: Mapping[str, Family]) -> None:
        desk = reads[Desk.name]
        assert isinstance(desk, Desk)
        self._settings, self._desk = settings, desk
        self.levels = Levels(settings.items_max)
        self._planner = Planner(
            desk, lambda: self.levels, usual=Usual(
                settings.supply_days, settings.supply_spread_days, settings.review_days, settings.margin,
                settings.holding_a_year, settings.order_cost_lines, settings.dead_days, settings.plan_days,
            ),
        )  # fmt: skip

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""
        if not self._turn(event.time_ms):
            return
        kind = event.type
        if kind == "purchase":
            for line in event.data.items:
                stated = self._desk.stated(line.item_id)
                on_sale = stated is not None and stated.on_sale(event.time_ms)
                self.levels.sell(line.item_id, line.quantity, event.time_ms, on_sale=on_sale)
        elif kind == "refund" and not self._desk.orders.unseen:  # what no purchase taught is not taken back
            for line in self._desk.orders.returned:
                self.levels.give_back(line.item_id, line.quantity)

    def _turn(self, time_ms: int) -> bool:
        """End the days that are over: learn what was sold, and note which items are at risk.

        Returns whether the event is to be learned: not if it is long past.
        """
        levels, day = self.levels, time_ms // DAY_MS
        if levels.day >= 0 and day < levels.day - caught_up_max and levels.late < late_max:
            levels.late += 1
            return False
        if levels.day < 0 or abs(day - levels.day) > caught_up_max:
            levels.begin(day)
        levels.late = 0
        while levels.day < day:
            levels.end_day()
        if levels.judged_day < day:
            levels.judged_day = day
            self._judge(day)
        return True

    def _judge(self, day: int) -> None:
        """Note which items will probably be sold out before an order arrives."""
        levels = self.levels
        slots = levels.known()
        if not len(slots):
            return
        judged = self._planner.judge(slots, float(day))
        levels.warn(slots, judged.told, judged.simple)
        levels.dead[:] = False
        levels.dead[slots] = self._planner.lasting(slots) >= self._settings.dead_days
        levels.per_day[slots], levels.money = judged.per_day, judged.money
        if watch := levels.watch:
            for slot in slots.tolist():
                watch(levels.names[slot])

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note the level that is stated. What cannot be used is the desk's to reject."""
        stated, levels = decode(record), self.levels
        if isinstance(stated, ItemRecord):
            if stated.retired:
                levels.retire(stated.id)
            else:
                # The shop's time is that of the last event, which may be a late one.
                time_ms = max(now.time_ms, levels.day * DAY_MS)
                levels.state_level(stated.id, stated.quantity, time_ms, available=stated.available)
        return None

    def on_hand(self, item: str) -> float | None:
        """Return how many pieces are on hand, None if no level was stated."""
        return self.levels.on_hand(item)

    def out_since(self, item: str) -> int | None:
        """Return since when an item is out of stock, as stated or as its level was sold; None if it is not known to be.

        In the shop's time, in milliseconds.
        """
        return self.levels.out_since(item)

    def lasts(self, item: str) -> float | None:
        """Return for how many days the stock of an item is expected to last, None if that is not known."""
        return self.levels.lasts(item)

    @property
    def watch(self) -> Callable[[str], None] | None:
        """Is told each item whose stock has changed: by a sale, a record, or as another day has begun."""
        return self.levels.watch

    @watch.setter
    def watch(self, told: Callable[[str], None]) -> None:
        self.levels.watch = told

    def scores(self) -> StockScores:
        """Return how many items are at risk, and how many stock-outs were foreseen."""
        levels = self.levels
        counts: list[int] = levels.counts.tolist()
        return StockScores(len(levels), len(levels.known()), self._risks(), *counts)

    def _risks(self) -> dict[str, int]:
        levels = self.levels
        used = levels.in_use()
        out, foreseen, dead = levels.out_ms[used] >= 0, levels.warned[used], levels.dead[used]
        found = (out, foreseen & ~out, dead & ~out)
        return dict(zip(get_args(Risk), (int(np.count_nonzero(one)) for one in found), strict=True))

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {"stock_items": (len(self.levels), self._settings.items_max)}

    def state(self) -> State:
        """Return the complete state."""
        return {"levels": self.levels.state()}

    def restore(self, state: State) -> None:
        """Continue where `state` was taken."""
        if "levels" in state:
            watch = self.levels.watch
            self.levels = Levels.from_state(state["levels"], self._settings.items_max)
            self.levels.watch = watch

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the online shard's: 0.3.0 knew no stock."""
        if "buying" not in fold:
            return None
        return {}, cls(StockSettings(), {Desk.name: Desk(DeskSettings(), {})}).state()

    def answer(self, query: StockQuery, now: Now) -> ItemStock:
        """Return the answer to a request over HTTP about an item."""
        slot = self.levels.slot(query.item)
        if slot is None:
            raise Unknown(f"item {query.item}: wanted one that was sold or whose stock is stated, found none")
        return self._planner.item(slot, now.time_ms, query.service_level)

    def plan(self, query: PlanQuery, now: Now) -> Plan:
        """Return the answer to a request over HTTP for what to order."""
        return self._planner.plan(query, now.time_ms)

    # Functions that the surface names.

    def risks(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the number of items by risk."""
        for name, count in self._risks().items():
            yield (name,), count

    def told(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield how many items sold out, how many of these were foreseen, and how often one was told."""
        counts = self.levels.counts.tolist()
        for name, count in zip(_TOLD, (counts[0], counts[1], counts[3]), strict=True):
            yield (name,), count


_TOLD: Final = ("all", "foreseen", "told")


def _rows(scores: StockScores) -> Iterable[tuple[Any, ...]]:
    if scores.sold_out:
        yield "the rates of demand", scores.sold_out, scores.foreseen, scores.warned
        yield "a usual rule", scores.sold_out, scores.foreseen_simple, scores.warned_simple


StockFamily.surface = Surface(
    doc="What is on hand, which items will be sold out before an order could arrive, and what to order.",
    settings=StockSettings,
    scores=StockScores,
    hears=(ITEMS,),
    metrics=(
        Metric(
            name="headrace_stock_items",
            help="Items that are sold out, will probably be before an order arrives, or whose stock lasts too long.",
            labels=("risk",), label_values=get_args(Risk), read=StockFamily.risks, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_stock_outs_total",
            help="Items that sold out, those of them that were foreseen, and how often one was told.",
            kind="counter", labels=("outs",), label_values=_TOLD, read=StockFamily.told,
        ),
    ),
    labels={"risk": ", ".join(f"`{one}`" for one in get_args(Risk)), "outs": "`all`, `foreseen` and `told`"},
    routes=(
        Route(
            path="/v1/items/{item}/stock",
            doc="What is on hand of an item, for how long it lasts, and when how much of it must be ordered.",
            query=StockQuery, answer=ItemStock, call=StockFamily.answer,
        ),
        Route(
            path="/v1/stock/plan",
            doc="What to order now, each line with its reason, what it gains and what it assumes; and dead stock.",
            query=PlanQuery, answer=Plan, call=StockFamily.plan,
        ),
        Route(
            path="/v1/stock/plan.csv", doc="The lines of the plan as CSV.",
            query=PlanQuery, answer=Plan, call=StockFamily.plan, csv=plan_rows,
        ),
    ),
    tables=(
        Table(
            title="Stock-outs", columns=("told by", "sold out", "foreseen", "told"), rows=_rows, percent=False,
            note="Items that sold out, those that were told a day before or earlier, and how often one was told. The"
            " usual rule tells an item whose level is below what it sold in a lead time lately.",
        ),
    ),
    charts=(Chart(title="items at risk", lines=lambda scores: {k: float(v) for k, v in scores.risks.items()}),),
    pages=(PAGE,),
    teaches=dict.fromkeys(LEARNED_TYPES, "that a day has passed, in which nothing or something was sold")
    | {
        "purchase": "what was sold: the level goes down, and the rate of demand is learned at the day's end",
        "refund": "what was returned: it teaches no demand, and is not back on hand until the shop states so",
    },
    inputs={"purchase": "without purchases nothing is known of demand"},
    benchmark="benchmarks.stock",
)  # fmt: skip
