"""Attribution: which answers' items were clicked, put into a cart and bought.

An event *names* an answer by `recommendation_id`. Its *uses*, one for each line, count for the answer if that showed
the item at most a day of the shop's time before.

- A view or a selection that names an answer is a click. Of an answer, each item is clicked at most once, and put into a
  cart at most once.
- A line of an order belongs to the answer that the shopper's last click or cart of this item named, if that is at most
  a day ago, else to the answer that the order itself names. It is never attributed to two.

An answer and the events that name it come by different topics, so an event may come first. Its uses are *held* until
the answer is heard, and counted as of their own time; so the totals do not depend on which came first.
"""

from collections import Counter, OrderedDict
from typing import Any, Final, Literal, NamedTuple

from headrace.events import Event, Item
from learners.family import Move
from learners.placements.answers import Answer, Answers
from learners.placements.tallies import Group, Tallies
from learners.placements.touches import Touch, Touches

window_ms: Final = 24 * 3_600_000
"""Shop time from an answer to a use that counts for it, and from a touch to an order."""
held_ms: Final = 10 * 60_000
"""Shop time for which uses of an unknown answer are held."""
CLICKS: Final = frozenset({"view_item", "select_item"})
CARTS: Final = frozenset({"add_to_cart"})
ORDERS: Final = frozenset({"purchase"})

Outcome = Literal["attributed", "repeated", "not_shown", "expired", "unknown"]
"""What became of a use: it counted; its item had counted before; the answer did not show it, or not recently enough; or
the answer is not known (it was not logged, is forgotten, or was never given)."""


class Use(NamedTuple):
    """One line of an event, and when its answer was named. `group` is known where a touch has been attributed."""

    item: str
    named_ms: int
    units: float = 0.0
    revenue: float = 0.0
    group: Group | None = None


class Uses(NamedTuple):
    """The uses of one answer by one event: `kind` is the event's type."""

    kind: str
    shopper: str
    time_ms: int
    lines: list[Use]


class Clicked(NamedTuple):
    """An item of an answer that was clicked, or put into a cart, for the first time: by whom, when, the answer, and the
    item's bit."""

    shopper: str
    time_ms: int
    name: str
    answer: Answer
    bit: int


class Bought(NamedTuple):
    """An order with items of an answer: when, and the answer, which may be forgotten."""

    time_ms: int
    name: str


class Credit(NamedTuple):
    """A use that counted for an answer: the answer's id, the event's type, and the line."""

    name: str
    kind: str
    line: Use


class Attribution:
    """Attributes events to answers, and tallies both. Pure and bounded.

    Attributes:
        clicked, carted, bought: the clicks, carts and orders that the newest call counted.
        is_new: whether the newest call of `hear` was of an answer that was not known before.
        credits: all uses that the newest call counted.
        outcomes: number of uses so far, by outcome.
        evicted: held uses that were given up before their time because too many were held.
    """

    def __init__(self, *, answers_max: int, touches_max: int, held_max: int, groups_max: int) -> None:
        self.answers, self.touches = Answers(answers_max), Touches(touches_max)
        self.tallies, self.held_max = Tallies(groups_max), held_max
        self.outcomes: Counter[str] = Counter()
        self.evicted = 0
        self.clicked: list[Clicked] = []
        self.carted: list[Clicked] = []
        self.bought: list[Bought] = []
        self.is_new = False
        self.credits: list[Credit] = []
        self._held: OrderedDict[str, list[Uses]] = OrderedDict()  # by answer, the one named first at the front
        self._count = 0

    def hear(self, name: str, answer: Answer, items: int, time_ms: int) -> None:
        """Tally an answer of `items` items, and the uses that are held for it. One that is known changes nothing."""
        self._begin()
        self.is_new = name not in self.answers
        if not self.is_new:
            return
        self.tallies.answered(answer.group).count_answer(items, time_ms)
        self.answers.add(name, answer)
        if self._held:
            for uses in self._release(name):
                self._apply(name, uses)
            self._give_up(time_ms)

    def note(self, event: Event) -> None:
        """Count an event of which the type is one of CLICKS and CARTS, and which names an answer."""
        self._begin()
        data, shopper, time_ms = event.data, event.shopper, event.time_ms
        name = data.recommendation_id
        for line in data.items:
            self.touches.put(shopper, line.item_id, Touch(name, time_ms, data.session_id))
        self._take(name, Uses(event.type, shopper, time_ms, [Use(line.item_id, time_ms) for line in data.items]))

    def buy(self, event: Event) -> None:
        """Count a purchase, whether it names an answer or not."""
        self._begin()
        touches, time_ms = self.touches.of(event.shopper), event.time_ms
        found: dict[str, list[Use]] = {}
        for line in event.data.items:
            touch = touches.get(line.item_id)
            if touch and time_ms - touch.time_ms <= window_ms:
                found.setdefault(touch.answer, []).append(_bought(line, touch.time_ms, touch.group))
            elif event.data.recommendation_id:
                found.setdefault(event.data.recommendation_id, []).append(_bought(line, time_ms, None))
        for name, lines in found.items():
            self._take(name, Uses(event.type, event.shopper, time_ms, lines))

    def move(self, move: Move) -> None:
        """Move the touches of a session to another shopper."""
        self.touches.move(move)

    def _begin(self) -> None:
        self.clicked.clear()
        self.carted.clear()
        self.bought.clear()
        self.credits.clear()

    def _take(self, name: str, uses: Uses) -> None:
        """Apply the uses of an answer, or hold those of one that is not known."""
        is_known = name in self.answers
        known = [line for line in uses.lines if is_known or line.group]
        if known:
            self._apply(name, uses._replace(lines=known))
        if len(known) < len(uses.lines):
            unknown = [line for line in uses.lines if not line.group]
            self._held.setdefault(name, []).append(uses._replace(lines=unknown))
            self._count += len(unknown)
            self._evict()
        self._give_up(uses.time_ms)

    def _release(self, name: str) -> list[Uses]:
        released = self._held.pop(name, [])
        self._count -= sum(len(uses.lines) for uses in released)
        return released

    def _give_up(self, time_ms: int) -> None:
        """Count what has been held for too long as of unknown answers."""
        while self._held:
            name, (first, *_) = next(iter(self._held.items()))
            if time_ms - first.time_ms <= held_ms:
                return
            self._forget(name)

    def _evict(self) -> None:
        before = self._count
        while self._count > self.held_max:
            self._forget(next(iter(self._held)))
        self.evicted += before - self._count

    def _forget(self, name: str) -> None:
        self.outcomes["unknown"] += sum(len(uses.lines) for uses in self._release(name))

    def _apply(self, name: str, uses: Uses) -> None:
        """Count uses for their answer, or as what they are else."""
        answer = self.answers.get(name)
        if uses.kind in ORDERS:
            if self._apply_order(name, answer, uses):
                self.bought.append(Bought(uses.time_ms, name))
            return
        assert answer, "clicks and carts are held until their answer is known"
        tally, touches = self.tallies.get(answer.group), self.touches.of(uses.shopper)
        for line in uses.lines:
            outcome, bit = _judged(answer, line)
            if outcome == "attributed":
                if (touch := touches.get(line.item)) and touch.answer == name:
                    touch.group = answer.group
                marked = answer.clicked if uses.kind in CLICKS else answer.carted
                if tally is None:
                    outcome = "unknown"
                elif marked & bit:
                    outcome = "repeated"
                elif uses.kind in CLICKS:
                    if not answer.clicked:
                        tally.count_clicked(uses.time_ms)
                    answer.clicked |= bit
                    tally.clicks += 1
                    self.clicked.append(Clicked(uses.shopper, uses.time_ms, name, answer, bit))
                else:
                    answer.carted |= bit
                    tally.carts += 1
                    self.carted.append(Clicked(uses.shopper, uses.time_ms, name, answer, bit))
                if outcome == "attributed":
                    self.credits.append(Credit(name, uses.kind, line))
            self.outcomes[outcome] += 1

    def _apply_order(self, name: str, answer: Answer | None, uses: Uses) -> bool:
        """Count what was bought of one answer; return whether anything was.

        The answer is None where all lines know their group, which is then the same.
        """
        bought: list[Use] = []
        group: Group | None = None
        for line in uses.lines:
            outcome: Outcome = "attributed"
            if not line.group:
                assert answer, "lines that do not know their group are held until their answer is known"
                outcome, _ = _judged(answer, line)
            if outcome == "attributed":
                bought.append(line)
                group = line.group or (answer.group if answer else None)
            else:
                self.outcomes[outcome] += 1
        if not group:
            return False
        tally = self.tallies.get(group)
        self.outcomes["attributed" if tally else "unknown"] += len(bought)
        if tally:
            tally.orders += 1
            for line in bought:
                tally.units += line.units
                tally.revenue += line.revenue
                self.credits.append(Credit(name, uses.kind, line))
        return True

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {
            "answers": (len(self.answers), self.answers.answers_max),
            "touches": (len(self.touches), self.touches.touches_max),
            "held_uses": (self._count, self.held_max),
            "groups": (len(self.tallies), self.tallies.groups_max),
        }

    def evictions(self) -> dict[str, int]:
        """Return how many entries of each table were evicted."""
        return {
            "answers": self.answers.evicted, "touches": self.touches.evicted, "held_uses": self.evicted,
            "groups": self.tallies.evicted,
        }  # fmt: skip

    def held_state(self) -> dict[str, Any]:
        """Return the held uses, and the outcomes of the others."""
        rows = [
            [name, [
                [uses.kind, uses.shopper, uses.time_ms, [list(line[:-1]) for line in uses.lines]] for uses in held
            ]]
            for name, held in self._held.items()
        ]  # fmt: skip
        return {"evicted": self.evicted, "outcomes": dict(self.outcomes), "held": rows}

    def restore_held(self, state: dict[str, Any]) -> None:
        """Continue where `held_state` was taken; more uses than the maximum are given up, those named first first."""
        self.evicted, self.outcomes = state["evicted"], Counter(state["outcomes"])
        for name, held in state["held"]:
            self._held[name] = [
                Uses(kind, shopper, time_ms, [Use(*line) for line in lines]) for kind, shopper, time_ms, lines in held
            ]
            self._count += sum(len(uses.lines) for uses in self._held[name])
        self._evict()


def _bought(line: Item, named_ms: int, group: Group | None) -> Use:
    return Use(line.item_id, named_ms, line.quantity, (line.price or 0.0) * line.quantity, group)


def _judged(answer: Answer, line: Use) -> tuple[Outcome, int]:
    """Return what becomes of a use of an answer, and the item's bit."""
    bit = answer.bit(line.item)
    if not bit:
        return "not_shown", 0
    return ("expired" if line.named_ms - answer.time_ms > window_ms else "attributed"), bit
