"""Reading topics to their end, and what the source of the events contains and lacks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from headrace.log.protocol import Log, Partition, Record, decode_json
from headrace.topics import EVENTS
from learners.family import Family

inspected_events_max: Final = 20_000
"""Number of the first events of each partition that are inspected for what a source lacks."""
_read_timeout_s: Final = 10.0


class _Line(Struct):
    item_category: str = ""
    price: float | None = None


class _Data(Struct):
    items: list[_Line] = []
    made_up: list[str] = []


class _Event(Struct):
    source: str
    type: str
    data: _Data


def topic_records(log: Log, topic: str) -> Iterator[Record]:
    """Yield all records of a topic that are committed now, one partition after the other."""
    for place in log.partitions(topic):
        yield from partition_records(log, place)


def partition_records(
    log: Log, place: Partition, records_max: int | None = None, *, start: int | None = None
) -> Iterator[Record]:
    """Yield a partition's records that are committed now, from `start` on, the first `records_max` at most."""
    first, last = log.first(place) if start is None else start, log.last(place)
    if last is None:
        return
    end = last.offset + 1  # positions after it, up to the log's end, are markers
    if records_max is not None:
        end = min(end, first + records_max)
    reader = log.reader({place: first})
    try:
        while reader.position(place) < end:
            batches = reader.read(2_000, _read_timeout_s)
            if not batches:
                return  # retention has deleted the rest meanwhile
            for record in batches[0][1]:
                if record.offset < end:
                    yield record
    finally:
        reader.close()


def newest_records(log: Log, topic: str, records_max: int) -> Iterator[Record]:
    """Yield the newest records of each partition of a topic, at least `records_max` if it has that many."""
    for place in log.partitions(topic):
        yield from partition_records(log, place, start=max(log.first(place), log.end(place) - records_max))


def describe_source(log: Log, kinds: Sequence[type[Family]]) -> tuple[list[str], dict[str, int], list[str]]:
    """Return sources, counts of event types, and what these families could use that the first events lack."""
    types: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    made_up: Counter[str] = Counter()
    priced = categorised = 0
    for place in log.partitions(EVENTS):
        for record in partition_records(log, place, inspected_events_max):
            event = decode_json(record.value, _Event)
            if event is None:
                continue  # a dead letter; these are counted in their own topic
            types[event.type] += 1
            sources[event.source] += 1
            made_up.update(event.data.made_up)
            priced += any(line.price is not None for line in event.data.items)
            categorised += any(line.item_category for line in event.data.items)
    lacks = []
    if types:
        inputs: dict[str, list[str]] = {}
        for kind in kinds:
            for name, without in kind.surface.inputs.items():
                inputs.setdefault(name, []).append(without)
        lacks += [f"{name}: {', '.join(without)}" for name, without in inputs.items() if not types[name]]
        if not priced:
            lacks.append("prices: their drift is not monitored")
        if not categorised:
            lacks.append("categories: their drift is not monitored")
        lacks += [f"{name}: made up by the loader in {count:,} events" for name, count in sorted(made_up.items())]
    return [source for source, _ in sources.most_common(8)], dict(types.most_common(30)), lacks
