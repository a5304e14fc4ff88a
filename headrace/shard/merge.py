"""The merge: records of several partitions in about the order of event time, read ahead in bounded buffers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

import msgspec

from headrace.clock import TIMER, Clock, Timer
from headrace.log.protocol import Log, Partition, Record
from headrace.shard.buffer import Buffer

chunk_records_max = 64
"""Maximum number of records taken from one partition before the heads are compared again; bounds how far event time
jumps back and forth."""
merge_read_records_max = 4_000
"""Maximum number of records per read, over all partitions."""
buffer_records_max = 2_000
"""A partition with this many buffered records is not read further; one read may exceed it."""
empty_poll_interval_s = 0.01
"""Interval of polls for partitions with empty buffers while others have records."""
late_wait_s_max = 0.1
"""Maximum wait for a partition whose buffer is empty and of which the log has more, while others have records."""
merge_end_age_s_max = 0.2
"""Maximum age of a known end of a partition that is used to conclude that the log has no more of it."""
lag_end_age_s_max = 1.0
"""Maximum age of the known ends that are used for the lag; a new request waits for the broker."""


chunk_span_ms_max = 3_600_000
"""How far a chunk may go beyond the heads of other partitions in event time."""
heads_compared = 3
"""Records of a partition's head of which the earliest time counts, so that one fast clock does not hold it up."""


class Chunk(NamedTuple):
    """Records of one partition and their size in bytes.

    `read_ms` is when they were read if the log does not tell when some were appended, else 0.
    """

    place: Partition
    records: list[Record]
    size: int
    read_ms: int


def stamped(records: Sequence[Record], read_ms: int) -> list[Record]:
    """Return records; those of unknown append time have the time at which they were read instead."""
    return [record if record.time_ms else msgspec.structs.replace(record, time_ms=read_ms) for record in records]


class _Time(msgspec.Struct):
    """What the order of partitions needs of an event; decoding it takes a fifth of the time."""

    time: datetime


_decode_time = msgspec.json.Decoder(_Time).decode


def _own_ms(record: Record) -> int:
    """Return the sender's time of an event, at most the append time; 0 if there is none."""
    try:
        return max(0, min(int(_decode_time(record.value or b"").time.timestamp() * 1000), record.time_ms))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return 0


def _within(chunk: Sequence[Record], head_ms: int, until_ms: int) -> int:
    """Return a number of records of a chunk, about in order, that are of `until_ms` or before; at least one."""
    last_ms, kept = _own_ms(chunk[-1]), len(chunk)
    while last_ms > until_ms and kept > 1:  # times that grow evenly need one step
        kept = max(1, kept * max(0, until_ms - head_ms) // (last_ms - head_ms))
        last_ms = _own_ms(chunk[kept - 1])
    return kept


class Merge:
    """Returns chunks of the partition whose head is oldest in event time.

    It waits for a partition with an empty buffer only while the log has more of it, and a bounded time, so that a
    backlog does not make event time jump back and forth.

    Args:
        clock: tells the time of reading, for records whose append time the log does not tell.
    """

    def __init__(self, log: Log, positions: Mapping[Partition, int], clock: Clock, timer: Timer = TIMER) -> None:
        self._log, self._reader = log, log.reader(positions)
        self._clock, self._timer = clock, timer
        self._buffers = {place: Buffer(buffer_records_max) for place in positions}
        self._heads_ms: dict[Partition, int] = {}  # event time of a buffer's head, once computed
        self._ends = dict.fromkeys(positions, 0)
        self._ends_at = 0.0
        self._filled_at = 0.0

    def take(self, wait_s: float) -> Chunk | None:
        """Return the next chunk, or None if no record arrives within `wait_s`."""
        waiting = [place for place, buffer in self._buffers.items() if buffer]
        if len(waiting) < len(self._buffers) and (
            not waiting or self._timer.monotonic() - self._filled_at > empty_poll_interval_s
        ):
            self._fill(0.0 if waiting else wait_s)
            if any(self._buffers.values()):
                self._wait_for_late()
            self._filled_at = self._timer.monotonic()
            waiting = [place for place, buffer in self._buffers.items() if buffer]
        if not waiting:
            return None
        place = min(waiting, key=self._head_ms)
        head_ms = self._heads_ms.pop(place)
        buffer, read_ms = self._buffers[place], 0
        size = buffer.size
        chunk = records = buffer.take(chunk_records_max)
        if 0 in [record.time_ms for record in records]:
            read_ms = self._clock()
            chunk = stamped(records, read_ms)
        if others := [self._heads_ms[other] for other in waiting if other != place]:
            kept = _within(chunk, head_ms, min(others) + chunk_span_ms_max)
            if kept < len(chunk):
                buffer.put_back(records[kept:])
                chunk = chunk[:kept]
        return Chunk(place, chunk, size - buffer.size, read_ms)

    def lag(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return how many records follow these positions, up to the known ends."""
        if self._timer.monotonic() - self._ends_at > lag_end_age_s_max:
            self._refresh_ends()
        return {place: max(0, end - positions[place]) for place, end in self._ends.items()}

    def add(self, positions: Mapping[Partition, int]) -> None:
        """Read more partitions, from these positions on."""
        read = {place: self._reader.position(place) for place in self._buffers}
        reader = self._log.reader({**read, **positions})
        self._reader.close()
        self._reader = reader
        for place in positions:
            self._buffers[place], self._ends[place] = Buffer(buffer_records_max), 0
        self._ends_at = 0.0

    def close(self) -> None:
        """Free connections. Safe to call twice."""
        self._reader.close()

    def _fill(self, timeout_s: float) -> None:
        """Read into the buffers that are not full."""
        short = [place for place, buffer in self._buffers.items() if not buffer.full]
        for place, records in self._reader.read(merge_read_records_max, timeout_s, only=short):
            self._buffers[place].extend(records)

    def _head_ms(self, place: Partition) -> int:
        """Return the earliest event time of a partition's next records; 0, to go first, if none can be decoded."""
        if place not in self._heads_ms:
            head = stamped(list(islice(self._buffers[place].records, heads_compared)), self._clock())
            found = [_own_ms(one) for one in head]
            self._heads_ms[place] = min((own_ms for own_ms in found if own_ms), default=0)
        return self._heads_ms[place]

    def _wait_for_late(self) -> None:
        """Wait, a bounded time, for the partitions with empty buffers of which the log has more."""
        deadline = self._timer.monotonic() + late_wait_s_max
        while self._timer.monotonic() < deadline:
            empty = [place for place, buffer in self._buffers.items() if not buffer]
            if not any(self._has_more(place) for place in empty):
                return
            self._fill(0.02)

    def _has_more(self, place: Partition) -> bool:
        """Return whether the log has more of a partition; request its end again only if the known one is old."""
        position = self._reader.position(place)
        if self._ends[place] <= position and self._timer.monotonic() - self._ends_at > merge_end_age_s_max:
            self._refresh_ends()
        return self._ends[place] > position

    def _refresh_ends(self) -> None:
        self._ends = {place: self._reader.end(place) for place in self._buffers}
        self._ends_at = self._timer.monotonic()
