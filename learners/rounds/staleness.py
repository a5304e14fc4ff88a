"""Staleness: the hits that a model has lost because it was not updated. A trigger of rounds.

`learners.rounds.family` observes it if a setting enables it, and `benchmarks.triggers` compares it with the other
triggers.
"""

from typing import Final, Self

from headrace.state import State

baseline_predictions: Final = 1_000
"""Predictions right after an update from which the baseline lead of the always fresh learner is estimated."""
baseline_weight_min: Final = 0.25
"""Least weight of the newest estimate in the mean baseline lead."""


class Staleness:
    """Adds up the hits that a model has lost since its last update; an update can be expected to win them from then on.

    The quality of a hypothetical fresh model is unknown. So a learner that is always fresh serves as a reference: the
    cost of staleness is the increase of its lead over the model since the model's updates; effects that are equal for
    both cancel out. The sum of these losses is bounded below by 0, and an update is due once it reaches the update's
    price. (As in the rent-or-buy problem, updating when the losses equal the price costs at most twice the optimum in
    hindsight.)

    If the two disagree on about a fifth of all predictions, the sum varies by chance alone by about half the square
    root of their number: by 60 hits in 20,000. A lower price is mostly reached by chance.

    Source: the cumulative threshold of Mahadevan and Mathioudakis, "Cost-aware retraining for machine learning"
    (Knowledge-Based Systems, 2024), whose staleness cost is estimated from the data's distance; the sum that is bounded
    below by 0: Page, "Continuous inspection schemes" (Biometrika, 1954). The estimate by a fresh learner is ours.

    >>> staleness = Staleness(2)
    >>> [staleness.observe(found=True, fresh=True) for _ in range(baseline_predictions)].count(True)
    0
    >>> [staleness.observe(found=False, fresh=True) for _ in range(3)]
    [False, True, True]

    Args:
        hits: price of an update, in hits among the first `learners.parts.prequential.ranks_max`; with 0 no update is
            ever due.

    Attributes:
        hits_lost: hits lost since the last update.
    """

    def __init__(self, hits: float) -> None:
        assert hits >= 0, f"the price of an update is at least 0, found {hits}"
        self.hits = hits
        self.hits_lost = 0.0
        self._baseline_lead = 0.0  # mean lead of the fresh learner right after updates, in hits per prediction
        self._baselines = 0  # estimates in this mean
        self._lead = 0  # hits of the fresh learner minus the model's, while the baseline is estimated
        self._judged = 0  # predictions since the model was new, at most `baseline_predictions`

    def observe(self, *, found: bool, fresh: bool) -> bool:
        """Learn from one prediction; return whether an update is due.

        Args:
            found: whether the model found the true item.
            fresh: whether the fresh learner found it.
        """
        lead = int(fresh) - int(found)
        if self._judged < baseline_predictions:
            self._judged += 1
            self._lead += lead
            if self._judged == baseline_predictions:
                self._baselines += 1
                weight = max(baseline_weight_min, 1 / self._baselines)
                self._baseline_lead += weight * (self._lead / baseline_predictions - self._baseline_lead)
        else:
            self.hits_lost = max(0.0, self.hits_lost + lead - self._baseline_lead)
        return 0 < self.hits <= self.hits_lost

    def reset_loss(self) -> None:
        """Reset the loss after an attempted update, whatever its result."""
        self.hits_lost = 0.0

    def reset_baseline(self) -> None:
        """Reset the loss and estimate the baseline lead again, because the model was updated."""
        self.reset_loss()
        self._lead = self._judged = 0

    def state(self) -> State:
        """Return the loss and the baseline."""
        return {
            "hits": self.hits, "lost": self.hits_lost, "usual": self._baseline_lead, "settlings": self._baselines,
            "ahead": self._lead, "judged": self._judged,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State, hits: float | None = None) -> Self:
        """Return one that continues exactly where `state` was taken, with its price unless another is given."""
        staleness = cls(state["hits"] if hits is None else hits)
        staleness.hits_lost, staleness._baseline_lead = state["lost"], state["usual"]
        staleness._baselines, staleness._lead, staleness._judged = state["settlings"], state["ahead"], state["judged"]
        return staleness
