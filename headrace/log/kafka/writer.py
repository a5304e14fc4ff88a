"""Transactions on Kafka: one producer per writer id, driven by its own thread.

A broker can lose the end of a transaction: it skips the end marker for a partition that has no leader at that moment
(as every partition of a broker that shuts down) and reports success (seen with 4.3.1; `docs/decisions/0012`). The
transaction then *hangs* in that partition: no later record is readable, and the outcome of the writer's next
transaction there applies to both. So a writer ends its hanging transactions with their original outcome, before any
process reads its restart position, and checks for them periodically.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, suppress

import structlog

from headrace.errors import BrokenWorld, CommitExpired, Fenced, LogUnavailable, Misconfigured
from headrace.log.kafka.client import (
    Client,
    KafkaAdminClient,
    KafkaError,
    TopicPartition,
    abandon,
    add_partitions,
    call_with_retries,
    close_timeout_s,
    hanging_partitions,
    must_abort_hanging,
    translated_errors,
)
from headrace.log.protocol import TRANSACTION_TIMEOUT_S, Outgoing, Partition, check_size

maintenance_interval_s = 5.0
"""How often a writer sends its positions to its consumer group and looks for hanging transactions."""
marker_wait_s = 0.02
"""Pause between two checks whether a transaction's end markers are written, which takes about 5 ms."""


class _Job:
    """One commit, handed to the writer's thread; `done` receives its result."""

    def __init__(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        self.records, self.positions = records, dict(positions)
        self.done: Future[list[int]] = Future()


class KafkaWriter:
    """`headrace.log.protocol.Writer`: a transactional producer, driven by its own thread.

    After the first failure the outcome of a commit is unknown, so each later call raises the same error; the process
    then restarts from what the log has committed.
    """

    def __init__(
        self,
        client: Client,
        writer_id: str,
        writes: Collection[Partition],
        administrator: Callable[[], AbstractContextManager[KafkaAdminClient]],
        timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> None:
        self._client, self._id, self._administrator = client, writer_id, administrator
        self._timeout_s = timeout_s
        self._topic_partitions = [client.topic_partition(place) for place in writes]
        name = client.prefix + writer_id
        with administrator() as admin, translated_errors(f"writer {writer_id}", f"Write on transactional id {name}"):
            abort_hanging = call_with_retries(
                lambda: must_abort_hanging(admin, name, self._topic_partitions), client.deadline_s
            )
        self._producer = client.producer(
            transactional_id=name,
            transaction_timeout_ms=int(timeout_s * 1000),
            linger_ms=0,
            retry_backoff_ms=5,
            batch_size=2**18,
        )
        try:
            with client.wait(f"a transactional id for {writer_id}"):
                self._producer.init_transactions()
            self._end_hanging_transaction(commit=not abort_hanging)
        except (KafkaError, BrokenWorld, Misconfigured):
            abandon(self._producer)
            raise
        self._in_flight: _Job | None = None
        self._failure: BrokenWorld | Misconfigured | None = None
        self._unsent_positions: dict[Partition, int] = {}
        self._searched_s = self._positions_sent_s = float("-inf")
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"writer-{writer_id}", daemon=True)
        self._thread.start()

    def _find_hanging(self, timeout_s: float = 0.0) -> set[TopicPartition]:
        with self._administrator() as admin, translated_errors(f"writer {self._id}", "Read"):
            return call_with_retries(
                lambda: hanging_partitions(admin, self._producer, self._topic_partitions), timeout_s
            )

    def _end_hanging_transaction(self, *, commit: bool) -> None:
        """End the previous writer's hanging transaction with its decided outcome, and wait until that is visible."""
        deadline = time.monotonic() + self._client.deadline_s
        ended = False
        while topic_partitions := self._find_hanging(self._client.deadline_s):
            names = sorted(
                f"{topic_partition.topic}/{topic_partition.partition}" for topic_partition in topic_partitions
            )
            if not ended:
                structlog.get_logger().warning(
                    "ending a hanging transaction", writer=self._id, partitions=names, committed=commit
                )
                with self._client.wait("the end of a hanging transaction"):
                    self._producer.begin_transaction()
                    add_partitions(self._producer, topic_partitions, self._client.deadline_s)
                    (self._producer.commit_transaction if commit else self._producer.abort_transaction)()
                ended = True
            elif time.monotonic() > deadline:
                raise LogUnavailable(f"writer {self._id}: a transaction hangs in {', '.join(names)}")
            time.sleep(marker_wait_s)

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        for record in records:
            check_size(record)
        self.settle()
        if self._failure is not None:
            raise self._failure
        self._in_flight = _Job(records, positions)
        self._queue.put(self._in_flight)

    def settle(self) -> list[int]:
        job, self._in_flight = self._in_flight, None
        if job is None:
            if self._failure is not None:
                raise self._failure
            return []
        try:  # its own error says more than what maintenance met meanwhile
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
                job = self._queue.get(timeout=maintenance_interval_s)
            except queue.Empty:  # no commit is waiting
                self._maintain()
                continue
            if job is None:
                return
            try:
                job.done.set_result(self._transact(job.records, job.positions))
            except Exception as error:  # of any kind: it is raised in the caller's thread
                job.done.set_exception(error)

    def _maintain(self) -> None:
        """Send positions to the consumer group and end hanging transactions; a failure recurs at the next commit."""
        try:
            self._transact((), {})
        except LogUnavailable:
            pass
        except (BrokenWorld, Misconfigured) as error:  # the client reports some of these only once
            self._failure = error

    def _transact(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> list[int]:
        began = time.monotonic()
        try:
            with self._client.wait(f"a commit of {self._id}"), translated_errors(f"writer {self._id}", "Write"):
                return self._run_transaction(records, positions)
        except Fenced as error:
            if time.monotonic() - began < self._timeout_s:
                raise
            raise CommitExpired(f"{error}, or this commit was open for more than {self._timeout_s:g} s") from error

    def _run_transaction(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> list[int]:
        producer = self._producer
        self._unsent_positions.update(positions)
        hanging: set[TopicPartition] = set()
        if time.monotonic() - self._searched_s >= maintenance_interval_s:
            with suppress(BrokenWorld):  # a lasting failure recurs in the transaction below
                hanging = self._find_hanging()
            self._searched_s = time.monotonic()
        waited_s = time.monotonic() - self._positions_sent_s
        sending_positions = bool(self._unsent_positions) and waited_s >= maintenance_interval_s
        if not records and not sending_positions and not hanging:
            return []
        producer.begin_transaction()
        add_partitions(producer, hanging, self._client.deadline_s)
        sent = [self._client.send(producer, record) for record in records]
        if sending_positions:
            offsets = self._client.offsets(self._unsent_positions)
            group = self._client.prefix + self._id
            with translated_errors(f"positions of {self._id}", f"Read on group {group}"):
                producer.send_offsets_to_transaction(offsets, group)
            self._unsent_positions.clear()
            self._positions_sent_s = time.monotonic()
        producer.flush(timeout=self._client.deadline_s)
        # before the commit, which succeeds even if a batch was lost when the client renewed its epoch
        acknowledged = [future.get(timeout=self._client.deadline_s).offset for future in sent]
        producer.commit_transaction()
        return acknowledged

    def close(self) -> None:
        self._queue.put(None)
        abandon(self._producer)
        self._thread.join(close_timeout_s)
