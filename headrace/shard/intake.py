"""The intake: drops repeated events and gives each event the shop's time, before any learner sees it.

It is part of a shard's state, so that a replay makes the same decisions.

Two clocks are told apart. An event's `own_ms` is by its sender's clock, which may be wrong: only what concerns that
shopper alone (whether a visit goes on) follows it. `time_ms` is the shop's time, by which everything else goes: decay,
the expiry of labels, rounds, drift, answers.
"""

from bisect import bisect_left, insort
from collections import deque
from typing import Any, Final

from msgspec import Struct

from headrace.events import Event
from headrace.state import State

version = 3
"""Version of the rules by which records become the events that families learn: `headrace.events.decode` and the intake.
Raise it when they change. Version 1, up to 0.3.0, had one clock for all, the newest event time; 2 was not released."""
event_ids_max = 65_536
"""Number of the newest event ids that are remembered; an event that is repeated later than that is not detected."""
FULL_BY_DESIGN: Final = ("event_ids",)
"""The bounded tables that any shop fills in time; see `headrace.surface.Surface`."""
clock_events = 15
"""Number of the newest compared events. Fewer than half of them, whatever their times, do not move the clock."""
compared_every = 4
compared_interval_ms = 1_000
"""In a busy shop every fourth event is compared, and each that is appended a second after the last compared one: the
clock is as good, and comparing takes a tenth of the time of learning."""
busy_spread_ms = 150_000
"""So far apart are the own times (while they are live, the delays) of the middle half of 15 events of a busy shop."""
run_events = 3
"""Of one shopper's compared events in a row, these and then every second one count: one visit is not the majority."""
live_delay_ms_max = 86_400_000
"""Usual delay up to which events count as live: they come hours late where all clocks of a shop are wrong alike."""


class ShopClock:
    """The shop's time, as more than half of the newest events tell it.

    An event's delay is its append time minus its own time. While the median of the newest delays is within a day,
    events are live, and the shop's time is the append time minus that median: it follows the log's clock. Otherwise
    history is loaded, and the shop's time is the median of the newest events' own times, whenever they were appended.
    One sender's wrong clock moves it only with more than half of the newest events, and never past the append time.

    >>> clock = ShopClock()
    >>> [clock.time_ms(own_ms, 9_000, "ann") for own_ms in (1_000, 2_000, 7_000, 3_000)]
    [1000, 1000, 2000, 2000]
    """

    def __init__(self) -> None:
        self._newest: deque[tuple[int, int]] = deque()  # own time and delay of compared events, oldest first
        self._live = True
        self._sorted: list[int] = []  # their delays while they are live, else their own times
        self._median_ms = 0  # of these
        self._shopper, self._run = "", 0  # of the last compared event, and how many of this shopper's came in a row
        self._compared_ms = 0  # when that was appended
        self._every, self._passed = 1, 1  # one event of so many is compared; number of events since the last one

    def time_ms(self, own_ms: int, appended_ms: int, shopper: str) -> int:
        """Return the shop's time at the arrival of an event, which may lie a little before that of the last one."""
        if self._passed >= self._every or appended_ms - self._compared_ms >= compared_interval_ms:
            self._compare(own_ms, appended_ms, shopper)
        self._passed += 1
        return appended_ms - self._median_ms if self._live else self._median_ms

    def _compare(self, own_ms: int, appended_ms: int, shopper: str) -> None:
        if shopper == self._shopper:
            self._run = run = self._run + 1
        else:
            self._shopper, self._run = shopper, 1
            run = 1
        live, ordered, newest = self._live, self._sorted, self._newest
        self._compared_ms, self._passed = appended_ms, 0
        if run <= run_events or run % 2 or not ordered:
            delay_ms = appended_ms - own_ms
            newest.append((own_ms, delay_ms))
            insort(ordered, delay_ms if live else own_ms)
            if len(ordered) > clock_events:
                del ordered[bisect_left(ordered, newest.popleft()[live])]
            # Of an even number, the middle one that gives the earlier time.
            self._median_ms = ordered[len(ordered) // 2 if live else (len(ordered) - 1) // 2]
        median_ms = self._median_ms
        if live != ((median_ms if live else appended_ms - median_ms) <= live_delay_ms_max):
            self._live = not live
            self._sort()
            ordered = self._sorted
        if len(ordered) == clock_events:
            spread_ms = ordered[-4] - ordered[3]
            self._every = compared_every if spread_ms <= busy_spread_ms * self._every else 1

    def _sort(self) -> None:
        ordered = self._sorted = sorted(event[self._live] for event in self._newest)
        middle = len(ordered) // 2 if self._live else (len(ordered) - 1) // 2
        self._median_ms = ordered[middle] if ordered else 0

    def state(self) -> State:
        """Return the newest compared events' own times and delays, oldest first, and what the next one is held to."""
        newest = [list(event) for event in self._newest]
        return {
            "live": self._live, "newest": newest, "shopper": self._shopper, "run": self._run,
            "compared_ms": self._compared_ms, "every": self._every, "passed": self._passed,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> "ShopClock":
        """Return a clock that continues exactly where `state` was taken."""
        clock = cls()
        clock._live, clock._shopper, clock._run = state["live"], state["shopper"], state["run"]
        clock._compared_ms, clock._every, clock._passed = state["compared_ms"], state["every"], state["passed"]
        clock._newest.extend((own_ms, delay_ms) for own_ms, delay_ms in state["newest"])
        clock._sort()
        return clock


class _Source(Struct, gc=False):
    """A source, and those of its ids that are remembered."""

    name: str
    seen: set[str]


class Intake:
    """Drops repeated events, and tells the shop's time at the arrival of the others.

    >>> from headrace.events import Data, Event, at
    >>> event = Event(id="1", source="shop", type="login", time=at(0), data=Data(), specversion="1.0", own_ms=5)
    >>> intake = Intake()
    >>> intake.admit(event, 9), event.time_ms, intake.admit(event, 9)
    (True, 5, False)
    """

    def __init__(self) -> None:
        self._clock = ShopClock()
        self._sources: dict[str, _Source] = {}
        # The remembered ids and their sources, oldest first. Two queues of existing objects: a pair per id would be one
        # more object to keep, and for the garbage collector to visit. Not a dict's order: finding the first key of a
        # dict takes longer the more keys were deleted at its front since its last resize, 200 us at this size.
        self._id_sources: deque[_Source] = deque()
        self._ids: deque[str] = deque()

    def admit(self, event: Event, appended_ms: int) -> bool:
        """Return whether an event is new; if so, set its `time_ms` to the shop's time.

        Args:
            appended_ms: the append time of its record.
        """
        source, name, ids = self._sources.get(event.source), event.id, self._ids
        if source is None:
            source = self._sources[event.source] = _Source(event.source, set())
        seen = source.seen
        size = len(seen)
        seen.add(name)
        if len(seen) == size:  # already remembered; one look-up instead of two
            return False
        self._id_sources.append(source)
        ids.append(name)
        if len(ids) > event_ids_max:
            source = self._id_sources.popleft()
            source.seen.remove(ids.popleft())
            if not source.seen:
                del self._sources[source.name]
        event.time_ms = self._clock.time_ms(event.own_ms, appended_ms, event.shopper)
        return True

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many event ids are remembered, and the maximum."""
        return {"event_ids": (len(self._ids), event_ids_max)}

    def state(self) -> State:
        """Return the remembered ids, oldest first, and the clock."""
        return {
            "clock": self._clock.state(),
            "sources": [source.name for source in self._id_sources], "ids": list(self._ids),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Intake":
        """Return an intake that continues exactly where `state` was taken; up to 0.3.0 there was no clock."""
        intake = cls()
        if "clock" in state:
            intake._clock = ShopClock.from_state(state["clock"])
        for name, id_ in zip(state["sources"], state["ids"], strict=True):
            source = intake._sources.setdefault(name, _Source(name, set()))
            source.seen.add(id_)
            intake._id_sources.append(source)
        intake._ids.extend(state["ids"])
        return intake
