"""A transaction whose end a broker forgot: the writer that comes next, or the same one, gives it the end that it had.

What forgets is made here by a client that keeps a partition from its coordinator, on a broker that does not verify
what is enlisted; `docs/decisions/0012` tells how a broker forgets by itself.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from kafka import KafkaProducer, TopicPartition

from headrace.kafka_client import abandon
from headrace.kafka_log import KafkaLog
from headrace.log import Outgoing, Partition, open_log
from tests.brokers import own_broker

JOURNAL, JUDGEMENTS, SCORES = Partition("journal", 0), Partition("judgements", 0), Partition("scores", 0)


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
    """Write to journal and judgements, of which the coordinator does not know, and to scores, of which it does.

    Args:
        then: where another transaction begins, and is left open.
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
def test_the_next_writer_ends_it_before_anybody_reads_where_to_go_on(
    bootstrap: str, prefix: str, log: KafkaLog, commit: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_hanging(bootstrap, prefix, commit=commit)
    assert log.end(JOURNAL) == 0, "nothing of it is readable"
    with closing(log.writer("online")) as writer:
        assert "a transaction hangs, and is ended now" in capsys.readouterr().out
        wanted: list[bytes | None] = [b"hung"] if commit else []
        assert [values(log, partition) for partition in (JOURNAL, JUDGEMENTS, SCORES)] == [wanted] * 3
        writer.commit([Outgoing("journal", b"online", b"next", 0)], {})
        writer.settle()
    with closing(log.writer("online")):
        assert "hangs" not in capsys.readouterr().out
    assert values(log, JOURNAL) == [*wanted, b"next"]


def test_what_the_next_transaction_takes_down_with_it_stays_nowhere(bootstrap: str, prefix: str, log: KafkaLog) -> None:
    leave_hanging(bootstrap, prefix, commit=True, then=JOURNAL)
    with closing(log.writer("online")) as writer:
        assert [values(log, partition) for partition in (JOURNAL, JUDGEMENTS)] == [[], []]
        writer.commit([Outgoing("journal", b"online", b"next", 0)], {})
        writer.settle()
    assert values(log, JOURNAL) == [b"next"]


def test_a_writer_that_lives_ends_it_with_its_next_commit_or_while_it_idles(
    bootstrap: str, prefix: str, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kafka_writer.care_interval_s", 0.3)
    with closing(log.writer("online")) as writer:
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


def test_of_another_writer_s_transactions_it_leaves_its_hands(bootstrap: str, prefix: str, log: KafkaLog) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(
            closing(KafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}finetune"))
        )
        other.init_transactions()
        other.begin_transaction()
        other.send(f"{prefix}scores", b"open", partition=0).get(timeout=10)
        stack.enter_context(closing(log.writer("online")))
        assert log.end(SCORES) == 0
        other.abort_transaction()
    assert values(log, SCORES) == []
