"""The schedule of rounds: decides when one is due, by volume, event time, drift or staleness of the champion."""

from typing import Final, Self

from headrace.state import State
from learners.rounds.staleness import Staleness

leading_max: Final = 5_000
"""Most rejected records before a partition's first event that count as seen; more mean that the log was truncated."""


class Schedule:
    """Counts records since the last round, and returns the trigger of the next one.

    Args:
        round_events, round_ms, drift_events_min, staleness_hits: the settings of these names.

    Attributes:
        time_ms: the shop's time.
        drift_at: records seen at the newest drift after which no champion was trained; 0 if there is none.
    """

    def __init__(
        self, *, round_events: int, round_ms: int | None, drift_events_min: int, staleness_hits: float
    ) -> None:
        self._round_events, self._every_ms, self._drift_events_min = round_events, round_ms, drift_events_min
        self.time_ms = 0
        self.drift_at = 0
        self._positions: dict[int, int] = {}
        self._firsts: dict[int, int] = {}
        self._round_at = 0  # records seen when the last round was trained
        self._round_ms = 0  # event time then
        self.staleness = Staleness(staleness_hits)

    @property
    def seen(self) -> int:
        """Number of records of `events` passed, rejected ones included; those lost before the first read are not."""
        return sum(self._positions.values()) - sum(self._firsts.values())

    def note(self, partition: int, offset: int, time_ms: int) -> None:
        """Count a record and follow event time."""
        if partition not in self._firsts:  # rejected records at the log's beginning count
            self._firsts[partition] = offset if offset > leading_max else 0
        self._positions[partition] = offset + 1
        self.time_ms = time_ms
        self._round_ms = min(self._round_ms or time_ms, time_ms)

    def note_drift(self) -> None:
        """Record that drift was detected at this record."""
        self.drift_at = self.seen

    def trigger(self, *, first: bool) -> str:
        """Return the trigger of a round that is due now, "" if none is.

        Drift that was detected too soon after a round, or while a candidate was in the gate, triggers one afterwards.

        Args:
            first: whether this would be the first round.
        """
        events = self.seen - self._round_at
        if events >= self._round_events:
            return "start" if first else "volume"
        if self._every_ms is not None and self.time_ms - self._round_ms >= self._every_ms:
            return "time"
        return "drift" if self.drift_at > self._round_at and events >= self._drift_events_min else ""

    def begin_round(self) -> None:
        """Restart the counts: a round has trained on all records seen."""
        self._round_at, self._round_ms = self.seen, self.time_ms
        self.staleness.reset_loss()

    def next_due(self) -> int:
        """Return the number of records seen at which the next round is due by volume, at least one more than now."""
        return max(self._round_at + self._round_events, self.seen + 1)

    @property
    def overdue(self) -> int:
        """Number of records since the next round was due by volume."""
        return max(0, self.seen - self._round_at - self._round_events)

    def log_range(self) -> list[str]:
        """Return the end of the records read from each partition of `events`, for a candidate's lineage."""
        return [f"{partition}:{end}" for partition, end in sorted(self._positions.items())]

    def state(self) -> State:
        """Return the complete state."""
        return {
            "time_ms": self.time_ms, "drift_at": self.drift_at, "round_at": self._round_at,
            "round_ms": self._round_ms, "gain": self.staleness.state(),
            "positions": [list(pair) for pair in sorted(self._positions.items())],
            "firsts": [list(pair) for pair in sorted(self._firsts.items())],
        }  # fmt: skip

    def restore(self, state: State) -> Self:
        """Continue exactly where `state` was taken."""
        self.time_ms, self.drift_at = state["time_ms"], state["drift_at"]
        self._round_at, self._round_ms = state["round_at"], state["round_ms"]
        self.staleness = Staleness.from_state(state["gain"], self.staleness.hits)
        self._positions, self._firsts = dict(state["positions"]), dict(state["firsts"])
        return self
