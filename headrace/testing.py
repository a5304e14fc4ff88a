"""Fakes that ship: a log in memory, for tests and examples that need no file and no server."""

import threading
import time
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter

from headrace.clock import Clock, wall_ms
from headrace.errors import Fenced, LogUnavailable, PositionLost
from headrace.log import Outgoing, Partition, Record, check_size
from headrace.topics import TOPICS, partitions_of, place_of


class _Shelf:
    """One partition: the records that are kept, in order, and its bounds."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.first = self.end = 0

    def after(self, position: int, records_max: int) -> list[Record]:
        start = bisect_left(self.records, position, key=attrgetter("offset"))
        return self.records[start : start + records_max]


class MemoryLog:
    """`headrace.log.Log` in the memory of one process; threads may share it.

    Like Kafka's, its positions are not consecutive: each commit leaves a marker behind its records.

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
        self._shelves: dict[Partition, _Shelf] = {}
        self._epochs: dict[str, int] = {}
        self._committed: dict[str, dict[Partition, int]] = {}
        self._changed = threading.Condition()

    def create(self) -> None:
        with self._changed:
            for topic in TOPICS:
                for partition in partitions_of(topic):
                    self._shelves.setdefault(partition, _Shelf())

    def _shelf(self, partition: Partition) -> _Shelf:
        if partition not in self._shelves:
            raise LogUnavailable(f"no partition {partition.topic}/{partition.number}; create the topics first")
        return self._shelves[partition]

    def _take(self, records: Sequence[Outgoing], *, marked: bool) -> list[int]:
        """Append records, all or none, and wake readers. The caller holds the lock."""
        shelves = [(self._shelf(place_of(record)), place_of(record).number, record) for record in records]
        offsets = []
        for shelf, number, record in shelves:
            time_ms = max(self._clock(), shelf.records[-1].time_ms if shelf.records else 0)
            shelf.records.append(Record(number, shelf.end, time_ms, record.key, record.value))
            offsets.append(shelf.end)
            shelf.end += 1
        if marked:
            for place in {place_of(record) for record in records}:
                self._shelves[place].end += 1
        self._changed.notify_all()
        return offsets

    def first(self, partition: Partition) -> int:
        with self._changed:
            return self._shelf(partition).first

    def end(self, partition: Partition) -> int:
        with self._changed:
            return self._shelf(partition).end

    def position_at(self, partition: Partition, time_ms: int) -> int:
        with self._changed:
            shelf = self._shelf(partition)
            found = bisect_left(shelf.records, time_ms, key=attrgetter("time_ms"))
            return shelf.records[found].offset if found < len(shelf.records) else shelf.end

    def last(self, partition: Partition) -> Record | None:
        with self._changed:
            records = self._shelf(partition).records
            return records[-1] if records else None

    def delete_before(self, partition: Partition, position: int) -> None:
        with self._changed:
            shelf = self._shelf(partition)
            shelf.first = max(shelf.first, min(position, shelf.end))
            shelf.records = [record for record in shelf.records if record.offset >= shelf.first]

    def committed(self, writer_id: str) -> dict[Partition, int]:
        with self._changed:
            return dict(self._committed.get(writer_id, {}))

    def reader(self, positions: Mapping[Partition, int]) -> "MemoryReader":
        return MemoryReader(self, positions)

    def writer(self, writer_id: str) -> "MemoryWriter":
        with self._changed:
            self._epochs[writer_id] = self._epochs.get(writer_id, 0) + 1
            return MemoryWriter(self, writer_id, self._epochs[writer_id])

    def appender(self) -> "MemoryAppender":
        return MemoryAppender(self)

    def close(self) -> None:
        """Keep everything: another thread may still read."""


class MemoryReader:
    """`headrace.log.Reader` of a MemoryLog."""

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
        batches = []
        self._order.append(self._order.pop(0))  # so that a full partition cannot starve the others
        for place in self._order:
            if records_max <= 0 or (only is not None and place not in only):
                continue
            shelf, position = self._log._shelf(place), self._positions[place]
            if not shelf.first <= position <= shelf.end:
                raise PositionLost(place.topic, place.number, position, shelf.first, shelf.end)
            records = shelf.after(position, records_max)
            if records:
                batches.append((place, records))
                records_max -= len(records)
            self._positions[place] = records[-1].offset + 1 if records else shelf.end
        return batches

    def seek(self, partition: Partition, position: int) -> None:
        assert partition in self._positions, f"{partition} is not one of this reader's"
        self._positions[partition] = position

    def position(self, partition: Partition) -> int:
        return self._positions[partition]

    def end(self, partition: Partition) -> int:
        return self._log.end(partition)

    def close(self) -> None:
        """There is nothing to free."""


class MemoryWriter:
    """`headrace.log.Writer` of a MemoryLog; a commit is done when `commit` returns."""

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
            self._offsets = self._log._take(records, marked=True)
            self._log._committed.setdefault(self._id, {}).update(positions)

    def settle(self) -> list[int]:
        offsets, self._offsets = self._offsets, []
        return offsets

    def close(self) -> None:
        """There is nothing to free."""


class MemoryAppender:
    """`headrace.log.Appender` of a MemoryLog; each record is acknowledged at once."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def append(self, record: Outgoing) -> None:
        check_size(record)
        with self._log._changed:
            self._log._take([record], marked=False)

    def flush(self) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        """There is nothing to free."""
