"""Touches: which answer each shopper's events named last for an item, so that a later order is attributed to it."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Self

from msgspec import Struct

from learners.family import Move
from learners.placements.tallies import Group

shopper_touches_max: Final = 1_000
"""Most touches of one shopper; the oldest are evicted."""
_NONE: Final[Mapping[str, "Touch"]] = {}


class Touch(Struct, gc=False):
    """The answer that a click or a cart named for an item, when, and in which session.

    `group` is the answer's once it is known that the answer showed the item: then the answer may be forgotten.
    """

    answer: str
    time_ms: int
    session_id: str
    group: Group | None = None


class Touches:
    """The last touch of each item by each shopper. The shopper who touched least recently is evicted first.

    Attributes:
        evicted: touches that were evicted.
    """

    def __init__(self, touches_max: int) -> None:
        self.touches_max, self.evicted = touches_max, 0
        self._shoppers: OrderedDict[str, dict[str, Touch]] = OrderedDict()  # of each, the oldest touch first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, shopper: str) -> bool:
        return shopper in self._shoppers

    def of(self, shopper: str) -> Mapping[str, Touch]:
        """Return a shopper's touches by item."""
        return self._shoppers.get(shopper, _NONE)

    def put(self, shopper: str, item: str, touch: Touch) -> None:
        """Remember a touch in place of the item's last one."""
        touches = self._shoppers.setdefault(shopper, {})
        self._shoppers.move_to_end(shopper)
        before = len(touches)
        touches.pop(item, None)
        touches[item] = touch
        self._count += len(touches) - before
        while len(touches) > shopper_touches_max or (self._count > self.touches_max and len(self._shoppers) == 1):
            del touches[next(iter(touches))]
            self._evict(1)
        while self._count > self.touches_max:
            self._evict(len(self._shoppers.popitem(last=False)[1]))

    def _evict(self, count: int) -> None:
        self._count -= count
        self.evicted += count

    def move(self, move: Move) -> None:
        """Move the touches of a session to another shopper, whose newer ones stay."""
        touches = self._shoppers.get(move.from_shopper, {})
        moved = {item: touch for item, touch in touches.items() if touch.session_id == move.session_id}
        if not moved:
            return
        for item in moved:
            del touches[item]
        self._count -= len(moved)
        if not touches:
            del self._shoppers[move.from_shopper]
        both = [*self.of(move.to_shopper).items(), *moved.items()]
        for item, touch in sorted(both, key=lambda one: one[1].time_ms):  # a stable sort: of equal times, the moved one
            self.put(move.to_shopper, item, touch)

    def state(self) -> dict[str, Any]:
        """Return all touches, those of the shopper who touched least recently first."""
        return {
            "evicted": self.evicted,
            "shoppers": [
                [shopper, [
                    [item, one.answer, one.time_ms, one.session_id, list(one.group) if one.group else None]
                    for item, one in touches.items()
                ]]
                for shopper, touches in self._shoppers.items()
            ],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], touches_max: int) -> Self:
        """Return touches that continue where `state` was taken; of more than the maximum, the most recent."""
        found = cls(touches_max)
        found.evicted = state["evicted"]
        for shopper, touches in state["shoppers"]:
            for item, answer, time_ms, session_id, group in touches:
                found.put(shopper, item, Touch(answer, time_ms, session_id, Group(*group) if group else None))
        return found
