"""Alarms of drift, and tests for a rise of a loss's mean. All detectors are pure and bounded."""

from heapq import nlargest
from math import sqrt
from typing import Final, NamedTuple, Self

from msgspec import Struct

from headrace.drift import Moved
from headrace.log.protocol import Record, decode_json
from headrace.state import State
from learners.parts.adwin import Adwin
from learners.parts.page_hinkley import PageHinkley
from learners.parts.portable import power_of_two

recent: Final = 0.01
"""Weight of the newest loss in the running mean that decides whether the loss rose or fell."""
named_max: Final = 3
"""Most groups that an alarm names."""
groups_max: Final = 256
"""Groups of which mean losses are kept; the least frequent one makes room for another."""
group_weight_min: Final = 3.0
"""Least recent weight of a group that is named."""
LOSS_TESTS: Final = ("adwin", "page_hinkley")
"""Detectors of each `LossDrift`."""


class Alarm(NamedTuple):
    """A detector's alarm: its score, the threshold that the score exceeded, and what moved most.

    `silenced` is why nobody is to be told, "" if somebody is.
    """

    detector: str
    score: float
    threshold: float
    moved: tuple[Moved, ...] = ()
    silenced: str = ""


class _AlarmRecord(Struct):
    detector: str
    detail: str = ""
    silenced: str = ""


def alarm_detector(record: Record) -> str:
    """Return which detector noticed a drift by a record of `alarms`.

    "" if it tells of something else, in `detail`, or is silenced.
    """
    found = decode_json(record.value, _AlarmRecord)
    return found.detector if found and not (found.detail or found.silenced) and found.detector != "flood" else ""


class GroupLosses:
    """Mean losses by group (a category), recent and long ones, so that an alarm names the groups whose loss rose.

    Each loss has a weight that falls by half with every so many losses of all groups: `recent_losses`, `long_losses`.
    """

    recent_losses: Final = 300
    long_losses: Final = 3_000

    def __init__(self) -> None:
        self._number = 0
        # By group: the number of losses at its newest one; then weights and weighted losses, recent and long.
        self._groups: dict[str, list[float]] = {}

    def observe(self, loss: float, group: str) -> None:
        """Add a loss of a group."""
        self._number += 1
        if group not in self._groups and len(self._groups) >= groups_max:
            del self._groups[min(self._groups, key=lambda name: (self._faded(name)[2], name))]
        weight, total, long_weight, long_total = self._faded(group)
        self._groups[group] = [float(self._number), weight + 1, total + loss, long_weight + 1, long_total + loss]

    def _faded(self, group: str) -> tuple[float, float, float, float]:
        last, weight, total, long_weight, long_total = self._groups.get(group, (self._number, 0.0, 0.0, 0.0, 0.0))
        recent = power_of_two((last - self._number) / self.recent_losses)
        long = power_of_two((last - self._number) / self.long_losses)
        return weight * recent, total * recent, long_weight * long, long_total * long

    def most_risen(self) -> tuple[Moved, ...]:
        """Return the groups whose recent mean is higher than the long one by most, in its standard errors."""
        found = []
        for group in self._groups:
            weight, total, long_weight, long_total = self._faded(group)
            if group and weight >= group_weight_min:
                before, now = long_total / long_weight, total / weight
                if now > before:
                    found.append(((now - before) * sqrt(weight), Moved(group, before, now, "%")))
        return tuple(moved for _, moved in nlargest(named_max, found, key=lambda one: (one[0], one[1].value)))

    def state(self) -> State:
        """Return all means."""
        return {"number": self._number, "groups": {name: list(kept) for name, kept in self._groups.items()}}

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self._number = state["number"]
        self._groups = {name: list(kept) for name, kept in state["groups"].items()}


class LossDrift:
    """Detects a rise of the mean of a prequential loss in [0, 1], by ADWIN and by Page-Hinkley.

    ADWIN detects a fall too, but an improvement raises no alarm. Alarms name the groups whose loss rose most.

    Args:
        block: number of losses whose mean each observed value is. With many losses, blocks reduce the detectors' cost;
            an alarm comes later by at most a block, and short changes are a little harder to detect.
    """

    def __init__(self, name: str, *, block: int = 1) -> None:
        self.name, self.block = name, block
        self._adwin = Adwin()
        self._recent = 0.0
        self._losses = GroupLosses()
        # A miss (0 or 1) swings the sums by about its variance over twice delta, 5: chance alone does not reach 50.
        # Over means of blocks the sums are that much smaller.
        self._page_hinkley = PageHinkley(delta=0.02, threshold=50.0 / block, values_min=-(-200 // block))

    @property
    def mean(self) -> float:
        """The loss's mean since the last change that ADWIN detected."""
        return self._adwin.mean

    def observe(self, loss: float, group: str = "") -> list[Alarm]:
        """Add a loss of a group, or the mean of a block of losses; return the alarms."""
        alarms = []
        if group:
            self._losses.observe(loss, group)
        before = self._adwin.mean
        self._recent += recent * self.block * (loss - self._recent)
        if self._adwin.observe(loss) and self._recent > before:
            alarms.append(Alarm(f"{self.name}_adwin", before, self._adwin.delta, self._losses.most_risen()))
        if self._page_hinkley.observe(loss):
            risen = self._losses.most_risen()
            alarms.append(Alarm(f"{self.name}_page_hinkley", loss, self._page_hinkley.threshold, risen))
        return alarms

    def state(self) -> State:
        """Return both detectors."""
        return {
            "name": self.name, "block": self.block, "adwin": self._adwin.state(), "recent": self._recent,
            "groups": self._losses.state(), **self._page_hinkley.state(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a detector that continues exactly where `state` was taken."""
        drift = cls(state["name"], block=state["block"])
        drift._adwin, drift._recent = Adwin.from_state(state["adwin"]), state["recent"]
        drift._page_hinkley.restore(state)
        drift._losses.restore(state["groups"])
        return drift


def loss_drift_from_version_1(state: State) -> State:
    """Return today's state of a `LossDrift` for one that has no mean losses by group."""
    return {**state, "groups": GroupLosses().state()}
