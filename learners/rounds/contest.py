"""The contest between models: tests that promote a candidate or roll back a champion. Pure, like all learners.

The deep model never answers alone: it is one member of the blend. So a model is scored by the rank of the true item in
the blend of the fast learners *and the model* (its blend score). One rival always exists, `NO_MODEL`: the blend of the
fast learners alone. This measures what a model adds: one that is no better than session-kNN may still know other
things. The blend used here never learns and trusts a model as much as session-kNN. A blend that learns would soon
ignore a bad model, and no test could then distinguish the model from none. With a fixed trust a bad member does harm,
so its own quality counts too.

- A candidate (`Trial`) must beat the champion or `NO_MODEL`, whichever has the better mean in the trial so far. Its own
  score must also be better than half of the best fast learner's.
- A champion (`Watch`) is rolled back to its predecessor, or to `NO_MODEL`, if either proves better.

Scores are stored as reciprocal ranks; rule 2 compares those of the blend as NDCG gains (`ndcg_gain`), which need far
fewer predictions to prove the same improvement.

All tests are betting tests (`learners.rounds.session_gate`) over paired scores on the newest events, on which no model
was trained. The rival is determined before each session, so the wealth is a supermartingale while the candidate is no
better than the rival. Two tests must both agree to a promotion, so a candidate that fails either is promoted with
probability at most `alpha_better`. A contest that a record of 0.3.0 began follows rule 1 (`learners.rounds.gate`).
"""

from collections.abc import Mapping
from typing import Final, Protocol, Self

import msgspec
import numpy as np

from headrace.state import State
from headrace.surface import Bets
from learners.next_item.blend import Blend
from learners.next_item.judgement import pool, rank_of
from learners.parts import portable
from learners.parts.prequential import ranks_max
from learners.protocol import DEEP, Listed, Question
from learners.rounds.gate import Gate, Means, Rule, Verdict
from learners.rounds.session_gate import CHALLENGER, SessionGate, Visit

NO_MODEL: Final = "nothing"
"""The rival that always exists: the blend without a deep model."""
CANDIDATE: Final = CHALLENGER
CHAMPION: Final = "champion"
PREDECESSOR: Final = "predecessor"

own_score_share_min: Final = 0.5
"""Least share of the best fast learner's own score that a candidate must reach, under rule 1."""

_blend: Final = Blend()


def blend_score(fast: Mapping[str, Listed], deep: "Listed | None", question: Question) -> float:
    """Return the reciprocal rank of the true item in the blend of the lists; 0 beyond `ranks_max`.

    Args:
        fast: the fast learners' lists.
        deep: the model's list; None for the blend without a model.
    """
    pooled = pool(fast if deep is None else {**fast, DEEP: deep})
    scores = _blend.predict(pooled.lists, len(question.prefix) if question.last else 0)
    rank = rank_of(scores, pooled.candidates, question.item)
    return 1 / rank if 0 < rank <= ranks_max else 0.0


def reciprocal_rank(found: Listed, item: str) -> float:
    """Return the reciprocal rank of an item in a list; 0 beyond `ranks_max`."""
    items = found[0][:ranks_max]
    return 1 / (1 + items.index(item)) if item in items else 0.0


_GAINS: Final = [0.0, *(portable.log(np.array([2.0])) / portable.log(np.arange(2.0, ranks_max + 2))).tolist()]
"""The gain of each rank in NDCG, 1 / log2(1 + rank), by rank; 0 of none."""


def ndcg_gain(reciprocal_rank: float) -> float:
    """Return the NDCG of a list with one true item, from its reciprocal rank.

    A reciprocal rank is nearly all about the first two or three places; a better model shows itself in all twenty.

    >>> [round(ndcg_gain(rank), 3) for rank in (1.0, 1 / 2, 1 / 20, 0.0)]
    [1.0, 0.631, 0.228, 0.0]

    Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (TOIS 2002).
    """
    return _GAINS[round(1 / reciprocal_rank)] if reciprocal_rank else 0.0


class _Test(Protocol):
    """A test of a challenger against the best of its rivals, by either rule."""

    means: Means

    def observe(self, visit: Visit | None, challenger: float, rivals: Mapping[str, float]) -> Verdict | None:
        """Learn the scores of one prediction; return the verdict once there is one."""

    def expire(self) -> Verdict:
        """End the test."""


class _PredictionTest:
    """Rule 1: one bet per prediction, against the rival with the best mean over all earlier predictions."""

    def __init__(self, rival_share: float = 1.0) -> None:
        self.gate, self.means, self._rival_share = Gate(), Means(), rival_share

    def observe(self, visit: Visit | None, challenger: float, rivals: Mapping[str, float]) -> Verdict | None:
        verdict = self.gate.observe(self._rival_share * rivals[self.means.best(rivals)], challenger)
        self.means.add({**rivals, CANDIDATE: challenger})
        return verdict

    def expire(self) -> Verdict:
        return self.gate.expire()

    @classmethod
    def from_state(cls, gate: State, means: State, rival_share: float = 1.0) -> Self:
        test = cls(rival_share)
        test.gate, test.means = Gate.from_state(gate), Means.from_state(means)
        return test


class Trial:
    """A candidate in the gate: one test of its blend score, and one of its own score.

    Args:
        rule: the rule and its constants; None means rule 1.
    """

    def __init__(self, rule: Rule | None = None) -> None:
        self._blend: _Test
        self._own: _Test
        if rule is None:
            self._blend, self._own = _PredictionTest(), _PredictionTest(own_score_share_min)
        else:
            self._blend, self._own = SessionGate(rule), SessionGate(rule, rival_share=rule.own_score_share_min)

    def observe(
        self,
        blend_score: float,
        own_score: float,
        rivals: Mapping[str, float],
        fast: Mapping[str, float],
        visit: Visit | None = None,
    ) -> Verdict | None:
        """Learn the scores of one prediction; return the verdict once there is one.

        Args:
            blend_score, own_score: the blend's score with the candidate, and the candidate's own; reciprocal ranks.
            rivals: the blend's score with each rival; the first one always exists.
            fast: each fast learner's own score.
            visit: the prediction's session; None makes it a session of its own.
        """
        if isinstance(self._blend, SessionGate):
            blend_score, rivals = ndcg_gain(blend_score), {name: ndcg_gain(score) for name, score in rivals.items()}
        verdict = self._blend.observe(visit, blend_score, rivals)
        own_verdict = self._own.observe(visit, own_score, fast)
        if own_verdict and own_verdict.kind == "refuse":
            return own_verdict._replace(reason="weak")
        return verdict if verdict and (own_verdict or verdict.kind == "refuse") else None

    def expire(self) -> Verdict:
        """End the trial; without a verdict so far the candidate is refused as undecided."""
        verdict, own_verdict = self._blend.expire(), self._own.expire()
        return verdict if verdict.kind == "refuse" else own_verdict

    def evidence(self) -> dict[str, dict[str, float]]:
        """Return mean scores: `worth` has the blend's with each contestant (NDCG; by rule 1 reciprocal ranks), `alone`
        has the own reciprocal ranks."""
        return {"worth": self._blend.means.means(), "alone": self._own.means.means()}

    def bets(self) -> Bets | None:
        """Return how the trial stands; None under rule 1."""
        if not (isinstance(self._blend, SessionGate) and isinstance(self._own, SessionGate)):
            return None
        rule = self._blend.rule
        return Bets(
            self._blend.sessions.predictions, rule.predictions_max, *self._blend.wealth.evidence(),
            *self._own.wealth.evidence(), self._blend.needed(), 1 / rule.alpha_worse,
        )  # fmt: skip

    def state(self) -> State:
        """Return all data of the trial; under rule 1 in the form of 0.3.0."""
        if isinstance(self._blend, SessionGate) and isinstance(self._own, SessionGate):
            return {
                "rule": msgspec.to_builtins(self._blend.rule),
                "worth": self._blend.state(),
                "alone": self._own.state(),
            }
        assert isinstance(self._blend, _PredictionTest)
        assert isinstance(self._own, _PredictionTest)
        return {
            "worth": self._blend.gate.state(),
            "alone": self._own.gate.state(),
            "worths": self._blend.means.state(),
            "alones": self._own.means.state(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a trial that continues exactly where `state` was taken."""
        trial = cls()
        if "rule" in state:
            trial._blend, trial._own = SessionGate.from_state(state["worth"]), SessionGate.from_state(state["alone"])
        else:
            trial._blend = _PredictionTest.from_state(state["worth"], state["worths"])
            trial._own = _PredictionTest.from_state(state["alone"], state["alones"], own_score_share_min)
        return trial


class Watch:
    """Tests the live champion against its fallbacks; the first that proves better replaces it.

    A watch is bounded in time: a test in which a fallback has long done worse would detect a change only late. So a
    watch starts at each promotion, and again with each candidate.
    """

    def __init__(self) -> None:
        self._gates: dict[str, Gate | SessionGate] = {}

    def __bool__(self) -> bool:
        return bool(self._gates)

    def __contains__(self, rival: str) -> bool:
        return rival in self._gates

    def add(self, rival: str, rule: Rule | None = None) -> None:
        """Start the test against a fallback; a test that is running continues, by the rule it began with.

        Args:
            rule: the rule and its constants; None means rule 1.
        """
        self._gates.setdefault(rival, Gate(probation=True) if rule is None else SessionGate(rule, probation=True))

    def clear(self) -> None:
        """End all tests."""
        self._gates.clear()

    def observe(
        self, champion: float, rivals: Mapping[str, float], visit: Visit | None = None
    ) -> tuple[str, Verdict] | None:
        """Learn the scores of one prediction; return the fallback that replaces the champion, with its verdict."""
        for name in sorted(self._gates):
            gate = self._gates[name]
            if isinstance(gate, Gate):
                verdict = gate.observe(champion, rivals[name])
            else:
                verdict = gate.observe(visit, ndcg_gain(rivals[name]), {CHAMPION: ndcg_gain(champion)})
            if verdict and verdict.kind == "rollback":
                return name, verdict
            if verdict:
                del self._gates[name]
        return None

    def state(self) -> State:
        """Return all running tests."""
        return {name: gate.state() for name, gate in self._gates.items()}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a watch that continues exactly where `state` was taken."""
        watch = cls()
        watch._gates = {
            name: SessionGate.from_state(gate) if "rule" in gate else Gate.from_state(gate)
            for name, gate in state.items()
        }
        return watch
