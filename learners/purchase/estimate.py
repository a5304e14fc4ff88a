"""Scores of predictions whose labels are still late, estimated from the predictions alone, and how wrong that was."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts.prequential import Probability, bin_of, bins, calibrated, middles, probability_scores

Histograms: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
METRICS: Final = ("auc", "base_rate", "log_loss")
views_min: Final = 200
"""Least number of unlabelled views of an estimate that is compared with the truth."""
compared_every: Final = 4_000
"""Least number of labels between the beginnings of two comparisons: each takes as long as learning a hundred views."""


def estimated(probabilities: Sequence[float], histograms: Histograms) -> dict[str, float]:
    """Return the estimated scores of views that have no label yet, by metric; none if there are none.

    A calibrated probability is the share of such views that are bought. So the probabilities of views, calibrated on
    those labelled before, say how many of each bin will be, and the scores follow as from labels.

    Args:
        histograms: the labels so far, by bin (`Probability.histograms`).

    Source: the confidence-based estimation of NannyML's documentation (CBPE), with the calibration of
    `learners.parts.prequential`.
    """
    views = np.bincount([bin_of(one) for one in probabilities], minlength=bins) if probabilities else np.zeros(bins)
    bought: NDArray[np.float64] = views * np.array(calibrated(histograms, middles.tolist()))
    found = probability_scores(views - bought, bought)
    return {name: found[name] for name in METRICS if name in found}


class EstimateErrors:
    """Compares estimated scores with those that the labels give once all of them are there.

    An estimate is wrong where calibration has changed since: that is what its error tells.

    Attributes:
        errors: the newest comparison, by metric: the estimate minus the score that the labels gave.
    """

    def __init__(self) -> None:
        self._until = 0  # number of the label with which the running comparison ends; 0 if none runs
        self._next = 0  # number of the label with which another one may begin
        self._told: dict[str, float] = {}
        self._no, self._yes = np.zeros(bins), np.zeros(bins)  # labels before it, by bin
        self.errors: dict[str, float] = {}

    def label(
        self, labels: Sequence[tuple[float, bool]], found: Probability, unlabelled: int,
        estimate: Callable[[], Mapping[str, float]],
    ) -> None:  # fmt: skip
        """Take the labels of the oldest views.

        Args:
            found: has counted these labels, and all before them.
            unlabelled: number of the views that have no label yet.
            estimate: returns their estimated scores.
        """
        if self._until:
            if found.judged >= self._until:
                self._compare(labels[len(labels) - (found.judged - self._until) :], found)
        elif found.judged >= self._next and unlabelled >= views_min:
            self._until, self._told = found.judged + unlabelled, dict(estimate())
            self._next = found.judged + compared_every
            self._no, self._yes = found.histograms("whole")

    def _compare(self, beyond: Sequence[tuple[float, bool]], found: Probability) -> None:
        no, yes = found.histograms("whole")
        no, yes = no - self._no, yes - self._yes
        for probability, bought in beyond:  # of views that were opened later
            (yes if bought else no)[bin_of(probability)] -= 1
        truth = probability_scores(no, yes)
        self.errors = {name: self._told[name] - truth[name] for name in METRICS if name in truth and name in self._told}
        self._until = 0

    def state(self) -> State:
        """Return the running comparison. The views without a label are part of the learner's state."""
        return {
            "until": self._until, "next": self._next, "told": dict(self._told),
            "no": self._no.copy(), "yes": self._yes.copy(), "errors": dict(self.errors),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self._until, self._next, self._told = state["until"], state["next"], dict(state["told"])
        self._no, self._yes, self.errors = state["no"].copy(), state["yes"].copy(), dict(state["errors"])
