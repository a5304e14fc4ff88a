"""Logistic regression by stochastic gradient descent on sparse features, from River's parts."""

from collections.abc import Mapping
from typing import Any, Final


class Regression:
    """River's `LogisticRegression` with `SGD`, bit for bit, without its general options.

    It uses River's own loss, optimiser and vector. River's model also handles initial weights, sample weights, gradient
    clipping and regularisation, which takes a quarter of the time of a step; a stream has one step per view.

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
        from river import optim  # takes a second, which the commands that learn nothing need not wait
        from river.utils import VectorDict

        self._scaled: Final = VectorDict.from_scaled
        self.intercept = intercept
        self._rate: Final = rate
        self._loss: Final = optim.losses.Log()
        self._optimizer: Final = optim.SGD(rate)
        self._weights: VectorDict[Any, float] = VectorDict(None)

    def probability(self, features: dict[Any, float]) -> float:
        """Return the probability that the label is true, given the features that are not 0."""
        return float(self._loss.mean_func(self._weights.dot(features) + self.intercept))

    def weights_of(self, features: dict[Any, float]) -> float:
        """Return what these features add to the log-odds."""
        return float(self._weights.dot(features))

    def chance(self, odds: float) -> float:
        """Return the probability that log-odds stand for."""
        return float(self._loss.mean_func(odds))

    def learn(self, features: dict[Any, float], true: bool) -> None:
        """Take one gradient step."""
        weights = self._weights
        gradient = self._loss.gradient(y_true=true, y_pred=weights.dot(features) + self.intercept)
        self.intercept -= self._rate * gradient
        self._optimizer.step(weights, self._scaled(features, gradient))

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
