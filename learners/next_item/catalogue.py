"""The catalogue: the items that a shard knows. Each has a slot, a small number that indexes arrays. Bounded."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice, repeat
from typing import Final, Self

from headrace.state import State

newest_max: Final = 10_000
"""Most recently admitted or renewed items that `since` can return."""


class Catalogue:
    """Maps item ids to slots. When it is full, a sixteenth of the items, the least recently seen, are evicted at once.

    `admitted` counts how often an item was given a slot or renewed. `watch` is told each item that comes or goes.

    `admit` reuses the slots that `evict` returns, so all tables indexed by slot must forget them before it is called.

    >>> catalogue = Catalogue(items_max=16)
    >>> [catalogue.admit(f"item-{n}") for n in (0, 1, 0)]
    [0, 1, 0]
    >>> catalogue.item(1), catalogue.slot("item-9")
    ('item-1', None)
    """

    def __init__(self, *, items_max: int = 131_072) -> None:
        self.items_max = items_max
        self._slots: dict[str, int] = {}  # least recently seen first
        self._items: list[str] = []
        self._free: list[int] = []
        self._newest: deque[str] = deque(maxlen=newest_max)
        self.admitted = 0
        self.watch: Callable[[str], None] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, item: str) -> int | None:
        """Return an item's slot, or None if it is not known."""
        return self._slots.get(item)

    def item(self, slot: int) -> str:
        """Return the item at a slot in use."""
        return self._items[slot]

    def items_at(self, slots: Iterable[int]) -> list[str]:
        """Return the items at slots in use."""
        return list(map(self._items.__getitem__, slots))

    def slots_of(self, items: Iterable[str]) -> list[int]:
        """Return the slots of items, -1 for those that are not known."""
        return list(map(self._slots.get, items, repeat(-1)))

    @property
    def slots_end(self) -> int:
        """The first number that is no slot: every slot is below it."""
        return len(self._items)

    def items(self) -> list[str]:
        """Return the known items, the least recently seen first."""
        return list(self._slots)

    def evict(self, item: str) -> list[int]:
        """Evict items if this one is new and the catalogue is full; return the slots that must be forgotten."""
        if item in self._slots or len(self._slots) < self.items_max:
            return []
        return self._evict(max(1, self.items_max // 16))

    def _evict(self, count: int) -> list[int]:
        items = list(islice(self._slots, count))
        gone = [self._slots.pop(item) for item in items]
        self._free.extend(reversed(gone))
        if self.watch:
            for item in items:
                self.watch(item)
        return gone

    def resize(self, items_max: int) -> list[int]:
        """Change the maximum; evict the items seen least recently beyond it, and return their slots to be forgotten."""
        self.items_max = items_max
        return self._evict(max(0, len(self._slots) - items_max))

    def admit(self, item: str) -> int:
        """Return an item's slot, assigning one if the item is new. Marks the item as seen now."""
        slot = self._slots.pop(item, None)
        new = slot is None
        if slot is None:
            assert len(self._slots) < self.items_max, "evict before admitting to a full catalogue"
            if self._free:
                slot = self._free.pop()
                self._items[slot] = item
            else:
                slot = len(self._items)
                self._items.append(item)
            self._newest.append(item)
            self.admitted += 1
        self._slots[item] = slot
        if new and self.watch:
            self.watch(item)
        return slot

    def renew(self, item: str) -> None:
        """Let `since` return a known item again, because what is known of it has changed."""
        self._newest.append(item)
        self.admitted += 1

    def since(self, number: int) -> list[str]:
        """Return the items that were admitted or renewed after the first `number` and are still known.

        They are at most `newest_max`; one may occur twice.
        """
        count = min(self.admitted - number, len(self._newest))
        return [item for item in list(self._newest)[len(self._newest) - count :] if item in self._slots]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of known items and the maximum."""
        return {"items": (len(self._slots), self.items_max)}

    def state(self) -> State:
        """Return the items by recency, their slots, and the free slots."""
        return {
            "items_max": self.items_max,
            "recent": list(self._slots),
            "slots": list(self._slots.values()),
            "free": list(self._free),
            "newest": list(self._newest),
            "admitted": self.admitted,
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a catalogue that continues exactly where `state` was taken."""
        catalogue = cls(items_max=state["items_max"])
        catalogue._slots = dict(zip(state["recent"], state["slots"], strict=True))
        catalogue._free = list(state["free"])
        catalogue._newest.extend(state["newest"])
        catalogue.admitted = state["admitted"]
        catalogue._items = [""] * (len(catalogue._slots) + len(catalogue._free))
        for item, slot in catalogue._slots.items():
            catalogue._items[slot] = item
        return catalogue
