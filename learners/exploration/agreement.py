"""Agreement: what a policy would have had of the rewards of the one in use, by the answers of the latter.

Both are estimated by self-normalised inverse propensity weighting, each answer weighted by the probability that the
policy gives to what was shown, divided by that with which it was shown. Estimated is what was learned before each
answer's reward was known. (That both would choose the same says little: the present ranking is always the same choice,
and a better policy chooses differently.)

Source: Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning", NIPS 2015.
"""

from typing import Any, Final, Self

from learners.parts.decay import Decay

answers_min: Final = 200.0
rewards_min: Final = 30.0
"""Effective answers, and effective rewards, of the policy from which on the agreement is told."""


class Agreement:
    """The sums from which the agreement of a policy with the one in use follows.

    >>> agreement = Agreement(1_000_000)
    >>> agreement.ratio is None
    True
    >>> for number in range(1_000):
    ...     agreement.add(0.9, 0.6, 0.6, float(number % 10 == 0), number)
    >>> round(agreement.ratio, 2)
    1.0
    """

    def __init__(self, half_life_ms: int) -> None:
        self._decay = Decay(half_life_ms)
        self._sums = [0.0] * 4
        self._squares = [0.0] * 2

    def add(self, learned: float, used: float, shown: float, reward: float, time_ms: int) -> None:
        """Add an answer: the probabilities of what was shown by both policies, that with which it was, its reward."""
        factor = self._decay.advance(time_ms)
        if factor != 1.0:
            self._sums = [factor * one for one in self._sums]
            self._squares = [factor * factor * one for one in self._squares]
        weight = self._decay.weight(time_ms)
        ours, others = weight * learned / shown, weight * used / shown
        for place, value in enumerate((ours, ours * reward, others, others * reward)):
            self._sums[place] += value
        self._squares[0] += ours * ours
        self._squares[1] += ours * reward * ours * reward

    @property
    def ratio(self) -> float | None:
        """The learned policy's mean reward as a share of that of the one in use; None: too few answers."""
        ours, rewards, others, rewards_of_others = self._sums
        if not (rewards and rewards_of_others):
            return None
        if ours * ours / self._squares[0] < answers_min or rewards * rewards / self._squares[1] < rewards_min:
            return None
        return (rewards / ours) / (rewards_of_others / others)

    def state(self) -> dict[str, Any]:
        """Return the complete state."""
        return {"decay": self._decay.state(), "sums": list(self._sums), "squares": list(self._squares)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return an agreement that continues where `state` was taken."""
        found = cls(state["decay"]["half_life_ms"])
        found._decay = Decay.from_state(state["decay"])
        found._sums, found._squares = list(state["sums"]), list(state["squares"])
        return found
