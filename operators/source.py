"""Reading topics to their end, and what the source of the events gave and lacked."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from headrace.log import Log, Partition, Record, told
from headrace.topics import EVENTS, partitions_of

looked_at_max: Final = 20_000
"""Events of each partition, the first ones, that are looked at to say what a source lacks."""
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


def records_of(log: Log, topic: str) -> Iterator[Record]:
    """Yield all records of a topic that are committed now, partition after partition."""
    for place in partitions_of(topic):
        yield from records(log, place)


def records(log: Log, place: Partition, records_max: int | None = None) -> Iterator[Record]:
    """Yield a partition's records that are committed now, the first `records_max` at most."""
    first, last = log.first(place), log.last(place)
    if last is None:
        return
    end = last.offset + 1  # what lies behind, up to the log's end, are markers
    if records_max is not None:
        end = min(end, first + records_max)
    reader = log.reader({place: first})
    try:
        while reader.position(place) < end:
            batches = reader.read(2_000, _read_timeout_s)
            if not batches:
                return  # retention took the rest meanwhile
            for record in batches[0][1]:
                if record.offset < end:
                    yield record
    finally:
        reader.close()


def looked_at(log: Log) -> tuple[list[str], dict[str, int], list[str]]:
    """Return sources, counts of event types, and what the first events lack that learners could use."""
    types: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    made_up: Counter[str] = Counter()
    priced = categorised = 0
    for place in partitions_of(EVENTS):
        for record in records(log, place, looked_at_max):
            event = told(record.value, _Event)
            if event is None:
                continue  # a dead letter; they are counted from their own topic
            types[event.type] += 1
            sources[event.source] += 1
            made_up.update(event.data.made_up)
            priced += any(line.price is not None for line in event.data.items)
            categorised += any(line.item_category for line in event.data.items)
    lacks = []
    if types:
        if not types["view_item"]:
            lacks.append("views: purchase propensity and the drift of views have no input")
        if not types["purchase"]:
            lacks.append("purchases: purchase propensity has no labels")
        if not priced:
            lacks.append("prices: their drift is not watched")
        if not categorised:
            lacks.append("categories: their drift is not watched")
        lacks += [f"{name}: made up by the loader in {count:,} events" for name, count in sorted(made_up.items())]
    return [source for source, _ in sources.most_common(8)], dict(types.most_common(30)), lacks
