"""Buying: purchase propensity with its scores and the drift of its loss, as one fold."""

from collections.abc import Sequence
from math import fsum
from typing import Any, Final, Self

from headrace.events import Event
from headrace.state import State
from learners.drift import Alarm, LossDrift
from learners.prequential import Probability
from learners.propensity import Propensity

LOSS: Final = "propensity_loss"
labels_block: Final = 8
"""Labels that are scored together, and whose losses' mean the detectors take as one: a label comes with most events,
and a detector costs as much as learning. Labels of a block that is not full wait with the learner."""
_NONE: Final[Sequence[Alarm]] = ()


class Buying:
    """Learns which views end in a purchase, and watches how well it does."""

    def __init__(self) -> None:
        self.propensity = Propensity()
        self.probability = Probability()
        self.drift = LossDrift(LOSS, block=labels_block)

    def learn(self, event: Event) -> Sequence[Alarm]:
        """Learn from one event; return alarms of the loss (the Brier score of the labels that became known)."""
        self.propensity.learn(event)
        labelled = self.propensity.labelled
        if len(labelled) < labels_block:
            return _NONE
        alarms: list[Alarm] = []
        while len(labelled) >= labels_block:
            block = [labelled.popleft() for _ in range(labels_block)]
            self.probability.observe_all(block)
            alarms += self.drift.observe(fsum([(bought - given) ** 2 for given, bought in block]) / labels_block)
        return alarms

    def scores(self) -> dict[str, Any]:
        """Return the prequential scores."""
        return {
            "judged": self.probability.judged,
            "window": self.probability.scores("window"),
            "whole": self.probability.scores("whole"),
        }

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return what each bounded table holds, and its maximum."""
        return {f"propensity_{table}": use for table, use in self.propensity.bounds().items()}

    def state(self) -> State:
        """Return all that was learned."""
        return {
            "propensity": self.propensity.state(),
            "probability": self.probability.state(),
            "drift": self.drift.state(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return what continues exactly where `state` was taken."""
        buying = cls.__new__(cls)
        buying.propensity = Propensity.from_state(state["propensity"])
        buying.probability = Probability.from_state(state["probability"])
        buying.drift = LossDrift.from_state(state["drift"])
        return buying
