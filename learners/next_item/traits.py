"""Traits: features of an item besides the members' scores, some of them relative to the shopper's context. Bounded."""

import math
from collections.abc import Sequence
from typing import Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.next_item.equal import EqualKeys
from learners.parts.decay import Decay
from learners.parts.names import Names
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
_TIMES, _NAMES = slice(0, 3), slice(8, 11)
"""The places in `TRAITS` of those that are no yes or no: counts and age, and similarities of names."""
_SCALES: Final = np.array([[math.log1p(_count_max)]] * 2 + [[math.log1p(_age_max_h)]])
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
        # The last entry of these arrays, which no slot has, is that of items that are not known.
        self._counts = np.zeros((len(self._decays), 1024))
        self._first_ms = np.full(1024, -1, np.int64)
        self._categories = np.zeros(1024, np.uint32)
        self._names = Names()
        self._learned: list[tuple[int, int, int]] = []
        self._named: dict[int, str] = {}
        self._taken: list[tuple[int, int]] = []
        self._equal = EqualKeys()

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
        asked = np.asarray(slots, np.int64)
        has_slot = asked >= 0
        if has_slot.all():
            return self._of(asked, context) if len(asked) else np.zeros((0, len(TRAITS)), np.uint8)
        found = np.zeros((len(asked), len(TRAITS)), np.uint8)
        if has_slot.any():
            found[has_slot] = self._of(asked[has_slot], context)
        return found

    def _of(self, asked: NDArray[np.int64], context: Context) -> NDArray[np.uint8]:
        items, start = context.items, context.start
        last = items[-1] if len(items) > start else -1
        found = np.zeros((len(TRAITS), len(asked)), np.uint8)
        rows = np.minimum(asked, len(self._categories) - 1)
        weights = [[max(decay.weight(context.time_ms), _weight_min)] for decay in self._decays]
        first_ms = self._first_ms.take(rows)
        values = np.zeros((6, len(asked)))
        np.divide(self._counts.take(rows, axis=1), weights, out=values[:2])
        values[2] = np.where(first_ms < 0, 0, np.maximum(context.time_ms - first_ms, 0)) / 3_600_000
        np.log1p(values[:3], out=values[:3])
        values[:3] /= _SCALES
        if items:
            category = self._categories[min(last, len(self._categories) - 1)] if last >= 0 else 0
            if category:
                np.multiply(self._categories.take(rows) == category, 255, out=found[3], casting="unsafe")
            places, is_asked = self._equal.find(np.array(items, np.int64), asked)
            at_last = [place for place, slot in enumerate(items) if slot == last]
            after = [place + 1 for place in at_last if place + 1 < len(items)]
            before = [place - 1 for place in at_last if place]
            for trait, group in ((4, at_last), (5, after), (6, before)):
                for place in group:
                    if is_asked[place]:
                        found[trait, places[place]] = 255
            found[7, places[:start][is_asked[:start]]] = 255
            if self._names and last >= 0:
                similarity = self._names.similarity(asked, items[max(start, len(items) - _named_max) :]).T
                values[3] = similarity[-1]
                np.divide(np.add.reduce(similarity, axis=0), len(similarity), out=values[4])
                np.maximum.reduce(similarity, axis=0, out=values[5])
        np.minimum(values, 1.0, out=values)
        values *= 255
        found[_TIMES], found[_NAMES] = values[:3], values[3:]
        return np.ascontiguousarray(found.T)

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
        if size >= len(self._categories):
            more = max(size + 1, 2 * len(self._categories)) - len(self._categories)
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
