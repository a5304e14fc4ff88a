"""Popularity: the most viewed items, recent steps counting most. The answer for unknown shoppers."""

from collections.abc import Sequence
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts.decay import Decay
from learners.protocol import Context, Scores, top

day_ms: Final = 86_400_000


class Popularity:
    """Counts items with exponential decay by event time. Mergeable: the counts of several shards add up.

    It returns the `leaders_max` most popular items and their share of all counts, the same for every shopper. The
    leaders are updated while learning: counts grow only at a step, so only the item of a step can become a leader.

    Args:
        half_life_ms: event time in which a count loses half its weight; None for plain counts.
        items_max: number of slots; every slot is below it.
        leaders_max: most candidates returned.

    >>> popularity = Popularity()
    >>> for item in (4, 9, 9):
    ...     popularity.learn(Context((), 0, 1, 0), item)
    >>> slots, shares = popularity.predict(Context((), 0, 1, 0))
    >>> slots.tolist(), [round(float(share), 2) for share in shares]
    ([9, 4], [0.67, 0.33])
    """

    name: ClassVar[str] = "popularity"
    trust: ClassVar[float] = 0.1

    def __init__(
        self, *, half_life_ms: int | None = 7 * day_ms, items_max: int = 1 << 20, leaders_max: int = 100
    ) -> None:
        self.items_max = items_max
        self.leaders_max = leaders_max
        self._decay = Decay(half_life_ms)
        self._counts = np.zeros(min(1024, items_max))
        self._total = 0.0
        self._leaders: dict[int, None] = {}
        self._floor = 0.0
        self._best: Scores | None = None  # what `predict` returns, None if counts have changed

    def predict(self, context: Context) -> Scores:
        """Return the most popular items, best first; the context is ignored. The arrays are read-only.

        Until the next step is learned, it returns the same object.
        """
        if self._best is None:
            self._best = self._ranked_leaders()
        return self._best

    def _ranked_leaders(self) -> Scores:
        slots = np.fromiter(self._leaders, np.int32, len(self._leaders))
        shares = (self._counts[slots] / self._total if self._total else self._counts[slots]).astype(np.float32)
        above = shares > 0
        best = top(Scores(slots[above], shares[above]), self.leaders_max)
        for array in best:
            array.setflags(write=False)
        return best

    def counts_of(self, slots: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the counts of slots. Shape: as `slots`"""
        known = slots < len(self._counts)
        found = np.zeros(len(slots))
        found[known] = self._counts[slots[known]]
        return found

    def learn(self, context: Context, item: int) -> None:
        """Count the item at the context's time."""
        assert 0 <= item < self.items_max, f"slot {item} is outside 0 to {self.items_max - 1}"
        self._best = None
        if item >= len(self._counts):
            grown = np.zeros(min(self.items_max, max(item + 1, 2 * len(self._counts))))
            grown[: len(self._counts)] = self._counts
            self._counts = grown
        factor = self._decay.advance(context.time_ms)
        if factor != 1.0:
            self._counts *= factor
            self._total *= factor
            self._floor *= factor
        weight = self._decay.weight(context.time_ms)
        self._total += weight
        count = self._counts[item] = self._counts[item] + weight
        if count > self._floor and item not in self._leaders:
            self._leaders[item] = None
            if len(self._leaders) > 2 * self.leaders_max:
                self._keep_leaders(np.fromiter(self._leaders, np.int32, len(self._leaders)))

    def take_back(self, item: int, time_ms: int) -> None:
        """Subtract the step's weight from the item's count."""
        self._best = None
        if item < len(self._counts):
            weight = min(float(self._counts[item]), self._decay.weight(time_ms))
            left = self._counts[item] - weight
            self._counts[item] = left if left > 1e-9 * weight else 0.0  # sums of floats are not exact
            self._total = max(0.0, self._total - weight)

    def forget(self, slots: Sequence[int]) -> None:
        """Set the counts of these slots to 0."""
        self._best = None
        known = [slot for slot in slots if slot < len(self._counts)]
        self._total = max(0.0, self._total - float(self._counts[known].sum()))
        self._counts[known] = 0.0
        if any(slot in self._leaders for slot in known):
            self._keep_leaders(np.flatnonzero(self._counts).astype(np.int32))

    def _keep_leaders(self, slots: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        """Keep the slots with the highest counts; others must exceed the lowest of these counts to become leaders."""
        counts = self._counts[slots]
        order = np.lexsort((slots, -counts))[: self.leaders_max]
        self._leaders = dict.fromkeys(slots[order].tolist())
        self._floor = float(counts[order[-1]]) if len(order) == self.leaders_max else 0.0

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of slots in use and the maximum."""
        return {"items": (int(np.count_nonzero(self._counts)), self.items_max)}

    def state(self) -> State:
        """Return the counts up to the last slot in use, the leaders and the decay."""
        used = np.flatnonzero(self._counts)
        return {
            "items_max": self.items_max,
            "leaders_max": self.leaders_max,
            "decay": self._decay.state(),
            "counts": self._counts[: used[-1] + 1 if len(used) else 0].copy(),
            "total": self._total,
            "leaders": np.fromiter(self._leaders, np.int32, len(self._leaders)),
            "floor": self._floor,
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(items_max=state["items_max"], leaders_max=state["leaders_max"])
        learner._decay = Decay.from_state(state["decay"])
        counts = state["counts"]
        learner._counts = np.zeros(max(len(counts), min(1024, learner.items_max)))
        learner._counts[: len(counts)] = counts
        learner._total = state["total"]
        learner._leaders = dict.fromkeys(state["leaders"].tolist())
        learner._floor = state["floor"]
        return learner
