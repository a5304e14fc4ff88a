"""The journal: the order in which a shard applied its input. It is the truth of what was learned.

Every commit writes one entry to the shard's partition of `journal`. Folding the entries from the first one, or from a
snapshot on, gives the shard's state again.
"""

from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from headrace.errors import StateUnreadable
from headrace.log import Log, Partition, Record
from headrace.topics import JOURNAL, SHARDS

snapshots_kept = 3
"""Newest snapshots whose blobs stay: a follower that has just read an older pointer still finds its blob."""


class Run(NamedTuple):
    """Records applied one after another: those of one partition with start <= offset < end."""

    topic: str
    partition: int
    start: int
    end: int


class Pointer(Struct, frozen=True):
    """A durable snapshot: the state after the journal's entries before `number`, and where to go on from there.

    `positions` is keyed by "topic/partition". `former` names the blobs of the snapshots before, newest first.
    """

    blob: str
    number: int
    journal: int
    judgements: int
    positions: dict[str, int]
    versions: dict[str, str]
    former: list[str] = field(default_factory=list)


class Entry(Struct, frozen=True):
    """One commit of a shard: what it applied, in order, then how many records of `judgements` it learned from.

    `judgements` is where those begin at the earliest: what lies before and no entry counted belongs to no entry.
    `snapshot` repeats the newest pointer, so that the last entry alone tells where to restore from.
    """

    writer: str
    number: int
    runs: list[Run]
    judged: int
    snapshot: Pointer | None
    judgements: int = 0


_decoder = msgspec.json.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """Return an entry's wire form, one JSON document."""
    return msgspec.json.encode(entry)


def decode(record: Record) -> Entry:
    """Return the entry of a journal record.

    Raises:
        StateUnreadable: the record is no journal entry that this version can read.
    """
    try:
        return _decoder.decode(record.value or b"")
    except msgspec.MsgspecError as error:
        raise StateUnreadable(f"journal/{record.partition} at {record.offset}: {error}") from error


def partition_of(shard: str) -> Partition:
    """Return the journal partition of a shard."""
    return Partition(JOURNAL, SHARDS[shard])


def newest(log: Log, shard: str) -> Entry | None:
    """Return the last committed entry of a shard, or None before the first."""
    record = log.last(partition_of(shard))
    return decode(record) if record else None


def key_of(partition: Partition) -> str:
    """Return a partition as a key of `Pointer.positions`.

    >>> key_of(Partition("events", 3))
    'events/3'
    """
    return f"{partition.topic}/{partition.number}"
