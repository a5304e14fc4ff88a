"""What is watched for drift of purchase propensity: predictions, and labels, which come late."""

from collections.abc import Sequence
from typing import Final

from headrace.state import State
from headrace.surface import Watched
from learners.parts.drift import Alarm
from learners.parts.features import Levels, Shares
from learners.parts.monitor import Monitor, Silences
from learners.parts.prequential import log_odds
from learners.parts.regression import sigmoid

watched_together: Final = 400
"""Predictions that are watched together: less work than each in its turn."""
watched_every: Final = 4
"""One prediction of so many is watched: watching all costs more than it tells."""
block_min: Final = 100
"""Least number of watched predictions, and of blocks of labels, of a block."""


class Watching:
    """Watches predicted probabilities (`propensity`, by category) and the share of views that were bought (`bought`).

    Args:
        labels: number of labels that come at once.
    """

    def __init__(self, labels: int) -> None:
        self.silences = Silences()
        self._propensity = Levels("propensity", -10.0, 4.0, least=0.35, bins=56, shown=sigmoid, unit="%")
        self._bought = Shares("bought", stability=True, least=0.12, names_max=8)
        self._predicted = Monitor((self._propensity,), values_min=block_min)
        self._labelled = Monitor((self._bought,), values_min=max(1, 400 // labels))

    def observe(self, predictions: Sequence[tuple[float, str]], time_ms: int) -> list[Alarm]:
        """Take predictions, each a probability and a category; return the alarms."""
        watched = predictions[::watched_every]
        self._propensity.add([log_odds(probability) for probability, _ in watched], [of for _, of in watched])
        return self._predicted.observe(time_ms, self.silences, len(watched))

    def observe_labels(self, labels: Sequence[tuple[float, bool]], time_ms: int) -> list[Alarm]:
        """Take some labels; return the alarms."""
        bought = sum(label for _, label in labels)
        self._bought.count_all({"bought": bought, "not bought": len(labels) - bought})
        return self._labelled.observe(time_ms, self.silences)

    def watched(self) -> dict[str, Watched]:
        """Return each detector's newest distance and its threshold."""
        return self._predicted.watched() | self._labelled.watched()

    def state(self) -> State:
        """Return the complete state."""
        return {
            "silences": self.silences.state(), "predicted": self._predicted.state(),
            "labelled": self._labelled.state(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self.silences = Silences.from_state(state["silences"])
        self._predicted.restore(state["predicted"])
        self._labelled.restore(state["labelled"])
