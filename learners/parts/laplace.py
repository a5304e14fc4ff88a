"""Bayesian logistic regression that learns one row at a time, and knows how sure it is of each weight.

The belief about the weights is a normal distribution with a full covariance. A row changes it along one direction only,
so the step to the new mode is a search on a line, and the covariance loses a matrix of rank one.

Source: Spiegelhalter and Lauritzen, "Sequential updating of conditional probabilities on directed graphical
structures", Networks 20, 1990 (a Laplace step per row); MacKay, "The evidence framework applied to classification
networks", Neural Computation 4, 1992 (the probability under uncertain weights). Ours: the step goes to the mode itself,
and forgetting never makes a weight less sure than it was at the start.
"""

from math import pi
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts import portable

Floats = NDArray[np.float64]
_LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
_steps_max: Final = 100
"""Most steps of the search for a mode. Usually it takes four to eight; by bisection alone it would take forty."""
_near: Final = 1e-12
_odds_max: Final = 500.0
"""Log-odds beyond which a probability is that of the bound, so that nothing overflows."""


class Belief(NamedTuple):
    """What is believed of a row: the mean and the variance of its log-odds."""

    odds: float
    variance: float

    @property
    def scale(self) -> float:
        """By how much uncertainty shrinks the log-odds: 1 where there is none."""
        return float(1.0 / np.sqrt(1.0 + pi / 8.0 * self.variance))

    @property
    def probability(self) -> float:
        """The probability that the label is true."""
        return sigmoid(self.odds * self.scale)


def sigmoid(odds: float) -> float:
    """Return the probability that log-odds stand for, with the same bits on every processor.

    >>> sigmoid(0.0), round(sigmoid(2.0), 6), sigmoid(1e9) == 1.0, sigmoid(-1e9) > 0.0
    (0.5, 0.880797, True, True)
    """
    bounded = min(max(odds, -_odds_max), _odds_max)
    return 1.0 / (1.0 + portable.power_of_two(-bounded * _LOG2_E))


class LaplaceRegression:
    """Logistic regression with a normal belief about its weights. Memory: `width` squared numbers, of 8 bytes each.

    >>> model = LaplaceRegression(np.array([25.0, 1.0]), noise=0.0)
    >>> row = np.array([1.0, -1.0])
    >>> model.learn(row, True).probability
    0.5
    >>> round(model.belief(row).probability, 2)
    0.75

    Args:
        prior: the variance of each weight before anything is learned. Shape (width,), above 0.
        noise: what each row adds to the variance of each weight, up to its prior, so that old rows fade; 0 keeps all.
    """

    def __init__(self, prior: Floats, *, noise: float) -> None:
        self._prior, self._noise = prior.copy(), noise
        self.weights: Floats = np.zeros(len(prior))
        self._covariance: Floats = np.diag(prior)
        self._change: Floats = np.empty_like(self._covariance)

    @property
    def width(self) -> int:
        """The number of weights."""
        return len(self.weights)

    def belief(self, row: Floats) -> Belief:
        """Return what is believed of a row. Shape (width,)."""
        return self._belief(row)[0]

    def _belief(self, row: Floats) -> tuple[Belief, Floats]:
        (used,) = row.nonzero()  # most columns of a row are 0
        values = row[used]
        along = portable.product(values, self._covariance[used])
        odds = portable.product(values, self.weights[used, None])
        variance = portable.product(values, along[used, None])
        return Belief(float(odds[0]), max(0.0, float(variance[0]))), along

    def learn(self, row: Floats, label: bool) -> Belief:
        """Take one step; return what was believed of the row before. Shape (width,)."""
        before, along = self._belief(row)
        odds, variance = before
        moved, curvature = _mode(odds, variance, label)
        self.weights += along * moved
        along *= np.sqrt(curvature / (1.0 + curvature * variance))
        # The product of a vector with itself is symmetric to the last bit, and so stays the covariance.
        self._covariance -= np.multiply.outer(along, along, out=self._change)
        if self._noise:
            variances = self._covariance.reshape(-1)[:: self.width + 1]
            variances += np.clip(self._prior - variances, 0.0, self._noise)
        return before

    def state(self) -> State:
        """Return the complete state."""
        return {
            "prior": self._prior.copy(), "noise": self._noise, "weights": self.weights.copy(),
            "covariance": self._covariance.copy(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a regression that continues exactly where `state` was taken."""
        model = cls(state["prior"], noise=state["noise"])
        model.weights, model._covariance = state["weights"].copy(), state["covariance"].copy()
        return model


def _mode(odds: float, variance: float, label: bool) -> tuple[float, float]:
    """Return how far along the row's direction the mode lies, and the curvature of the loss there.

    The distance a solves `label - sigmoid(odds + variance * a) = a`: Newton's method, within the bounds of the root.
    """
    low, high = (0.0, 1.0) if label else (-1.0, 0.0)
    a, step = 0.0, 1.0
    for _ in range(_steps_max):
        p = sigmoid(odds + variance * a)
        rest = label - p - a
        if rest > 0:
            low = a
        else:
            high = a
        newton = rest / (1.0 + variance * p * (1.0 - p))
        # A step of Newton's that leaves the bounds, or is no shorter than half of the last one, may go on for ever.
        inside = low <= a + newton <= high and 2.0 * abs(newton) <= abs(step)
        step = newton if inside else (low + high) / 2 - a
        a += step
        if abs(step) <= _near:
            break
    p = sigmoid(odds + variance * a)
    return a, p * (1.0 - p)
