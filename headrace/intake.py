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
"""How far one event may move event time forward: one absurd time must not expire everything that is known."""


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
        self._sources: dict[str, _Source] = {}
        # Whose id, and which, the oldest first: two queues of what is kept anyway, for a pair of each would be one more
        # object to hold, and for the collector to walk. Not a dict's order: to find the first key of one that forgets
        # at its front takes longer the more it forgot since it was last rebuilt, 200 us at this size.
        self._whose: deque[_Source] = deque()
        self._ids: deque[str] = deque()

    def admit(self, event: Event) -> bool:
        """Return whether an event is new; limit its `time_ms` to a day past the newest time before it."""
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
                event.time_ms = time_ms = newest_ms + step_max_ms
            self.time_ms = time_ms
        return True

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many event ids are remembered, and the maximum."""
        return {"event_ids": (len(self._ids), seen_max)}

    def state(self) -> State:
        """Return the newest ids, oldest first, and the newest event time."""
        return {"time_ms": self.time_ms, "sources": [source.name for source in self._whose], "ids": list(self._ids)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Intake":
        """Return an intake that continues exactly where `state` was taken."""
        intake = cls()
        intake.time_ms = state["time_ms"]
        for name, id_ in zip(state["sources"], state["ids"], strict=True):
            source = intake._sources.setdefault(name, _Source(name, set()))
            source.seen.add(id_)
            intake._whose.append(source)
        intake._ids.extend(state["ids"])
        return intake
