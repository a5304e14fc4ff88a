"""Purchase intent: the probability that a shopper's running visit ends with a purchase.

A visit ends with a purchase, with another session, or after half an hour without an event. One of its events is drawn
by chance, each with the same probability, and what was known of the visit then is learned once it has ended. So what
is learned are visits as they are when somebody asks, in their middle, and each visit is learned once.

Two members predict each drawn moment before it is learned: `items`, that one of the viewed items at least is bought, by
the propensities of their views; and `visit`, learned from the course of the visit (`learners.parts.rows`), the first
member's probability included. The answer is by whichever has ordered the newest visits better, calibrated on them.
"""

from collections import OrderedDict
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct, field

from headrace.events import Event
from headrace.sampling import fraction
from headrace.state import State
from learners.family import Move
from learners.parts.prequential import Probability, calibrated
from learners.parts.rows import Columns, Row, RowLearner, RowSettings

idle_ms: Final = 30 * 60_000
"""Pause after which a visit has ended."""
visits_max: Final = 50_000
"""Most running visits; above it, the one that has paused for longest is forgotten unlearned."""
shoppers_max: Final = 50_000
"""Most shoppers whose earlier visits and orders are counted."""
items_max: Final = 64
"""Most items of a visit that are told apart."""
count_max: Final = 10_000
"""Counts of a visit end here."""
judged_min: Final = 200
"""Visits by which `visit` must have been judged before it answers."""
MEMBERS: Final = ("items", "visit")
COLUMNS: Final = Columns(
    (
        "views", "items viewed again", "items in the cart", "taken from the cart", "wishes", "searches", "lists",
        "promotions", "steps of the checkout", "minutes", "seconds since the last step", "chance of the items",
        "highest chance of an item", "earlier visits", "earlier orders", "days since the last visit",
        "days since the last order",
    ),
    ("device", "channel", "time of day"),
)  # fmt: skip
"""What is known of a visit at a moment."""
_ITEMS: Final = COLUMNS.numbers.index("chance of the items")
SETTINGS: Final = RowSettings(levels_max=8, hinges=(0.1, 0.3, 0.5, 0.7, 0.9), gated=False)
"""Half of the usual hinges and levels and no gate: a step takes the square of the features, and visits are many."""
_COUNTED: Final = {
    "view_item": 0, "select_item": 0, "add_to_wishlist": 1, "search": 2, "view_item_list": 3, "view_promotion": 4,
    "select_promotion": 4, "view_cart": 5, "begin_checkout": 5, "add_shipping_info": 5, "add_payment_info": 5,
}  # fmt: skip
"""The count of a visit that an event raises."""
VISIT_TYPES: Final = tuple(_COUNTED)
"""Types of which the course of a visit is made, beside carts and purchases."""
_OTHERS: Final = frozenset({"refund", "review", "login_undone"})
"""Events that are not of a visit: the shop's, or later ones."""
_day_ms: Final = 86_400_000


class Visit(Struct, gc=False, array_like=True):
    """A running visit.

    Attributes:
        own_ms, newest_ms: of the newest event, by the sender's clock and by the shop's.
        last_ms: of the event before that.
        counts: views, wishes, searches, lists, promotions, steps of the checkout.
        viewed: the items that were viewed; `again` counts views of one that had been.
        none: the probability that none of the viewed items is bought; `highest` is that of the likeliest.
        teaches: whether what was done counts for what all shoppers share.
        drawn: what was known at the drawn moment.
    """

    session: str
    started_ms: int
    newest_ms: int
    own_ms: int
    last_ms: int
    channel: str
    device: str = ""
    events: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * 6)
    again: int = 0
    carts: int = 0
    dropped: int = 0
    none: float = 1.0
    highest: float = 0.0
    teaches: bool = True
    viewed: list[str] = field(default_factory=list)
    drawn: Row | None = None


class Shopper(Struct, gc=False, array_like=True):
    """Visits that have ended and orders of a shopper, and the times of the last ones (0: none)."""

    visits: int = 0
    orders: int = 0
    visit_ms: int = 0
    order_ms: int = 0


_UNKNOWN: Final = Shopper()


class Intent(NamedTuple):
    """The answer for a running visit.

    Attributes:
        probability: calibrated, by the member that answers; `raw` are those of all members.
        learned: visits that were learned.
        base: log-odds of usual visits, and `parts` what is different here; empty until `visit` answers.
        known: what is known of the visit.
    """

    probability: float
    member: str
    raw: dict[str, float]
    learned: int
    base: float | None
    parts: dict[str, float]
    known: dict[str, float | str]
    visit: Visit


class Visits:
    """Running visits, and what they teach. `chance` of `learn` is that of the item of a view (`Propensity`)."""

    def __init__(self) -> None:
        self.learner = RowLearner(COLUMNS, SETTINGS)
        self.judged = {member: Probability() for member in MEMBERS}
        self._running: OrderedDict[str, Visit] = OrderedDict()  # by shopper, the one that paused for longest first
        self._shoppers: OrderedDict[str, Shopper] = OrderedDict()  # least recently changed first

    def __contains__(self, shopper: str) -> bool:
        return shopper in self._running or shopper in self._shoppers

    def learn(self, event: Event, chance: float) -> None:
        """End the visits that have paused for too long, then learn from one event."""
        now, name, kind = event.time_ms, event.shopper, event.type
        self._expire(now)
        if kind in _OTHERS:
            return
        visit, own_ms, session = self._running.get(name), event.own_ms or now, event.data.session_id
        if visit is not None and (
            own_ms - visit.own_ms > idle_ms or (session and visit.session and session != visit.session)
        ):
            self._end(name, bought=False)
            visit = None
        if kind == "purchase":
            if visit is not None:
                visit.teaches = visit.teaches and event.counts
                self._end(name, bought=True)
            shopper = self._shopper(name)
            shopper.orders, shopper.order_ms = min(shopper.orders + 1, count_max), now
            return
        if visit is None:
            visit = self._running[name] = Visit(session, now, now, own_ms, now, event.source)
            if len(self._running) > visits_max:
                self._running.popitem(last=False)
        else:
            self._running.move_to_end(name)
            visit.last_ms, visit.newest_ms = visit.newest_ms, max(now, visit.newest_ms)
            visit.own_ms, visit.session = max(own_ms, visit.own_ms), session or visit.session
        visit.device = event.data.device or visit.device
        visit.teaches = visit.teaches and event.counts
        self._count(visit, event, chance)
        visit.events = min(visit.events + 1, count_max)
        if fraction(event.id, 0, "intent") * visit.events < 1.0:  # so each of its events is equally likely the one kept
            visit.drawn = self._row(visit, self._shoppers.get(name, _UNKNOWN), now)

    @staticmethod
    def _count(visit: Visit, event: Event, chance: float) -> None:
        kind, lines = event.type, event.data.items
        place = _COUNTED.get(kind)
        if place is not None:
            visit.counts[place] = min(visit.counts[place] + 1, count_max)
        if kind == "view_item":
            if lines[0].item_id in visit.viewed:
                visit.again = min(visit.again + 1, count_max)
            elif len(visit.viewed) < items_max:
                visit.viewed.append(lines[0].item_id)
                visit.none *= 1.0 - chance
                visit.highest = max(visit.highest, chance)
        elif kind == "add_to_cart":
            visit.carts = min(visit.carts + len(lines), count_max)
        elif kind == "remove_from_cart":
            visit.carts = max(visit.carts - len(lines), 0)
            visit.dropped = min(visit.dropped + len(lines), count_max)

    @staticmethod
    def _row(visit: Visit, shopper: Shopper, now: int) -> Row:
        views, wishes, searches, lists, promotions, steps = visit.counts
        started = visit.started_ms
        return Row(
            tuple(map(float, (
                views, visit.again, visit.carts, visit.dropped, wishes, searches, lists, promotions, steps,
                max(0, now - started) / 60_000, max(0, now - visit.last_ms) / 1_000, 1.0 - visit.none, visit.highest,
                shopper.visits, shopper.orders,
                max(1, started - shopper.visit_ms) / _day_ms if shopper.visit_ms else 0.0,
                max(1, started - shopper.order_ms) / _day_ms if shopper.order_ms else 0.0,
            ))),
            (visit.device, visit.channel, f"{now // (4 * 3_600_000) % 6 * 4:02d}"),
        )  # fmt: skip

    def _expire(self, now: int) -> None:
        running = self._running
        while running:
            name = next(iter(running))
            newest_ms = running[name].newest_ms
            if newest_ms > now + idle_ms:  # of a time to which the shop's may return: those behind it do not wait
                running.move_to_end(name)
                return
            if now - newest_ms <= idle_ms:
                return
            self._end(name, bought=False)

    def _end(self, name: str, *, bought: bool) -> None:
        """End a visit; learn its drawn moment."""
        visit = self._running.pop(name)
        shopper = self._shopper(name)
        shopper.visits, shopper.visit_ms = min(shopper.visits + 1, count_max), visit.newest_ms
        if visit.drawn is not None and visit.teaches:
            self.label(visit.drawn, bought)

    def label(self, row: Row, bought: bool) -> tuple[float, float]:
        """Learn what was known of a visit that has ended; return, and score, what each member gave it before.

        While the first rows are waited for, `visit` gives the share that bought, and is not scored.
        """
        has_begun = self.learner.has_begun
        given = row.numbers[_ITEMS], self.learner.learn(row, bought)
        self.judged["items"].observe(given[0], bought)
        if has_begun:
            self.judged["visit"].observe(given[1], bought)
        return given

    def _shopper(self, name: str) -> Shopper:
        shopper = self._shoppers.get(name)
        if shopper is None:
            shopper = self._shoppers[name] = Shopper()
            if len(self._shoppers) > shoppers_max:
                self._shoppers.popitem(last=False)
        else:
            self._shoppers.move_to_end(name)
        return shopper

    def move(self, move: Move) -> None:
        """Move the running visit to the shopper whose session it turned out to be; another one there is forgotten."""
        visit = self._running.get(move.from_shopper)
        if visit is None or visit.session != move.session_id:
            return
        del self._running[move.from_shopper]
        self._running.pop(move.to_shopper, None)
        self._running[move.to_shopper] = visit

    def answering(self) -> str:
        """Return the member that answers: the one that has ordered the newest visits better."""
        auc = {member: self.judged[member].scores("window").get("auc", 0.0) for member in MEMBERS}
        enough = self.judged["visit"].judged >= judged_min
        return "visit" if enough and auc["visit"] > auc["items"] else "items"

    def intent(self, name: str, now: int) -> Intent | None:
        """Return the intent of a shopper's running visit at a moment; None if no visit is running. Changes nothing."""
        visit = self._running.get(name)
        if visit is None or now - visit.newest_ms > idle_ms:
            return None
        row = self._row(visit, self._shoppers.get(name, _UNKNOWN), max(now, visit.newest_ms))
        member = self.answering()
        raw = {"items": 1.0 - visit.none, "visit": self.learner.probability(row)}
        (probability,) = calibrated(self.judged[member].histograms("window"), [raw[member]])
        reasons = self.learner.reasons(row) if member == "visit" else None
        known: dict[str, float | str] = {
            **dict(zip(COLUMNS.numbers, row.numbers, strict=True)),
            **dict(zip(COLUMNS.names, row.names, strict=True)),
        }
        return Intent(
            probability, member, raw, self.learner.learned, reasons.base if reasons else None,
            reasons.parts if reasons else {}, known, visit,
        )  # fmt: skip

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {
            "visits": (len(self._running), visits_max),
            "shoppers": (len(self._shoppers), shoppers_max),
            **self.learner.bounds(),
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "learner": self.learner.state(),
            "judged": {member: judged.state() for member, judged in self.judged.items()},
            "running": [[name, msgspec.to_builtins(visit)] for name, visit in self._running.items()],
            "shoppers": [[name, *msgspec.to_builtins(one)] for name, one in self._shoppers.items()],
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self.learner = RowLearner.from_state(state["learner"], COLUMNS, SETTINGS)
        self.judged = {member: Probability.from_state(state["judged"][member]) for member in MEMBERS}
        for name, visit in state["running"]:
            self._running[name] = msgspec.convert(visit, Visit)
        counts: list[Any]
        for name, *counts in state["shoppers"]:
            self._shoppers[name] = Shopper(*counts)
