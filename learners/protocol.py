"""What a learner is: the two protocols of the hot path and the types that pass through them.

Learners are pure: no broker, no web, no clock, no environment, no global random state. Time is event time. `predict`
never changes state; a learner that `from_state` makes from `state` continues identically. `learners.checks` checks what
each learner must obey.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from headrace.events import Event
from headrace.state import State

DEEP: Final = "deep"
BLEND: Final = "blend"
"""Names of the deep model and of the blend beside those of the fast learners."""

context_max = 50
"""Most recent items of one shopper that a learner may look at."""


class Context(Struct, frozen=True, gc=False):
    """The newest items of one shopper, oldest first.

    `items` are slots of the catalogue (small ints, see `learners.next_item.catalogue`), at most `context_max`.
    `items[start:]` are those of the current session, which may be empty; `session` is the session's running number.
    `time_ms` is the event time of the step that is predicted or learned.
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


Listed: TypeAlias = "tuple[list[str], NDArray[np.float32]]"
"""A ranked list: item ids, best first, and their scores."""


class Question(NamedTuple):
    """A step as a model is asked to predict it.

    `prefix` are the session's items before it (at a session's start all items that are remembered), `last` is the item
    viewed last ("" at a session's start), `item` is the true item.
    """

    prefix: list[str]
    last: str
    item: str


class NextItem(Protocol):
    """A fast learner of a shopper's next item. `learners.next_item.browsing` and `benchmarks.continual` call it."""

    name: ClassVar[str]
    trust: ClassVar[float]
    """Weight of the learner in the blend before the blend has learned, relative to that of session-kNN (1)."""

    def predict(self, context: Context) -> Scores:
        """Score candidates for the next item of this context. Never changes state."""

    def learn(self, context: Context, item: int) -> None:
        """Learn that `item` followed `context`."""

    def take_back(self, item: int, time_ms: int) -> None:
        """Take back what a step to `item` at `time_ms` taught about the item: it was removed from a cart or returned.

        What the step taught about other items stays.
        """

    def forget(self, slots: Sequence[int]) -> None:
        """Delete what is stored for these slots: the catalogue evicted their items and will reuse the slots."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""

    def state(self) -> State:
        """Return the complete state; it shares no object that the learner will change."""

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""


class EventLearner(Protocol):
    """A learner of whole events, such as purchase propensity."""

    name: ClassVar[str]

    def predict(self, event: Event) -> float | None:
        """Return the prediction for this event, or None if the learner makes none for it. Never changes state."""

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
        others: number of other items. An item that is not among the candidates has score 0, ties with all other
            missing items, and therefore ranks last.

    >>> rank(Scores(np.array([7, 3, 5], np.int32), np.array([1, 2, 1], np.float32)), 7, others=9)
    3
    """
    found = np.flatnonzero(scores.slots == item)
    if not len(found):
        return others + 1
    return int(np.count_nonzero(scores.scores >= scores.scores[found[0]]))


def check_finite(values: NDArray[Any]) -> None:
    """Assert that scores are finite; a learner that produces others is broken and must stop."""
    assert np.isfinite(values).all(), "a learner produced a score that is not finite"
