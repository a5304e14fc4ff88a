"""The archive: each record once whatever is killed, and a log that is read as if it had never ended."""

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from consumers.archive import Archiver
from headrace.archive.log import ArchivedLog
from headrace.archive.manifest import ARCHIVED, NAME, problems, read_manifest
from headrace.archive.store import FolderStore, RemoteStore, open_store
from headrace.errors import ArchiveCorrupt, ArchiveUnavailable, Fenced, Misconfigured, PositionLost
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Partition
from headrace.log.scan import partition_records
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds
from headrace.shard.follower import Follower
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.refold import refold
from headrace.shard.trim import plan
from headrace.shard.verify import verify
from headrace.state import digest
from headrace.topics import ALARMS, DAY_MS, EVENTS, JOURNAL, SCORES
from learners.families import default_placements
from learners.shop import MakeShop
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from tests.archives import E0, E1, SOON, Days, archived, once

ONLINE = default_placements()["online"]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "archive")


@pytest.fixture
def days() -> Days:
    return Days()


def test_records_are_archived_byte_for_byte_by_day(days: Days, store: FolderStore, tmp_path: Path) -> None:
    days.append(E0, b"a", b"", None, b"\xff\x00")
    days.now_ms = 2 * DAY_MS
    days.append(E0, b"b")
    days.append(Partition(SCORES, 0), b"no")
    assert once(days.log, store) == 5
    assert archived(store, E0) == list(partition_records(days.log, E0))
    names = {path.parent.name for path in (tmp_path / "archive" / EVENTS).rglob("*.parquet")}
    assert names == {"day=1970-01-02", "day=1970-01-03"}
    assert once(days.log, store) == 0
    assert list(problems(store)) == []


def test_many_small_files_become_one_and_a_reader_goes_on(days: Days, store: FolderStore) -> None:
    with closing(Archiver(days.log, store, SOON)) as archiver:
        for number in range(5):
            days.append(E0, b"%d" % number)
            archiver.step(0.0)
        days.log.delete_before(E0, 5)
        reader = ArchivedLog(days.log, store).reader({E0: 0})
        first = reader.read(1, 0.0)[0][1]
        for number in range(5, 20):
            days.append(E0, b"%d" % number)
            archiver.step(0.0)
        archiver.flush()
    manifest = read_manifest(store)
    assert manifest is not None
    assert len(manifest.of(E0)) < 12, "small files were merged"
    assert {file.name for file in manifest.files} | {NAME} == set(store.names()), "what was merged is deleted"
    days.log.delete_before(E0, 15)
    found = list(first)
    while batches := reader.read(3, 0.0) or (reader.read(3, 0.0) if reader.position(E0) < 20 else []):
        found += batches[0][1]
    assert [record.value for record in found] == [b"%d" % number for number in range(20)]


class Killed(Exception):
    """Stands for a kill."""


class KilledStore(FolderStore):
    """A folder in which the process is killed before or after its n-th write or deletion."""

    def __init__(self, folder: Path, at: int, *, after: bool) -> None:
        super().__init__(folder)
        self._left, self._after = at, after

    def write(self, name: str, data: bytes) -> None:
        self._step(lambda: super(KilledStore, self).write(name, data))

    def delete(self, name: str) -> None:
        self._step(lambda: super(KilledStore, self).delete(name))

    def _step(self, do: Callable[[], None]) -> None:
        self._left -= 1
        if self._left < 0 and not self._after:
            raise Killed
        do()
        if self._left < 0:
            raise Killed


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_loses_nothing_and_doubles_nothing(tmp_path: Path, days: Days, after: bool) -> None:
    for at in range(16):
        days.append(E0, *[b"%d" % n for n in range(3)])
        days.append(E1, b"x")
        with suppress(Killed):
            archiver = Archiver(days.log, KilledStore(tmp_path / "archive", at, after=after), SOON)
            for number in range(4):
                days.append(E0, b"y%d" % number)
                archiver.step(0.0)
    once(days.log, FolderStore(tmp_path / "archive"))
    for place in (E0, E1):
        assert archived(FolderStore(tmp_path / "archive"), place) == list(partition_records(days.log, place))
    assert list(problems(FolderStore(tmp_path / "archive"))) == []


def test_a_second_archiver_ends_the_first(days: Days, store: FolderStore) -> None:
    first = Archiver(days.log, store, SOON)
    days.append(E0, b"a")
    assert once(days.log, store) == 1
    days.append(E0, b"b")
    with pytest.raises(Fenced):
        first.step(0.0)
    assert once(days.log, store) == 1
    assert [record.value for record in archived(store, E0)] == [b"a", b"b"]


def test_what_expired_before_it_was_archived_is_told_and_may_be_given_up(days: Days, store: FolderStore) -> None:
    days.append(E0, b"a", b"b", b"c")
    once(days.log, store)
    days.append(E0, b"d", b"e")
    days.log.delete_before(E0, 4)
    with pytest.raises(PositionLost, match="position 3 is outside what the log holds, 4 to 5"):
        once(days.log, store)
    assert once(days.log, store, accept_gap=("eve", "the disk was full")) == 1
    assert list(problems(store)) == []
    assert ArchivedLog(days.log, store).first(E0) == 4, "what lies before a gap cannot be folded"


def test_an_archive_of_a_release_that_left_out_a_topic_begins_it_where_the_log_does(
    days: Days, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms = Partition(ALARMS, 0)
    days.append(E0, b"a")
    days.append(alarms, b"1", b"2")
    for module in ("consumers.archive", "headrace.archive.log"):
        monkeypatch.setattr(f"{module}.ARCHIVED", tuple(topic for topic in ARCHIVED if topic != ALARMS))
    assert once(days.log, store) == 1
    monkeypatch.undo()
    days.log.delete_before(alarms, 1)
    days.now_ms += 100 * DAY_MS
    days.append(Partition(JOURNAL, 0), b"{}")
    held = {cut.partition: cut.held_by for cut in plan(ArchivedLog(days.log, store), [], 30, days.now_ms)}
    assert held["alarms/0"] == "archive", "not before it is archived"
    assert once(days.log, store) == 2
    assert [record.value for record in archived(store, alarms)] == [b"2"]
    assert list(problems(store)) == []


def test_only_what_is_archived_is_trimmed(days: Days, store: FolderStore) -> None:
    days.append(E0, b"a", b"b")
    once(days.log, store)
    days.append(E0, b"c")
    days.now_ms += 40 * DAY_MS
    days.append(Partition(JOURNAL, 0), b"{}")
    (cut,) = plan(ArchivedLog(days.log, store), [], 30, days.now_ms)
    assert (cut.partition, cut.first, cut.until, cut.held_by) == ("events/0", 0, 2, "archive")
    once(days.log, store)
    (cut,) = plan(ArchivedLog(days.log, store), [], 30, days.now_ms)
    assert (cut.until, cut.held_by) == (3, "")


def test_damage_is_told(days: Days, store: FolderStore, tmp_path: Path) -> None:
    days.append(E0, b"a")
    days.append(E1, b"b")
    once(days.log, store)
    one, other = sorted((tmp_path / "archive").rglob("*.parquet"))
    data = bytearray(one.read_bytes())
    data[9] ^= 1
    one.write_bytes(data)
    other.unlink()
    found = list(problems(store))
    assert len(found) == 2
    assert "checksum" in found[0]
    assert "missing" in found[1]
    days.log.delete_before(E0, 1)
    with pytest.raises(ArchiveCorrupt):
        ArchivedLog(days.log, store).reader({E0: 0}).read(10, 0.0)
    (tmp_path / "archive" / NAME).write_text("{")
    with pytest.raises(ArchiveCorrupt, match="wanted a manifest"):
        Archiver(days.log, store, SOON)


def test_an_archive_may_be_anywhere_that_fsspec_knows(days: Days, tmp_path: Path) -> None:
    store = open_store("memory://shop/archive")
    assert isinstance(store, RemoteStore)
    days.append(E0, b"a", b"b")
    assert once(days.log, store) == 2
    assert [record.value for record in archived(store, E0)] == [b"a", b"b"]
    assert list(problems(store)) == []
    with pytest.raises(Misconfigured, match="an URL that fsspec can open"):
        open_store("nowhere://shop")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveUnavailable):
        open_store(str(tmp_path / "file")).write("a/b", b"")


def learn(loop: Loop[Any], events: int) -> None:
    deadline = time.monotonic() + 60
    while loop.fold.events < events:
        assert time.monotonic() < deadline
        loop.step()
    loop.run(lambda: True)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryLog, Path]:
    """Return a log whose first half is only in its archive any more, and the folder of its blobs and archive."""
    folder = tmp_path_factory.mktemp("learned")
    log, blobs, store = MemoryLog(), Blobs(folder / "blobs"), FolderStore(folder / "archive")
    log.create()
    settings = LoopSettings(commit_interval_s=0.02, idle_wait_s=0.0)
    for seed in (1, 2):
        simulate(log, SimulationSettings(seed=seed, events=600, items=100, shoppers=40))
        both = ArchivedLog(log, store)  # the second time it restores what only the archive still names
        with closing(Loop(both, blobs, ONLINE.shard, make=MakeShop(ONLINE.kinds), settings=settings)) as loop:
            learn(loop, 600 * seed)
        once(log, store)
        if seed == 1:
            for topic in ARCHIVED:
                for place in log.partitions(topic):
                    log.delete_before(place, log.end(place))
    return log, folder


def test_a_shard_is_folded_and_verified_as_if_the_log_had_never_ended(
    learned: tuple[MemoryLog, Path],
) -> None:
    live, folder = learned
    log, blobs = ArchivedLog(live, FolderStore(folder / "archive")), Blobs(folder / "blobs")
    make = MakeShop(ONLINE.kinds)
    assert live.first(ONLINE.shard.journal) > 0
    assert log.first(ONLINE.shard.journal) == 0
    again = check_folds(log, blobs, ONLINE.shard, make=make)
    with closing(Follower(log, blobs, ONLINE.shard, make=make, from_start=True)) as follower:
        follower.catch_up()
        assert follower.fold.events == 1_200
        assert digest(follower.fold.state()) == digest(again.fold.state())
    found = verify(log, blobs, ONLINE.shard)
    assert (found.first, found.whole, found.records >= 1_200) == (0, True, True)
    assert refold(log, blobs, ONLINE.shard, make=make).number == found.entries
    for place in live.partitions(EVENTS):
        offsets = [record.offset for record in partition_records(log, place)]
        assert offsets == sorted(set(offsets))
        assert offsets[0] == 0
        assert log.newest(place, 10**6) == list(partition_records(log, place))
        record = next(partition_records(log, place))
        assert log.position_at(place, record.time_ms) == 0
        assert log.last(place) == live.last(place) or live.last(place) is None


def test_other_programs_read_the_files(learned: tuple[MemoryLog, Path]) -> None:
    import pandas

    frame = pandas.read_parquet(learned[1] / "archive" / EVENTS)
    assert len(frame) == 1_200
    assert {json.loads(value)["specversion"] for value in frame["value"]} == {"1.0"}
    assert {"offset", "appended", "key", "value", "day"} <= set(frame.columns)
