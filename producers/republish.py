"""Copies a range of a topic into `events-replay`, byte for byte."""

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.topics import EVENTS_REPLAY, TOPICS
from producers.publisher import Progress, ProgressCallback, ignore_progress

batch_max = 1_000
"""Maximum records per read, and between two reports of progress."""
read_timeout_s = 30.0
"""How long the log may take to return records that it holds."""


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
    dry_run: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> int:
    """Copy records with unchanged keys and values, and return their number; records appended meanwhile are not copied.

    A record keeps its partition if both topics have the same number of partitions; otherwise its key selects one.
    Records without key and value, which other clients may have written, are skipped. Each run copies everything again;
    consumers drop events whose source and id they still remember.

    Args:
        partition: the only partition to copy; None for all.
        from_position, to_position: the range, end exclusive; requires `partition`, as positions belong to one.
        from_time_ms, to_time_ms: the range by append time, end exclusive.
        dry_run: copy nothing, and return the number of positions in the range (on Kafka, some are no records).

    Raises:
        Misconfigured: the topics or the range are invalid.
        PositionLost: a position lies outside what the log holds.
        LogUnavailable: the log did not answer or acknowledge in time.
    """
    for name in (topic, to):
        if name not in TOPICS:
            raise Misconfigured(f"topic {name!r}: wanted one of {', '.join(TOPICS)}")
    if topic == to:
        raise Misconfigured(
            f"republish of {topic}: wanted another topic to copy into, found the same, which would never end"
        )
    if to != EVENTS_REPLAY:  # processes act on the others, and producers resume from their records in `events`
        raise Misconfigured(
            f"republish into {to}: wanted {EVENTS_REPLAY}, as other topics are reserved for their own writers"
        )
    places = log.partitions(topic)
    if partition is not None and Partition(topic, partition) not in places:
        raise Misconfigured(f"partition {partition} of {topic}: wanted 0 to {len(places) - 1}")
    by_position, by_time = (from_position, to_position) != (None, None), (from_time_ms, to_time_ms) != (None, None)
    if by_position and (by_time or partition is None):
        raise Misconfigured("range of positions: wanted a partition and no range of times")
    if min(from_position or 0, to_position or 0) < 0:
        raise Misconfigured(f"positions {from_position} to {to_position}: wanted 0 or more")

    ranges: dict[Partition, tuple[int, int]] = {}
    for place in places if partition is None else (Partition(topic, partition),):
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
    if dry_run:
        return sum(end - start for start, end in ranges.values())
    return _copy(log, ranges, to, progress) if ranges else 0


def _copy(log: Log, ranges: dict[Partition, tuple[int, int]], to: str, progress: ProgressCallback) -> int:
    (topic,) = {place.topic for place in ranges}
    same = len(log.partitions(topic)) == len(log.partitions(to))
    copied, total = 0, sum(end - start for start, end in ranges.values())
    reader, appender = log.reader({place: start for place, (start, _) in ranges.items()}), log.appender()
    try:
        while left := [place for place, (_, end) in ranges.items() if reader.position(place) < end]:
            batches = reader.read(batch_max, read_timeout_s, only=left)
            if not batches:
                raise LogUnavailable(f"no records within {read_timeout_s:.0f} s from {', '.join(map(str, left))}")
            for place, records in batches:
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
