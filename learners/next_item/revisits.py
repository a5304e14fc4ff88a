"""Revisits: the probability that a shopper returns to an item of the session."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from headrace.state import State
from learners.protocol import Context, Scores

_weight_max = 1e100
_count_min = 1e-200


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
        self._hits, self._tries = [0.1] * steps_max, [1.0] * steps_max
        # Instead of fading all counts at each step, the newest one weighs more: their ratios are the same.
        self._weight = 1.0

    def predict(self, context: Context) -> Scores:
        """Return the session's newest items, each with the probability that the next step returns to it."""
        back = self._steps_back(context)
        hits, tries = self._hits, self._tries
        probabilities = np.array([max(hits[steps] / tries[steps], 1e-9) for steps in back.values()], np.float32)
        return Scores(np.fromiter(back, np.int32, len(back)), probabilities)

    def learn(self, context: Context, item: int) -> None:
        """Count whether the step returned to an item of the session."""
        back = self._steps_back(context)
        if not back:
            return
        weight = self._weight = self._weight / self.fading
        tries = self._tries
        for steps in back.values():
            tries[steps] += weight
        if item in back:
            self._hits[back[item]] += weight
        if weight > _weight_max:
            self._rescale()

    def _rescale(self) -> None:
        # What was not tried for so long that it would be 0 has the initial estimate again, never 0 of 0.
        self._hits = [max(hits / self._weight, 0.1 * _count_min) for hits in self._hits]
        self._tries = [max(tries / self._weight, _count_min) for tries in self._tries]
        self._weight = 1.0

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
            "weight": self._weight,
            "hits": np.array(self._hits),
            "tries": np.array(self._tries),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(steps_max=state["steps_max"], fading=state["fading"])
        learner._hits, learner._tries = state["hits"].tolist(), state["tries"].tolist()
        learner._weight = state["weight"]
        return learner


def from_version_1(state: State) -> State:
    """Return the state of revisits of today; those of version 1 faded all counts at each step."""
    return {**state, "weight": 1.0}
