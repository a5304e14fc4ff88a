"""A topic that keeps its producers' times, Kafka's default: the shard takes the time at which it reads a record.

The type of the time belongs to each record: a topic that was altered has records of both types.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, KafkaAdminClient

from headrace.log.open import open_log
from headrace.log.protocol import Log, Partition
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds, committed_records, entries_of
from headrace.shard.loop import Loop
from headrace.shard.merge import Merge
from headrace.shard.turn import Turn
from headrace.state import digest
from headrace.topics import EVENTS
from tests.shards import ONLINE, online

HOUR_MS = 3_600_000


@pytest.fixture
def made_by_others(kafka_url: str) -> Iterator[tuple[str, str, Log]]:
    """Return a broker, the name of its topic of events, and the log."""
    bootstrap, _, prefix = kafka_url.removeprefix("kafka:").partition("?prefix=")
    topic = f"{prefix}{EVENTS}"
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        # Kept for ever: the broker judges age by the producers' times, and soon deletes what is 300 hours old.
        kept = {"retention.ms": "-1"}
        admin.create_topics({topic: {"num_partitions": 4, "replication_factor": 1, "configs": kept}})
    with closing(open_log(kafka_url)) as log:
        log.create()
        yield bootstrap, topic, log


def view(number: int, now_ms: int) -> bytes:
    """Return an event of the current second."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ms // 1_000))
    return json.dumps(
        {
            "specversion": "1.0", "id": f"e{number}", "source": "others", "type": "view_item", "time": stamp,
            "data": {"items": [{"item_id": f"i{number % 5}"}]},
        }
    ).encode()  # fmt: skip


def test_producers_that_are_hours_behind_are_learned_from(made_by_others: tuple[str, str, Log], tmp_path: Path) -> None:
    bootstrap, topic, log = made_by_others
    now_ms = time.time_ns() // 1_000_000
    behind_ms = (0, 5 * HOUR_MS, 300 * HOUR_MS)
    with closing(KafkaProducer(bootstrap_servers=bootstrap, acks="all")) as producer:
        for number in range(60):
            created_ms = now_ms - behind_ms[number % 3]
            producer.send(topic, key=b"s%d" % number, value=view(number, now_ms), timestamp_ms=created_ms)
        producer.flush()
    assert {record.time_ms for number in range(4) for record in committed_records(log, Partition(EVENTS, number))} == {
        0
    }

    turns: list[Turn] = []
    with closing(Loop(log, Blobs(tmp_path), ONLINE.shard, make=online())) as loop:
        loop.on_turn = turns.append
        loop.run(lambda: sum(turn.records for turn in turns) == 60)
        assert sum(turn.learned for turn in turns) == 60
        assert abs(loop.fold.time_ms - now_ms) < 2 * HOUR_MS, "the shop's time is that of reading"
        entries = [entry for entry in entries_of(log, ONLINE.shard) if entry.runs]
        assert all(now_ms < read_ms for entry in entries for read_ms in entry.read_ms)
        assert all(len(entry.read_ms) == len(entry.runs) for entry in entries)
        again = check_folds(log, Blobs(tmp_path), ONLINE.shard, make=online())
        assert digest(again.fold.state()) == digest(loop.fold.state())


def await_kind(producer: KafkaProducer, topic: str, kind: str, sent_ms: int) -> None:
    """Send to another partition until the broker stamps records as the topic says now, which it soon does."""
    deadline = time.monotonic() + 30
    while (producer.send(topic, b"two", b"{}", partition=1, timestamp_ms=sent_ms).get(30).timestamp == sent_ms) != (
        kind == "CreateTime"
    ):
        assert time.monotonic() < deadline, kind


def test_each_record_of_an_altered_topic_has_the_time_that_is_known_of_it(
    made_by_others: tuple[str, str, Log], tmp_path: Path
) -> None:
    bootstrap, topic, log = made_by_others
    now_ms = time.time_ns() // 1_000_000
    with (
        closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin,
        closing(KafkaProducer(bootstrap_servers=bootstrap, acks="all")) as producer,
    ):
        number = 0
        for kind in ("CreateTime", "LogAppendTime", "CreateTime"):
            admin.alter_configs([ConfigResource("TOPIC", topic, {"message.timestamp.type": kind})])
            await_kind(producer, topic, kind, now_ms - HOUR_MS)
            for _ in range(10):
                value = view(number, now_ms)
                producer.send(topic, b"one", value, partition=0, timestamp_ms=now_ms - HOUR_MS).get(timeout=30)
                number += 1
    known = [record.time_ms for record in committed_records(log, Partition(EVENTS, 0))]
    assert [bool(time_ms) for time_ms in known] == [False] * 10 + [True] * 10 + [False] * 10

    read_ms = now_ms + HOUR_MS
    with closing(Merge(log, {Partition(EVENTS, 0): 0}, lambda: read_ms)) as merge:
        found: list[int] = []
        while len(found) < 30:
            if chunk := merge.take(1.0):
                assert chunk.read_ms in (0, read_ms)
                found += [record.time_ms for record in chunk.records]
    assert found == [time_ms or read_ms for time_ms in known]

    turns: list[Turn] = []
    with closing(Loop(log, Blobs(tmp_path), ONLINE.shard, make=online())) as loop:
        loop.on_turn = turns.append
        loop.run(lambda: sum(turn.records for turn in turns) >= 30)
        again = check_folds(log, Blobs(tmp_path), ONLINE.shard, make=online())
        assert digest(again.fold.state()) == digest(loop.fold.state())
