"""The course of one experiment: who is in it, what became of them, and how the arms compare.

A shopper *enters* with the first answer in the experiment, and stays in that arm. From then on all that the shopper
does counts, until the experiment stops. After that, only refunds of what was bought meanwhile do: so the result of a
past experiment is still repaired.

Left out are, with all that they did: shoppers who were met in two arms, because a guest's arm was another one than that
of the shopper who then logged in; and shoppers over the daily budget of steps, if the experiment says so.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import msgspec
from msgspec import Struct

from headrace.events import Event
from headrace.experiment_reports import ArmCount, Compared, Day, Point, Preferred, Report, Segment
from headrace.experiments import ANSWER, CLICK, RETURN, Experiment
from headrace.segments import CLASSES
from learners.experiments.difference import Rule, alpha_each, difference, harm
from learners.experiments.interleaving import preference, winner
from learners.experiments.moments import Moments, replace_each
from learners.experiments.power import days_left, detectable
from learners.experiments.sample_ratio import SampleRatio
from learners.experiments.totals import ORDER, Counting

day_ms: Final = 86_400_000
return_from_ms: Final = day_ms
return_until_ms: Final = 8 * day_ms
"""From the first answer, the time in which a shopper must come back to be retained: the seven days after the first."""
points_max: Final = 128
"""Most points of a sequence; above it every second one is dropped, and from then on half as many are taken."""
days_max: Final = 180
moved_max: Final = 10_000
"""Most guests who logged in of whom it is remembered as whom."""
orders_max: Final = 100
"""Most orders of one shopper in one experiment that a refund can take back; the oldest are final."""
segment_values_max: Final = 6
"""Values of a segment that are told apart; those that come later are `other`."""
SEGMENTS: Final = ("device", "country", "visitor")
"""Of each, a shopper has one value at most; of `segment` and `class`, the names that the impression has."""
joined_max: Final = 1_024
"""Most combinations of an arm and segments whose sums are kept together."""
_OTHER: Final = "other"
_LEFT: Final = -1


class Entered(Struct, gc=False):
    """A shopper in an experiment.

    Attributes:
        arm: its number; `_LEFT` if the shopper is left out.
        since_ms: the shop's time at the first answer.
        totals: the shopper's numbers (`learners.experiments.totals`).
        past: the numbers from before (`learners.experiments.before`).
        segments: the value of each of `SEGMENTS`, then the names of segments and the class.
        orders: the lines of each order that is not refunded: pieces and price by item.
        wins: answers of an interleaved experiment that the first ranking won, minus those that the second won.
    """

    arm: int
    since_ms: int
    totals: list[float]
    past: tuple[float, float, float]
    segments: tuple[str, ...]
    orders: dict[str, dict[str, tuple[float, float]]] = {}
    wins: int = 0


class Course:
    """One experiment, from its start on.

    Attributes:
        started_ms, stopped_ms: the shop's time; 0: not stopped.
        entered: the shoppers, the one who was seen least recently first.
        stopping: whether a guard has stopped it, but the statement has not been heard yet.
    """

    def __init__(self, name: str, experiment: Experiment, version: int, started_ms: int) -> None:
        self.name, self.experiment, self.version = name, experiment, version
        self.started_ms, self.stopped_ms, self.stopping = started_ms, 0, False
        self.counting = Counting(experiment)
        self.entered: OrderedDict[str, Entered] = OrderedDict()
        arms, metrics = len(experiment.arms), len(self.counting.names)
        self._sums = [[Moments() for _ in range(metrics)] for _ in range(arms)]
        self._segments: dict[tuple[str, str], list[list[Moments]]] = {}
        self._joined: dict[tuple[int, tuple[str, ...]], list[tuple[Moments, ...]]] = {}
        shares = sum(one.share for one in experiment.arms)
        self.shares = [one.share / shares for one in experiment.arms]
        self.ratio = SampleRatio(self.shares)
        self.answers = [0] * arms
        self.bots = self.mixed = self.evicted = self.strays = 0
        self._first: dict[str, float] = {}  # the first variance, by what is compared
        self._points: dict[str, list[Point]] = {}
        self._step_ms = 0
        self._moved: OrderedDict[str, str] = OrderedDict()  # guests who logged in, and as whom
        self._days: OrderedDict[int, tuple[list[int], list[list[float]]]] = OrderedDict()
        self._wins = Moments()
        self.harmed: list[str] = []
        self.ratio_told = False

    @property
    def runs(self) -> bool:
        """Whether shoppers may enter."""
        return not self.stopped_ms

    # Who is in it

    def answer(
        self, shopper: str, arm: int, time_ms: int, past: tuple[float, float, float], values: Mapping[str, str],
        names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Count an answer that was shown to a shopper in an arm.

        Args:
            past: the shopper's numbers from before.
            values: of `SEGMENTS`.
            names: the shopper's segments and class when answering.
        """
        one = self.entered.get(shopper)
        if one is None:
            one = self._enter(shopper, arm, time_ms, past, values, names)
        elif one.arm == _LEFT:
            return
        elif one.arm != arm and self.experiment.kind != "interleaved":
            self.leave_out(shopper)
            self.mixed += 1
            return
        self.answers[one.arm] += 1
        self.entered.move_to_end(shopper)
        self._count(one, time_ms, ANSWER, 1.0)

    def _enter(
        self, shopper: str, arm: int, time_ms: int, past: tuple[float, float, float], values: Mapping[str, str],
        names: Sequence[str],
    ) -> Entered:  # fmt: skip
        segments = tuple([self._value(segment, values.get(segment, "")[:32]) for segment in SEGMENTS])
        segments += tuple(dict.fromkeys(self._value(_kind(name), name) for name in names))
        one = Entered(arm, time_ms, [0.0] * len(self.counting.counters), past, segments, {})
        self.entered[shopper] = one
        self._put(one)
        self._day(time_ms)[0][arm] += 1
        if self.experiment.kind != "interleaved":
            self.ratio.add(arm)
        return one

    def _value(self, segment: str, value: str) -> str:
        """Return the value that a shopper counts for in a segment; too many values are one."""
        if not value or (segment, value) in self._segments:
            return value
        if sum(name == segment for name, _ in self._segments) >= segment_values_max:
            value = _OTHER
        if (segment, value) not in self._segments:
            self._segments[segment, value] = [[Moments() for _ in arm] for arm in self._sums]
        return value

    def _put(self, one: Entered, *, out: bool = False) -> None:
        """Add a shopper to all sums, or take the shopper out of them."""
        for metric, kind in enumerate(self.counting.kinds):
            outcome, divisor = self.counting.values(one.totals, metric)
            for sums in self._sums_of(one)[metric]:
                (sums.remove if out else sums.add)(outcome, divisor, one.past[kind])
        if self.experiment.kind == "interleaved":
            (self._wins.remove if out else self._wins.add)(float(one.wins))

    def _sums_of(self, one: Entered) -> list[tuple[Moments, ...]]:
        """Return the sums of each metric in which a shopper is. Most share them: segments have few values."""
        key = one.arm, one.segments
        if (known := self._joined.get(key)) is not None:
            return known
        of, names = one.segments[: len(SEGMENTS)], one.segments[len(SEGMENTS) :]
        found = [self._sums[one.arm]]
        found += [self._segments[named][one.arm] for named in zip(SEGMENTS, of, strict=True) if named[1]]
        found += [self._segments[_kind(name), name][one.arm] for name in names]
        if len(self._joined) >= joined_max:
            self._joined.clear()
        joined = self._joined[key] = list(zip(*found, strict=True))
        return joined

    def leave_out(self, shopper: str) -> None:
        """Take a shopper out of all sums, for ever."""
        one = self.entered[shopper]
        if one.arm != _LEFT:
            self._put(one, out=True)
            one.arm, one.orders = _LEFT, {}

    def evict(self) -> None:
        """Forget the shopper who was seen least recently: what the shopper did so far stays counted."""
        _, one = self.entered.popitem(last=False)
        self.evicted += one.arm != _LEFT

    def move(self, from_shopper: str, to_shopper: str) -> None:
        """Let a shopper who turned out to be another one go on as that one; if both are in, they are one.

        Two arms make one who is left out.
        """
        one, other = self.entered.get(from_shopper), self.entered.get(to_shopper)
        if one is None:
            return
        if other is None:
            self.entered[to_shopper] = self.entered.pop(from_shopper)
            self._note_moved(from_shopper, to_shopper)
            return
        if one.arm != other.arm:
            for shopper, entered in ((from_shopper, one), (to_shopper, other)):
                if entered.arm != _LEFT:
                    self.leave_out(shopper)
            self.mixed += 1
        elif one.arm != _LEFT:
            self._put(one, out=True)
            self._put(other, out=True)
            other.totals = [a + b for a, b in zip(one.totals, other.totals, strict=True)]
            if one.since_ms < other.since_ms:
                other.since_ms, other.past = one.since_ms, one.past
            other.wins += one.wins
            other.orders = {**one.orders, **other.orders}
            self._put(other)
        del self.entered[from_shopper]
        self._note_moved(from_shopper, to_shopper)

    def _note_moved(self, from_shopper: str, to_shopper: str) -> None:
        self._moved[from_shopper] = to_shopper
        if len(self._moved) > moved_max:
            self._moved.popitem(last=False)

    def follows(self, event: Event) -> bool:
        """Return whether an event is of a shopper who is in the experiment, or a refund of what was bought as a guest.

        The desk keeps an order as that of the guest who placed it.
        """
        return event.shopper in self.entered or (event.type == "refund" and event.shopper in self._moved)

    # What became of them

    def learn(self, event: Event) -> None:
        """Count an event that the experiment follows."""
        shopper, kind, time_ms = event.shopper, event.type, event.time_ms
        if kind == "refund":
            for name in (shopper, self._moved.get(shopper)):
                if name and (one := self.entered.get(name)):
                    self._refund(one, event)
            return
        one = self.entered[shopper]
        if one.arm == _LEFT or not self.runs:
            return
        if not event.counts and self.experiment.bots:
            self.leave_out(shopper)
            self.bots += 1
            return
        self.entered.move_to_end(shopper)
        is_back = return_from_ms <= time_ms - one.since_ms < return_until_ms
        if is_back and (places := self.counting.places.get(RETURN)) and not one.totals[places[0]]:
            self._count(one, time_ms, RETURN, 1.0)
        if kind in self.counting.places:
            lines = event.data.items
            units = sum(line.quantity for line in lines)
            value = sum(line.quantity * (line.price or 0.0) for line in lines)
            first = kind != ORDER or self._note_order(one, event)
            self._count(one, time_ms, kind, float(first), units, value)

    def _note_order(self, one: Entered, event: Event) -> bool:
        """Remember an order's lines; return whether it is its first part."""
        name = event.data.transaction_id
        if not name:
            return True
        is_first = name not in one.orders
        if is_first and len(one.orders) >= orders_max:
            del one.orders[next(iter(one.orders))]
        lines = one.orders.setdefault(name, {})
        for line in event.data.items:
            had, _ = lines.get(line.item_id, (0.0, 0.0))
            lines[line.item_id] = had + line.quantity, line.price or 0.0
        return is_first

    def _refund(self, one: Entered, event: Event) -> None:
        """Take back lines of an order, of which the desk says that nothing is left; without lines, nothing is."""
        lines = one.orders.get(event.data.transaction_id)
        if lines is None:
            return
        items = [line.item_id for line in event.data.items if line.item_id in lines]
        gone = [lines.pop(item) for item in dict.fromkeys(items)]
        if not lines:
            del one.orders[event.data.transaction_id]
        units, value = sum(pieces for pieces, _ in gone), sum(pieces * price for pieces, price in gone)
        self._count(one, event.time_ms, ORDER, -float(not lines), -units, -value)

    def click(self, shopper: str, time_ms: int) -> None:
        """Count the first click on an answer of the experiment."""
        one = self.entered.get(shopper)
        if one is not None and one.arm != _LEFT:
            self._count(one, time_ms, CLICK, 1.0)

    def win(self, shopper: str, teams: str, before: Sequence[int], now: Sequence[int]) -> None:
        """Count who won an interleaved answer, now that further places of it were clicked."""
        one = self.entered.get(shopper)
        change = winner(teams, now) - winner(teams, before)
        if one is not None and one.arm != _LEFT and change:
            self._wins.replace(float(one.wins), 1.0, float(one.wins + change))
            one.wins += change

    def _count(
        self, one: Entered, time_ms: int, kind: str, events: float, units: float = 0.0, value: float = 0.0
    ) -> None:
        """Add to a shopper's numbers what an event says, and change the sums of the metrics that follow from them."""
        counting = self.counting
        places = counting.places.get(kind, ())
        changed = counting.changed.get(kind, ())
        before = [counting.values(one.totals, metric) for metric in changed]
        for place in places:
            _, what = counting.counters[place]
            one.totals[place] += events if what == "events" else units if what == "units" else value
        grown = self._day(time_ms)[1][one.arm]
        for metric, (outcome, divisor) in zip(changed, before, strict=True):
            now, per = counting.values(one.totals, metric)
            if (now, per) != (outcome, divisor):
                grown[metric] += now - outcome
                past = one.past[counting.kinds[metric]]
                replace_each(self._sums_of(one)[metric], outcome, divisor, now, per, past)

    def _day(self, time_ms: int) -> tuple[list[int], list[list[float]]]:
        day = time_ms // day_ms
        found = self._days.get(day)
        if found is None:
            arms, metrics = len(self._sums), len(self.counting.names)
            found = self._days[day] = [0] * arms, [[0.0] * metrics for _ in range(arms)]
            if len(self._days) > days_max:
                _, (entered, _) = self._days.popitem(last=False)
                kept = next(iter(self._days.values()))[0]
                kept[:] = [a + b for a, b in zip(kept, entered, strict=True)]  # who entered is still in
        return found

    # How the arms compare

    def look(self, time_ms: int) -> Report:
        """Return the report of now, and note how the differences stand."""
        taken = not self._points or time_ms - self._taken_ms() >= self._step_ms
        compared = [] if self.experiment.kind == "interleaved" else self._compared(time_ms, taken=taken)
        preferred = self._preferred(time_ms, taken=taken) if self.experiment.kind == "interleaved" else None
        if taken:
            self._thin(time_ms)
        self._guard()
        one = self.experiment
        return Report(
            name=self.name, version=self.version, kind=one.kind, state="running" if self.runs else "stopped",
            alpha=one.alpha, primary=one.primary, effect=one.effect, started_ms=self.started_ms, time_ms=time_ms,
            stopped_ms=self.stopped_ms, stopped_by=one.by if self.stopped_ms else "", why=one.why,
            hypothesis=one.hypothesis,
            arms=tuple([
                ArmCount(arm.name, share, sums[0].n, answers)
                for arm, share, sums, answers in zip(one.arms, self.shares, self._sums, self.answers, strict=True)
            ]),
            ratio_p=self.ratio.p_value, bots=self.bots, mixed=self.mixed, evicted=self.evicted, strays=self.strays,
            compared=tuple(compared), segments=tuple(self._segmented()) if compared else (), days=self._told_days(),
            preferred=preferred, harmed=tuple(self.harmed),
        )  # fmt: skip

    def _taken_ms(self) -> int:
        return max(points[-1].time_ms for points in self._points.values())

    def _thin(self, time_ms: int) -> None:
        if max(map(len, self._points.values()), default=0) >= points_max:
            self._points = {name: points[::2] for name, points in self._points.items()}
            self._step_ms = max(1, 2 * (time_ms - self.started_ms) // points_max)

    def _rule(self, comparisons: int) -> Rule:
        one = self.experiment
        return Rule(alpha=alpha_each(one.alpha, comparisons), shoppers_planned=one.shoppers)

    def _order(self) -> list[int]:
        """Return the numbers of the metrics, that of the primary one first."""
        names = self.counting.names
        return sorted(range(len(names)), key=lambda number: names[number] != self.experiment.primary)

    def _compared(self, time_ms: int, *, taken: bool) -> list[Compared]:
        rule = self._rule(len(self._sums) - 1)
        per_day = self._per_day(time_ms)
        found = []
        for number in self._order():
            for arm in range(1, len(self._sums)):
                found.append(self._compare(number, arm, self._sums, rule, "", time_ms, per_day, taken=taken))
        return found

    def _compare(
        self, number: int, arm: int, sums: list[list[Moments]], rule: Rule, where: str, time_ms: int, per_day: float,
        *, taken: bool,
    ) -> Compared:  # fmt: skip
        metric, name = self.counting.names[number], self.experiment.arms[arm].name
        key = f"{metric}/{name}{where}"
        zero, one, first = sums[0][number], sums[arm][number], self._first.get(key)
        found = difference(zero, one, rule, first)
        if found.low is not None and found.first_variance is not None:
            self._first[key] = found.first_variance
        points = self._points.get(key, [])
        if taken and found.difference is not None and found.low is not None and found.high is not None:
            points = self._points.setdefault(key, points)
            points.append(Point(time_ms, zero.n + one.n, found.difference, found.low, found.high))
        least = None if where else detectable(zero, one, rule, found.first_variance)
        left = (
            None if where or not self.runs
            else days_left(zero, one, rule, self.experiment.effect, per_day * 2 / len(self._sums), found.first_variance)
        )  # fmt: skip
        return Compared(
            metric=metric, arm=name, shoppers=(zero.n, one.n), control_value=found.control, arm_value=found.arm,
            difference=found.difference, low=found.low, high=found.high, relative=found.relative,
            relative_low=found.relative_low, relative_high=found.relative_high, p_value=found.p_value,
            decided=found.decided, variance_ratio=found.variance_ratio,
            detectable=least.relative if least else None, days=left.days if left else None,
            days_low=left.days_low if left else None, days_high=left.days_high if left else None,
            points=tuple(points),
        )  # fmt: skip

    def _per_day(self, time_ms: int) -> float:
        """Return how many shoppers enter in a day, by those so far."""
        return sum(sums[0].n for sums in self._sums) * day_ms / max(day_ms / 24, time_ms - self.started_ms)

    def _segmented(self) -> list[Segment]:
        """Return the primary metric's comparisons by segment, whose alpha is shared among all of them."""
        number, arms = self._order()[0], range(1, len(self._sums))
        rule = self._rule(max(1, len(self._segments) * len(arms)))
        return [
            Segment(
                segment, value,
                self._compare(number, arm, sums, rule, f"/{segment}/{value}", 0, 0.0, taken=False),
            )
            for (segment, value), sums in self._segments.items() for arm in arms
        ]  # fmt: skip

    def _preferred(self, time_ms: int, *, taken: bool) -> Preferred:
        found = preference(self._wins, self._rule(1), self._first.get("wins"))
        if found.low is not None and found.first_variance is not None:
            self._first["wins"] = found.first_variance
        points = self._points.get("wins", [])
        if taken and found.mean is not None and found.low is not None and found.high is not None:
            points = self._points.setdefault("wins", points)
            points.append(Point(time_ms, found.shoppers, found.mean, found.low, found.high))
        return Preferred(found.shoppers, found.mean, found.low, found.high, found.p_value, found.decided, tuple(points))

    def _guard(self) -> None:
        """Note the metrics that a guard finds harmed."""
        guards, arms = self.experiment.guards, range(1, len(self._sums))
        if not guards or self.experiment.kind == "interleaved":
            return
        rule = self._rule(len(guards) * len(arms))
        for guard in guards:
            number = self.counting.names.index(guard.metric)
            for arm in arms:
                text = f"{guard.metric} of {self.experiment.arms[arm].name}"
                first = self._first.get(f"{guard.metric}/{self.experiment.arms[arm].name}")
                found = harm(self._sums[0][number], self._sums[arm][number], rule, first, harm_max=guard.harm_max)
                if found.proved and text not in self.harmed:
                    self.harmed.append(text)

    def _told_days(self) -> tuple[Day, ...]:
        names, shoppers, found = self.counting.names, [0] * len(self._sums), []
        for day, (entered, grown) in self._days.items():
            shoppers = [a + b for a, b in zip(shoppers, entered, strict=True)]
            outcomes = {name: tuple([arm[place] for arm in grown]) for place, name in enumerate(names)}
            found.append(Day(day, tuple(shoppers), outcomes))
        return tuple(found)

    def state(self) -> dict[str, Any]:
        """Return the complete state."""
        return {
            "name": self.name, "experiment": msgspec.to_builtins(self.experiment), "version": self.version,
            "started_ms": self.started_ms, "stopped_ms": self.stopped_ms, "stopping": self.stopping,
            "entered": [
                [shopper, one.arm, one.since_ms, list(one.totals), list(one.past), list(one.segments), one.wins,
                 [[name, [[item, *line] for item, line in lines.items()]] for name, lines in one.orders.items()]]
                for shopper, one in self.entered.items()
            ],
            "sums": [[one.state() for one in arm] for arm in self._sums],
            "segments": [
                [*key, [[one.state() for one in arm] for arm in arms]] for key, arms in self._segments.items()
            ],
            "ratio": self.ratio.state(), "ratio_told": self.ratio_told, "answers": list(self.answers),
            "counts": [self.bots, self.mixed, self.evicted, self.strays], "first": dict(self._first),
            "points": [[name, [list(point) for point in points]] for name, points in self._points.items()],
            "moved": [list(pair) for pair in self._moved.items()],
            "step_ms": self._step_ms, "wins": self._wins.state(), "harmed": list(self.harmed),
            "days": [
                [day, list(entered), [list(arm) for arm in grown]] for day, (entered, grown) in self._days.items()
            ],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a course that continues where `state` was taken."""
        experiment = msgspec.convert(state["experiment"], Experiment)
        found = cls(state["name"], experiment, state["version"], state["started_ms"])
        found.stopped_ms, found.stopping = state["stopped_ms"], state["stopping"]
        for shopper, arm, since_ms, totals, past, segments, wins, orders in state["entered"]:
            lines = {name: {item: (pieces, price) for item, pieces, price in of} for name, of in orders}
            found.entered[shopper] = Entered(
                arm, since_ms, list(totals), (past[0], past[1], past[2]), tuple(segments), lines, wins
            )
        found._sums = _moments(state["sums"])
        found._segments = {(segment, value): _moments(arms) for segment, value, arms in state["segments"]}
        found.ratio, found.ratio_told = SampleRatio.from_state(state["ratio"]), state["ratio_told"]
        found.answers = list(state["answers"])
        found.bots, found.mixed, found.evicted, found.strays = state["counts"]
        found._first = dict(state["first"])
        found._points = {name: [Point(*point) for point in points] for name, points in state["points"]}
        found._step_ms, found._wins = state["step_ms"], Moments.from_state(state["wins"])
        found.harmed = list(state["harmed"])
        found._moved.update((before, after) for before, after in state["moved"])
        for day, entered, grown in state["days"]:
            found._days[day] = list(entered), [list(arm) for arm in grown]
        return found


def _kind(name: str) -> str:
    """Return what a name is of, `class` or `segment`."""
    return "class" if name in CLASSES else "segment"


def _moments(state: list[list[list[float]]]) -> list[list[Moments]]:
    return [[Moments.from_state(one) for one in arm] for arm in state]
