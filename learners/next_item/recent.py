"""What each shopper has just seen or bought: it is not recommended again in the same visit, however long that is."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Final, Self

import numpy as np
from msgspec import Struct

from headrace.state import State
from learners.next_item.contexts import CLOCKLESS, session_gap_ms

items_max: Final = 500_000
"""Most items of all visits; above it, the visit idle longest is forgotten."""


class _Visit(Struct, gc=False):
    """One shopper's visit: how often each item was seen, and the newest times by the shopper's clock and the shop's."""

    slots: dict[int, int]
    own_ms: int
    shop_ms: int


class Recent:
    """The items of each shopper's visit, which ends after half an hour without an event, whatever sessions are named.

    While events are learned, a pause must be one by the shopper's own clock and by the shop's; for answers, by the
    shop's.

    >>> recent = Recent()
    >>> recent.note("ann", 3, 0)
    >>> recent.note("ann", 5, session_gap_ms)
    >>> sorted(recent.slots("ann", 2 * session_gap_ms)), recent.slots("ann", 2 * session_gap_ms + 1)
    ([3, 5], ())
    """

    def __init__(self) -> None:
        self._visits: OrderedDict[str, _Visit] = OrderedDict()
        self._items = 0

    def note(self, shopper: str, slot: int, time_ms: int, own_ms: int | None = None) -> None:
        """Note that a shopper saw or bought an item; the times are those of `Contexts.context`."""
        own_ms = time_ms if own_ms is None else own_ms
        visit = self._visits.get(shopper)
        if visit is None:
            visit = self._visits[shopper] = _Visit({}, own_ms, time_ms)
        else:
            self._go_on(shopper, visit, time_ms, own_ms)
        slots = visit.slots
        if slot in slots:
            slots[slot] += 1
        else:
            slots[slot] = 1
            self._items += 1
        self._drop(time_ms)

    def touch(self, shopper: str, time_ms: int, own_ms: int | None = None) -> None:
        """Note that a shopper did something, so that the visit goes on."""
        visit = self._visits.get(shopper)
        if visit is not None:
            self._go_on(shopper, visit, time_ms, time_ms if own_ms is None else own_ms)

    def _go_on(self, shopper: str, visit: _Visit, time_ms: int, own_ms: int) -> None:
        # Both clocks: the shopper's may be set right, or another device's may be wrong, without any pause.
        paused = own_ms == CLOCKLESS or own_ms - visit.own_ms > session_gap_ms
        if paused and time_ms - visit.shop_ms > session_gap_ms:
            self._items -= len(visit.slots)
            visit.slots.clear()
        self._visits.move_to_end(shopper)
        if own_ms > visit.own_ms or CLOCKLESS < own_ms < visit.own_ms - session_gap_ms:
            visit.own_ms = own_ms
        visit.shop_ms = max(visit.shop_ms, time_ms)

    def count(self, shopper: str, slot: int) -> int:
        """Return how often a shopper saw or bought an item in the newest visit."""
        visit = self._visits.get(shopper)
        return visit.slots.get(slot, 0) if visit else 0

    def _drop(self, time_ms: int) -> None:
        """Drop the visits idle longest, if they have ended or there are too many items; at most two at a time."""
        for _ in range(2):
            shopper = next(iter(self._visits))
            visit = self._visits[shopper]
            if self._items <= items_max and time_ms - visit.shop_ms <= session_gap_ms:
                return
            if len(self._visits) > 1:
                del self._visits[shopper]
                self._items -= len(visit.slots)

    def slots(self, shopper: str, time_ms: int) -> Collection[int]:
        """Return the items of a shopper's visit at a shop time; nothing if it has ended."""
        visit = self._visits.get(shopper)
        return () if visit is None or time_ms - visit.shop_ms > session_gap_ms else visit.slots

    def move(self, from_shopper: str, to_shopper: str, slots: Iterable[int] | None) -> None:
        """Move items of one shopper's visit to another's, all of them if it is None."""
        visit = self._visits.get(from_shopper)
        if visit is None:
            return
        moved = [slot for slot in (visit.slots if slots is None else dict.fromkeys(slots)) if slot in visit.slots]
        if not moved:
            return
        other = self._visits.pop(to_shopper, None) or _Visit({}, visit.own_ms, visit.shop_ms)
        self._visits[to_shopper] = other
        for slot in moved:
            self._items -= slot in other.slots
            other.slots[slot] = other.slots.get(slot, 0) + visit.slots.pop(slot)
        other.own_ms, other.shop_ms = max(other.own_ms, visit.own_ms), max(other.shop_ms, visit.shop_ms)

    def forget(self, slots: Iterable[int]) -> None:
        """Drop these slots from all visits."""
        gone = set(slots)
        for visit in self._visits.values():
            for slot in gone & visit.slots.keys():
                del visit.slots[slot]
                self._items -= 1

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of items of all visits and the maximum."""
        return {"items": (self._items, items_max)}

    def state(self) -> State:
        """Return all visits, the one idle longest first."""
        visits = self._visits.values()
        return {
            "shoppers": list(self._visits),
            "lengths": np.array([len(visit.slots) for visit in visits], np.int32),
            "slots": np.array([slot for visit in visits for slot in visit.slots], np.int32),
            "counts": np.array([count for visit in visits for count in visit.slots.values()], np.int32),
            "own_ms": np.array([visit.own_ms for visit in visits], np.int64),
            "shop_ms": np.array([visit.shop_ms for visit in visits], np.int64),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return what continues exactly where `state` was taken."""
        recent, slots, counts, end = cls(), state["slots"].tolist(), state["counts"].tolist(), 0
        columns = (state[name].tolist() for name in ("lengths", "own_ms", "shop_ms"))
        for shopper, length, own_ms, shop_ms in zip(state["shoppers"], *columns, strict=True):
            items = zip(slots[end : end + length], counts[end : end + length], strict=True)
            recent._visits[shopper] = _Visit(dict(items), own_ms, shop_ms)
            end += length
        recent._items = end
        return recent
