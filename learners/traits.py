"""Traits: what is known of an item beside what members say of it: by itself, and to the shopper who asks. Bounded."""

import math
from collections.abc import Sequence
from typing import Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.decay import Decay
from learners.learner import Context
from learners.names import Names

day_ms: Final = 86_400_000
TRAITS: Final = (
    "count", "recent", "age", "same_area", "looked_at", "followed", "preceded", "familiar",
    "named_as_it", "named_as_most", "named_as_any",
)  # fmt: skip
"""How often shoppers turned to it, in months and in days, and since when it is known; whether its category is that of
the item looked at; whether it is that item, whether this shopper once turned to it right after or right before that
item, and whether they did so at all before this session; how alike its name is to that of the item looked at, and to
those of the session's newest items, in the mean and of the likest."""

_count_max: Final = 100_000
_age_max_h: Final = 24_000
"""Counts and ages (hours) that are told as 1; smaller ones by logarithm, so that minutes and years both have room."""
_named_max: Final = 8
"""Newest items of a session whose names are looked at."""
_weight_min: Final = 1e-300
"""Of a time so long before the first count that its own weight is none."""


class Traits:
    """Counts the steps to each item, decayed slowly and quickly; keeps its first time, its category and its name.

    What is learned shows from the next `settle` on. Judgements are made after the events of a turn were learned: a
    count that was one higher would give away which item came.

    Args:
        half_lives_ms: event time in which a count loses half its weight: the slow one, and the recent one.

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
        self._areas = np.zeros(1024, np.uint32)
        self._names = Names()
        self._learned: list[tuple[int, int, int]] = []
        self._named: dict[int, str] = {}

    def learn(self, slot: int, area: str, time_ms: int, name: str = "") -> None:
        """Count a step to an item of a category and of a name (each "" where events tell none)."""
        self._learned.append((slot, crc32(area.encode()) if area else 0, time_ms))
        if name:
            self._named[slot] = name

    def settle(self) -> None:
        """Let what was learned since the last call show; it all counts as of the newest time in it."""
        if not self._learned:
            return
        slots, areas, times_ms = np.array(self._learned, np.int64).T
        for slot, name in self._named.items():
            self._names.learn(slot, name)
        self._learned, self._named = [], {}
        self._grow(int(slots.max()) + 1)
        newest_ms = int(times_ms.max())
        for counts, decay in zip(self._counts, self._decays, strict=True):
            counts *= decay.advance(newest_ms)
            np.add.at(counts, slots, decay.weight(newest_ms))
        named = areas > 0
        self._areas[slots[named]] = areas[named]
        fresh = self._first_ms[slots] < 0
        self._first_ms[slots[fresh][::-1]] = times_ms[fresh][::-1]  # of several the last one written stays: the first

    def of(self, slots: Sequence[int] | NDArray[np.int32], context: Context) -> NDArray[np.uint8]:
        """Return what is known of items, 0 to 255; all 0 of those of which nothing is known.

        Args:
            slots: -1 is an item without a slot.
            context: the shopper's; the newest item of the session, if there is one, is looked at.

        Shapes:
            returns (len(slots), len(TRAITS))
        """
        items, start = context.items, context.start
        looked_at = items[-1] if len(items) > start else -1
        asked = np.asarray(slots, np.int64)
        known = (asked >= 0) & (asked < len(self._areas))
        found = np.zeros((len(asked), len(TRAITS)))
        if known.any():
            rows = asked[known]
            weights = [max(decay.weight(context.time_ms), _weight_min) for decay in self._decays]
            ages_h = np.where(self._first_ms[rows] < 0, 0, (context.time_ms - self._first_ms[rows]).clip(0)) / 3_600_000
            areas = self._areas[rows]
            found[known, 0:2] = np.log1p(self._counts[:, rows].T / weights) / math.log1p(_count_max)
            found[known, 2] = np.log1p(ages_h) / math.log1p(_age_max_h)
            if 0 <= looked_at < len(self._areas):
                found[known, 3] = (areas == self._areas[looked_at]) & (areas > 0)
        if items:
            places = [place for place, slot in enumerate(items) if slot == looked_at]
            followed = [items[place + 1] for place in places if place + 1 < len(items)]
            preceded = [items[place - 1] for place in places if place]
            found[:, 4] = asked == looked_at
            for column, group in enumerate((followed, preceded, items[:start]), 5):
                if group:  # for so few, comparing all is quicker than np.isin
                    found[:, column] = (asked[:, None] == np.array(group)).any(axis=1)
            if self._names and looked_at >= 0:
                alike = self._names.alike(asked, items[max(start, len(items) - _named_max) :])
                found[:, 8], found[:, 9], found[:, 10] = alike[:, -1], alike.mean(axis=1), alike.max(axis=1)
            found[asked < 0] = 0
        return (255 * found.clip(0, 1)).astype(np.uint8)

    def forget(self, slots: Sequence[int]) -> None:
        """Drop what is known of these slots, settled or not; of the others nothing settles by it."""
        gone = set(slots)
        self._learned = [one for one in self._learned if one[0] not in gone]
        self._named = {slot: name for slot, name in self._named.items() if slot not in gone}
        self._names.forget(slots)
        known = [slot for slot in slots if slot < len(self._areas)]
        self._counts[:, known], self._first_ms[known], self._areas[known] = 0.0, -1, 0

    def _grow(self, size: int) -> None:
        if size > len(self._areas):
            more = max(size, 2 * len(self._areas)) - len(self._areas)
            self._counts = np.pad(self._counts, ((0, 0), (0, more)))
            self._first_ms = np.pad(self._first_ms, (0, more), constant_values=-1)
            self._areas = np.pad(self._areas, (0, more))

    def state(self) -> State:
        """Return all that was learned, and what of it has not settled."""
        used = np.flatnonzero(self._first_ms >= 0)
        size = used[-1] + 1 if len(used) else 0
        return {
            "decays": [decay.state() for decay in self._decays],
            "counts": self._counts[:, :size].copy(),
            "first_ms": self._first_ms[:size].copy(),
            "areas": self._areas[:size].copy(),
            "names": self._names.state(),
            "named": [[slot, name] for slot, name in self._named.items()],
            "learned": np.array(self._learned, np.int64).reshape(-1, 3),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return traits that continue exactly where `state` was taken."""
        traits = cls()
        traits._decays = [Decay.from_state(decay) for decay in state["decays"]]
        size = len(state["areas"])
        traits._grow(size)
        traits._counts[:, :size] = state["counts"]
        traits._first_ms[:size], traits._areas[:size] = state["first_ms"], state["areas"]
        traits._names = Names.from_state(state["names"])
        traits._named = dict(state["named"])
        traits._learned = [(slot, area, time_ms) for slot, area, time_ms in state["learned"].tolist()]
        return traits
