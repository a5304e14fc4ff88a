"""What `headrace.open` and the scans of partitions promise, on each log."""

import time
import tracemalloc
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

import headrace
from headrace.errors import LogUnavailable
from headrace.log import scan
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition, Record
from headrace.log.scan import newest_records, partition_records, topic_records
from headrace.topics import ALARMS, EVENTS, JOURNAL, SCORES, SHARDS_MAX, partitions_of

PLACE = Partition(SCORES, 0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few records be several batches."""
    monkeypatch.setattr(scan, "batch_records_max", 3)


def numbered(log: Log, count: int) -> list[int]:
    """Write records that say their number, each with its own commit, so that markers lie between; return offsets."""
    found = []
    with closing(log.writer("online")) as writer:
        for number in range(count):
            writer.commit([Outgoing(SCORES, b"x", b"%d" % number, 0)], {})
            found += writer.settle()
    while (last := log.last(PLACE)) is None or last.offset < found[-1]:  # a marker may come later
        time.sleep(0.01)
    return found


def numbers(records: Iterable[Record]) -> list[int]:
    return [int(record.value or b"-1") for record in records]


def test_partitions_are_those_that_the_log_has(log: Log) -> None:
    assert log.partitions(EVENTS) == partitions_of(EVENTS)
    assert [place.number for place in log.partitions(JOURNAL)] == [*range(SHARDS_MAX)]
    assert list(topic_records(log, JOURNAL)) == []


def test_a_partition_is_read_once_from_any_start_to_any_end_in_both_directions(log: Log) -> None:
    offsets = numbered(log, 8)
    assert numbers(partition_records(log, PLACE)) == [*range(8)]
    assert numbers(partition_records(log, PLACE, newest_first=True)) == [*range(7, -1, -1)]
    start, end = offsets[2], offsets[7]
    assert numbers(partition_records(log, PLACE, start=start, end=end)) == [2, 3, 4, 5, 6]
    assert numbers(partition_records(log, PLACE, start=start, end=end, newest_first=True)) == [6, 5, 4, 3, 2]
    assert numbers(newest_records(log, SCORES, 5)) == [3, 4, 5, 6, 7]
    assert numbers(partition_records(log, PLACE, start=10**9)) == []


@pytest.mark.parametrize("newest_first", [False, True])
def test_what_is_deleted_while_a_partition_is_read_is_left_out(log: Log, newest_first: bool) -> None:
    offsets = numbered(log, 12)
    reading = partition_records(log, PLACE, newest_first=newest_first)
    first = next(reading)
    log.delete_before(PLACE, offsets[10])
    found = numbers([first, *reading])
    assert found == sorted(found, reverse=newest_first)
    assert {10, 11} < {*found, first.offset}  # what a client had fetched before may still come
    assert len(found) == len(set(found))


def test_a_log_is_read_while_it_is_written_and_its_writer_goes_on(log_url: str) -> None:
    with closing(open_log(log_url)) as log:
        log.create()
        with closing(log.writer("online")) as writer, headrace.open(log_url) as reader:
            for count in range(1, 4):
                writer.commit([Outgoing(ALARMS, b"flood", b'{"detector": "flood", "detail": "bad"}', 0)], {})
                writer.settle()
                deadline = time.monotonic() + 20.0  # on Kafka, a commit is visible some milliseconds after it returned
                while (found := [one.value.detail for one in reader.alarms()]) != ["bad"] * count:
                    assert time.monotonic() < deadline, found
                assert list(reader.events()) == []


class Broken(MemoryLog):
    """A log that claims to hold more than it ever sends."""

    def end(self, partition: Partition) -> int:
        return super().end(partition) + 5


def test_records_that_never_arrive_end_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "deadline_s", 0.1)
    log = Broken()
    log.create()
    numbered(log, 2)
    with pytest.raises(LogUnavailable, match=r"scores/0: records 4 to 9 did not arrive within 0\.1 s"):
        list(partition_records(log, PLACE))


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_read_keeps_a_batch_and_not_a_partition(newest_first: bool, tmp_path: Path) -> None:
    record_bytes, count = 50_000, 400
    with closing(open_log(f"sqlite:{tmp_path / 'log.db'}")) as log:
        log.create()
        with closing(log.appender()) as appender:
            for _ in range(count):
                appender.append(Outgoing(SCORES, None, bytes(record_bytes), 0))
        tracemalloc.start()
        try:
            assert sum(1 for _ in partition_records(log, PLACE, newest_first=newest_first)) == count
            assert tracemalloc.get_traced_memory()[1] < 20 * record_bytes
        finally:
            tracemalloc.stop()
