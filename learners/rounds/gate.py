"""The gate: sequential tests that promote a challenger, or roll a promoted model back to its predecessor.

Both models are scored on the same predictions, on events that neither was trained on, by a score in [0, 1] (a
reciprocal rank, a hit). The test of the differences is anytime-valid, so it can stop as soon as there is enough
evidence: looking often does not make a false promotion more likely. `learners.rounds.contest` decides what is scored
and against which rivals. Pure: no clock, no model, typed state.

This module has what both rules share, and rule 1, by which 0.3.0 decided: one bet per prediction. A journal of 0.3.0
still follows it, because a verdict that was given is never decided anew. Its logarithms and exponentials are numpy's,
whose last bits differ between processors; digests of 0.3.0 depend on them, so they stay. New candidates follow rule 2
(`learners.rounds.session_gate`).

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 2024): staking a
share of the wealth on each difference multiplies the wealth by 1 + stake * difference, a supermartingale if the mean is
at most 0; by Ville's inequality the wealth ever reaches 1 / alpha with probability at most alpha. The stake does not
adapt: the wealth is split evenly over a few fixed stakes (their diversified Kelly betting), which costs at most the
logarithm of their number and needs no estimate that an outlier could distort.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, Self

import numpy as np
from msgspec import Struct

from headrace.state import State

gate_predictions_max: Final = 20_000
"""Predictions after which a test without a verdict ends as undecided."""
alpha_promote: Final = 0.05
"""Probability, at most, of promoting a challenger, or restoring a predecessor, that is no better."""
alpha_refuse: Final = 0.05
"""Probability, at most, of refusing a challenger that is no worse before the test's end."""
STAKES: Final = np.array([0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
"""Shares of the wealth that are staked. The best stake is about mean / variance of the differences; below 1, the wealth
stays positive."""


class Rule(Struct, frozen=True, kw_only=True):
    """The constants of rule 2, from which a verdict follows; they are in the journal with each candidate.

    Why these values: docs/decisions/0015-one-bet-per-session.md.

    Attributes:
        version: 2. A record without a rule means rule 1.
        alpha_better, alpha_worse: as `alpha_promote` and `alpha_refuse`. The former is below 0.05, so that false
            promotions stay below 0.05 even where one of two equal models is better for some hundred predictions.
        stakes: shares of the wealth that are staked.
        predictions_max: predictions after which a test without a verdict ends as undecided.
        session_predictions_max: predictions of one session that count, its first ones.
        session_bound: most that one session counts, in predictions.
        correlation: the assumed intra-class correlation of the differences of a session; a wrong one costs predictions,
            not validity.
        shopper_bets_max: sessions of one shopper that count, the first ones.
        early_predictions: before so many predictions, a promotion needs more evidence, in inverse proportion: they may
            all lie in one regime.
        own_score_share_min: least share of the best fast learner's own score that a candidate must reach.
    """

    version: int = 2
    alpha_better: float = 0.025
    alpha_worse: float = alpha_refuse
    stakes: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    predictions_max: int = gate_predictions_max
    session_predictions_max: int = 16
    correlation: float = 0.1
    shopper_bets_max: int = 3
    session_bound: float = 1.0
    early_predictions: int = 2_000
    own_score_share_min: float = 0.5


VerdictKind = Literal["promote", "refuse", "rollback", "keep"]
VerdictReason = Literal["better", "worse", "weak", "undecided"]


class Verdict(NamedTuple):
    """The result of a test: `reason` is about the challenger, `evidence` is the wealth for it (1 is no evidence).

    A test's reason is better, worse or undecided. A contest also uses "weak", for a model whose own score is too low.
    `interval` holds the mean difference with probability 1 - alpha_better - alpha_worse, whenever the test ends;
    `sessions` is the number of bets. Rule 1 has neither.
    """

    kind: VerdictKind
    reason: VerdictReason
    evidence: float
    predictions: int
    mean_difference: float
    interval: tuple[float, float] | None = None
    sessions: int = 0


def kind_of(reason: VerdictReason, *, probation: bool) -> VerdictKind:
    """Return what follows from a test's reason; on probation the challenger is a fallback of the model in use."""
    if probation:
        return "rollback" if reason == "better" else "keep"
    return "promote" if reason == "better" else "refuse"


class Means:
    """The mean score of each contestant so far."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # sum of scores, their number

    def best(self, names: Iterable[str]) -> str:
        """Return the name with the highest mean; of equal ones the first."""
        return max(names, key=self._mean)

    def add(self, sums: Mapping[str, float], count: int = 1) -> None:
        """Add `count` scores of each contestant, given as their sums."""
        for name, total in sums.items():
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += count

    def _mean(self, name: str) -> float:
        total, count = self._sums.get(name, (0.0, 0.0))
        return total / count if count else 0.0

    def means(self) -> dict[str, float]:
        """Return all means, sorted by name."""
        return {name: self._mean(name) for name in sorted(self._sums)}

    def state(self) -> State:
        """Return all sums."""
        return {name: list(entry) for name, entry in self._sums.items()}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return means that continue exactly where `state` was taken."""
        means = cls()
        means._sums = {name: list(entry) for name, entry in state.items()}
        return means


class Gate:
    """Rule 1: a sequential test of a challenger against the champion; with `probation`, of a fallback against it.

    Before a promotion the challenger must prove that it is better: undecided means refused. On probation the
    predecessor is the challenger and must prove that it was better: undecided means that the promoted model is kept.
    """

    def __init__(
        self,
        *,
        probation: bool = False,
        alpha_better: float = alpha_promote,
        alpha_worse: float = alpha_refuse,
        predictions_max: int = gate_predictions_max,
    ) -> None:
        assert 0 < alpha_better < 1, "alpha is a probability"
        assert 0 < alpha_worse < 1, "alpha is a probability"
        assert predictions_max >= 1, "a test has at least one prediction"
        self.probation, self.predictions_max = probation, predictions_max
        self.alpha_better, self.alpha_worse = alpha_better, alpha_worse
        self.verdict: Verdict | None = None
        self.predictions, self.difference_sum = 0, 0.0
        # The logarithm of each stake's wealth: row 0 bets that the challenger is better, row 1 that it is worse.
        self._wealth = np.zeros((2, len(STAKES)))

    def observe(self, champion: float, challenger: float) -> Verdict | None:
        """Learn both scores, in [0, 1], of one prediction; return the verdict once there is one, and from then on.

        >>> gate = Gate()
        >>> for _ in range(100):
        ...     verdict = gate.observe(0.25, 0.5)
        >>> verdict.kind, verdict.reason, verdict.predictions
        ('promote', 'better', 32)
        """
        assert 0 <= champion <= 1, f"a champion's score of {champion} is outside [0, 1]"
        assert 0 <= challenger <= 1, f"a challenger's score of {challenger} is outside [0, 1]"
        if self.verdict is not None:
            return self.verdict
        difference = challenger - champion
        self.predictions += 1
        self.difference_sum += difference
        self._wealth += np.log1p(np.array([[difference], [-difference]]) * STAKES)
        better, worse = self.evidence()
        if better >= 1 / self.alpha_better:
            self._decide("better", better)
        elif worse >= 1 / self.alpha_worse:
            self._decide("worse", worse)
        elif self.predictions >= self.predictions_max:
            self._decide("undecided", max(better, worse))
        return self.verdict

    def expire(self) -> Verdict:
        """End the test; without a verdict so far it is undecided."""
        if self.verdict is None:
            self._decide("undecided", max(self.evidence()))
        assert self.verdict is not None
        return self.verdict

    def evidence(self) -> tuple[float, float]:
        """Return the wealth against the hypotheses "no better" and "no worse"; each starts at 1."""
        # The cap prevents an overflow of exp; it is far above 1 / alpha.
        better, worse = np.exp(np.minimum(self._wealth, 600.0)).mean(axis=1).tolist()
        return better, worse

    def _decide(self, reason: VerdictReason, evidence: float) -> None:
        mean_difference = self.difference_sum / max(1, self.predictions)
        kind = kind_of(reason, probation=self.probation)
        self.verdict = Verdict(kind, reason, evidence, self.predictions, mean_difference)

    def state(self) -> State:
        """Return all data of the test."""
        return {
            "probation": self.probation,
            "alpha_better": self.alpha_better,
            "alpha_worse": self.alpha_worse,
            "events_max": self.predictions_max,
            "events": self.predictions,
            "summed": self.difference_sum,
            "wealth": self._wealth.copy(),
            "verdict": None if self.verdict is None else list(self.verdict[:5]),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a gate that continues exactly where `state` was taken."""
        names = ("probation", "alpha_better", "alpha_worse")
        gate = cls(**{name: state[name] for name in names}, predictions_max=state["events_max"])
        gate.predictions, gate.difference_sum = state["events"], state["summed"]
        gate._wealth = state["wealth"].copy()
        gate.verdict = None if state["verdict"] is None else Verdict(*state["verdict"])
        return gate
