"""Logistic regression by stochastic gradient descent on sparse features, from River's parts."""

from collections.abc import Mapping
from math import exp
from typing import Any, Final


class Regression:
    """River's `LogisticRegression` with `SGD`, bit for bit, without its general options.

    It keeps River's vector, and writes out River's loss (`optim.losses.Log`) and step (`optim.SGD`): their general
    options (initial and sample weights, gradient clipping, regularisation, arrays, schedules of the rate) take more
    than half of the time of a step, and a stream has one step per view.

    >>> model = Regression(rate=0.1)
    >>> model.probability({1: 1.0})
    0.5
    >>> model.learn({1: 1.0}, True)
    >>> model.probability({1: 1.0})
    0.52497918747894

    Args:
        rate: the learning rate, of the intercept too.
        intercept: the log odds predicted before anything is learned.
    """

    def __init__(self, *, rate: float, intercept: float = 0.0) -> None:
        from river.utils import VectorDict  # takes a second, which the commands that learn nothing need not wait

        self._scaled: Final = VectorDict.from_scaled
        self.intercept = intercept
        self._rate: Final = rate
        self._weights: VectorDict[Any, float] = VectorDict(None)

    def probability(self, features: dict[Any, float]) -> float:
        """Return the probability that the label is true, given the features that are not 0."""
        return sigmoid(self._weights.dot(features) + self.intercept)

    def weights_of(self, features: dict[Any, float]) -> float:
        """Return what these features add to the log-odds."""
        return float(self._weights.dot(features))

    def learn(self, features: dict[Any, float], true: bool) -> None:
        """Take one gradient step."""
        weights = self._weights
        odds = weights.dot(features) + self.intercept
        gradient = _gradient(odds) if true else -_gradient(-odds)
        self.intercept -= self._rate * gradient
        weights.isub_scaled(self._scaled(features, gradient), self._rate)

    def relabel(self, features: dict[Any, float], true: bool) -> None:
        """Take back a step of the other label, and take the one of this label.

        The gradients of the two labels differ by 1 times the features, whatever the weights. So this is exact for the
        step itself; the steps since then stay as they were, with the gradients of the weights that they found.

        >>> model, right = Regression(rate=0.1), Regression(rate=0.1)
        >>> model.learn({1: 1.0}, False)
        >>> model.relabel({1: 1.0}, True)
        >>> right.learn({1: 1.0}, True)
        >>> model.weights == right.weights
        True
        """
        gradient = -1.0 if true else 1.0
        self.intercept -= self._rate * gradient
        self._weights.isub_scaled(self._scaled(features, gradient), self._rate)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def weights(self) -> dict[int, float]:
        """Return a copy of the weights."""
        return dict(self._weights.to_dict())

    def restore(self, weights: Mapping[int, float], intercept: float) -> None:
        """Set weights and intercept. Call only before the first step."""
        self._weights.update(weights)
        self.intercept = intercept


def sigmoid(odds: float) -> float:
    """Return the probability that log-odds stand for.

    >>> sigmoid(0.0), sigmoid(-31.0)
    (0.5, 0.0)
    """
    if odds < -30:
        return 0.0
    return 1.0 if odds > 30 else 1 / (1 + exp(-odds))


def _gradient(odds: float) -> float:
    """Return the gradient of the log loss of a true label, by its log-odds."""
    if odds > 18.0:
        return -exp(-odds)
    return -1.0 if odds < -18.0 else -1.0 / (exp(odds) + 1.0)
