"""The reward model of the doubly robust estimators: a ridge regression on context x action, from sums alone.

The predicted reward of an action is `x @ shared + z @ own[action]`, with the context `x` (a 1 before it) and `z` its
first `own_features` numbers: all of them, or only the 1 if there are many actions. What an action has of its own is
shrunk, so that an action with few answers is predicted by what all actions share. Five folds of shoppers: rewards of a
shopper are predicted by a model, with a penalty, that knows none of them.

It needs only sums of products by fold and action, so one pass over the answers suffices, whatever their number.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

folds: Final = 5
own_max: Final = 4_096
"""Most numbers that actions have of their own, all together; with more, an action has only a mean of its own."""
penalties: Final = (1.0, 10.0, 100.0, 1_000.0, 100_000.0)
"""What the penalty of an action's own numbers is chosen from: about the answers that are needed to believe them."""
_shared_penalty: Final = 1.0


class _Fit(NamedTuple):
    """Shapes: shared (models, width); own (models, actions, own_features)."""

    shared: Floats
    own: Floats


class RewardModel:
    """Sums of products of all answers, and what is fitted to them.

    Args:
        actions: number of actions.
        features: numbers of a context.
    """

    def __init__(self, actions: int, features: int) -> None:
        self._width = features + 1
        self._own = self._width if actions * self._width <= own_max else 1
        self._actions = actions
        self._by_action = np.zeros((folds, actions, self._own, self._width))
        self._rewards_by_action = np.zeros((folds, actions, self._own))
        self._all = np.zeros((folds, self._width, self._width))
        self._rewards = np.zeros((folds, self._width))
        self._fit: _Fit | None = None
        self._scale = np.eye(self._width)

    def add(self, fold: Integers, context: Floats, action: Integers, reward: Floats) -> None:
        """Add answers.

        Shapes:
            fold, action, reward: (answers,)
            context: (answers, features)
        """
        x = _with_one(context)
        group = fold * self._actions + action
        order = np.argsort(group, kind="stable")
        sorted_group = group[order]
        bounds = np.flatnonzero(np.diff(sorted_group, prepend=-1))
        x, y = x[order], reward[order]
        ends = np.append(bounds[1:], len(order))
        for start, end, number in zip(bounds, ends, sorted_group[bounds], strict=True):
            rows, of = x[start:end], divmod(int(number), self._actions)
            products, sums = rows.T @ rows, rows.T @ y[start:end]
            self._all[of[0]] += products
            self._rewards[of[0]] += sums
            self._by_action[of] += products[: self._own]
            self._rewards_by_action[of] += sums[: self._own]

    def fit(self) -> None:
        """Choose the penalties and fit a model for each fold, to the answers of the others."""
        self._standardise()
        pairs = [(one, other) for one in range(folds) for other in range(one)]
        errors = np.zeros((folds, len(penalties)))
        weights = np.array([[1.0 - (fold in pair) for fold in range(folds)] for pair in pairs])
        for place, penalty in enumerate(penalties):
            fit = self._solved(weights, np.full(len(pairs), penalty))
            for model, (one, other) in enumerate(pairs):
                errors[one, place] += self._error(fit, model, other)
                errors[other, place] += self._error(fit, model, one)
        chosen = np.array(penalties)[np.argmin(errors, axis=1)]
        self._fit = self._solved(1 - np.eye(folds), chosen)

    def predict(self, fold: Integers, context: Floats) -> Floats:
        """Return the predicted rewards of all actions, by the model that knows no answer of the fold.

        Shapes:
            fold: (answers,)
            context: (answers, features)
            returns: (answers, actions)
        """
        assert self._fit, "fit comes before predict"
        x = _with_one(context) @ self._scale.T
        found = np.empty((len(x), self._actions))
        for number in range(folds):
            of = fold == number
            rows = x[of]
            found[of] = (rows @ self._fit.shared[number])[:, None] + rows[:, : self._own] @ self._fit.own[number].T
        return found

    def _standardise(self) -> None:
        """Rewrite the sums as those of features of mean 0 and variance 1; one that never varies becomes 0."""
        total = self._all.sum(axis=0)
        means = total[0] / total[0, 0]
        variances = np.maximum(0.0, np.diag(total) / total[0, 0] - means**2)
        varies = variances > 1e-12 * (1 + means**2)
        scale = np.where(varies, 1 / np.sqrt(np.where(varies, variances, 1.0)), 0.0)
        self._scale = np.diag(scale)
        self._scale[:, 0] = -means * scale
        self._scale[0] = np.eye(self._width)[0]
        own = self._scale[: self._own, : self._own]
        self._all = self._scale @ self._all @ self._scale.T
        self._rewards = self._rewards @ self._scale.T
        self._by_action = own @ self._by_action @ self._scale.T
        self._rewards_by_action = self._rewards_by_action @ own.T

    def _solved(self, weights: Floats, penalty: Floats) -> _Fit:
        """Return a model for each row of weights of the folds, with its penalty.

        An action's own numbers are eliminated: what is left for the shared ones is a small system.

        Shapes:
            weights: (models, folds)
            penalty: (models,)
        """
        products = np.tensordot(weights, self._by_action, 1)
        sums = np.tensordot(weights, self._rewards_by_action, 1)
        system = products[..., : self._own] + penalty[:, None, None, None] * np.eye(self._own)
        solved = np.linalg.solve(system, np.concatenate([products, sums[..., None]], axis=-1))
        explained = np.einsum("maox,maoy->mxy", products, solved, optimize=True)
        left = np.tensordot(weights, self._all, 1) - explained[..., :-1]
        left += _shared_penalty * np.eye(self._width)
        shared = np.linalg.solve(left, (np.tensordot(weights, self._rewards, 1) - explained[..., -1])[..., None])[
            ..., 0
        ]
        return _Fit(shared, solved[..., -1] - np.einsum("maox,mx->mao", solved[..., :-1], shared))

    def _error(self, fit: _Fit, model: int, fold: int) -> float:
        """Return a model's sum of squared errors on a fold, less the rewards' sum of squares."""
        shared, own = fit.shared[model], fit.own[model]
        products = self._by_action[fold]
        square = shared @ self._all[fold] @ shared
        square += 2 * np.sum(own * (products @ shared))
        square += np.sum(own * np.einsum("aox,ax->ao", products[..., : self._own], own))
        return float(square - 2 * (shared @ self._rewards[fold] + np.sum(own * self._rewards_by_action[fold])))


def _with_one(context: Floats) -> Floats:
    return np.concatenate([np.ones((len(context), 1)), context], axis=1)
