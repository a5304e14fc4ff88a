"""The contest: what a model adds to the blend, who may take whose place by it, and what was seen meanwhile.

The deep model never answers alone: it is one member of the blend. So a model is scored by where the item that came
stands in the blend of the fast learners *and it*, and there is a rival that always stands, `NOTHING`: the blend of the
fast learners alone. What counts is thus counted, for a model that is no better than session-kNN may know other things.
The blend here never learns: it believes a model as far as session-kNN. A learned one would soon ignore a bad
model, and then no test could tell it from none; at a fixed trust a bad member does harm, so its own quality counts too.

- A candidate (`Trial`) must beat the champion or `NOTHING`, whichever has done better in its trial so far. And it must
  be no absurd model by itself: alone, better than half of what the best fast learner is.
- A champion (`Watch`) is rolled back to its predecessor, or to `NOTHING`, if either proves better.

All tests are betting tests (`learners.gate`) over paired scores of the newest events, which no model was trained on.
With whom a candidate is compared is known before each prediction, so its wealth is a supermartingale where it is no
better than that rival. Two tests must both agree to a promotion, so a candidate that fails either is promoted with
probability at most `alpha_promote`. Pure, like all learners.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Self

from headrace.state import State
from learners.blend import Blend
from learners.browsing import Question
from learners.gate import Gate, Verdict
from learners.judgement import Listed, pool, rank_of
from learners.prequential import ranks_max
from learners.shop import DEEP

NOTHING: Final = "nothing"
"""The rival that always stands: the blend without a deep model."""
CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
PREDECESSOR: Final = "predecessor"

alone_min: Final = 0.5
"""Of the best fast learner's score: a model that is not even as good as that alone is no member to trust."""

_blend: Final = Blend()


def worth(fast: Mapping[str, Listed], deep: "Listed | None", question: Question) -> float:
    """Return one over the rank of the item that came in the blend of what was listed; 0 beyond `ranks_max`.

    Args:
        fast: the fast learners' lists.
        deep: the model's list; None says what the blend is worth without one.
    """
    pooled = pool(fast if deep is None else {**fast, DEEP: deep})
    scores = _blend.predict(pooled.lists, len(question.prefix) if question.last else 0)
    rank = rank_of(scores, pooled.candidates, question.item)
    return 1 / rank if 0 < rank <= ranks_max else 0.0


def reciprocal_rank(found: Listed, item: str) -> float:
    """Return one over the rank of an item in a list; 0 beyond `ranks_max`."""
    items = found[0][:ranks_max]
    return 1 / (1 + items.index(item)) if item in items else 0.0


class _Standings:
    """Who has done how well so far."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # sum of scores, their number

    def best(self, names: Iterable[str]) -> str:
        """Return the name with the highest mean; of equals the first."""
        return max(names, key=self._mean)

    def add(self, scores: Mapping[str, float]) -> None:
        for name, score in scores.items():
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += score
            entry[1] += 1

    def _mean(self, name: str) -> float:
        total, count = self._sums.get(name, (0.0, 0.0))
        return total / count if count else 0.0

    def means(self) -> dict[str, float]:
        return {name: self._mean(name) for name in sorted(self._sums)}

    def state(self) -> State:
        return {name: list(entry) for name, entry in self._sums.items()}

    @classmethod
    def from_state(cls, state: State) -> Self:
        standings = cls()
        standings._sums = {name: list(entry) for name, entry in state.items()}
        return standings


class Trial:
    """A candidate in the gate: one test of what it is worth to the blend, one of what it is alone."""

    def __init__(self) -> None:
        self._worth, self._alone = Gate(), Gate()
        self._worths, self._alones = _Standings(), _Standings()

    def observe(
        self, worth: float, alone: float, rivals: Mapping[str, float], fast: Mapping[str, float]
    ) -> Verdict | None:
        """Learn how all did on one prediction; return the verdict once there is one.

        Args:
            worth, alone: the blend's score with the candidate, and its own.
            rivals: the blend's score with each rival.
            fast: each fast learner's own score.
        """
        verdict = self._worth.observe(rivals[self._worths.best(rivals)], worth)
        absurd = self._alone.observe(alone_min * fast[self._alones.best(fast)], alone)
        self._worths.add({**rivals, CANDIDATE: worth})
        self._alones.add({**fast, CANDIDATE: alone})
        if absurd and absurd.kind == "refuse":
            return absurd._replace(reason="weak")
        return verdict if verdict and (absurd or verdict.kind == "refuse") else None

    def expire(self) -> Verdict:
        """End the trial: without a verdict so far it is undecided, which means refused."""
        verdict, absurd = self._worth.expire(), self._alone.expire()
        return verdict if verdict.kind == "refuse" else absurd

    def evidence(self) -> dict[str, dict[str, float]]:
        """Return the mean scores of candidate and rivals: what the blend was worth with each, and each alone."""
        return {"worth": self._worths.means(), "alone": self._alones.means()}

    def state(self) -> State:
        """Return all that the trial knows."""
        return {
            "worth": self._worth.state(),
            "alone": self._alone.state(),
            "worths": self._worths.state(),
            "alones": self._alones.state(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a trial that continues exactly where `state` was taken."""
        trial = cls()
        trial._worth, trial._alone = Gate.from_state(state["worth"]), Gate.from_state(state["alone"])
        trial._worths = _Standings.from_state(state["worths"])
        trial._alones = _Standings.from_state(state["alones"])
        return trial


class Watch:
    """Who stands by while a champion is live; who proves better than it takes its place.

    Nobody stands by for ever: a test that has gone against a rival for long would notice late that things have changed.
    So a champion is watched for a bounded time, and anew with each candidate.
    """

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    def __bool__(self) -> bool:
        return bool(self._gates)

    def __contains__(self, rival: str) -> bool:
        return rival in self._gates

    def add(self, rival: str) -> None:
        """Let a rival stand by, from now on; one that does already goes on."""
        self._gates.setdefault(rival, Gate(probation=True))

    def clear(self) -> None:
        """End the watch."""
        self._gates.clear()

    def observe(self, ours: float, rivals: Mapping[str, float]) -> tuple[str, Verdict] | None:
        """Learn how the champion and those who stand by did; return who takes its place and why, if one does."""
        for name in sorted(self._gates):
            verdict = self._gates[name].observe(ours, rivals[name])
            if verdict and verdict.kind == "rollback":
                return name, verdict
            if verdict:
                del self._gates[name]
        return None

    def state(self) -> State:
        """Return all that the watch knows."""
        return {name: gate.state() for name, gate in self._gates.items()}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a watch that continues exactly where `state` was taken."""
        watch = cls()
        watch._gates = {name: Gate.from_state(gate) for name, gate in state.items()}
        return watch
