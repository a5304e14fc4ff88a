"""The loop: whatever happens between two commits, the fold of the journal equals what was learned, exactly once."""

import math
import random
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.shard import Judges
from headrace.announcement import Announcement
from headrace.clock import Timer
from headrace.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobUnwritable,
    Fenced,
    Flooded,
    Misconfigured,
    PositionLost,
    RecordsChanged,
    StateUnreadable,
    Stopping,
)
from headrace.events import Data, Event, Item, at, encode
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition, Record, Writer
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds, committed_records, entries_of
from headrace.shard.follower import Follower, MakeFold, freeze
from headrace.shard.journal import FamilyStamp, Results, Stamp
from headrace.shard.loop import JudgementRecord, Loop, LoopSettings, empty_entry_interval_s
from headrace.shard.merge import chunk_records_max
from headrace.shard.refold import refold
from headrace.shard.snapshot import Snapshots, pointer_to
from headrace.shard.turn import Turn
from headrace.state import State, digest
from headrace.topics import (
    ALARMS,
    DEAD_LETTERS,
    EVENTS,
    ITEMS,
    JOURNAL,
    JUDGEMENTS,
    MODELS,
    SCORES,
    Shard,
    partitions_of,
)
from headrace.watch import expiring, expiring_share
from learners.families import FAMILIES, Placement, placed
from learners.next_item.family import NextItemSettings
from learners.shop import MakeShop
from tests.shards import FINETUNE, ONLINE, next_item, next_item_judge, online, purchase

QUICK = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=0.0, idle_wait_s=0.0)
"""Commits after each chunk, and starts a snapshot whenever none is being written."""
START_MS = 1_736_121_600_000
SHARD = ONLINE.shard
SOURCES = partitions_of(EVENTS)
LETTERS, ENTRIES = Partition(DEAD_LETTERS, 0), SHARD.journal


class Diary:
    """A fold that records what it learned and emits one record per event."""

    def __init__(self, version: int = 1) -> None:
        self.stamp = Stamp("test", {"diary": FamilyStamp({}, {"lines": version})})
        self.renewed: dict[str, str] = {}
        self.begun: set[str] = set()
        self.lines: list[str] = []
        self._outbox: list[Outgoing] = []

    def prepare(self, event: Event) -> bool:
        return True

    def learn(self, event: Event, partition: int, offset: int) -> None:
        self.lines.append(f"{event.id} {event.time_ms}")
        self._outbox.append(Outgoing(SCORES, b"diary", event.id.encode(), 0))

    def hear(self, topic: str, record: Record) -> None:
        self.lines.append(f"heard {topic} {record.offset}")

    def absorb(self, key: str, judgement: bytes) -> None:
        self.lines.append(f"judged {key} {judgement.decode()}")

    def emit(self) -> list[Outgoing]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"lines": (len(self.lines), 1_000_000)}

    def state(self) -> State:
        return {"lines": list(self.lines)}

    def hear_again(self, topic: str, record: Record) -> None:
        self.lines.append(f"heard {topic} {record.offset} again")


class MakeDiary:
    """Makes diaries; one of another version is not restored."""

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def __call__(self, state: State | None = None, stamp: Stamp | None = None) -> Diary:
        diary = Diary(self.version)
        if state and stamp == diary.stamp:
            diary.lines = list(state["lines"])
        elif state:
            diary.begun, diary.renewed = {"diary"}, {"diary.lines": "begun empty"}
        return diary

    def adopt(self, fold: Diary) -> Diary:
        return fold

    def only(self, families: Collection[str]) -> "MakeDiary":
        assert set(families) == {"diary"}
        return self

    def replace(self, fold: Diary, anew: Diary) -> None:
        fold.lines, fold.begun, fold.renewed = anew.lines, set(), {"diary.lines": "folded anew"}


make_diary = MakeDiary()
make_shop = online(items_max=64, shoppers_max=50)


def judges(blobs: Blobs) -> Judges:
    return Judges({"next_item": next_item_judge(blobs, fixed=0.5)})


class Killed(BaseException):
    """Raised by a test in place of a signal."""


class KilledAt:
    """A log whose writer raises Killed at its n-th commit, just before or just after committing."""

    def __init__(self, log: Log, killed_at: int, after: bool) -> None:
        self._log, self._killed_at, self._after = log, killed_at, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def writer(self, *args: Any, **options: Any) -> "KilledAtWriter":
        return KilledAtWriter(self._log.writer(*args, **options), self._killed_at, self._after)


class KilledAtWriter:
    def __init__(self, writer: Writer, killed_at: int, after: bool) -> None:
        self._writer, self._left, self._after = writer, killed_at, after
        self.settle, self.close = writer.settle, writer.close

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        self._writer.commit(records, positions)
        if self._left == 0:
            raise Killed


# The contract suite holds both logs to the same.
@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.full), "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    log: Log = MemoryLog() if request.param == "memory" else open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()
    yield log
    log.close()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def shopping(count: int, seed: int = 0, first: int = 0, gap_ms: int = 1_000) -> list[Outgoing]:
    """Return events of a few shoppers, in even steps: views, and now and then a purchase of the item just seen."""
    rng = random.Random(seed)
    records, seen = [], dict[str, str]()
    for number in range(first, first + count):
        shopper = f"shopper-{rng.randrange(30)}"
        buys = shopper in seen and rng.random() < 0.1
        item = seen[shopper] if buys else f"item-{rng.randrange(40)}"
        seen[shopper] = item
        records.append(shown(f"e{number}", shopper, item, number * gap_ms, "purchase" if buys else "view_item"))
    return records


def shown(id_: str, shopper: str, item: str, after_ms: int, type_: Any = "view_item") -> Outgoing:
    line = Item(item, item_category=f"category-{len(item) % 3}", price=1.0 + len(item))
    event = Event(id_, "test", type_, at(START_MS + after_ms), Data(items=[line]), "1.0", shopper)
    return Outgoing(EVENTS, shopper.encode(), encode(event))


def append(log: Log, records: Sequence[Outgoing]) -> None:
    appender = log.appender()
    for record in records:
        appender.append(record)
    appender.close()


def start(
    log: Any,
    blobs: Blobs,
    make: MakeFold[Any] = make_diary,
    settings: LoopSettings = QUICK,
    shard: Shard = SHARD,
    **options: Any,
) -> Loop[Any]:
    loop = Loop(log, blobs, shard, make=make, settings=settings, **options)
    loop._snapshots.cost_share_max = math.inf  # as many as there are commits, also on a slow machine
    return loop


def waiting(log: Log, loop: Loop[Any]) -> bool:
    shard = loop._shard
    return any(
        log.end(place) > loop._positions[place] for topic in (EVENTS, *shard.hears) for place in log.partitions(topic)
    )


def catch_up(log: Log, loop: Loop[Any]) -> None:
    """Fold and commit everything that the log holds."""
    deadline = time.monotonic() + 30
    loop.run(lambda: not waiting(log, loop) or time.monotonic() > deadline)
    assert not waiting(log, loop)


def values(log: Log, place: Partition) -> list[bytes]:
    return [record.value or b"" for record in committed_records(log, place)]


def checked_fold(log: Log, blobs: Blobs, make: MakeFold[Any] = make_diary, shard: Shard = SHARD) -> Follower[Any]:
    """Return the uninterrupted fold of the journal, after the audit of every snapshot."""
    check_covered(log, shard, (EVENTS, *shard.hears))
    return check_folds(log, blobs, shard, make=make)


@pytest.mark.parametrize("seed", range(3))
def test_kill_anywhere_and_restart_equals_the_uninterrupted_fold(opened: Log, blobs: Blobs, seed: int) -> None:
    rng = random.Random(seed)
    for wave in range(4):
        append(opened, shopping(150, seed, first=150 * wave))
        killed_log = KilledAt(opened, killed_at=rng.randrange(1, 7), after=rng.random() < 0.5)
        settings = LoopSettings(commit_interval_s=rng.choice([0.0, 0.02]), snapshot_interval_s=0.0, idle_wait_s=0.0)
        judge = judges(blobs)
        try:
            loop = start(killed_log, blobs, make_shop, settings, judge=judge)
        except Killed:
            continue
        try:
            for _ in range(rng.randrange(1, 30)):
                loop.step()
        except Killed:
            pass
        finally:
            loop.close()  # commits nothing; only frees what the dead process's system would
    last = start(opened, blobs, make_shop, judge=judges(blobs))
    catch_up(opened, last)
    state = freeze(last.fold, last._intake)
    last.close()
    plain = checked_fold(opened, blobs, make_shop)
    assert plain.digest() == digest(state)
    assert plain.fold.events == 600
    judged = committed_records(opened, Partition(JUDGEMENTS, 0))
    assert len(judged) == sum(entry.judged for entry in entries_of(opened, SHARD)) > 0
    assert plain.judgements_position == judged[-1].offset + 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("killed_at", [1, 2, 5])
def test_each_event_is_learned_once_and_emitted_once(opened: Log, blobs: Blobs, killed_at: int, after: bool) -> None:
    append(opened, shopping(400))
    loop = start(KilledAt(opened, killed_at, after), blobs)
    with pytest.raises(Killed):
        catch_up(opened, loop)
    loop.close()
    loop = start(opened, blobs)
    catch_up(opened, loop)
    loop.close()
    names = sorted(line.split()[0] for line in checked_fold(opened, blobs).fold.lines)
    assert names == sorted(f"e{number}" for number in range(400))
    assert sorted(value.decode() for value in values(opened, Partition(SCORES, 0))) == names


def test_a_loop_without_events_commits_an_entry_at_its_start(opened: Log, blobs: Blobs) -> None:
    loop = start(opened, blobs)
    loop.step()
    loop.close()
    (entry,) = entries_of(opened, SHARD)
    assert (entry.number, entry.runs, entry.snapshot) == (0, [], None)


def test_an_idle_loop_commits_an_empty_entry_periodically(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(20))
    loop = start(opened, blobs)
    catch_up(opened, loop)
    before = len(entries_of(opened, SHARD))
    loop.run(lambda: True)
    assert len(entries_of(opened, SHARD)) == before
    loop._committed_at -= empty_entry_interval_s
    loop.run(lambda: True)
    loop.run(lambda: True)  # too early for the next one
    loop.close()
    entries = entries_of(opened, SHARD)
    assert (len(entries), entries[-1].runs, entries[-1].number) == (before + 1, [], entries[-2].number + 1)
    assert checked_fold(opened, blobs).fold.lines == loop.fold.lines


def test_a_restarted_loop_stores_its_positions_for_lag_tools_even_without_new_records(
    opened: Log, blobs: Blobs
) -> None:
    append(opened, shopping(40))
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
    stands = opened.committed(SHARD.name)
    with closing(opened.writer(SHARD.name)) as writer:
        writer.commit([], dict.fromkeys(stands, 0))  # as if it had died before it reported that
        writer.settle()
    with closing(start(opened, blobs)) as loop:
        loop.run(lambda: True)
    assert {place: opened.committed(SHARD.name)[place] for place in stands} == stands


def test_a_shard_does_not_take_over_the_journal_of_another(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(20))
    snapshotted(opened, blobs)
    ends = opened.end(ENTRIES)
    other = SHARD._replace(name="other")
    with pytest.raises(Misconfigured, match="found entries of the shard online; a shard's partition never changes"):
        Loop(opened, blobs, other, make=MakeShop(ONLINE.kinds))
    assert opened.end(ENTRIES) == ends


def test_a_shard_whose_journal_expired_does_not_start_over(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    append(opened, shopping(20))
    snapshotted(opened, blobs)
    opened.delete_before(ENTRIES, opened.end(ENTRIES))
    kept, ends = sorted((tmp_path / "blobs").iterdir()), opened.end(ENTRIES)
    with pytest.raises(PositionLost, match="journal/0: position 0 is outside"):
        start(opened, blobs)
    assert sorted((tmp_path / "blobs").iterdir()) == kept
    assert opened.end(ENTRIES) == ends


def test_a_hole_at_the_begin_of_a_run_is_a_loss(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(40))
    with closing(start(opened, blobs, settings=LoopSettings(snapshot_interval_s=1e6))) as loop:
        catch_up(opened, loop)
    place = next(place for place in SOURCES if opened.end(place))
    first = opened.first(place)
    opened.delete_before(place, first + 1)
    with pytest.raises(PositionLost) as lost, closing(Follower(opened, blobs, SHARD, make=make_diary)) as follower:
        follower.catch_up()
    assert f"{place.topic}/{place.number}" in str(lost.value)


def test_a_hole_at_the_begin_of_a_later_run_is_a_loss(blobs: Blobs) -> None:
    """A log that lost one record in its middle, as a damaged disk does."""
    log = MemoryLog()
    log.create()
    with closing(start(log, blobs, settings=LoopSettings(commit_interval_s=0.0, snapshot_interval_s=1e6))) as loop:
        for wave in range(2):
            append(log, shopping(30, first=30 * wave))
            catch_up(log, loop)
    runs = [run for entry in entries_of(log, SHARD) for run in entry.runs]
    second = next(run for n, run in enumerate(runs) if any(run.partition == one.partition for one in runs[:n]))
    stored = log._partitions[Partition(second.topic, second.partition)].records
    stored[:] = [record for record in stored if record.offset != second.start]
    with pytest.raises(PositionLost), closing(Follower(log, blobs, SHARD, make=make_diary)) as follower:
        follower.catch_up()


def test_nothing_is_committed_before_its_time(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(100))
    settings = LoopSettings(commit_interval_s=1e6, snapshot_interval_s=1e6, idle_wait_s=0.0)
    with closing(start(opened, blobs, settings=settings)) as loop:
        while len(loop.fold.lines) < 100:
            loop.step()
        assert loop.number == 0
        loop.run(lambda: True)
        assert loop.number == 1


class EchoJudge:
    """A judge that says of each event that it was there."""

    def __init__(self) -> None:
        self._seen: list[bytes] = []

    def observe(self, fold: Any, event: Event, partition: int, offset: int) -> None:
        self._seen.append(event.id.encode())

    def judge(self, fold: Any, lag: int) -> Sequence[JudgementRecord]:
        seen, self._seen = self._seen, []
        return [JudgementRecord("witness", id_) for id_ in seen]


def test_a_follower_folds_with_the_settings_that_the_shard_began_with(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(200))
    settings = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=1e6)
    with closing(start(opened, blobs, make_shop, settings)) as loop:
        catch_up(opened, loop)
    other = online(items_max=16, shoppers_max=4)
    assert other().stamp != loop.fold.stamp
    with closing(Follower(opened, blobs, SHARD, make=other)) as follower:
        follower.catch_up()
    assert follower.fold.stamp == follower.stamp == loop.fold.stamp
    assert follower.digest() == digest(freeze(loop.fold, loop._intake))


class SlowJudge(EchoJudge):
    """A judge that takes its time."""

    def judge(self, fold: Any, lag: int) -> Sequence[JudgementRecord]:
        time.sleep(0.05)
        return super().judge(fold, lag)


def test_a_turn_tells_how_long_its_judge_took(blobs: Blobs) -> None:
    log, turns = MemoryLog(), list[Turn]()
    log.create()
    append(log, shopping(20))
    with closing(start(log, blobs, judge=SlowJudge())) as loop:
        loop.on_turn = turns.append
        catch_up(log, loop)
    assert all(0.05 <= turn.judge_s < 0.9 for turn in turns)


def test_a_turn_tells_how_many_entries_a_restart_folds(opened: Log, blobs: Blobs) -> None:
    turns = list[Turn]()
    with closing(start(opened, blobs)) as loop:
        loop.on_turn = turns.append
        while not turns or turns[-1].snapshot_behind_entries >= loop.number:  # no snapshot is named yet
            append(opened, shopping(2, first=2 * len(turns)))
            loop.step()
    named = [entry.snapshot.number if entry.snapshot else 0 for entry in entries_of(opened, SHARD)]
    assert [turn.snapshot_behind_entries for turn in turns] == [number + 1 - one for number, one in enumerate(named)]


def test_a_turn_tells_how_old_its_records_are(blobs: Blobs) -> None:
    log, turns = MemoryLog(clock=lambda: START_MS + 60_000), list[Turn]()
    log.create()
    append(log, [*shopping(20), *shopping(5), Outgoing(EVENTS, b"a", b"junk")])
    with closing(start(log, blobs, clock=lambda: START_MS + 62_500)) as loop:
        loop.on_turn = turns.append
        catch_up(log, loop)
    assert [age for turn in turns for age in turn.freshness_ms] == [2_500] * 26
    ages = [age for turn in turns for age in turn.event_ages_ms]
    assert sorted(ages) == [1_000 * second for second in range(41, 61)]


class DenyingLog:
    """A log that denies its n-th reader and records which readers and writers were opened and closed."""

    def __init__(self, log: Log, refused: int) -> None:
        self._log, self._left = log, refused
        self.opened: list[Any] = []
        self.closed: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def _recorded(self, part: Any) -> Any:
        close = part.close

        def close_recorded() -> None:
            self.closed.append(part)
            close()

        part.close = close_recorded
        self.opened.append(part)
        return part

    def writer(self, *args: Any, **options: Any) -> Any:
        return self._recorded(self._log.writer(*args, **options))

    def reader(self, positions: Mapping[Partition, int]) -> Any:
        self._left -= 1
        if self._left == 0:
            raise Misconfigured("denied")
        return self._recorded(self._log.reader(positions))


@pytest.mark.parametrize("refused", [1, 2, 3, 4])
def test_a_loop_that_cannot_start_closes_what_it_opened(opened: Log, blobs: Blobs, refused: int) -> None:
    append(opened, shopping(5))
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
    log = DenyingLog(opened, refused)
    with pytest.raises(Misconfigured, match="denied"):
        start(log, blobs)
    assert len(log.opened) == refused  # the writer, and the readers before the denied one
    assert set(map(id, log.opened)) <= set(map(id, log.closed))


def test_a_loop_closes_all_that_it_opened(opened: Log, blobs: Blobs) -> None:
    log = DenyingLog(opened, 1_000)
    start(log, blobs).close()
    assert len(log.opened) > 3
    assert set(map(id, log.opened)) <= set(map(id, log.closed))


def test_each_rejected_record_is_written_once_to_dead_letters(opened: Log, blobs: Blobs) -> None:
    good = shopping(100)
    bad = {
        "empty": Outgoing(EVENTS, b"a", b""),
        "key_missing": Outgoing(EVENTS, None, b"{}"),
        "not_json": Outgoing(EVENTS, b"b", b"{"),
        "bad_utf8": Outgoing(EVENTS, b"\xff", good[0].value),
        "schema": Outgoing(EVENTS, b"c", b'{"id": 5}'),
        "key_mismatch": Outgoing(EVENTS, b"someone else", good[1].value),
        "too_deep": Outgoing(EVENTS, b"d", b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
        "unknown_event": Outgoing(EVENTS, b"e", (good[2].value or b"").replace(b"view_item", b"look_item")),
        "unknown_version": Outgoing(EVENTS, b"f", (good[3].value or b"").replace(b'"1.0"', b'"9.0"')),
    }
    append(opened, [*good[:50], *bad.values(), *good[50:]])
    for after in (True, False):
        loop = start(KilledAt(opened, 2, after), blobs)
        with pytest.raises(Killed):
            catch_up(opened, loop)
        loop.close()
    loop = start(opened, blobs)
    catch_up(opened, loop)
    loop.close()
    letters = [msgspec.json.decode(value) for value in values(opened, LETTERS)]
    assert sorted(letter["reason"] for letter in letters) == sorted(bad)
    for letter in letters:
        topic, number, offset = letter["id"].split("/")
        (origin,) = [r for r in committed_records(opened, Partition(topic, int(number))) if r.offset == int(offset)]
        assert msgspec.convert(letter["value"], bytes) == origin.value
        assert letter["detail"]
    assert len(checked_fold(opened, blobs).fold.lines) == 100


def test_duplicate_events_are_dropped(opened: Log, blobs: Blobs) -> None:
    records = shopping(80)
    append(opened, [*records, *records[:30]])
    turns: list[Turn] = []
    loop = start(opened, blobs)
    loop.on_turn = turns.append
    catch_up(opened, loop)
    loop.close()
    append(opened, records[40:60])  # a producer that sends events again after the loop's restart
    loop = start(opened, blobs)
    loop.on_turn = turns.append
    catch_up(opened, loop)
    loop.close()
    assert sum(turn.duplicates for turn in turns) == 50
    assert sum(turn.learned for turn in turns) == 80
    assert len(checked_fold(opened, blobs).fold.lines) == 80


def test_a_backlog_does_not_make_event_time_zigzag(opened: Log, blobs: Blobs) -> None:
    records = shopping(3_000)
    append(opened, records)
    loop = start(opened, blobs)
    catch_up(opened, loop)
    loop.close()
    times = [int(line.split()[1]) for line in loop.fold.lines]
    back_ms, newest = 0, 0
    for time_ms in times:
        newest = max(newest, time_ms)
        back_ms = max(back_ms, newest - time_ms)
    # Of 64 records of one partition in turn, the last one's time is seven seconds after the shop's, and reading one
    # partition after another would go back by 3,000 seconds.
    assert back_ms <= 2 * 4 * chunk_records_max * 1_000


class UntimedReader:
    """Reads events without their append time."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, *args: Any, **kwargs: Any) -> list[tuple[Partition, list[Record]]]:
        return [
            (place, [msgspec.structs.replace(one, time_ms=0) for one in found] if place.topic == EVENTS else found)
            for place, found in self._reader.read(*args, **kwargs)
        ]


class Untimed:
    """A log that does not tell when the events were appended: its topic keeps what their producers say."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, positions: Mapping[Partition, int]) -> UntimedReader:
        return UntimedReader(self._log.reader(positions))


def test_where_the_append_time_is_not_told_the_time_of_reading_is_journalled(opened: Log, blobs: Blobs) -> None:
    untimed, now = Untimed(opened), [START_MS]

    def clock() -> int:
        now[0] += 1_000
        return now[0]

    ahead = shown("ahead", "ann", "i", 40 * 3_600_000)  # of the clock at which it is read
    append(opened, [*shopping(300), ahead])
    turns: list[Turn] = []
    with closing(start(untimed, blobs, make_shop, clock=clock)) as loop:
        loop.on_turn = turns.append
        catch_up(opened, loop)
        assert len(values(opened, LETTERS)) == 1
        live = digest(freeze(loop.fold, loop._intake))
        assert loop.fold.time_ms <= now[0]
    assert [(turn.freshness_ms, turn.event_ages_ms) for turn in turns if turn.learned] == [([], [])] * len(turns)
    entries = [entry for entry in entries_of(opened, SHARD) if entry.runs]
    assert all(len(entry.read_ms) == len(entry.runs) for entry in entries)
    assert all(START_MS < one <= now[0] for entry in entries for one in entry.read_ms)
    again = check_folds(untimed, blobs, SHARD, make=make_shop)
    assert digest(freeze(again.fold, again.intake)) == live


def test_where_the_append_time_is_told_nothing_more_is_journalled(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(100))
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
    assert all(b"read_ms" not in value for value in values(opened, SHARD.journal))


def test_a_chunk_does_not_jump_over_what_waits_in_other_partitions(opened: Log, blobs: Blobs) -> None:
    early = shopping(100)
    late = [shown(f"late{n}", "late", "i", 8 * 3_600_000 + n * 1_000) for n in range(20)]
    append(opened, [*early, *late])
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
        assert [line.split()[0][:4] for line in loop.fold.lines[-20:]] == ["late"] * 20


def test_one_fast_clock_at_a_partitions_head_does_not_hold_it_up(opened: Log, blobs: Blobs) -> None:
    fast = [shown("fast", "s1", "i", 20 * 3_600_000)]
    append(opened, [*fast, *shopping(1_000)])
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
        numbers = [int(line[1:].split()[0]) for line in loop.fold.lines if line.startswith("e")]
        assert max(abs(number - place) for place, number in enumerate(numbers)) < 500, "held up, it would come last"


def test_a_flood_of_rejected_records_stops_the_loop_with_an_alarm(opened: Log, blobs: Blobs) -> None:
    append(opened, [*shopping(100), *(Outgoing(EVENTS, b"k%d" % n, b"junk") for n in range(400))])
    settings = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=9.0, flood_records=200, flood_share=0.5)
    loop = start(opened, blobs, settings=settings)
    with pytest.raises(Flooded, match="dead-letters"):
        catch_up(opened, loop)
    loop.close()
    (alarm,) = [msgspec.json.decode(value) for value in values(opened, Partition(ALARMS, 0))]
    assert alarm["detector"] == "flood"
    letters = values(opened, LETTERS)
    assert 100 < len(letters) < 400
    # An operator has looked and restarts it with a higher threshold.
    loop = start(opened, blobs, settings=LoopSettings(commit_interval_s=0.0, flood_share=1.0))
    catch_up(opened, loop)
    loop.close()
    assert len(values(opened, LETTERS)) == 400
    assert len(checked_fold(opened, blobs).fold.lines) == 100


def test_a_few_rejected_records_are_not_a_flood(opened: Log, blobs: Blobs) -> None:
    mixed = [
        record for pair in zip(shopping(300), [Outgoing(EVENTS, b"x", b"junk")] * 300, strict=True) for record in pair
    ]
    append(opened, [record for place, record in enumerate(mixed) if place % 6 != 3])
    settings = LoopSettings(commit_interval_s=0.0, flood_records=100, flood_share=0.9)
    loop = start(opened, blobs, settings=settings)
    catch_up(opened, loop)
    loop.close()
    assert len(values(opened, LETTERS)) == 200


def test_a_second_loop_of_the_shard_fences_the_first(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(300))
    first = start(opened, blobs)
    first.step()
    second = start(opened, blobs)
    with pytest.raises(Fenced):
        catch_up(opened, first)
    first.close()
    catch_up(opened, second)
    second.close()
    assert len(checked_fold(opened, blobs).fold.lines) == 300


def test_a_fenced_loop_does_not_delete_its_successors_snapshots(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(50))
    fenced = start(opened, blobs)
    catch_up(opened, fenced)
    stored(fenced)  # its next commit would name its snapshot
    snapshotted(opened, blobs, first=50)
    append(opened, shopping(10, first=110))
    with pytest.raises(Fenced):
        catch_up(opened, fenced)
    fenced.close()
    start(opened, blobs).close()


def test_the_three_newest_snapshots_are_kept(opened: Log, blobs: Blobs) -> None:
    loop = start(opened, blobs)
    for wave in range(8):
        append(opened, shopping(10, first=10 * wave))
        catch_up(opened, loop)
        stored(loop)
    loop.close()
    entry = journal.newest(opened, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    kept = set(blobs.names("online"))
    named = {entry.snapshot.blob, *entry.snapshot.former}
    assert len(named) == journal.snapshots_kept
    assert named <= kept
    assert len(kept - named) <= 2  # one may be durable and not yet named, one the last of an hour
    assert 0 <= len(blobs.names("online.pointer")) - journal.snapshots_kept <= 2
    numbers = [e.snapshot.number for e in entries_of(opened, SHARD) if e.snapshot]
    assert all(a <= b for a, b in pairwise(numbers))
    assert numbers[-1] > numbers[0]


def stored(loop: Loop[Any]) -> None:
    """Wait until the snapshot that a loop has taken is on the disk."""
    loop._snapshots._executor.submit(lambda: None).result()


def snapshotted(log: Log, blobs: Blobs, first: int = 0) -> str:
    """Learn 60 events until the journal names a snapshot; return its blob."""
    loop = start(log, blobs)
    for wave in range(6):
        append(log, shopping(10, first=first + 10 * wave))
        catch_up(log, loop)
        stored(loop)
    loop.close()
    entry = journal.newest(log, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    return entry.snapshot.blob


def test_a_restart_folds_only_what_follows_the_snapshot(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    entry = journal.newest(opened, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    opened.delete_before(ENTRIES, entry.snapshot.journal)
    for place in SOURCES:
        opened.delete_before(place, entry.snapshot.positions[journal.key_of(place)])
    loop = start(opened, blobs)  # records before the snapshot are deleted and not needed
    loop.close()
    assert len(loop.fold.lines) == 60


def test_what_cannot_be_restored_is_folded_anew_from_the_journal(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    loop = start(opened, blobs, MakeDiary(2))
    loop.close()
    assert len(loop.fold.lines) == 60
    entry = journal.newest(opened, SHARD)
    assert entry is not None
    assert (entry.renewed, entry.stamp) == ({"diary.lines": "folded anew"}, loop.fold.stamp)
    again = checked_fold(opened, blobs, MakeDiary(2))
    assert again.fold.lines == loop.fold.lines


def test_what_cannot_be_restored_begins_empty_where_the_journal_is_gone(opened: Log, blobs: Blobs) -> None:
    append(opened, [Outgoing(MODELS, b"-", b"no announcement", 0)])
    snapshotted(opened, blobs)
    entry = journal.newest(opened, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    opened.delete_before(ENTRIES, entry.snapshot.journal)
    follower = Follower(opened, blobs, SHARD, make=MakeDiary(2))
    assert follower.fold.renewed == {"diary.lines": "begun empty"}
    with closing(start(opened, blobs, MakeDiary(2))) as loop:
        assert loop.fold.renewed == {"diary.lines": "begun empty"}
        assert loop.fold.lines[0] == "heard models 0 again", "it is kept for ever"
        begun = len(loop.fold.lines)
        assert begun < 60
        append(opened, shopping(20, first=60))
        catch_up(opened, loop)
        assert len(loop.fold.lines) == begun + 20
    follower.catch_up()
    assert follower.digest() == digest(freeze(loop.fold, loop._intake))
    follower.close()


def delete_files(folder: Path) -> None:
    """Delete all files of a folder."""
    for path in folder.iterdir():
        path.unlink()


def test_missing_snapshots_raise_blob_missing(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    newest = snapshotted(opened, blobs)
    delete_files(tmp_path / "blobs")
    with pytest.raises(BlobMissing, match=newest):
        start(opened, blobs)


def test_a_damaged_snapshot_is_not_decoded(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    newest = snapshotted(opened, blobs)
    for path in (tmp_path / "blobs").iterdir():
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BlobCorrupt, match=newest):
        start(opened, blobs)


def test_a_lost_snapshot_is_made_anew_from_the_journal(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    append(opened, shopping(300))
    loop = start(opened, blobs, make_shop, judge=judges(blobs))
    catch_up(opened, loop)
    loop.close()
    state, judged = freeze(loop.fold, loop._intake), values(opened, Partition(JUDGEMENTS, 0))
    progress: list[tuple[int, int]] = []
    for lost in range(2):
        delete_files(tmp_path / "blobs")
        with pytest.raises(BlobMissing):
            start(opened, blobs, make_shop)
        made = refold(opened, blobs, SHARD, make=make_shop, report=lambda *one: progress.append(one))
        assert made.blob == f"online-{digest(state)}"
        assert progress[-1] == (made.number, made.number) == (loop.number + lost,) * 2
    assert values(opened, Partition(JUDGEMENTS, 0)) == judged, "judgements are not computed again"
    append(opened, shopping(100, first=300))
    loop = start(opened, blobs, make_shop, judge=judges(blobs))
    catch_up(opened, loop)
    loop.close()
    plain = checked_fold(opened, blobs, make_shop)
    assert plain.fold.events == 400
    assert plain.digest() == digest(freeze(loop.fold, loop._intake))


def test_a_refold_replaces_a_damaged_snapshot_of_the_same_name(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    snapshotted(opened, blobs)
    made = refold(opened, blobs, SHARD, make=make_diary)
    (tmp_path / "blobs" / made.blob).write_bytes(b"damaged")
    assert refold(opened, blobs, SHARD, make=make_diary).blob == made.blob
    loop = start(opened, blobs)
    loop.close()
    assert len(loop.fold.lines) == 60


@pytest.mark.parametrize("after", [False, True])
def test_a_killed_refold_can_be_repeated(opened: Log, blobs: Blobs, tmp_path: Path, after: bool) -> None:
    snapshotted(opened, blobs)
    delete_files(tmp_path / "blobs")
    entries = len(entries_of(opened, SHARD))
    with pytest.raises(Killed):
        refold(KilledAt(opened, 1, after), blobs, SHARD, make=make_diary)
    assert len(entries_of(opened, SHARD)) == entries + after
    refold(opened, blobs, SHARD, make=make_diary)
    loop = start(opened, blobs)
    append(opened, shopping(20, first=60))
    catch_up(opened, loop)
    loop.close()
    names = sorted(line.split()[0] for line in checked_fold(opened, blobs).fold.lines)
    assert names == sorted(value.decode() for value in values(opened, Partition(SCORES, 0)))
    assert len(names) == 80


def test_a_refold_includes_entries_committed_meanwhile_and_then_fences_the_loop(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(100))
    loop = start(opened, blobs)
    catch_up(opened, loop)
    entries = loop.number

    def commit_more(folded: int, committed: int) -> None:
        if loop.number == entries == folded:
            append(opened, shopping(50, first=100))
            catch_up(opened, loop)

    made = refold(opened, blobs, SHARD, make=make_diary, report=commit_more)
    assert made.number == loop.number > entries
    append(opened, shopping(10, first=150))
    with pytest.raises(Fenced):
        catch_up(opened, loop)
    loop.close()
    loop = start(opened, blobs)
    catch_up(opened, loop)
    loop.close()
    assert len(checked_fold(opened, blobs).fold.lines) == 160


class FencedAtOnce(KilledAt):
    """A log where another process of the shard opens its writer directly after each writer."""

    def writer(self, *args: Any, **options: Any) -> Any:
        writer = self._log.writer(*args, **options)
        self._log.writer(*args, **options).close()
        return writer


def test_a_fenced_refold_commits_nothing(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    entry = journal.newest(opened, SHARD)
    with pytest.raises(Fenced):
        refold(FencedAtOnce(opened, 0, after=False), blobs, SHARD, make=make_diary)
    assert journal.newest(opened, SHARD) == entry


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (ENTRIES, "wanted entry 0, found 1"),
        (SOURCES[0], "events/0: position 0 is outside what the log holds"),
        (Partition(JUDGEMENTS, 0), "judgements/0: position 0 is outside what the log holds"),
    ],
    ids=str,
)
@pytest.mark.parametrize("all_gone", [False, True])
def test_a_refold_fails_if_records_were_deleted(
    opened: Log, blobs: Blobs, place: Partition, found: str, all_gone: bool
) -> None:
    append(opened, shopping(300))
    loop = start(opened, blobs, make_shop, judge=judges(blobs))
    catch_up(opened, loop)
    loop.close()
    opened.delete_before(place, opened.end(place) if all_gone else committed_records(opened, place)[1].offset)
    entries = opened.end(ENTRIES)
    if all_gone and place == ENTRIES:
        found = "wanted a journal to fold, found no entry in journal/0"
    with pytest.raises(StateUnreadable, match=f"online.*{found}"):
        refold(opened, blobs, SHARD, make=make_shop)
    assert opened.end(ENTRIES) == entries


def test_a_shard_that_never_ran_cannot_be_refolded(opened: Log, blobs: Blobs) -> None:
    with pytest.raises(StateUnreadable, match="online: wanted a journal to fold, found no entry in journal/0"):
        refold(opened, blobs, SHARD, make=make_diary)
    assert journal.newest(opened, SHARD) is None


def test_a_gap_in_the_journal_raises_state_unreadable(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    opened.delete_before(ENTRIES, committed_records(opened, ENTRIES)[2].offset)
    follower = Follower(opened, blobs, SHARD, make=make_diary, from_start=True)
    with pytest.raises(StateUnreadable, match="wanted entry 0, found 2"):
        follower.catch_up()
    follower.close()


def test_a_model_is_applied_at_a_journalled_position(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(100))
    loop = start(opened, blobs, make_shop)
    catch_up(opened, loop)
    promoted = Announcement(
        id="finetune/1",
        kind="promoted",
        round=1,
        at_events=100,
        due_events=200,
        time_ms=0,
        version="r0001-aa",
        blob="model-aa",
    )
    append(opened, [promoted.record(), Outgoing(MODELS, b"-", b"no announcement")])
    append(opened, shopping(50, first=100))
    catch_up(opened, loop)
    assert next_item(loop.fold).champion == promoted
    loop.close()
    again = start(opened, blobs, make_shop)
    again.close()
    assert next_item(again.fold).champion == promoted
    runs = [run for entry in entries_of(opened, SHARD) for run in entry.runs]
    assert sum(run.end - run.start for run in runs if run.topic == MODELS) == 2
    plain = checked_fold(opened, blobs, make_shop)
    assert plain.digest() == digest(freeze(again.fold, again._intake))


def test_a_follower_reaches_the_loops_state_and_writes_nothing(opened: Log, blobs: Blobs) -> None:
    loop = start(opened, blobs)
    follower = Follower(opened, blobs, SHARD, make=make_diary)
    for wave in range(3):
        append(opened, shopping(40, first=40 * wave))
        catch_up(opened, loop)
        entries = len(committed_records(opened, ENTRIES))
        follower.catch_up()
        assert follower.fold.lines == loop.fold.lines
        assert len(committed_records(opened, ENTRIES)) == entries
    assert follower.digest() == digest(freeze(loop.fold, loop._intake))
    loop.close()
    follower.close()


class Held:
    """A lock that tells how many lines a diary had at the end of each time it was held."""

    def __init__(self) -> None:
        self.diary, self.ends, self.held = Diary(), list[int](), False

    def __enter__(self) -> None:
        assert not self.held
        self.held = True

    def __exit__(self, *raised: object) -> None:
        self.held = False
        self.ends.append(len(self.diary.lines))


@pytest.mark.parametrize(("turn_s", "records"), [(0.0, 1), (0.0035, 4), (math.inf, 40)])
def test_a_turn_of_a_follower_ends_at_the_next_record_once_it_has_been_long(
    opened: Log, blobs: Blobs, turn_s: float, records: int
) -> None:
    seconds = iter(range(10_000))
    timer = Timer(monotonic=lambda: next(seconds) / 1000, sleep=lambda seconds: None)  # a record takes a millisecond
    loop, held = start(opened, blobs), Held()
    catch_up(opened, loop)
    follower = Follower(opened, blobs, SHARD, make=make_diary, lock=held, turn_s=turn_s)
    follower.catch_up()
    append(opened, shopping(40))
    catch_up(opened, loop)
    held.diary, follower._turns._timer = follower.fold, timer
    held.ends.clear()
    follower.catch_up()
    assert follower.fold.lines == loop.fold.lines
    entries = len([entry for entry in entries_of(opened, SHARD) if entry.runs])
    learned = [after - before for before, after in pairwise([0, *held.ends])]
    assert max(learned) <= records
    assert len(held.ends) <= 2 * (math.ceil(40 / records) + entries), "partitions share turns"
    loop.close()
    follower.close()


def test_a_side_topic_that_a_shard_no_longer_hears_is_skipped(opened: Log, blobs: Blobs) -> None:
    """A family that hears alarms has moved to another shard: the journal names runs that nobody here learns from."""
    wide = SHARD._replace(hears=(MODELS, ALARMS))
    with closing(start(opened, blobs, shard=wide)) as loop:
        for wave in range(3):
            beside = [Outgoing(topic, b"-", b"%d" % wave, 0) for topic in (ALARMS, MODELS)]
            append(opened, [*shopping(20, first=20 * wave), *beside])
            catch_up(opened, loop)
            stored(loop)
    entry = journal.newest(opened, wide)
    assert entry is not None
    assert entry.snapshot is not None
    assert {run.topic for entry in entries_of(opened, wide) for run in entry.runs} == {EVENTS, ALARMS, MODELS}

    make = MakeDiary(2)  # of another version, because the family that hears alarms has moved
    with closing(Follower(opened, blobs, SHARD, make=make, fold_anew=True)) as follower:
        follower.catch_up()
    assert follower.fold.lines == [line for line in loop.fold.lines if not line.startswith("heard alarms")]
    assert sum(line.startswith("heard models") for line in follower.fold.lines) == 3
    assert len(follower.fold.lines) == 63

    append(opened, [*shopping(20, first=60), Outgoing(ALARMS, b"-", b"3", 0), Outgoing(MODELS, b"-", b"3", 0)])
    with closing(start(opened, blobs, make)) as loop:
        catch_up(opened, loop)
    assert loop.fold.lines[:63] == follower.fold.lines
    assert len(loop.fold.lines) == 84
    with closing(Follower(opened, blobs, SHARD, make=make, from_start=True)) as plain:
        plain.catch_up()
        assert plain.digest() == digest(freeze(loop.fold, loop._intake))


def test_a_side_topic_that_a_shard_begins_to_hear_is_heard_from_its_start(opened: Log, blobs: Blobs) -> None:
    narrow = SHARD._replace(hears=())
    append(opened, [*shopping(20), Outgoing(MODELS, b"-", b"before", 0)])
    with closing(start(opened, blobs, shard=narrow)) as loop:
        catch_up(opened, loop)
        stored(loop)
    append(opened, shopping(20, first=20))
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
    assert len(loop.fold.lines) == 41
    assert checked_fold(opened, blobs).fold.lines == loop.fold.lines


def test_a_third_shard_learns_beside_the_online_shard(opened: Log, blobs: Blobs) -> None:
    moved = placed(FAMILIES, {"online": 0, "finetune": 1, "propensity": 2}, {"propensity": ["purchase"]})
    placements = [moved["online"], moved["propensity"]]
    sections = {"next_item": NextItemSettings(items_max=64, shoppers_max=50)}
    makes = {one.shard: MakeShop(one.kinds, sections) for one in placements}

    def begin(placement: Placement) -> Loop[Any]:
        judge = judges(blobs) if placement is moved["online"] else Judges({})
        shard = placement.shard
        return start(opened, blobs, makes[shard], shard=shard, judge=judge, quarantine=placement.quarantines)

    loops = {one.shard: begin(one) for one in placements}
    for wave in range(4):
        append(opened, [*shopping(300, first=300 * wave, gap_ms=60_000), Outgoing(EVENTS, b"a", b"junk")])
        for _ in range(8):
            for loop in loops.values():
                loop.step()
        one = placements[wave % 2]  # is started anew, while the other goes on
        loops[one.shard].close()
        loops[one.shard] = begin(one)
    for shard, loop in loops.items():
        catch_up(opened, loop)
        loop.close()
        plain = checked_fold(opened, blobs, makes[shard], shard)
        assert plain.digest() == digest(freeze(loop.fold, loop._intake))
        assert plain.fold.events == 1_200
        assert {entry.writer for entry in entries_of(opened, shard)} == {shard.name}

    first, third = (one.shard for one in placements)
    assert (first.journal.number, third.journal.number) == (0, 2)
    assert (list(loops[first].fold.families), list(loops[third].fold.families)) == (
        ["desk", "stock", "next_item", "profiles", "segments", "shopper_value", "demand"],
        ["desk", "purchase"],
    )
    assert purchase(loops[third].fold).scores().judged > 0
    judged = [len(values(opened, shard.judgements)) for shard in (first, third)]
    assert judged == [sum(entry.judged for entry in entries_of(opened, first)), 0]
    assert judged[0] > 0
    assert sorted(r.key or b"" for r in committed_records(opened, Partition(SCORES, 0))) == [
        b"demand",
        b"next_item",
        b"profiles",
        b"purchase",
        b"segments",
        b"shopper_value",
        b"stock",
    ]
    assert len(values(opened, LETTERS)) == 4, "one of the two writes the dead letters"


def test_judgements_that_no_entry_counted_are_skipped(opened: Log, blobs: Blobs) -> None:
    """Kafka may keep the judgements of a commit whose entry was lost (`docs/decisions/0012`)."""
    place = Partition(JUDGEMENTS, 0)
    for wave in range(3):
        append(opened, shopping(40, first=40 * wave))
        loop = start(opened, blobs, judge=EchoJudge())
        catch_up(opened, loop)
        loop.close()
        if wave != 1:  # at first there is a snapshot behind it, in the end only the journal's end
            orphan = opened.writer(SHARD.name)
            orphan.commit([Outgoing(JUDGEMENTS, b"online", b"orphan", place.number)], {})
            orphan.settle()
            orphan.close()
    judged = [value.decode() for value in values(opened, place)]
    assert judged.count("orphan") == 2
    follower = checked_fold(opened, blobs)
    assert [line for line in follower.fold.lines if line.startswith("judged")] == [
        f"judged witness {name}" for name in judged if name != "orphan"
    ]
    assert len(judged) == 122


def test_a_refold_needs_no_judgement_that_an_earlier_snapshot_does_not_need(opened: Log, blobs: Blobs) -> None:
    place = Partition(JUDGEMENTS, 0)
    append(opened, shopping(10))
    with closing(start(opened, blobs, judge=EchoJudge())) as loop:
        catch_up(opened, loop)
    with closing(opened.writer(SHARD.name)) as orphan:  # as if an entry was lost that counted it
        orphan.commit([Outgoing(JUDGEMENTS, b"online", b"orphan", place.number)], {})
        orphan.settle()
    with closing(start(opened, blobs, judge=Judges({}))) as loop:  # it goes on behind the orphan, and judges nothing
        for first in (10, 20):
            append(opened, shopping(10, first=first))
            catch_up(opened, loop)
            stored(loop)
    last = journal.newest(opened, SHARD)
    assert last is not None
    assert last.snapshot is not None
    made = refold(opened, blobs, SHARD, make=make_diary)
    assert made.judgements == last.snapshot.judgements == opened.end(place)
    opened.delete_before(place, last.snapshot.judgements)  # as trimming does, while that snapshot is kept
    append(opened, shopping(10, first=30))
    with closing(start(opened, blobs, judge=EchoJudge())) as loop:
        catch_up(opened, loop)
    with closing(start(opened, blobs)) as loop:
        assert len(loop.fold.lines) == 60, "40 events and 20 judgements"


def test_a_follower_misses_no_judgement_that_no_entry_counts(opened: Log, blobs: Blobs) -> None:
    place = Partition(JUDGEMENTS, 0)
    append(opened, shopping(10))
    with closing(start(opened, blobs, judge=EchoJudge())) as loop:
        catch_up(opened, loop)
    follower = Follower(opened, blobs, SHARD, make=make_diary)
    with closing(follower):
        follower.catch_up()
        with closing(opened.writer(SHARD.name)) as orphan:
            orphan.commit([Outgoing(JUDGEMENTS, b"online", b"orphan", place.number)], {})
            orphan.settle()
        with closing(start(opened, blobs, judge=EchoJudge())) as loop:
            opened.delete_before(place, opened.end(place))  # as trimming does, once a snapshot lies behind it
            append(opened, shopping(10, first=10))
            catch_up(opened, loop)
            assert loop.fold.state() != follower.fold.state()
            follower.catch_up()
            assert loop.fold.state() == follower.fold.state()


def test_what_others_write_to_a_shard_s_own_topics_is_passed_over(opened: Log, blobs: Blobs) -> None:
    """Copies and garbage, between entries and at the end, while a follower reads and before a restart."""
    judged, entries = Partition(JUDGEMENTS, 0), SHARD.journal
    follower = Follower(opened, blobs, SHARD, make=make_diary)
    for start_ in range(2):
        with closing(start(opened, blobs, judge=EchoJudge())) as loop:
            for wave in range(3):
                append(opened, shopping(40, first=120 * start_ + 40 * wave))
                catch_up(opened, loop)
                for place in (judged, entries):
                    copies = opened.newest(place, 3)
                    assert len(copies) == 3
                    for record in (*copies, copies[0]):
                        append(opened, [Outgoing(place.topic, record.key, record.value, place.number)])
                    append(opened, [Outgoing(place.topic, b"online", b"garbage", place.number)])
                another_s = journal.judgement_key("witness", "finetune", loop.number)
                append(opened, [Outgoing(JUDGEMENTS, another_s, b"garbage", judged.number)])
                follower.catch_up()
                assert follower.digest() == digest(freeze(loop.fold, loop._intake))
    assert follower.strays >= 5 * 5 + 4 * 5, "those after the last commits are not read yet"
    follower.close()
    with closing(Follower(opened, blobs, SHARD, make=make_diary, from_start=True)) as plain:
        plain.catch_up()
        assert plain.digest() == follower.digest()
        assert plain.fold.lines.count("judged witness garbage") == 0


@pytest.mark.parametrize("changed", ["an event", "its append time", "a judgement"])
def test_records_that_were_changed_stop_every_fold(tmp_path: Path, blobs: Blobs, changed: str) -> None:
    with closing(open_log(f"sqlite:{tmp_path / 'log.db'}")) as log:
        log.create()
        append(log, shopping(60))
        with closing(start(log, blobs, judge=EchoJudge())) as loop:
            catch_up(log, loop)
            entries = loop.number
        with closing(sqlite3.connect(tmp_path / "log.db")) as db, db:
            change, topic = {
                "an event": ("value = CAST(replace(CAST(value AS TEXT), 'item-', 'item_') AS BLOB)", EVENTS),
                "its append time": ("time_ms = time_ms + 1", EVENTS),
                "a judgement": ("value = X'2E2E2E'", JUDGEMENTS),
            }[changed]
            done = db.execute(
                f"UPDATE records SET {change} WHERE position = 3 AND partition ="
                f" (SELECT id FROM partitions WHERE topic = '{topic}' AND number = 0)"
            )
            assert done.rowcount == 1
        for make_follower in (
            lambda: Follower(log, blobs, SHARD, make=make_diary, from_start=True).catch_up(),
            lambda: refold(log, blobs, SHARD, make=make_diary),
        ):
            with pytest.raises((RecordsChanged, StateUnreadable), match="are not those that were learned"):
                make_follower()
        newest = journal.newest(log, SHARD)
        assert newest is not None
        assert newest.number + 1 == entries, "the refold committed nothing"


def test_a_judge_that_is_ready_is_asked_although_no_record_came(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(3))
    judge = EchoJudge()
    loop = start(opened, blobs, judge=judge)
    catch_up(opened, loop)
    entries = loop.number
    for _ in range(5):
        loop.step()
    assert loop.number == entries
    loop.judge_ready = lambda: "late" not in [value.decode() for value in values(opened, Partition(JUDGEMENTS, 0))]
    judge._seen.append(b"late")
    deadline = time.monotonic() + 30
    while loop.judge_ready():
        loop.step()
        assert time.monotonic() < deadline
    loop.close()
    assert checked_fold(opened, blobs).fold.lines[-1] == "judged witness late"


def test_the_journal_counts_what_became_of_the_records(opened: Log, blobs: Blobs) -> None:
    """Cumulative, over restarts, and from the first entry on that counts."""
    junk = Outgoing(EVENTS, b"a", b"junk")
    for wave in (1, 2):
        append(
            opened, [*shopping(200 * wave), junk, Outgoing(MODELS, b"-", b"no event")]
        )  # the second time, half of it are repeats
        with closing(start(opened, blobs)) as loop:
            catch_up(opened, loop)
        last = entries_of(opened, SHARD)[-1]
        assert last.results == Results(learned=200 * wave, duplicates=200 * (wave - 1), rejected=wave)
    writer = opened.writer(SHARD.name, SHARD.written)  # a release that counts nothing
    older = msgspec.structs.replace(
        last, number=last.number + 1, runs=[], read_ms=[], judged=0, results=None, digest=""
    )
    writer.commit([Outgoing(JOURNAL, b"x", journal.encode(older), SHARD.number)], {})
    writer.settle()
    writer.close()
    append(opened, shopping(500))
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
    assert entries_of(opened, SHARD)[-1].results == Results(learned=100, duplicates=400, since=older.number + 1)


def test_turns_report_what_was_done(opened: Log, blobs: Blobs) -> None:
    append(opened, [*shopping(200), Outgoing(EVENTS, b"a", b"junk")])
    turns: list[Turn] = []
    loop = start(opened, blobs)
    loop.on_turn = turns.append
    catch_up(opened, loop)
    loop.close()
    assert sum(turn.records for turn in turns) == 201
    assert sum(turn.learned for turn in turns) == 200
    assert [dict(turn.rejected) for turn in turns if turn.rejected] == [{"not_json": 1}]
    assert sum(turns[-1].lag.values()) == 0
    assert turns[-1].bounds["lines"][0] == 200
    assert all(age >= 0 for turn in turns for age in turn.freshness_ms)
    assert all(0 < turn.learn_s < 30 for turn in turns)


BAD_ANNOUNCEMENTS = {
    "no JSON": b"noise",
    "no value": None,
    "NUL in the name of a blob": b'"blob":"a\\u0000b"',
    "a path for a blob": b'"blob":"../../etc/passwd"',
    "a time of 71 bits": b'"time_ms":%d' % 2**70,
    "a number of 71 bits": b'"evidence":{"sessions":%d}' % 2**70,
    "a negative round": b'"round":-1',
    "a number below zero of 71 bits": b'"lineage":{"seed":[-%d]}' % 2**70,
    "nested deeply": b'"lineage":{"a":' + b"[" * 90 + b"]" * 90 + b"}",
    "nested without end": b'"lineage":{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "a long text": b'"reason":"' + b"a" * 900_000 + b'"',
    "an unknown kind": b'"kind":"praised"',
}


@pytest.mark.parametrize("placement", [ONLINE, FINETUNE], ids=["online", "finetune"])
def test_no_record_of_a_side_topic_ends_a_shard(opened: Log, blobs: Blobs, placement: Placement) -> None:
    """Whoever may write to `models` may write anything; the topic is kept for ever."""
    shard, make = placement.shard, MakeShop(placement.kinds)
    good = b'{"id":"op/1","kind":"requested","action":"promote","round":0,"at_events":0,"time_ms":0,"blob":"model-aa"'
    whole = {"no JSON", "no value"}
    append(opened, shopping(20))
    append(opened, [Outgoing(MODELS, b"-", good + b"}")])
    for name, bad in BAD_ANNOUNCEMENTS.items():
        append(opened, [Outgoing(MODELS, b"-", bad if name in whole else good + b"," + (bad or b"") + b"}")])
    append(opened, [Outgoing(ITEMS, b"i\xff", b"{}"), Outgoing(ITEMS, b"i1", b"[]")])
    append(opened, [Outgoing(ALARMS, b"-", b'{"detector":' + b"[" * 5_000)])
    for wave in (1, 2):
        with closing(start(opened, blobs, make, shard=shard, quarantine=placement.quarantines)) as loop:
            append(opened, shopping(20, first=20 * wave))
            while loop.fold.events < 20 + 20 * wave:
                loop.step()
            assert loop._positions[Partition(MODELS, 0)] > len(BAD_ANNOUNCEMENTS)
            stored(loop)
    assert entries_of(opened, shard)[-1].results == Results(learned=60), "they are no events"
    check_folds(opened, blobs, shard, make=make)
    letters = [msgspec.json.decode(value) for value in values(opened, LETTERS)]
    origins = [letter["id"] for letter in letters if letter["id"].startswith("models/")]
    wanted = [f"models/0/{number}" for number in range(1, 1 + len(BAD_ANNOUNCEMENTS))]
    assert origins == (wanted if placement.quarantines else [])
    assert sum(letter["id"].startswith("items/") for letter in letters) == (2 if placement.quarantines else 0)
    assert all(letter["detail"] for letter in letters)


class FullDisk(Blobs):
    """A folder of blobs on a disk that is full now and then."""

    full = False

    def put(self, kind: str, data: bytes) -> str:
        if self.full:
            raise BlobUnwritable(f"blob {kind} cannot be written: no space left")
        return super().put(kind, data)


def test_learning_goes_on_while_no_snapshot_can_be_written(opened: Log, tmp_path: Path) -> None:
    blobs = FullDisk(tmp_path / "blobs")
    with closing(start(opened, blobs)) as loop:

        def learn(wave: int) -> None:
            append(opened, shopping(20, first=20 * wave))
            catch_up(opened, loop)
            stored(loop)

        learn(0)
        learn(1)
        blobs.full = True
        learn(2)
        before = journal.newest(opened, SHARD)
        for wave in range(3, 6):
            learn(wave)
        entry = journal.newest(opened, SHARD)
        assert entry is not None
        assert before is not None
        assert entry.snapshot == before.snapshot
        assert len(loop.fold.lines) == 120
        alarms = [msgspec.json.decode(value) for value in values(opened, Partition(ALARMS, 0))]
        assert [(one["detector"], one["detail"]) for one in alarms] == [
            ("snapshot", "blob online cannot be written: no space left")
        ], "once, not once per try"
        blobs.full = False
        for wave in range(6, 9):
            learn(wave)
        entry = journal.newest(opened, SHARD)
        assert entry is not None
        assert entry.snapshot is not None
        assert entry.snapshot.number > before.number + 5
    checked_fold(opened, blobs)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_snapshot_is_passed_over_for_the_one_before(opened: Log, blobs: Blobs, damaged: int) -> None:
    with closing(start(opened, blobs)) as loop:
        for wave in range(12):
            append(opened, shopping(10, first=10 * wave))
            catch_up(opened, loop)
            stored(loop)
        state = digest(freeze(loop.fold, loop._intake))
    entry = journal.newest(opened, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    names = [entry.snapshot.blob, *entry.snapshot.former]
    for name in names[:damaged]:
        if damaged == 1:
            (blobs.folder / name).write_bytes(b"noise")
        else:
            (blobs.folder / name).unlink(missing_ok=True)
    if damaged == 3:
        with pytest.raises(BlobMissing, match=names[0]):
            Follower(opened, blobs, SHARD, make=make_diary)
        return
    with closing(Follower(opened, blobs, SHARD, make=make_diary)) as follower:
        assert follower.damaged == names[:damaged]
        assert follower.pointer is not None
        assert follower.pointer.blob == names[damaged]
        follower.catch_up()
        assert follower.digest() == state
    append(opened, shopping(10, first=120))
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
        assert len(loop.fold.lines) == 130


def test_it_is_told_what_retention_will_delete_although_a_restart_needs_it(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    settings = msgspec.structs.replace(QUICK, snapshot_interval_s=1_000.0)
    with closing(start(opened, blobs, settings=settings)) as loop:
        append(opened, shopping(100, first=60))
        catch_up(opened, loop)
    entry = journal.newest(opened, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    place, position = SOURCES[0], entry.snapshot.positions["events/0"]
    assert expiring(opened, SHARD) == [], "retention has deleted nothing yet"
    opened.delete_before(place, 1)
    assert (position - 1) / (opened.end(place) - 1) > expiring_share
    assert expiring(opened, SHARD) == []
    opened.delete_before(place, position)
    (told,) = expiring(opened, SHARD)
    wanted = f"events/0 begins at {position}: a restart of online from its newest snapshot needs {position} and later"
    assert told.startswith(wanted)


def test_a_fold_is_given_up_when_it_is_to_stop(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(200))
    with closing(Loop(opened, blobs, SHARD, make=make_diary)) as loop:
        catch_up(opened, loop)
    asked = iter([False, True])
    with pytest.raises(Stopping):
        Loop(opened, blobs, SHARD, make=make_diary, stop=lambda: next(asked))
    with closing(Loop(opened, blobs, SHARD, make=make_diary)) as loop:
        assert len(loop.fold.lines) == len(checked_fold(opened, blobs).fold.lines)


def test_snapshots_that_would_take_too_much_of_the_time_are_taken_more_rarely(blobs: Blobs) -> None:
    def slowly() -> State:
        time.sleep(0.05)
        return {}

    snapshots = Snapshots(blobs, "online", None, interval_s=0.0)
    assert snapshots.due
    snapshots.take(slowly, pointer_to(1, {}, Stamp("1", {}), "", {}, {}))
    snapshots.settled(1, 1, 0)
    while not (pointer := snapshots.newest()):
        time.sleep(0.01)
    snapshots.settled(2, 2, 0)
    assert pointer.number == 1
    assert not snapshots.due, "a share of 4 % is 25 times as long"
    snapshots.cost_share_max = math.inf
    assert snapshots.due
    snapshots.close()


def test_a_process_that_stood_still_in_a_snapshot_takes_the_next_one_within_ten_minutes(blobs: Blobs) -> None:
    now_s = 0.0

    def stand_still() -> State:
        nonlocal now_s
        now_s += 3_600.0
        return {}

    timer = Timer(monotonic=lambda: now_s)
    snapshots = Snapshots(blobs, "online", None, interval_s=0.0, timer=timer)
    snapshots.take(stand_still, pointer_to(1, {}, Stamp("1", {}), "", {}, {}))
    snapshots.settled(1, 1, 0)
    while not snapshots.newest():
        time.sleep(0.01)
    snapshots.settled(2, 2, 0)
    assert snapshots.cost_s == pytest.approx(3_600.0, abs=1.0)
    assert snapshots.due, "the hour of standing still is over"
    snapshots.close()
