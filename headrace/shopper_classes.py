"""Shopper classes: what a shop's CRM reads of who is worth how much.

A record of the topic `shopper-classes` says that a shopper's class has changed, or that there is one at all; the shard
that learns values writes it. Its key is the shopper's id, its value one JSON document. `decode` returns a
`ShopperClass`, None for anything else, and never raises.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from headrace.log.protocol import Outgoing, Record, decode_json
from headrace.segments import Class
from headrace.topics import SHOPPER_CLASSES


class ShopperClass(Struct, frozen=True):
    """The value of a record: a shopper's class and what is expected within some days, in the shop's currency.

    `before` is the class that was told before, "" for none. `time_ms` is the shop's time.
    """

    shopper: Annotated[str, Meta(max_length=128)]
    class_: Class = field(name="class")
    before: Class | Literal[""]
    days: Annotated[int, Meta(ge=1)]
    spend: float
    spend_low: float
    spend_high: float
    orders: float
    purchase: Annotated[float, Meta(ge=0, le=1)]
    time_ms: Annotated[int, Meta(ge=0, le=2**63 - 1)]


_encode = msgspec.json.Encoder().encode


def record_of(found: ShopperClass) -> Outgoing:
    """Return the record of a shopper's class."""
    return Outgoing(SHOPPER_CLASSES, found.shopper.encode(), _encode(found), 0)


def decode(record: Record) -> ShopperClass | None:
    """Return what a record says, None if it is of another form.

    >>> made = record_of(ShopperClass("ann", "A", "B", 91, 120.0, 20.0, 300.0, 2.1, 0.93, 1_700_000_000_000))
    >>> made.key, decode(Record(0, 0, 0, made.key, made.value)).class_
    (b'ann', 'A')
    >>> decode(Record(0, 0, 0, b"ann", b"noise"))
    """
    found = decode_json(record.value, ShopperClass)
    return found if found and record.key == found.shopper.encode() else None
