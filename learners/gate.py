"""The gate: may the challenger take the champion's place? And, after it did: should it give the place back?

Both are scored on the same predictions, on events that neither was trained on, by a score in [0, 1] (a reciprocal rank,
a hit). The gate watches the differences by a test that is valid at every moment, so that it may stop as soon as it
knows: looking often does not make a false promotion more likely. What is scored and against whom is
`learners.contest`'s; the gate sees only two numbers per prediction. Pure: no clock, no model, typed state.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 2024): a bettor who
stakes a share of the wealth on each difference multiplies it by 1 + stake * difference, a supermartingale where the
mean is at most 0; by Ville's inequality it ever reaches 1 / alpha with probability at most alpha. The stake is not
tuned as one goes: the wealth is split evenly over a few fixed stakes (their diversified Kelly betting), which costs at
most the logarithm of their number and keeps no estimate that an outlier could spoil.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, Self

import numpy as np

from headrace.state import State

gate_events_max: Final = 20_000
"""Predictions after which a test without a verdict ends: the challenger is not worth more waiting."""
alpha_promote: Final = 0.05
"""Chance, at most, that a challenger that is no better is promoted, or a predecessor that is no better called back."""
alpha_refuse: Final = 0.05
"""Chance, at most, that a challenger that is no worse is refused before the end."""
slice_predictions_min: Final = 30
"""Fewer predictions of a slice say nothing about retention."""
_STAKES: Final = np.array([0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
"""Shares of the wealth that are staked: the best is about mean / variance of the differences, and none can go broke."""

Kind = Literal["promote", "refuse", "rollback", "keep"]
Reason = Literal["better", "worse", "weak", "undecided"]


class Verdict(NamedTuple):
    """What a test came to: `reason` is about the challenger, `evidence` is the wealth behind it (1 is none).

    Of one test the reason is better, worse or undecided; "weak" is a contest's word for one that is absurd alone.
    """

    kind: Kind
    reason: Reason
    evidence: float
    events: int
    mean_difference: float


class Gate:
    """A sequential test of a challenger against the champion; with `probation`, of a predecessor against its successor.

    Before a promotion the challenger must prove itself: undecided means refused. On probation the predecessor is the
    challenger, and must prove that it was better: undecided means that the promoted model is kept.
    """

    def __init__(
        self,
        *,
        probation: bool = False,
        alpha_better: float = alpha_promote,
        alpha_worse: float = alpha_refuse,
        events_max: int = gate_events_max,
    ) -> None:
        assert 0 < alpha_better < 1, "alpha is a probability"
        assert 0 < alpha_worse < 1, "alpha is a probability"
        assert events_max >= 1, "a test sees at least one event"
        self.probation, self.events_max = probation, events_max
        self.alpha_better, self.alpha_worse = alpha_better, alpha_worse
        self.verdict: Verdict | None = None
        self.events, self.summed = 0, 0.0
        # Logarithms of the wealth of each stake: first those that bet on better, then those on worse.
        self._wealth = np.zeros((2, len(_STAKES)))

    def observe(self, champion: float, challenger: float) -> Verdict | None:
        """Learn how both did on one prediction, in [0, 1]; return the verdict once there is one, and from then on.

        >>> gate = Gate()
        >>> for _ in range(100):
        ...     verdict = gate.observe(0.25, 0.5)
        >>> verdict.kind, verdict.reason, verdict.events
        ('promote', 'better', 32)
        """
        assert 0 <= champion <= 1, f"a champion's score of {champion} is outside [0, 1]"
        assert 0 <= challenger <= 1, f"a challenger's score of {challenger} is outside [0, 1]"
        if self.verdict is not None:
            return self.verdict
        difference = challenger - champion
        self.events += 1
        self.summed += difference
        self._wealth += np.log1p(np.array([[difference], [-difference]]) * _STAKES)
        better, worse = self.evidence()
        if better >= 1 / self.alpha_better:
            self._decide("better", better)
        elif worse >= 1 / self.alpha_worse:
            self._decide("worse", worse)
        elif self.events >= self.events_max:
            self._decide("undecided", max(better, worse))
        return self.verdict

    def expire(self) -> Verdict:
        """End the test: without a verdict so far it is undecided."""
        if self.verdict is None:
            self._decide("undecided", max(self.evidence()))
        assert self.verdict is not None
        return self.verdict

    def evidence(self) -> tuple[float, float]:
        """Return the wealth against "no better" and against "no worse"; each starts at 1."""
        # Capped far above any alpha, where exp would overflow.
        better, worse = np.exp(np.minimum(self._wealth, 600.0)).mean(axis=1).tolist()
        return better, worse

    def _decide(self, reason: Reason, evidence: float) -> None:
        kind: Kind
        if self.probation:
            kind = "rollback" if reason == "better" else "keep"
        else:
            kind = "promote" if reason == "better" else "refuse"
        self.verdict = Verdict(kind, reason, evidence, self.events, self.summed / max(1, self.events))

    def state(self) -> State:
        """Return all that the gate knows."""
        return {
            "probation": self.probation,
            "alpha_better": self.alpha_better,
            "alpha_worse": self.alpha_worse,
            "events_max": self.events_max,
            "events": self.events,
            "summed": self.summed,
            "wealth": self._wealth.copy(),
            "verdict": None if self.verdict is None else list(self.verdict),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a gate that continues exactly where `state` was taken."""
        gate = cls(**{name: state[name] for name in ("probation", "alpha_better", "alpha_worse", "events_max")})
        gate.events, gate.summed, gate._wealth = state["events"], state["summed"], state["wealth"].copy()
        gate.verdict = None if state["verdict"] is None else Verdict(*state["verdict"])
        return gate


def retention(
    champion: Mapping[str, Sequence[float]],
    challenger: Mapping[str, Sequence[float]],
    *,
    drop_max: float = 0.01,
    confidence_z: float = 1.645,
) -> list[str]:
    """Return why the challenger forgot too much, one sentence per slice; an empty list if it did not.

    A slice is refused when its mean score fell by more than `drop_max` and chance is no excuse: the fall less
    `confidence_z` standard errors of the paired differences (1.645: one-sided 95 %) still exceeds the bound. Slices
    with fewer than `slice_predictions_min` predictions are passed over.

    Args:
        champion, challenger: for each older slice, the scores of both on the same predictions, in the same order.

    >>> retention({"may": [0.5] * 100, "june": [0.5] * 100}, {"may": [0.5] * 100, "june": [0.4] * 100})
    ['slice june: the mean score fell by 0.1000 (at least 0.1000) over 100 predictions, more than 0.01']
    """
    assert champion.keys() == challenger.keys(), "champion and challenger were scored on different slices"
    reasons = []
    for name in sorted(champion):
        fall = np.asarray(champion[name], np.float64) - np.asarray(challenger[name], np.float64)
        if len(fall) < slice_predictions_min:
            continue
        mean = float(fall.mean())
        least = mean - confidence_z * float(fall.std(ddof=1)) / math.sqrt(len(fall))
        # Written so that a NaN, which compares as false, is a reason too.
        if not least <= drop_max:
            reasons.append(
                f"slice {name}: the mean score fell by {mean:.4f} (at least {least:.4f}) over {len(fall)} predictions, "
                f"more than {drop_max}"
            )
    return reasons
