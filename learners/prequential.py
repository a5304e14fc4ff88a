"""Prequential scores: how good the answers were that were given before the truth was learned.

Each score comes in three views: over the whole stream, over a window of the newest judgements, and fading (each
judgement counts a little less than the next). An event that was picked for judging with probability p stands for 1 / p
events, so judgements carry that weight; `judged` and `effective` say how many there were and how many equal ones they
are worth.
Memory is bounded, and so is the effect of one judgement. Who judges what is decided in `consumers.online`.

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

View = Literal["whole", "window", "fading"]
VIEWS: Final[tuple[View, ...]] = ("whole", "window", "fading")

ranks_max: Final = 20
"""An item ranked behind this place counts as missed."""
cutoffs: Final = (10, 20)
"""The k of Recall@k, MRR@k and NDCG@k."""
bins: Final = 200
"""Bins of the probability histograms from which AUC and calibration are computed, equally wide in log-odds."""
log_odds_max: Final = 12.0
"""Probabilities beyond sigmoid(12), about 6 in a million from 0 or 1, share the outermost bins."""
calibration_groups: Final = 10
"""The calibration error compares this many groups of neighbouring bins with about equal weight."""


class _Views:
    """Sums of weighted rows in three views: whole stream, ring of the newest judgements, fading.

    A row is the index of a table (a rank, or a bin with a label); `sums` are the weights per index, which is all that
    any score needs. The ring keeps index and weight, so that what leaves the window is subtracted by counting anew.

    The sums stand in lists and the ring in arrays of the standard library: a single place of a list is read and written
    in half the time that an array's takes, and in a sixth of numpy's.
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
        """Add judgements of one weight: the index of each."""
        assert 1 <= weight < math.inf, f"a weight is 1 / probability, so at least 1, found {weight}"
        indices, weights, whole, fading, scale = self._indices, self._weights, self._whole, self._fading, self._scale
        window, fade = self.window, self.fading
        place = self.judged % window
        for index in found:
            indices[place] = index
            weights[place] = weight
            whole[index] += weight
            scale /= fade  # newer ones weigh more, instead of all others less
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

    def sums(self, view: View) -> NDArray[np.float64]:
        if view == "whole":
            return np.array(self._whole)
        if view == "fading":
            return np.array(self._fading) / self._scale
        indices, weights = self._held()
        return np.bincount(indices, weights, self.size).astype(np.float64)

    def _held(self) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
        held = min(self.judged, self.window)
        return np.array(self._indices[:held]), np.array(self._weights[:held])

    def effective(self) -> float:
        """Return how many judgements of equal weight say as much as all so far (Kish)."""
        return float(np.sum(self._whole)) ** 2 / self._squares if self._squares else 0.0

    def state(self) -> State:
        indices, weights = self._held()
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
    """Recall@k, MRR@k and NDCG@k of one next-item learner, from the ranks at which it had the true items.

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
        """How many judgements there were."""
        return self._views.judged

    @property
    def effective(self) -> float:
        """How many judgements of equal weight they are worth."""
        return self._views.effective()

    def observe(self, rank: int | None, weight: float = 1.0) -> None:
        """Take in one judgement.

        Args:
            rank: of the true item, 1 being best; None or more than `ranks_max` is a miss.
            weight: 1 / the probability with which the event was picked for judging.
        """
        assert rank is None or rank >= 1, f"ranks begin at 1, found {rank}"
        self._views.add((0 if rank is None or rank > ranks_max else rank,), weight)

    def scores(self, view: View) -> dict[str, float]:
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
    """Return Recall, MRR and NDCG at each of `cutoffs` from the total weight per rank, that of misses at index 0.

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
    """AUC, log-loss and calibration of a learner that gives the probability of yes.

    All scores come from two histograms of the log-odds, one per label, so that memory is bounded and a window can be
    kept. Log-loss and calibration use each bin's middle, so that they are near the exact ones, and one overconfident
    miss costs at most 12 nats. AUC counts pairs within one bin as half right.

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
        """How many judgements there were."""
        return self._views.judged

    @property
    def effective(self) -> float:
        """How many judgements of equal weight they are worth."""
        return self._views.effective()

    def observe(self, probability: float, label: bool, weight: float = 1.0) -> None:
        """Take in a prediction and what happened; `weight` as in `Ranking.observe`."""
        self.observe_all(((probability, label),), weight)

    def observe_all(self, pairs: Iterable[tuple[float, bool]], weight: float = 1.0) -> None:
        """Take in several at once; the same as one after another, in less time."""
        found = []
        for probability, label in pairs:
            assert 0 <= probability <= 1, f"a probability lies in [0, 1], found {probability}"
            found.append(bisect_right(_edges, probability) + (bins if label else 0))
        self._views.add(found, weight)

    def scores(self, view: View) -> dict[str, float]:
        """Return `log_loss`, `calibration_error`, `base_rate` and, once both labels were seen, `auc`."""
        sums = self._views.sums(view)
        return _probability_scores(sums[:bins], sums[bins:])

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
_middles: Final = 1 / (1 + np.exp(-((np.arange(bins) + 0.5) / bins * 2 - 1) * log_odds_max))


def _probability_scores(no: NDArray[Any], yes: NDArray[Any]) -> dict[str, float]:
    both = no + yes
    total, all_yes, all_no = both.sum(), yes.sum(), no.sum()
    if not total:
        return {}
    scores = {
        "log_loss": float(-(yes * np.log(_middles) + no * np.log1p(-_middles)).sum() / total),
        "calibration_error": _calibration_error(both, yes),
        "base_rate": float(all_yes / total),
    }
    if all_yes and all_no:
        below = np.cumsum(no) - no
        scores["auc"] = float((yes * (below + no / 2)).sum() / (all_yes * all_no))
    return scores


def _calibration_error(both: NDArray[Any], yes: NDArray[Any]) -> float:
    """Return the weighted mean distance of what was promised from what happened, over groups of about equal weight."""
    before = np.cumsum(both) - both
    group = np.minimum(calibration_groups - 1, (before / both.sum() * calibration_groups).astype(np.int64))
    promised = np.bincount(group, both * _middles, calibration_groups)
    happened = np.bincount(group, yes, calibration_groups)
    return float(np.abs(promised - happened).sum() / both.sum())
