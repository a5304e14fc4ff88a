"""What a learner is: the two protocols of the hot path and the types that pass through them.

Learners are pure: no broker, no web, no clock, no environment, no global random state. Time is event time. `predict`
never changes state; `state` and `from_state` round-trip to an equal future. `learners/checks.py` holds what each must
obey.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from headrace.events import Event
from headrace.state import State

context_max = 50
"""Most recent items of one shopper that a learner may look at."""


class Context(NamedTuple):
    """What one shopper did lately, oldest first.

    `items` are slots of the catalogue (small ints, see `learners.catalogue`), at most `context_max`. `items[start:]`
    belong to the current session, whose running number is `session`; it may be empty. `time_ms` is the event time of
    the step that is predicted or learned.
    """

    items: Sequence[int]
    start: int
    session: int
    time_ms: int


class Scores(NamedTuple):
    """Scored candidates in no particular order: distinct slots, and scores that are finite and above 0.

    Shapes:
        slots: (C,) int32, scores: (C,) float32; C may be 0. Slots that are missing score 0.
    """

    slots: NDArray[np.int32]
    scores: NDArray[np.float32]


class NextItem(Protocol):
    """A fast learner of the item that comes next. Called by `learners.shop` and by `benchmarks.continual`."""

    name: ClassVar[str]

    def predict(self, context: Context) -> Scores:
        """Score candidates for the next item of this context. Never changes state."""

    def learn(self, context: Context, item: int) -> None:
        """Learn that `item` came next after `context`."""

    def forget(self, slots: Sequence[int]) -> None:
        """Drop what is known of these slots: the catalogue evicted their items and will reuse the slots."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""

    def state(self) -> State:
        """Return all that the learner knows, sharing nothing that it will change."""

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""


class EventLearner(Protocol):
    """A learner of whole events (purchase propensity and what later issues add)."""

    name: ClassVar[str]

    def predict(self, event: Event) -> float | None:
        """Return the answer for this event, or None where the learner has none. Never changes state."""

    def learn(self, event: Event) -> None:
        """Learn from one event."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """As `NextItem.bounds`."""

    def state(self) -> State:
        """As `NextItem.state`."""

    @classmethod
    def from_state(cls, state: State) -> Self:
        """As `NextItem.from_state`."""


def top(scores: Scores, n: int) -> Scores:
    """Return the n best candidates, best first; ties go to the lower slot, so that the order is reproducible.

    >>> top(Scores(np.array([7, 3, 5], np.int32), np.array([1, 2, 1], np.float32)), 2).slots.tolist()
    [3, 5]
    """
    slots, values = scores
    if len(slots) > n:
        cut = np.partition(values, len(values) - n)[len(values) - n]
        keep = values >= cut
        slots, values = slots[keep], values[keep]
    order = np.lexsort((slots, -values))[:n]
    return Scores(slots[order], values[order])


def rank(scores: Scores, item: int, others: int) -> int:
    """Return the rank of `item`, 1 being best, with ties counted against it.

    Args:
        others: how many items there are besides `item`; an item that is not among the candidates scores 0, ties with
            every other missing one, and so ranks last.

    >>> rank(Scores(np.array([7, 3, 5], np.int32), np.array([1, 2, 1], np.float32)), 7, others=9)
    3
    """
    found = np.flatnonzero(scores.slots == item)
    if not len(found):
        return others + 1
    return int(np.count_nonzero(scores.scores >= scores.scores[found[0]]))


def check_finite(values: NDArray[Any]) -> None:
    """Assert that scores are finite; a learner that makes others is broken and must not go on."""
    assert np.isfinite(values).all(), "a learner produced a score that is not finite"
