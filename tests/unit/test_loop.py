"""The loop: whatever happens between two commits, the journal's fold is what was learned, once."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.judge import ShopJudge
from headrace import journal
from headrace.blobs import Blobs
from headrace.checks import check_covered, check_folds, entries_of, records_of
from headrace.errors import BlobCorrupt, BlobMissing, Fenced, Flooded, Misconfigured, PositionLost, StateUnreadable
from headrace.events import Data, Event, Item, at, encode
from headrace.follower import Follower, freeze
from headrace.log import Log, Outgoing, Partition, Record, Writer, open_log
from headrace.loop import Loop, LoopSettings, Turn, chunk_records_max, silence_s_max
from headrace.refold import refold
from headrace.state import State, digest
from headrace.testing import MemoryLog
from headrace.topics import ALARMS, DEAD_LETTERS, EVENTS, JUDGEMENTS, MODELS, SCORES, partitions_of
from learners.announcement import Announcement
from learners.shop import Shop, ShopSettings

QUICK = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=0.0, idle_wait_s=0.0)
"""A commit after each chunk, a snapshot whenever none is on its way."""
START_MS = 1_736_121_600_000
SOURCES, SIDES = partitions_of(EVENTS), partitions_of(MODELS)
LETTERS, ENTRIES = Partition(DEAD_LETTERS, 0), journal.partition_of("online")


class Diary:
    """A fold that writes down what it learned, and puts out one record for each event."""

    def __init__(self, versions: str = "1") -> None:
        self.versions: Mapping[str, str] = {"diary": versions}
        self.lines: list[str] = []
        self._outbox: list[Outgoing] = []

    def learn(self, event: Event, partition: int, offset: int) -> None:
        self.lines.append(f"{event.id} {event.time_ms}")
        self._outbox.append(Outgoing(SCORES, b"diary", event.id.encode(), 0))

    def hear(self, topic: str, record: Record) -> None:
        self.lines.append(f"heard {topic} {record.offset}")

    def absorb(self, judgement: bytes) -> None:
        self.lines.append(f"judged {judgement.decode()}")

    def emit(self) -> list[Outgoing]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"lines": (len(self.lines), 1_000_000)}

    def state(self) -> State:
        return {"lines": list(self.lines)}

    @classmethod
    def make(cls, state: State | None) -> "Diary":
        diary = cls()
        diary.lines = list(state["lines"]) if state else []
        return diary


def make_shop(state: State | None) -> Shop:
    return Shop.from_state(state) if state else Shop(ShopSettings(items_max=64, shoppers_max=50))


class Killed(BaseException):
    """What a test does in place of a signal."""


class Mortal:
    """A log whose writer dies at its n-th commit, just before or just after the log took it."""

    def __init__(self, log: Log, dies_at: int, after: bool) -> None:
        self._log, self._dies_at, self._after = log, dies_at, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def writer(self, writer_id: str) -> "MortalWriter":
        return MortalWriter(self._log.writer(writer_id), self._dies_at, self._after)


class MortalWriter:
    def __init__(self, writer: Writer, dies_at: int, after: bool) -> None:
        self._writer, self._left, self._after = writer, dies_at, after
        self.settle, self.close = writer.settle, writer.close

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        self._writer.commit(records, positions)
        if self._left == 0:
            raise Killed


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    log: Log = MemoryLog() if request.param == "memory" else open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()
    yield log
    log.close()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def shopping(count: int, seed: int = 0, first: int = 0) -> list[Outgoing]:
    """Return events of a few shoppers, a second apart: views, and now and then a purchase of the item just seen."""
    rng = random.Random(seed)
    records, seen = [], dict[str, str]()
    for number in range(first, first + count):
        shopper = f"shopper-{rng.randrange(30)}"
        buys = shopper in seen and rng.random() < 0.1
        item = seen[shopper] if buys else f"item-{rng.randrange(40)}"
        seen[shopper] = item
        records.append(shown(f"e{number}", shopper, item, number * 1_000, "purchase" if buys else "view_item"))
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
    make: Callable[[State | None], Any] = Diary.make,
    settings: LoopSettings = QUICK,
    **options: Any,
) -> Loop[Any]:
    return Loop(log, blobs, "online", make=make, sources=SOURCES, sides=SIDES, settings=settings, **options)


def waiting(log: Log, loop: Loop[Any]) -> bool:
    return any(log.end(place) > loop._positions[place] for place in [*SOURCES, *SIDES])


def catch_up(log: Log, loop: Loop[Any]) -> None:
    """Fold all that the log holds, and commit it."""
    deadline = time.monotonic() + 30
    loop.run(lambda: not waiting(log, loop) or time.monotonic() > deadline)
    assert not waiting(log, loop)


def values(log: Log, place: Partition) -> list[bytes]:
    return [record.value or b"" for record in records_of(log, place)]


def whole(log: Log, blobs: Blobs, make: Callable[[State | None], Any] = Diary.make) -> Follower[Any]:
    """Return the uninterrupted fold of the journal, after the audit of every snapshot."""
    check_covered(log, "online", SOURCES)
    return check_folds(log, blobs, "online", make=make, inputs=[*SOURCES, *SIDES])


@pytest.mark.parametrize("seed", range(3))
def test_kill_anywhere_and_restart_equals_the_uninterrupted_fold(opened: Log, blobs: Blobs, seed: int) -> None:
    rng = random.Random(seed)
    for wave in range(4):
        append(opened, shopping(150, seed, first=150 * wave))
        mortal = Mortal(opened, dies_at=rng.randrange(1, 7), after=rng.random() < 0.5)
        settings = LoopSettings(commit_interval_s=rng.choice([0.0, 0.02]), snapshot_interval_s=0.0, idle_wait_s=0.0)
        judge = ShopJudge(blobs, fixed=0.5)
        try:
            loop = start(mortal, blobs, make_shop, settings, judge=judge)
        except Killed:
            continue
        try:
            for _ in range(rng.randrange(1, 30)):
                loop.step()
        except Killed:
            pass
        finally:
            loop.close()  # commits nothing; only frees what the dead process's system would
    last = start(opened, blobs, make_shop, judge=ShopJudge(blobs, fixed=0.5))
    catch_up(opened, last)
    state = freeze(last.fold, last._intake)
    last.close()
    plain = whole(opened, blobs, make_shop)
    assert plain.digest() == digest(state)
    assert plain.fold.events == 600
    judged = records_of(opened, Partition(JUDGEMENTS, 0))
    assert len(judged) == sum(entry.judged for entry in entries_of(opened, "online")) > 0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2, 5])
def test_each_event_is_learned_once_and_put_out_once(opened: Log, blobs: Blobs, dies_at: int, after: bool) -> None:
    append(opened, shopping(400))
    loop = start(Mortal(opened, dies_at, after), blobs)
    with pytest.raises(Killed):
        catch_up(opened, loop)
    loop.close()
    loop = start(opened, blobs)
    catch_up(opened, loop)
    loop.close()
    names = sorted(line.split()[0] for line in whole(opened, blobs).fold.lines)
    assert names == sorted(f"e{number}" for number in range(400))
    assert sorted(value.decode() for value in values(opened, Partition(SCORES, 0))) == names


def test_a_loop_without_events_says_at_once_that_it_is_there(opened: Log, blobs: Blobs) -> None:
    loop = start(opened, blobs)
    loop.step()
    loop.close()
    (entry,) = entries_of(opened, "online")
    assert (entry.number, entry.runs, entry.snapshot) == (0, [], None)


def test_a_loop_that_has_nothing_to_say_says_so_now_and_then(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(20))
    loop = start(opened, blobs)
    catch_up(opened, loop)
    before = len(entries_of(opened, "online"))
    loop.run(lambda: True)
    assert len(entries_of(opened, "online")) == before
    loop._committed_at -= silence_s_max
    loop.run(lambda: True)
    loop.run(lambda: True)  # it has said so just now
    loop.close()
    entries = entries_of(opened, "online")
    assert (len(entries), entries[-1].runs, entries[-1].number) == (before + 1, [], entries[-2].number + 1)
    assert whole(opened, blobs).fold.lines == loop.fold.lines


def test_lag_tools_hear_where_a_restarted_loop_stands_although_nothing_comes(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(40))
    with closing(start(opened, blobs)) as loop:
        catch_up(opened, loop)
    stands = opened.committed("online")
    with closing(opened.writer("online")) as writer:
        writer.commit([], dict.fromkeys(stands, 0))  # as if it had died before it told
        writer.settle()
    with closing(start(opened, blobs)) as loop:
        loop.run(lambda: True)
    assert {place: opened.committed("online")[place] for place in stands} == stands


def test_a_shard_whose_journal_expired_does_not_begin_anew(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    append(opened, shopping(20))
    snapshotted(opened, blobs)
    opened.delete_before(ENTRIES, opened.end(ENTRIES))
    kept, ends = sorted((tmp_path / "blobs").iterdir()), opened.end(ENTRIES)
    with pytest.raises(PositionLost, match="journal/0: position 0 is outside"):
        start(opened, blobs)
    assert sorted((tmp_path / "blobs").iterdir()) == kept
    assert opened.end(ENTRIES) == ends


class Refusing:
    """A log that refuses its n-th reader, and knows which of its readers and writers were opened and closed."""

    def __init__(self, log: Log, refused: int) -> None:
        self._log, self._left = log, refused
        self.opened: list[Any] = []
        self.closed: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def _told(self, part: Any) -> Any:
        close = part.close

        def told() -> None:
            self.closed.append(part)
            close()

        part.close = told
        self.opened.append(part)
        return part

    def writer(self, writer_id: str) -> Any:
        return self._told(self._log.writer(writer_id))

    def reader(self, positions: Mapping[Partition, int]) -> Any:
        self._left -= 1
        if self._left == 0:
            raise Misconfigured("denied")
        return self._told(self._log.reader(positions))


@pytest.mark.parametrize("refused", [1, 2, 3, 4])
def test_a_loop_that_cannot_begin_leaves_nothing_open(opened: Log, blobs: Blobs, refused: int) -> None:
    log = Refusing(opened, refused)
    with pytest.raises(Misconfigured, match="denied"):
        start(log, blobs)
    assert len(log.opened) == refused  # the writer, and the readers before the one that was refused
    assert set(map(id, log.opened)) <= set(map(id, log.closed))


def test_bad_records_land_once_in_dead_letters(opened: Log, blobs: Blobs) -> None:
    good = shopping(100)
    bad = {
        "empty": Outgoing(EVENTS, b"a", b""),
        "key_missing": Outgoing(EVENTS, None, b"{}"),
        "not_json": Outgoing(EVENTS, b"b", b"{"),
        "bad_utf8": Outgoing(EVENTS, b"\xff", good[0].value),
        "schema": Outgoing(EVENTS, b"c", b'{"id": 5}'),
        "key_mismatch": Outgoing(EVENTS, b"someone else", good[1].value),
        "too_deep": Outgoing(EVENTS, b"d", b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
        "unknown_event": Outgoing(EVENTS, b"e", (good[2].value or b"").replace(b"view_item", b"look_item")),
        "unknown_version": Outgoing(EVENTS, b"f", (good[3].value or b"").replace(b'"1.0"', b'"9.0"')),
    }
    append(opened, [*good[:50], *bad.values(), *good[50:]])
    for after in (True, False):
        loop = start(Mortal(opened, 2, after), blobs)
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
        (origin,) = [r for r in records_of(opened, Partition(topic, int(number))) if r.offset == int(offset)]
        assert msgspec.convert(letter["value"], bytes) == origin.value
        assert letter["detail"]
    assert len(whole(opened, blobs).fold.lines) == 100


def test_events_that_were_seen_are_dropped(opened: Log, blobs: Blobs) -> None:
    records = shopping(80)
    append(opened, [*records, *records[:30]])
    told: list[Turn] = []
    loop = start(opened, blobs)
    loop.on_turn = told.append
    catch_up(opened, loop)
    loop.close()
    append(opened, records[40:60])  # a producer that repeats itself after our restart
    loop = start(opened, blobs)
    loop.on_turn = told.append
    catch_up(opened, loop)
    loop.close()
    assert sum(turn.duplicates for turn in told) == 50
    assert sum(turn.learned for turn in told) == 80
    assert len(whole(opened, blobs).fold.lines) == 80


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
    chunks = []
    for place in SOURCES:
        at_ms = [
            msgspec.json.decode(r.value or b"", type=Event).time.timestamp() * 1000 for r in records_of(opened, place)
        ]
        chunks += [end - begin for begin, end in zip(at_ms, at_ms[chunk_records_max - 1 :], strict=False)]
    assert back_ms <= max(chunks)  # one partition after another would go back by 3,000 seconds
    assert back_ms > 0


def test_a_flood_of_bad_records_stops_the_loop_with_an_alarm(opened: Log, blobs: Blobs) -> None:
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
    # A person looked and starts it again, minding the rest less.
    loop = start(opened, blobs, settings=LoopSettings(commit_interval_s=0.0, flood_share=1.0))
    catch_up(opened, loop)
    loop.close()
    assert len(values(opened, LETTERS)) == 400
    assert len(whole(opened, blobs).fold.lines) == 100


def test_a_few_bad_records_among_good_ones_are_no_flood(opened: Log, blobs: Blobs) -> None:
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
    assert len(whole(opened, blobs).fold.lines) == 300


def test_a_fenced_loop_deletes_no_snapshot_of_its_successor(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(50))
    fenced = start(opened, blobs)
    catch_up(opened, fenced)
    fenced._disk.submit(lambda: None).result()  # its snapshot is on the disk, and its next commit would name it
    snapshotted(opened, blobs, first=50)
    append(opened, shopping(10, first=110))
    with pytest.raises(Fenced):
        catch_up(opened, fenced)
    fenced.close()
    start(opened, blobs).close()


def test_the_three_newest_snapshots_stay(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    loop = start(opened, blobs)
    for wave in range(8):
        append(opened, shopping(10, first=10 * wave))
        catch_up(opened, loop)
        loop._disk.submit(lambda: None).result()  # the snapshot is on the disk before the next commit
    loop.close()
    entry = journal.newest(opened, "online")
    assert entry is not None
    assert entry.snapshot is not None
    kept = {path.name for path in (tmp_path / "blobs").iterdir()}
    named = {entry.snapshot.blob, *entry.snapshot.former}
    assert len(named) == journal.snapshots_kept
    assert named <= kept
    assert len(kept - named) <= 1  # one may be durable and not yet named
    numbers = [e.snapshot.number for e in entries_of(opened, "online") if e.snapshot]
    assert all(a <= b for a, b in pairwise(numbers))
    assert numbers[-1] > numbers[0]


def snapshotted(log: Log, blobs: Blobs, first: int = 0) -> str:
    """Learn 60 events, with a snapshot that is named; return its blob."""
    loop = start(log, blobs)
    for wave in range(6):
        append(log, shopping(10, first=first + 10 * wave))
        catch_up(log, loop)
        loop._disk.submit(lambda: None).result()
    loop.close()
    entry = journal.newest(log, "online")
    assert entry is not None
    assert entry.snapshot is not None
    return entry.snapshot.blob


def test_a_restart_folds_only_what_came_after_the_snapshot(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    entry = journal.newest(opened, "online")
    assert entry is not None
    assert entry.snapshot is not None
    opened.delete_before(ENTRIES, entry.snapshot.journal)
    for place in SOURCES:
        opened.delete_before(place, entry.snapshot.positions[journal.key_of(place)])
    loop = start(opened, blobs)  # what lies before the snapshot is gone, and is not missed
    loop.close()
    assert len(loop.fold.lines) == 60


def test_a_snapshot_of_other_versions_is_folded_anew(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)

    def make(state: State | None) -> Diary:
        assert state is None, "a snapshot of other versions was decoded"
        return Diary(versions="2")

    loop = start(opened, blobs, make)
    loop.close()
    assert len(loop.fold.lines) == 60


def test_a_missing_blob_is_a_broken_world(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "blobs" / snapshotted(opened, blobs)).unlink()
    with pytest.raises(BlobMissing):
        start(opened, blobs)


def test_a_damaged_blob_is_never_decoded(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "blobs" / snapshotted(opened, blobs)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BlobCorrupt):
        start(opened, blobs)


def lose(folder: Path) -> None:
    """Lose all that a folder holds."""
    for path in folder.iterdir():
        path.unlink()


def test_a_lost_snapshot_is_made_anew_from_the_journal(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    def judge() -> ShopJudge:
        return ShopJudge(blobs, fixed=0.5)

    append(opened, shopping(300))
    loop = start(opened, blobs, make_shop, judge=judge())
    catch_up(opened, loop)
    loop.close()
    state, judged = freeze(loop.fold, loop._intake), values(opened, Partition(JUDGEMENTS, 0))
    told: list[tuple[int, int]] = []
    for lost in range(2):
        lose(tmp_path / "blobs")
        with pytest.raises(BlobMissing):
            start(opened, blobs, make_shop)
        made = refold(
            opened, blobs, "online", make=make_shop, inputs=[*SOURCES, *SIDES], report=lambda *one: told.append(one)
        )
        assert made.blob == f"online-{digest(state)}"
        assert told[-1] == (made.number, made.number) == (loop.number + lost,) * 2
    assert values(opened, Partition(JUDGEMENTS, 0)) == judged, "judgements are never made anew"
    append(opened, shopping(100, first=300))
    loop = start(opened, blobs, make_shop, judge=judge())
    catch_up(opened, loop)
    loop.close()
    plain = whole(opened, blobs, make_shop)
    assert plain.fold.events == 400
    assert plain.digest() == digest(freeze(loop.fold, loop._intake))


def test_a_damaged_snapshot_that_would_have_the_same_name_is_mended(opened: Log, blobs: Blobs, tmp_path: Path) -> None:
    snapshotted(opened, blobs)
    made = refold(opened, blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES])
    (tmp_path / "blobs" / made.blob).write_bytes(b"damaged")
    assert refold(opened, blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES]).blob == made.blob
    loop = start(opened, blobs)
    loop.close()
    assert len(loop.fold.lines) == 60


@pytest.mark.parametrize("after", [False, True])
def test_a_refold_that_is_killed_can_be_done_again(opened: Log, blobs: Blobs, tmp_path: Path, after: bool) -> None:
    snapshotted(opened, blobs)
    lose(tmp_path / "blobs")
    entries = len(entries_of(opened, "online"))
    with pytest.raises(Killed):
        refold(Mortal(opened, 1, after), blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES])
    assert len(entries_of(opened, "online")) == entries + after
    refold(opened, blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES])
    loop = start(opened, blobs)
    append(opened, shopping(20, first=60))
    catch_up(opened, loop)
    loop.close()
    names = sorted(line.split()[0] for line in whole(opened, blobs).fold.lines)
    assert names == sorted(value.decode() for value in values(opened, Partition(SCORES, 0)))
    assert len(names) == 80


def test_a_refold_takes_in_what_is_committed_meanwhile_and_fences(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(100))
    loop = start(opened, blobs)
    catch_up(opened, loop)
    entries = loop.number

    def commit_more(folded: int, committed: int) -> None:
        if loop.number == entries == folded:
            append(opened, shopping(50, first=100))
            catch_up(opened, loop)

    made = refold(opened, blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES], report=commit_more)
    assert made.number == loop.number > entries
    append(opened, shopping(10, first=150))
    with pytest.raises(Fenced):
        catch_up(opened, loop)
    loop.close()
    loop = start(opened, blobs)
    catch_up(opened, loop)
    loop.close()
    assert len(whole(opened, blobs).fold.lines) == 160


class Overtaken(Mortal):
    """A log where another process of the shard is always started right after."""

    def writer(self, writer_id: str) -> Any:
        writer = self._log.writer(writer_id)
        self._log.writer(writer_id).close()
        return writer


def test_a_refold_that_is_fenced_commits_nothing(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    entry = journal.newest(opened, "online")
    with pytest.raises(Fenced):
        refold(Overtaken(opened, 0, after=False), blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES])
    assert journal.newest(opened, "online") == entry


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
def test_what_is_gone_from_the_log_cannot_be_refolded(
    opened: Log, blobs: Blobs, place: Partition, found: str, all_gone: bool
) -> None:
    append(opened, shopping(300))
    loop = start(opened, blobs, make_shop, judge=ShopJudge(blobs, fixed=0.5))
    catch_up(opened, loop)
    loop.close()
    opened.delete_before(place, opened.end(place) if all_gone else records_of(opened, place)[1].offset)
    entries = opened.end(ENTRIES)
    if all_gone and place == ENTRIES:
        found = "wanted a journal to fold, found no entry in journal/0"
    with pytest.raises(StateUnreadable, match=f"online.*{found}"):
        refold(opened, blobs, "online", make=make_shop, inputs=[*SOURCES, *SIDES])
    assert opened.end(ENTRIES) == entries


def test_a_shard_that_never_ran_has_nothing_to_refold(opened: Log, blobs: Blobs) -> None:
    with pytest.raises(StateUnreadable, match="online: wanted a journal to fold, found no entry in journal/0"):
        refold(opened, blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES])
    assert journal.newest(opened, "online") is None


def test_a_gap_in_the_journal_is_not_folded_over(opened: Log, blobs: Blobs) -> None:
    snapshotted(opened, blobs)
    opened.delete_before(ENTRIES, records_of(opened, ENTRIES)[2].offset)
    follower = Follower(opened, blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES], from_start=True)
    with pytest.raises(StateUnreadable, match="wanted entry 0, found 2"):
        follower.catch_up()
    follower.close()


def test_a_model_is_taken_up_at_a_journalled_position(opened: Log, blobs: Blobs) -> None:
    append(opened, shopping(100))
    loop = start(opened, blobs, make_shop)
    catch_up(opened, loop)
    promoted = Announcement(
        id="x/1",
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
    assert loop.fold.champion == promoted
    loop.close()
    again = start(opened, blobs, make_shop)
    again.close()
    assert again.fold.champion == promoted
    runs = [run for entry in entries_of(opened, "online") for run in entry.runs]
    assert sum(run.end - run.start for run in runs if run.topic == MODELS) == 2
    plain = whole(opened, blobs, make_shop)
    assert plain.digest() == digest(freeze(again.fold, again._intake))


def test_a_follower_sees_what_the_loop_learns_and_writes_nothing(opened: Log, blobs: Blobs) -> None:
    loop = start(opened, blobs)
    follower = Follower(opened, blobs, "online", make=Diary.make, inputs=[*SOURCES, *SIDES])
    for wave in range(3):
        append(opened, shopping(40, first=40 * wave))
        catch_up(opened, loop)
        entries = len(records_of(opened, ENTRIES))
        follower.catch_up()
        assert follower.fold.lines == loop.fold.lines
        assert len(records_of(opened, ENTRIES)) == entries
    assert follower.digest() == digest(freeze(loop.fold, loop._intake))
    loop.close()
    follower.close()


class Witness:
    """A judge that says of each event that it was there."""

    def __init__(self) -> None:
        self._seen: list[bytes] = []

    def observe(self, fold: Any, event: Event, partition: int, offset: int) -> None:
        self._seen.append(event.id.encode())

    def judge(self, fold: Any, lag: int) -> Sequence[bytes]:
        seen, self._seen = self._seen, []
        return seen


def test_judgements_that_no_entry_counted_are_nobodys(opened: Log, blobs: Blobs) -> None:
    """Kafka may keep the judgements of a commit whose entry came to nothing (`docs/decisions/0012`)."""
    place = Partition(JUDGEMENTS, 0)
    for wave in range(3):
        append(opened, shopping(40, first=40 * wave))
        loop = start(opened, blobs, judge=Witness())
        catch_up(opened, loop)
        loop.close()
        if wave != 1:  # at first there is a snapshot behind it, in the end only the journal's end
            orphan = opened.writer("online")
            orphan.commit([Outgoing(JUDGEMENTS, b"online", b"orphan", place.number)], {})
            orphan.settle()
            orphan.close()
    judged = [value.decode() for value in values(opened, place)]
    assert judged.count("orphan") == 2
    follower = whole(opened, blobs)
    assert [line for line in follower.fold.lines if line.startswith("judged")] == [
        f"judged {name}" for name in judged if name != "orphan"
    ]
    assert len(judged) == 122


def test_turns_tell_what_was_done(opened: Log, blobs: Blobs) -> None:
    append(opened, [*shopping(200), Outgoing(EVENTS, b"a", b"junk")])
    told: list[Turn] = []
    loop = start(opened, blobs)
    loop.on_turn = told.append
    catch_up(opened, loop)
    loop.close()
    assert sum(turn.records for turn in told) == 201
    assert sum(turn.learned for turn in told) == 200
    assert [dict(turn.rejected) for turn in told if turn.rejected] == [{"not_json": 1}]
    assert sum(told[-1].lag.values()) == 0
    assert told[-1].bounds["lines"][0] == 200
    assert all(age >= 0 for turn in told for age in turn.freshness_s)
