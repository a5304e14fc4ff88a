"""Republish: copies of ranges byte for byte, and invalid requests."""

from typing import Any

import pytest

from headrace.errors import Misconfigured, PositionLost
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.topics import EVENTS, EVENTS_REPLAY, SCORES, partitions_of
from producers.republish import republish

VALUES = [b"a", b"", None, b"\xff\x00", b'{"id":1}'] * 40
KEYLESS = 15


@pytest.fixture
def filled() -> tuple[MemoryLog, list[int]]:
    now = [1_000]
    log = MemoryLog(clock=lambda: now[0])
    log.create()
    appender = log.appender()
    for n, value in enumerate(VALUES):
        now[0] = 1_000 + n
        appender.append(Outgoing(EVENTS, None if n % KEYLESS == 0 else b"k%d" % n, value, n % 4))
    return log, now


def content(log: Log, topic: str) -> list[list[tuple[bytes | None, bytes | None]]]:
    out = []
    for place in partitions_of(topic):
        batches = log.reader({place: log.first(place)}).read(10_000, 0.0)
        out.append([(record.key, record.value) for _, records in batches for record in records])
    return out


def test_copies_everything_byte_for_byte(filled: tuple[MemoryLog, list[int]]) -> None:
    log, _ = filled
    shares: list[float | None] = []
    assert republish(log, EVENTS, EVENTS_REPLAY, progress=lambda p: shares.append(p.share)) == len(VALUES)
    assert content(log, EVENTS_REPLAY) == content(log, EVENTS)
    assert shares[-1] == 1.0


def test_copies_a_range_of_positions(filled: tuple[MemoryLog, list[int]]) -> None:
    log, _ = filled
    assert republish(log, EVENTS, EVENTS_REPLAY, partition=2, from_position=3, to_position=9) == 6
    copied = content(log, EVENTS_REPLAY)
    assert copied[2] == content(log, EVENTS)[2][3:9]
    assert list(map(bool, copied)) == [False, False, True, False]


def test_copies_a_range_of_append_times(filled: tuple[MemoryLog, list[int]]) -> None:
    log, _ = filled
    assert republish(log, EVENTS, EVENTS_REPLAY, from_time_ms=1_050, to_time_ms=1_090) == 40
    assert republish(log, EVENTS, EVENTS_REPLAY, from_time_ms=9_000) == 0
    assert republish(log, EVENTS, EVENTS_REPLAY, from_time_ms=-9_000, to_time_ms=-1_000) == 0


def test_copies_between_the_markers_of_transactions() -> None:
    log = MemoryLog()
    log.create()
    writer = log.writer("online")
    for n in range(5):
        writer.commit([Outgoing(SCORES, b"popularity", b"%d" % n)], {})
        writer.settle()
    assert republish(log, SCORES, EVENTS_REPLAY) == 5


@pytest.mark.parametrize(
    ("topic", "to", "range_", "message"),
    [
        (EVENTS, EVENTS, {}, "found the same"),
        (EVENTS, "journal", {}, "own writers"),
        (EVENTS, "alarms", {}, "own writers"),
        (EVENTS_REPLAY, EVENTS, {}, "own writers"),
        (EVENTS, EVENTS_REPLAY, {"partition": 0, "from_position": -1}, "0 or more"),
        (EVENTS, EVENTS_REPLAY, {"partition": 0, "to_position": -(10**26)}, "0 or more"),
        (EVENTS, "nowhere", {}, "wanted one of"),
        ("nowhere", EVENTS, {}, "wanted one of"),
        (EVENTS, EVENTS_REPLAY, {"partition": 4}, "0 to 3"),
        (EVENTS, EVENTS_REPLAY, {"from_position": 0}, "wanted a partition"),
        (EVENTS, EVENTS_REPLAY, {"partition": 0, "from_position": 0, "to_time_ms": 5}, "no range of times"),
    ],
)
def test_rejects_invalid_requests(
    filled: tuple[MemoryLog, list[int]], topic: str, to: str, range_: dict[str, Any], message: str
) -> None:
    with pytest.raises(Misconfigured, match=message):
        republish(filled[0], topic, to, **range_)
    assert not any(content(filled[0], EVENTS_REPLAY))


def test_a_deleted_range_raises_position_lost(filled: tuple[MemoryLog, list[int]]) -> None:
    log, _ = filled
    log.delete_before(Partition(EVENTS, 0), 10)
    with pytest.raises(PositionLost):
        republish(log, EVENTS, EVENTS_REPLAY, partition=0, from_position=3)
