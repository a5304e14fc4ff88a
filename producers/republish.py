"""Republishing: copies a range of a topic into `events-replay`, byte for byte."""

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log import Log, Outgoing, Partition
from headrace.topics import EVENTS_REPLAY, TOPICS
from producers.publisher import Progress, Report, silent

batch_max = 1_000
"""Records read, and between two reports of progress."""
read_timeout_s = 30.0
"""How long the log may take to give records that it says it holds."""


def republish(
    log: Log,
    topic: str,
    to: str,
    *,
    partition: int | None = None,
    from_position: int | None = None,
    to_position: int | None = None,
    from_time_ms: int | None = None,
    to_time_ms: int | None = None,
    progress: Report = silent,
) -> int:
    """Copy records, keys and values unchanged, and return how many; what is appended meanwhile is not copied.

    A record keeps its partition where both topics have as many, else its key chooses. One with neither key nor value,
    which a foreign client may have written, says nothing and is left out. Every run copies anew; consumers drop events
    whose source and id they have seen, within their bound.

    Args:
        partition: copy this one; None for all.
        from_position, to_position: the range, end exclusive; positions belong to one partition, so it must be given.
        from_time_ms, to_time_ms: the range by append time, end exclusive.

    Raises:
        Misconfigured: the topics or the range cannot be used.
        PositionLost: a position lies outside what the log holds.
        LogUnavailable: the log did not answer or acknowledge in time.
    """
    for name in (topic, to):
        if name not in TOPICS:
            raise Misconfigured(f"topic {name!r}: wanted one of {', '.join(TOPICS)}")
    if topic == to:
        raise Misconfigured(f"republish of {topic} into itself would never end; wanted another topic")
    if to != EVENTS_REPLAY:  # on the others processes act, and what a producer left in `events` tells it where to go on
        raise Misconfigured(f"{to} belongs to its own writers; wanted {EVENTS_REPLAY} to copy into")
    if partition is not None and not 0 <= partition < TOPICS[topic].partitions:
        raise Misconfigured(f"partition {partition}: {topic} has 0 to {TOPICS[topic].partitions - 1}")
    by_position, by_time = (from_position, to_position) != (None, None), (from_time_ms, to_time_ms) != (None, None)
    if by_position and (by_time or partition is None):
        raise Misconfigured("a range of positions wants a partition, and no times beside it")
    if min(from_position or 0, to_position or 0) < 0:
        raise Misconfigured(f"positions {from_position} to {to_position}: wanted 0 or more")

    ranges: dict[Partition, tuple[int, int]] = {}
    for number in range(TOPICS[topic].partitions) if partition is None else (partition,):
        place = Partition(topic, number)
        last = log.last(place)
        start, end = log.first(place), 0 if last is None else last.offset + 1
        if from_position is not None:
            start = from_position
        elif from_time_ms is not None:
            start = log.position_at(place, max(0, from_time_ms))
        if to_position is not None:
            end = min(end, to_position)
        elif to_time_ms is not None:
            end = min(end, log.position_at(place, max(0, to_time_ms)))
        if start < end:
            ranges[place] = start, end
    return _copy(log, ranges, to, progress) if ranges else 0


def _copy(log: Log, ranges: dict[Partition, tuple[int, int]], to: str, progress: Report) -> int:
    copied, total = 0, sum(end - start for start, end in ranges.values())
    reader, appender = log.reader({place: start for place, (start, _) in ranges.items()}), log.appender()
    try:
        while left := [place for place, (_, end) in ranges.items() if reader.position(place) < end]:
            batches = reader.read(batch_max, read_timeout_s, only=left)
            if not batches:
                raise LogUnavailable(f"no records for {read_timeout_s:.0f} s from {', '.join(map(str, left))}")
            for place, records in batches:
                same = TOPICS[place.topic].partitions == TOPICS[to].partitions
                for record in records:
                    if record.offset < ranges[place][1] and not record.key is record.value is None:
                        appender.append(Outgoing(to, record.key, record.value, place.number if same else None))
                        copied += 1
            progress(Progress(copied, 0, min(1.0, copied / total)))
        appender.flush()
    finally:
        reader.close()
        appender.close()
    return copied
