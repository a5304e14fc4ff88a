"""Verification: what a log holds is whole, and each kind of damage is told with its place."""

import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shutil import rmtree

import pytest
from typer.testing import CliRunner

from consumers.shard import Judges
from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.shard import journal, verify
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.verify import Verified
from headrace.topics import EVENTS, JOURNAL, JUDGEMENTS
from operators.cli import app
from operators.facts import verified_text
from tests.shards import ONLINE, next_item_judge, online

SHARD = ONLINE.shard
COUNT = 300


def publish(log: Log, count: int, first: int = 0) -> None:
    chance = random.Random(first)
    with closing(log.appender()) as appender:
        for number in range(first, first + count):
            event = Event(
                id=f"e{number}", source="shop/web", type="view_item", specversion="1.0",
                shopper=f"s{chance.randrange(20)}", time=at(1_750_000_000_000 + number * 1_000),
                data=Data(items=[Item(f"i{chance.randrange(30)}")]),
            )  # fmt: skip
            appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))


class Shop:
    """A log in a file that the shard `online` has learned."""

    def __init__(self, folder: Path) -> None:
        self.path, self.blobs = folder / "log.db", Blobs(folder / "blobs")
        self.log = open_log(f"sqlite:{self.path}")
        self.log.create()

    def learn(self, count: int = COUNT, first: int = 0) -> None:
        quick = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=0.0, idle_wait_s=0.0)
        judges = Judges({"next_item": next_item_judge(self.blobs, fixed=1.0)})
        with closing(
            Loop(self.log, self.blobs, SHARD, make=online(items_max=64, shoppers_max=50), settings=quick, judge=judges)
        ) as loop:
            for start in range(first, first + count, 50):
                publish(self.log, 50, start)
                while loop.fold.events < start + 50:
                    loop.step()
                loop._snapshots._executor.submit(lambda: None).result()

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            assert db.execute(statement).rowcount > 0

    def verified(self) -> Verified:
        return verify.verify(self.log, self.blobs, SHARD)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    made.learn()
    yield made
    made.log.close()


def of(topic: str) -> str:
    return f"partition = (SELECT id FROM partitions WHERE topic = '{topic}' AND number = 0)"


def test_a_log_is_whole_also_beside_strays_and_after_retention(shop: Shop) -> None:
    entries = shop.log.newest(SHARD.journal, 10_000)
    found = shop.verified()
    assert found.whole
    assert (found.first, found.entries, found.records, found.unchecked) == (0, len(entries), COUNT, 0)
    assert found.judgements == len(shop.log.newest(SHARD.judgements, 10_000)) > 0
    assert len(found.snapshots) == 3
    assert all(found.snapshots.values())

    with closing(shop.log.appender()) as appender:
        for topic, value in ((JOURNAL, entries[2].value), (JOURNAL, b"junk"), (JUDGEMENTS, b"junk")):
            appender.append(Outgoing(topic, b"x", value, 0))
    shop.learn(50, COUNT)
    found = shop.verified()
    assert found.whole
    assert found.strays == 2, "the loop's start notes where its judgements begin"

    newest = journal.newest(shop.log, SHARD)
    assert newest is not None
    assert newest.snapshot is not None
    for place in shop.log.partitions(EVENTS):
        shop.log.delete_before(place, newest.snapshot.positions[journal.key_of(place)] // 2)
    shop.log.delete_before(SHARD.journal, newest.snapshot.journal // 4)
    found = shop.verified()
    assert found.whole
    assert found.first > 0
    assert 0 < found.unchecked < found.entries

    judged = shop.log.newest(SHARD.judgements, 10_000)
    shop.log.delete_before(SHARD.judgements, judged[-4].offset)
    after = shop.verified()
    assert after.whole
    assert found.unchecked < after.unchecked < after.entries


def newest_blob(shop: Shop) -> Path:
    entry = journal.newest(shop.log, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    return shop.blobs.folder / entry.snapshot.blob


DAMAGES: dict[str, tuple[Callable[[Shop], object], str]] = {
    "an event was changed": (
        lambda shop: shop.change(f"UPDATE records SET value = value || ' ' WHERE position = 20 AND {of(EVENTS)}"),
        r"the records of journal entry \d+ are not those that were learned \(events/0 from",
    ),
    "an event is gone": (
        lambda shop: shop.change(f"DELETE FROM records WHERE position = 20 AND {of(EVENTS)}"),
        r"the records of journal entry \d+ are not those|entry \d+: events/0: position 20 is outside",
    ),
    "a judgement was changed": (
        lambda shop: shop.change(f"UPDATE records SET value = value || ' ' WHERE position = 1 AND {of(JUDGEMENTS)}"),
        r"the records of journal entry \d+ are not those",
    ),
    "an entry is gone": (
        lambda shop: shop.change(f"DELETE FROM records WHERE position = 2 AND {of(JOURNAL)}"),
        "journal: wanted entry 2, found 3",
    ),
    "a snapshot was changed": (
        lambda shop: newest_blob(shop).write_bytes(b"-"),
        "blob online-.* does not have the hash in its name",
    ),
    "all snapshots are gone": (
        lambda shop: rmtree(shop.blobs.folder),
        "blob online-.* is not in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_its_place(shop: Shop, damage: str) -> None:
    harm, wanted = DAMAGES[damage]
    harm(shop)
    found = shop.verified()
    assert not found.whole
    assert found.problems_total == len(found.problems) <= 3, "what follows is whole"
    assert any(re.search(wanted, problem) for problem in found.problems), found.problems
    assert found.entries >= len(shop.log.newest(SHARD.journal, 10_000)) - 1, "all entries are read"
    assert "PROBLEMS" in verified_text(found)


def test_the_command_ends_with_1_where_something_is_wrong(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.path.parent)
    arguments = ["verify", "--log", f"sqlite:{shop.path}", "--blobs", str(shop.blobs.folder)]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.output.count("online: whole: ")) == (0, 1), done.output
    assert "finetune: whole: 0 journal entries" in done.output
    shop.change(f"UPDATE records SET key = 'x' WHERE position = 20 AND {of(EVENTS)}")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "online: 1 PROBLEMS: " in done.output
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 1
    assert '"problems_total":1' in done.output.replace(" ", "")
