"""Hanging transactions: a later writer, or the same one, ends each with its original outcome.

The tests create them with a client that does not register a partition with the coordinator, on a broker that does not
verify registration; `docs/decisions/0012` describes how a broker loses the end of a transaction by itself.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from kafka import KafkaProducer, TopicPartition

from headrace.log.kafka.client import abandon
from headrace.log.kafka.log import KafkaLog
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing, Partition
from headrace.topics import Shard
from tests.brokers import own_broker

ONLINE = Shard("online", 0, writes=("scores",))
JOURNAL, JUDGEMENTS, SCORES = ONLINE.journal, ONLINE.judgements, Partition("scores", 0)


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("broker")
    with own_broker(folder, "transaction.partition.verification.enable=false\n") as running:
        yield running.bootstrap


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:10]}-"


@pytest.fixture
def log(bootstrap: str, prefix: str) -> Iterator[KafkaLog]:
    opened = open_log(f"kafka:{bootstrap}?prefix={prefix}")
    assert isinstance(opened, KafkaLog)
    with closing(opened):
        opened.create()
        yield opened


def leave_hanging(bootstrap: str, prefix: str, *, commit: bool, then: Partition | None = None) -> None:
    """End a transaction that hangs in journal and judgements, which are not registered with the coordinator.

    Its third partition, scores, is registered, so it ends there.

    Args:
        then: open another transaction in this partition, and leave it open.
    """
    with closing(KafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}online")) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for partition in (JOURNAL, JUDGEMENTS):
            producer._transaction_manager._partitions_in_transaction.add(TopicPartition(prefix + partition.topic, 0))
        for partition in (JOURNAL, JUDGEMENTS, SCORES):
            producer.send(prefix + partition.topic, b"hung", partition=0)
        producer.flush()
        (producer.commit_transaction if commit else producer.abort_transaction)()
        if then:
            producer.begin_transaction()
            producer.send(prefix + then.topic, b"open", partition=then.number)
            producer.flush()
            abandon(producer)


def values(log: KafkaLog, partition: Partition) -> list[bytes | None]:
    with closing(log.reader({partition: 0})) as reader:
        found: list[bytes | None] = []
        deadline = time.monotonic() + 20.0
        while reader.position(partition) < reader.end(partition):
            assert time.monotonic() < deadline
            found += [record.value for _, records in reader.read(100, 0.05) for record in records]
        return found


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "aborted"])
def test_the_next_writer_ends_it_before_the_restart_position_is_read(
    bootstrap: str, prefix: str, log: KafkaLog, commit: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_hanging(bootstrap, prefix, commit=commit)
    assert log.end(JOURNAL) == 0, "nothing of it is readable"
    with closing(log.writer(ONLINE.name, ONLINE.written)) as writer:
        assert "ending a hanging transaction" in capsys.readouterr().out
        wanted: list[bytes | None] = [b"hung"] if commit else []
        assert [values(log, partition) for partition in (JOURNAL, JUDGEMENTS, SCORES)] == [wanted] * 3
        writer.commit([Outgoing("journal", b"online", b"next", 0)], {})
        writer.settle()
    with closing(log.writer(ONLINE.name, ONLINE.written)):
        assert "hangs" not in capsys.readouterr().out
    assert values(log, JOURNAL) == [*wanted, b"next"]


def test_it_is_aborted_in_all_partitions_if_the_next_transaction_was_left_open_in_one(
    bootstrap: str, prefix: str, log: KafkaLog
) -> None:
    leave_hanging(bootstrap, prefix, commit=True, then=JOURNAL)
    with closing(log.writer(ONLINE.name, ONLINE.written)) as writer:
        assert [values(log, partition) for partition in (JOURNAL, JUDGEMENTS)] == [[], []]
        writer.commit([Outgoing("journal", b"online", b"next", 0)], {})
        writer.settle()
    assert values(log, JOURNAL) == [b"next"]


def test_a_live_writer_ends_it_at_its_next_commit_or_while_idle(
    bootstrap: str, prefix: str, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.log.kafka.writer.maintenance_interval_s", 0.3)
    with closing(log.writer(ONLINE.name, ONLINE.written)) as writer:
        producer = writer._producer
        for record in (Outgoing("journal", b"online", b"one", 0), Outgoing("journal", b"online", b"two", 0)):
            producer.begin_transaction()
            producer._transaction_manager._partitions_in_transaction.add(TopicPartition(f"{prefix}scores", 0))
            producer.send(f"{prefix}scores", b"hung", partition=0)
            producer.send(f"{prefix}journal", record.value, partition=0)
            producer.flush()
            producer.commit_transaction()
        deadline = time.monotonic() + 20.0
        while log.end(SCORES) < 3:
            assert time.monotonic() < deadline, "scores still hang"
            time.sleep(0.05)
    assert values(log, SCORES) == [b"hung", b"hung"]
    assert values(log, JOURNAL) == [b"one", b"two"]


def test_a_writer_does_not_end_the_transactions_of_another_writer(bootstrap: str, prefix: str, log: KafkaLog) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(
            closing(KafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}finetune"))
        )
        other.init_transactions()
        other.begin_transaction()
        other.send(f"{prefix}scores", b"open", partition=0).get(timeout=10)
        stack.enter_context(closing(log.writer(ONLINE.name, ONLINE.written)))
        assert log.end(SCORES) == 0
        other.abort_transaction()
    assert values(log, SCORES) == []
