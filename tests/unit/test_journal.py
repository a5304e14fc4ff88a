"""The journal's wire form, and what it says of a log."""

import pytest

from headrace import journal
from headrace.errors import StateUnreadable
from headrace.journal import Entry, Pointer, Run
from headrace.log import Outgoing, Partition, Record
from headrace.testing import MemoryLog

ENTRY = Entry(
    "online", 7, [Run("events", 2, 10, 15), Run("models", 0, 0, 1)], 3,
    Pointer("online-ab", 5, 40, 12, {"events/2": 9}, {"headrace": "1"}, ["online-aa"]),
)  # fmt: skip


def record(value: bytes | None) -> Record:
    return Record(0, 9, 0, b"online", value)


def test_an_entry_survives_the_wire() -> None:
    assert journal.decode(record(journal.encode(ENTRY))) == ENTRY


@pytest.mark.parametrize("value", [None, b"", b"{}", b"[]", b"\xff", journal.encode(ENTRY)[:-5]])
def test_what_is_no_entry_is_a_broken_world(value: bytes | None) -> None:
    with pytest.raises(StateUnreadable, match="journal/0 at 9"):
        journal.decode(record(value))


def test_the_newest_entry_of_each_shard() -> None:
    log = MemoryLog()
    log.create()
    assert journal.newest(log, "online") is None
    writer = log.writer("online")
    place = journal.partition_of("online")
    for number in range(3):
        entry = Entry("online", number, [], 0, None)
        writer.commit([Outgoing(place.topic, b"online", journal.encode(entry), place.number)], {})
    newest = journal.newest(log, "online")
    assert newest is not None
    assert newest.number == 2
    assert journal.newest(log, "finetune") is None
    assert journal.partition_of("finetune") == Partition("journal", 1)
