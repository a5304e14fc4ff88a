"""Revisits: the probability that a shopper returns to an item of the session."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from headrace.state import State
from learners.protocol import Context, Scores


class Revisits:
    """Counts how often shoppers return to the item that they saw a given number of steps ago. Mergeable: counts add up.

    It keeps nothing per item, so it works for new items. With it, the blend can tell whether another member ranks an
    item of the session highly because it fits or because it was just viewed.

    Args:
        steps_max: items seen longer ago are ignored.
        fading: factor on past counts at each step.

    >>> revisits = Revisits()
    >>> for item in (7, 7, 9):
    ...     revisits.learn(Context((7, 8), 0, 1, 0), item)
    >>> slots, probabilities = revisits.predict(Context((1, 2), 0, 2, 0))
    >>> slots.tolist(), [round(float(probability), 2) for probability in probabilities]
    ([2, 1], [0.02, 0.52])
    """

    name: ClassVar[str] = "revisits"
    trust: ClassVar[float] = 0.5

    def __init__(self, *, steps_max: int = 20, fading: float = 0.99999) -> None:
        self.steps_max = steps_max
        self.fading = fading
        # The initial estimate is 1 in 10, with the weight of one step.
        self._hits = np.full(steps_max, 0.1)
        self._tries = np.ones(steps_max)

    def predict(self, context: Context) -> Scores:
        """Return the session's newest items, each with the probability that the next step returns to it."""
        back = self._steps_back(context)
        steps = np.fromiter(back.values(), np.int64, len(back))
        probabilities = self._hits[steps] / self._tries[steps]
        return Scores(np.fromiter(back, np.int32, len(back)), np.maximum(probabilities, 1e-9).astype(np.float32))

    def learn(self, context: Context, item: int) -> None:
        """Count whether the step returned to an item of the session."""
        back = self._steps_back(context)
        if not back:
            return
        self._hits *= self.fading
        self._tries *= self.fading
        for steps in back.values():  # a few; an index array takes longer
            self._tries[steps] += 1.0
        if item in back:
            self._hits[back[item]] += 1.0

    def _steps_back(self, context: Context) -> dict[int, int]:
        """Return the session's newest items, each with the number of steps since it was last seen, from 0."""
        newest = context.items[max(context.start, len(context.items) - self.steps_max) :]
        back: dict[int, int] = {}
        for steps, item in enumerate(reversed(newest)):
            back.setdefault(item, steps)
        return back

    def take_back(self, item: int, time_ms: int) -> None:
        """Do nothing: nothing is kept per item."""

    def forget(self, slots: Sequence[int]) -> None:
        """Do nothing, because nothing is kept per item."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return nothing, because the counts have a fixed size."""
        return {}

    def state(self) -> State:
        """Return the counts."""
        return {
            "steps_max": self.steps_max,
            "fading": self.fading,
            "hits": self._hits.copy(),
            "tries": self._tries.copy(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(steps_max=state["steps_max"], fading=state["fading"])
        learner._hits, learner._tries = state["hits"].copy(), state["tries"].copy()
        return learner
