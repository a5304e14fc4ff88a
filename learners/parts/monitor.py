"""A monitor: the features that one family watches, their common blocks, and silences."""

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from headrace.drift import Silence, decode
from headrace.events import Rejection
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import Watched
from learners.parts.drift import Alarm
from learners.parts.features import Feature
from learners.parts.portable import power_of_two

block_values_max: Final = 10_000
"""A block with as many ends before its hour is over."""
block_ms: Final = 3_600_000
"""Least time of a block with fewer observations than the most."""
half_life_ms: Final = 7 * 86_400_000
"""Time in which a block loses half of its weight in the reference, and a distance in the usual distance."""
fading_max: Final = 0.05
"""Most of its weight that a block loses with the next one, however long that took."""
silences_max: Final = 64
"""Detectors that can be silenced at a time."""
warmup_ms: Final = 7 * 86_400_000
"""Time from the first observation to the first alarm, so that a week's season is part of the usual distance."""


class Silences:
    """The silences that persons have stated, the newest of each detector. Those that are over are forgotten."""

    def __init__(self) -> None:
        self._stated: dict[str, Silence] = {}

    def hear(self, record: Record, time_ms: int) -> Rejection | None:
        """Note a silence; return why, if the record cannot be used."""
        found = decode(record)
        if isinstance(found, Rejection):
            return found
        self._stated = {name: one for name, one in self._stated.items() if one.until_ms > time_ms}
        if found.detector not in self._stated and len(self._stated) >= silences_max:
            return Rejection("schema", f"wanted silences of at most {silences_max} detectors, found one more")
        self._stated[found.detector] = found
        return None

    def why(self, detectors: Collection[str], time_ms: int) -> str:
        """Return why one of these detectors is silenced at a time, "" if none is."""
        return next((one.why for one in self._stated.values() if one.covers(detectors, time_ms)), "")

    def apply(self, alarms: Sequence[Alarm], time_ms: int) -> list[Alarm]:
        """Return alarms with why they are silenced, if they are."""
        return [alarm._replace(silenced=self.why((alarm.detector,), time_ms)) for alarm in alarms]

    def state(self) -> State:
        """Return the silences."""
        return {name: msgspec.to_builtins(one) for name, one in self._stated.items()}

    @classmethod
    def from_state(cls, state: State) -> "Silences":
        """Return the silences of a state."""
        found = cls()
        found._stated = {name: msgspec.convert(one, Silence) for name, one in state.items()}
        return found


class Monitor:
    """Ends the blocks of features together, and tells which of their alarms are silenced.

    While a detector is silenced, its feature's blocks are not usual: they join neither the reference nor the usual
    distance. When the silence ends, the window is forgotten, so a sale leaves no trace.

    Args:
        values_min: least number of observations of a block.
    """

    def __init__(self, features: Sequence[Feature], *, values_min: int) -> None:
        self._features, self._values_min = features, values_min
        self._count = 0
        self._first_ms = self._began_ms = -1
        self._silenced = [""] * len(features)

    def observe(self, time_ms: int, silences: Silences, number: int = 1) -> list[Alarm]:
        """Count observations, the last of which was at a time; return the alarms if they end a block.

        The features have taken them.
        """
        self._count += number
        if self._began_ms < 0:
            self._began_ms = time_ms
            if self._first_ms < 0:
                self._first_ms = time_ms
        if self._count < self._values_min:
            return []
        if self._count < block_values_max and time_ms - self._began_ms < block_ms:
            return []
        return self._end(time_ms, silences)

    def _end(self, time_ms: int, silences: Silences) -> list[Alarm]:
        fading = min(fading_max, 1 - power_of_two(-max(0, time_ms - self._began_ms) / half_life_ms))
        ready = time_ms - self._first_ms >= warmup_ms
        self._count, self._began_ms = 0, time_ms
        found = []
        for place, feature in enumerate(self._features):
            why = silences.why([watch.name for watch in feature.watches], time_ms)
            if self._silenced[place] and not why:
                feature.forget_window()
            self._silenced[place] = why
            alarms = feature.end(fading, ready=ready, usual=not why, time_ms=time_ms)
            found += [alarm._replace(silenced=why) for alarm in alarms]
        return found

    def watched(self) -> dict[str, Watched]:
        """Return each detector's newest distance, and its threshold; 0 until there is one."""
        return {
            watch.name: Watched(watch.score, watch.threshold) for feature in self._features for watch in feature.watches
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "count": self._count, "first_ms": self._first_ms, "began_ms": self._began_ms,
            "silenced": list(self._silenced), "features": [feature.state() for feature in self._features],
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self._count, self._first_ms, self._began_ms = state["count"], state["first_ms"], state["began_ms"]
        self._silenced = list(state["silenced"])
        for feature, kept in zip(self._features, state["features"], strict=True):
            feature.restore(kept)
