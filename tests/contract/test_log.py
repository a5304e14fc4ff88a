"""The contract of a log (`headrace.log.protocol`), tested for each implementation."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.archive.log import ArchivedLog
from headrace.errors import Fenced, LogUnavailable, Misconfigured, PositionLost
from headrace.log.kafka.writer import KafkaWriter
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import (
    READ_BYTES_MAX,
    RECORD_BYTES_MAX,
    Appender,
    Log,
    Outgoing,
    Partition,
    Reader,
    Record,
    Writer,
    size_of,
)
from headrace.topics import SHARDS_MAX, TOPICS, partition_for, partitions_of
from tests.replaced import replace_topic

E0, E1, E2 = (Partition("events", number) for number in range(3))
JOURNAL = Partition("journal", 0)
SCORES = Partition("scores", 0)

wait_s_max = 20.0
"""How long a test waits for an expected result: far longer than it takes, so that a busy machine fails no test."""


class Opened:
    """Opens readers, writers and appenders of one log and closes them when the test ends."""

    def __init__(self, log: Log, stack: ExitStack) -> None:
        self.log, self._stack = log, stack

    def reader(self, positions: Mapping[Partition, int]) -> Reader:
        return self._stack.enter_context(closing(self.log.reader(positions)))

    def writer(self, writer_id: str = "online") -> Writer:
        return self._stack.enter_context(closing(self.log.writer(writer_id)))

    def appender(self) -> Appender:
        return self._stack.enter_context(closing(self.log.appender()))

    def append(self, partition: Partition, *values: bytes) -> None:
        appender = self.log.appender()
        for value in values:
            appender.append(Outgoing(partition.topic, b"key", value, partition.number))
        appender.close()

    def commit(self, *records: Outgoing) -> list[int]:
        writer = self.writer()
        writer.commit(records, {})
        return writer.settle()

    def values(self, partition: Partition, position: int = 0) -> list[bytes | None]:
        """Return the values of a partition, from a position to its end."""
        return [record.value for record in self.records(partition, position)]

    def records(self, partition: Partition, position: int = 0) -> list[Record]:
        reader = self.reader({partition: position})
        return drained(reader, partition)


def drained(reader: Reader, partition: Partition) -> list[Record]:
    """Read one partition to its end, past any markers."""
    records: list[Record] = []
    deadline = time.monotonic() + wait_s_max
    while reader.position(partition) < reader.end(partition):
        assert time.monotonic() < deadline, f"stuck at {reader.position(partition)} of {reader.end(partition)}"
        for place, batch in reader.read(1_000, 0.05, only=[partition]):
            assert place == partition
            records += batch
    return records


def read_until(reader: Reader, wanted: int, records_max: int = 1_000) -> list[tuple[Partition, Record]]:
    """Read until `wanted` records have arrived; fail if more arrive."""
    received: list[tuple[Partition, Record]] = []
    deadline = time.monotonic() + wait_s_max
    while len(received) < wanted:
        assert time.monotonic() < deadline, f"{len(received)} of {wanted} records arrived"
        received += [(place, record) for place, batch in reader.read(records_max, 0.1) for record in batch]
    assert len(received) == wanted
    return received


@pytest.fixture
def opened(log: Log) -> Iterator[Opened]:
    with ExitStack() as stack:
        yield Opened(log, stack)


@pytest.fixture
def shared(shared_log: Log) -> Iterator[Opened]:
    with ExitStack() as stack:
        yield Opened(shared_log, stack)


def outgoing(partition: Partition, value: bytes) -> Outgoing:
    return Outgoing(partition.topic, b"key", value, partition.number)


# Reading


def test_a_read_is_bounded_by_bytes_too(shared: Opened) -> None:
    size = READ_BYTES_MAX // 10
    sent = [number.to_bytes(2, "big") * (size // 2) for number in range(24)]
    shared.append(E0, *sent[:12])
    shared.append(E1, *sent[12:])
    reader, received = shared.reader({E0: 0, E1: 0}), dict[Partition, list[bytes]]()
    deadline = time.monotonic() + wait_s_max
    while sum(map(len, received.values())) < len(sent):
        assert time.monotonic() < deadline
        batches = reader.read(1_000, 0.1)
        assert sum(size_of(record) for _, records in batches for record in records) <= READ_BYTES_MAX + size
        for place, records in batches:
            received.setdefault(place, []).extend(record.value or b"" for record in records)
    assert received == {E0: sent[:12], E1: sent[12:]}


def test_an_empty_partition_has_no_records_and_equal_bounds(opened: Opened) -> None:
    for partition in partitions_of("events"):
        assert opened.log.first(partition) == opened.log.end(partition) == 0
        assert opened.log.last(partition) is None
    assert opened.reader({E0: 0}).read(10, 0.0) == []


def test_records_of_a_partition_are_read_in_the_order_of_appending(opened: Opened) -> None:
    written = {partition: [b"%d-%d" % (partition.number, i) for i in range(500)] for partition in (E0, E1, E2)}
    appender = opened.appender()
    for i in range(500):
        for partition, values in written.items():
            appender.append(outgoing(partition, values[i]))
    appender.flush()
    read: dict[Partition, list[bytes | None]] = {E0: [], E1: [], E2: []}
    reader = opened.reader({E0: 0, E1: 0, E2: 0})
    for place, record in read_until(reader, 1_500, records_max=70):
        assert record.partition == place.number
        read[place].append(record.value)
    assert read == written
    assert reader.read(10, 0.0) == []


def test_a_read_returns_at_most_records_max_over_all_partitions(opened: Opened) -> None:
    for partition in (E0, E1):
        opened.append(partition, *[b"v"] * 10)
    reader = opened.reader({E0: 0, E1: 0})
    received = 0
    while received < 20:
        batches = reader.read(7, wait_s_max)
        assert 1 <= sum(len(batch) for _, batch in batches) <= 7
        assert all(batch for _, batch in batches)
        received += sum(len(batch) for _, batch in batches)
    assert received == 20


def test_a_busy_partition_does_not_starve_another(opened: Opened) -> None:
    opened.append(E0, *[b"v"] * 500)
    opened.append(E1, b"rare")
    reader = opened.reader({E0: 0, E1: 0})
    before = 0
    while True:
        batches = dict(reader.read(10, wait_s_max))
        if E1 in batches:
            break
        before += len(batches[E0])
    assert before < 500


def test_an_empty_read_returns_at_its_timeout(opened: Opened) -> None:
    reader = opened.reader({E0: 0})
    reader.read(10, 0.0)
    started = time.monotonic()
    assert reader.read(10, 0.3) == []
    assert 0.29 <= time.monotonic() - started < 20.0


def test_a_waiting_read_returns_as_soon_as_a_record_arrives(opened: Opened) -> None:
    reader = opened.reader({E0: 0})
    timer = threading.Timer(0.2, opened.append, (E0, b"late"))
    timer.start()
    started = time.monotonic()
    ((place, batch),) = reader.read(10, wait_s_max)
    timer.join()
    assert (place, batch[0].value) == (E0, b"late")
    assert time.monotonic() - started < wait_s_max / 2


def test_repeated_reads_without_a_timeout_return_all_records(opened: Opened) -> None:
    opened.append(E0, b"a", b"b")
    reader = opened.reader({E0: 0, E1: 0})
    received: list[Record] = []
    deadline = time.monotonic() + wait_s_max
    while len(received) < 2 and time.monotonic() < deadline:
        received += [record for _, batch in reader.read(10, 0.0) for record in batch]
        time.sleep(0.001)
    assert [record.value for record in received] == [b"a", b"b"]


def test_reading_only_some_partitions_leaves_the_positions_of_the_others(opened: Opened) -> None:
    opened.append(E0, b"a0", b"a1")
    opened.append(E1, b"b0", b"b1")
    reader = opened.reader({E0: 0, E1: 0})
    ((place, batch),) = reader.read(1, wait_s_max, only=[E1])
    assert (place, batch[0].value, reader.position(E0)) == (E1, b"b0", 0)
    assert reader.read(10, 0.05, only=[]) == []
    assert [record.value for record in drained(reader, E0)] == [b"a0", b"a1"]
    assert [record.value for record in drained(reader, E1)] == [b"b1"]


def test_seek_moves_backwards_and_forwards(opened: Opened) -> None:
    opened.append(E0, b"0", b"1", b"2", b"3")
    offsets = [record.offset for record in opened.records(E0)]
    reader = opened.reader({E0: 0})
    read_until(reader, 4)
    reader.seek(E0, offsets[1])
    assert reader.position(E0) == offsets[1]
    assert [record.value for _, record in read_until(reader, 3)] == [b"1", b"2", b"3"]
    reader.seek(E0, offsets[3])
    assert [record.value for _, record in read_until(reader, 1)] == [b"3"]


def test_the_position_after_a_read_is_past_its_last_record(opened: Opened) -> None:
    opened.append(E0, b"0", b"1", b"2")
    reader = opened.reader({E0: 0, E1: 0})
    ((_, batch),) = reader.read(2, wait_s_max)
    assert reader.position(E0) > batch[-1].offset
    assert reader.position(E1) == 0
    again = opened.reader({E0: reader.position(E0)})
    assert [record.value for _, record in read_until(again, 1)] == [b"2"]


def test_positions_increase_and_a_reader_reaches_the_end_past_any_markers(opened: Opened) -> None:
    writer = opened.writer()
    for i in range(5):
        writer.commit([outgoing(SCORES, b"%d" % i)] * 2, {})
    writer.settle()
    records = opened.records(SCORES)
    assert [record.value for record in records] == [b"%d" % (i // 2) for i in range(10)]
    assert all(a.offset < b.offset for a, b in pairwise(records))
    assert opened.log.end(SCORES) > records[-1].offset
    for position in (0, records[-1].offset, records[-1].offset + 1):
        reader = opened.reader({SCORES: position})
        drained(reader, SCORES)
        assert reader.end(SCORES) == records[-1].offset + 1, "markers are no records that wait"


def test_a_reader_of_no_partition_reads_nothing(opened: Opened) -> None:
    """Such is the side reader of a shard that hears nothing."""
    opened.append(E0, b"0")
    reader = opened.reader({})
    assert reader.read(10, 0.0) == []
    assert reader.read(10, 0.05) == []


def test_readers_are_independent(opened: Opened) -> None:
    opened.append(E0, b"0", b"1")
    one, other = opened.reader({E0: 0}), opened.reader({E0: 0})
    read_until(one, 2)
    assert other.position(E0) == 0
    read_until(other, 2)


# Times and ends


def test_records_have_their_append_time(opened: Opened) -> None:
    before = time.time() * 1000
    opened.append(E0, b"a")
    opened.append(E0, b"b")
    after = time.time() * 1000
    a, b = opened.records(E0)
    assert before - 1_000 <= a.time_ms <= b.time_ms <= after + 1_000


def test_position_at_is_the_first_record_appended_at_that_time_or_later(opened: Opened) -> None:
    for value in (b"0", b"1", b"2"):
        opened.append(E0, value)
        time.sleep(0.01)
    records = opened.records(E0)
    for record in records:
        position = opened.log.position_at(E0, record.time_ms)
        first = next(r for r in records if r.time_ms >= record.time_ms)
        assert opened.values(E0, position)[0] == first.value
        assert opened.values(E0, opened.log.position_at(E0, record.time_ms + 1)) == [
            r.value for r in records if r.time_ms > record.time_ms
        ]
    assert opened.log.position_at(E0, 0) == records[0].offset
    assert opened.log.position_at(E0, records[-1].time_ms + 1) == opened.log.end(E0)
    assert opened.log.position_at(E1, 0) == opened.log.end(E1)


def test_last_is_the_last_record_past_any_markers(opened: Opened) -> None:
    opened.append(SCORES, b"appended")
    assert opened.log.last(SCORES) == opened.records(SCORES)[-1]
    opened.commit(outgoing(SCORES, b"committed"), outgoing(JOURNAL, b"entry"))
    last = opened.log.last(SCORES)
    assert last is not None
    assert last.value == b"committed"
    assert last == opened.records(SCORES)[-1]
    entry = opened.log.last(JOURNAL)
    assert entry is not None
    assert entry.value == b"entry"


def test_the_end_of_a_reader_is_the_end_of_the_log(opened: Opened) -> None:
    opened.append(E0, b"a", b"b")
    opened.commit(outgoing(E0, b"c"))
    reader = opened.reader({E0: 0})
    assert reader.end(E0) == opened.log.end(E0) >= 3


# Lost positions


def test_reading_deleted_records_raises_position_lost_with_the_bounds(opened: Opened) -> None:
    opened.append(E0, *[b"%d" % i for i in range(10)])
    opened.log.delete_before(E0, 4)
    assert opened.log.first(E0) == 4
    reader = opened.reader({E0: 3, E1: 0})
    with pytest.raises(PositionLost) as caught:
        reader.read(10, wait_s_max)
    error = caught.value
    assert (error.topic, error.partition, error.wanted, error.first, error.end) == ("events", 0, 3, 4, 10)
    reader.seek(E0, error.first)
    assert [record.value for _, record in read_until(reader, 6)] == [b"%d" % i for i in range(4, 10)]


def test_reading_beyond_the_end_raises_position_lost_with_the_bounds(opened: Opened) -> None:
    opened.append(E0, b"a", b"b")
    with pytest.raises(PositionLost) as caught:
        opened.reader({E0: 7}).read(10, wait_s_max)
    assert (caught.value.wanted, caught.value.first, caught.value.end) == (7, 0, 2)


def test_the_end_is_a_valid_position(opened: Opened) -> None:
    opened.append(E0, b"a")
    reader = opened.reader({E0: opened.log.end(E0)})
    assert reader.read(10, 0.1) == []
    opened.append(E0, b"b")
    assert [record.value for _, record in read_until(reader, 1)] == [b"b"]


def test_all_records_can_be_deleted(opened: Opened) -> None:
    opened.append(E0, b"a", b"b")
    opened.log.delete_before(E0, opened.log.end(E0))
    assert opened.log.first(E0) == opened.log.end(E0) == 2
    assert opened.log.last(E0) is None
    opened.append(E0, b"c")
    assert opened.values(E0, 2) == [b"c"]


# Identity


def test_a_topic_that_is_deleted_and_made_again_has_another_id(opened: Opened, request: pytest.FixtureRequest) -> None:
    """In all logs, and no other topic's id changes. Another process that opens the log finds the same ids."""
    log, before = opened.log, {topic: opened.log.identity(topic) for topic in TOPICS}
    live = log.live if isinstance(log, ArchivedLog) else log
    assert all(before.values())
    assert len(set(before.values())) == len(TOPICS)
    opened.append(E0, b"a")
    log.create()
    assert {topic: log.identity(topic) for topic in TOPICS} == before, "neither records nor a start change an id"
    replace_topic(live, url_of(request), "events")
    found = {topic: log.identity(topic) for topic in TOPICS}
    assert [topic for topic in TOPICS if found[topic] != before[topic]] == ["events"]
    assert log.end(E0) == 0
    if not isinstance(live, MemoryLog):
        with closing(open_log(url_of(request), read_only=True)) as other:
            assert {topic: other.identity(topic) for topic in TOPICS} == found


def url_of(request: pytest.FixtureRequest) -> str:
    """Return the URL of the fixture `log`; that of a log in memory is empty."""
    kind = request.node.callspec.params["log"]
    if kind == "kafka":
        return str(request.getfixturevalue("kafka_url"))
    return f"sqlite:{request.getfixturevalue('tmp_path') / 'log.db'}" if kind == "sqlite" else ""


# Keys and values


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"k", None), (None, b"v"), (b"", b""), (b"\x00\xff", b"\xff\x00"), (b"k" * 1_000, b"v" * 1_000)],
)
def test_keys_and_values_are_read_unchanged(opened: Opened, key: bytes | None, value: bytes | None) -> None:
    with closing(opened.log.appender()) as appender:
        appender.append(Outgoing("scores", key, value))
    opened.commit(Outgoing("scores", key, value))
    assert [(record.key, record.value) for record in opened.records(SCORES)] == [(key, value)] * 2


def test_a_record_without_key_and_value_is_rejected_and_later_ones_are_written(opened: Opened) -> None:
    appender = opened.appender()
    with pytest.raises(ValueError, match="key"):
        appender.append(Outgoing("scores", None, None))
    with pytest.raises(ValueError, match="key"):
        opened.commit(Outgoing("scores", None, None))
    appender.append(outgoing(SCORES, b"good"))
    appender.flush()
    assert opened.values(SCORES) == [b"good"]


def test_the_key_selects_the_same_partition_as_in_kafka(opened: Opened) -> None:
    keys = [b"", b"shopper-1", "Käufer".encode(), *(b"%d" % i for i in range(40))]
    with closing(opened.log.appender()) as appender:
        for key in keys:
            appender.append(Outgoing("events", key, key))
    opened.commit(*(Outgoing("events", key, key) for key in keys))
    for partition in partitions_of("events"):
        expected = [key for key in keys if partition_for(key, TOPICS["events"].partitions) == partition.number]
        assert opened.values(partition) == expected * 2
        assert expected


# Sizes


def test_the_largest_record_is_written_and_one_byte_more_is_rejected(opened: Opened) -> None:
    largest = Outgoing("scores", b"key", b"v" * (RECORD_BYTES_MAX - 3))
    over = largest._replace(key=b"key!")
    appender, writer = opened.appender(), opened.writer()
    appender.append(largest)
    with pytest.raises(ValueError, match="1000001"):
        appender.append(over)
    with pytest.raises(ValueError, match="1000001"):
        writer.commit([outgoing(SCORES, b"beside"), over], {})
    appender.append(outgoing(SCORES, b"later"))
    appender.flush()
    writer.commit([largest, outgoing(SCORES, b"latest")], {})
    writer.settle()
    assert [len(value or b"") for value in opened.values(SCORES)] == [RECORD_BYTES_MAX - 3, 5, RECORD_BYTES_MAX - 3, 6]


def test_an_appender_writes_more_bytes_than_it_may_buffer(opened: Opened) -> None:
    with closing(opened.log.appender()) as appender:
        for i in range(40):
            appender.append(outgoing(E0, b"%02d" % i * 250_000))
    assert [(value or b"")[:2] for value in opened.values(E0)] == [b"%02d" % i for i in range(40)]


def test_a_flushed_record_is_readable(opened: Opened) -> None:
    appender = opened.appender()
    for i in range(10):
        appender.append(outgoing(E0, b"%d" % i))
        appender.flush()
        assert opened.log.end(E0) == i + 1


# Commits


def test_a_commit_appends_all_its_records_and_settle_returns_their_offsets(opened: Opened) -> None:
    writer = opened.writer()
    sent = [outgoing(SCORES, b"s0"), outgoing(JOURNAL, b"j"), outgoing(SCORES, b"s1"), outgoing(E1, b"e")]
    opened.append(SCORES, b"before")
    for _ in range(3):
        writer.commit(sent, {E0: 5})
        offsets = writer.settle()
        assert len(offsets) == len(sent)
        for record, offset in zip(sent, offsets, strict=True):
            assert record.partition is not None
            found = opened.records(Partition(record.topic, record.partition), offset)[0]
            assert (found.offset, found.value) == (offset, record.value)
    assert writer.settle() == []
    assert opened.values(JOURNAL) == [b"j"] * 3


def test_a_commit_settles_the_previous_one(opened: Opened) -> None:
    writer = opened.writer()
    for i in range(20):
        writer.commit([outgoing(JOURNAL, b"%d" % i)], {})
    (offset,) = writer.settle()
    assert opened.values(JOURNAL) == [b"%d" % i for i in range(20)]
    assert opened.records(JOURNAL, offset)[0].value == b"19"


def test_an_empty_commit_writes_no_record(opened: Opened) -> None:
    writer = opened.writer()
    writer.commit([], {})
    assert writer.settle() == []
    assert opened.log.last(JOURNAL) is None


def test_a_new_writer_fences_the_previous_one(opened: Opened) -> None:
    old = opened.writer()
    old.commit([outgoing(JOURNAL, b"old")], {})
    old.settle()
    new = opened.writer()

    def try_again() -> None:
        old.commit([outgoing(JOURNAL, b"late"), outgoing(SCORES, b"late")], {E0: 9})
        old.settle()

    for _ in range(2):
        with pytest.raises(Fenced):
            try_again()
    new.commit([outgoing(JOURNAL, b"new")], {})
    new.settle()
    with pytest.raises(Fenced):
        try_again()
    new.commit([outgoing(JOURNAL, b"new again")], {})
    new.settle()
    assert opened.values(JOURNAL) == [b"old", b"new", b"new again"]
    assert opened.values(SCORES) == []


def test_writers_of_different_ids_do_not_fence_each_other(opened: Opened) -> None:
    online, finetune = opened.writer("online"), opened.writer("finetune")
    for writer in (online, finetune, online):
        writer.commit([outgoing(JOURNAL, b"j")], {})
        writer.settle()
    assert len(opened.values(JOURNAL)) == 3


def test_a_writer_closed_with_a_commit_in_flight_leaves_all_of_it_or_nothing(opened: Opened) -> None:
    for round_ in range(5):
        writer = opened.log.writer("online")
        writer.commit([outgoing(place, b"%d" % round_) for place in (E0, E1, JOURNAL)], {})
        writer.close()
        writer.close()
        opened.writer()  # from here on no transaction of the previous writer is pending
        seen = [opened.values(place).count(b"%d" % round_) for place in (E0, E1, JOURNAL)]
        assert seen in ([0, 0, 0], [1, 1, 1])


def test_the_positions_of_a_commit_are_stored_for_lag_tools(opened: Opened) -> None:
    assert opened.log.committed("online") == {}
    writer = opened.writer()
    writer.commit([outgoing(JOURNAL, b"j")], {E0: 5, E1: 7})
    writer.settle()
    opened.writer("finetune")
    assert opened.log.committed("online") == {E0: 5, E1: 7}
    assert opened.log.committed("finetune") == {}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["commit", "append", "fence"]), st.lists(st.integers(0, 2), min_size=1, max_size=5)),
        max_size=12,
    )
)
def test_exactly_the_acknowledged_records_are_read(opened: Opened, steps: list[tuple[str, list[int]]]) -> None:
    places = (E0, E1, JOURNAL)
    starts = {place: opened.log.end(place) for place in places}
    wanted: dict[Partition, list[bytes | None]] = {place: [] for place in places}
    writer, appender = opened.writer(), opened.appender()
    for number, (step, chosen) in enumerate(steps):
        records = [outgoing(places[i], b"%d/%d" % (number, at)) for at, i in enumerate(chosen)]
        if step == "commit":
            writer.commit(records, {})
            writer.settle()
        elif step == "append":
            for record in records:
                appender.append(record)
            appender.flush()
        else:
            fenced, writer = writer, opened.writer()
            with pytest.raises(Fenced):
                _commit(fenced, records)
            continue
        for record, i in zip(records, chosen, strict=True):
            wanted[places[i]].append(record.value)
    assert {place: opened.values(place, starts[place]) for place in places} == wanted


def _commit(writer: Writer, records: list[Outgoing]) -> None:
    writer.commit(records, {})
    writer.settle()


# Opening and closing


def test_topics_are_created_once_and_keep_their_records(opened: Opened) -> None:
    opened.append(E0, b"a")
    opened.log.create()
    assert opened.values(E0) == [b"a"]


def create_for_two_shards(log: Log) -> None:
    """Create the topics as an older version did: journal and judgements have a partition for each of two shards."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("journal", "judgements"):
            patched.setitem(TOPICS, name, TOPICS[name]._replace(partitions=2))
        log.create()


@pytest.fixture(params=["memory", "sqlite", "kafka"])
def older(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Return a log that an older version made."""
    url = f"sqlite:{request.getfixturevalue('tmp_path') / 'log.db'}"
    if request.param == "kafka":
        url = request.getfixturevalue("kafka_url")
    with ExitStack() as stack:
        log = stack.enter_context(closing(MemoryLog() if request.param == "memory" else open_log(url)))
        create_for_two_shards(log)
        yield Opened(log, stack)


def test_a_log_with_fewer_shards_gets_the_other_partitions_and_keeps_its_records(older: Opened) -> None:
    first, second, third, last = (Partition("journal", number) for number in (0, 1, 2, SHARDS_MAX - 1))
    older.commit(outgoing(first, b"online"))
    older.commit(outgoing(second, b"finetune"))
    reader = older.reader({first: 0, second: 0})  # a process that goes on meanwhile
    read_until(reader, 2)
    for _ in range(2):
        older.log.create()
    for topic in ("journal", "judgements"):
        added = [place for place in partitions_of(topic) if place.number >= 2]
        assert len(added) == SHARDS_MAX - 2
        assert [(older.log.first(place), older.log.end(place)) for place in added] == [(0, 0)] * len(added)
    older.commit(outgoing(third, b"third"), outgoing(last, b"last"), outgoing(second, b"finetune again"))
    assert older.values(first) == [b"online"]
    assert older.values(second) == [b"finetune", b"finetune again"]
    assert (older.values(third), older.values(last)) == ([b"third"], [b"last"])
    assert [record.value for _, record in read_until(reader, 1)] == [b"finetune again"]


@pytest.mark.parametrize("older", [False, True], ids=["new", "older"])
def test_several_processes_may_create_what_is_missing_at_once(log_url: str, older: bool) -> None:
    failures: list[Exception] = []
    with ExitStack() as stack:
        logs = [stack.enter_context(closing(open_log(log_url))) for _ in range(4)]
        if older:
            create_for_two_shards(logs[0])
        together = threading.Barrier(len(logs))

        def create(log: Log) -> None:
            together.wait()
            try:
                log.create()
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=create, args=(log,)) for log in logs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [logs[0].end(place) for place in partitions_of("journal")] == [0] * SHARDS_MAX


def test_all_closes_can_be_repeated(opened: Opened) -> None:
    reader, writer, appender = opened.reader({E0: 0}), opened.writer(), opened.appender()
    for closable in (reader, writer, appender, opened.log):
        closable.close()
        closable.close()


def test_methods_of_a_log_may_be_called_from_several_threads(opened: Opened) -> None:
    opened.append(E0, b"a", b"b")
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(10):
            found = (opened.log.first(E0), opened.log.end(E0), opened.log.position_at(E0, 0))
            if found != (0, 2, 0):
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("url", ["", "sqlite:", "kafka:", "redis:localhost", "kafka:localhost:1?colour=red"])
def test_a_url_of_an_unknown_form_is_rejected(url: str) -> None:
    with pytest.raises(Misconfigured):
        open_log(url)


# Several processes

_IN_ANOTHER_PROCESS = """
import sys
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing, Partition
log = open_log(sys.argv[1])
E0, JOURNAL = Partition("events", 0), Partition("journal", 0)
"""


def python(url: str, code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _IN_ANOTHER_PROCESS + code, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def test_readers_in_several_processes_see_the_same_records(shared: Opened, log_url: str) -> None:
    code = """
reader = log.reader({E0: 0})
print("ready", flush=True)
got = []
while len(got) < 300:
    got += [record for _, batch in reader.read(50, 1.0) for record in batch]
print(";".join(f"{record.offset} {record.time_ms} {record.value.decode()}" for record in got))
"""
    processes = [python(log_url, code) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    shared.append(E0, *[b"%d" % i for i in range(300)])
    wanted = ";".join(f"{r.offset} {r.time_ms} {(r.value or b'').decode()}" for r in shared.records(E0))
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [wanted, wanted]


def test_a_writer_in_another_process_is_fenced(shared: Opened, log_url: str) -> None:
    code = """
from headrace.errors import Fenced
writer = log.writer("online")
writer.commit([Outgoing("journal", b"k", b"theirs", 0)], {})
print(writer.settle(), flush=True)
sys.stdin.readline()
try:
    writer.commit([Outgoing("journal", b"k", b"late", 0)], {})
    writer.settle()
except Fenced:
    print("fenced")
"""
    process = python(log_url, code)
    assert process.stdout is not None
    assert process.stdout.readline() == "[0]\n"
    shared.commit(outgoing(JOURNAL, b"ours"))
    assert process.communicate("go\n", timeout=60)[0] == "fenced\n"
    assert shared.values(JOURNAL) == [b"theirs", b"ours"]


def test_a_killed_writer_leaves_only_complete_commits(shared: Opened, log_url: str) -> None:
    code = """
writer = log.writer("online")
for i in range(100_000):
    value = b"%d" % i
    places = [("events", 0), ("events", 1), ("journal", 0)]
    writer.commit([Outgoing(topic, b"k", value, number) for topic, number in places], {E0: i})
    if i % 10 == 0:
        print(i, flush=True)
"""
    process = python(log_url, code)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 30:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    new = shared.writer()
    journal = shared.values(JOURNAL)
    assert journal == [b"%d" % i for i in range(len(journal))]
    assert len(journal) >= 30
    assert shared.values(E0) == shared.values(E1) == journal
    new.commit([outgoing(JOURNAL, b"on")], {})
    new.settle()
    assert shared.values(JOURNAL) == [*journal, b"on"]


def test_appenders_in_several_processes_lose_nothing(shared: Opened, log_url: str) -> None:
    code = """
name = sys.stdin.readline().strip().encode()
appender = log.appender()
for i in range(300):
    appender.append(Outgoing("events", b"k", b"%s %d" % (name, i), 0))
appender.close()
"""
    processes = {name: python(log_url, code) for name in ("one", "two")}
    for name, process in processes.items():
        assert process.stdin is not None
        process.stdin.write(name + "\n")
        process.stdin.flush()
    assert [process.wait(timeout=60) for process in processes.values()] == [0, 0]
    for process in processes.values():
        process.communicate()
    values = [value or b"" for value in shared.values(E0)]
    for name in processes:
        own = [value for value in values if value.startswith(name.encode())]
        assert own == [f"{name} {i}".encode() for i in range(300)]
    assert len(values) == 600


def test_a_follower_reads_while_a_writer_commits(opened: Opened) -> None:
    def commit() -> None:
        writer = opened.log.writer("online")
        for i in range(30):
            writer.commit([outgoing(JOURNAL, b"%d" % i), outgoing(SCORES, b"%d" % i)], {})
        writer.settle()
        writer.close()

    thread = threading.Thread(target=commit)
    reader = opened.reader({JOURNAL: 0})
    thread.start()
    values = [record.value for _, record in read_until(reader, 30)]
    thread.join()
    assert values == [b"%d" % i for i in range(30)]


# Kafka only


@pytest.fixture
def kafka(kafka_url: str) -> Iterator[Opened]:
    with ExitStack() as stack:
        log = stack.enter_context(closing(open_log(kafka_url)))
        log.create()
        yield Opened(log, stack)


def prefix_of(kafka_url: str) -> str:
    return kafka_url.partition("?prefix=")[2]


def test_records_of_an_open_transaction_are_hidden_and_are_aborted_when_a_writer_takes_over(
    kafka: Opened, kafka_url: str, kafka_options: dict[str, Any]
) -> None:
    from kafka import KafkaProducer

    kafka.append(SCORES, b"before")
    prefix = prefix_of(kafka_url)
    dead = KafkaProducer(**kafka_options, transactional_id=f"{prefix}online", metrics_enabled=False)
    dead.init_transactions()
    dead.begin_transaction()
    for partition in (SCORES, JOURNAL):
        dead.send(f"{prefix}{partition.topic}", b"pending", partition=partition.number)
    dead.flush()
    kafka.append(SCORES, b"behind")
    assert kafka.log.end(SCORES) == 1
    assert kafka.values(SCORES) == [b"before"]
    assert kafka.log.last(JOURNAL) is None
    writer = kafka.writer("online")
    assert kafka.values(SCORES) == [b"before", b"behind"]
    assert kafka.log.last(JOURNAL) is None
    writer.commit([outgoing(JOURNAL, b"first")], {})
    writer.settle()
    assert kafka.values(JOURNAL) == [b"first"]
    dead.close(timeout=0)


def test_a_writer_logs_no_error_after_its_log_is_closed(
    kafka: Opened, kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread keeps checking for hanging transactions; if the thread died, it would log a traceback."""
    monkeypatch.setattr("headrace.log.kafka.writer.maintenance_interval_s", 0.05)
    log = open_log(kafka_url)
    with closing(log.writer("finetune")):
        log.close()
        time.sleep(0.5)
        assert "writer-finetune" in [thread.name for thread in threading.enumerate()]
    with pytest.raises(LogUnavailable, match="closed"):
        log.committed("finetune")


def test_last_seeks_back_past_many_aborted_records(
    kafka: Opened, kafka_url: str, kafka_options: dict[str, Any]
) -> None:
    from kafka import KafkaProducer

    kafka.commit(outgoing(JOURNAL, b"kept"))
    prefix = prefix_of(kafka_url)
    with closing(KafkaProducer(**kafka_options, transactional_id=f"{prefix}other", metrics_enabled=False)) as other:
        other.init_transactions()
        for _ in range(3):
            other.begin_transaction()
            for _ in range(40):
                other.send(f"{prefix}journal", b"aborted", partition=0)
            other.flush()
            other.abort_transaction()
    last = kafka.log.last(JOURNAL)
    assert last is not None
    assert last.value == b"kept"
    assert kafka.log.end(JOURNAL) - last.offset > 120


def test_a_writer_that_is_fenced_while_idle_raises_at_the_next_commit(
    kafka: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.log.kafka.writer.maintenance_interval_s", 2.0)
    older = kafka.writer()
    for position in (1, 2):  # the first position is sent to the group at once, the second one is still to be sent
        older.commit([outgoing(JOURNAL, b"one")], {E0: position})
    older.settle()
    newer = kafka.writer()
    time.sleep(4.0)

    def commit_again() -> None:
        older.commit([outgoing(JOURNAL, b"two")], {E0: 3})
        older.settle()

    with pytest.raises(Fenced):
        commit_again()
    newer.commit([outgoing(JOURNAL, b"two")], {E0: 3})
    newer.settle()


def test_a_record_that_the_broker_rejects_is_reported_and_the_others_are_sent(
    kafka: Opened, kafka_url: str, kafka_options: dict[str, Any]
) -> None:
    from kafka import KafkaAdminClient, KafkaProducer

    prefix = prefix_of(kafka_url)
    small = {"num_partitions": 4, "replication_factor": 1, "configs": {"max.message.bytes": "5000"}}
    with closing(KafkaAdminClient(**kafka_options)) as admin:
        admin.delete_topics([f"{prefix}events"])
        admin.create_topics({f"{prefix}events": small}, wait_for_metadata=True)
    rejected = False
    with closing(KafkaProducer(**kafka_options)) as plain:
        while not rejected:  # a topic exists shortly before its limits apply
            sent = plain.send(f"{prefix}events", b"x" * 20_000, partition=3)
            plain.flush(timeout=10)
            rejected = sent.failed()
    appender = kafka.appender()
    for i in range(30):
        appender.append(outgoing(E0, b"%02d" % i))
    appender.append(outgoing(E0, b"x" * 20_000))
    for i in range(30, 60):
        appender.append(outgoing(E0, b"%02d" % i))
    with pytest.raises(ValueError, match="events rejected by the broker"):
        appender.flush()
    appender.append(outgoing(E0, b"60"))
    appender.flush()
    assert sorted(value or b"" for value in kafka.values(E0)) == [b"%02d" % i for i in range(61)]


def test_unacknowledged_bytes_are_bounded(kafka: Opened) -> None:
    from headrace.log.kafka.appender import KafkaAppender, unacknowledged_bytes_max

    appender = kafka.appender()
    assert isinstance(appender, KafkaAppender)
    held = []
    for _ in range(60):
        appender.append(outgoing(E0, b"x" * 900_000))
        held.append(appender.unacknowledged_bytes)
    assert max(held) <= unacknowledged_bytes_max
    appender.flush()
    assert appender.unacknowledged_bytes == 0


def test_the_last_commits_positions_reach_the_group_although_they_are_sent_rarely(kafka: Opened) -> None:
    writer = kafka.writer()
    for position in (1, 2, 3):
        writer.commit([outgoing(JOURNAL, b"j")], {E0: position})
    writer.settle()
    deadline = time.monotonic() + wait_s_max
    while kafka.log.committed("online") != {E0: 3}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    writer.commit([outgoing(JOURNAL, b"j")], {})
    assert len(writer.settle()) == 1


def test_the_first_positions_are_sent_at_once_however_long_the_writer_waited(kafka: Opened) -> None:
    writer = kafka.writer()
    assert isinstance(writer, KafkaWriter)
    writer._maintain()  # as after `maintenance_interval_s` without a commit
    writer.commit([outgoing(JOURNAL, b"j")], {E0: 1})
    writer.settle()
    assert not writer._unsent_positions
