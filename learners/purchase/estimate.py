"""Scores of predictions whose labels are still late, estimated from the predictions alone, and how wrong that was."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts.prequential import bin_of, bins, calibrated, middles, probability_scores

Histograms: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
METRICS: Final = ("auc", "base_rate", "log_loss")
views_min: Final = 200
"""Least number of unlabelled views of an estimate that is compared with the truth."""


class Estimate:
    """Estimates the scores of the views that have no label yet; when all of them have one, compares.

    A calibrated probability is the share of such views that are bought. So the probabilities of views, calibrated on
    those labelled before, say how many of each bin will be, and the scores follow as from labels. The estimate is
    wrong where calibration has changed since: that is what its error tells.

    Attributes:
        errors: the newest comparison, by metric: the estimate minus the score that the labels gave.

    Source: the confidence-based estimation of NannyML's documentation (CBPE), with the calibration of
    `learners.parts.prequential`.
    """

    def __init__(self, open_views: Iterable[float] = ()) -> None:
        self._open = [0] * bins
        for probability in open_views:
            self._open[bin_of(probability)] += 1
        self._unlabelled = sum(self._open)
        self._wanted = 0  # labels that the running comparison still waits for
        self._told: dict[str, float] = {}
        self._no, self._yes = np.zeros(bins), np.zeros(bins)
        self.errors: dict[str, float] = {}

    def open(self, probability: float) -> None:
        """Add a view without a label."""
        self._open[bin_of(probability)] += 1
        self._unlabelled += 1

    def label(self, labels: Sequence[tuple[float, bool]], histograms: Callable[[], Histograms]) -> None:
        """Take the labels of the oldest views.

        Args:
            histograms: returns the labels so far, by bin (`Probability.histograms`).
        """
        for probability, bought in labels:
            place = bin_of(probability)
            self._open[place] -= 1
            if self._wanted:
                (self._yes if bought else self._no)[place] += 1
                self._wanted -= 1
                if not self._wanted:
                    truth = probability_scores(self._no, self._yes)
                    self.errors = {name: self._told[name] - truth[name] for name in METRICS if name in truth}
        self._unlabelled -= len(labels)
        if not self._wanted and self._unlabelled >= views_min:
            self._wanted, self._told = self._unlabelled, self.scores(histograms())
            self._no, self._yes = np.zeros(bins), np.zeros(bins)

    def scores(self, histograms: Histograms) -> dict[str, float]:
        """Return the estimated scores of the views without a label; none if there are none."""
        views = np.maximum(np.array(self._open, np.float64), 0.0)
        bought: NDArray[np.float64] = views * np.array(calibrated(histograms, middles.tolist()))
        found = probability_scores(views - bought, bought)
        return {name: found[name] for name in METRICS if name in found}

    def state(self) -> State:
        """Return the running comparison. The views without a label are part of the learner's state."""
        return {
            "wanted": self._wanted, "told": dict(self._told), "no": self._no.copy(), "yes": self._yes.copy(),
            "errors": dict(self.errors),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self._wanted, self._told, self.errors = state["wanted"], dict(state["told"]), dict(state["errors"])
        self._no, self._yes = state["no"].copy(), state["yes"].copy()
