"""Another state is put in place: every fold, audit and restart goes on with it, and it can be undone."""

import threading
from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import BlobMissing, Fenced, Misconfigured
from headrace.shard import journal
from headrace.shard.checks import check_folds, entries_of
from headrace.shard.comparison import Comparison
from headrace.shard.decision import Author
from headrace.shard.follower import Follower
from headrace.shard.journal import Entry, Pointer
from headrace.shard.kept import HOUR_MS, stored_pointers
from headrace.shard.refold import refold
from headrace.shard.restate import restate
from headrace.shard.verify import verify_newest
from learners.shop import Shop
from tests.filed_shop import MAKE, SHARD, FiledShop, publish, step
from tests.shards import next_item
from tests.small_shop import said

ANN = Author("ann", "a bad campaign")


@pytest.fixture
def shop(tmp_path: Path) -> FiledShop:
    found = FiledShop(tmp_path)
    found.learn(100)
    found.later_ms += HOUR_MS
    return found


def newest(shop: FiledShop) -> Pointer:
    entry = journal.newest(shop.log, SHARD)
    assert entry
    assert entry.snapshot
    return entry.snapshot


def learned(state: Pointer) -> int:
    """Return the number of events that a state has learned, if no state was put in place before it."""
    return sum(position for place, position in state.positions.items() if place.startswith("events/"))


def put(shop: FiledShop, state: Pointer) -> Entry:
    return restate(
        shop.log, shop.blobs, SHARD, make=MAKE, state=state, author=ANN, text="back", clock=shop.now_ms
    )  # fmt: skip


def caught_up(shop: FiledShop, *, from_start: bool = False) -> Follower[Shop]:
    with closing(Follower(shop.log, shop.blobs, SHARD, make=MAKE, from_start=from_start)) as follower:
        follower.catch_up()
    return follower


def go_on(shop: FiledShop, first: int) -> None:
    """Learn 50 more events."""
    with closing(shop.loop()) as loop:
        publish(shop.log, 50, first)
        step(loop, loop.fold.events + 50)


def before(shop: FiledShop) -> Pointer:
    """Return the pointer to the state before the newest one that was put in place."""
    restated = newest(shop).restated
    assert restated
    return next(one for one in stored_pointers(shop.blobs, SHARD.name) if one.blob == restated.before)


def test_all_folds_go_on_with_the_state_and_it_is_undone(shop: FiledShop) -> None:
    old = newest(shop)
    digest, events = old.blob.rpartition("-")[2], learned(old)
    with closing(Follower(shop.log, shop.blobs, SHARD, make=MAKE)) as live:
        live.catch_up()
        shop.learn(200, first=100)
        live.catch_up()
        whole = live.digest()
        entry = put(shop, old)
        live.catch_up()
        assert live.digest() == digest != whole
        assert live.fold.events == events
        assert entry.decision
        assert entry.decision.who == "ann"
        go_on(shop, 300)
        live.catch_up()
        again, plain = caught_up(shop), caught_up(shop, from_start=True)
        assert live.digest() == again.digest() == plain.digest()
        assert live.positions == again.positions
        assert shop.verified().whole
        assert verify_newest(shop.log, SHARD, 1_000).whole
        check_folds(shop.log, shop.blobs, SHARD, make=MAKE)
        assert refold(shop.log, shop.blobs, SHARD, make=MAKE).blob.endswith(live.digest())
        put(shop, before(shop))
        live.catch_up()
        assert live.digest() == whole
    go_on(shop, 350)
    assert caught_up(shop).digest() == caught_up(shop, from_start=True).digest()
    assert shop.verified().whole


def test_what_side_topics_said_since_is_heard_again(shop: FiledShop) -> None:
    old = newest(shop)
    with closing(shop.log.appender()) as appender:
        appender.append(said("requested", 2, id="ann/1", action="promote").record())
    shop.learn(50, first=100)
    assert next_item(caught_up(shop).fold).champion
    put(shop, old)
    assert not next_item(caught_up(shop).fold).champion
    go_on(shop, 150)
    assert next_item(caught_up(shop).fold).champion, "which model answers is no matter of what was learned"
    assert shop.verified().whole
    assert verify_newest(shop.log, SHARD, 1_000).whole
    assert caught_up(shop).digest() == caught_up(shop, from_start=True).digest()


def test_a_running_process_is_fenced_and_two_at_once_take_turns(shop: FiledShop) -> None:
    old = newest(shop)
    with closing(shop.loop()) as loop:
        publish(shop.log, 50, 100)
        step(loop, 150)
        threads = [threading.Thread(target=put, args=(shop, old)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        publish(shop.log, 50, 150)
        with pytest.raises(Fenced):
            step(loop, 200)
    decided = [entry for entry in entries_of(shop.log, SHARD) if entry.decision]
    assert len(decided) == 2
    go_on(shop, 200)
    assert caught_up(shop).digest() == caught_up(shop, from_start=True).digest()


def test_a_state_that_is_frozen_at_the_place_is_not_compared(shop: FiledShop) -> None:
    with closing(Comparison(0.0)) as comparison:
        follower = Follower(shop.log, shop.blobs, SHARD, make=MAKE, comparison=comparison)
        with closing(follower):
            follower.catch_up()
            comparison.forget()
            comparison.take(follower.state(), follower.number, follower.fold.stamp)
            publish(shop.log, 1, 100)
            put(shop, newest(shop))
            follower.catch_up()
        assert comparison.due
        assert comparison.result() is None


@pytest.mark.full
def test_a_state_that_is_lost_is_told_and_nothing_is_decided_without_a_reason(shop: FiledShop) -> None:
    entry = put(shop, newest(shop))
    with pytest.raises(Misconfigured, match="why"):
        restate(shop.log, shop.blobs, SHARD, make=MAKE, state=newest(shop), author=Author("ann", ""), text="back")
    assert entry.snapshot
    for first in range(100, 400, 50):
        go_on(shop, first)
    events = caught_up(shop).fold.events
    (shop.blobs.folder / entry.snapshot.blob).unlink()
    assert caught_up(shop).fold.events == events
    with pytest.raises(BlobMissing):
        caught_up(shop, from_start=True)
    state = newest(shop)
    put(shop, state)
    assert caught_up(shop, from_start=True).digest() == state.blob.rpartition("-")[2], "the way on"


def test_a_shard_that_never_ran_has_no_state_to_replace(tmp_path: Path, shop: FiledShop) -> None:
    other = FiledShop(tmp_path / "other")
    with pytest.raises(Misconfigured, match="an empty journal"):
        restate(other.log, shop.blobs, SHARD, make=MAKE, state=newest(shop), author=ANN, text="back")


def test_the_first_comparison_waits_for_its_interval() -> None:
    with closing(Comparison(600.0)) as later, closing(Comparison(0.0)) as at_once:
        assert (later.due, at_once.due) == (False, True)
