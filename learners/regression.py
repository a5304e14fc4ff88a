"""Logistic regression by stochastic gradient descent on sparse features, from River's parts."""

from collections.abc import Mapping
from typing import Any, Final

from river import optim
from river.utils import VectorDict


class Regression:
    """River's `LogisticRegression` with `SGD`, bit for bit, without what it does for other models.

    It is River's own loss, optimiser and vector. Around them the general model makes a context for starting weights,
    weighs, clips and regularises: a quarter of the time of a step, of which a stream has as many as views.

    >>> model = Regression(rate=0.1)
    >>> model.probability({1: 1.0})
    0.5
    >>> model.learn({1: 1.0}, True)
    >>> model.probability({1: 1.0})
    0.52497918747894

    Args:
        rate: the learning rate, of the intercept too.
        intercept: the log odds that are given before anything is learned.
    """

    def __init__(self, *, rate: float, intercept: float = 0.0) -> None:
        self.intercept = intercept
        self._rate: Final = rate
        self._loss: Final = optim.losses.Log()
        self._optimizer: Final = optim.SGD(rate)
        self._weights: VectorDict[Any, float] = VectorDict(None)

    def probability(self, features: dict[Any, float]) -> float:
        """Return how likely it is true, given features that are not 0."""
        return float(self._loss.mean_func(self._weights.dot(features) + self.intercept))

    def learn(self, features: dict[Any, float], true: bool) -> None:
        """Take one step."""
        weights = self._weights
        gradient = self._loss.gradient(y_true=true, y_pred=weights.dot(features) + self.intercept)
        self.intercept -= self._rate * gradient
        self._optimizer.step(weights, VectorDict.from_scaled(features, gradient))

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def weights(self) -> dict[int, float]:
        """Return a copy of the weights."""
        return dict(self._weights.to_dict())

    def restore(self, weights: Mapping[int, float], intercept: float) -> None:
        """Go on from there; before the first step alone."""
        self._weights.update(weights)
        self.intercept = intercept
