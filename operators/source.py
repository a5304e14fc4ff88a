"""What the source of the events contains and lacks."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from headrace.log.protocol import Log, decode_json
from headrace.log.scan import partition_records
from headrace.topics import EVENTS
from learners.family import Family

inspected_events_max: Final = 20_000
"""Number of the first events of each partition that are inspected for what a source lacks."""


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


def describe_source(log: Log, kinds: Sequence[type[Family]]) -> tuple[list[str], dict[str, int], list[str]]:
    """Return sources, counts of event types, and what these families could use that the first events lack."""
    types: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    made_up: Counter[str] = Counter()
    priced = categorised = 0
    for place in log.partitions(EVENTS):
        for record in islice(partition_records(log, place), inspected_events_max):
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
