"""Rewards of answers: clicks, carts and orders that followed, by the rules of the family `placements`.

Events are folded as a shard folds them: repeats are dropped, amounts are in the shop's currency, a guest who logs in
goes on as the shopper, and `learners.placements.attribution` says to which answer a use belongs. A refund takes back
what it refunds, however late it comes.
"""

from array import array
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from headrace.errors import Misconfigured
from headrace.events import Event
from headrace.experiments import ANSWER, CLICK, STANDARD, Measure
from headrace.impressions import Impression
from headrace.log.protocol import Record
from headrace.shard.intake import Intake
from headrace.topics import ITEMS
from learners.desk.family import STEPS, Desk
from learners.placements.answers import Answer, codes_of
from learners.placements.attribution import CARTS, CLICKS, ORDERS, Use, window_ms
from learners.placements.family import PlacementsFamily, PlacementsSettings
from learners.placements.tallies import Group
from learners.shop import Shop

answers_max: Final = 500_000
"""Most answers that may still earn something; the oldest are final then."""
touches_max: Final = 1_000_000
orders_max: Final = 500_000
"""Most orders that a refund can take back; the oldest are final."""
bots_max: Final = 100_000
late_ms: Final = 2 * window_ms
"""From an answer to the last order that can be attributed to it: a click within a day, an order within a day of it."""

What = Literal["any", "events", "units", "value"]


class Reward(NamedTuple):
    """What is counted of an answer: uses by events of these types, and what of them."""

    name: str
    types: frozenset[str]
    what: What


def reward_of(name: str, measures: Mapping[str, Measure] | None = None) -> Reward:
    """Return the reward of a name: `click`, `revenue`, `conversion`, or a metric of an experiment.

    Args:
        measures: the experiment's metrics by name.

    Raises:
        Misconfigured: it is none, or one that cannot be counted of an answer.

    >>> reward_of("click").what, reward_of("revenue").what
    ('any', 'value')
    """
    known = {one.name: one for one in STANDARD} | dict(measures or {})
    measure = Measure("click", CLICK, per=ANSWER) if name == "click" else known.get(name)
    if measure is None:
        raise Misconfigured(f"reward {name}: wanted one of {', '.join(['click', *known])}")
    types = {CLICK: CLICKS, "add_to_cart": CARTS, "purchase": ORDERS}.get(measure.event)
    if types is None and measure.event in CLICKS:
        types = frozenset({measure.event})
    if types is None or measure.per not in ("", ANSWER):
        why = f"per {measure.per}" if types else measure.event
        raise Misconfigured(
            f"reward {name}: wanted clicks, carts or orders that an answer can be credited with, found {why}"
        )
    is_any = measure.event == CLICK
    what: What = "any" if is_any or measure.count == "shoppers" else measure.count
    return Reward(name, types, what)


class _Shown(NamedTuple):
    """An answer that may still earn something: the number of its value, or of its first item's if it has items."""

    appended_ms: int
    number: int
    items: tuple[str, ...]


class _Line(NamedTuple):
    """A line of an order that was credited to the answer with this number."""

    number: int
    units: float
    revenue: float


class Rewards:
    """Values of answers, or of the places of their lists, as events are folded.

    Args:
        sections: the settings of families, by name.

    Attributes:
        values: by number; of `any`, how many there are.
        bots: the shoppers over the daily budget of steps.
        evicted: answers that were made final before their time.
        newest_ms: the append time of the newest event.
    """

    def __init__(self, reward: Reward, sections: Mapping[str, Any]) -> None:
        self._reward = reward
        placements = PlacementsSettings(answers_max=answers_max, touches_max=touches_max, held_max=1, groups_max=1_000)
        self._shop = Shop(
            (Desk, PlacementsFamily), {PlacementsFamily.name: placements, Desk.name: sections.get(Desk.name)}
        )
        family, self._desk = self._shop.families[PlacementsFamily.name], self._shop.families[Desk.name]
        assert isinstance(family, PlacementsFamily)
        self._attribution = family.attribution
        self._intake = Intake()
        self.values = array("d")
        self.bots: set[str] = set()
        self.evicted = 0
        self.newest_ms = 0
        self._answers: OrderedDict[str, _Shown] = OrderedDict()
        self._orders: OrderedDict[str, dict[str, _Line]] = OrderedDict()  # by transaction, then by item

    def hear_item(self, record: Record) -> None:
        """Note what the shop states of an item, for lines of orders without a price."""
        self._shop.hear(ITEMS, record)

    def shopper(self, name: str) -> str:
        """Return under which name a shopper is known."""
        assert isinstance(self._desk, Desk)
        return self._desk.renamed(name)

    def show(self, shown: Impression, appended_ms: int, *, by_place: bool) -> int | None:
        """Note an answer before the events that may name it; return the number of its value, None if it is a repeat.

        Args:
            by_place: whether each item has a value of its own.
        """
        name, items = shown.recommendation_id, [one.item_id for one in shown.items]
        if name in self._answers:
            return None
        self._attribution.hear(
            name, Answer(Group(shown.route, shown.placement, shown.model), appended_ms, codes_of(items)), len(items),
            appended_ms,
        )  # fmt: skip
        number = len(self.values)
        self._answers[name] = _Shown(appended_ms, number, tuple(items) if by_place else ())
        self.values.extend([0.0] * (len(items) if by_place else 1))
        while appended_ms - next(iter(self._answers.values())).appended_ms > late_ms:
            self._answers.popitem(last=False)
        if len(self._answers) > answers_max:
            self._answers.popitem(last=False)
            self.evicted += 1
        return number

    def learn(self, event: Event, appended_ms: int) -> None:
        """Fold an event."""
        self.newest_ms = max(self.newest_ms, appended_ms)
        attribution = self._attribution
        attribution.credits.clear()
        if not self._intake.admit(event, appended_ms) or not self._shop.prepare(event):
            return
        if not event.counts and event.type in STEPS and len(self.bots) < bots_max:
            self.bots.add(event.shopper)
        self._shop.learn(event, 0, 0)
        if event.type == "refund":
            self._refund(event)
        for name, kind, line in attribution.credits:
            if kind in self._reward.types and (shown := self._answers.get(name)):
                number = shown.number + (shown.items.index(line.item) if shown.items else 0)
                if kind in ORDERS:
                    self._buy(event, line, number)
                else:
                    self.values[number] += 1.0

    def _buy(self, event: Event, use: Use, number: int) -> None:
        name = event.data.transaction_id or f"\0{event.source}\0{event.id}"
        order = self._orders.setdefault(name, {})
        is_first = all(line.number != number for line in order.values())
        self._add(number, float(is_first), use.units, use.revenue)
        had = order.get(use.item, _Line(number, 0.0, 0.0))
        order[use.item] = _Line(number, had.units + use.units, had.revenue + use.revenue)
        if len(self._orders) > orders_max:
            self._orders.popitem(last=False)

    def _refund(self, event: Event) -> None:
        """Take back the lines of an order of which the desk says that nothing is left."""
        order = self._orders.get(event.data.transaction_id, {})
        for item in {line.item_id for line in event.data.items} & order.keys():
            line = order.pop(item)
            is_last = all(other.number != line.number for other in order.values())
            self._add(line.number, -float(is_last), -line.units, -line.revenue)

    def _add(self, number: int, orders: float, units: float, revenue: float) -> None:
        what = self._reward.what
        self.values[number] += units if what == "units" else revenue if what == "value" else orders

    def value(self, number: int) -> float:
        """Return a value as the reward counts it."""
        found = self.values[number]
        return float(found > 0) if self._reward.what == "any" else found
