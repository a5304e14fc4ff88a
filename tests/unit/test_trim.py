"""Trimming a log in a file: what a restart, a follower or the fall back to a former snapshot needs stays."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.errors import StateUnreadable
from headrace.log.protocol import Outgoing, Partition
from headrace.log.sqlite import SqliteLog
from headrace.shard import journal
from headrace.shard.follower import Follower
from headrace.shard.journal import Pointer, key_of
from headrace.shard.refold import refold
from headrace.shard.trim import Trimmer, kept_snapshots, plan, trim
from headrace.topics import ALARMS, DAY_MS, DEAD_LETTERS, EVENTS, ITEMS, JOURNAL, JUDGEMENTS, MODELS
from operators.cli import app
from operators.facts import verified_text
from tests.filed_shop import COUNT, MAKE, SHARD, FiledShop, publish, step
from tests.shards import FINETUNE, finetune

MINUTE_DAYS = 1 / 1_440


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of 300 events, 50 every ten days, the last ones 40 days ago."""
    shop = FiledShop(tmp_path_factory.mktemp("learned"), later_ms=-100 * DAY_MS)
    shop.learn(every_ms=10 * DAY_MS)
    shop.log.close()
    return shop.path.parent


@pytest.fixture
def shop(learned: Path, tmp_path: Path) -> Iterator[FiledShop]:
    made = FiledShop(copytree(learned, tmp_path / "shop"), later_ms=-40 * DAY_MS)
    yield made
    made.log.close()


def held(shop: FiledShop) -> dict[str, int]:
    """Return how many records each topic holds."""
    return {
        topic: sum(shop.log.end(place) - shop.log.first(place) for place in shop.log.partitions(topic))
        for topic in (EVENTS, JOURNAL, JUDGEMENTS, MODELS, ITEMS, ALARMS, DEAD_LETTERS)
    }


def pointers(shop: FiledShop) -> list[Pointer]:
    entry = journal.newest(shop.log, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    return kept_snapshots(shop.log, SHARD, entry.snapshot)


def digest(shop: FiledShop, **how: Any) -> str:
    with closing(Follower(shop.log, shop.blobs, SHARD, make=MAKE, **how)) as follower:
        follower.catch_up()
        return follower.digest()


def test_what_is_old_and_covered_is_deleted_and_the_shard_goes_on(shop: FiledShop) -> None:
    with closing(shop.log.appender()) as appender:
        for topic in (MODELS, ITEMS, ALARMS, DEAD_LETTERS):
            appender.append(Outgoing(topic, b"x", b"{}", 0))
    before, wanted = held(shop), digest(shop)
    assert digest(shop, from_start=True) == wanted
    cuts = plan(shop.log, [SHARD], 30, shop.now_ms())
    assert trim(shop.log, cuts) == sum(cut.records for cut in cuts) > 0
    after = held(shop)
    assert after[EVENTS] == COUNT // 2, "what was appended in the last 30 days before the newest entry stays"
    assert after[JOURNAL] < before[JOURNAL]
    assert after[JUDGEMENTS] < before[JUDGEMENTS]
    assert [after[topic] for topic in (MODELS, ITEMS, ALARMS, DEAD_LETTERS)] == [1, 1, 1, 1]

    assert digest(shop) == wanted
    found = shop.verified()
    assert found.whole
    assert f"online: whole: {after[JOURNAL]:,} journal entries from {found.first:,} on" in verified_text(found)
    assert found.first > 0
    with pytest.raises(StateUnreadable, match="online cannot be folded from its start"):
        refold(shop.log, shop.blobs, SHARD, make=MAKE)
    shop.learn(50, COUNT)
    assert shop.verified().whole

    cuts = plan(shop.log, [SHARD], 30, shop.now_ms())
    shop.later_ms += 100 * DAY_MS
    assert plan(shop.log, [SHARD], 30, shop.now_ms()) == cuts, "in a log that nobody writes to, nothing more expires"
    shop.learn(50, COUNT + 50)
    trim(shop.log, plan(shop.log, [SHARD], 30, shop.now_ms()))
    after = held(shop)
    assert [after[topic] for topic in (MODELS, ITEMS, ALARMS, DEAD_LETTERS)] == [1, 1, 0, 0]


def test_every_kept_snapshot_can_be_restored_and_folded_whatever_the_age(shop: FiledShop) -> None:
    wanted, kept = digest(shop), pointers(shop)
    assert len(kept) == 3
    trim(shop.log, plan(shop.log, [SHARD], MINUTE_DAYS, shop.now_ms()))
    assert shop.log.first(SHARD.journal) == kept[-1].journal
    assert shop.log.first(SHARD.judgements) == kept[-1].judgements
    assert {key_of(place): shop.log.first(place) for place in shop.log.partitions(EVENTS)} == {
        key: position for key, position in kept[-1].positions.items() if key.startswith(EVENTS)
    }
    for pointer in kept:
        assert digest(shop) == wanted
        (shop.blobs.folder / pointer.blob).unlink()  # the next one falls back to the snapshot before


def test_each_shard_holds_back_what_it_needs(shop: FiledShop) -> None:
    shards = [SHARD, FINETUNE.shard]
    assert plan(shop.log, shards, 30, shop.now_ms()) == plan(shop.log, [SHARD], 30, shop.now_ms())
    with closing(shop.loop(FINETUNE.shard, finetune())) as loop:
        while loop.number < 2:
            loop.step()
        loop._snapshots._executor.submit(lambda: None).result()
        needed = dict(loop._positions)
    cuts = {cut.partition: cut for cut in plan(shop.log, shards, 30, shop.now_ms())}
    for place in shop.log.partitions(EVENTS):
        cut = cuts[key_of(place)]
        assert cut.until <= needed[place]
        assert cut.held_by == "finetune"
    trim(shop.log, list(cuts.values()))
    with closing(shop.loop(FINETUNE.shard, finetune())) as loop:
        step(loop, COUNT)
    assert shop.verified(FINETUNE.shard).whole
    shop.later_ms += 40 * DAY_MS
    shop.learn(50, COUNT)
    assert "finetune" in {cut.held_by for cut in plan(shop.log, shards, 30, shop.now_ms())}
    gone = {cut.partition: cut for cut in plan(shop.log, [SHARD], 30, shop.now_ms())}
    assert {cut.held_by for cut in gone.values()} <= {"", "online"}, "30 days after a shard was removed"
    journal_of_it = gone[key_of(FINETUNE.shard.journal)]
    assert journal_of_it.until == journal_of_it.end


def test_the_size_of_a_log_that_is_written_and_trimmed_is_bounded(tmp_path: Path) -> None:
    shop, deleted, sizes = FiledShop(tmp_path), list[int](), list[int]()
    now = iter(range(0, 10_000_000, 1_000))  # every step is due
    trimmer = Trimmer(
        shop.log, shop.log, [SHARD], 2.0, on_deleted=deleted.append, clock=shop.now_ms, seconds=lambda: float(next(now))
    )
    with closing(shop.loop()) as loop:
        for start in range(0, 1_200, 50):  # 24 days
            publish(shop.log, 50, start)
            while loop.fold.events < start + 50:
                loop.step()
                trimmer.step()
            step(loop, start + 50)
            shop.later_ms += DAY_MS
            with shop.log._connection.use() as db:
                sizes.append(db.execute("PRAGMA page_count").fetchone()[0])
    assert sum(deleted) > 1_000
    assert held(shop)[EVENTS] <= 6 * 50
    assert shop.verified().whole
    assert max(sizes) < 2 * sizes[7]
    shop.log.close()


def test_a_file_of_a_former_release_gives_space_back_once_it_was_vacuumed(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE writers (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL)")  # as 0.3.0 made it: no vacuum
    log = SqliteLog(str(path))
    log.create()

    def fill() -> None:
        with closing(log.appender()) as appender:
            for _ in range(200):
                appender.append(Outgoing(EVENTS, b"ann", bytes(10_000), 0))
        log.delete_before(Partition(EVENTS, 0), log.end(Partition(EVENTS, 0)))

    fill()
    assert not log.reclaim(100)
    assert log.size() > 2_000_000
    log.vacuum()
    assert log.size() < 200_000
    fill()
    while log.reclaim(100):
        pass
    log.vacuum()
    assert log.size() < 200_000
    log.close()


def test_the_command(shop: FiledShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.path.parent)
    command = ["trim", "--log", f"sqlite:{shop.path}"]
    before = held(shop)

    def run(*options: str) -> str:
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "would delete" in run("--dry-run")
    assert held(shop) == before
    assert "trim.keep_days is 0: all are kept" in run("--keep-days", "0")
    assert held(shop) == before
    Path("headrace.toml").write_text("[trim]\nkeep_days = 15\n")
    assert json.loads(run("--json", "--dry-run"))["keep_days"] == 15
    found = json.loads(run("--json", "--vacuum", "--keep-days", "35"))
    assert found["deleted"] == sum(cut["until"] - cut["first"] for cut in found["cuts"]) > 0
    assert found["bytes_after"] < found["bytes_before"]
    assert held(shop)[EVENTS] < before[EVENTS]
    assert shop.verified().whole
