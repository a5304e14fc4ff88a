"""The intake: what an event passes before any learner sees it.

It is part of a shard's state, so that a replay decides the same.
"""

from collections import deque
from typing import Any

from msgspec import Struct

from headrace.events import Event
from headrace.state import State

seen_max = 65_536
"""Newest event ids remembered; a producer that repeats an event later than that is not noticed."""
step_max_ms = 86_400_000
"""How far ahead of the newest time an event may be: one absurd time must not expire everything that is known."""
ahead_min = 8
"""So many events in a row that lie further ahead are believed: nobody came for days, or the time before was absurd."""


class _Source(Struct, gc=False):
    """A source, and which of its ids were seen."""

    name: str
    seen: set[str]


class Intake:
    """Refuses events that were seen before, and tames times.

    >>> from headrace.events import Data, Event, at
    >>> event = Event(id="1", source="shop", type="login", time=at(0), data=Data(), specversion="1.0", time_ms=5)
    >>> intake = Intake()
    >>> intake.admit(event), intake.admit(event)
    (True, False)
    """

    def __init__(self) -> None:
        self.time_ms = 0
        self._ahead: list[int] = []  # times of the newest events, those in a row that are too far ahead
        self._sources: dict[str, _Source] = {}
        # Whose id, and which, the oldest first: two queues of what is kept anyway, for a pair of each would be one more
        # object to hold, and for the collector to walk. Not a dict's order: to find the first key of one that forgets
        # at its front takes longer the more it forgot since it was last rebuilt, 200 us at this size.
        self._whose: deque[_Source] = deque()
        self._ids: deque[str] = deque()

    def admit(self, event: Event) -> bool:
        """Return whether an event is new; limit its `time_ms` to a day past the newest time.

        An event beyond that does not move the newest time, but `ahead_min` in a row do, to the least of their times.
        """
        source, name, ids = self._sources.get(event.source), event.id, self._ids
        if source is None:
            source = self._sources[event.source] = _Source(event.source, set())
        seen = source.seen
        size = len(seen)
        seen.add(name)
        if len(seen) == size:  # one look-up instead of two
            return False
        self._whose.append(source)
        ids.append(name)
        if len(ids) > seen_max:
            source = self._whose.popleft()
            source.seen.remove(ids.popleft())
            if not source.seen:
                del self._sources[source.name]
        time_ms, newest_ms = event.time_ms, self.time_ms
        if time_ms > newest_ms:
            if newest_ms and time_ms > newest_ms + step_max_ms:
                event.time_ms = self._tamed(time_ms)
                return True
            self.time_ms = time_ms
        if self._ahead:
            self._ahead.clear()
        return True

    def _tamed(self, time_ms: int) -> int:
        self._ahead.append(time_ms)
        if len(self._ahead) == ahead_min:
            self.time_ms = min(self._ahead)
            self._ahead.clear()
        return min(time_ms, self.time_ms + step_max_ms)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many event ids are remembered, and the maximum."""
        return {"event_ids": (len(self._ids), seen_max)}

    def state(self) -> State:
        """Return the newest ids, oldest first, the newest event time, and the times that lay too far ahead of it."""
        return {
            "time_ms": self.time_ms, "ahead": self._ahead.copy(),
            "sources": [source.name for source in self._whose], "ids": list(self._ids),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Intake":
        """Return an intake that continues exactly where `state` was taken."""
        intake = cls()
        intake.time_ms, intake._ahead = state["time_ms"], list(state["ahead"])
        for name, id_ in zip(state["sources"], state["ids"], strict=True):
            source = intake._sources.setdefault(name, _Source(name, set()))
            source.seen.add(id_)
            intake._whose.append(source)
        intake._ids.extend(state["ids"])
        return intake
