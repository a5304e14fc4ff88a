"""Transactions on Kafka: one producer per writer id, driven by a thread of its own.

A broker may forget the end of a transaction: it skips the marker of a partition that has no leader just then, which is
every partition of a broker that shuts down, and reports success (seen with 4.3.1; `docs/decisions/0012`). Such a
partition hangs: nothing after is readable, and the writer's next transaction there decides for both. So a writer gives
the partitions where one of its own hangs the end that it had, before anybody reads where to go on from, and looks now
and then while it lives.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, suppress

import structlog

from headrace.errors import BrokenWorld, LogUnavailable, Misconfigured
from headrace.kafka_client import (
    Client,
    KafkaAdminClient,
    KafkaError,
    TopicPartition,
    abandon,
    aborts,
    asked,
    close_timeout_s,
    enlist,
    hanging,
    translated,
)
from headrace.log import Outgoing, Partition, check_size
from headrace.topics import partitions_of, written_by

transaction_timeout_ms = 10_000
"""After this the broker aborts a dead writer's transaction, which until then hides later records of its partitions."""
care_interval_s = 5.0
"""How often a writer's positions go to its consumer group, and it looks for partitions where a transaction hangs."""
marker_wait_s = 0.02
"""How long to wait before asking again whether the end of a transaction has come to its partitions: about 5 ms."""


class _Job:
    """One commit on its way to the writer's thread and back."""

    def __init__(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        self.records, self.positions = records, dict(positions)
        self.done: Future[list[int]] = Future()


class KafkaWriter:
    """`headrace.log.Writer`: a transactional producer, driven by one thread of its own.

    After the first failure the outcome of a commit is unknown to us, so each later call fails alike: the process goes
    back to what the log says was committed.
    """

    def __init__(
        self, client: Client, writer_id: str, administrator: Callable[[], AbstractContextManager[KafkaAdminClient]]
    ) -> None:
        self._client, self._id, self._administrator = client, writer_id, administrator
        self._places = [client.place(place) for topic in written_by(writer_id) for place in partitions_of(topic)]
        name = client.prefix + writer_id
        with administrator() as admin, translated(f"writer {writer_id}", f"Write on transactional id {name}"):
            undo = asked(lambda: aborts(admin, name, self._places), client.deadline_s)
        self._producer = client.producer(
            transactional_id=name,
            transaction_timeout_ms=transaction_timeout_ms,
            linger_ms=0,
            retry_backoff_ms=5,
            batch_size=2**18,
        )
        try:
            self._producer.init_transactions()
            self._end_hanging(commit=not undo)
        except (KafkaError, BrokenWorld, Misconfigured):
            abandon(self._producer)
            raise
        self._flying: _Job | None = None
        self._failure: BrokenWorld | Misconfigured | None = None
        self._ungrouped: dict[Partition, int] = {}
        self._cared_s = float("-inf")
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"writer-{writer_id}", daemon=True)
        self._thread.start()

    def _hanging(self, timeout_s: float = 0.0) -> set[TopicPartition]:
        with self._administrator() as admin, translated(f"writer {self._id}", "Read"):
            return asked(lambda: hanging(admin, self._producer, self._places), timeout_s)

    def _end_hanging(self, *, commit: bool) -> None:
        """End what the writer before left hanging as it was decided, and wait until that is seen."""
        deadline = time.monotonic() + self._client.deadline_s
        ended = False
        while places := self._hanging(self._client.deadline_s):
            names = sorted(f"{place.topic}/{place.partition}" for place in places)
            if not ended:
                structlog.get_logger().warning(
                    "a transaction hangs, and is ended now", writer=self._id, partitions=names, committed=commit
                )
                self._producer.begin_transaction()
                enlist(self._producer, places, self._client.deadline_s)
                (self._producer.commit_transaction if commit else self._producer.abort_transaction)()
                ended = True
            elif time.monotonic() > deadline:
                raise LogUnavailable(f"writer {self._id}: a transaction hangs in {', '.join(names)}")
            time.sleep(marker_wait_s)

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        for record in records:
            check_size(record)
        self.settle()
        self._flying = _Job(records, positions)
        self._queue.put(self._flying)

    def settle(self) -> list[int]:
        if self._failure is not None:
            raise self._failure
        if self._flying is None:
            return []
        job, self._flying = self._flying, None
        try:
            return job.done.result(self._client.deadline_s)
        except FutureTimeoutError:
            self._failure = LogUnavailable(
                f"writer {self._id}: no answer to a commit within {self._client.deadline_s:.0f} s"
            )
        except (BrokenWorld, Misconfigured) as error:
            self._failure = error
        raise self._failure

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=care_interval_s)
            except queue.Empty:  # nobody commits just now
                self._care()
                continue
            if job is None:
                return
            try:
                job.done.set_result(self._transact(job.records, job.positions))
            except Exception as error:  # whatever it is, it belongs to the caller's thread
                job.done.set_exception(error)

    def _care(self) -> None:
        """Send what waits to the consumer group and end what hangs; what fails here, the next commit meets again."""
        try:
            self._transact((), {})
        except LogUnavailable:
            pass
        except (BrokenWorld, Misconfigured) as error:  # but some things the client says only once
            self._failure = error

    def _transact(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> list[int]:
        with translated(f"writer {self._id}", "Write"):
            return self._transacted(records, positions)

    def _transacted(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> list[int]:
        producer = self._producer
        self._ungrouped.update(positions)
        hung: set[TopicPartition] = set()
        caring = time.monotonic() - self._cared_s >= care_interval_s
        if caring:
            with suppress(BrokenWorld):  # whatever it is, the transaction meets it too, or it passes
                hung = self._hanging()
            self._cared_s = time.monotonic()
        grouping = caring and bool(self._ungrouped)
        if not records and not grouping and not hung:
            return []
        producer.begin_transaction()
        enlist(producer, hung, self._client.deadline_s)
        sent = [self._client.send(producer, record) for record in records]
        if grouping:
            offsets = self._client.offsets(self._ungrouped)
            group = self._client.prefix + self._id
            with translated(f"positions of {self._id}", f"Read on group {group}"):
                producer.send_offsets_to_transaction(offsets, group)
            self._ungrouped.clear()
        producer.flush(timeout=self._client.deadline_s)
        # looked at before the commit: a batch that was lost when the client renewed its epoch would not fail the commit
        acknowledged = [future.get(timeout=self._client.deadline_s).offset for future in sent]
        producer.commit_transaction()
        return acknowledged

    def close(self) -> None:
        self._queue.put(None)
        abandon(self._producer)
        self._thread.join(close_timeout_s)
