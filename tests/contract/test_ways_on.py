"""Topics that were replaced, journals that vanished, lost records and poison: a shard stops, and goes on when told."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from headrace.clock import wall_ms
from headrace.errors import BrokenWorld, JournalLost, Misconfigured, PositionLost, TopicReplaced
from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.shard import identity, journal, loop, trim, verify
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds, committed_records, entries_of
from headrace.shard.decision import Author
from headrace.shard.follower import Follower, freeze
from headrace.shard.journal import Pointer
from headrace.shard.kept import stored_pointers
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.loss import Loss, accept_loss
from headrace.shard.refold import refold
from headrace.shard.restate import restate
from headrace.shard.skip import skip
from headrace.state import State, digest
from headrace.topics import DAY_MS, DEAD_LETTERS, EVENTS, JOURNAL, JUDGEMENTS, partitions_of
from learners.shop import Shop
from operators.cli import app
from tests.replaced import replace_topic
from tests.shards import ONLINE, online

SHARD = ONLINE.shard
QUICK = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=0.0, idle_wait_s=0.0)
ANN = Author("ann", "the disk burnt")
make_shop = online(items_max=64, shoppers_max=50)
on_sqlite = pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)


class Case:
    """A log, a folder of blobs, and the shard `online` of it."""

    def __init__(self, url: str, blobs: Blobs) -> None:
        self.url, self.blobs = url, blobs
        self.log: Log = open_log(url)
        self.log.create()

    def publish(self, first: int, count: int) -> None:
        chance = random.Random(first)
        with closing(self.log.appender()) as appender:
            for number in range(first, first + count):
                event = Event(
                    id=f"e{number}", source="shop/web", type="view_item", specversion="1.0",
                    shopper=f"s{chance.randrange(20)}", time=at(1_750_000_000_000 + number * 1_000),
                    data=Data(items=[Item(f"i{chance.randrange(30)}")]),
                )  # fmt: skip
                appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))

    def start(self) -> Loop[Shop]:
        return Loop(self.log, self.blobs, SHARD, make=make_shop, settings=QUICK)

    def learn(self) -> State:
        """Learn all events that the log holds, until a snapshot is named; return the state."""
        with closing(self.start()) as running:
            running.run(lambda: not any(lag for lag in running._merge.lag(running._positions).values()))
            number = running.number
            while running._snapshots.behind(number) > 0:
                running._snapshots._executor.submit(lambda: None).result()
                running._entry_due = True
                running._commit()
            running.run(lambda: True)
            return freeze(running.fold, running._intake)

    def accept(self, **options: Any) -> Loss | None:
        return accept_loss(self.log, self.blobs, SHARD, ANN, make=make_shop, **options)

    def check(self, state: State, follower: Follower[Shop] | None = None) -> None:
        """Check that a restored follower, a fold from the start, and one that has run all the time have this state."""
        assert check_folds(self.log, self.blobs, SHARD, make=make_shop).digest() == digest(state)
        assert verify.verify(self.log, self.blobs, SHARD).problems == []
        assert verify.verify_newest(self.log, SHARD, 1_000).problems == []
        if follower:
            follower.catch_up()
            assert follower.digest() == digest(state)

    def letters(self) -> list[str]:
        records = committed_records(self.log, Partition(DEAD_LETTERS, 0))
        return [msgspec.json.decode(record.value or b"")["reason"] for record in records]


@pytest.fixture
def case(log_url: str, tmp_path: Path) -> Iterator[Case]:
    made = Case(log_url, Blobs(tmp_path / "blobs"))
    yield made
    made.log.close()


def test_a_topic_that_was_replaced_stops_all_and_is_accepted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of the new topic are learned from the first one on, also those before the old positions."""
    monkeypatch.setattr(identity, "check_interval_s", inf)  # the follower does not look before the loss is accepted
    case.publish(0, 300)
    learned = case.learn()["fold"]["events"]
    with ExitStack() as opened:
        running = opened.enter_context(closing(case.start()))
        follower = opened.enter_context(closing(Follower(case.log, case.blobs, SHARD, make=make_shop)))
        stopping = opened.enter_context(closing(Follower(case.log, case.blobs, SHARD, make=make_shop)))
        replace_topic(case.log, case.url, EVENTS)
        case.publish(1_000, 600)
        monkeypatch.setattr(loop, "partitions_check_interval_s", 0.0)
        with pytest.raises(TopicReplaced, match=r"the topic events was deleted .* headrace accept-loss --shard online"):
            running.step()
        with monkeypatch.context() as soon:
            soon.setattr(identity, "check_interval_s", 0.0)
            with pytest.raises(TopicReplaced):
                stopping.step(0.0)
        with pytest.raises(TopicReplaced):
            case.start()
        assert "topic events" in verify.verify(case.log, case.blobs, SHARD).problems[0]

        end = case.log.end(SHARD.journal)
        shown = case.accept(dry_run=True)
        assert case.log.end(SHARD.journal) == end
        found = case.accept()
        assert found == shown
        assert found is not None
        assert found.state == "snapshot"
        assert list(found.replaced) == [EVENTS]
        assert {gap.partition for gap in found.gaps} == {f"events/{number}" for number in range(4)}
        state = case.learn()
        assert state["fold"]["events"] == learned + 600
        case.check(state, follower)
    assert case.accept() is None, "nothing is lost any more"


def test_a_journal_that_was_deleted_is_not_begun_again(case: Case) -> None:
    """The shard goes on with its newest snapshot; without a whole one it begins anew, but only when told."""
    case.publish(0, 300)
    case.learn()
    case.publish(300, 100)
    replace_topic(case.log, case.url, JOURNAL)
    with pytest.raises(JournalLost, match="headrace accept-loss --shard online"):
        case.start()
    found = case.accept()
    assert found is not None
    assert (found.state, found.gaps, found.entries) == ("snapshot", [], 0)
    state = case.learn()
    assert state["fold"]["events"] == 400
    case.check(state)

    replace_topic(case.log, case.url, JOURNAL)
    for name in case.blobs.names("online"):
        (case.blobs.folder / name).write_bytes(b"damaged")
    found = case.accept()
    assert found is not None
    assert found.state == "empty"
    assert case.learn()["fold"]["events"] == 400


@on_sqlite
@pytest.mark.parametrize("what", ["unread events", "the journal", "what a restart needs"])
def test_a_lost_range_is_accepted(case: Case, what: str) -> None:
    case.publish(0, 200)
    before = case.learn()
    if what == "the journal":
        case.log.delete_before(SHARD.journal, case.log.end(SHARD.journal))
    elif what == "unread events":
        case.publish(200, 200)
        for place in partitions_of(EVENTS):
            case.log.delete_before(place, case.log.end(place) - 10)
    else:
        case.publish(200, 200)
        with closing(case.start()) as running:  # without a new snapshot
            running._snapshots._taken_at = float("inf")
            running.run(lambda: running.fold.events >= 400)
        for place in partitions_of(EVENTS):
            case.log.delete_before(place, case.log.end(place) - 10)
    with pytest.raises(PositionLost):
        case.learn()
    found = case.accept()
    assert found is not None
    lost = what != "the journal"
    assert found.state == ("journal" if what == "unread events" else "snapshot")
    assert len(found.gaps) == 4 * lost
    state = case.learn()
    assert state["fold"]["events"] == before["fold"]["events"] + 40 * lost
    case.check(state)
    assert case.accept() is None


@on_sqlite
def test_after_an_accepted_loss_trimming_keeps_what_a_restart_needs(case: Case) -> None:
    """The positions of snapshots from before the loss are those of the former topic."""
    case.publish(0, 200)
    before = case.learn()["fold"]["events"]
    replace_topic(case.log, case.url, EVENTS)
    case.publish(1_000, 300)
    assert case.accept() is not None
    cuts = trim.plan(case.log, [SHARD], 1e-6, wall_ms() + DAY_MS)
    assert not any(cut.records for cut in cuts if cut.partition.startswith(EVENTS))
    assert case.learn()["fold"]["events"] == before + 300

    for place in partitions_of(EVENTS):
        case.log.delete_before(place, case.log.end(place))
    found = verify.verify(case.log, case.blobs, SHARD)
    assert found.problems == []
    assert found.unchecked > 0


class MeddledBlobs(Blobs):
    """Blobs beside which another program writes copies of a journal's first entry."""

    log: Log

    def put(self, kind: str, data: bytes) -> str:
        first = entries_of(self.log, SHARD)[0]
        with closing(self.log.appender()) as appender:
            appender.append(Outgoing(JOURNAL, b"x", journal.encode(first), SHARD.number))
        return super().put(kind, data)


@on_sqlite
def test_an_accepted_loss_is_found_behind_a_copy_of_an_entry_before_it(case: Case) -> None:
    case.publish(0, 200)
    case.learn()
    replace_topic(case.log, case.url, EVENTS)
    case.publish(1_000, 100)
    blobs = MeddledBlobs(case.blobs.folder)
    blobs.log = case.log
    assert accept_loss(case.log, blobs, SHARD, ANN, make=make_shop) is not None
    last = journal.newest(case.log, SHARD)
    assert last
    assert journal.origin_of(case.log, SHARD, last.snapshot) == last.snapshot
    case.check(case.learn())
    refold(case.log, case.blobs, SHARD, make=make_shop)


@on_sqlite
def test_a_loss_is_met_once_the_snapshot_that_does_not_need_what_is_lost_is_damaged(case: Case) -> None:
    """A shard goes on with its newest snapshot, so nothing is accepted; the one before it needs what is lost."""
    case.publish(0, 40)
    case.learn()
    case.publish(40, 40)
    case.learn()
    for place in partitions_of(EVENTS):
        case.log.delete_before(place, case.log.end(place))
    assert case.accept() is None
    last = journal.newest(case.log, SHARD)
    assert last
    assert last.snapshot
    (case.blobs.folder / last.snapshot.blob).write_bytes(b"damaged")
    with pytest.raises(PositionLost):
        case.learn()
    found = case.accept()
    assert found is not None
    assert (found.state, bool(found.gaps)) == ("snapshot", True)
    state = case.learn()
    assert 40 <= state["fold"]["events"] < 80
    case.check(state)


@on_sqlite
def test_a_refold_passes_over_no_loss(case: Case) -> None:
    """The first events are lost before the shard has learned any."""
    case.learn()
    case.publish(0, 200)
    for place in partitions_of(EVENTS):
        case.log.delete_before(place, 10)
    refold(case.log, case.blobs, SHARD, make=make_shop)
    with pytest.raises(PositionLost):
        case.learn()
    assert case.accept() is not None
    assert case.learn()["fold"]["events"] == 160


@on_sqlite
def test_a_poison_record_is_skipped_on_every_fold(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our mistake is in learning one event: the process ends there, until the record is skipped."""
    learn = Shop.learn

    def failing(shop: Shop, event: Event, partition: int, offset: int) -> None:
        assert event.id != "e600", "our mistake"
        learn(shop, event, partition, offset)

    monkeypatch.setattr(Shop, "learn", failing)
    case.publish(0, 240)
    case.learn()
    case.publish(240, 400)
    never = LoopSettings(commit_interval_s=60.0)  # it commits nothing before it fails
    failing_loop = Loop(case.log, case.blobs, SHARD, make=make_shop, settings=never)
    with closing(failing_loop), pytest.raises(AssertionError, match="our mistake"):
        failing_loop.run(lambda: False)
    (poison,) = [
        f"events/{place.number}/{record.offset}"
        for place in partitions_of(EVENTS)
        for record in committed_records(case.log, place)
        if b'"e600"' in (record.value or b"")
    ]
    with closing(Follower(case.log, case.blobs, SHARD, make=make_shop)) as follower:
        assert not skip(case.log, SHARD, poison, ANN, dry_run=True).before
        assert not skip(case.log, SHARD, poison, ANN).before
        end = case.log.end(SHARD.journal)
        assert skip(case.log, SHARD, poison, ANN).before, "a second time changes nothing"
        assert case.log.end(SHARD.journal) == end
        for _ in range(3):  # snapshots between the decision and the record carry it over restarts
            with closing(case.start()) as running:
                running.step()
                running._snapshots._executor.submit(lambda: None).result()
                running._entry_due = True
                running.run(lambda: True)
        assert any(entry.snapshot and entry.snapshot.skipped for entry in entries_of(case.log, SHARD))
        state = case.learn()
        assert state["fold"]["events"] == 639
        case.check(state, follower)
    assert case.letters() == ["skipped"]
    for wrong, why in [
        ("events/0/0", "has not learned"),
        ("events/0/999999", "that the log holds"),
        ("events/0", "TOPIC/PARTITION/OFFSET"),
        ("scores/0/1", "a topic that online learns from"),
    ]:
        with pytest.raises(Misconfigured, match=why):
            skip(case.log, SHARD, wrong, ANN)


def test_a_former_state_is_put_in_place_and_taken_back(case: Case) -> None:
    def put(state: Pointer, *, undo: bool = False) -> Pointer:
        entry = restate(
            case.log, case.blobs, SHARD, make=make_shop, state=state, author=ANN, text="goes back", undo=undo
        )  # fmt: skip
        assert entry.snapshot
        return entry.snapshot

    case.publish(0, 200)
    old = case.learn()
    last = journal.newest(case.log, SHARD)
    assert last
    assert last.snapshot
    data = case.blobs.get(last.snapshot.blob)
    with closing(Follower(case.log, case.blobs, SHARD, make=make_shop)) as follower:
        case.publish(200, 200)
        new = case.learn()
        case.blobs.put(SHARD.name, data)  # all are of one hour, of which only the newest are kept
        restated = put(last.snapshot).restated
        case.check(old, follower)
        case.publish(400, 100)
        case.learn()
        assert restated
        put(next(one for one in stored_pointers(case.blobs, SHARD.name) if one.blob == restated.before), undo=True)
        case.check(new, follower)
    assert verify.verify(case.log, case.blobs, SHARD).whole


@on_sqlite
def test_the_commands_show_decide_and_tell(case: Case, clean_environment: None) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--log", case.url])
        if isinstance(done.exception, (Misconfigured, BrokenWorld)):
            return str(done.exception)
        assert done.exit_code == 0, done.output
        return done.stdout.replace("\n  ", " ")

    case.publish(0, 100)
    case.learn()
    case.publish(100, 100)
    place = partitions_of(EVENTS)[0]
    record = f"events/0/{case.log.end(place) - 1}"
    accept = ("accept-loss", "--blobs", str(case.blobs.folder), "--shard", "online")
    assert "nothing is lost" in run(*accept, "--why", "none")
    assert "can be skipped; nothing was changed" in run("skip", record, "--dry-run")
    assert "why: wanted 1 to 500 characters" in run("skip", record, "--shard", "online")
    shown = msgspec.json.decode(run("skip", record, "--why", "a bug", "--who", "bo", "--json"))
    assert (shown["shard"], shown["record"], shown["written"]) == ("online", record, True)
    replace_topic(case.log, case.url, JUDGEMENTS)
    assert "the topic judgements was replaced" in run(*accept, "--dry-run")
    assert msgspec.json.decode(run(*accept, "--why", "a new disk", "--who", "bo", "--json"))["written"]
    assert "shard other: wanted one of online, finetune" in run("skip", record, "--why", "a bug", "--shard", "other")
    status = run("status")
    assert "decided for online by bo (2" in status
    assert f"the record {record} is not learned: a bug" in status
    assert "the topic judgements was replaced: a new disk" in status
    assert case.learn()["fold"]["events"] == 199, "the skip is still known"
    assert case.letters() == ["skipped"]
