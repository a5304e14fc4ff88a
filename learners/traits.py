"""Traits: what is known of each item by itself, whoever asks. The blend weighs its members' words by them. Bounded."""

import math
from collections.abc import Sequence
from typing import Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.decay import Decay

day_ms: Final = 86_400_000
TRAITS: Final = ("count", "age", "same_area")
"""How often shoppers turned to it, since when it is known, and whether its category is that of the item looked at."""

_count_max: Final = 100_000
_age_max_h: Final = 24_000
"""Counts and ages (hours) that are told as 1; smaller ones by logarithm, so that minutes and years both have room."""


class Traits:
    """Counts the steps to each item, decayed slowly, and keeps when it was first met and its category.

    What is learned shows from the next `settle` on. Judgements are made after the events of a turn were learned: a
    count that was one higher would give away which item came.

    Args:
        half_life_ms: event time in which a count loses half its weight.

    >>> traits = Traits()
    >>> for slot in (0, 0, 1):
    ...     traits.learn(slot, "shoes", 0)
    >>> traits.of([0, 1, 2], 1, day_ms).tolist()
    [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    >>> traits.settle()
    >>> traits.of([0, 1, 2], 1, day_ms).tolist()
    [[24, 81, 255], [15, 81, 255], [0, 0, 0]]
    """

    def __init__(self, *, half_life_ms: int = 90 * day_ms) -> None:
        self._decay = Decay(half_life_ms)
        self._counts = np.zeros(1024)
        self._first_ms = np.full(1024, -1, np.int64)
        self._areas = np.zeros(1024, np.uint32)
        self._learned: list[tuple[int, int, int]] = []

    def learn(self, slot: int, area: str, time_ms: int) -> None:
        """Count a step to an item of a category ("" where events name none)."""
        self._learned.append((slot, crc32(area.encode()) if area else 0, time_ms))

    def settle(self) -> None:
        """Let what was learned since the last call show; it all counts as of the newest time in it."""
        if not self._learned:
            return
        slots, areas, times_ms = np.array(self._learned, np.int64).T
        self._learned = []
        self._grow(int(slots.max()) + 1)
        newest_ms = int(times_ms.max())
        self._counts *= self._decay.advance(newest_ms)
        np.add.at(self._counts, slots, self._decay.weight(newest_ms))
        named = areas > 0
        self._areas[slots[named]] = areas[named]
        fresh = self._first_ms[slots] < 0
        self._first_ms[slots[fresh][::-1]] = times_ms[fresh][::-1]  # of several the last one written stays: the first

    def of(self, slots: Sequence[int], looked_at: int | None, time_ms: int) -> NDArray[np.uint8]:
        """Return what is known of items, 0 to 255; all 0 for those that are not. Changes nothing.

        Args:
            slots: -1 is an item without a slot.
            looked_at: slot of the item that the shopper looks at, if any.

        Shapes:
            returns (len(slots), len(TRAITS))
        """
        asked = np.asarray(slots, np.int64)
        known = (asked >= 0) & (asked < len(self._counts))
        found = np.zeros((len(asked), len(TRAITS)))
        if known.any():
            rows = asked[known]
            counts = self._counts[rows] / self._decay.weight(time_ms)
            ages_h = np.where(self._first_ms[rows] < 0, 0, (time_ms - self._first_ms[rows]).clip(0)) / 3_600_000
            areas = self._areas[rows]
            same = areas == self._areas[looked_at] if looked_at is not None and looked_at < len(self._areas) else False
            found[known, 0] = np.log1p(counts) / math.log1p(_count_max)
            found[known, 1] = np.log1p(ages_h) / math.log1p(_age_max_h)
            found[known, 2] = same & (areas > 0)
        return (255 * found.clip(0, 1)).astype(np.uint8)

    def forget(self, slots: Sequence[int]) -> None:
        """Drop what is known of these slots, settled or not; of the others nothing settles by it."""
        gone = set(slots)
        self._learned = [one for one in self._learned if one[0] not in gone]
        known = [slot for slot in slots if slot < len(self._counts)]
        self._counts[known], self._first_ms[known], self._areas[known] = 0.0, -1, 0

    def _grow(self, size: int) -> None:
        if size > len(self._counts):
            more = max(size, 2 * len(self._counts)) - len(self._counts)
            self._counts = np.pad(self._counts, (0, more))
            self._first_ms = np.pad(self._first_ms, (0, more), constant_values=-1)
            self._areas = np.pad(self._areas, (0, more))

    def state(self) -> State:
        """Return all that was learned, and what of it has not settled."""
        used = np.flatnonzero(self._first_ms >= 0)
        size = used[-1] + 1 if len(used) else 0
        return {
            "decay": self._decay.state(),
            "counts": self._counts[:size].copy(),
            "first_ms": self._first_ms[:size].copy(),
            "areas": self._areas[:size].copy(),
            "learned": np.array(self._learned, np.int64).reshape(-1, 3),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return traits that continue exactly where `state` was taken."""
        traits = cls()
        traits._decay = Decay.from_state(state["decay"])
        size = len(state["counts"])
        traits._grow(size)
        traits._counts[:size], traits._first_ms[:size] = state["counts"], state["first_ms"]
        traits._areas[:size] = state["areas"]
        traits._learned = [(slot, area, time_ms) for slot, area, time_ms in state["learned"].tolist()]
        return traits
