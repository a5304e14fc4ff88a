"""Rule 2 of the gate: one bet per session, and at most a few per shopper.

Rule 1 (`learners.rounds.gate.Gate`) bets on each prediction, and assumes that its mean difference is at most 0 given
all earlier ones. The predictions of one session are alike, and so are those of one bot: rule 1 then promotes equal
models far more often than alpha (docs/decisions/0015-one-bet-per-session.md). Rule 2 assumes this of sessions instead.

A session's bet is on the sum of its differences, weighted by 1 / (1 + (n - 1) * correlation) for n predictions: the
optimal weight of a cluster with that correlation. Its rival is chosen before the session's first prediction. So the
wealth is a product with one factor per session, whose mean is at most 1, whatever hangs together within a session.
A session that is still running counts with its sum so far, because waiting for its end would cost a promotion twice the
predictions. At such moments the wealth is no supermartingale; but the sum of all differences is then positively
correlated over time, and by Slepian's inequality such a Gaussian sum crosses a boundary less often than one without
that correlation. The simulations of `benchmarks.gate_errors` agree.

The same bets against other means than 0 give a confidence sequence: an interval for the mean difference that holds at
all times with probability 1 - alpha_better - alpha_worse.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 2024).

All arithmetic is that of sums, products and quotients, whose results are the same on every processor.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.rounds.gate import Means, Rule, Verdict, VerdictReason, kind_of

_WEALTH_MAX: Final = 1e300
"""Wealth is kept within 1 / this and this: it can neither overflow nor become 0. Cutting it off above only lowers it;
raising it below adds at most 1e-300 per bet to the probability of a false verdict."""


def _grid() -> NDArray[np.float64]:
    """Return the means that the confidence sequence tests: steps of 0.001 up to 0.02, then of a tenth, up to 1."""
    above = [number / 1000 for number in range(1, 21)]
    while above[-1] < 1:
        above.append(min(1.0, round(above[-1] * 1.1, 4)))
    return np.array([*(-mean for mean in reversed(above)), 0.0, *above])


CHALLENGER: Final = "candidate"
"""Name of the challenger among a session's scores."""
MEANS: Final = _grid()
_ZERO: Final = len(MEANS) // 2
_REACH: Final = 1 + np.abs(MEANS)


class Visit(NamedTuple):
    """The session of a prediction: a number for its shopper, and the session's running number."""

    shopper: int
    session: int


def shopper_number(shopper: str) -> int:
    """Return a number for a shopper, of 63 bits: shorter than most ids, and the same in every process.

    >>> shopper_number("ann")
    5088345978781694418
    """
    return int.from_bytes(hashlib.blake2b(shopper.encode(), digest_size=8).digest(), "big") >> 1


class _Session:
    """The newest session of a shopper: its rival, its number of predictions, and the sum of their differences.

    `bets` counts the shopper's sessions that have a bet, this one included.
    """

    __slots__ = ("bets", "difference_sum", "predictions", "rival", "session")

    def __init__(self, session: int, bets: int, rival: str, predictions: int = 0, difference_sum: float = 0.0) -> None:
        self.session, self.bets, self.rival = session, bets, rival
        self.predictions, self.difference_sum = predictions, difference_sum


class Sessions:
    """The sessions that have a bet, by shopper. Bounded by the rule's `predictions_max`.

    Attributes:
        predictions: the number of predictions so far, those without a bet included.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.predictions = 0
        self._newest: dict[int, _Session] = {}

    def of(self, visit: Visit | None, rival: str) -> _Session | None:
        """Count a prediction; return its session, or None if the prediction is not part of a bet.

        Args:
            visit: the prediction's session; None makes it a session of its own.
            rival: the rival if the prediction begins a session.
        """
        self.predictions += 1
        shopper, session = visit or (-self.predictions, 0)
        newest = self._newest.get(shopper)
        if newest is None:
            newest = self._newest[shopper] = _Session(session, 1, rival)
        elif session != newest.session:
            if newest.bets == self._rule.shopper_bets_max:
                return None
            newest = self._newest[shopper] = _Session(session, newest.bets + 1, rival)
        return newest if newest.predictions < self._rule.session_predictions_max else None

    def state(self) -> State:
        """Return all sessions, as columns."""
        kept = list(self._newest.values())
        return {
            "predictions": self.predictions,
            "shoppers": np.array(list(self._newest), np.int64),
            "sessions": np.array([one.session for one in kept], np.int64),
            "bets": np.array([one.bets for one in kept], np.int32),
            "rivals": [one.rival for one in kept],
            "counts": np.array([one.predictions for one in kept], np.int32),
            "sums": np.array([one.difference_sum for one in kept], np.float64),
        }

    @classmethod
    def from_state(cls, state: State, rule: Rule) -> Self:
        """Return sessions that continue exactly where `state` was taken."""
        sessions = cls(rule)
        sessions.predictions = state["predictions"]
        columns = (state[name].tolist() for name in ("shoppers", "sessions", "bets", "counts", "sums"))
        for shopper, session, bets, count, total, rival in zip(*columns, state["rivals"], strict=True):
            sessions._newest[shopper] = _Session(session, bets, rival, count, total)
        return sessions


def weight(predictions: int, correlation: float) -> float:
    """Return the weight of each prediction of a session: less in longer sessions, whose predictions are alike.

    >>> weight(1, 0.1), weight(11, 0.1)
    (1.0, 0.5)
    """
    return 1 / (1 + (predictions - 1) * correlation)


class Wealth:
    """Bets on the differences of sessions, against each mean of `MEANS` in both directions.

    A session's bet against the mean m multiplies the wealth by 1 + stake * y, where y is the session's weighted sum of
    differences from m, bounded. The wealth is split evenly over the stakes.

    Attributes:
        sessions: the number of bets.
        low, high: the confidence sequence: all means outside have been refuted at some time.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        stakes = np.array(rule.stakes)
        # Row 0 bets that the mean is above, row 1 that it is below.
        self._stakes = np.stack([stakes, -stakes])[:, :, None]
        self._wealth = np.ones((2, len(rule.stakes), len(MEANS)))
        self.sessions = 0
        self.low, self.high = -1.0, 1.0
        self._weighted_sum, self._weights = 0.0, 0.0

    @property
    def mean_difference(self) -> float:
        """The weighted mean difference of the predictions; 0 without one."""
        return self._weighted_sum / self._weights if self._weights else 0.0

    def bet(self, predictions: int, before: float, after: float) -> None:
        """Learn one more prediction of a session.

        Args:
            predictions: the session's predictions, this one included.
            before, after: the sum of the session's differences without and with this one.
        """
        correlation = self._rule.correlation
        each = weight(predictions, correlation)
        self._weighted_sum += each * after
        self._weights += each * predictions
        scaled, former = self._scaled(predictions, after), None
        if predictions == 1:
            self.sessions += 1
        else:
            each = weight(predictions - 1, correlation)
            self._weighted_sum -= each * before
            self._weights -= each * (predictions - 1)
            former = self._scaled(predictions - 1, before)
        factors = 1 + self._stakes * scaled
        if former is not None:
            factors /= 1 + self._stakes * former
        self._wealth *= factors
        np.clip(self._wealth, 1 / _WEALTH_MAX, _WEALTH_MAX, out=self._wealth)
        above, below = self._mean_wealth()
        refuted = np.flatnonzero(above >= 1 / self._rule.alpha_better)
        if len(refuted):  # the mean is above all of these
            self.low = max(self.low, float(MEANS[refuted[-1]]))
        refuted = np.flatnonzero(below >= 1 / self._rule.alpha_worse)
        if len(refuted):
            self.high = min(self.high, float(MEANS[refuted[0]]))

    def _scaled(self, predictions: int, difference_sum: float) -> NDArray[np.float64]:
        """Return y for each mean. A difference from m is at most 1 + |m|."""
        each, bound = weight(predictions, self._rule.correlation), self._rule.session_bound
        found: NDArray[np.float64] = np.clip((difference_sum - predictions * MEANS) * each / _REACH, -bound, bound)
        return found

    def _mean_wealth(self) -> NDArray[np.float64]:
        """Return the mean over stakes, added in a fixed order.

        Shapes:
            returns (2, len(MEANS))
        """
        total = self._wealth[:, 0].copy()
        for row in range(1, len(self._rule.stakes)):
            total += self._wealth[:, row]
        mean: NDArray[np.float64] = total / len(self._rule.stakes)
        return mean

    def evidence(self) -> tuple[float, float]:
        """Return the wealth against the hypotheses "no better" and "no worse"; each starts at 1."""
        better, worse = self._mean_wealth()[:, _ZERO].tolist()
        return better, worse

    def state(self) -> State:
        """Return all data of the bets."""
        return {
            "wealth": self._wealth.copy(), "sessions": self.sessions, "interval": [self.low, self.high],
            "weighted_sum": self._weighted_sum, "weights": self._weights,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State, rule: Rule) -> Self:
        """Return bets that continue exactly where `state` was taken."""
        wealth = cls(rule)
        wealth._wealth, wealth.sessions = state["wealth"].copy(), state["sessions"]
        wealth.low, wealth.high = state["interval"]
        wealth._weighted_sum, wealth._weights = state["weighted_sum"], state["weights"]
        return wealth


class SessionGate:
    """A sequential test of a challenger against its best rival, with one bet per session.

    Before a promotion the challenger must prove that it is better: undecided means refused. With `probation` it is a
    fallback of the model in use, and undecided means that this model is kept.

    Args:
        rival_share: the share of the rival's score that the challenger must exceed.
    """

    def __init__(self, rule: Rule, *, probation: bool = False, rival_share: float = 1.0) -> None:
        self.rule, self.probation, self.rival_share = rule, probation, rival_share
        self.verdict: Verdict | None = None
        self.sessions, self.wealth, self.means = Sessions(rule), Wealth(rule), Means()

    def observe(self, visit: Visit | None, challenger: float, rivals: Mapping[str, float]) -> Verdict | None:
        """Learn the scores, in [0, 1], of one prediction; return the verdict once there is one, and from then on.

        Args:
            visit: the prediction's session; None makes it a session of its own.
            rivals: the score of each rival; the first one always exists.

        >>> gate = SessionGate(Rule())
        >>> for number in range(400):
        ...     verdict = gate.observe(Visit(number // 4, 0), 0.5, {"champion": 0.3})
        >>> verdict.kind, verdict.reason
        ('promote', 'better')
        """
        for score in (challenger, *rivals.values()):
            assert 0 <= score <= 1, f"a score of {score} is outside [0, 1]"
        if self.verdict is not None:
            return self.verdict
        best = self.means.best(rivals)  # chosen without this prediction's outcome
        self.means.add({**rivals, CHALLENGER: challenger})
        session = self.sessions.of(visit, best)
        if session is not None:
            # A champion that was rolled back meanwhile: the first rival always exists.
            rival = rivals.get(session.rival, next(iter(rivals.values())))
            before = session.difference_sum
            session.predictions += 1
            session.difference_sum += challenger - self.rival_share * rival
            self.wealth.bet(session.predictions, before, session.difference_sum)
            better, worse = self.wealth.evidence()
            if better >= self.needed():
                return self._decide("better", better)
            if worse >= 1 / self.rule.alpha_worse:
                return self._decide("worse", worse)
        return self.expire() if self.sessions.predictions >= self.rule.predictions_max else None

    def needed(self) -> float:
        """Return the wealth that proves "better"; a promotion needs more at the beginning."""
        early = 1.0 if self.probation else self.rule.early_predictions / max(1, self.sessions.predictions)
        return max(1.0, early) / self.rule.alpha_better

    def expire(self) -> Verdict:
        """End the test; without a verdict so far it is undecided."""
        return self.verdict or self._decide("undecided", max(self.wealth.evidence()))

    def _decide(self, reason: VerdictReason, evidence: float) -> Verdict:
        wealth = self.wealth
        self.verdict = Verdict(
            kind_of(reason, probation=self.probation), reason, evidence, self.sessions.predictions,
            wealth.mean_difference, (wealth.low, wealth.high), wealth.sessions,
        )  # fmt: skip
        return self.verdict

    def state(self) -> State:
        """Return all data of the test."""
        return {
            "rule": msgspec.to_builtins(self.rule),
            "probation": self.probation,
            "rival_share": self.rival_share,
            "sessions": self.sessions.state(),
            "wealth": self.wealth.state(),
            "means": self.means.state(),
            "verdict": None if self.verdict is None else _plain(self.verdict),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a gate that continues exactly where `state` was taken."""
        rule = msgspec.convert(state["rule"], Rule)
        gate = cls(rule, probation=state["probation"], rival_share=state["rival_share"])
        gate.sessions = Sessions.from_state(state["sessions"], rule)
        gate.wealth = Wealth.from_state(state["wealth"], rule)
        gate.means = Means.from_state(state["means"])
        gate.verdict = None if state["verdict"] is None else msgspec.convert(state["verdict"], Verdict)
        return gate


def _plain(verdict: Verdict) -> list[Any]:
    return [*verdict[:5], list(verdict.interval) if verdict.interval else None, verdict.sessions]
