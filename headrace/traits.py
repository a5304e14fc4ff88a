"""Traits: what a shop states of a shopper, such as country, language or plan.

A record of the topic `traits` has what was stated at one time; of a trait that is stated again, the newest value holds.
Its key is the shopper's id, as that of events.
"""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from headrace.log.protocol import Record, decode_json

traits_max: Final = 32
"""Most traits of a record."""
Value = Annotated[str, Meta(max_length=200)] | bool | float


class Traits(Struct, frozen=True):
    """The value of a record: the traits by name, and when they were stated."""

    time: Annotated[datetime, Meta(tz=True)]
    traits: Annotated[dict[Annotated[str, Meta(max_length=200)], Value], Meta(max_length=traits_max)]


class StatedTraits(Struct, frozen=True):
    """A decoded record: the shopper, the time in milliseconds since the epoch, and the traits by name."""

    shopper: str
    time_ms: int
    traits: dict[str, str | bool | float]


def decode(record: Record) -> StatedTraits | None:
    """Return what a record states; None if it is anything else.

    >>> decode(Record(0, 0, 0, b"ann", b'{"time": "1970-01-01T00:00:01Z", "traits": {"plan": "gold"}}'))
    StatedTraits(shopper='ann', time_ms=1000, traits={'plan': 'gold'})
    """
    found = decode_json(record.value, Traits)
    if found is None or not record.key:
        return None
    return StatedTraits(record.key.decode(errors="replace"), int(found.time.timestamp() * 1000), found.traits)


def encode(traits: Traits) -> bytes:
    """Return the value of a record."""
    return msgspec.json.encode(traits)
