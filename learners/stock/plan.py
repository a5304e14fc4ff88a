"""What to order now, and what is known of an item's stock, as answers. Computed from the fold's levels and rates.

Each line of a plan has its reason and what it assumes, in words. Where the shop states no lead time, cost or margin of
an item, the settings say what is assumed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from headrace.items import FOREVER_MS, ItemRecord
from headrace.topics import DAY_MS
from learners.desk.family import Desk
from learners.stock.levels import Levels
from learners.stock.policy import Costs, Expected, Mixture, Terms, gain, levels, order, within_budget
from learners.stock.policy import Levels as Points

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]
Risk = Literal["sold_out", "foreseen", "dead"]
"""An item is sold out; it will probably be before an order that is placed now arrives; its stock lasts too long."""
Service = Annotated[
    float,
    Meta(
        gt=0,
        lt=1,
        description="Share of the demanded pieces that is wanted from stock; without it, what costs least decides.",
    ),
]
plan_max: Final = 10_000
days_left_max: Final = 3_650.0
_block: Final = 8_192
"""Items that are planned together."""
_known_days: Final = 28.0
"""Days of which sales must be known before stock counts as dead."""
_steps: Final = 40
_soon_days: Final = 14.0


class StockQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for an item's stock."""

    item: Annotated[str, Meta(min_length=1, max_length=128, description="The item's id, percent-encoded.")]
    service_level: Service | None = None


class ItemStock(Struct, frozen=True):
    """What is known of an item's stock, in pieces; None where no level is stated.

    `stated_ms` is when the level was stated, `sold_since` what was sold since then. `rate` is what is demanded on an
    ordinary day. `sold_out_chance` is the probability that all is sold before an order that is placed now arrives.
    `order` is what to order now. `assumes` states on what this rests.
    """

    item: str
    on_hand: float | None
    on_order: float
    stated_ms: int
    sold_since: float
    rate: float
    days_left: float | None
    sold_out_chance: float | None
    reorder_point: float
    order_up_to: float
    order: float | None
    risk: str
    assumes: list[str]


class PlanQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for a plan."""

    n: Annotated[int, Meta(ge=1, le=plan_max, description="How many lines, at most.")] = 100
    budget: (
        Annotated[
            float, Meta(ge=0, le=1e12, description="Most money for all orders, in the shop's currency; none: no limit.")
        ]
        | None
    ) = None
    service_level: Service | None = None


class PlanLine(Struct, frozen=True):
    """An order of an item: pieces, what they cost, and what ordering them now gains over ordering them later."""

    item: str
    title: str
    order: float
    cost: float
    gain: float
    on_hand: float
    on_order: float
    reorder_point: float
    order_up_to: float
    rate: float
    days_left: float
    sold_out_chance: float
    reason: str
    assumes: list[str]


class Dead(Struct, frozen=True):
    """An item whose stock lasts too long: pieces, what they cost, and for how many days they last."""

    item: str
    title: str
    on_hand: float
    cost: float
    days: float


class Plan(Struct, frozen=True):
    """What to order now, first what gains most for its money; `left_out` are orders for which the budget, or n, is too
    small. `dead` is dead stock, the dearest first. Amounts are in `currency`; "" while no price is known."""

    currency: str
    cost: float
    lines: list[PlanLine]
    left_out: int
    dead: list[Dead]


class Usual(NamedTuple):
    """What is assumed of items of which the shop states less; see the settings."""

    lead_days: float
    lead_spread_days: float
    review_days: float
    margin: float
    holding_a_year: float
    order_lines: float
    dead_days: float
    plan_days: float


class Facts(NamedTuple):
    """What is stated of some items, in columns. Shapes: (I,)

    Attributes:
        records: None of an item of which nothing is stated.
        priced: whether a cost or a price is known.
        sale_from, sale_until: days; infinite without a sale.
    """

    records: list[ItemRecord | None]
    terms: Terms
    priced: NDArray[np.bool_]
    on_order: Floats
    sale_from: Floats
    sale_until: Floats

    def some(self, part: slice) -> "Facts":
        """Return those of some of the items."""
        terms = Terms(*(one[part] for one in self.terms))
        return Facts(
            self.records[part], terms, self.priced[part], self.on_order[part], self.sale_from[part],
            self.sale_until[part],
        )  # fmt: skip


class Judged(NamedTuple):
    """What is noted of items when a day begins.

    Attributes:
        risk: the probability that each is sold out before an order arrives.
        simple: what a usual rule tells: that the level is below the sales of lately within a mean lead time.
        per_day: what is expected to sell on a day of the next two weeks, sales that are announced included.
        money: see `Levels.money`.

    Shapes: (I,), money: (2,)
    """

    risk: Floats
    simple: NDArray[np.bool_]
    per_day: Floats
    money: Floats


class Due(NamedTuple):
    """Orders that are due: of which slots, what each gains, its pieces and what they cost. Shapes: (O,)"""

    slots: Slots
    gain: Floats
    pieces: Floats
    cost: Floats


class Planner:
    """Plans from levels and rates, and from what the desk knows of items. It changes neither.

    Args:
        of: returns the levels; they are others after a restore.
    """

    def __init__(self, desk: Desk, of: Callable[[], Levels], usual: Usual) -> None:
        self._desk, self._of, self._usual = desk, of, usual

    def facts(self, slots: Slots, typical: float | None = None) -> Facts:
        """Return what is stated of some items.

        Args:
            typical: what an item costs whose price is not known; None: the median of the shop.
        """
        typical = self._money(slots)[0] if typical is None else typical
        usual, names = self._usual, self._of().names
        records = [self._desk.stated(names[slot]) for slot in slots.tolist()]
        rows = [self._row(record) for record in records]
        columns = np.array(rows, np.float64).reshape(-1, 10).T
        cost, price, lead, spread, pack, minimum, shelf, on_order, *sale = columns
        known = ~np.isnan(cost) | ~np.isnan(price)
        cost = np.where(np.isnan(cost), price * (1 - usual.margin), cost)
        cost = np.where(np.isnan(cost), typical, cost)
        margin = np.where(np.isnan(price), cost * usual.margin / (1 - usual.margin), price - cost)
        terms = Terms(cost, margin, lead, spread, pack, minimum, shelf)
        return Facts(records, terms, known, on_order, sale[0], sale[1])

    def _row(self, record: ItemRecord | None) -> tuple[float, ...]:
        """Return cost, price, lead time, spread, pack, minimum, shelf life, what is on order, and the sale's days."""
        usual, nan, never = self._usual, float("nan"), float("inf")
        if record is None:
            return nan, nan, usual.lead_days, usual.lead_spread_days, 1.0, 1.0, never, 0.0, never, never
        cost, price = self._desk.cost(record), self._desk.price(record)
        lead, spread = record.lead_time_days, record.lead_time_spread_days
        # A lead time that is stated without its spread is taken to vary as much, in proportion, as the usual one.
        scale = 1.0 if lead is None or not usual.lead_days else lead / usual.lead_days
        sale = (record.sale_from_ms / DAY_MS, record.sale_until_ms / DAY_MS) if record.sale_prices else (never, never)
        return (
            cost or nan, price or nan,  # 0 is what feeds write of a price that they do not know, as is none
            usual.lead_days if lead is None else lead,
            usual.lead_spread_days * scale if spread is None else spread,
            float(record.pack_size), float(record.minimum_order),
            never if record.shelf_life_days is None else record.shelf_life_days, record.on_order, *sale,
        )  # fmt: skip

    def _expected(self, slots: Slots, facts: Facts, now_day: float, *, spread: bool = True) -> Expected:
        return self._of().rates.expected(now_day, facts.sale_from, facts.sale_until, slots, spread=spread)

    def _costs(self, slots: Slots, service: float | None) -> Costs:
        usual = self._usual
        return Costs(usual.order_lines * self._money(slots)[1], usual.holding_a_year, usual.review_days, service)

    def _money(self, slots: Slots) -> Floats:
        """Return what a median item costs, and the mean value at cost of a line: as of the begin of the day.

        Before a day has begun with levels that are known they are those of some items.
        """
        kept = self._of().money
        return self._money_of(slots, self.facts(slots, 1.0)) if np.isnan(kept).any() else kept

    def _money_of(self, slots: Slots, facts: Facts) -> Floats:
        rates, cost, priced = self._of().rates, facts.terms.cost, facts.priced
        typical = float(np.median(cost[priced])) if priced.any() else 1.0
        lines = rates.lines[0, slots] + 1e-9
        value = lines * rates.some(slots).line * np.where(priced, cost, typical)
        return np.array([typical, float(np.add.reduce(value) / np.add.reduce(lines))])

    def judge(self, slots: Slots, now_day: float) -> Judged:
        """Return what is noted of items when a day begins."""
        facts, usual, known = self.facts(slots, 1.0), self._usual, self._of()
        chances, per_day = [], []
        at = known.level[slots] + facts.on_order
        for start in range(0, len(slots), _block):
            part = slice(start, start + _block)
            some, stated = slots[part], facts.some(part)
            chances.append(self._chance(some, stated, now_day, at[part]))
            soon = self._expected(some, stated, now_day)(np.full(len(some), _soon_days))
            per_day.append(soon.mean / _soon_days)
        simple = at < known.monthly[slots] * (facts.terms.lead_days + usual.review_days)
        return Judged(np.concatenate(chances), simple, np.concatenate(per_day), self._money_of(slots, facts))

    def _chance(self, slots: Slots, facts: Facts, now_day: float, at: Floats) -> Floats:
        within = Mixture.of(
            self._expected(slots, facts, now_day), facts.terms.lead_days + self._usual.review_days,
            facts.terms.lead_spread_days,
        )  # fmt: skip
        # Sold out is an item of which as many pieces are demanded as there are.
        return within.above(np.maximum(at - 1.0, 0.0))

    def lasting(self, slots: Slots) -> Floats:
        """Return for how many days stock lasts at the rate of ordinary days; 0 while sales are known for too short."""
        levels_ = self._of()
        lasts = levels_.level[slots] / np.maximum(levels_.rates.some(slots).rate, 1e-9)
        return np.where(levels_.rates.exposed(slots) >= _known_days, np.minimum(lasts, days_left_max), 0.0)

    def _days_left(self, expected: Expected, at: Floats) -> Floats:
        low, high = np.zeros(len(at)), np.full(len(at), days_left_max)
        for _ in range(_steps):
            middle = (low + high) / 2
            enough = expected(middle).mean >= at
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.asarray(high)

    def item(self, slot: int, now_ms: int, service: float | None) -> ItemStock:
        """Return what is known of an item's stock."""
        known, slots, now_day = self._of(), np.array([slot]), now_ms / DAY_MS
        facts = self.facts(slots)
        expected, terms = self._expected(slots, facts, now_day), facts.terms
        costs = self._costs(slots, service)
        means = self._expected(slots, facts, now_day, spread=False)
        points = levels(expected, terms, costs)
        level = float(known.level[slot])
        stated = not np.isnan(level)
        at = np.array([level if stated else 0.0])
        chance = float(self._chance(slots, facts, now_day, at + facts.on_order)[0])
        wanted = 0.0 if self._hopeless(facts, costs)[0] else float(order(points, terms, at + facts.on_order)[0])
        risk, rates = self._risk(known, slot), known.rates.some(slots)
        return ItemStock(
            known.names[slot], level if stated else None, float(facts.on_order[0]), int(known.stated_ms[slot]),
            float(known.sold_since[slot]), _round(rates.rate[0]),
            round(float(self._days_left(means, at)[0]), 1) if stated else None, round(chance, 4) if stated else None,
            float(points.reorder[0]), float(points.up_to[0]), wanted if stated else None, risk,
            self._assumes(known, slot, facts, 0, points, service, float(rates.uplift[0])),
        )  # fmt: skip

    def _risk(self, known: Levels, slot: int) -> str:
        if known.out_ms[slot] >= 0:
            return "sold_out"
        return "foreseen" if known.warned[slot] else "dead" if known.dead[slot] else ""

    def plan(self, query: PlanQuery, now_ms: int) -> Plan:
        """Return what to order now."""
        known, usual, now_day = self._of(), self._usual, now_ms / DAY_MS
        slots = known.known()
        currency = self._desk.currency.shop
        if not len(slots):
            return Plan(currency, 0.0, [], 0, [])
        everything = self.facts(slots)
        costs = self._costs(slots, query.service_level)
        parts = [slice(start, start + _block) for start in range(0, len(slots), _block)]
        found = [self._due(slots[part], everything.some(part), costs, now_day) for part in parts]
        due, value, pieces, spent = (np.concatenate([getattr(one, name) for one in found]) for name in Due._fields)
        if query.budget is None:
            chosen = np.arange(len(due))
        else:
            chosen = np.flatnonzero(within_budget(value, spent, query.budget))
        ranked = chosen[np.argsort(-value[chosen] / np.maximum(spent[chosen], 1e-9), kind="stable")][: query.n]
        lines = self._lines(Due(*(one[ranked] for one in (due, value, pieces, spent))), costs, now_day)
        lasting = self.lasting(slots)
        held = known.level[slots] * everything.terms.cost
        dead = np.flatnonzero(lasting >= usual.dead_days)
        dearest = dead[np.argsort(-held[dead], kind="stable")][: query.n]
        return Plan(
            currency, round(sum(one.cost for one in lines), 2), lines, len(due) - len(lines),
            [
                Dead(
                    known.names[int(slots[place])], _title(everything.records[place]),
                    float(known.level[slots[place]]), round(float(held[place]), 2), round(float(lasting[place]), 0),
                )
                for place in dearest.tolist()
            ],
        )  # fmt: skip

    def _due(self, slots: Slots, facts: Facts, costs: Costs, now_day: float) -> Due:
        """Return the orders that are due among some items."""
        known = self._of()
        expected, terms = self._expected(slots, facts, now_day), facts.terms
        position = known.level[slots] + facts.on_order
        pieces = order(levels(expected, terms, costs), terms, position)
        gains = gain(expected, terms, costs, position, pieces, self._usual.plan_days)
        due = (pieces > 0) & ~self._hopeless(facts, costs)
        return Due(slots[due], gains[due], pieces[due], np.round((pieces * terms.cost)[due], 2))

    def _lines(self, due: Due, costs: Costs, now_day: float) -> list[PlanLine]:
        """Return orders in words; these take longer than all else, so only those that are told are put into them."""
        slots = due.slots
        if not len(slots):
            return []
        known, facts = self._of(), self.facts(slots)
        expected, terms = self._expected(slots, facts, now_day), facts.terms
        points = levels(expected, terms, costs)
        on_hand = known.level[slots]
        days = self._days_left(self._expected(slots, facts, now_day, spread=False), on_hand)
        chances = self._chance(slots, facts, now_day, on_hand + facts.on_order)
        chosen = known.rates.some(slots)
        rates, uplift = chosen.rate, chosen.uplift
        return [
            PlanLine(
                known.names[slot], _title(facts.records[place]), float(due.pieces[place]), float(due.cost[place]),
                round(float(due.gain[place]), 2), float(on_hand[place]), float(facts.on_order[place]),
                float(points.reorder[place]), float(points.up_to[place]), _round(rates[place]),
                round(float(days[place]), 1), round(float(chances[place]), 4),
                _reason(points, facts, place, float(on_hand[place])),
                self._assumes(known, slot, facts, place, points, costs.fill_rate, float(uplift[place])),
            )
            for place, slot in enumerate(slots.tolist())
        ]  # fmt: skip

    def _hopeless(self, facts: Facts, costs: Costs) -> NDArray[np.bool_]:
        """Return which items are not ordered: they are no longer sold, or nothing is earned and costs decide."""
        retired = np.array([record is not None and record.retired for record in facts.records], np.bool_)
        return retired | (facts.terms.margin <= 0) if costs.fill_rate is None else retired

    def _assumes(
        self, known: Levels, slot: int, facts: Facts, place: int, points: Points, service: float | None, uplift: float
    ) -> list[str]:
        usual, record, terms = self._usual, facts.records[place], facts.terms
        said = []
        if not np.isnan(known.level[slot]):
            stated = datetime.fromtimestamp(known.stated_ms[slot] / 1_000, UTC).isoformat(timespec="minutes")
            said.append(f"The level was stated at {stated}; {known.sold_since[slot]:g} were sold since.")
        if record is None or record.lead_time_days is None:
            said.append(f"The lead time is that of the settings, {usual.lead_days:g} days.")
        if not facts.priced[place]:
            said.append("No price is known: it costs what the median item does.")
        elif record is not None and self._desk.cost(record) is None:
            said.append(f"The margin is that of the settings, {usual.margin:.0%} of the price.")
        if service is None and terms.margin[place] <= 0:
            said.append("The price is not above the cost, so nothing is ordered.")
        if np.isfinite(facts.sale_from[place]):
            begins = _date(facts.sale_from[place])
            ends = f" to {_date(facts.sale_until[place])}" if facts.sale_until[place] * DAY_MS < FOREVER_MS else " on"
            said.append(f"In the sale from {begins}{ends}, {uplift:.1f} times as much sells.")
        if known.rates.exposed(np.array([slot]))[0] < _known_days:
            said.append(f"Sales are known of less than {_known_days:g} days.")
        if points.perishing[place]:
            said.append(f"A piece can be sold for {terms.shelf_days[place]:g} days, which limits the order.")
        said.append(
            "The levels are those that cost least: orders, stock and lost sales."
            if service is None else f"Of the demanded pieces {service:.1%} are wanted from stock."
        )  # fmt: skip
        return said


def _title(record: ItemRecord | None) -> str:
    return "" if record is None else record.title


def _date(day: float) -> str:
    return datetime.fromtimestamp(float(day) * DAY_MS / 1_000, UTC).date().isoformat()


def _round(pieces: float) -> float:
    return round(float(pieces), 3)


def _reason(points: Points, facts: Facts, place: int, on_hand: float) -> str:
    terms, coming = facts.terms, facts.on_order[place]
    there = f"{on_hand:g} on hand" + (f" and {coming:g} on order" if coming else "")
    return (
        f"{there}, at most the reorder point {points.reorder[place]:g}: {points.expected[place]:.1f} are expected to"
        f" sell until an order arrives, in {terms.lead_days[place]:g} ± {terms.lead_spread_days[place]:g} days."
    )


def plan_rows(body: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    """Yield the lines of a plan as rows of a table, the names of the columns first."""
    columns = PlanLine.__struct_fields__
    yield (*columns, "currency")
    for line in body["lines"]:
        values = [getattr(line, name) for name in columns]
        yield (*("; ".join(one) if isinstance(one, list) else one for one in values), body["currency"])
