"""Append times of the SQLite log when clocks are wrong: the harm is bounded, it ends, and it is told."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events import Data, Event, Item, Rejection, at, decode, encode
from headrace.log.protocol import Outgoing, Partition, Record
from headrace.log.sqlite import SqliteLog
from headrace.log.sqlite_time import Uptime, machine_uptime
from headrace.topics import DAY_MS, EVENTS
from operators.facts import found_wrong

PLACE = Partition(EVENTS, 0)
NOW = 1_750_000_000_000
HOUR_MS, MINUTE_MS = 3_600_000, 60_000


class Machine:
    """A log, and the clocks of the processes that write to it: each is ahead of the true time by some ms."""

    def __init__(self, path: Path) -> None:
        self.now_ms, self.uptime = NOW, Uptime("first", 5_000)
        self.log = SqliteLog(str(path), clock=lambda: self.now_ms + self.ahead_ms, uptime=lambda: self.uptime)
        self.log.create()
        self.ahead_ms = 0
        self.appender = self.log.appender()

    def wait(self, ms: int, *, off_ms: int = 0, boot: str = "") -> None:
        """Let time pass, also on the uptime, unless the machine starts again, or is suspended for a part of it."""
        self.now_ms += ms
        self.uptime = Uptime(boot, 0) if boot else Uptime(self.uptime.boot, self.uptime.ms + ms - off_ms)

    def append(self, ahead_ms: int = 0, event_ms: int | None = None) -> int:
        """Append an event by a clock that is wrong by some ms; return how far its append time is ahead."""
        event = Event(
            id="1", source="shop", type="view_item", specversion="1.0", shopper="ann",
            time=at(self.now_ms if event_ms is None else event_ms), data=Data(items=[Item("a")]),
        )  # fmt: skip
        self.ahead_ms = ahead_ms
        self.appender.append(Outgoing(EVENTS, b"ann", encode(event), 0))
        self.appender.flush()
        last = self.log.last(PLACE)
        assert last is not None
        return last.time_ms - self.now_ms

    def records(self) -> list[Record]:
        return self.log.newest(PLACE, 1_000)

    def close(self) -> None:
        self.appender.close()
        self.log.close()


def test_one_producer_s_clock_400_days_ahead_moves_no_append_time(tmp_path: Path) -> None:
    machine, ahead_ms = Machine(tmp_path / "log.db"), 400 * DAY_MS
    assert machine.append() == 0
    assert not found_wrong(machine.log, [])
    for _ in range(40):  # for 20 minutes, the producer and a shard with a right clock write
        machine.wait(30_000)
        assert machine.append(ahead_ms, event_ms=machine.now_ms + ahead_ms) == 0
        assert machine.append() == 0
    rejected = [decode(record) for record in machine.records()[1::2]]
    assert {one.reason for one in rejected if isinstance(one, Rejection)} == {"time_ahead"}
    assert len(rejected) == 40
    [told] = found_wrong(machine.log, [])
    wanted = "append time: wanted writers with the log's time, found a writer's clock was 9,600.0 hours ahead of"
    assert wanted in told
    machine.wait(2 * DAY_MS)
    machine.append()
    assert not found_wrong(machine.log, []), "it is told for a day"
    machine.close()


def test_a_machine_s_clock_that_is_wrong_and_corrected_is_followed_both_ways_within_a_minute(tmp_path: Path) -> None:
    for ahead_ms in (400 * DAY_MS, -400 * DAY_MS):
        machine = Machine(tmp_path / f"{ahead_ms}.db")
        machine.append()
        seen = []
        for wrong_ms in (ahead_ms, 0):
            for _ in range(13):
                machine.wait(MINUTE_MS // 10)
                seen.append(machine.append(wrong_ms))
        assert seen == [0] * 10 + [ahead_ms] * 13 + [0] * 3
        for record in machine.records():
            found = machine.log.position_at(PLACE, record.time_ms)
            assert found == next(one.offset for one in machine.records() if one.time_ms >= record.time_ms)
        machine.close()


def test_a_quiet_shop_is_believed_when_it_goes_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "log.db")
    machine.append()
    machine.wait(21 * DAY_MS)
    assert machine.append() == 0, "the machine ran meanwhile"
    machine.wait(21 * DAY_MS, boot="second")
    assert machine.append() == 0, "the machine was off"
    machine.wait(DAY_MS, off_ms=DAY_MS)
    assert machine.append() == -DAY_MS, "nobody tells that the machine was suspended"
    machine.wait(MINUTE_MS)
    assert machine.append() == 0
    machine.close()


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2 * HOUR_MS), st.sampled_from([0, 0, -3, 2, 400])), min_size=1, max_size=12)
)
def test_the_first_record_of_a_time_is_found_whatever_the_clocks_did(
    steps: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine = Machine(tmp_path_factory.mktemp("log") / "log.db")
    for ms, ahead_hours in steps:
        machine.wait(ms)
        machine.append(ahead_hours * HOUR_MS)
    records, end = machine.records(), machine.log.end(PLACE)
    for time_ms in {record.time_ms + more for record in records for more in (-1, 0, 1)}:
        wanted = next((one.offset for one in records if one.time_ms >= time_ms), end)
        assert machine.log.position_at(PLACE, time_ms) == wanted
    machine.log.delete_before(PLACE, end // 2)
    assert machine.log.position_at(PLACE, 0) == end // 2
    machine.close()


def test_the_uptime_of_this_machine() -> None:
    first, second = machine_uptime(), machine_uptime()
    assert first.boot == second.boot
    assert first.ms <= second.ms
