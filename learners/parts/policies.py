"""Policies of exploring arms: the probabilities that they state, and the newest one of each arm.

A learned policy is Thompson sampling whose probabilities are computed, not sampled: an action's is the probability that
its expected reward is the highest, raised to the floor. So what is logged is what was drawn from.

With F_a the distribution function of the expected reward of action a, that is the integral of the product of the
others' F_b over dF_a. It is a sum over the quantiles of all actions, so that it is as fine as the finest of them.

Source: Thompson, "On the likelihood that one unknown probability exceeds another", Biometrika 25, 1933; Agrawal and
Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013. The normal distribution function is
that of Abramowitz and Stegun, 7.1.27, within 5e-4: sums, products and quotients, whose bits no processor changes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import sqrt
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.events import Rejection
from headrace.experiments import Explore
from headrace.log.protocol import Record
from headrace.policies import Policy, decode, features_of

Floats = NDArray[np.float64]

policies_max: Final = 256
"""Most arms whose policy is remembered; the one that was heard of least recently is forgotten first."""
_QUANTILES: Final = np.array([-3.0, -1.8, -1.1, -0.65, -0.3, 0.0, 0.3, 0.65, 1.1, 1.8, 3.0])
"""Where the distribution functions are computed, in standard deviations."""
_spread_min: Final = 1e-9
_least: Final = 1e-12
_TERMS: Final = [0.078108 / 4, 0.000972 * sqrt(0.125), 0.230389 / 2, 0.278393 * sqrt(0.5)]
"""The coefficients of the fourth power of the argument, divided by powers of the root of 2, down to the first."""


def best(means: Floats, deviations: Floats) -> Floats:
    """Return for each action the probability that its normally distributed value is the highest.

    >>> best(np.array([0.0, 0.0, -9.0]), np.array([1.0, 1.0, 1.0])).round(3).tolist()
    [0.5, 0.5, 0.0]
    >>> best(np.array([1.0, 0.0]), np.array([1.0, 1.0])).round(2).tolist()  # exactly 0.760
    [0.76, 0.24]

    Shapes:
        means, deviations, returns: (K,), K actions; deviations are above 0.
    """
    column = means[:, None], deviations[:, None]
    points = (column[0] + column[1] * _QUANTILES).ravel()
    points.sort()
    below = _normal((points - column[0]) / column[1])
    below[:, 0], below[:, -1] = _least, 1.0  # what lies beyond the outermost points counts as at these
    others = np.multiply.reduce(below) / below
    found: Floats = np.einsum("kp,kp->k", below[:, 1:] - below[:, :-1], others[:, 1:] + others[:, :-1])
    found /= found.sum()
    return found


def _normal(z: Floats) -> Floats:
    """Return the standard normal distribution function, at least `_least`."""
    x = np.abs(z)
    found = x * _TERMS[0]
    for term in _TERMS[1:]:
        found += term
        found *= x
    found += 1.0
    found *= found
    found *= found
    np.divide(0.5, found, out=found)  # the tail
    np.subtract(0.5, found, out=found)
    np.copysign(found, z, out=found)
    found += 0.5
    return np.maximum(found, _least)


class Chooser:
    """A policy that is ready to choose.

    Args:
        policy: of K actions and d features.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        features = len(policy.features)
        # Of each action, a row for the mean, and those of S.
        self._rows = np.zeros((len(policy.means), 1 + features, features))
        if policy.means:
            self._rows[:, 0] = policy.means
            self._rows[:, 1:][(slice(None), *np.tril_indices(features))] = policy.spreads

    def probabilities(self, context: Sequence[float], count: int | None = None) -> Floats:
        """Return the probability of each action in a context, at least the policy's floor.

        Args:
            context: d numbers.
            count: how many of the actions, the first ones, there are to choose from.

        >>> policy = Policy(version="p1", state="apprentice", actions=("a", "b"), floor=0.02, features=("always",))
        >>> Chooser(policy).probabilities([1.0]).tolist()
        [0.98, 0.02]
        """
        if self.policy.state == "apprentice":
            return present(len(self.policy.actions) if count is None else count, self.policy.floor)
        return self.learned(context, count)

    def learned(self, context: Sequence[float], count: int | None = None) -> Floats:
        """Return the probabilities by what was learned, whatever the policy's state is."""
        floor, rows = self.policy.floor, self._rows[:count]
        scaled = np.einsum("krd,d->kr", rows, np.array(context))
        deviations = np.einsum("kr,kr->k", scaled[:, 1:], scaled[:, 1:])
        found = best(scaled[:, 0], np.sqrt(deviations) + _spread_min)
        found *= 1 - floor * len(found)
        found += floor
        return found


def present(actions: int, floor: float) -> Floats:
    """Return the probabilities of who follows the present ranking, which is the first action.

    >>> present(3, 0.02).tolist()
    [0.96, 0.02, 0.02]
    """
    found = np.full(actions, floor)
    found[0] = 1 - floor * (actions - 1)
    return found


def probabilities(policy: Policy, context: Sequence[float]) -> Floats:
    """Return the probability with which a policy chooses each action in a context; for many contexts, make a `Chooser`.

    Raises:
        ValueError: the context is not one of the policy's features.
    """
    if len(context) != len(policy.features):
        raise ValueError(f"wanted a context of {len(policy.features)} numbers, found {len(context)}")
    return Chooser(policy).probabilities(context)


class Policies:
    """The newest policy of each arm that explores."""

    def __init__(self) -> None:
        self._choosers: OrderedDict[tuple[str, str], Chooser] = OrderedDict()

    def hear(self, record: Record) -> Rejection | None:
        """Take over what a record states; return why, if it cannot be used."""
        found = decode(record)
        if isinstance(found, Rejection):
            return found
        self._choosers.pop((found.experiment, found.arm), None)
        if found.policy is not None:
            self._choosers[found.experiment, found.arm] = Chooser(found.policy)
            if len(self._choosers) > policies_max:
                self._choosers.popitem(last=False)
        return None

    def of(self, experiment: str, arm: str, explore: Explore) -> Chooser | None:
        """Return the policy of an arm, None if there is none of its actions and of today's features."""
        found = self._choosers.get((experiment, arm))
        if found is None or found.policy.actions != explore.actions or found.policy.features != features_of(explore):
            return None
        return found

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of policies and the maximum."""
        return {"policies": (len(self._choosers), policies_max)}

    def state(self) -> list[Any]:
        """Return all policies, the one that was heard of least recently first."""
        return [[*names, msgspec.to_builtins(one.policy)] for names, one in self._choosers.items()]

    @classmethod
    def from_state(cls, state: list[Any]) -> Self:
        """Return policies that continue where `state` was taken."""
        found = cls()
        for experiment, arm, policy in state:
            found._choosers[experiment, arm] = Chooser(msgspec.convert(policy, Policy))
        return found
