"""Scores of predictions whose labels are still late, estimated from the predictions alone, and how wrong that was."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts.prequential import bin_of, bins, calibrated, middles, probability_scores

Histograms: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
METRICS: Final = ("auc", "base_rate", "log_loss")
views_min: Final = 200
"""Least number of unlabelled views of an estimate that is compared with the truth."""


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
        self._wanted = 0  # labels that the running comparison still waits for
        self._told: dict[str, float] = {}
        self._no, self._yes = [0] * bins, [0] * bins
        self.errors: dict[str, float] = {}

    def label(
        self, labels: Sequence[tuple[float, bool]], unlabelled: int, estimate: Callable[[], Mapping[str, float]]
    ) -> None:
        """Take the labels of the oldest views.

        Args:
            unlabelled: number of the views that have no label yet.
            estimate: returns their estimated scores.
        """
        if self._wanted:
            for probability, bought in labels:
                (self._yes if bought else self._no)[bin_of(probability)] += 1
                self._wanted -= 1
                if not self._wanted:
                    self._compare()
                    break
        elif unlabelled >= views_min:
            self._wanted, self._told = unlabelled, dict(estimate())

    def _compare(self) -> None:
        truth = probability_scores(np.array(self._no, np.float64), np.array(self._yes, np.float64))
        self.errors = {name: self._told[name] - truth[name] for name in METRICS if name in truth and name in self._told}
        self._no, self._yes = [0] * bins, [0] * bins

    def state(self) -> State:
        """Return the running comparison. The views without a label are part of the learner's state."""
        return {
            "wanted": self._wanted, "told": dict(self._told), "no": np.array(self._no), "yes": np.array(self._yes),
            "errors": dict(self.errors),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self._wanted, self._told, self.errors = state["wanted"], dict(state["told"]), dict(state["errors"])
        self._no, self._yes = state["no"].tolist(), state["yes"].tolist()
