"""Reads what a log holds now: partitions to their present end or a part of them, in either direction."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Final

from headrace.errors import LogUnavailable, PositionLost
from headrace.log.protocol import Log, Partition, Reader, Record

batch_records_max: Final = 250
"""Maximum number of records that are kept at once; newest first, they take 250 MB if all have the largest size."""
poll_s: Final = 0.05
"""How long a read waits for records, in seconds. Where only markers remain on Kafka, it waits for nothing."""
deadline_s: Final = 30.0
"""Time without a record, in seconds, after which LogUnavailable is raised."""


def topic_records(log: Log, topic: str) -> Iterator[Record]:
    """Yield all records of a topic that are committed now, one partition after the other; none if the log lacks it.

    Raises:
        LogUnavailable: as for `partition_records`.
    """
    for place in log.partitions(topic):
        yield from partition_records(log, place)


def newest_records(log: Log, topic: str, records_max: int) -> Iterator[Record]:
    """Yield the newest records of each partition of a topic, `records_max` of each at most, oldest first."""
    for place in log.partitions(topic):
        yield from log.newest(place, records_max)


def partition_records(
    log: Log, place: Partition, *, start: int | None = None, end: int | None = None, newest_first: bool = False
) -> Generator[Record, None, None]:
    """Yield a partition's records that are committed now, from `start` on and before `end`, which the log must hold.

    Records that retention deletes meanwhile are left out. At most `batch_records_max` records are kept at once.

    Raises:
        LogUnavailable: the log does not answer, or sends no record for `deadline_s` although it has more.
    """
    first = log.first(place)
    start = first if start is None else max(start, first)
    end = log.end(place) if end is None else end
    if start >= end:
        return
    with closing(log.reader({place: start})) as reader:
        if not newest_first:
            yield from _read(reader, place, end)
            return
        while end > start:
            begin = max(start, end - batch_records_max)
            reader.seek(place, begin)
            records = list(_read(reader, place, end))
            yield from reversed(records)
            end = begin
            if not records:
                start = max(start, log.first(place))


def _read(reader: Reader, place: Partition, end: int) -> Iterator[Record]:
    deadline = time.monotonic() + deadline_s
    while (position := reader.position(place)) < end:
        try:
            batches = reader.read(batch_records_max, poll_s)
        except PositionLost as lost:
            if lost.first <= position:
                raise
            reader.seek(place, lost.first)
            continue
        for _, records in batches:
            for record in records:
                if record.offset >= end:
                    return
                yield record
        if batches:
            deadline = time.monotonic() + deadline_s
        elif time.monotonic() > deadline:
            where = f"{place.topic}/{place.number}"
            raise LogUnavailable(f"{where}: records {position} to {end} did not arrive within {deadline_s:g} s")
