"""Traits: features of an item besides the members' scores, some of them relative to the shopper's context. Bounded."""

import math
from collections.abc import Sequence
from typing import Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.next_item.names import Names
from learners.parts.decay import Decay
from learners.protocol import Context

day_ms: Final = 86_400_000
TRAITS: Final = (
    "count", "recent_count", "age", "same_category", "is_last", "after_last", "before_last", "familiar",
    "name_last", "name_mean", "name_max",
)  # fmt: skip
"""The traits, in order. The last item is the newest item of the current session.

- `count`, `recent_count`: steps to the item, with a half-life of months and of days.
- `age`: time since its first step.
- `same_category`: whether it has the last item's category.
- `is_last`: whether it is the last item.
- `after_last`, `before_last`: whether this shopper moved to it right after, or right before, the last item.
- `familiar`: whether the shopper knows it from an earlier session.
- `name_last`, `name_mean`, `name_max`: the similarity of its name to the last item's, and the mean and the maximum over
  the session's newest items.
"""

_count_max: Final = 100_000
_age_max_h: Final = 24_000
"""Counts and ages (hours) that map to 1. The scale is logarithmic, so that both minutes and years are distinguished."""
_named_max: Final = 8
"""Newest items of a session whose names are compared."""
_weight_min: Final = 1e-300
"""Lower bound of a decay weight, for times so long before the first count that the weight underflows to 0."""


class Traits:
    """Counts the steps to each item with a slow and a fast decay; keeps its first time, its category and its name.

    Learned steps take effect at the next `settle`. Judgements are made after the events of a turn were learned, so a
    count that is already one higher would reveal the true item.

    Args:
        half_lives_ms: event time in which a count loses half its weight: slow, then fast.

    >>> traits = Traits()
    >>> for slot in (0, 0, 1):
    ...     traits.learn(slot, "shoes", 0, ["red boots", "red shoes"][slot])
    >>> context = Context([1, 0, 1], 2, 0, day_ms)
    >>> traits.of([0, 1], context).tolist()
    [[0, 0, 0, 0, 0, 255, 255, 255, 0, 0, 0], [0, 0, 0, 0, 255, 0, 0, 255, 0, 0, 0]]
    >>> traits.settle()
    >>> traits.of([0, 1, 2], context)[:, [0, 1, 2, 3, 8]].tolist()
    [[24, 22, 81, 255, 30], [15, 14, 81, 255, 255], [0, 0, 0, 0, 0]]
    """

    def __init__(self, *, half_lives_ms: tuple[int, int] = (90 * day_ms, 7 * day_ms)) -> None:
        self._decays = [Decay(half_life_ms) for half_life_ms in half_lives_ms]
        self._counts = np.zeros((len(self._decays), 1024))
        self._first_ms = np.full(1024, -1, np.int64)
        self._categories = np.zeros(1024, np.uint32)
        self._names = Names()
        self._learned: list[tuple[int, int, int]] = []
        self._named: dict[int, str] = {}
        self._taken: list[tuple[int, int]] = []

    def learn(self, slot: int, category: str, time_ms: int, name: str = "") -> None:
        """Count a step to an item; category and name are "" if the event has none."""
        self._learned.append((slot, crc32(category.encode()) if category else 0, time_ms))
        if name:
            self._named[slot] = name

    def restate(self, slot: int, category: str, name: str) -> None:
        """Replace the category and the name of an item at once; "" changes nothing. It counts as no step."""
        if category:
            self._grow(slot + 1)
            self._categories[slot] = crc32(category.encode())
        if name:
            self._named.pop(slot, None)
            self._names.learn(slot, name)

    def take_back(self, slot: int, time_ms: int) -> None:
        """Take a step to an item back from its counts."""
        self._taken.append((slot, time_ms))

    def settle(self) -> None:
        """Apply the steps learned and taken back since the last call; all are counted at the newest time among them."""
        if self._learned:
            self._count_learned()
        for slot, time_ms in self._taken:
            if slot < self._counts.shape[1]:
                for counts, decay in zip(self._counts, self._decays, strict=True):
                    counts[slot] = max(0.0, counts[slot] - decay.weight(time_ms))
        self._taken = []

    def _count_learned(self) -> None:
        slots, categories, times_ms = np.array(self._learned, np.int64).T
        for slot, name in self._named.items():
            self._names.learn(slot, name)
        self._learned, self._named = [], {}
        self._grow(int(slots.max()) + 1)
        newest_ms = int(times_ms.max())
        for counts, decay in zip(self._counts, self._decays, strict=True):
            counts *= decay.advance(newest_ms)
            np.add.at(counts, slots, decay.weight(newest_ms))
        known = categories > 0
        self._categories[slots[known]] = categories[known]
        new = self._first_ms[slots] < 0
        # numpy keeps the last value written to a repeated index: in reverse order this is the first time.
        self._first_ms[slots[new][::-1]] = times_ms[new][::-1]

    def first_ms(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the shop times of items' first steps, -1 for an item without one. Shape: as `slots`"""
        known = slots < len(self._first_ms)
        found = np.full(len(slots), -1, np.int64)
        found[known] = self._first_ms[slots[known]]
        return found

    def name_likeness(self, slots: NDArray[np.int32], slot: int) -> NDArray[np.float64]:
        """Return the similarity of items' names to one item's, 0 where one is unknown. Shape: (len(slots),)"""
        return self._names.similarity(slots.astype(np.int64), [slot])[:, 0]

    def rises(self, time_ms: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the items to which shoppers step more often lately than before, and how significantly, in deviations.

        An item's share of the fast counts is compared with its share of the slow ones, as counts of a Poisson process.

        Shapes:
            returns (N,), (N,)
        """
        slow, fast = (
            counts / max(decay.weight(time_ms), _weight_min)
            for counts, decay in zip(self._counts, self._decays, strict=True)
        )
        expected = slow * (fast.sum() / max(slow.sum(), _weight_min))
        rise = (fast - expected) / np.sqrt(expected + 1.0)
        slots = np.flatnonzero(rise > 0)
        return slots.astype(np.int32), rise[slots]

    def of(self, slots: Sequence[int] | NDArray[np.int32], context: Context) -> NDArray[np.uint8]:
        """Return the traits of items, each from 0 to 255.

        Args:
            slots: -1 is an item without a slot; its traits are 0.
            context: the shopper's.

        Shapes:
            returns (len(slots), len(TRAITS))
        """
        items, start = context.items, context.start
        last = items[-1] if len(items) > start else -1
        asked = np.asarray(slots, np.int64)
        known = (asked >= 0) & (asked < len(self._categories))
        found = np.zeros((len(asked), len(TRAITS)))
        if known.any():
            rows = asked[known]
            weights = [max(decay.weight(context.time_ms), _weight_min) for decay in self._decays]
            ages_h = np.where(self._first_ms[rows] < 0, 0, (context.time_ms - self._first_ms[rows]).clip(0)) / 3_600_000
            categories = self._categories[rows]
            found[known, 0:2] = np.log1p(self._counts[:, rows].T / weights) / math.log1p(_count_max)
            found[known, 2] = np.log1p(ages_h) / math.log1p(_age_max_h)
            if 0 <= last < len(self._categories):
                found[known, 3] = (categories == self._categories[last]) & (categories > 0)
        if items:
            places = [place for place, slot in enumerate(items) if slot == last]
            after = [items[place + 1] for place in places if place + 1 < len(items)]
            before = [items[place - 1] for place in places if place]
            found[:, 4] = asked == last
            for column, group in enumerate((after, before, items[:start]), 5):
                if group:  # with so few items, comparing all is faster than np.isin
                    found[:, column] = (asked[:, None] == np.array(group)).any(axis=1)
            if self._names and last >= 0:
                similarity = self._names.similarity(asked, items[max(start, len(items) - _named_max) :])
                found[:, 8], found[:, 9] = similarity[:, -1], similarity.mean(axis=1)
                found[:, 10] = similarity.max(axis=1)
            found[asked < 0] = 0
        return (255 * found.clip(0, 1)).astype(np.uint8)

    def forget(self, slots: Sequence[int]) -> None:
        """Drop all data of these slots, settled or not. Unsettled steps of other slots stay unsettled."""
        gone = set(slots)
        self._learned = [one for one in self._learned if one[0] not in gone]
        self._taken = [one for one in self._taken if one[0] not in gone]
        self._named = {slot: name for slot, name in self._named.items() if slot not in gone}
        self._names.forget(slots)
        known = [slot for slot in slots if slot < len(self._categories)]
        self._counts[:, known], self._first_ms[known], self._categories[known] = 0.0, -1, 0

    def _grow(self, size: int) -> None:
        if size > len(self._categories):
            more = max(size, 2 * len(self._categories)) - len(self._categories)
            self._counts = np.pad(self._counts, ((0, 0), (0, more)))
            self._first_ms = np.pad(self._first_ms, (0, more), constant_values=-1)
            self._categories = np.pad(self._categories, (0, more))

    def state(self) -> State:
        """Return all settled data, and the unsettled steps."""
        used = np.flatnonzero(self._first_ms >= 0)
        size = used[-1] + 1 if len(used) else 0
        return {
            "decays": [decay.state() for decay in self._decays],
            "counts": self._counts[:, :size].copy(),
            "first_ms": self._first_ms[:size].copy(),
            "areas": self._categories[:size].copy(),
            "names": self._names.state(),
            "named": [[slot, name] for slot, name in self._named.items()],
            "learned": np.array(self._learned, np.int64).reshape(-1, 3),
            "taken": np.array(self._taken, np.int64).reshape(-1, 2),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return traits that continue exactly where `state` was taken."""
        traits = cls()
        traits._decays = [Decay.from_state(decay) for decay in state["decays"]]
        size = len(state["areas"])
        traits._grow(size)
        traits._counts[:, :size] = state["counts"]
        traits._first_ms[:size], traits._categories[:size] = state["first_ms"], state["areas"]
        traits._names = Names.from_state(state["names"])
        traits._named = dict(state["named"])
        traits._learned = [(slot, category, time_ms) for slot, category, time_ms in state["learned"].tolist()]
        traits._taken = [(slot, time_ms) for slot, time_ms in state["taken"].tolist()]
        return traits
