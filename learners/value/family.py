"""The family of value: what shoppers will spend, whether they will buy again, and what late truth changes of it.

Each purchase and each return changes a row of its shopper. Once a week of the shop's time a sample of the shoppers is
remembered as it is known then (`learners.value.snapshots`), what became of those whose horizons are over is learned
(`learners.value.model`), and predictions that were made then are compared with it (`learners.value.judged`).
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, get_args

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from headrace.events import LEARNED_TYPES, Event, Item
from headrace.shopper_classes import ShopperClass, record_of
from headrace.state import State
from headrace.surface import Chart, Metric, Now, Quality, Route, Surface, Table, Unknown
from headrace.topics import DAY_MS, SHOPPER_CLASSES
from learners.desk.family import Desk, DeskSettings
from learners.family import Family, Merges, Moment, Part
from learners.parts.portable import power_of_two
from learners.value.classes import CLASSES, Limits, classes_of
from learners.value.features import SINCE, Scaling, features
from learners.value.items import Items
from learners.value.judged import BINS, Judged, calibration_error
from learners.value.leaving import (
    BestDay,
    Reason,
    at_risk,
    best_day,
    last_ms,
    most_at_risk,
    reasons,
    usual,
)
from learners.value.model import Expected, Model, Outcome, between, bought_within, scoring, solved
from learners.value.orders import Line, Orders
from learners.value.page import PAGE
from learners.value.shoppers import FIRST, GRADE, LAST, ORDERS, RETURNED, RETURNS, SPENT, TOLD, Floats, Shoppers, grain
from learners.value.snapshots import Horizons, Snapshot

_week: Final = 7
_monday: Final = 4
"""The first Monday, in days since the epoch."""
taught_max: Final = 9
"""Newest snapshots with known outcomes from which is learned, for each horizon."""
scaled_max: Final = 5
"""Newest snapshots with known outcomes that tell what scores mean."""
half_life_weeks: Final = 4.0
"""Weeks after which what a snapshot teaches counts half."""
rows_min: Final = 200
"""Known outcomes that a model needs."""
behind_max: Final = 4
"""Weeks, one after the other, that lie before the newest snapshot, after which the shop's time has returned to them: a
clock was wrong, or history is loaded. What only arrives late is of fewer."""
judged_max: Final = 13
"""Newest snapshots whose predictions are compared with what came."""
told_max: Final = 10
"""Most classes that are told with an event: all shoppers get one at once, and later many in a week."""
retention_max: Final = 1_000
"""Most shoppers of whom it is noted once a week that most may be lost with them."""
_block: Final = 4_096
"""Shoppers who are predicted together."""
_far: Final = Horizons._fields.index("far")
"""The horizon by which shoppers are classed."""
Repair = Literal["features", "outcomes", "at_arrival", "late_orders"]


class ValueSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[shopper_value]`."""

    shoppers_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most buyers who are remembered; the one whose last order is longest ago is forgotten first."
            " One takes about 0.5 kB.",
        ),
    ] = 100_000
    orders_max: Annotated[
        int, Meta(ge=1, description="Most orders that are remembered, so that returns are known to be of them.")
    ] = 50_000
    order_lines_max: Annotated[int, Meta(ge=1, description="Most lines of all remembered orders.")] = 200_000
    items_max: Annotated[
        int, Meta(ge=16, description="Most items of which it is counted who buys them; those bought least go first.")
    ] = 50_000
    sample_max: Annotated[
        int,
        Meta(ge=1, le=20_000, description="Most shoppers of a week from whom is learned; of more, a sample."),
    ] = 2_000
    a_share: Annotated[
        float, Meta(gt=0, lt=1, description="Share of all expected spend that the shoppers of class A have.")
    ] = 0.8
    b_share: Annotated[
        float, Meta(gt=0, lt=1, description="Share that the shoppers of the classes A and B have together.")
    ] = 0.95
    class_margin: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="By which share the expectation must be above, or below, the limit of a class for a shopper to"
            " change it.",
        ),
    ] = 0.1
    near_days: Annotated[
        int, Meta(ge=1, le=183, description="Days of the near horizon within which is told what is expected.")
    ] = 30
    far_days: Annotated[
        int,
        Meta(
            ge=2,
            le=366,
            description="Days of the far horizon, by which shoppers are classed; at least twice `near_days`. With other"
            " horizons, outcomes are learned anew.",
        ),
    ] = 91

    def __post_init__(self) -> None:
        if self.far_days < 2 * self.near_days:
            raise ValueError(f"far_days: wanted at least twice near_days, {2 * self.near_days}, found {self.far_days}")


class Within(Struct, frozen=True):
    """What is expected within some days: spend and orders with the ends of their 80 % intervals, less returns, and the
    probability of a purchase."""

    days: int
    spend: float
    spend_low: float
    spend_high: float
    orders: float
    orders_low: float
    orders_high: float
    purchase: float


class ValueQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for a shopper's value."""

    shopper: Annotated[str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")]


class Value(Struct, frozen=True):
    """What a buyer has spent, in the shop's currency less returns, and what is expected; empty before anything is.

    `value_class` is A, B or C, "" as long as there is none.
    """

    shopper: str
    currency: str
    value_class: str
    orders: int
    spent: float
    returned: float
    first_order_ms: int
    last_order_ms: int
    expected: list[Within]


class RetentionQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for shoppers who are worth keeping."""

    n: Annotated[int, Meta(ge=1, le=retention_max, description="How many, at most.")] = 20


class Leaving(Struct, frozen=True):
    """A shopper who is likely to leave.

    `usual_spend` is what the shopper spent in the days of the far horizon at the pace of the last year, `at_risk` that
    times the probability of no purchase within the next such days.
    """

    shopper: str
    value_class: str
    purchase: float
    usual_spend: float
    at_risk: float
    last_order_ms: int
    reasons: list[Reason]
    best_day: BestDay


class Retention(Struct, frozen=True):
    """Shoppers who are likely to leave and worth keeping, those first with whom most may be lost.

    `days` is the far horizon.
    """

    currency: str
    days: int
    shoppers: list[Leaving]


def retention_rows(body: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the list as rows of a table, the names of the columns first."""
    yield (
        "shopper", "value_class", "days", "purchase", "usual_spend", "at_risk", "currency", "last_order",
        "best_day", "why_then", "reasons", "why",
    )  # fmt: skip
    for one in body["shoppers"]:
        last = datetime.fromtimestamp(one.last_order_ms / 1000, UTC).isoformat(timespec="seconds")
        codes, texts = ("; ".join(getattr(each, part) for each in one.reasons) for part in ("code", "text"))
        yield (
            one.shopper, one.value_class, body["days"], one.purchase, one.usual_spend, one.at_risk, body["currency"],
            last, one.best_day.day, one.best_day.why, codes, texts,
        )  # fmt: skip


class Reliability(Struct, frozen=True):
    """Of predictions within a range of probability: how many, their mean, and the share that bought."""

    rows: int
    predicted: float
    bought: float


class HorizonScores(Struct, frozen=True):
    """How good predictions for some days were, over the newest weeks whose outcomes are known.

    `correlation` is Spearman's, of expected and true spend; `tenth` is the share of the true spend of the tenth of the
    shoppers of which most was expected. `past_correlation` and `past_tenth` are those of what had been spent before,
    `past_auc` that of the time since the last order.
    `covered` is the share of true spends in their 80 % interval, `spend_ratio` true by expected spend of all.
    """

    days: int
    rows: int
    correlation: float
    past_correlation: float
    tenth: float
    past_tenth: float
    auc: float | None
    past_auc: float | None
    calibration_error: float
    covered: float
    spend_ratio: float
    reliability: list[Reliability]


class ValueScores(Struct, frozen=True):
    """The family's part of a record of `scores`.

    `spend` is what was expected of each class within the far horizon when shoppers were last classed, in the shop's
    currency; `days` are the horizons.
    """

    shoppers: int
    classes: dict[str, int]
    repairs: dict[str, int]
    horizons: list[HorizonScores]
    spend: dict[str, float] = {}
    currency: str = ""
    days: tuple[int, int] = Horizons()


class _Untold(NamedTuple):
    """A shopper, by row, whose class is to be told, and what is expected within the far horizon.

    Amounts are in grains.
    """

    place: int
    spend: float
    spend_low: float
    spend_high: float
    orders: float
    purchase: float


class ValueFamily(Family):
    """Learns what shoppers are worth."""

    name: ClassVar[str] = "shopper_value"
    reads: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name, "rounds")
    merges: ClassVar[Merges] = Merges(
        "not", per_shopper="sums of what was bought", why="one model learns from a sample of all shoppers"
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "shoppers": Part(), "items": Part(needs=("shoppers",)), "orders": Part(needs=("shoppers",)),
        "snapshots": Part(needs=("shoppers",)), "models": Part(needs=("shoppers",)), "judged": Part(),
        "classes": Part(needs=("shoppers",)),
    }  # fmt: skip

    def __init__(self, settings: ValueSettings, reads: Mapping[str, Family]) -> None:
        desk = reads[Desk.name]
        assert isinstance(desk, Desk)
        self.settings, self._desk = settings, desk
        self.horizons = Horizons(settings.near_days, settings.far_days)
        self.shoppers = Shoppers(settings.shoppers_max)
        self.items = Items(settings.items_max)
        self.orders = Orders(orders_max=settings.orders_max, lines_max=settings.order_lines_max)
        self.snapshots: list[Snapshot] = []
        self.models: list[Model | None] = [None] * len(self.horizons)
        self.scaling: Scaling | None = None
        self.judged: list[list[Judged]] = [[] for _ in self.horizons]
        self.repairs: Counter[str] = Counter()
        self.lost = 0
        self._untold: deque[_Untold] = deque()
        self._leaving = np.zeros(0, np.int64)  # rows of those with whom most may be lost
        self._spend: Floats = np.zeros(len(CLASSES))  # grains that were expected of each class
        self._due_ms = 0  # when a note, or a snapshot, is due: within a week
        self._behind = 0  # weeks in a row that began before the newest snapshot
        self._noted_ms = 0  # of when the newest note is: an order of an earlier time is late

    @property
    def snapshots_max(self) -> int:
        """Most snapshots: those whose far horizon is not over, and those from which is learned what comes within it."""
        return -(-self.horizons.far // _week) + taught_max

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""
        if not self._due_ms - _week * DAY_MS <= event.time_ms < self._due_ms:
            self._advance(event.time_ms)
        if self._untold:
            self._tell(now)
        kind = event.type
        if kind == "purchase":
            self._buy(event)
        elif kind == "refund":
            self._give_back(event)
        elif (place := self.shoppers.place(event.shopper)) is not None:
            self.shoppers.see(place, event.time_ms)

    def _grains(self, line: Item) -> float | None:
        """Return what a piece of a line costs, as it or else the shop states it."""
        price = line.price
        if price is None and (stated := self._desk.stated(line.item_id)):
            price = self._desk.price(stated)
        return None if price is None else float(round(price / grain))

    def _buy(self, event: Event) -> None:
        data = event.data
        lines: dict[str, tuple[float, float]] = {}  # by item, the grains of a piece, and pieces
        grains, pieces, priced = 0.0, 0.0, False
        for line in data.items:
            each, count = self._grains(line), line.quantity
            pieces += count
            if each is None:
                each = 0.0
            else:
                priced = True
                grains += round(each * count)
            if before := lines.get(line.item_id):
                each, count = each or before[0], count + before[1]
            lines[line.item_id] = each, count
        if data.value is not None and not priced:
            grains = float(round(max(0.0, data.value) / grain))
        place = self.shoppers.place(event.shopper)
        if place is None and (leaving := self.shoppers.next_forgotten()) is not None:
            self.orders.forget(leaving)
        transaction = data.transaction_id or event.id
        continues = self.orders.buy(event.shopper, transaction, event.time_ms, lines, grains)
        first = place is None or bool(self.shoppers.rows[place, ORDERS] <= continues)
        items = self.items.buy(lines, event.time_ms // DAY_MS, first=first)
        self.shoppers.buy(event.shopper, event.time_ms, grains, len(data.items), pieces, items, continues=continues)
        if (moved := self.items.fit()) is not None:
            self.shoppers.renumber(moved)
        if place is not None and event.time_ms < self._noted_ms:
            self.repairs["late_orders"] += 1
            for snapshot in self.snapshots:
                snapshot.take_back(place, event.time_ms / DAY_MS, -grains, -int(not continues))

    def _give_back(self, event: Event) -> None:
        place = self.shoppers.place(event.shopper)
        if place is None:
            return
        data = event.data
        stated = None if data.value is None else float(round(abs(data.value) / grain))
        lines = [Line(line.item_id, self._grains(line), line.quantity) for line in self._desk.orders.returned]
        self.shoppers.rows[place, RETURNS] += 1.0
        for one in self.orders.give_back(event.shopper, data.transaction_id, lines, stated):
            self.shoppers.take_back(place, event.time_ms, one.grains, int(one.whole), one.bought_ms)
            if one.bought_ms is None:
                self.repairs["at_arrival"] += 1
                continue
            self.repairs["features"] += 1
            day = one.bought_ms / DAY_MS
            for snapshot in self.snapshots:
                self.repairs["outcomes"] += snapshot.take_back(place, day, one.grains, int(one.whole))

    def _advance(self, time_ms: int) -> None:
        """Note outcomes that are known by now and, if a week has passed, learn from them and take a snapshot.

        Where the shop's time has returned to long before the newest snapshots, these are dropped.
        """
        day = time_ms // DAY_MS
        ahead = [one for one in self.snapshots if one.day > day + _week]
        self._behind = self._behind + 1 if ahead else 0
        if self._behind == behind_max:
            del self.snapshots[-len(ahead) :]
        for snapshot in self.snapshots:
            while snapshot.next_day is not None and day >= snapshot.next_day:
                self.lost += snapshot.note(self.shoppers)
                self._judge(snapshot, snapshot.noted - 2)
        monday = day - (day - _monday) % _week
        if not self.snapshots or monday > self.snapshots[-1].day:
            self._learn()
            taken = Snapshot.take(monday, self.shoppers, self.items, self.settings.sample_max, self.horizons)
            if taken is not None:
                self.snapshots.append(taken)
                del self.snapshots[: -self.snapshots_max]
                self.scaling = taken.scaling
                self._class(taken)
        due = [monday + _week, *(one.next_day for one in self.snapshots if one.next_day is not None)]
        self._due_ms = min(due) * DAY_MS
        self._noted_ms = max((one.noted_day for one in self.snapshots), default=0) * DAY_MS

    def _learn(self) -> None:
        """Fit the models to the newest outcomes that are known: the near one's first, as the far one builds on it."""
        near = None
        for horizon in range(len(self.horizons)):
            known = [one for one in self.snapshots if one.known(horizon)][-taught_max:]
            learned = [(one, found) for one in known if (found := one.learned(horizon))]
            if sum(len(one.places) for one, _ in learned) < rows_min:
                continue
            newest = known[-1].day
            weighted = [(power_of_two((one.day - newest) / _week / half_life_weeks), found) for one, found in learned]
            near = scoring(solved(weighted), near)
            self.models[horizon] = Model.of(near, [_rows(one, horizon) for one, _ in learned[-scaled_max:]])

    def _judge(self, snapshot: Snapshot, horizon: int) -> None:
        """Compare what was expected of the shoppers of a snapshot with what they did."""
        there, outcome = snapshot.outcome(horizon)
        guessed = snapshot.guessed[horizon][:, there]
        if guessed.size and not np.isnan(guessed[0, 0]):
            past, since = snapshot.notes[0, 0, there], snapshot.values[there, SINCE].astype(np.float64)
            self.judged[horizon].append(Judged.of(snapshot.day, guessed, outcome, past, since))
            del self.judged[horizon][:-judged_max]

    def _class(self, taken: Snapshot) -> None:
        """Predict for all shoppers at the moment of a snapshot: note what is expected of those in it, class all, and
        note with whom most may be lost. Where no spend is expected, as no price is known, there are no classes.

        Who has returned everything is classed, too, so that nobody stays in the class of what was returned.
        """
        time_ms, rows = taken.day * DAY_MS, self.shoppers.in_use
        places = np.arange(len(rows))
        found = [self.expected(places[n : n + _block], time_ms) for n in range(0, len(places), _block)]
        horizons = [Expected.joined(each) for each in zip(*found, strict=True)]
        for guessed, one in zip(taken.guessed, horizons, strict=True):
            if one is not None:
                guessed[:] = [each[taken.places] for each in (one.purchase, one.spend, one.spend_low, one.spend_high)]
        far = horizons[_far]
        if far is None:
            return
        spend, purchase = far.spend, far.purchase
        grades = rows[:, GRADE].astype(np.int64)
        if spend.any():
            limits = Limits.of(spend, self.settings.a_share, max(self.settings.a_share, self.settings.b_share))
            grades = classes_of(spend, grades, limits, self.settings.class_margin)
        rows[:, GRADE] = grades
        self._spend = np.asarray(np.bincount(grades, spend, len(CLASSES)), np.float64)
        changed = np.flatnonzero(rows[:, GRADE] != rows[:, TOLD])
        columns = (
            one[changed].tolist() for one in (places, spend, far.spend_low, far.spend_high, far.orders, purchase)
        )
        self._untold = deque(map(_Untold._make, zip(*columns, strict=True)))
        self._leaving = most_at_risk(at_risk(rows, time_ms / DAY_MS, purchase, self.horizons.far), retention_max)

    def _tell(self, now: Moment) -> None:
        """Tell some of the classes that have changed."""
        for _ in range(min(told_max, len(self._untold))):
            one = self._untold.popleft()
            row = self.shoppers.rows[one.place]
            grade, before = int(row[GRADE]), int(row[TOLD])
            if grade == before:  # the row is another shopper's now
                continue
            told: tuple[Any, Any] = (CLASSES[grade], CLASSES[before])
            money = (_money(one.spend), _money(one.spend_low), _money(one.spend_high))
            orders, purchase = round(one.orders, 3), round(one.purchase, 4)
            shopper, days = self.shoppers.name(one.place), self.horizons.far
            now.write(record_of(ShopperClass(shopper, *told, days, *money, orders, purchase, now.time_ms)))
            row[TOLD] = row[GRADE]

    def expected(self, places: NDArray[np.int64], time_ms: int) -> list[Expected | None]:
        """Return what is expected of shoppers by their rows, for each horizon; None before anything was learned."""
        if self.scaling is None:
            return [None] * len(self.horizons)
        near, far = self.models
        rows, day, scaling = self.shoppers.rows[places], time_ms / DAY_MS, self.scaling
        items = self.items.telling(self.shoppers.items[places], day)
        design, *later = (
            scaling.design(features(rows, items, day + days, scaling.order))
            for days in (self.horizons.periods if near and far else (0,))
        )
        soon = near and near.expected(design)
        if near is None or far is None or soon is None:
            return [soon, None]
        found = far.expected(design)
        hazard = bought_within([soon.purchase, *map(near.chance, later)])
        found = found._replace(purchase=between(found.purchase, hazard))
        # What comes within the near horizon comes within the far one.
        return [soon, Expected(*map(np.maximum, found, soon))]

    def knows(self, shopper: str) -> bool:
        """Return whether the shopper has bought."""
        return self.shoppers.place(shopper) is not None

    def segments_of(self, shopper: str, now_ms: int) -> list[str]:
        """Return the shopper's class, if there is one."""
        place = self.shoppers.place(shopper)
        grade = "" if place is None else CLASSES[int(self.shoppers.rows[place, GRADE])]
        return [grade] if grade else []

    def has_segment(self, name: str) -> bool:
        """Return whether a name is that of a class."""
        return bool(name) and name in CLASSES

    def scores(self) -> ValueScores:
        """Return how good predictions were."""
        horizons = [_scores(days, judged) for days, judged in zip(self.horizons, self.judged, strict=True) if judged]
        spend = dict(zip(CLASSES[1:], map(_money, self._spend[1:].tolist()), strict=True))
        return ValueScores(
            len(self.shoppers), self.classes(), dict(self.repairs), horizons, spend, self._desk.currency.shop,
            self.horizons,
        )  # fmt: skip

    def classes(self) -> dict[str, int]:
        """Return how many shoppers are in each class."""
        counts = np.bincount(self.shoppers.in_use[:, GRADE].astype(np.int64), minlength=len(CLASSES)).tolist()
        return dict(zip(CLASSES[1:], counts[1:], strict=True))

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        rows = sum(len(one.places) for one in self.snapshots)
        return {
            "value_shoppers": self.shoppers.bounds(),
            "value_items": self.items.bounds(),
            **{f"value_{table}": use for table, use in self.orders.bounds().items()},
            "value_snapshot_rows": (rows, self.snapshots_max * self.settings.sample_max),
            "value_leaving": (len(self._leaving), retention_max),
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "shoppers": self.shoppers.state(),
            "items": self.items.state(),
            "orders": self.orders.state(),
            "snapshots": {
                "horizons": list(self.horizons), "due_ms": self._due_ms, "behind": self._behind, "lost": self.lost,
                "taken": [one.state() for one in self.snapshots],
            },
            "models": {
                "models": [model and model.state() for model in self.models],
                "scaling": self.scaling and self.scaling.state(),
            },
            "classes": {
                "untold": np.array(self._untold, np.float64).reshape(-1, len(_Untold._fields)),
                "leaving": self._leaving.copy(),
                "spend": self._spend.copy(),
            },
            "judged": {
                "repairs": dict(self.repairs),
                "judged": [[one.state() for one in found] for found in self.judged],
            },
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken; with other horizons, learn outcomes anew from the next Monday."""
        settings = self.settings
        found = state.get("snapshots")
        if found and tuple(found["horizons"]) != self.horizons:
            day = found["due_ms"] // DAY_MS
            begin = {"due_ms": (day + (_monday - day) % _week) * DAY_MS, "horizons": self.horizons, "taken": []}
            state = {
                **{name: state[name] for name in ("shoppers", "items", "orders") if name in state},
                "snapshots": {**found, **begin},
                "judged": {**state.get("judged", {"repairs": {}}), "judged": [[] for _ in self.horizons]},
            }
        if "shoppers" in state:
            self.shoppers, moved = Shoppers.from_state(state["shoppers"], settings.shoppers_max)
            if "items" in state:
                self.items = Items.from_state(state["items"], settings.items_max)
                if (renumbered := self.items.fit()) is not None:
                    self.shoppers.renumber(renumbered)
            if "snapshots" in state:
                found = state["snapshots"]
                self._due_ms, self._behind, self.lost = found["due_ms"], found["behind"], found["lost"]
                self.snapshots = [Snapshot.from_state(one, self.horizons) for one in found["taken"]]
                for snapshot in self.snapshots:
                    snapshot.moved(moved)
                    snapshot.shorten(settings.sample_max)
                self._noted_ms = max((one.noted_day for one in self.snapshots), default=0) * DAY_MS
            if "classes" in state:
                found = state["classes"]
                untold, leaving = found["untold"].copy(), moved[found["leaving"]]
                untold[:, 0] = moved[untold[:, 0].astype(np.int64)]
                self._untold = deque(_Untold(int(place), *rest) for place, *rest in untold.tolist() if place >= 0)
                self._leaving, self._spend = leaving[leaving >= 0], found["spend"].copy()
        if "orders" in state:
            self.orders = Orders.from_state(
                state["orders"], orders_max=settings.orders_max, lines_max=settings.order_lines_max,
                shoppers=self.shoppers,
            )  # fmt: skip
        if "models" in state:
            self.models = [one and Model.from_state(one) for one in state["models"]["models"]]
            scaling = state["models"]["scaling"]
            self.scaling = scaling and Scaling.from_state(scaling)
        if "judged" in state:
            self.repairs = Counter(state["judged"]["repairs"])
            self.judged = [[Judged.from_state(one) for one in found] for found in state["judged"]["judged"]]

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the online shard's: 0.3.0 had no values."""
        if "buying" not in fold:
            return None
        return {}, cls(ValueSettings(), {Desk.name: Desk(DeskSettings(), {})}).state()

    def answer(self, query: ValueQuery, now: Now) -> Value:
        """Return the answer to a request over HTTP."""
        place = self.shoppers.place(now.known_as(query.shopper))
        if place is None:
            raise Unknown(f"shopper {query.shopper}: wanted one who has bought, found none")
        row = self.shoppers.rows[place]
        found = self.expected(np.array([place]), now.time_ms)
        return Value(
            query.shopper, self._desk.currency.shop, CLASSES[int(row[GRADE])], int(row[ORDERS]), _money(row[SPENT]),
            _money(row[RETURNED]), round(row[FIRST] * DAY_MS), round(row[LAST] * DAY_MS),
            [_within(days, one, 0) for days, one in zip(self.horizons, found, strict=True) if one is not None],
        )  # fmt: skip

    def retention(self, query: RetentionQuery, now: Now) -> Retention:
        """Return the answer to a request over HTTP, from what is known now of those noted at the week's beginning."""
        places, day, days = self._leaving, now.time_ms / DAY_MS, self.horizons.far
        found = self.expected(places, now.time_ms)[_far] if len(places) else None
        if found is None:
            return Retention(self._desk.currency.shop, days, [])
        rows = self.shoppers.rows[places]
        losses, spend = at_risk(rows, day, found.purchase, days), usual(rows, day, days)
        leaving = [
            Leaving(
                self.shoppers.name(int(places[n])), CLASSES[int(row[GRADE])], round(float(found.purchase[n]), 4),
                _money(spend[n]), _money(losses[n]), last_ms(row), reasons(row, day), best_day(row, day),
            )
            for n in most_at_risk(losses, query.n).tolist() for row in [rows[n]]
        ]  # fmt: skip
        return Retention(self._desk.currency.shop, days, leaving)

    # Functions that the surface names.

    def series(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the scores, by horizon and metric."""
        for one in self.scores().horizons:
            for metric in _METRICS:
                if (value := getattr(one, metric)) is not None:
                    yield (f"{one.days}d", metric), value

    def class_sizes(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the number of shoppers in each class."""
        for name, count in self.classes().items():
            yield (name,), count

    def repaired(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield how much was repaired, by what it was."""
        for what in get_args(Repair):
            yield (what,), self.repairs[what]


_METRICS: Final = (
    "correlation",
    "past_correlation",
    "tenth",
    "past_tenth",
    "auc",
    "past_auc",
    "calibration_error",
    "covered",
)


def _rows(snapshot: Snapshot, horizon: int) -> tuple[NDArray[np.float32], Outcome]:
    there, outcome = snapshot.outcome(horizon)
    return snapshot.design()[there], outcome


def _money(grains: float) -> float:
    return round(max(0.0, float(grains)) * grain, 2)


def _within(days: int, found: Expected, place: int) -> Within:
    spend, low, high, orders, fewest, most, purchase = (float(values[place]) for values in found)
    return Within(
        days, _money(spend), _money(low), _money(high), round(orders, 3), round(fewest, 3), round(most, 3),
        round(purchase, 4),
    )  # fmt: skip


def _scores(days: int, judged: list[Judged]) -> HorizonScores:
    bins = np.zeros((3, BINS))
    for one in judged:
        bins += one.bins
    rows = sum(one.rows for one in judged)
    correlation, past_correlation, tenth, past_tenth, covered = (
        sum(one.rows * getattr(one, name) for one in judged) / rows
        for name in ("order", "past_order", "tenth", "past_tenth", "covered")
    )
    told = [one for one in judged if one.auc is not None]
    auc, past_auc = (
        sum(one.rows * (getattr(one, name) or 0.0) for one in told) / sum(one.rows for one in told) if told else None
        for name in ("auc", "past_auc")
    )
    expected = sum(one.expected for one in judged)
    return HorizonScores(
        days, rows, correlation, past_correlation, tenth, past_tenth, auc, past_auc, calibration_error(bins), covered,
        sum(one.spend for one in judged) / expected if expected else 0.0,
        [
            Reliability(int(count), predicted / count, bought / count)
            for count, predicted, bought in bins.T.tolist() if count
        ],
    )  # fmt: skip


def _rows_of_scores(scores: ValueScores) -> Iterable[tuple[Any, ...]]:
    for one in scores.horizons:
        yield (
            f"{one.days} days", one.correlation, one.past_correlation, one.tenth, one.past_tenth, one.auc, one.past_auc,
            one.calibration_error, one.covered,
        )  # fmt: skip


def _reliability(scores: ValueScores) -> Iterable[tuple[Any, ...]]:
    for horizon in scores.horizons:
        for one in horizon.reliability:
            yield f"{horizon.days} days, {one.rows:,} shoppers", one.predicted, one.bought


ValueFamily.surface = Surface(
    doc="What each buyer will spend and order within two horizons, and the calibrated probability of a purchase.",
    settings=ValueSettings,
    scores=ValueScores,
    writes=(SHOPPER_CLASSES,),
    full_by_design=("value_orders", "value_order_lines", "value_snapshot_rows", "value_leaving"),
    labels={
        "value_class": "`A`, `B` and `C`",
        "horizon": "the two horizons, by default `30d` and `91d`",
    },
    metrics=(
        Metric(
            name="headrace_value_score",
            help="How good predictions of the spend, and of a purchase, of the newest weeks with known outcomes were.",
            labels=("horizon", "metric"), read=ValueFamily.series, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_value_class_shoppers", help="Shoppers by class of value.", labels=("value_class",),
            label_values=CLASSES[1:], read=ValueFamily.class_sizes, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_value_repairs_total",
            help="What returns and late orders repaired: sums, learned outcomes, or only what is known from now on.",
            kind="counter", labels=("repair",), label_values=get_args(Repair), read=ValueFamily.repaired,
        ),
    ),
    routes=(
        Route(
            path="/v1/shoppers/{shopper}/value",
            doc="What a buyer has spent, and what is expected within the two horizons, 30 and 91 days by default.",
            query=ValueQuery,
            answer=Value,
            call=ValueFamily.answer,
        ),
        Route(
            path="/v1/retention",
            doc="Shoppers who are likely to leave and worth keeping, with reasons and the best day to write to them.",
            query=RetentionQuery,
            answer=Retention,
            call=ValueFamily.retention,
        ),
        Route(
            path="/v1/retention.csv",
            doc="The same list as CSV.",
            query=RetentionQuery,
            answer=Retention,
            call=ValueFamily.retention,
            csv=retention_rows,
        ),
    ),
    tables=(
        Table(
            title="Value of shoppers",
            columns=(
                "within", "rank correlation", "of past spend", "top tenth's share", "of past spend", "AUC of purchase",
                "of recency", "calibration error", "in 80 % interval",
            ),
            rows=_rows_of_scores,
            note="Predictions of the newest weeks whose outcomes are known, beside the order by what was spent before,"
            " and by the last order.",
        ),
        Table(
            title="Probability of a purchase", columns=("within", "predicted", "bought"), rows=_reliability,
            note="By predicted probability: its mean, and the share that bought.",
        ),
    ),
    charts=(
        Chart(
            title="AUC of the probability of a purchase",
            lines=lambda scores: {f"{one.days} days": one.auc for one in scores.horizons if one.auc is not None},
            floor=0.5,
        ),
        Chart(
            title="calibration error of the probability of a purchase",
            lines=lambda scores: {f"{one.days} days": one.calibration_error for one in scores.horizons},
        ),
    ),
    pages=(PAGE,),
    quality=Quality(
        name="AUC of a purchase within the near horizon",
        of=lambda scores: next((one.auc for one in scores.horizons if one.days == scores.days[0]), None),
    ),
    teaches=dict.fromkeys(LEARNED_TYPES, "that a buyer was there, and its time: outcomes that are known are learned")
    | {
        "purchase": "what was bought, for how much, and when",
        "refund": "what was returned, which takes back what the purchase taught",
    },
    demo={"simulated": {"near_days": 3, "far_days": 6}},
    benchmark="benchmarks.customers",
)  # fmt: skip
