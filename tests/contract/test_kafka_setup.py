"""Kafka as others set it up: topics with other settings, and producers that leave their transactions open."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource

from consumers import shard as process
from headrace.config import settings as read_settings
from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, at, encode
from headrace.log import broker
from headrace.log.kafka.log import KafkaLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.metrics import ShardMetrics
from headrace.shard.blobs import Blobs
from headrace.shard.checks import committed_records
from headrace.topics import EVENTS, MODELS, TOPICS, partitions_of
from headrace.watch import LogWatch, open_transactions, refuse_settings, settings_interval_s, transactions_interval_s
from learners.families import default_placements
from operators.doctor.examination import examine
from operators.facts import found_wrong, lag_of
from producers.load import load
from producers.publisher import Progress
from tests.brokers import own_broker
from tests.shards import ONLINE

E0 = Partition(EVENTS, 0)


@pytest.fixture
def prefix(kafka_url: str) -> str:
    return kafka_url.partition("?prefix=")[2]


@pytest.fixture
def log(kafka_url: str) -> Iterator[KafkaLog]:
    opened = open_log(kafka_url)
    assert isinstance(opened, KafkaLog)
    with closing(opened):
        opened.create()
        yield opened


@pytest.fixture
def alter(kafka_bootstrap: str, prefix: str) -> Iterator[Callable[..., None]]:
    """Return what alters a topic's settings, and waits until the broker tells the new ones."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:

        def change(topic: str, settings: dict[str, str]) -> None:
            name, deadline = prefix + topic, time.monotonic() + 30
            admin.alter_configs([ConfigResource("TOPIC", name, settings)])
            while True:
                told = admin.describe_configs([ConfigResource("TOPIC", name)], config_filter="all")["topic"][name]
                if all(told[setting]["value"] == value for setting, value in settings.items()):
                    return
                assert time.monotonic() < deadline, told
                time.sleep(0.05)

        yield change


class Watched:
    """A watch of the log whose clock the test sets, and what it reported."""

    def __init__(self, log: KafkaLog) -> None:
        self.now_s = 0.0
        self.settings: dict[str, int] = {}
        self.hidden: dict[Partition, int] = {}
        self.watch = LogWatch(
            log, lambda: partitions_of(EVENTS), on_settings=self.settings.update, on_hidden=self.hidden.update,
            seconds=lambda: self.now_s,
        )  # fmt: skip

    def after(self, pause_s: float) -> None:
        self.now_s += pause_s
        self.watch.look()


def test_topics_that_headrace_makes_are_as_needed(log: KafkaLog) -> None:
    assert log.check_settings() == ([], [])


def test_a_compacted_topic_of_events_is_refused_with_the_command(
    log: KafkaLog, prefix: str, alter: Callable[..., None], tmp_path: Path
) -> None:
    watched = Watched(log)
    watched.watch.look()
    alter(EVENTS, {"cleanup.policy": "compact"})
    watched.after(settings_interval_s / 2)
    said = rf"topic events: cleanup.policy: wanted delete, found compact: .*--entity-name {prefix}events --add-config"
    with pytest.raises(Misconfigured, match=said):
        watched.after(settings_interval_s / 2)
    with pytest.raises(Misconfigured, match=said):
        refuse_settings(log)
    placement = default_placements()["online"]
    shard = read_settings().common.shards["online"]
    with pytest.raises(Misconfigured, match=said):
        process.run(log, Blobs(tmp_path), placement, shard, {}, ShardMetrics(), threading.Event())
    assert log.last(placement.shard.journal) is None, "it has not begun"


def test_what_may_lose_records_is_warned_of_once(
    log: KafkaLog, alter: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    alter(EVENTS, {"retention.ms": "3600000", "message.timestamp.type": "CreateTime"})
    watched = Watched(log)
    for _ in range(3):
        watched.after(settings_interval_s)
    assert capsys.readouterr().out.count("topic settings") == 2
    assert watched.settings == {**dict.fromkeys(TOPICS, 0), EVENTS: 2}
    assert [line[:32] for line in found_wrong(log, [ONLINE.shard])] == [
        "topic events: retention.ms: want", "topic events: message.timestamp."
    ]  # fmt: skip
    alter(EVENTS, {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"})
    watched.after(settings_interval_s)
    assert watched.settings[EVENTS] == 0


@pytest.fixture
def leave_open(kafka_bootstrap: str, prefix: str) -> Iterator[KafkaProducer]:
    """Return a producer of others, with a record of `events` in an open transaction."""
    with closing(KafkaProducer(bootstrap_servers=kafka_bootstrap, transactional_id=f"{prefix}others")) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(prefix + EVENTS, b"{}", b"ann", partition=0).get(timeout=30)
        yield producer


def test_records_behind_an_open_transaction_are_told(
    log: KafkaLog, kafka_bootstrap: str, prefix: str, leave_open: KafkaProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(KafkaProducer(bootstrap_servers=kafka_bootstrap)) as producer:
        for _ in range(40):
            producer.send(prefix + EVENTS, b"{}", b"ann", partition=0)
        producer.flush()
    assert log.end(E0) == 0, "no lag counts them"
    watched = Watched(log)
    watched.watch.look()
    assert set(watched.hidden.values()) == {0}, "each producer has a transaction open for a moment"
    for _ in range(2):
        watched.after(transactions_interval_s)
        assert watched.hidden == {**dict.fromkeys(partitions_of(EVENTS), 0), E0: 41}
    out = capsys.readouterr().out
    assert out.count("open transaction") == 1
    assert "start_offset=0" in out
    assert open_transactions(log, [E0], wait_s=0.0) == {E0: (0, 41)}
    assert found_wrong(log, [ONLINE.shard])[0].startswith("open transaction: events/0 hides 41 offsets from 0 on")
    leave_open.abort_transaction()
    deadline = time.monotonic() + 20.0
    while watched.hidden[E0]:  # until the broker has written its end
        assert time.monotonic() < deadline
        watched.after(transactions_interval_s)
    assert open_transactions(log, [E0], wait_s=0.0) == {}


def test_transactions_one_after_another_are_none_that_stays_open(
    log: KafkaLog, prefix: str, leave_open: KafkaProducer
) -> None:
    watched = Watched(log)
    for _ in range(3):
        watched.after(transactions_interval_s)
        assert watched.hidden[E0] == 0
        leave_open.commit_transaction()
        leave_open.begin_transaction()
        leave_open.send(prefix + EVENTS, b"{}", b"ann", partition=0).get(timeout=30)


def test_a_lag_is_a_number_of_records(log: KafkaLog) -> None:
    models = Partition(MODELS, 0)
    with closing(log.writer("finetune", [models])) as writer:
        for _ in range(20):  # each followed by a marker
            writer.commit([Outgoing(MODELS, b"r1", b"{}", 0)], {})
        writer.settle()
    last = log.last(models)
    assert last is not None
    assert last.offset == 38
    assert [lag_of(log, models, position) for position in (0, 2, 37, 38, 39, 40)] == [
        (waiting, True) for waiting in (20, 19, 1, 1, 0, 0)
    ]


def test_a_long_lag_is_at_most_its_offsets(log: KafkaLog) -> None:
    with closing(log.appender()) as appender:
        for _ in range(5):
            appender.append(Outgoing(EVENTS, b"ann", b"{}", 0))
    assert [lag_of(log, E0, position, counted_max=3) for position in (0, 2)] == [(5, False), (3, True)]


def write_events(path: Path, count: int) -> Path:
    """Write a file of events, one a second."""
    events = (
        Event(f"e{n}", "shop", "view_item", at(1_750_000_000_000 + 1_000 * n), Data([Item("i")]), "1.0", f"s{n % 40}")
        for n in range(count)
    )
    path.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    return path


def values(log: Log) -> list[bytes | None]:
    return [record.value for place in partitions_of(EVENTS) for record in committed_records(log, place)]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[broker.LocalBroker]:
    """Yield a broker of the test's own, which it may suspend."""
    with own_broker(tmp_path / "broker") as running:
        yield running


def test_a_broker_that_is_suspended_loses_and_doubles_nothing_of_a_file(
    own: broker.LocalBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The pause is longer than the client waits for an answer, and than the broker leaves a transaction open."""
    monkeypatch.setattr("producers.publisher.transaction_timeout_s", 1.0)
    path = write_events(tmp_path / "events.jsonl", 3_000)
    with closing(KafkaLog(own.bootstrap, deadline_s=2.0)) as log:
        log.create()
        suspended = threading.Event()

        def suspend(progress: Progress) -> None:
            if progress.published >= 1_500 and not suspended.is_set():
                suspended.set()
                os.kill(own.pid, signal.SIGSTOP)
                threading.Timer(4.0, os.kill, (own.pid, signal.SIGCONT)).start()

        done = load(log, path, progress=suspend)
        assert suspended.is_set()
        assert done[:2] == (3_000, 0)
        found = values(log)
        assert len(found) == len(set(found)) == 3_000
    assert "retrying" in capsys.readouterr().out


def test_the_doctor_tells_which_topics_are_missing_or_set_up_wrongly(
    kafka_url: str, alter: Callable[..., None], tmp_path: Path
) -> None:
    ports = {"shards": {name: {"metrics_port": 0} for name in ("online", "finetune")}, "serve": {"port": 0}}
    options = {"log": kafka_url, "blobs": str(tmp_path), **ports}

    def wrong() -> dict[str, str]:
        return {f"{one.check}: {one.subject}": one.level for one in examine(options).findings if one.level != "ok"}

    assert wrong() == {f"topics: {', '.join(TOPICS)}": "error"}, "and it makes none"
    with closing(open_log(kafka_url)) as made:
        made.create()
        assert made.missing() == []
    never_run = {"shards: online": "warning", "shards: finetune": "warning"}
    assert wrong() == never_run
    alter(EVENTS, {"cleanup.policy": "compact"})
    assert wrong() == {**never_run, "topic settings: events: cleanup.policy": "error"}
