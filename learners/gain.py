"""Gain: has the model lost so much by not being updated that an update is worth its price? A trigger of rounds.

`learners.rounds` observes it, where a setting says so, and `benchmarks.triggers` compares it with the other triggers.
"""

from typing import Final, Self

from headrace.state import State

settle: Final = 1_000
"""Predictions right after an update that say how far a learner that is always fresh is ahead of a fresh model."""
fading: Final = 0.25
"""Weight, at least, of the newest of these means in what is usual."""


class Gain:
    """Sums up the hits that a model has lost by not being updated: an update may be expected to win them from now on.

    How good a fresh model would be nobody knows. So a learner that is always fresh stands beside: by how much more it
    is ahead than it was right after updates is what staleness costs; what makes a week hard for both cancels. The
    losses since the last update are summed up, never below 0, and an update is due once they reach its price. (As in
    the rent-or-buy problem: to pay for the update when as much was lost without it costs at most twice the least that
    hindsight could have done.)

    Where the two disagree about a fifth of all predictions, the sum strays by chance alone by about half the square
    root of their number: by 60 hits in 20,000. A price below that is mostly met by chance.

    Source: the cumulative threshold of Mahadevan and Mathioudakis, "Cost-aware retraining for machine learning"
    (Knowledge-Based Systems, 2024), whose staleness cost is estimated from the data's distance; the sum that is held at
    0: Page, "Continuous inspection schemes" (Biometrika, 1954). The estimate by a fresh learner is ours.

    >>> gain = Gain(2)
    >>> [gain.observe(found=True, fresh=True) for _ in range(settle)].count(True)
    0
    >>> [gain.observe(found=False, fresh=True) for _ in range(3)]
    [False, True, True]

    Args:
        hits: price of an update, in hits among the first `learners.prequential.ranks_max`; 0 says that none is due.

    Attributes:
        lost: hits lost since the last update.
    """

    def __init__(self, hits: float) -> None:
        assert hits >= 0, f"an update is no present, found {hits}"
        self.hits = hits
        self.lost = 0.0
        self._usual = 0.0
        self._settlings = 0  # means in the usual one
        self._ahead = 0  # hits of the fresh learner less those of the model, while it settles
        self._judged = 0  # predictions since the model was new, at most `settle`

    def observe(self, *, found: bool, fresh: bool) -> bool:
        """Take in whether the model and the fresh learner found the item that came; return whether an update is due."""
        ahead = int(fresh) - int(found)
        if self._judged < settle:
            self._judged += 1
            self._ahead += ahead
            if self._judged == settle:
                self._settlings += 1
                self._usual += max(fading, 1 / self._settlings) * (self._ahead / settle - self._usual)
        else:
            self.lost = max(0.0, self.lost + ahead - self._usual)
        return 0 < self.hits <= self.lost

    def pay(self) -> None:
        """An update was made, whatever comes of it: begin to sum anew."""
        self.lost = 0.0

    def renew(self) -> None:
        """The model is an updated one: learn how far the fresh learner is ahead of it, then begin to sum anew."""
        self.pay()
        self._ahead = self._judged = 0

    def state(self) -> State:
        """Return what was lost and what is usual."""
        return {
            "hits": self.hits, "lost": self.lost, "usual": self._usual, "settlings": self._settlings,
            "ahead": self._ahead, "judged": self._judged,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return one that continues exactly where `state` was taken."""
        gain = cls(state["hits"])
        gain.lost, gain._usual, gain._settlings = state["lost"], state["usual"], state["settlings"]
        gain._ahead, gain._judged = state["ahead"], state["judged"]
        return gain
