"""How fast a replay goes: as fast as it can, at a rate, or as the live shards' lag allows."""

import time
from collections.abc import Collection
from typing import Final

from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.topics import EVENTS, Shard
from operators.replay.fold import Pace, unlimited
from operators.terminal import say

lag_max: Final = 2_000
"""Records of `events` that may wait for a live shard before a replay pauses."""
look_interval_s: Final = 0.5
"""Time between two looks at the lag."""
pause_s_max: Final = 60.0
"""Longest pause, in seconds: a live shard that is down does not hold a replay for ever."""
report_every_s: Final = 5.0


class AtRate:
    """At most so many records per second."""

    def __init__(self, rate: float) -> None:
        self._rate, self._began = rate, time.monotonic()

    def __call__(self, records: int) -> None:
        """Wait until so many records may have been folded."""
        time.sleep(max(0.0, records / self._rate - (time.monotonic() - self._began)))


class ByLiveLag:
    """Pauses while the lag of a live shard is above `lag_max` and grows, for `pause_s_max` at most."""

    def __init__(self, log: Log, shards: Collection[Shard]) -> None:
        self._log, self._shards = log, shards
        self._looked_at = time.monotonic()
        self._lag = self._look()

    def _look(self) -> int:
        """Return the largest lag of a shard that has committed, in records of `events`."""
        ends = {place: self._log.end(place) for place in self._log.partitions(EVENTS)}
        lags = [0]
        for shard in self._shards:
            if committed := self._log.committed(shard.name):
                lags.append(sum(max(0, end - committed.get(place, 0)) for place, end in ends.items()))
        return max(lags)

    def __call__(self, records: int) -> None:
        """Wait while the lag grows."""
        if time.monotonic() - self._looked_at < look_interval_s:
            return
        deadline = time.monotonic() + pause_s_max
        lag = self._look()
        while lag > lag_max and lag >= self._lag and time.monotonic() < deadline:
            self._lag = lag
            time.sleep(look_interval_s)
            lag = self._look()
        self._lag, self._looked_at = lag, time.monotonic()


def pace_of(rate: str | None, log: Log, shards: Collection[Shard]) -> Pace:
    """Return the pace that `--rate` asks for: a number of records per second, or `live`; without one, no limit.

    Raises:
        Misconfigured: it is neither.
    """
    if rate is None:
        return unlimited
    if rate == "live":
        return ByLiveLag(log, shards)
    try:
        number = float(rate)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise Misconfigured(f"--rate {rate}: wanted records per second, above 0, or live")
    return AtRate(number)


class ReplayReport:
    """Prints every few seconds how far a replay is, how fast it goes, and the time that is left."""

    def __init__(self, name: str) -> None:
        self._name, self._reported_at = name, time.monotonic()

    def __call__(self, done: int, total: int, records: int, seconds: float) -> None:
        """Show the progress."""
        if time.monotonic() - self._reported_at < report_every_s:
            return
        self._reported_at = time.monotonic()
        left_s = seconds / max(1, done) * (total - done)
        say(
            f"{self._name}: {done:,} of {total:,} entries, {records / max(1e-9, seconds):,.0f} records/s,"
            f" {left_s:,.0f} s left",
            error=True,
        )
