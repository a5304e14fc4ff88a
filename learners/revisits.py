"""Revisits: how likely a shopper is to go back to what the session already holds."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from headrace.state import State
from learners.learner import Context, Scores


class Revisits:
    """Counts how often shoppers went back to the item they had seen so many steps ago. Mergeable: counts add up.

    It knows nothing of items, so new ones are no matter. Beside it, the blend need not guess whether another member
    names an item of the session because it fits or because it was just looked at.

    Args:
        steps_max: items seen longer ago are not looked at.
        fading: factor by which past counts weigh less at each step.

    >>> revisits = Revisits()
    >>> for item in (7, 7, 9):
    ...     revisits.learn(Context((7, 8), 0, 1, 0), item)
    >>> slots, chances = revisits.predict(Context((1, 2), 0, 2, 0))
    >>> slots.tolist(), [round(float(chance), 2) for chance in chances]
    ([2, 1], [0.02, 0.52])
    """

    name: ClassVar[str] = "revisits"

    def __init__(self, *, steps_max: int = 20, fading: float = 0.99999) -> None:
        self.steps_max = steps_max
        self.fading = fading
        # A first guess, worth one step: 1 in 10.
        self._hits = np.full(steps_max, 0.1)
        self._tries = np.ones(steps_max)

    def predict(self, context: Context) -> Scores:
        """Return the session's newest items, each with the chance that the next step leads back to it."""
        back = self._steps_back(context)
        steps = np.fromiter(back.values(), np.int64, len(back))
        chances = self._hits[steps] / self._tries[steps]
        return Scores(np.fromiter(back, np.int32, len(back)), np.maximum(chances, 1e-9).astype(np.float32))

    def learn(self, context: Context, item: int) -> None:
        """Count which of the session's items came again."""
        back = self._steps_back(context)
        if not back:
            return
        self._hits *= self.fading
        self._tries *= self.fading
        self._tries[list(back.values())] += 1.0
        if item in back:
            self._hits[back[item]] += 1.0

    def _steps_back(self, context: Context) -> dict[int, int]:
        """Return the session's newest items, each with the steps since it was last seen, from 0."""
        newest = context.items[max(context.start, len(context.items) - self.steps_max) :]
        back: dict[int, int] = {}
        for steps, item in enumerate(reversed(newest)):
            back.setdefault(item, steps)
        return back

    def forget(self, slots: Sequence[int]) -> None:
        """Do nothing: no item is remembered."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return nothing: the counts never grow."""
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
