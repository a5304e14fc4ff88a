"""Transitions: counts of the items viewed shortly after or shortly before each item."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import ClassVar, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.next_item.equal import EqualKeys
from learners.next_item.traits import day_ms
from learners.parts.decay import Decay
from learners.protocol import Context, Scores

slot_max: Final = 2**31 - 1
_newest_bonus: Final = 1e-3
_arrays_max: Final = 8_192
"""Most items whose companions are kept as arrays: at most 20 MB with 199 companions each."""
_NO_SLOTS: Final = np.empty(0, np.int32)


@cache
def _bonuses(count: int) -> NDArray[np.float64]:
    """Return the factors of so many companions, the one counted last being the last. To make them takes long."""
    found = np.linspace(1.0, 1.0 + _newest_bonus, count)
    found.setflags(write=False)
    return found


class _Arrays(NamedTuple):
    """An item's companions: their slots, their counts with the bonus of those counted last, and the sum without it."""

    slots: NDArray[np.int32]
    counts: NDArray[np.float64]
    total: float


class Transitions:
    """Counts which items occur close together within a session. Mergeable: the counts of several shards add up.

    The item of a step counts as a companion of each of the session's `reach` newest items: with weight 1 for the last
    one, multiplied by `step_back` for each step back. These items also count as companions of the new item, with
    `backwards` times the weight. So an item seen once already has companions. With `reach` 1 and `backwards` 0 this is
    a first-order Markov chain.

    A prediction adds up the shares of the companions of the `reach` newest items with the same weights. It is empty at
    the start of a session. Of companions with equal counts, which are frequent among small counts, the one counted
    last scores higher, by at most a thousandth. Additive smoothing (`smoothing`) reduces the weight of items with low
    counts. Companions that the shopper knows from earlier sessions get `familiar` times the weight, because shoppers
    return to items that they know.

    Args:
        reach: newest items of the session that are used.
        step_back: weight factor per step back.
        backwards: weight of a companion that came before, relative to one that came after.
        smoothing: additive smoothing: an item with this total count has half its full weight.
        familiar: weight factor of a companion that the shopper knows from an earlier session.
        half_life_ms: event time in which a count loses half its weight; None for plain counts.
        items_max: most items with companions; the least recently updated one is dropped.
        companions_max: companions kept per item; once there are twice as many, the rarer, older half is dropped.

    >>> transitions = Transitions()
    >>> for companion in (2, 3, 3):
    ...     transitions.learn(Context((1,), 0, 1, 0), companion)
    >>> slots, shares = transitions.predict(Context((1,), 0, 1, 0))
    >>> slots.tolist(), [round(float(share), 2) for share in shares]
    ([2, 3], [0.33, 0.67])
    >>> transitions.predict(Context((2,), 0, 1, 0)).slots.tolist()
    [1]
    """

    name: ClassVar[str] = "transitions"
    trust: ClassVar[float] = 0.5

    def __init__(
        self,
        *,
        reach: int = 5,
        step_back: float = 0.6,
        backwards: float = 0.5,
        smoothing: float = 2.0,
        familiar: float = 2.0,
        half_life_ms: int | None = 90 * day_ms,
        items_max: int = 1 << 17,
        companions_max: int = 100,
    ) -> None:
        assert reach >= 1, "reach includes the last item"
        self.reach = reach
        self.step_back = step_back
        self.backwards = backwards
        self.smoothing = smoothing
        self.familiar = familiar
        self.items_max = items_max
        self.companions_max = companions_max
        self._decay = Decay(half_life_ms)
        self._companions: OrderedDict[int, dict[int, float]] = OrderedDict()
        # What predictions made of `_companions`; whatever changes an item's companions drops its arrays.
        self._arrays: dict[int, _Arrays] = {}
        self._equal = EqualKeys()

    def predict(self, context: Context) -> Scores:
        """Return the companions of the session's newest items and their shares."""
        newest = context.items[max(context.start, len(context.items) - self.reach) :]
        smoothing = self.smoothing * self._decay.weight(context.time_ms)
        found, weights = [], []
        for back, last in enumerate(reversed(newest)):
            slots, counts, total = self._arrays.get(last) or self._arrays_of(last)
            if total > 0:
                found.append(slots)
                weights.append(counts * (self.step_back**back / (total + smoothing)))
        if not found:
            return Scores(_NO_SLOTS, np.empty(0, np.float32))
        slots, shares = found[0], weights[0]
        if len(found) > 1:
            slots, shares = self._equal.sums(np.concatenate(found), np.concatenate(weights))
        if context.start and self.familiar != 1.0:
            places, found_there = self._equal.find(np.array(context.items[: context.start]), slots)
            shares[places[found_there]] *= self.familiar  # once, even if an item is there twice
        values = (shares / shares.sum()).astype(np.float32)
        above = values > 0
        return Scores(slots, values) if above.all() else Scores(slots[above], values[above])

    def _arrays_of(self, item: int) -> _Arrays:
        """Return an item's companions, and keep them until the item is counted or too many are kept."""
        table = self._companions.get(item) or {}
        counts = np.fromiter(table.values(), np.float64, len(table))
        total = float(counts.sum())
        counts *= _bonuses(len(counts))
        if len(self._arrays) >= _arrays_max:
            self._arrays.clear()
        found = self._arrays[item] = _Arrays(np.fromiter(table, np.int32, len(table)), counts, total)
        return found

    def because(self, context: Context, item: int) -> int | None:
        """Return which of the newest items contributes most to an item's share; None if none does."""
        newest = context.items[max(context.start, len(context.items) - self.reach) :]
        smoothing = self.smoothing * self._decay.weight(context.time_ms)
        best, found = 0.0, None
        for back, last in enumerate(reversed(newest)):
            table = self._companions.get(last)
            if table and item in table:
                total = (self._arrays.get(last) or self._arrays_of(last)).total
                share = table[item] * self.step_back**back / (total + smoothing)
                if share > best:
                    best, found = share, last
        return found

    def learn(self, context: Context, item: int) -> None:
        """Count `item` as a companion of the session's newest items, and these as companions of `item`."""
        assert 0 <= item <= slot_max, f"slot {item} is outside 0 to {slot_max}"
        newest = context.items[max(context.start, len(context.items) - self.reach) :]
        if not newest:
            return
        time_ms = context.time_ms
        factor = self._decay.advance(time_ms)
        if factor != 1.0:
            self._arrays.clear()
            for counts in self._companions.values():
                for slot in counts:
                    counts[slot] *= factor
        weight = self._decay.weight(time_ms)
        for last in reversed(newest):
            self._count(last, item, weight)
            if self.backwards:
                self._count(item, last, self.backwards * weight)
            weight *= self.step_back

    def _count(self, item: int, companion: int, weight: float) -> None:
        if self._arrays:
            self._arrays.pop(item, None)
        table = self._companions.get(item)
        if table is None:
            table = self._companions[item] = {}
            if len(self._companions) > self.items_max:
                gone, _ = self._companions.popitem(last=False)
                self._arrays.pop(gone, None)
        else:
            self._companions.move_to_end(item)
        table[companion] = table.pop(companion, 0.0) + weight  # keeps the order of the last count, newest last
        if len(table) >= 2 * self.companions_max:
            counted = list(table.items())
            best = sorted(range(len(counted)), key=lambda place: (counted[place][1], place))[-self.companions_max :]
            self._companions[item] = dict(counted[place] for place in sorted(best))

    def take_back(self, item: int, time_ms: int) -> None:
        """Do nothing: that both items were chosen in one session stays true."""

    def forget(self, slots: Sequence[int]) -> None:
        """Drop these slots as items and as companions. Scans the whole table, so call it with many slots at once."""
        self._arrays.clear()
        gone = set(slots)
        for slot in slots:
            self._companions.pop(slot, None)
        for table in self._companions.values():
            for slot in gone & table.keys():
                del table[slot]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of items with companions, and of all companions."""
        companions = sum(map(len, self._companions.values()))
        return {
            "items": (len(self._companions), self.items_max),
            "companions": (companions, 2 * self.companions_max * self.items_max),
        }

    def state(self) -> State:
        """Return the settings, and the table as four arrays in order of last use."""
        tables = self._companions.values()
        total = sum(map(len, tables))
        return {
            "reach": self.reach,
            "step_back": self.step_back,
            "backwards": self.backwards,
            "doubt": self.smoothing,
            "familiar": self.familiar,
            "items_max": self.items_max,
            "companions_max": self.companions_max,
            "decay": self._decay.state(),
            "items": np.fromiter(self._companions, np.int32, len(self._companions)),
            "lengths": np.fromiter(map(len, tables), np.int32, len(self._companions)),
            "companions": np.fromiter((slot for table in tables for slot in table), np.int32, total),
            "counts": np.fromiter((count for table in tables for count in table.values()), np.float64, total),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        names = ("reach", "step_back", "backwards", "familiar", "items_max", "companions_max")
        learner = cls(**{name: state[name] for name in names}, smoothing=state["doubt"])
        learner._decay = Decay.from_state(state["decay"])
        companions, counts = state["companions"].tolist(), state["counts"].tolist()
        start = 0
        for item, length in zip(state["items"].tolist(), state["lengths"].tolist(), strict=True):
            end = start + length
            learner._companions[item] = dict(zip(companions[start:end], counts[start:end], strict=True))
            start = end
        return learner
