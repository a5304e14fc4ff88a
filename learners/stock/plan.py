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
from learners.stock.policy import (
    Costs,
    Expected,
    Mixture,
    Terms,
    ceiling,
    covered,
    gain,
    levels,
    order,
    reachable,
    within_budget,
    worth,
)
from learners.stock.policy import Levels as Points
from learners.stock.rates import Rates

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
_days_a_year: Final = 365.0
_soon_days: Final = 14.0
foreseen_min: Final = 0.5
"""Probability of a stock-out from which on it counts as foreseen."""
_NOTHING: Final = ItemRecord("")


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
        records: one with an empty id of an item of which nothing is stated.
        priced: whether a cost or a price is known.
        sale_from, sale_until: days; infinite without a sale.
    """

    records: Sequence[ItemRecord]
    terms: Terms
    priced: NDArray[np.bool_]
    on_order: Floats
    sale_from: Floats
    sale_until: Floats

    def some(self, places: Slots) -> "Facts":
        """Return those of some of the items."""
        terms = Terms(*(one[places] for one in self.terms))
        return Facts(
            [self.records[place] for place in places.tolist()], terms, self.priced[places], self.on_order[places],
            self.sale_from[places], self.sale_until[places],
        )  # fmt: skip


class Judged(NamedTuple):
    """What is noted of items when a day begins.

    Attributes:
        told: whether each will probably be sold out before an order arrives.
        simple: what a usual rule tells: that the level is below the sales of lately within a mean lead time.
        per_day: what is expected to sell on a day of the next two weeks, sales that are announced included.
        money: see `Levels.money`.

    Shapes: (I,), money: (2,)
    """

    told: NDArray[np.bool_]
    simple: NDArray[np.bool_]
    per_day: Floats
    money: Floats


class Some(NamedTuple):
    """Some items: their slots, what is stated of them, their rates, what is expected of each, and its pieces on hand
    and on order, of an unknown level as if it were 0. Shapes: (I,)"""

    slots: Slots
    facts: Facts
    rates: Rates
    expected: Expected
    position: Floats


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
        typical = float(self._money(slots)[0]) if typical is None else typical
        usual, names = self._usual, self._of().names
        stated = self._desk.assortment.stated_of([names[slot] for slot in slots.tolist()])
        records = [one or _NOTHING for one in stated]
        # By columns: one list for each is several times as quick as a row for each item. None becomes NaN.
        lead = np.array([one.lead_time_days for one in records], np.float64)
        spread = np.array([one.lead_time_spread_days for one in records], np.float64)
        pack = np.array([one.pack_size for one in records], np.float64)
        minimum = np.array([one.minimum_order for one in records], np.float64)
        shelf = np.array([one.shelf_life_days for one in records], np.float64)
        on_order = np.array([one.on_order for one in records], np.float64)
        never = float("inf")
        begins = np.array([one.sale_from_ms if one.sale_prices else never for one in records], np.float64) / DAY_MS
        ends = np.array([one.sale_until_ms if one.sale_prices else never for one in records], np.float64) / DAY_MS
        # A lead time that is stated without its spread is taken to vary as much, in proportion, as the usual one.
        scale = np.where(np.isnan(lead) | (usual.lead_days == 0), 1.0, lead / (usual.lead_days or 1.0))
        spread = np.where(np.isnan(spread), usual.lead_spread_days * scale, spread)
        lead = np.where(np.isnan(lead), usual.lead_days, lead)
        cost, price = self._amounts([one.costs for one in records]), self._amounts([one.prices for one in records])
        known = ~np.isnan(cost) | ~np.isnan(price)
        cost = np.where(np.isnan(cost), price * (1 - usual.margin), cost)
        cost = np.where(np.isnan(cost), typical, cost)
        margin = np.where(np.isnan(price), cost * usual.margin / (1 - usual.margin), price - cost)
        terms = Terms(cost, margin, lead, spread, pack, minimum, np.where(np.isnan(shelf), np.inf, shelf))
        return Facts(records, terms, known, on_order, begins, ends)

    def _amounts(self, stated: Sequence[Mapping[str, float]]) -> Floats:
        """Return amounts in the shop's currency, NaN where none is known. Shape (I,)"""
        shop, price = self._desk.currency.shop, self._desk.currency.price
        found = [one[shop] if shop in one else price(one) if one else None for one in stated]  # most without a call
        amounts = np.array(found, np.float64)
        return np.where(amounts == 0, np.nan, amounts)  # 0 is what feeds write of a price that they do not know

    def _some(self, slots: Slots, facts: Facts, now_day: float) -> Some:
        known = self._of()
        rates, level = known.rates.some(slots), known.level[slots]
        expected = rates.expected(now_day, facts.sale_from, facts.sale_until)
        return Some(slots, facts, rates, expected, np.where(np.isnan(level), 0.0, level) + facts.on_order)

    def _near(self, slots: Slots, facts: Facts, now_day: float, bound: Callable[[Some], Floats]) -> Iterator[Some]:
        """Yield, in blocks, the items with no more pieces on hand and on order than a bound."""
        for start in range(0, len(slots), _block):
            places = np.arange(start, min(start + _block, len(slots)))
            some = self._some(slots[places], facts.some(places), now_day)
            near = places[some.position <= bound(some)]
            yield self._some(slots[near], facts.some(near), now_day)

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
        rates, cost, priced = self._of().rates.some(slots), facts.terms.cost, facts.priced
        typical = float(np.median(cost[priced])) if priced.any() else 1.0
        lines = rates.lines[0] + 1e-9
        value = lines * rates.line * np.where(priced, cost, typical)
        return np.array([typical, float(np.add.reduce(value) / np.add.reduce(lines))])

    def judge(self, slots: Slots, now_day: float) -> Judged:
        """Return what is noted of items when a day begins."""
        facts, usual, known = self.facts(slots, 1.0), self._usual, self._of()
        lead = facts.terms.lead_days + usual.review_days
        simple = known.level[slots] + facts.on_order < known.monthly[slots] * lead

        def bound(some: Some) -> Floats:
            terms, half = some.facts.terms, np.full(len(some.slots), 1 - foreseen_min)
            # Sold out is an item of which as many pieces are demanded as there are.
            return 1.0 + ceiling(some.expected, terms.lead_days + usual.review_days, terms.lead_spread_days, half)

        told = np.zeros(len(known), np.bool_)
        for some in self._near(slots, facts, now_day, bound):
            told[some.slots] = _chance(self._covered(some), some) >= foreseen_min
        soon = self._some(slots, facts, now_day).expected(np.full(len(slots), _soon_days)).mean
        return Judged(told[slots], simple, soon / _soon_days, self._money_of(slots, facts))

    def _covered(self, some: Some) -> Mixture:
        return covered(some.expected, some.facts.terms, self._usual.review_days)

    def lasting(self, slots: Slots) -> Floats:
        """Return for how many days stock lasts at the rate of ordinary days; 0 while sales are known for too short."""
        known = self._of()
        lasts = known.level[slots] / np.maximum(known.rates.rate[slots], 1e-9)
        return np.where(known.rates.exposed[slots] >= _known_days, np.minimum(lasts, days_left_max), 0.0)

    def item(self, slot: int, now_ms: int, service: float | None) -> ItemStock:
        """Return what is known of an item's stock."""
        known, slots, now_day = self._of(), np.array([slot]), now_ms / DAY_MS
        facts = self.facts(slots)
        costs, some = self._costs(slots, service), self._some(slots, facts, now_day)
        within = self._covered(some)
        points = levels(some.expected, facts.terms, costs, within)
        level = float(known.level[slot])
        stated = not np.isnan(level)
        wanted = 0.0 if self._hopeless(facts, costs)[0] else float(order(points, facts.terms, some.position)[0])
        days = some.rates.lasts(known.level[slots], now_day, facts.sale_from, facts.sale_until, days_left_max)
        return ItemStock(
            known.names[slot], level if stated else None, float(facts.on_order[0]), int(known.stated_ms[slot]),
            float(known.sold_since[slot]), _round(some.rates.rate[0]),
            round(float(days[0]), 1) if stated else None,
            round(float(_chance(within, some)[0]), 4) if stated else None,
            float(points.reorder[0]), float(points.up_to[0]), wanted if stated else None, self._risk(known, slot),
            self._assumes(some, 0, points, service, float(some.rates.uplift[0])),
        )  # fmt: skip

    def _risk(self, known: Levels, slot: int) -> str:
        if known.out_ms[slot] >= 0:
            return "sold_out"
        return "foreseen" if known.warned[slot] else "dead" if known.dead[slot] else ""

    def plan(self, query: PlanQuery, now_ms: int) -> Plan:
        """Return what to order now."""
        known, now_day = self._of(), now_ms / DAY_MS
        slots = known.known()
        currency = self._desk.currency.shop
        if not len(slots):
            return Plan(currency, 0.0, [], 0, [])
        facts, costs = self.facts(slots), self._costs(slots, query.service_level)
        near = self._near(slots, facts, now_day, lambda one: reachable(one.expected, one.facts.terms, costs))
        found = [self._due(some, costs) for some in near]
        due = Due(
            np.concatenate([one.slots for one in found]), np.concatenate([one.gain for one in found]),
            np.concatenate([one.pieces for one in found]), np.concatenate([one.cost for one in found]),
        )  # fmt: skip
        if query.budget is None:
            chosen = np.arange(len(due.slots))
        else:
            chosen = np.flatnonzero(within_budget(due.gain, due.cost, query.budget))
        ranked = chosen[np.argsort(-due.gain[chosen] / np.maximum(due.cost[chosen], 1e-9), kind="stable")][: query.n]
        told = Due(due.slots[ranked], due.gain[ranked], due.pieces[ranked], due.cost[ranked])
        lines = self._lines(told, costs, now_day)
        return Plan(
            currency, round(sum(one.cost for one in lines), 2), lines, len(due.slots) - len(lines),
            self._dead(slots, facts, query.n),
        )  # fmt: skip

    def _dead(self, slots: Slots, facts: Facts, count: int) -> list[Dead]:
        """Return the dead stock, what cost most first."""
        known, lasting = self._of(), self.lasting(slots)
        held = known.level[slots] * facts.terms.cost
        dead = np.flatnonzero(lasting >= self._usual.dead_days)
        return [
            Dead(
                known.names[int(slots[place])], facts.records[place].title,
                float(known.level[slots[place]]), round(float(held[place]), 2), round(float(lasting[place]), 0),
            )
            for place in dead[np.argsort(-held[dead], kind="stable")][:count].tolist()
        ]  # fmt: skip

    def _due(self, some: Some, costs: Costs) -> Due:
        """Return the orders that are due among some items."""
        terms = some.facts.terms
        points = levels(some.expected, terms, costs)
        pieces = np.where(self._hopeless(some.facts, costs), 0.0, order(points, terms, some.position))
        due = np.flatnonzero(pieces > 0)
        gains = gain(some.expected, terms, costs, some.position, pieces, self._usual.plan_days)
        return Due(some.slots[due], gains[due], pieces[due], np.round((pieces * terms.cost)[due], 2))

    def _lines(self, due: Due, costs: Costs, now_day: float) -> list[PlanLine]:
        """Return orders in words; these take longer than all else, so only those that are told are put into them."""
        slots = due.slots
        if not len(slots):
            return []
        known, facts = self._of(), self.facts(slots)
        some = self._some(slots, facts, now_day)
        within = self._covered(some)
        points = levels(some.expected, facts.terms, costs, within)
        on_hand = known.level[slots]
        days = some.rates.lasts(on_hand, now_day, facts.sale_from, facts.sale_until, days_left_max)
        chances, rates, uplift = _chance(within, some), some.rates.rate, some.rates.uplift
        earned = (worth(points, facts.terms, costs) * _days_a_year).tolist()
        return [
            PlanLine(
                known.names[slot], facts.records[place].title, float(due.pieces[place]), float(due.cost[place]),
                round(float(due.gain[place]), 2), float(on_hand[place]), float(facts.on_order[place]),
                float(points.reorder[place]), float(points.up_to[place]), _round(rates[place]),
                round(float(days[place]), 1), round(float(chances[place]), 4),
                _reason(points, facts, place, float(on_hand[place])) + self._doubt(due.gain[place], earned[place]),
                self._assumes(some, place, points, costs.fill_rate, float(uplift[place])),
            )
            for place, slot in enumerate(slots.tolist())
        ]  # fmt: skip

    def _doubt(self, gained: float, earned: float) -> str:
        """Return what a reason adds to an order that gains less than it costs.

        Args:
            gained: by the order, until the next plan.
            earned: by the item in a year, beside never ordering it.
        """
        if earned <= 0:
            return f" In a year it earns {-earned:,.2f} less than orders and stock cost: only to keep it on sale."
        days = self._usual.plan_days
        return f" Within {days:g} days it gains less than it costs; it pays in the long run." if gained <= 0 else ""

    def _hopeless(self, facts: Facts, costs: Costs) -> NDArray[np.bool_]:
        """Return which items are not ordered: they are no longer sold, or nothing is earned and costs decide."""
        retired = np.array([record.retired for record in facts.records], np.bool_)
        return retired | (facts.terms.margin <= 0) if costs.fill_rate is None else retired

    def _assumes(self, some: Some, place: int, points: Points, service: float | None, uplift: float) -> list[str]:
        usual, known, facts, slot = self._usual, self._of(), some.facts, int(some.slots[place])
        record, terms = facts.records[place], facts.terms
        said = []
        if not np.isnan(known.level[slot]):
            stated = datetime.fromtimestamp(known.stated_ms[slot] / 1_000, UTC).isoformat(timespec="minutes")
            said.append(f"The level was stated at {stated}; {known.sold_since[slot]:g} were sold since.")
        if record.lead_time_days is None:
            said.append(f"The lead time is that of the settings, {usual.lead_days:g} days.")
        if not facts.priced[place]:
            said.append("No price is known: it costs what the median item does.")
        elif self._desk.cost(record) is None:
            said.append(f"The margin is that of the settings, {usual.margin:.0%} of the price.")
        if service is None and terms.margin[place] <= 0:
            said.append("The price is not above the cost, so nothing is ordered.")
        if np.isfinite(facts.sale_from[place]):
            begins = _date(facts.sale_from[place])
            ends = f" to {_date(facts.sale_until[place])}" if facts.sale_until[place] * DAY_MS < FOREVER_MS else " on"
            said.append(f"In the sale from {begins}{ends}, {uplift:.1f} times as much sells.")
        if some.rates.exposed[place] < _known_days:
            said.append(f"Sales are known of less than {_known_days:g} days.")
        if points.perishing[place]:
            said.append(f"A piece can be sold for {terms.shelf_days[place]:g} days, which limits the order.")
        said.append(
            "The levels are those that cost least: orders, stock and lost sales."
            if service is None else f"Of the demanded pieces {service:.1%} are wanted from stock."
        )  # fmt: skip
        return said


def _chance(within: Mixture, some: Some) -> Floats:
    """Return the probability that each item is sold out before an order arrives.

    Sold out is an item of which as many pieces are demanded as there are.
    """
    return within.above(np.maximum(some.position - 1.0, 0.0))


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
