"""How good predictions were, once their outcomes are known: made at a snapshot, compared when its horizon is over."""

from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.value.model import Outcome, ranks
from learners.value.shoppers import Floats

BINS: Final = 10
"""Bins of predicted probability, of equal width."""


class Judged(NamedTuple):
    """The predictions of one snapshot for one horizon.

    Attributes:
        order: rank correlation of expected and true spend; `past_order` is that of what was spent before.
        tenth: share of the true spend of the tenth of which most was expected; `past_tenth` of which most was spent.
        auc: of the probability of a purchase, None if all, or none, bought; `past_auc` that of the last order's time.
        covered: share of the true spends within the interval.
        bins: by bin, rows, the sum of their probabilities, and how many bought. Shape (3, BINS)
    """

    day: int
    rows: int
    order: float
    past_order: float
    tenth: float
    past_tenth: float
    auc: float | None
    past_auc: float | None
    covered: float
    spend: float
    expected: float
    bins: Floats

    @classmethod
    def of(cls, day: int, guessed: Floats, outcome: Outcome, past: Floats, since: Floats) -> Self:
        """Return how good predictions were.

        Shapes: guessed (4, R): probabilities, spend, and the ends of its interval; past (R,): what was spent before;
        since (R,): a number that is higher, the longer ago the last order was.
        """
        purchase, spend, low, high = guessed
        bought = outcome.orders > 0
        place = np.minimum((purchase * BINS).astype(np.int64), BINS - 1)
        counted = (np.ones(len(place)), purchase, bought.astype(np.float64))
        bins = np.stack([np.asarray(np.bincount(place, each, BINS), np.float64) for each in counted])
        return cls(
            day, len(purchase), correlation(spend, outcome.spent), correlation(past, outcome.spent),
            share_of_tenth(spend, outcome.spent), share_of_tenth(past, outcome.spent), auc(purchase, bought),
            auc(-since, bought),
            float(np.count_nonzero((low <= outcome.spent) & (outcome.spent <= high))) / len(low),
            float(np.add.reduce(outcome.spent)), float(np.add.reduce(spend)), bins,
        )  # fmt: skip

    def state(self) -> list[Any]:
        """Return all of it."""
        return [*self[:-1], self.bins.copy()]

    @classmethod
    def from_state(cls, state: list[Any]) -> Self:
        """Return what `state` was taken from."""
        numbers: list[Any] = [*state[:-1], state[-1].copy()]
        return cls._make(numbers)


def correlation(left: Floats, right: Floats) -> float:
    """Return Spearman's rank correlation, 0 if one side is constant.

    >>> correlation(np.array([1.0, 2.0, 9.0]), np.array([0.0, 5.0, 6.0]))
    1.0
    """
    a, b = (ranks(values) for values in (left, right))
    a, b = (values - float(np.add.reduce(values)) / len(values) for values in (a, b))
    both = float(np.add.reduce(a * a)) * float(np.add.reduce(b * b))
    return float(np.add.reduce(a * b)) / both**0.5 if both > 0 else 0.0


def share_of_tenth(predicted: Floats, true: Floats) -> float:
    """Return which share of a total is that of the tenth of the rows of which most was predicted, 0 of nothing."""
    total = float(np.add.reduce(true))
    chosen = np.argsort(-predicted, kind="stable")[: max(1, len(predicted) // 10)]
    return float(np.add.reduce(true[chosen])) / total if total > 0 else 0.0


def auc(predicted: Floats, true: NDArray[np.bool_]) -> float | None:
    """Return the probability that one that is true is predicted higher than one that is not; None if there is none.

    >>> auc(np.array([0.2, 0.7, 0.7, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    yes = int(np.count_nonzero(true))
    no = len(true) - yes
    if not yes or not no:
        return None
    places = ranks(predicted) * len(predicted)
    return (float(np.add.reduce(places[true])) - yes * (yes + 1) / 2) / (yes * no)


def calibration_error(bins: Floats) -> float:
    """Return the expected calibration error: the mean distance of mean probability and share that bought, by bin.

    >>> calibration_error(np.array([[10.0, 30.0], [1.0, 24.0], [2.0, 24.0]]))
    0.025
    """
    return float(np.add.reduce(np.abs(bins[1] - bins[2])) / max(1.0, float(np.add.reduce(bins[0]))))
