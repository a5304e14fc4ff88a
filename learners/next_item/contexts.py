"""Contexts: each shopper's recent items, split into sessions, and the steps that an event adds. Bounded."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import chain, islice
from typing import Final, Self

import numpy as np

from headrace.events import Event
from headrace.state import State
from learners.family import Move
from learners.protocol import Context, context_max

session_gap_ms: Final = 30 * 60_000
"""Pause after which a shopper's next event begins a new session (GA4's default)."""

trails_max: Final = 4
"""Most sessions of one shopper at a time; above it, the one idle longest is dropped."""
CLOCKLESS: Final = -1
"""The own time of an event without a clock: only names separate its sessions."""

VIEW_EVENTS: Final = frozenset({"view_item", "select_item"})
CHOICE_EVENTS: Final = frozenset({"add_to_cart", "add_to_wishlist", "purchase"})
STEP_EVENTS: Final = VIEW_EVENTS | CHOICE_EVENTS


def pushed(items: Sequence[int], start: int, item: int) -> tuple[list[int], int]:
    """Return a context's items and its session's start after one more step; a full context drops its oldest item."""
    return [*items[-(context_max - 1) :], item], max(0, start - 1) if len(items) == context_max else start


class _Trail:
    """One session's trail: the newest items, the index at which the session begins, its number and its name.

    `own_ms` is the newest time by the shopper's own clock, `shop_ms` the newest shop time.
    """

    __slots__ = ("items", "name", "own_ms", "session", "shop_ms", "start")

    def __init__(self, items: list[int], start: int, session: int, name: str, own_ms: int, shop_ms: int) -> None:
        self.items, self.start, self.session, self.name = items, start, session, name
        self.own_ms, self.shop_ms = own_ms, shop_ms

    def follow(self, time_ms: int, own_ms: int) -> None:
        """Note the times of an event of the session. A clock that was set back by more than a pause is followed."""
        if own_ms > self.own_ms or CLOCKLESS < own_ms < self.own_ms - session_gap_ms:
            self.own_ms = own_ms
        self.shop_ms = max(self.shop_ms, time_ms)


class Contexts:
    """The newest `context_max` items of the most recent shoppers, split into sessions.

    A session ends after half an hour without an event. A shopper has one trail per session name, so that two devices in
    turn are two sessions; steps without a name, and a name that appears later, belong to the newest one. A new trail
    begins with the items of the shopper's newest one.

    Whether a session goes on is decided by the shopper's own clock while events are learned, because pauses are right
    even where that clock is wrong; and by the shop's time for answers. All is kept per shopper, so it can be split over
    shards.
    """

    def __init__(self, *, shoppers_max: int = 100_000) -> None:
        self.shoppers_max = shoppers_max
        # Each with its newest trail last; the shopper seen least recently first. In a plain dict, finding the first key
        # skips over all deleted entries.
        self._trails: OrderedDict[str, list[_Trail]] = OrderedDict()
        self._sessions = 0

    def __contains__(self, shopper: str) -> bool:
        """Return whether a shopper has steps."""
        return shopper in self._trails

    def context(self, shopper: str, time_ms: int, name: str = "", own_ms: int | None = None) -> Context:
        """Return the context in which a step of this shopper would be learned. Changes nothing.

        Args:
            time_ms: the shop's time.
            name: the event's session, "" if it has none.
            own_ms: the event's time by the shopper's own clock, CLOCKLESS if it has none; None: as the shop's time.
        """
        trails = self._trails.get(shopper)
        if not trails:
            return Context((), 0, self._sessions, time_ms)
        trail = _of_name(trails, name)
        if trail is None or _ended(trail, name, time_ms if own_ms is None else own_ms):
            items = trails[-1].items if trail is None else trail.items
            return Context(items, len(items), self._sessions, time_ms)
        return Context(trail.items, trail.start, trail.session, time_ms)

    def newest(self, shopper: str, time_ms: int) -> Context:
        """Return the context in which a shopper is answered at a shop time. Changes nothing."""
        trails = self._trails.get(shopper)
        if not trails:
            return Context((), 0, self._sessions, time_ms)
        trail = trails[-1]
        if time_ms - trail.shop_ms > session_gap_ms:
            return Context(trail.items, len(trail.items), self._sessions, time_ms)
        return Context(trail.items, trail.start, trail.session, time_ms)

    def push(self, shopper: str, item: int, time_ms: int, name: str = "", own_ms: int | None = None) -> int:
        """Add a step of the shopper to `item`; return its session's number. The arguments are those of `context`."""
        own_ms = time_ms if own_ms is None else own_ms
        trails = self._trails.get(shopper)
        if trails is None:
            if len(self._trails) >= self.shoppers_max:
                self._trails.popitem(last=False)
            trails = self._trails[shopper] = []
        else:
            self._trails.move_to_end(shopper)
        trail = _of_name(trails, name)
        if trail is None:
            items = trails[-1].items if trails else []
            trail = _Trail(items, len(items), self._sessions, name, own_ms, time_ms)
            self._sessions += 1
            if trails:  # what has ended is not needed beside a newer one
                trails[:] = [one for one in trails if time_ms - one.shop_ms <= session_gap_ms][1 - trails_max :]
            trails.append(trail)
        else:
            if _ended(trail, name, own_ms):
                trail.start, trail.session = len(trail.items), self._sessions
                self._sessions += 1
                trail.name = name
            elif name:
                trail.name = name
            if trails[-1] is not trail:
                trails.remove(trail)
                trails.append(trail)
            trail.follow(time_ms, own_ms)
        # A new list, so that contexts returned earlier do not change.
        trail.items, trail.start = pushed(trail.items, trail.start, item)
        return trail.session

    def touch(self, shopper: str, time_ms: int, name: str, own_ms: int) -> None:
        """Note that a shopper did something that is no step, so that the session goes on if it has not ended."""
        trails = self._trails.get(shopper)
        trail = _of_name(trails, name) if trails else None
        if trail is not None and not _ended(trail, name, own_ms):
            trail.follow(time_ms, own_ms)

    def move(self, move: Move) -> tuple[int, list[int]] | None:
        """Move a session's trail to another shopper; return its number and its items, None if there is none."""
        trails = self._trails.get(move.from_shopper, [])
        trail = next((one for one in trails if one.name == move.session_id), None)
        if trail is None:
            return None
        trails.remove(trail)
        if not trails:
            del self._trails[move.from_shopper]
        session = trail.items[trail.start :]
        others = self._trails.pop(move.to_shopper, [])
        before = others[-1].items if others else []
        trail.items = [*before, *session][-context_max:]
        trail.start = max(0, len(trail.items) - len(session))
        self._trails[move.to_shopper] = [*others[1 - trails_max :], trail]
        return trail.session, session

    def forget(self, slots: Collection[int]) -> None:
        """Drop these slots from all contexts."""
        gone = set(slots)
        for trail in chain.from_iterable(self._trails.values()):
            if not gone.isdisjoint(trail.items):
                before = sum(slot in gone for slot in trail.items[: trail.start])
                trail.items = [slot for slot in trail.items if slot not in gone]
                trail.start -= before

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of remembered shoppers and the maximum."""
        return {"shoppers": (len(self._trails), self.shoppers_max)}

    def state(self) -> State:
        """Return all trails as columns, by shopper, the one seen least recently first."""
        trails = list(chain.from_iterable(self._trails.values()))
        total = sum(len(trail.items) for trail in trails)
        return {
            "sessions": self._sessions,
            "shoppers": list(self._trails),
            "counts": np.array([len(one) for one in self._trails.values()], np.int32),
            "names": [trail.name for trail in trails],
            "lengths": np.array([len(trail.items) for trail in trails], np.int32),
            "items": np.fromiter((slot for trail in trails for slot in trail.items), np.int32, total),
            "starts": np.array([trail.start for trail in trails], np.int32),
            "numbers": np.array([trail.session for trail in trails], np.int64),
            "own_ms": np.array([trail.own_ms for trail in trails], np.int64),
            "shop_ms": np.array([trail.shop_ms for trail in trails], np.int64),
        }

    @classmethod
    def from_state(cls, state: State, *, shoppers_max: int) -> Self:
        """Return contexts that continue where `state` was taken; of more shoppers than the maximum, the newest."""
        contexts = cls(shoppers_max=shoppers_max)
        contexts._sessions = state["sessions"]
        items, end = state["items"].tolist(), 0
        columns = (state[name].tolist() for name in ("lengths", "starts", "numbers", "own_ms", "shop_ms"))
        rows = zip(state["names"], *columns, strict=True)
        for shopper, count in zip(state["shoppers"], state["counts"].tolist(), strict=True):
            trails = contexts._trails[shopper] = []
            for name, length, start, session, own_ms, shop_ms in islice(rows, count):
                trails.append(_Trail(items[end : end + length], start, session, name, own_ms, shop_ms))
                end += length
        while len(contexts._trails) > shoppers_max:
            contexts._trails.popitem(last=False)
        return contexts


def from_version_1(state: State) -> State:
    """Return the state of contexts of today; those of version 1 had one trail per shopper and one clock."""
    columns = {name: state[name] for name in ("sessions", "shoppers", "names", "lengths", "items", "starts", "numbers")}
    times_ms = state["times_ms"]
    return {**columns, "counts": np.ones(len(times_ms), np.int32), "own_ms": times_ms, "shop_ms": times_ms}


def _of_name(trails: list[_Trail], name: str) -> _Trail | None:
    """Return the trail to which a step of a session belongs, None if it begins another one."""
    if not trails:
        return None
    newest = trails[-1]
    # Purchases sent by a shop's server have no session name, and trackers name a session late.
    if not name or newest.name == name or not newest.name:
        return newest
    return next((trail for trail in trails if trail.name == name), None)


def _ended(trail: _Trail, name: str, own_ms: int) -> bool:
    if own_ms == CLOCKLESS:
        return bool(name) and name != trail.name != ""
    return own_ms - trail.own_ms > session_gap_ms


def own_clock(event: Event) -> int:
    """Return an event's time by its shopper's own clock, CLOCKLESS if a loader has made up its time."""
    made_up = event.data.made_up
    return CLOCKLESS if made_up and "time" in made_up else event.own_ms or event.time_ms


def steps(event: Event, session: Sequence[str]) -> list[str]:
    """Return, in order, the items that an event adds to a session that already has the items `session`."""
    return steps_of(event.type, [line.item_id for line in event.data.items], session)


def steps_of(kind: str, items: Sequence[str], session: Sequence[str]) -> list[str]:
    """Return, in order, those of an event's items that are steps, in a session that already has the items `session`.

    A step is the move of a shopper to an item. Viewing the last item again is no step, and neither is adding to the
    cart, to the wishlist or buying an item of the session. An invoice without earlier views adds each of its lines. For
    a view, the session's last item is enough.
    """
    found: list[str] = []
    last = session[-1] if session else None
    if kind in VIEW_EVENTS:
        for item in items:
            if item != last:
                last = item
                found.append(item)
    elif kind in CHOICE_EVENTS:
        held = set(session)
        for item in items:
            if item not in held:
                held.add(item)
                found.append(item)
    return found
