"""A log in memory: the fake for tests and examples, which needs no file and no server."""

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter

from headrace.clock import Clock, wall_ms
from headrace.errors import Fenced, LogUnavailable, PositionLost
from headrace.log.protocol import (
    READ_BYTES_MAX,
    TRANSACTION_TIMEOUT_S,
    Finding,
    Outgoing,
    Partition,
    Record,
    check_size,
    within_bytes,
)
from headrace.topics import TOPICS, partitions_of, place_of


class _StoredPartition:
    """The stored records of one partition, in order, its bounds, and an id that no other partition ever had."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.records: list[Record] = []
        self.first = self.end = 0

    def read_from(self, position: int, records_max: int) -> list[Record]:
        start = bisect_left(self.records, position, key=attrgetter("offset"))
        return self.records[start : start + records_max]


class MemoryLog:
    """`headrace.log.protocol.Log` in the memory of one process. Thread-safe.

    As on Kafka, positions are not consecutive: each commit writes a marker after its records.

    >>> log = MemoryLog(clock=lambda: 1_000)
    >>> log.create()
    >>> writer = log.writer("online")
    >>> writer.commit([Outgoing("scores", b"popularity", b"{}")], {})
    >>> writer.settle()
    [0]
    >>> log.end(Partition("scores", 0))
    2
    >>> log.last(Partition("scores", 0))
    Record(partition=0, offset=0, time_ms=1000, key=b'popularity', value=b'{}')
    """

    def __init__(self, *, clock: Clock = wall_ms) -> None:
        self._clock = clock
        self._partitions: dict[Partition, _StoredPartition] = {}
        self._epochs: dict[str, int] = {}
        self._committed: dict[str, dict[Partition, int]] = {}
        self._changed = threading.Condition()

    def create(self) -> None:
        with self._changed:
            for topic in TOPICS:
                for partition in partitions_of(topic):
                    self._partitions.setdefault(partition, _StoredPartition())

    def _partition(self, partition: Partition) -> _StoredPartition:
        if partition not in self._partitions:
            raise LogUnavailable(f"no partition {partition.topic}/{partition.number}; create the topics first")
        return self._partitions[partition]

    def _append(self, records: Sequence[Outgoing], *, with_marker: bool) -> list[int]:
        """Append all records or none, and wake the readers. The caller holds the lock."""
        places = [place_of(record, max(1, len(self._of(record.topic)))) for record in records]
        targets = [self._partition(place) for place in places]
        offsets = []
        for stored, place, record in zip(targets, places, records, strict=True):
            time_ms = max(self._clock(), stored.records[-1].time_ms if stored.records else 0)
            stored.records.append(Record(place.number, stored.end, time_ms, record.key, record.value))
            offsets.append(stored.end)
            stored.end += 1
        if with_marker:
            for place in set(places):
                self._partitions[place].end += 1
        self._changed.notify_all()
        return offsets

    def partitions(self, topic: str) -> list[Partition]:
        with self._changed:
            return self._of(topic)

    def _of(self, topic: str) -> list[Partition]:
        return sorted(place for place in self._partitions if place.topic == topic)

    def identity(self, topic: str) -> str:
        with self._changed:
            return self._partition(Partition(topic, 0)).id

    def first(self, partition: Partition) -> int:
        with self._changed:
            return self._partition(partition).first

    def end(self, partition: Partition) -> int:
        with self._changed:
            return self._partition(partition).end

    def position_at(self, partition: Partition, time_ms: int) -> int:
        with self._changed:
            stored = self._partition(partition)
            found = bisect_left(stored.records, time_ms, key=attrgetter("time_ms"))
            return stored.records[found].offset if found < len(stored.records) else stored.end

    def last(self, partition: Partition) -> Record | None:
        return next(iter(self.newest(partition, 1)), None)

    def newest(self, partition: Partition, records_max: int, *, before: int | None = None) -> list[Record]:
        with self._changed:
            records = self._partition(partition).records
            end = len(records) if before is None else bisect_left(records, before, key=attrgetter("offset"))
            return records[max(0, end - records_max) : end]

    def hidden(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        return {}

    def missing(self) -> list[str]:
        return [topic for topic in TOPICS if not self.partitions(topic)]

    def check_settings(self) -> tuple[list[Finding], list[str]]:
        return [], []

    def delete_before(self, partition: Partition, position: int) -> None:
        with self._changed:
            stored = self._partition(partition)
            stored.first = max(stored.first, min(position, stored.end))
            stored.records = [record for record in stored.records if record.offset >= stored.first]

    def committed(self, writer_id: str) -> dict[Partition, int]:
        with self._changed:
            return dict(self._committed.get(writer_id, {}))

    def reader(self, positions: Mapping[Partition, int]) -> "MemoryReader":
        return MemoryReader(self, positions)

    def writer(
        self,
        writer_id: str,
        writes: Collection[Partition] = (),
        reads: Collection[str] = (),
        *,
        timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> "MemoryWriter":
        with self._changed:
            self._epochs[writer_id] = self._epochs.get(writer_id, 0) + 1
            return MemoryWriter(self, writer_id, self._epochs[writer_id])

    def appender(self) -> "MemoryAppender":
        return MemoryAppender(self)

    def close(self) -> None:
        """Do nothing: another thread may still be reading."""


class MemoryReader:
    """`headrace.log.protocol.Reader` of a MemoryLog."""

    def __init__(self, log: MemoryLog, positions: Mapping[Partition, int]) -> None:
        self._log, self._positions = log, dict(positions)
        self._order = list(positions)

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        deadline = time.monotonic() + timeout_s
        with self._log._changed:
            while True:
                batches = self._read_now(records_max, only)
                if batches or not self._log._changed.wait(max(0.0, deadline - time.monotonic())):
                    return batches

    def _read_now(self, records_max: int, only: Collection[Partition] | None) -> list[tuple[Partition, list[Record]]]:
        batches, bytes_max = list[tuple[Partition, list[Record]]](), READ_BYTES_MAX
        self._order = [*self._order[1:], *self._order[:1]]  # so that a full partition cannot starve the others
        for place in self._order:
            if min(records_max, bytes_max) <= 0 or (only is not None and place not in only):
                continue
            stored, position = self._log._partition(place), self._positions[place]
            if not stored.first <= position <= stored.end:
                if batches:  # they are returned first, and the loss is told by the next read
                    break
                raise PositionLost(place.topic, place.number, position, stored.first, stored.end)
            records = stored.read_from(position, records_max)
            if records:
                count, size = within_bytes(records, bytes_max)
                batches.append((place, records := records[:count]))
                records_max, bytes_max = records_max - count, bytes_max - size
            self._positions[place] = records[-1].offset + 1 if records else stored.end
        return batches

    def seek(self, partition: Partition, position: int) -> None:
        assert partition in self._positions, f"{partition} is not assigned to this reader"
        self._positions[partition] = position

    def position(self, partition: Partition) -> int:
        return self._positions[partition]

    def end(self, partition: Partition) -> int:
        last = self._log.last(partition)
        if last is None or self._positions[partition] <= last.offset:
            return self._log.end(partition)
        return last.offset + 1

    def close(self) -> None:
        """Do nothing: there are no connections."""


class MemoryWriter:
    """`headrace.log.protocol.Writer` of a MemoryLog; `commit` returns after the commit is complete."""

    def __init__(self, log: MemoryLog, writer_id: str, epoch: int) -> None:
        self._log, self._id, self._epoch = log, writer_id, epoch
        self._offsets: list[int] = []

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        for record in records:
            check_size(record)
        with self._log._changed:
            epoch = self._log._epochs[self._id]
            if epoch != self._epoch:
                raise Fenced(f"writer {self._id}: epoch {self._epoch} was taken over by epoch {epoch}")
            self._offsets = self._log._append(records, with_marker=True)
            self._log._committed.setdefault(self._id, {}).update(positions)

    def settle(self) -> list[int]:
        offsets, self._offsets = self._offsets, []
        return offsets

    def close(self) -> None:
        """Do nothing: there are no connections."""


class MemoryAppender:
    """`headrace.log.protocol.Appender` of a MemoryLog; each record is acknowledged at once."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def append(self, record: Outgoing) -> None:
        check_size(record)
        with self._log._changed:
            self._log._append([record], with_marker=False)

    def flush(self) -> None:
        """Do nothing: no record is ever unacknowledged."""

    def close(self) -> None:
        """Do nothing: there are no connections."""
