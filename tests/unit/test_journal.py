"""The journal's wire form, and the newest entry of a log."""

from contextlib import closing

import pytest

from headrace.errors import StateUnreadable
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing, Record
from headrace.shard import journal
from headrace.shard.entries import JournalReader
from headrace.shard.journal import Entry, Pointer, Run
from headrace.topics import Shard
from operators.replay.plan import entry_number

ONLINE = Shard("online", 0)
ENTRY = Entry(
    "online", 7, [Run("events", 2, 10, 15), Run("models", 0, 0, 1)], 3,
    Pointer("online-ab", 5, 40, 12, {"events/2": 9}, {"headrace": "1"}, ["online-aa"]),
)  # fmt: skip


def record(value: bytes | None) -> Record:
    return Record(0, 9, 0, b"online", value)


def test_an_entry_is_decoded_as_it_was_encoded() -> None:
    assert journal.decode(record(journal.encode(ENTRY))) == ENTRY


@pytest.mark.parametrize("value", [None, b"", b"{}", b"[]", b"\xff", journal.encode(ENTRY)[:-5]])
def test_an_invalid_entry_raises_state_unreadable(value: bytes | None) -> None:
    with pytest.raises(StateUnreadable, match="journal/0 at 9"):
        journal.decode(record(value))


def test_the_newest_entry_of_each_shard() -> None:
    log = MemoryLog()
    log.create()
    finetune = Shard("finetune", 1)
    assert journal.newest(log, ONLINE) is None
    writer = log.writer(ONLINE.name, ONLINE.written)
    place = ONLINE.journal
    for number in range(3):
        entry = Entry("online", number, [], 0, None)
        writer.commit([Outgoing(place.topic, b"online", journal.encode(entry), place.number)], {})
    newest = journal.newest(log, ONLINE)
    assert newest is not None
    assert newest.number == 2
    assert journal.newest(log, finetune) is None


@pytest.fixture
def copied() -> MemoryLog:
    """A log with two entries, a copy of the first, and two more; each names a snapshot of the state before it."""
    log = MemoryLog()
    log.create()
    place, end = ONLINE.journal, 0
    with closing(log.appender()) as appender, closing(log.writer(ONLINE.name, ONLINE.written)) as writer:
        for number in range(4):
            if number == 2:
                appender.append(Outgoing(place.topic, b"x", log.newest(place, 2)[0].value, place.number))
                end = log.end(place)
            entry = Entry("online", number, [], 0, Pointer(f"online-{number}", number, end, 0, {}, {}))
            writer.commit([Outgoing(place.topic, b"online", journal.encode(entry), place.number)], {})
            end = log.end(place)
    return log


def test_the_snapshot_before_one_is_found_beside_a_copy_of_an_older_entry(copied: MemoryLog) -> None:
    pointers = [entry.snapshot for entry in journal.entries_from(copied, ONLINE, 0)]
    for before, pointer in zip([None, *pointers], pointers, strict=False):
        assert pointer
        assert journal.former_snapshot(copied, ONLINE, pointer) == before


def test_copies_are_passed_over_from_any_position_on(copied: MemoryLog) -> None:
    assert [entry.number for entry in journal.entries_from(copied, ONLINE, 0)] == [0, 1, 2, 3]
    copy = copied.newest(ONLINE.journal, 3)[0].offset
    assert [entry.number for entry in journal.entries_from(copied, ONLINE, copy, 2)] == [2, 3]
    with closing(JournalReader(copied, ONLINE, copy, 2)) as reader:
        assert [entry.number for entry in reader.read(1, 0.0)] == [2], "a read that finds the copy alone goes on"
        assert reader.strays == 1


def test_an_entry_is_found_by_its_number_beside_a_copy(copied: MemoryLog) -> None:
    found = [entry_number(copied, ONLINE, number) for number in range(5)]
    assert [entry and entry.number for entry in found] == [0, 1, 2, 3, None]
