"""The time of an SQLite log: which clock a record's append time follows.

The log has no server, so that each writer's process states the time. One of them may be wrong, and so may the machine's
clock for a while. The log's own time is the one that was stated last, moved on by the machine's uptime, which no
setting of a clock changes. Clocks near the log's time are followed. One that is further off is doubted: its records get
the log's time, unless no other clock was near that for a while; then the log's time is set to it, forwards or backwards
(docs/decisions/0022-append-times-of-the-embedded-log.md).
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from headrace.log.protocol import Finding
from headrace.topics import DAY_MS, EVENTS

off_ms_max: Final = 3_600_000
"""How far a clock may be from the log's time without being doubted."""
doubt_ms_max: Final = 60_000
"""Uptime after which a doubted clock is followed, if no clock near the log's time was seen meanwhile."""
told_ms_max: Final = DAY_MS
"""How long after a clock was doubted it is told."""

SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS clock (
    id INTEGER PRIMARY KEY CHECK (id = 1), boot TEXT NOT NULL, uptime_ms INTEGER NOT NULL, time_ms INTEGER NOT NULL,
    doubted_ms INTEGER, ahead_ms INTEGER NOT NULL, told_ms INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS steps_back (
    partition INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (partition, position)) WITHOUT ROWID""",
)
"""`clock` has one row, a `LogTime`. `steps_back` has the positions whose append time is before that of the record
before them."""


class Uptime(NamedTuple):
    """For how many milliseconds the machine has been running, and an id of this start; an empty one if unknown."""

    boot: str
    ms: int


ReadUptime: TypeAlias = Callable[[], Uptime]


def machine_uptime() -> Uptime:
    """Return the machine's uptime. Systems without `/proc` do not tell it."""
    try:  # not Python's clocks, which follow a library that fakes the time of a process
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        seconds = Path("/proc/uptime").read_text(encoding="ascii").partition(" ")[0]
    except OSError:
        return Uptime("", 0)
    return Uptime(boot, int(float(seconds) * 1000))


class LogTime(Struct):
    """The time of a log: `time_ms`, as it was at an uptime.

    `doubted_ms` is the uptime at which a clock began to be doubted, None if none is. `ahead_ms` is how far the clock
    that was doubted last was ahead (negative: behind), `told_ms` the log's time then, 0 if none ever was.
    """

    boot: str = ""
    uptime_ms: int = 0
    time_ms: int = 0
    doubted_ms: int | None = None
    ahead_ms: int = 0
    told_ms: int = 0

    def stamp(self, now_ms: int, uptime: Uptime) -> int:
        """Return the append time of records that a writer with this clock appends now.

        After a start of the machine, the first clock is followed: nothing tells how long the machine was off.

        >>> time = LogTime()
        >>> day = 86_400_000
        >>> [time.stamp(0, Uptime("a", 0)), time.stamp(21 * day, Uptime("a", 21 * day))]
        [0, 1814400000]
        >>> time.stamp(400 * day, Uptime("a", 21 * day + 5))
        1814400005
        """
        expected_ms = self.time_ms + uptime.ms - self.uptime_ms
        known = bool(self.time_ms) and bool(uptime.boot) and uptime.boot == self.boot
        ahead_ms = now_ms - expected_ms
        if known and abs(ahead_ms) > off_ms_max:
            self.ahead_ms, self.told_ms = ahead_ms, expected_ms
            self.doubted_ms = uptime.ms if self.doubted_ms is None else self.doubted_ms
            doubted = uptime.ms - self.doubted_ms < doubt_ms_max
        else:
            doubted = False
        if not doubted:
            self.doubted_ms = None
        self.boot, self.uptime_ms, self.time_ms = uptime.boot, uptime.ms, expected_ms if doubted else now_ms
        return self.time_ms

    @property
    def doubt(self) -> str:
        """How far the clock that was doubted last was off."""
        direction = "ahead of" if self.ahead_ms > 0 else "behind"
        return f"a writer's clock was {abs(self.ahead_ms) / 3_600_000:,.1f} hours {direction} the log's time"

    def findings(self) -> list[Finding]:
        """Return what is wrong with the clocks of the writers, for a day after it was noticed."""
        if not self.told_ms or abs(self.time_ms - self.told_ms) > told_ms_max:
            return []
        text = (
            f"wanted writers with the log's time, found {self.doubt}: for up to a minute its records got that, then the"
            " log followed it if no other clock differed. To do: correct the clock of the machine, or of the process"
            " that logged `clock doubted`"
        )
        return [Finding(EVENTS, "append time", text, refused=False)]


_columns = ", ".join(field.name for field in msgspec.structs.fields(LogTime))


def read_time(db: sqlite3.Connection) -> LogTime:
    """Return the log's time, a new one if the file has none yet."""
    row = db.execute(f"SELECT {_columns} FROM clock").fetchone() if _has(db, "clock") else None
    return LogTime(row[0].decode(), *row[1:]) if row else LogTime()


def write_time(db: sqlite3.Connection, time: LogTime) -> None:
    """Store the log's time, within an open transaction."""
    values = msgspec.structs.astuple(time)
    db.execute(f"INSERT OR REPLACE INTO clock (id, {_columns}) VALUES (1{', ?' * len(values)})", values)


def position_in(db: sqlite3.Connection, partition: int, first: int, end: int, time_ms: int) -> int:
    """Return the position of a partition's first record of `time_ms` or later, `end` if there is none.

    Args:
        partition: its id.
        first, end: the bounds of what it holds.
    """
    query = "SELECT position FROM steps_back WHERE partition=? AND position>? AND position<? ORDER BY position"
    steps = db.execute(query, (partition, first, end)).fetchall() if _has(db, "steps_back") else []
    for last in [*(position for (position,) in steps), end]:
        until = last
        while first < until:  # up to `last`, append times do not decrease
            middle = (first + until) // 2
            found = db.execute(
                "SELECT time_ms FROM records WHERE partition=? AND position=?", (partition, middle)
            ).fetchone()
            # A record that is missing was deleted meanwhile: it is older than all that are there.
            first, until = (middle + 1, until) if found is None or found[0] < time_ms else (first, middle)
        if first < last:
            return first
    return end


def _has(db: sqlite3.Connection, table: str) -> bool:
    """Return whether a file has a table; one of release 0.3.0 has none of these until a process writes to it."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name=?", (table,)).fetchone() is not None
