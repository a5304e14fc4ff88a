"""Contexts: what each shopper did lately, and which steps an event adds to that. Bounded."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final, Self

import numpy as np

from headrace.events import Event
from headrace.state import State
from learners.learner import Context, context_max

session_gap_ms: Final = 30 * 60_000
"""Event time without an event after which a shopper's next one begins a new session (GA4's default)."""

VIEWS: Final = frozenset({"view_item", "select_item"})
CHOICES: Final = frozenset({"add_to_cart", "add_to_wishlist", "purchase"})
STEPS: Final = VIEWS | CHOICES


def pushed(items: Sequence[int], start: int, item: int) -> tuple[list[int], int]:
    """Return a context's items and its session's start after one more step: the oldest item makes room."""
    return [*items[-(context_max - 1) :], item], max(0, start - 1) if len(items) == context_max else start


class _Trail:
    """One shopper's newest items, where the current session begins in them, and its number."""

    __slots__ = ("items", "name", "session", "start", "time_ms")

    def __init__(self, items: list[int], start: int, session: int, time_ms: int, name: str) -> None:
        self.items, self.start, self.session, self.time_ms, self.name = items, start, session, time_ms, name


class Contexts:
    """The newest `context_max` items of the newest shoppers, split into sessions.

    A session ends after half an hour without a step, or when the event names another `session_id`.
    Kept per shopper, so it splits by shard.
    """

    def __init__(self, *, shoppers_max: int = 100_000) -> None:
        self.shoppers_max = shoppers_max
        # Least recently seen first. A plain dict's front is searched past all that was taken from it.
        self._trails: OrderedDict[str, _Trail] = OrderedDict()
        self._sessions = 0

    def context(self, shopper: str, time_ms: int, name: str = "") -> Context:
        """Return the context in which a step of this shopper would be learned at `time_ms`. Changes nothing.

        Args:
            name: the session's id, where events carry one.
        """
        trail = self._trails.get(shopper)
        if trail is None:
            return Context((), 0, self._sessions, time_ms)
        if self._ended(trail, time_ms, name):
            return Context(trail.items, len(trail.items), self._sessions, time_ms)
        return Context(trail.items, trail.start, trail.session, time_ms)

    @staticmethod
    def _ended(trail: _Trail, time_ms: int, name: str) -> bool:
        # Without a name, as who asks for recommendations or a server's own purchase, it is the visit that goes on.
        return trail.name != name if name else time_ms - trail.time_ms > session_gap_ms

    def push(self, shopper: str, item: int, time_ms: int, name: str = "") -> None:
        """Add a step: the shopper took `item` at `time_ms`."""
        trail = self._trails.pop(shopper, None)
        if trail is None:
            trail = _Trail([], 0, self._sessions, time_ms, name)
            self._sessions += 1
            if len(self._trails) >= self.shoppers_max:
                self._trails.popitem(last=False)
        elif self._ended(trail, time_ms, name):
            trail.start, trail.session, trail.name = len(trail.items), self._sessions, name
            self._sessions += 1
        self._trails[shopper] = trail
        trail.time_ms = max(trail.time_ms, time_ms)
        # A new list: contexts given out stay as they were.
        trail.items, trail.start = pushed(trail.items, trail.start, item)

    def forget(self, slots: Collection[int]) -> None:
        """Drop these slots from all contexts."""
        gone = set(slots)
        for trail in self._trails.values():
            if not gone.isdisjoint(trail.items):
                before = sum(slot in gone for slot in trail.items[: trail.start])
                trail.items = [slot for slot in trail.items if slot not in gone]
                trail.start -= before

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the shoppers remembered, and the maximum."""
        return {"shoppers": (len(self._trails), self.shoppers_max)}

    def state(self) -> State:
        """Return all trails as columns, least recently seen first."""
        trails = list(self._trails.values())
        total = sum(len(trail.items) for trail in trails)
        return {
            "shoppers_max": self.shoppers_max,
            "sessions": self._sessions,
            "shoppers": list(self._trails),
            "names": [trail.name for trail in trails],
            "lengths": np.array([len(trail.items) for trail in trails], np.int32),
            "items": np.fromiter((slot for trail in trails for slot in trail.items), np.int32, total),
            "starts": np.array([trail.start for trail in trails], np.int32),
            "numbers": np.array([trail.session for trail in trails], np.int64),
            "times_ms": np.array([trail.time_ms for trail in trails], np.int64),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return contexts that continue exactly where `state` was taken."""
        contexts = cls(shoppers_max=state["shoppers_max"])
        contexts._sessions = state["sessions"]
        items, end = state["items"].tolist(), 0
        columns = (state[name].tolist() for name in ("lengths", "starts", "numbers", "times_ms"))
        for shopper, name, length, start, session, time_ms in zip(
            state["shoppers"], state["names"], *columns, strict=True
        ):
            contexts._trails[shopper] = _Trail(items[end : end + length], start, session, time_ms, name)
            end += length
        return contexts


def steps(event: Event, session: Sequence[str]) -> list[str]:
    """Return the items that an event adds to a shopper's session whose items so far are `session`, in order.

    A step is an item that the shopper turned to. A view of the item just looked at is none; nor is putting into the
    cart or buying what the session already holds. An invoice without views adds each of its lines.
    """
    found: list[str] = []
    last = session[-1] if session else None
    if event.type in VIEWS:
        for item in event.data.items:
            if item.item_id != last:
                last = item.item_id
                found.append(last)
    elif event.type in CHOICES:
        held = set(session)
        for item in event.data.items:
            if item.item_id not in held:
                held.add(item.item_id)
                found.append(item.item_id)
    return found
