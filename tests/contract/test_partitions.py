"""Topics with other numbers of partitions than ours, and partitions that are added while shards and followers run."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient

from headrace.errors import PositionLost
from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.shard import journal, loop
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds, committed_records, entries_of
from headrace.shard.follower import Follower, freeze
from headrace.shard.loop import Loop, LoopSettings
from headrace.state import digest
from headrace.topics import ALARMS, EVENTS, ITEMS, TOPICS, partition_for, partitions_of
from tests.shards import ONLINE, online

SHARD = ONLINE.shard
make_shop = online(items_max=64, shoppers_max=50)
QUICK = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=0.0, idle_wait_s=0.0)


def grow(log: Log, admin: KafkaAdminClient | None, url: str, partitions: int, *topics: str) -> None:
    """Add partitions to topics, as an operator does."""
    if admin is not None:
        admin.create_partitions({url.partition("?prefix=")[2] + topic: partitions for topic in topics})
        return
    with pytest.MonkeyPatch.context() as patched:
        for topic in topics:
            patched.setitem(TOPICS, topic, TOPICS[topic]._replace(partitions=partitions))
        log.create()


def views(numbers: Sequence[int]) -> list[Outgoing]:
    """Return a view by each of these shoppers."""
    events = [
        Event(
            id=f"e{number}", source="shop/web", type="view_item", specversion="1.0", shopper=f"s{number}",
            time=at(1_750_000_000_000 + number * 1_000), data=Data(items=[Item(f"i{number % 7}")]),
        ) for number in numbers
    ]  # fmt: skip
    return [Outgoing(EVENTS, event.shopper.encode(), encode(event)) for event in events]


def append(log: Log, records: Sequence[Outgoing]) -> None:
    with closing(log.appender()) as appender:
        for record in records:
            appender.append(record)


class Case:
    """A log, and how partitions are added to it."""

    def __init__(self, url: str, admin: KafkaAdminClient | None) -> None:
        self.log, self._url, self._admin = open_log(url), url, admin

    def grow(self, partitions: int, *topics: str) -> None:
        grow(self.log, self._admin, self._url, partitions, *topics)
        deadline = time.monotonic() + 30
        while any(len(self.log.partitions(topic)) < partitions for topic in topics):  # brokers learn of it one by one
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def case(log_url: str, request: pytest.FixtureRequest) -> Iterator[Case]:
    with ExitStack() as stack:
        admin = None
        if log_url.startswith("kafka"):
            admin = stack.enter_context(closing(KafkaAdminClient(**request.getfixturevalue("kafka_options"))))
        made = Case(log_url, admin)
        stack.callback(made.log.close)
        made.log.create()
        yield made


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def catch_up(running: Loop[Any], events: int) -> None:
    running.run(lambda: running.fold.events >= events)


def test_a_log_tells_its_partitions_and_puts_records_where_kafka_would(case: Case) -> None:
    assert case.log.partitions(EVENTS) == partitions_of(EVENTS)
    case.grow(6, EVENTS)
    places = case.log.partitions(EVENTS)
    assert places == [Partition(EVENTS, number) for number in range(6)]
    append(case.log, views(range(40)))
    found = {place.number: {record.key for record in committed_records(case.log, place)} for place in places}
    keys = [b"s%d" % number for number in range(40)]
    assert found == {number: {key for key in keys if partition_for(key, 6) == number} for number in range(6)}
    assert all(found.values())


def test_partitions_that_are_added_are_read_soon_and_told(
    case: Case, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running shard and a running follower join them, where the journal says; so does one that restarts."""
    monkeypatch.setattr(loop, "partitions_check_interval_s", 0.0)
    with ExitStack() as opened:
        follower = opened.enter_context(closing(Follower(case.log, blobs, SHARD, make=make_shop)))
        running = opened.enter_context(closing(Loop(case.log, blobs, SHARD, make=make_shop, settings=QUICK)))
        append(case.log, views(range(40)))
        catch_up(running, 40)
        case.grow(6, EVENTS, ITEMS)
        append(case.log, views(range(40, 80)))
        append(case.log, [Outgoing(ITEMS, b"i%d" % n, b'{"availability": "out_of_stock"}') for n in range(12)])
        catch_up(running, 80)
        check_covered(case.log, SHARD)
        follower.catch_up()
        assert follower.digest() == digest(freeze(running.fold, running._intake))
    assert {run.partition for entry in entries_of(case.log, SHARD) for run in entry.runs} >= {4, 5}
    alarms = [msgspec.json.decode(record.value or b"") for record in committed_records(case.log, Partition(ALARMS, 0))]
    assert [one["detector"] for one in alarms] == ["partitions"]
    assert alarms[0]["detail"].startswith("events/4, events/5, items/1, ")

    append(case.log, views(range(80, 100)))
    with closing(Loop(case.log, blobs, SHARD, make=make_shop, settings=QUICK)) as restarted:
        catch_up(restarted, 100)
    check_covered(case.log, SHARD, (EVENTS, ITEMS))
    assert check_folds(case.log, blobs, SHARD, make=make_shop).fold.events == 100


@pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)
def test_a_log_without_a_partition_that_was_learned_from_is_refused(case: Case, blobs: Blobs, tmp_path: Path) -> None:
    case.grow(6, EVENTS)
    append(case.log, views(range(40)))
    with closing(Loop(case.log, blobs, SHARD, make=make_shop, settings=QUICK)) as running:
        catch_up(running, 40)
        running._snapshots._executor.submit(lambda: None).result()
        append(case.log, views(range(40, 60)))
        catch_up(running, 60)
    newest = journal.newest(case.log, SHARD)
    assert newest is not None
    assert newest.snapshot is not None
    with closing(open_log(f"sqlite:{tmp_path / 'other.db'}")) as other:
        other.create()
        unnamed = msgspec.structs.replace(newest.snapshot, topics={})  # else the topics' ids tell it
        entry = msgspec.structs.replace(newest, snapshot=unnamed, topics={})
        with closing(other.writer(SHARD.name)) as writer:
            writer.commit([Outgoing("journal", b"online", journal.encode(entry), 0)], {})
        with pytest.raises(PositionLost, match=r"events/[45]: position \d+ is outside what the log holds, 0 to 0"):
            Follower(other, blobs, SHARD, make=make_shop)


@pytest.mark.parametrize("log_url", ["kafka"], indirect=True)
def test_a_topic_that_a_shop_made_has_as_many_partitions_as_it_likes(
    log_url: str, kafka_options: dict[str, Any], blobs: Blobs
) -> None:
    prefix = log_url.partition("?prefix=")[2]
    with closing(KafkaAdminClient(**kafka_options)) as admin:
        admin.create_topics({f"{prefix}{EVENTS}": {"num_partitions": 2, "replication_factor": 1}})
    with closing(open_log(log_url)) as log:
        log.create()
        assert len(log.partitions(EVENTS)) == 2
        append(log, views(range(20)))
        with closing(Loop(log, blobs, SHARD, make=make_shop, settings=QUICK)) as running:
            catch_up(running, 20)
        check_covered(log, SHARD)
