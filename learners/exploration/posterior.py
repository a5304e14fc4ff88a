"""What is known of each action's reward in a context: linear regressions with a common part, which forget.

The reward of action a in a context x has the mean (w + v_a) x. What all actions have in common, w, is learned from all
answers; an action's own part, v_a, is normally distributed around 0 before anything is known of it, with a standard
deviation of `own_share` of the mean reward for each feature. So an action of which little is known is expected to do
as well as the others, and how far it could differ goes by how rare rewards are. Differences between actions do not
depend on how well w is known, so only v_a's uncertainty is told.

An answer's weight halves with each half-life of the shop's time. When an action is not tried any more, what is known
of it returns to what is common to all, and its uncertainty grows: it is tried again.

Source: Russac, Vernade and Cappe, "Weighted linear bandits for non-stationary environments", NeurIPS 2019, for
the exponential weights; Efron and Morris, "Data analysis using Stein's estimator and its generalizations", JASA 70,
1975, for the common part. All arithmetic is elementwise or in a fixed order, so that states agree on all processors.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.parts.decay import Decay

Floats = NDArray[np.float64]

own_share: Final = 0.5
"""Standard deviation of an action's own part, for each feature, as a share of the mean reward."""
caution: Final = 0.2
"""What is told of the uncertainty, as a share: with all of it, choices of little use are tried for too long
(benchmarks.exploration)."""
common_precision: Final = 1.0
"""Answers that the common part's prior is worth."""
first_answers: Final = 20.0
first_rewards: Final = 1.0
"""Answers, and rewards among them, by which the mean reward is estimated before there are others."""


class Parameters(NamedTuple):
    """Normal distributions of each action's expected reward, as `headrace.policies.Policy` has them.

    Shapes: means (K, d), spreads (K, d, d), lower triangles.
    """

    means: Floats
    spreads: Floats


class Posterior:
    """The regressions of K actions on d features.

    >>> posterior = Posterior(2, 1, half_life_ms=1_000_000)
    >>> for number in range(200):
    ...     posterior.learn(number % 2, [1.0], float(number % 4 == 1), 1_000 * number)
    >>> [round(float(one), 2) for one in posterior.parameters(200_000).means[:, 0]]
    [0.03, 0.47]
    """

    def __init__(self, actions: int, features: int, *, half_life_ms: int) -> None:
        self.decay = Decay(half_life_ms)
        self._products = np.zeros((actions, features, features))
        self._sums = np.zeros((actions, features))
        self._counts, self._rewards = np.zeros(actions), np.zeros(actions)

    def learn(self, action: int, context: Sequence[float], reward: float, time_ms: int) -> None:
        """Learn the reward, from 0 to 1, of one answer."""
        factor = self.decay.advance(time_ms)
        if factor != 1.0:
            for one in (self._products, self._sums, self._counts, self._rewards):
                one *= factor
        weight, x = self.decay.weight(time_ms), np.array(context)
        weighted = weight * x
        self._products[action] += weighted[:, None] * x
        self._counts[action] += weight
        if reward:
            self._sums[action] += reward * weighted
            self._rewards[action] += reward * weight

    def begin(self, action: int, known: "Posterior", time_ms: int, *, answers_max: float) -> None:
        """Begin an action with what another posterior knows of its only one, as of at most so many answers.

        It may know the first features alone.
        """
        self.decay.advance(time_ms)
        weight, answers = self.decay.weight(time_ms), float(known.counts(time_ms)[0][0])
        if answers <= 0:
            return
        scale = min(1.0, answers_max / answers) * weight / known.decay.weight(time_ms)
        size = known._sums.shape[1]
        self._products[action, :size, :size] += scale * known._products[0]
        self._sums[action, :size] += scale * known._sums[0]
        self._counts[action] += scale * known._counts[0]
        self._rewards[action] += scale * known._rewards[0]

    def counts(self, time_ms: int) -> tuple[Floats, Floats]:
        """Return for each action the number of answers and the sum of their rewards, each by its weight now."""
        weight = self.decay.weight(time_ms)
        return self._counts / weight, self._rewards / weight

    def parameters(self, time_ms: int) -> Parameters:
        """Return what is known at a time that is not before that of the newest answer."""
        weight = self.decay.weight(time_ms)
        products, sums = self._products / weight, self._sums / weight
        answers = float(np.add.reduce(self._counts)) / weight + first_answers
        mean = (float(np.add.reduce(self._rewards)) / weight + first_rewards) / answers
        mean = min(0.99, mean)
        variance = mean * (1 - mean)
        precision = variance / (own_share * mean) ** 2
        common = _common(np.add.reduce(products), np.add.reduce(sums))
        inverse = inverse_factor(products + precision * np.eye(products.shape[1]))
        left = sums - np.einsum("kde,e->kd", products, common)
        half = np.einsum("kde,ke->kd", inverse, left)
        means = common + np.einsum("ked,ke->kd", inverse, half)
        return Parameters(means, caution * np.sqrt(variance) * inverse)

    def state(self) -> dict[str, Any]:
        """Return the complete state."""
        return {
            "decay": self.decay.state(), "products": self._products.copy(), "sums": self._sums.copy(),
            "counts": self._counts.copy(), "rewards": self._rewards.copy(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a posterior that continues where `state` was taken."""
        found = cls(*state["sums"].shape, half_life_ms=state["decay"]["half_life_ms"])
        found.decay = Decay.from_state(state["decay"])
        found._products, found._sums = state["products"].copy(), state["sums"].copy()
        found._counts, found._rewards = state["counts"].copy(), state["rewards"].copy()
        return found


def _common(products: Floats, sums: Floats) -> Floats:
    inverse = inverse_factor(products[None] + common_precision * np.eye(len(sums)))[0]
    half = np.einsum("de,e->d", inverse, sums)
    found: Floats = np.einsum("ed,e->d", inverse, half)
    return found


def inverse_factor(matrices: Floats) -> Floats:
    """Return S with S' S the inverse of each matrix, which is symmetric and positive definite; S is a lower triangle.

    It is the inverse of the Cholesky factor. LAPACK's last bits differ between processors; these do not.

    >>> found = inverse_factor(np.array([[[4.0, 2.0], [2.0, 5.0]]]))[0]
    >>> (found.T @ found @ np.array([[4.0, 2.0], [2.0, 5.0]])).round(12).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Shapes:
        matrices, returns: (K, d, d)
    """
    left, size = matrices.copy(), matrices.shape[1]
    found = np.zeros_like(left) + np.eye(size)
    for column in range(size):
        root = np.sqrt(left[:, column, column])[:, None]
        factor = left[:, column:, column] / root
        found[:, column] /= root
        found[:, column + 1 :] -= factor[:, 1:, None] * found[:, None, column]
        left[:, column + 1 :, column + 1 :] -= factor[:, 1:, None] * factor[:, None, 1:]
    return found
