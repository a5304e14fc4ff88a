"""Transitions: what was looked at right after an item, counted. A first-order Markov chain."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, Final, Self

import numpy as np

from headrace.state import State
from learners.decay import Decay
from learners.learner import Context, Scores

slot_max: Final = 2**31 - 1
_newest_bonus: Final = 1e-3


class Transitions:
    """Counts which item follows which within a session. Mergeable: counts of several shards add up.

    It looks at the last item of the current session alone, and has no answer at the start of one. Small counts are
    often equal; of equal ones the follower seen last is better, by at most a thousandth.

    Args:
        half_life_ms: event time in which a count loses half its weight; None for plain counts.
        items_max: most items whose followers are counted; the one that was learned from longest ago makes room.
        followers_max: followers kept per item; when there are twice as many, the rarer, older half is dropped.

    >>> transitions = Transitions()
    >>> for follower in (2, 3, 3):
    ...     transitions.learn(Context((1,), 0, 1, 0), follower)
    >>> slots, shares = transitions.predict(Context((1,), 0, 1, 0))
    >>> slots.tolist(), [round(float(share), 2) for share in shares]
    ([2, 3], [0.33, 0.67])
    """

    name: ClassVar[str] = "transitions"

    def __init__(self, *, half_life_ms: int | None = None, items_max: int = 1 << 17, followers_max: int = 100) -> None:
        self.items_max = items_max
        self.followers_max = followers_max
        self._decay = Decay(half_life_ms)
        self._followers: OrderedDict[int, dict[int, float]] = OrderedDict()

    def predict(self, context: Context) -> Scores:
        """Return the followers of the session's last item with their shares."""
        followers = self._followers.get(context.items[-1]) if len(context.items) > context.start else None
        if not followers:
            return Scores(np.empty(0, np.int32), np.empty(0, np.float32))
        slots = np.fromiter(followers, np.int32, len(followers))
        counts = np.fromiter(followers.values(), np.float64, len(followers))
        counts *= np.linspace(1.0, 1.0 + _newest_bonus, len(counts))
        shares = (counts / (counts.sum() or 1.0)).astype(np.float32)
        above = shares > 0
        return Scores(slots[above], shares[above])

    def learn(self, context: Context, item: int) -> None:
        """Count `item` as a follower of the session's last item."""
        assert 0 <= item <= slot_max, f"slot {item} is outside 0 to {slot_max}"
        if len(context.items) <= context.start:
            return
        time_ms = context.time_ms
        factor = self._decay.advance(time_ms)
        if factor != 1.0:
            for counts in self._followers.values():
                for slot in counts:
                    counts[slot] *= factor
        last = context.items[-1]
        followers = self._followers.get(last)
        if followers is None:
            followers = self._followers[last] = {}
            if len(self._followers) > self.items_max:
                self._followers.popitem(last=False)
        else:
            self._followers.move_to_end(last)
        followers[item] = followers.pop(item, 0.0) + self._decay.weight(time_ms)  # the newest comes last
        if len(followers) >= 2 * self.followers_max:
            counted = list(followers.items())
            best = sorted(range(len(counted)), key=lambda place: (counted[place][1], place))[-self.followers_max :]
            self._followers[last] = dict(counted[place] for place in sorted(best))

    def forget(self, slots: Sequence[int]) -> None:
        """Drop these slots as items and as followers. Looks through the whole table: give it many slots at once."""
        gone = set(slots)
        for slot in slots:
            self._followers.pop(slot, None)
        for followers in self._followers.values():
            for slot in gone & followers.keys():
                del followers[slot]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the items with followers, and all followers."""
        followers = sum(map(len, self._followers.values()))
        return {
            "items": (len(self._followers), self.items_max),
            "followers": (followers, 2 * self.followers_max * self.items_max),
        }

    def state(self) -> State:
        """Return the table as four arrays, in the order of use."""
        tables = self._followers.values()
        total = sum(map(len, tables))
        return {
            "items_max": self.items_max,
            "followers_max": self.followers_max,
            "decay": self._decay.state(),
            "items": np.fromiter(self._followers, np.int32, len(self._followers)),
            "lengths": np.fromiter(map(len, tables), np.int32, len(self._followers)),
            "followers": np.fromiter((slot for table in tables for slot in table), np.int32, total),
            "counts": np.fromiter((count for table in tables for count in table.values()), np.float64, total),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(items_max=state["items_max"], followers_max=state["followers_max"])
        learner._decay = Decay.from_state(state["decay"])
        followers, counts = state["followers"].tolist(), state["counts"].tolist()
        start = 0
        for item, length in zip(state["items"].tolist(), state["lengths"].tolist(), strict=True):
            end = start + length
            learner._followers[item] = dict(zip(followers[start:end], counts[start:end], strict=True))
            start = end
        return learner
