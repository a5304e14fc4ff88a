"""Going back to a former state: planned first, done at once, undone, killed at any moment, by two at once."""

import os
import random
import shutil
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from headrace.errors import Fenced, Misconfigured
from headrace.shard import journal
from headrace.shard.checks import check_folds, entries_of
from headrace.shard.decision import Author
from headrace.shard.follower import Follower
from headrace.shard.kept import HOUR_MS, kept_snapshots
from headrace.topics import DAY_MS
from operators.cli import app
from operators.rollback import Plan, plan_state, plan_undo, roll_back_state
from tests.filed_shop import MAKE, SHARD, FiledShop, publish, step
from tests.shards import FINETUNE, finetune

ANN = Author("ann", "a bad campaign")
pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a shop that learned 50 events in each of four hours up to now."""
    found = FiledShop(tmp_path_factory.mktemp("learned"), later_ms=-4 * HOUR_MS)
    for first in range(0, 200, 50):
        go_on(found, first)
        found.later_ms += HOUR_MS
    found.log.close()
    return found.path.parent


@pytest.fixture
def shop(learned: Path, tmp_path: Path) -> FiledShop:
    """Return a copy of that shop."""
    shutil.copytree(learned, tmp_path / "shop")
    return FiledShop(tmp_path / "shop")


def go_on(shop: FiledShop, first: int) -> None:
    """Learn 50 more events, in two entries at least."""
    with closing(shop.loop()) as loop:
        for begin in (first, first + 25):
            publish(shop.log, 25, begin)
            step(loop, loop.fold.events + 25)


def digest(shop: FiledShop, *, from_start: bool = False) -> str:
    with closing(Follower(shop.log, shop.blobs, SHARD, make=MAKE, from_start=from_start)) as follower:
        follower.catch_up()
        return follower.digest()


def at(shop: FiledShop, hours: float) -> str:
    """Return a time so many hours before now, as an operator gives it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(shop.now_ms() / 1000 - 3600 * hours))


def plan(shop: FiledShop, wanted: str, *, exact: bool = False) -> Plan:
    return plan_state(shop.log, shop.blobs, SHARD, MAKE, wanted, exact=exact, clock=shop.now_ms)


def done(shop: FiledShop, wanted: Plan) -> None:
    roll_back_state(shop.log, shop.blobs, wanted, ANN, clock=shop.now_ms)


def test_a_shop_goes_back_and_forth(shop: FiledShop) -> None:
    before = digest(shop)
    wanted = plan(shop, at(shop, 1.5))
    done(shop, wanted)
    assert digest(shop) == wanted.pointer.blob.rpartition("-")[2] != before
    assert 50 <= wanted.found.left_out < 200
    shop.later_ms += HOUR_MS
    go_on(shop, 200)
    assert plan(shop, at(shop, 0.5)).pointer.blob == wanted.pointer.blob, "then it was the state again"
    done(shop, plan_undo(shop.log, shop.blobs, SHARD, MAKE))
    assert digest(shop) == digest(shop, from_start=True) == before
    with pytest.raises(Misconfigured, match=r"the newest is undone; to return to .*: --state online-"):
        plan_undo(shop.log, shop.blobs, SHARD, MAKE)
    go_on(shop, 250)
    assert shop.verified().whole
    check_folds(shop.log, shop.blobs, SHARD, make=MAKE)


def test_a_time_between_snapshots_is_exact_if_wanted(shop: FiledShop) -> None:
    """The state is that of the last entry at that time, which is what the journal up to there folds to."""
    time_ms = shop.now_ms() - HOUR_MS // 2
    until = [one.number for one in entries_of(shop.log, SHARD)][-1] + 1
    with closing(Follower(shop.log, shop.blobs, SHARD, make=MAKE, from_start=True)) as follower:
        follower.step(30.0, until)
        state = follower.digest()
    shop.later_ms += HOUR_MS
    go_on(shop, 200)
    wanted = plan(shop, at(shop, (shop.now_ms() - time_ms) / HOUR_MS), exact=True)
    assert wanted.until == until
    assert wanted.found.fold_entries == until - wanted.pointer.number > 0
    assert wanted.found.left_out == 50
    done(shop, wanted)
    assert digest(shop) == state


@pytest.mark.full
def test_snapshots_thin_out(shop: FiledShop) -> None:
    """The newest three, one an hour for a day, one a day for thirty days."""
    for first in range(200, 450, 50):
        shop.later_ms += DAY_MS
        go_on(shop, first)
    times = [one.pointer.time_ms for one in kept_snapshots(shop.blobs, SHARD.name)]
    days = [time_ms // DAY_MS for time_ms in times]
    assert len(set(days)) >= 6
    assert len(times) <= 3 + len(set(days))
    assert len(shop.blobs.names(SHARD.name)) <= len(times) + 3
    oldest = plan(shop, at(shop, 24 * 5 - 1))
    done(shop, oldest)
    assert digest(shop) == oldest.pointer.blob.rpartition("-")[2]


def test_what_cannot_be_put_back_is_refused(shop: FiledShop) -> None:
    end = shop.log.end(SHARD.journal)
    for wanted, why in (
        (at(shop, 30), "found none; the oldest is of"),
        (at(shop, -2), "a time that has passed"),
        ("yesterday", "a time such as"),
        ("online-", "wanted one kept snapshot of online, found [2-9]"),
        ("online-0000", "wanted one kept snapshot of online, found 0"),
    ):
        with pytest.raises(Misconfigured, match=why):
            plan(shop, wanted)
    with pytest.raises(Misconfigured, match="wanted a rollback to undo, found none"):
        plan_undo(shop.log, shop.blobs, SHARD, MAKE)
    with pytest.raises(Misconfigured, match="the one that announces models"):
        plan_undo(shop.log, shop.blobs, FINETUNE.shard, finetune())
    with pytest.raises(Misconfigured, match="why: wanted 1 to 500 characters"):
        roll_back_state(shop.log, shop.blobs, plan(shop, at(shop, 1)), Author("ann", ""))
    assert shop.log.end(SHARD.journal) == end


def test_two_operators_at_once_and_a_running_shard(shop: FiledShop) -> None:
    wanted = plan(shop, at(shop, 1.5))
    stop = threading.Event()

    def learn() -> None:  # a supervised process: it starts again after it was fenced
        while not stop.is_set():
            try:
                with closing(shop.loop()) as loop:
                    while not stop.is_set():
                        loop.step()
            except Fenced:
                time.sleep(0.2)

    threads = [threading.Thread(target=learn), *(threading.Thread(target=done, args=(shop, wanted)) for _ in range(2))]
    for thread in threads:
        thread.start()
    publish(shop.log, 100, 200)
    for thread in threads[1:]:
        thread.join()
    stop.set()
    threads[0].join()
    assert sum(entry.decision is not None for entry in entries_of(shop.log, SHARD)) == 2
    go_on(shop, 300)
    assert digest(shop) == digest(shop, from_start=True)
    assert shop.verified().whole


@pytest.mark.parametrize("verb", ["state", pytest.param("undo", marks=pytest.mark.full)])
def test_killed_at_random_moments_it_has_changed_all_or_nothing(shop: FiledShop, verb: str) -> None:
    wanted = plan(shop, at(shop, 1.5))
    if verb == "undo":
        done(shop, wanted)
        wanted = plan_undo(shop.log, shop.blobs, SHARD, MAKE)
    shop.log.close()
    before, chance = FiledShop(shop.path.parent).log.end(SHARD.journal), random.Random(verb)
    duration_s = 0.3
    for _ in range(5):
        began = time.monotonic()
        child = os.fork()
        if not child:
            done(FiledShop(shop.path.parent), wanted)
            os._exit(0)
        time.sleep(chance.uniform(0.0, duration_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        opened = FiledShop(shop.path.parent)
        state = digest(opened)
        after = opened.log.end(SHARD.journal)
        assert after == before or state == wanted.pointer.blob.rpartition("-")[2]
        before = after
        opened.log.close()
        duration_s = min(1.0, time.monotonic() - began)
    opened = FiledShop(shop.path.parent)
    done(opened, wanted)
    assert digest(opened) == digest(opened, from_start=True) == wanted.pointer.blob.rpartition("-")[2]
    assert opened.verified().whole
    go_on(opened, 200)


def test_the_commands_go_back_undo_and_tell(shop: FiledShop) -> None:
    def run(*arguments: str) -> str:
        place = ("--log", f"sqlite:{shop.path}", "--blobs", str(shop.blobs.folder))
        result = CliRunner().invoke(app, [*arguments, *place])
        if isinstance(result.exception, Misconfigured):
            return str(result.exception)
        assert result.exit_code == 0, result.output
        return result.stdout

    before, end = digest(shop), shop.log.end(SHARD.journal)
    back = ("roll-back", "--state", at(shop, 1.5))
    assert "nothing was changed (--dry-run)" in run(*back, "--dry-run")
    assert "why: wanted 1 to 500 characters" in run(*back)
    assert "wanted one of --to, --state and --undo" in run("roll-back", "--why", "none")
    assert shop.log.end(SHARD.journal) == end
    said = msgspec.json.decode(run(*back, "--why", "a bad campaign", "--by", "ann", "--json"))
    assert said["written"]
    newest = journal.newest(shop.log, SHARD)
    assert newest
    assert (said["shard"], said["entry"]) == ("online", newest.number)
    assert "To undo it" in run("roll-back", "--undo", "--why", "it was a good one")
    assert digest(shop) == before
    shown = run("history")
    assert "a bad campaign; goes back to its state of " in shown
    assert "it was a good one; undone: goes on from its state of " in shown
    assert "snapshots are kept, " in shown
    rows = msgspec.json.decode(run("history", "--json"))["rows"]
    decided = [row for row in rows if row["what"] == "decision"]
    assert next((row["subject"], row["step"], row["who"]) for row in decided) == ("online", "state", "ann")
    assert {row["details"]["headrace"] for row in decided}
    assert [row["time_ms"] for row in rows] == sorted(row["time_ms"] for row in rows)
