"""An archive whose log was replaced, restored, or trimmed under a reader: nothing is mixed, and nothing is missing."""

from contextlib import closing
from pathlib import Path

import pytest

from consumers.archive import Archiver
from headrace.archive.log import ArchivedLog
from headrace.archive.manifest import problems, read_manifest
from headrace.archive.store import FolderStore
from headrace.errors import ArchiveParted, PositionLost
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing, Record
from headrace.log.scan import partition_records
from headrace.log.sqlite import SqliteLog
from headrace.topics import EVENTS
from tests.archives import E0, E1, SOON, Days, archived, once
from tests.replaced import replace_topic

WHY = ("eve", "the topic was made again")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "archive")


@pytest.fixture
def days() -> Days:
    return Days()


def values(records: list[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def test_a_topic_that_was_made_again_is_not_mixed_with_the_archived_one(days: Days, store: FolderStore) -> None:
    days.append(E0, b"a", b"b", b"c")
    days.append(E1, b"x")
    archiver = Archiver(days.log, store, SOON)
    archiver.step(0.0)
    replace_topic(days.log, "", EVENTS)
    days.append(E0, b"d")
    both = ArchivedLog(days.log, store)
    assert (both.first(E0), both.covered()[E0]) == (0, 0)
    assert values(both.newest(E0, 10)) == [b"d"]
    days.log.delete_before(E0, 1)
    assert both.first(E0) == 1, "what lies before it is of the former topic"
    with pytest.raises(PositionLost):
        both.reader({E0: 0}).read(10, 0.0)
    with pytest.raises(ArchiveParted, match="events/0: the log's records from 0 on are not those"):
        archiver.flush()
    with pytest.raises(ArchiveParted):
        once(days.log, store)
    days.append(E0, b"e")
    assert once(days.log, store, accept_gap=WHY) == 1
    assert (values(archived(store, E0)), archived(store, E1)) == ([b"e"], [])
    manifest = read_manifest(store)
    assert manifest is not None
    assert [(one.file.place, one.start, one.by, one.why) for one in manifest.former] == [(E0, 0, *WHY), (E1, 0, *WHY)]
    assert list(problems(store)) == []
    assert set(store.names()) >= {one.file.name for one in manifest.former}, "they are set aside, not deleted"
    days.log.delete_before(E0, 2)
    assert values([r for _, found in ArchivedLog(days.log, store).reader({E0: 1}).read(9, 0.0) for r in found]) == [
        b"e"
    ]


@pytest.mark.parametrize("grown", [0, 9])
def test_a_log_that_was_restored_from_a_backup_parts_from_the_archive(
    tmp_path: Path, store: FolderStore, grown: int
) -> None:
    """Also where it has grown longer than it was before."""

    def append(log: Log, *values: bytes) -> None:
        with closing(log.appender()) as appender:
            for value in values:
                appender.append(Outgoing(EVENTS, b"ann", value, 0))

    log = SqliteLog(str(tmp_path / "log.db"))
    log.create()
    append(log, b"a", b"b", b"c")
    log.pin()
    log.copy_to(tmp_path / "backup.db", lambda done, total: None)
    log.close()
    with closing(SqliteLog(str(tmp_path / "log.db"))) as lost:
        append(lost, b"d", b"e")
        once(lost, store)
    with closing(SqliteLog(str(tmp_path / "backup.db"))) as restored:
        append(restored, b"D", *[b"%d" % number for number in range(grown)])
        with pytest.raises(ArchiveParted, match="events/0: the log's records from 3 on"):
            once(restored, store)
        assert ArchivedLog(restored, store).covered()[E0] == 3, "what is archived of the lost log may not be trimmed"
        assert once(restored, store, accept_gap=WHY) == 1 + grown
        assert archived(store, E0) == list(partition_records(restored, E0))
        assert list(problems(store)) == []
        assert once(restored, store) == 0
    manifest = read_manifest(store)
    assert manifest is not None
    ((former, start),) = [(one.file, one.start) for one in manifest.former]
    assert (former.start, start, former.end) == (0, 3, 5)


def test_a_reader_that_retention_outruns_goes_on_from_the_archive(days: Days, store: FolderStore) -> None:
    days.append(E0, *[b"%d" % number for number in range(20)])
    days.append(E1, *[b"x%d" % number for number in range(5)])
    once(days.log, store)
    days.append(E0, b"20")
    reader = ArchivedLog(days.log, store).reader({E0: 0, E1: 0})
    found = {E0: list[Record](), E1: list[Record]()}

    def read(records_max: int) -> None:
        for place, records in reader.read(records_max, 0.0):
            found[place] += records

    while not found[E0]:
        read(2)
    for place, until in ((E0, 15), (E1, 5)):
        days.log.delete_before(place, until)
    for _ in range(20):
        read(3)
    assert values(found[E0]) == [b"%d" % number for number in range(21)]
    assert values(found[E1]) == [b"x%d" % number for number in range(5)]


def test_what_was_read_before_a_loss_was_noticed_is_returned() -> None:
    log = MemoryLog()
    log.create()
    with closing(log.appender()) as appender:
        for number in range(6):
            appender.append(Outgoing(EVENTS, b"ann", b"%d" % number, number % 2))
    log.delete_before(E0, 2)
    reader, found = log.reader({E0: 0, E1: 0}), list[Record]()
    for _ in range(4):
        try:
            found += [record for _, records in reader.read(10, 0.0) for record in records]
        except PositionLost as lost:
            reader.seek(E0, lost.first)
    assert sorted(record.value or b"" for record in found) == [b"1", b"3", b"4", b"5"]
