"""Verification: what a log holds is whole, and each kind of damage is told with its place."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from typer.testing import CliRunner

from headrace.log.protocol import Outgoing
from headrace.shard import entries, journal, verify
from headrace.topics import EVENTS, JOURNAL, JUDGEMENTS
from operators.cli import app
from operators.facts import verified_text
from tests.filed_shop import COUNT, SHARD, FiledShop


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FiledShop(tmp_path_factory.mktemp("learned"))
    made.learn()
    made.log.close()
    return made.path.parent


@pytest.fixture
def shop(learned: Path, tmp_path: Path) -> Iterator[FiledShop]:
    made = FiledShop(copytree(learned, tmp_path / "shop"))
    yield made
    made.log.close()


def of(topic: str) -> str:
    return f"partition = (SELECT id FROM partitions WHERE topic = '{topic}' AND number = 0)"


def test_a_log_is_whole_also_beside_strays_and_after_retention(shop: FiledShop) -> None:
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
    newest_found = verify.verify_newest(shop.log, SHARD, 10_000)
    assert newest_found.whole
    assert 0 < newest_found.entries < after.entries


def test_a_copy_that_comes_first_where_the_journal_has_expired_is_no_gap(shop: FiledShop) -> None:
    copied = shop.log.newest(SHARD.journal, 10_000)[1]
    place = shop.log.end(SHARD.journal)
    with closing(shop.log.appender()) as appender:
        appender.append(Outgoing(JOURNAL, b"x", copied.value, SHARD.journal.number))
    shop.learn(50, COUNT)
    shop.log.delete_before(SHARD.journal, place)
    found = shop.verified()
    assert found.whole
    assert found.first == journal.decode(shop.log.newest(SHARD.journal, 10_000)[1]).number
    assert found.strays == 1


def test_snapshots_that_are_replaced_meanwhile_are_not_missed(shop: FiledShop) -> None:
    def learn_more(_: int, __: int) -> None:
        shop.learn(200, COUNT)

    before = newest_blob(shop)
    found = verify.verify(shop.log, shop.blobs, SHARD, learn_more)
    assert not before.exists()
    assert found.problems == []
    assert len(found.snapshots) == 3


def test_what_expires_while_it_is_read_is_not_missed(shop: FiledShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "report_entries", 2)
    monkeypatch.setattr(entries, "read_ahead_records_max", 2)
    total = shop.verified().entries
    unchecked = 0
    for topic, share in ((JUDGEMENTS, 0.25), (EVENTS, 0.5), (JOURNAL, 0.75)):

        def expire(_: int, __: int, topic: str = topic, share: float = share) -> None:
            for place in shop.log.partitions(topic):
                shop.log.delete_before(place, int(shop.log.end(place) * share))

        found = verify.verify(shop.log, shop.blobs, SHARD, expire)
        assert found.problems == []
        assert found.first + found.entries == total
        if topic == JOURNAL:
            assert found.first > 0
        else:
            assert unchecked < found.unchecked < total
            unchecked = found.unchecked


def newest_blob(shop: FiledShop) -> Path:
    entry = journal.newest(shop.log, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    return shop.blobs.folder / entry.snapshot.blob


DAMAGES: dict[str, tuple[Callable[[FiledShop], object], str]] = {
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
def test_damage_is_told_with_its_place(shop: FiledShop, damage: str) -> None:
    harm, wanted = DAMAGES[damage]
    harm(shop)
    found = shop.verified()
    assert not found.whole
    assert found.problems_total == len(found.problems) <= 3, "what follows is whole"
    assert any(re.search(wanted, problem) for problem in found.problems), found.problems
    assert found.entries >= len(shop.log.newest(SHARD.journal, 10_000)) - 1, "all entries are read"
    assert "PROBLEMS" in verified_text(found)


def test_the_command_ends_with_1_where_something_is_wrong(shop: FiledShop, monkeypatch: pytest.MonkeyPatch) -> None:
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
