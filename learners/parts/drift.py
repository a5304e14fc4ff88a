"""Alarms of drift, and tests for a rise of a loss's mean. All detectors are pure and bounded."""

from typing import Final, NamedTuple, Self

from msgspec import Struct

from headrace.drift import Moved
from headrace.log.protocol import Record, decode_json
from headrace.state import State
from learners.parts.adwin import Adwin
from learners.parts.page_hinkley import PageHinkley

recent: Final = 0.01
"""Weight of the newest loss in the running mean that decides whether the loss rose or fell."""
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


class LossDrift:
    """Detects a rise of the mean of a prequential loss in [0, 1], by ADWIN and by Page-Hinkley.

    ADWIN detects a fall too, but an improvement raises no alarm.

    Args:
        block: number of losses whose mean each observed value is. With many losses, blocks reduce the detectors' cost;
            an alarm comes later by at most a block, and short changes are a little harder to detect.
    """

    def __init__(self, name: str, *, block: int = 1) -> None:
        self.name, self.block = name, block
        self._adwin = Adwin()
        self._recent = 0.0
        # A miss (0 or 1) swings the sums by about its variance over twice delta, 5: chance alone does not reach 50.
        # Over means of blocks the sums are that much smaller.
        self._page_hinkley = PageHinkley(delta=0.02, threshold=50.0 / block, values_min=-(-200 // block))

    @property
    def mean(self) -> float:
        """The loss's mean since the last change that ADWIN detected."""
        return self._adwin.mean

    def observe(self, loss: float) -> list[Alarm]:
        """Add a loss, or the mean of a block of losses; return the alarms."""
        alarms = []
        before = self._adwin.mean
        self._recent += recent * self.block * (loss - self._recent)
        if self._adwin.observe(loss) and self._recent > before:
            alarms.append(Alarm(f"{self.name}_adwin", before, self._adwin.delta))
        if self._page_hinkley.observe(loss):
            alarms.append(Alarm(f"{self.name}_page_hinkley", loss, self._page_hinkley.threshold))
        return alarms

    def state(self) -> State:
        """Return both detectors."""
        return {
            "name": self.name, "block": self.block, "adwin": self._adwin.state(), "recent": self._recent,
            **self._page_hinkley.state(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a detector that continues exactly where `state` was taken."""
        drift = cls(state["name"], block=state["block"])
        drift._adwin, drift._recent = Adwin.from_state(state["adwin"]), state["recent"]
        drift._page_hinkley.restore(state)
        return drift
