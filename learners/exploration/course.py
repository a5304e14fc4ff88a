"""The course of one exploring arm: what it has shown, what became of it, and which policy it follows.

An answer that left something to chance is *open* until its window is over. Then its reward is settled, and it is
learned from, once. (Learning a reward at once, and its absence only later, would make all new choices seem good.)

The arm begins as an *apprentice*: it follows the present ranking, apart from the floor. Once what was learned agrees
with what is in use (`learners.exploration.agreement`), it takes over: the policy is *learned*, and follows all that
is learned from then on. Meanwhile a gate like that of models (`learners.rounds.session_gate`), on probation, bets that
the policy before it, its *reference*, would have had more rewards. If it wins, that policy is restored and *held*,
until what was learned since agrees with it. If it does not within `trial_answers` answers, the policy of now is the
next reference. So a bad change is found by comparison with what worked, however slowly it came.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, Self

import msgspec
import numpy as np
from msgspec import Struct

from headrace.experiments import Explore
from headrace.policies import Policy, PolicyState, features_of
from learners.exploration.agreement import Agreement
from learners.exploration.posterior import Floats, Parameters, Posterior
from learners.parts.policies import Chooser, present
from learners.rounds.gate import Rule
from learners.rounds.session_gate import SessionGate, Visit

day_ms: Final = 86_400_000
trial_answers: Final = 20_000
"""Answers after which a policy that was not proved to be worse than its reference is the next reference."""
agreement_again: Final = 1.0
"""The agreement from which on a policy takes over again after a rollback."""
change_min: Final = 0.01
"""Least share of all that is known that must be new before a policy is stated anew."""
_digits: Final = 6
"""Significant digits of a policy's numbers."""
POLICY: Final = "policy"
"""Name of the policy in use among the gate's scores."""
RULE: Final = Rule(predictions_max=trial_answers)


class Open(Struct, gc=False):
    """An answer whose reward is not settled.

    Attributes:
        time_ms: the shop's time of the answer.
        shopper: a number for the shopper.
        action, actions: the number of what was chosen, and how many there were to choose from.
        probability: with which it was chosen.
        context: as the impression has it.
        version: the number of the policy that chose, 0 before the first one.
        rewarded: whether there was a reward.
    """

    time_ms: int
    shopper: int
    action: int
    actions: int
    probability: float
    context: list[float]
    version: int
    rewarded: bool = False


class Course:
    """One exploring arm, from its start on.

    Attributes:
        open: the answers whose reward is not settled, by id, in the order in which they were heard of.
        posterior: what is learned.
        policy_state: that of its policy.
        candidate: the policy by all that was learned until the last look.
        reference: the policy before the one in use; None: the present ranking.
        published: the newest policy that was stated.
        answers: number of answers that are settled.
        rollbacks: number of policies that were rolled back.
    """

    def __init__(self, experiment: str, arm: str, explore: Explore) -> None:
        self.experiment, self.arm, self.explore = experiment, arm, explore
        self.window_ms = int(explore.window_minutes * 60_000)
        self._half_life_ms = int(explore.half_life_days * day_ms)
        self.features = features_of(explore)
        self.posterior = Posterior(len(explore.actions), len(self.features), half_life_ms=self._half_life_ms)
        self.open: OrderedDict[str, Open] = OrderedDict()
        self.policy_state: PolicyState = "apprentice"
        self.agreement, self._agreement_min = Agreement(self._half_life_ms), explore.agreement
        self.gate = SessionGate(RULE, probation=True)
        self._trial = 0  # the number of its first version
        self.answers = self._published_of = self.rollbacks = 0
        self.candidate: Policy | None = None
        self.reference: Policy | None = None
        self.published: Policy | None = None
        self._candidate: Chooser | None = None
        self._reference: Chooser | None = None

    def show(self, name: str, answer: Open) -> bool:
        """Note an answer; return whether it can be learned from."""
        floor, actions = self.explore.floor * (1 - 1e-6), len(self.explore.actions)
        fits = len(answer.context) == len(self.features) and all(-1.001 <= one <= 1.001 for one in answer.context)
        if not fits or answer.probability < floor or not answer.action < answer.actions <= actions:
            return False
        self.open[name] = answer
        return True

    def reward(self, name: str, time_ms: int) -> None:
        """Note that an answer was rewarded; it counts if its window is not over."""
        answer = self.open.get(name)
        if answer is not None and time_ms - answer.time_ms <= self.window_ms:
            answer.rewarded = True

    def settle(self, time_ms: int) -> Iterator[Open]:
        """Learn from the answers whose windows are over, and yield them."""
        while self.open:
            name, answer = next(iter(self.open.items()))
            if time_ms - answer.time_ms <= self.window_ms:
                return
            del self.open[name]
            self._learn(answer)
            yield answer

    def _learn(self, answer: Open) -> None:
        reward, action, floor = float(answer.rewarded), answer.action, self.explore.floor
        if self.policy_state != "learned":
            if self._candidate is not None:
                learned = self._candidate.learned(answer.context, answer.actions)[action]
                used = self._of_reference(answer)
                self.agreement.add(float(learned), used, answer.probability, reward, answer.time_ms)
        elif answer.version >= self._trial:
            # Weights are at most 1 / floor, so that both scores are at most 1.
            weight = self._of_reference(answer) / answer.probability
            visit = Visit(answer.shopper, answer.time_ms // day_ms)
            self.gate.observe(visit, min(1.0, weight * reward * floor), {POLICY: reward * floor})
        self.posterior.learn(action, answer.context, reward, answer.time_ms)
        self.answers += 1

    def _of_reference(self, answer: Open) -> float:
        """Return the probability that the reference gives to what an answer has shown."""
        if self._reference is None:
            return float(present(answer.actions, self.explore.floor)[answer.action])
        return float(self._reference.learned(answer.context, answer.actions)[answer.action])

    def look(self, time_ms: int, number: int) -> Policy | None:
        """Return the policy that is to be stated now, None if it need not be; it is then `published`.

        Args:
            number: that of its version.
        """
        new, verdict = self.answers - self._published_of, self.gate.verdict
        learned = self.policy_state == "learned"
        decides = self._agrees() if not learned else verdict is not None
        known = float(np.add.reduce(self.posterior.counts(time_ms)[0]))
        if self.published is not None and (not new or (not decides and new < change_min * known)):
            return None
        self._see(self._policy(self.posterior.parameters(time_ms), time_ms, number), self.reference)
        instead_of = why = ""
        if decides and not learned:
            self.policy_state, self._trial = "learned", number
            self.gate = SessionGate(RULE, probation=True)
        elif decides and verdict is not None:
            if verdict.kind == "rollback":
                self.policy_state = "held" if self.reference else "apprentice"
                self.agreement = Agreement(self._half_life_ms)
                self._agreement_min = max(agreement_again, self.explore.agreement)
                self.rollbacks += 1
                assert self.published is not None, "a policy was stated before it was tested"
                instead_of = self.published.version
                why = (
                    f"{self.reference.version if self.reference else 'the present ranking'} has more rewards: evidence"
                    f" {verdict.evidence:.3g} after {verdict.predictions:,} answers"
                )
            else:
                self._see(self.candidate, self.published)
                self.gate, self._trial = SessionGate(RULE, probation=True), number
        assert self.candidate is not None
        base = self.reference if self.policy_state == "held" and self.reference else self.candidate
        learned = self.policy_state == "learned"
        self.published = msgspec.structs.replace(
            self.candidate, state=self.policy_state, means=base.means, spreads=base.spreads,
            agreement=None if learned else self.agreement.ratio, agreement_min=0.0 if learned else self._agreement_min,
            reference=self.reference.version if self.reference else "",
            evidence=self.gate.wealth.evidence()[0] if learned else 1.0,
            evidence_max=self.gate.needed() if learned else 0.0, instead_of=instead_of, why=why,
        )  # fmt: skip
        self._published_of = self.answers
        return self.published

    def _agrees(self) -> bool:
        ratio = self.agreement.ratio
        return not self._agreement_min or (ratio is not None and ratio >= self._agreement_min)

    def _policy(self, parameters: Parameters, time_ms: int, number: int) -> Policy:
        counts, rewards = self.posterior.counts(time_ms)
        total = float(np.add.reduce(counts))
        rows, columns = np.tril_indices(len(self.features))
        return Policy(
            version=f"p{number}", state="learned", actions=self.explore.actions, floor=self.explore.floor,
            features=self.features,
            means=_rounded(parameters.means), spreads=_rounded(parameters.spreads[:, rows, columns]), time_ms=time_ms,
            answers=self.answers, shares=tuple([count / total for count in counts.tolist()]) if total else (),
            rewards=tuple([
                min(1.0, reward / count) if count else 0.0
                for count, reward in zip(counts.tolist(), rewards.tolist(), strict=True)
            ]),
        )  # fmt: skip

    def _see(self, candidate: Policy | None, reference: Policy | None) -> None:
        """Set both policies that answers are compared with."""
        if candidate is not self.candidate:
            self._candidate = Chooser(candidate) if candidate else None
        if reference is not self.reference:
            self._reference = Chooser(reference) if reference else None
        self.candidate, self.reference = candidate, reference

    def state(self) -> dict[str, Any]:
        """Return the complete state."""
        return {
            "experiment": self.experiment, "arm": self.arm, "explore": msgspec.to_builtins(self.explore),
            "posterior": self.posterior.state(), "policy_state": self.policy_state,
            "agreement": self.agreement.state(), "agreement_min": self._agreement_min,
            "gate": self.gate.state(), "trial": self._trial,
            "counts": [self.answers, self._published_of, self.rollbacks],
            "policies": [
                None if one is None else msgspec.to_builtins(one)
                for one in (self.candidate, self.reference, self.published)
            ],
            "open": [[name, *msgspec.structs.astuple(one)] for name, one in self.open.items()],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a course that continues where `state` was taken."""
        found = cls(state["experiment"], state["arm"], msgspec.convert(state["explore"], Explore))
        found.posterior = Posterior.from_state(state["posterior"])
        found.policy_state = state["policy_state"]
        found.agreement, found._agreement_min = Agreement.from_state(state["agreement"]), state["agreement_min"]
        found.gate, found._trial = SessionGate.from_state(state["gate"]), state["trial"]
        found.answers, found._published_of, found.rollbacks = state["counts"]
        candidate, reference, found.published = (msgspec.convert(one, Policy | None) for one in state["policies"])
        found._see(candidate, reference)
        for name, *values in state["open"]:
            found.open[name] = Open(*values)
        return found


def _rounded(values: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple([tuple([float(f"{one:.{_digits}g}") for one in row]) for row in values.tolist()])
