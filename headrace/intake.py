"""The intake: what an event passes before any learner sees it.

It is part of a shard's state, so that a replay decides the same.
"""

from collections import deque
from typing import Any

from headrace.events import Event
from headrace.state import State

seen_max = 65_536
"""Newest event ids remembered; a producer that repeats an event later than that is not noticed."""
step_max_ms = 86_400_000
"""How far one event may move event time forward: one absurd time must not expire everything that is known."""


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
        self._seen: set[tuple[str, str]] = set()
        # The oldest first. Not a dict's order: to find the first key of one that forgets at its front takes longer the
        # more it forgot since it was last rebuilt, 200 us at this size.
        self._order: deque[tuple[str, str]] = deque()

    def admit(self, event: Event) -> bool:
        """Return whether an event is new; limit its `time_ms` to a day past the newest time before it."""
        name = (event.source, event.id)
        seen = self._seen
        size = len(seen)
        seen.add(name)
        if len(seen) == size:  # one look-up instead of two
            return False
        self._order.append(name)
        if len(seen) > seen_max:
            seen.remove(self._order.popleft())
        time_ms = event.time_ms
        if time_ms > self.time_ms:
            if self.time_ms and time_ms > self.time_ms + step_max_ms:
                event.time_ms = time_ms = self.time_ms + step_max_ms
            self.time_ms = time_ms
        return True

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many event ids are remembered, and the maximum."""
        return {"event_ids": (len(self._seen), seen_max)}

    def state(self) -> State:
        """Return the newest ids, oldest first, and the newest event time."""
        return {"time_ms": self.time_ms, "sources": [s for s, _ in self._order], "ids": [i for _, i in self._order]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Intake":
        """Return an intake that continues exactly where `state` was taken."""
        intake = cls()
        intake.time_ms = state["time_ms"]
        intake._order.extend(zip(state["sources"], state["ids"], strict=True))
        intake._seen.update(intake._order)
        return intake
