"""Transactions on Kafka: one producer per writer id, driven by a thread of its own."""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from headrace.errors import BrokenWorld, Fenced, LogUnavailable
from headrace.kafka_client import Client, KafkaError, abandon, ours
from headrace.log import Outgoing, Partition, check_size

transaction_timeout_ms = 10_000
"""After this the broker aborts a dead writer's transaction, which until then hides later records of its partitions."""
group_interval_s = 5.0
"""How often a writer's positions go to its consumer group."""


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

    def __init__(self, client: Client, writer_id: str) -> None:
        self._client, self._id = client, writer_id
        self._producer = client.producer(
            transactional_id=client.prefix + writer_id,
            transaction_timeout_ms=transaction_timeout_ms,
            linger_ms=0,
            retry_backoff_ms=5,
            batch_size=2**18,
        )
        try:
            self._producer.init_transactions()
        except KafkaError:
            abandon(self._producer)
            raise
        self._flying: _Job | None = None
        self._failure: BrokenWorld | None = None
        self._ungrouped: dict[Partition, int] = {}
        self._grouped_s = float("-inf")
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"writer-{writer_id}", daemon=True)
        self._thread.start()

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
        except BrokenWorld as error:
            self._failure = error
        raise self._failure

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=group_interval_s)
            except queue.Empty:  # nobody commits just now: tell lag tools where it stopped
                self._group()
                continue
            if job is None:
                return
            try:
                job.done.set_result(self._transact(job.records, job.positions))
            except Exception as error:  # whatever it is, it belongs to the caller's thread
                known = isinstance(error, KafkaError)
                job.done.set_exception(ours(error, f"writer {self._id}") if known else error)

    def _group(self) -> None:
        """Send positions that wait to the consumer group; what fails here, the next commit meets again."""
        try:
            self._transact((), {})
        except KafkaError as error:
            found = ours(error, f"writer {self._id}")
            if isinstance(found, Fenced):  # but this the client says only once
                self._failure = found

    def _transact(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> list[int]:
        producer = self._producer
        self._ungrouped.update(positions)
        grouping = bool(self._ungrouped) and time.monotonic() - self._grouped_s >= group_interval_s
        if not records and not grouping:
            return []
        producer.begin_transaction()
        sent = [self._client.send(producer, record) for record in records]
        if grouping:
            offsets = self._client.offsets(self._ungrouped)
            producer.send_offsets_to_transaction(offsets, self._client.prefix + self._id)
            self._ungrouped.clear()
            self._grouped_s = time.monotonic()
        producer.flush(timeout=self._client.deadline_s)
        # looked at before the commit: a batch that was lost when the client renewed its epoch would not fail the commit
        acknowledged = [future.get(timeout=self._client.deadline_s).offset for future in sent]
        producer.commit_transaction()
        return acknowledged

    def close(self) -> None:
        self._queue.put(None)
        abandon(self._producer)
