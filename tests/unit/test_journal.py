"""The journal's wire form, and the newest entry of a log."""

from contextlib import closing

import pytest

from headrace.errors import StateUnreadable
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing, Record
from headrace.shard import journal
from headrace.shard.journal import Entry, Pointer, Run
from headrace.topics import Shard

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
    online, finetune = Shard("online", 0), Shard("finetune", 1)
    assert journal.newest(log, online) is None
    writer = log.writer(online.name, online.written)
    place = online.journal
    for number in range(3):
        entry = Entry("online", number, [], 0, None)
        writer.commit([Outgoing(place.topic, b"online", journal.encode(entry), place.number)], {})
    newest = journal.newest(log, online)
    assert newest is not None
    assert newest.number == 2
    assert journal.newest(log, finetune) is None


def test_the_snapshot_before_one_is_found_beside_a_copy_of_an_older_entry() -> None:
    log = MemoryLog()
    log.create()
    shard = Shard("online", 0)
    place, pointers = shard.journal, list[Pointer]()
    with closing(log.writer(shard.name, shard.written)) as writer:
        for number in range(3):
            pointers.append(Pointer(f"online-{number}", number, log.end(place), 0, {}, {}))
            entry = Entry("online", number, [], 0, pointers[-1])
            writer.commit([Outgoing(place.topic, b"online", journal.encode(entry), place.number)], {})
    assert journal.former_snapshot(log, shard, pointers[2]) == pointers[1]
    oldest = log.newest(place, 3)[0]
    with closing(log.appender()) as appender:
        appender.append(Outgoing(place.topic, b"online", oldest.value, place.number))
    newest = Pointer("online-3", 3, log.end(place), 0, {}, {})
    assert journal.former_snapshot(log, shard, newest) == pointers[2]
    assert journal.former_snapshot(log, shard, pointers[0]) is None
