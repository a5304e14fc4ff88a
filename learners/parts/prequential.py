"""Prequential scores: the quality of predictions that were made before the true outcome was learned.

Each score has three views: over the whole stream, over a window of the newest judgements, and fading (each judgement
counts a little less than the next one). An event that was picked for judging with probability p represents 1 / p
events, so its judgements have that weight. `judged` is the number of judgements, `effective` the number of equally
weighted judgements with the same information. Memory is bounded, and so is the effect of one judgement.
`consumers.online` decides what is judged.

Source: Gama, Sebastiao and Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90, 2013 (windows
and fading factors). Inverse probability: Horvitz and Thompson, JASA 1952; divided by the sum of weights (Hajek), so
that a score stays within its range.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State

ScoreView = Literal["whole", "window", "fading"]
SCORE_VIEWS: Final[tuple[ScoreView, ...]] = ("whole", "window", "fading")

ranks_max: Final = 20
"""An item with a rank above this counts as missed."""
cutoffs: Final = (10, 20)
"""The k of Recall@k, MRR@k and NDCG@k."""
bins: Final = 200
"""Bins of the probability histograms for AUC and calibration, of equal width in log-odds."""
log_odds_max: Final = 12.0
"""Probabilities beyond sigmoid(12), about 6 in a million from 0 or 1, fall into the outermost bins."""
calibration_groups: Final = 10
"""Groups of adjacent bins, of about equal weight, over which the calibration error is computed."""


class _Views:
    """Weighted counts in three views: whole stream, ring buffer of the newest judgements, fading.

    A judgement is an index (a rank, or a bin with a label). `sums` returns the weight per index, from which all scores
    follow. The ring buffer stores index and weight; the window's sums are recomputed from it.

    Sums are in lists and the ring buffer in arrays of the standard library: reading and writing one element of a list
    takes half the time of an array's, and a sixth of numpy's.
    """

    def __init__(self, size: int, window: int, fading: float) -> None:
        assert window > 0, "a window holds at least one judgement"
        assert 0 < fading <= 1, "a fading factor lies in (0, 1]"
        self.size, self.window, self.fading = size, window, fading
        self.judged = 0
        self._whole = [0.0] * size
        self._squares = 0.0
        self._fading = [0.0] * size
        self._scale = 1.0
        self._indices = array("h", bytes(2 * window))
        self._weights = _zeros(window)

    def add(self, found: Sequence[int], weight: float) -> None:
        """Add judgements of equal weight, given by their indices."""
        assert 1 <= weight < math.inf, f"a weight is 1 / probability, so at least 1, found {weight}"
        indices, weights, whole, fading, scale = self._indices, self._weights, self._whole, self._fading, self._scale
        window, fade = self.window, self.fading
        place = self.judged % window
        for index in found:
            indices[place] = index
            weights[place] = weight
            whole[index] += weight
            scale /= fade  # raises the weight of newer judgements instead of lowering all others
            fading[index] += weight * scale
            if scale > 1e100:
                self._fading = fading = (np.array(fading) / scale).tolist()
                scale = 1.0
            place += 1
            if place == window:
                place = 0
        self._scale = scale
        self._squares += weight * weight * len(found)
        self.judged += len(found)

    def sums(self, view: ScoreView) -> NDArray[np.float64]:
        if view == "whole":
            return np.array(self._whole)
        if view == "fading":
            return np.array(self._fading) / self._scale
        indices, weights = self._window_rows()
        return np.bincount(indices, weights, self.size).astype(np.float64)

    def _window_rows(self) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
        held = min(self.judged, self.window)
        return np.array(self._indices[:held]), np.array(self._weights[:held])

    def effective(self) -> float:
        """Return Kish's effective sample size of all judgements so far."""
        return float(np.sum(self._whole)) ** 2 / self._squares if self._squares else 0.0

    def state(self) -> State:
        indices, weights = self._window_rows()
        return {
            "size": self.size,
            "window": self.window,
            "fading": self.fading,
            "judged": self.judged,
            "whole": np.array(self._whole),
            "squares": self._squares,
            "faded": np.array(self._fading),
            "scale": self._scale,
            "indices": indices,
            "weights": weights,
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        views = cls(state["size"], state["window"], state["fading"])
        views.judged = state["judged"]
        views._whole = state["whole"].tolist()
        views._squares = state["squares"]
        views._fading = state["faded"].tolist()
        views._scale = state["scale"]
        held = len(state["indices"])
        views._indices[:held] = array("h", state["indices"])
        views._weights[:held] = array("d", state["weights"])
        return views


def _zeros(size: int) -> "array[float]":
    return array("d", bytes(8 * size))


class Ranking:
    """Recall@k, MRR@k and NDCG@k of one next-item learner, from its ranks of the true items.

    >>> ranking = Ranking(window=2)
    >>> for rank in (1, None, 4):
    ...     ranking.observe(rank)
    >>> ranking.scores("whole")["mrr@20"], ranking.scores("window")["recall@20"]
    (0.4166666666666667, 0.5)
    """

    def __init__(self, *, window: int = 2_000, fading: float = 0.999) -> None:
        self._views = _Views(ranks_max + 1, window, fading)

    @property
    def judged(self) -> int:
        """Number of judgements."""
        return self._views.judged

    @property
    def effective(self) -> float:
        """Number of equally weighted judgements with the same information (Kish)."""
        return self._views.effective()

    def observe(self, rank: int | None, weight: float = 1.0) -> None:
        """Add one judgement.

        Args:
            rank: of the true item, 1 being best; None or more than `ranks_max` is a miss.
            weight: the inverse of the probability with which the event was picked for judging.
        """
        assert rank is None or rank >= 1, f"ranks begin at 1, found {rank}"
        self._views.add((0 if rank is None or rank > ranks_max else rank,), weight)

    def scores(self, view: ScoreView) -> dict[str, float]:
        """Return the scores as fractions; empty before the first judgement."""
        return ranking_scores(self._views.sums(view))

    def state(self) -> State:
        """Return all sums and the window."""
        return self._views.state()

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return scores that continue exactly where `state` was taken."""
        ranking = cls()
        ranking._views = _Views.from_state(state)
        return ranking


def ranking_scores(weights: NDArray[np.float64]) -> dict[str, float]:
    """Return Recall, MRR and NDCG at each of `cutoffs`, given the total weight per rank; index 0 has that of misses.

    >>> ranking_scores(np.array([1.0, 1.0] + [0.0] * 19))["ndcg@10"]
    0.5
    """
    total = weights.sum()
    if not total:
        return {}
    ranks = np.arange(1, len(weights))
    gains = {"recall": np.ones(len(ranks)), "mrr": 1 / ranks, "ndcg": 1 / np.log2(ranks + 1)}
    return {
        f"{name}@{k}": float((gain[:k] * weights[1 : k + 1]).sum() / total)
        for k in cutoffs
        for name, gain in gains.items()
    }


class Probability:
    """AUC, log-loss and calibration of a learner that predicts the probability of a binary label.

    All scores are computed from two histograms of the log-odds, one per label, so that memory is bounded and a window
    is possible. Log-loss and calibration use each bin's middle, so they are approximate, and one overconfident miss
    costs at most 12 nats. AUC counts pairs within one bin as half correct.

    >>> scores = Probability(window=100)
    >>> for probability, label in ((0.9, True), (0.2, False), (0.7, True), (0.4, False)):
    ...     scores.observe(probability, label)
    >>> scores.scores("whole")["auc"]
    1.0
    """

    def __init__(self, *, window: int = 10_000, fading: float = 0.999) -> None:
        self._views = _Views(2 * bins, window, fading)

    @property
    def judged(self) -> int:
        """Number of judgements."""
        return self._views.judged

    @property
    def effective(self) -> float:
        """Number of equally weighted judgements with the same information (Kish)."""
        return self._views.effective()

    def observe(self, probability: float, label: bool, weight: float = 1.0) -> None:
        """Add a prediction and its true label; `weight` as in `Ranking.observe`."""
        self.observe_all(((probability, label),), weight)

    def observe_all(self, pairs: Iterable[tuple[float, bool]], weight: float = 1.0) -> None:
        """Add several predictions; the result is that of adding one after another, in less time."""
        found = []
        for probability, label in pairs:
            assert 0 <= probability <= 1, f"a probability lies in [0, 1], found {probability}"
            found.append(bin_of(probability) + (bins if label else 0))
        self._views.add(found, weight)

    def scores(self, view: ScoreView) -> dict[str, float]:
        """Return `log_loss`, `calibration_error`, `base_rate` and, once both labels were seen, `auc`."""
        sums = self._views.sums(view)
        return probability_scores(sums[:bins], sums[bins:])

    def histograms(self, view: ScoreView) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weights of the labels no and yes by bin of the log-odds. Shapes: (bins,), (bins,)."""
        sums = self._views.sums(view)
        return sums[:bins], sums[bins:]

    def state(self) -> State:
        """Return all sums and the window."""
        return self._views.state()

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return scores that continue exactly where `state` was taken."""
        probability = cls()
        probability._views = _Views.from_state(state)
        return probability


_edges: Final = [1 / (1 + math.exp(-(edge / bins * 2 - 1) * log_odds_max)) for edge in range(1, bins)]
"""The probability at which each bin but the first begins."""
middles: Final = 1 / (1 + np.exp(-((np.arange(bins) + 0.5) / bins * 2 - 1) * log_odds_max))
"""The probability in the middle of each bin."""


def bin_of(probability: float) -> int:
    """Return the number of the bin of a probability."""
    return bisect_right(_edges, probability)


def log_odds(probability: float) -> float:
    """Return the logarithm of the odds of a probability; those next to 0 and 1 as of the outermost bins."""
    bounded = min(max(probability, _edges[0]), _edges[-1])
    return math.log(bounded / (1 - bounded))


prior_weight: Final = 20.0
"""Labels that a bin's own middle counts for in calibration: without labels, probabilities stay as they are."""


def calibrated(
    histograms: tuple[NDArray[np.float64], NDArray[np.float64]], probabilities: Sequence[float]
) -> list[float]:
    """Return what probabilities turned out to be worth: the share of yes among labels given about the same ones.

    Isotonic regression of the labels on the bins, so that the order stays; each bin's own middle counts as
    `prior_weight` labels. Between the middles of bins the log-odds are interpolated.

    Args:
        histograms: labels no and yes by bin (`Probability.histograms`). Shapes: (bins,), (bins,).

    Source: Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD
    2002; pooling adjacent violators: Ayer et al., Annals of Mathematical Statistics 26, 1955. The prior is ours.

    >>> no, yes = np.zeros(bins), np.zeros(bins)
    >>> [round(one, 3) for one in calibrated((no, yes), [0.1, 0.5])]
    [0.1, 0.5]
    >>> no[70:80], yes[70:80] = 900.0, 100.0
    >>> [round(one, 2) for one in calibrated((no, yes), [0.05, 0.08])]
    [0.1, 0.1]
    """
    no, yes = histograms
    weights = no + yes + prior_weight
    values = (yes + prior_weight * middles) / weights
    pooled: list[list[float]] = []  # mean, weight, bins
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pooled.append([value, weight, 1])
        while len(pooled) > 1 and pooled[-2][0] >= pooled[-1][0]:
            mean, mass, count = pooled.pop()
            below = pooled[-1]
            below[0] = (below[0] * below[1] + mean * mass) / (below[1] + mass)
            below[1] += mass
            below[2] += count
    means = np.repeat([mean for mean, _, _ in pooled], [int(count) for _, _, count in pooled])
    given = np.clip(probabilities, middles[0], middles[-1])
    odds = np.interp(_log_odds(given), _log_odds(middles), _log_odds(means))
    return [float(one) for one in 1 / (1 + np.exp(-odds))]


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(probabilities / (1 - probabilities))


def probability_scores(no: NDArray[Any], yes: NDArray[Any]) -> dict[str, float]:
    """Return what `Probability.scores` does, of weights of the labels no and yes by bin. Shapes: (bins,), (bins,)."""
    both = no + yes
    total, all_yes, all_no = both.sum(), yes.sum(), no.sum()
    if not total:
        return {}
    scores = {
        "log_loss": float(-(yes * np.log(middles) + no * np.log1p(-middles)).sum() / total),
        "calibration_error": _calibration_error(both, yes),
        "base_rate": float(all_yes / total),
    }
    if all_yes and all_no:
        below = np.cumsum(no) - no
        scores["auc"] = float((yes * (below + no / 2)).sum() / (all_yes * all_no))
    return scores


def _calibration_error(both: NDArray[Any], yes: NDArray[Any]) -> float:
    """Return the weighted mean distance between predicted and observed frequency, over groups of about equal weight."""
    before = np.cumsum(both) - both
    group = np.minimum(calibration_groups - 1, (before / both.sum() * calibration_groups).astype(np.int64))
    predicted = np.bincount(group, both * middles, calibration_groups)
    observed = np.bincount(group, yes, calibration_groups)
    return float(np.abs(predicted - observed).sum() / both.sum())
