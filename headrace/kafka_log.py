"""The log on Apache Kafka (brokers 4.1 or later): the one module that imports the Kafka client.

A URL is `kafka:HOST:PORT[,HOST:PORT][?prefix=NAME]`; the prefix stands before the names of topics, writer ids and
groups, so that several shops (or tests) share a cluster. TLS and passwords come beside it
(`headrace.broker.KafkaSecurity`).

What was measured, and is therefore done (kafka-python 3.0.12, broker on the same two cores):

- `assign` and `poll` in batches: no group, no rebalance listeners, no iterator (a third of the speed). Bytes only: a
  deserialiser that raises makes `poll` fail for ever at the same record.
- `auto_offset_reset="none"`: a lost range stops the reader with its exact bounds instead of being skipped.
- Topics stamp records with their append time: with event time, records of 2010 went at the first retention check.
- Transactions run in a thread of their own, with `linger_ms=0` and `retry_backoff_ms=5` (18 ms; 52 ms by default), so
  that the caller folds the next batch meanwhile. Group offsets cost another 10 ms: they go only every
  `group_interval_s`, for lag tools.
- Calls of the client that may wait for ever are waited for with a deadline.
- The client takes records without bound while the broker is down: un-acknowledged bytes are bounded here.
- A refused record spoils the idempotent producer for all later ones: sizes are checked first, and on a refusal the
  producer is built anew and what was not acknowledged is sent again.

Only trusted producers may write to the topics: a batch of 306 KB was seen to unpack to 300 MB, and the client has no
bound for that.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from headrace.broker import KafkaSecurity, security
from headrace.errors import BrokenWorld, Fenced, LogUnavailable, Misconfigured, PositionLost
from headrace.log import Outgoing, Partition, Record, check_size
from headrace.topics import TOPICS, place_of

deadline_s = 30.0
"""How long a broker may not answer before that is a broken world. Elections take seconds."""
transaction_timeout_ms = 10_000
"""After this the broker aborts a dead writer's transaction, which until then hides later records of its partitions."""
unacknowledged_bytes_max = 16 * 2**20
"""Key and value bytes that an appender holds before `append` waits."""
group_interval_s = 5.0
"""How often a writer's positions go to its consumer group."""
silence_s = 5.0
"""After so long without a record, a reader asks whether the broker still answers."""
replicas_max = 3

_FENCING = (kafka_errors.ProducerFencedError, kafka_errors.InvalidProducerEpochError)
_LOST = (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise _ours(error, what) from error


def _ours(error: BaseException, what: str) -> BrokenWorld:
    if isinstance(error, BrokenWorld):
        return error
    causes = [error, *error.args]  # the client wraps a producer's first error in a later one's arguments
    if any(isinstance(cause, _FENCING) or cause in _FENCING for cause in causes):
        return Fenced(f"{what}: another writer has taken over ({error})")
    return LogUnavailable(f"{what}: {type(error).__name__} {error}")


class KafkaLog:
    """`headrace.log.Log` on Kafka. `servers` is what stands behind `kafka:` in a URL."""

    def __init__(self, servers: str, *, prefix: str = "", secured: KafkaSecurity | None = None) -> None:
        bootstrap, _, query = servers.partition("?")
        options = parse_qs(query, keep_blank_values=True, strict_parsing=True) if query else {}
        if unknown := sorted(set(options) - {"prefix"}):
            raise Misconfigured(f"log kafka:{servers}: wanted only the option prefix, found {', '.join(unknown)}")
        self.prefix = options.get("prefix", [prefix])[-1]
        self._options = _client_options(bootstrap, secured or security())
        self._admin: KafkaAdminClient | None = None
        self._lock = threading.Lock()
        with _translated(f"Kafka at {bootstrap}"):
            self._consumer = _consumer(self._options)

    def _place(self, partition: Partition) -> TopicPartition:
        return TopicPartition(self.prefix + partition.topic, partition.number)

    @contextmanager
    def _administrator(self) -> Iterator[KafkaAdminClient]:
        """Give the administration client, opened at its first use, to one thread at a time."""
        with self._lock, _translated("Kafka administration"):
            if self._admin is None:
                self._admin = KafkaAdminClient(**self._options)
            yield self._admin

    def create(self) -> None:
        with self._administrator() as admin:
            brokers = len(admin.describe_cluster()["brokers"])
            present = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}
            missing = {}
            for topic in TOPICS.values():
                found = present.get(self.prefix + topic.name, topic.partitions)
                if found != topic.partitions:
                    raise Misconfigured(f"topic {topic.name}: wanted {topic.partitions} partitions, found {found}")
                if self.prefix + topic.name not in present:
                    replicas = min(replicas_max, brokers)
                    missing[self.prefix + topic.name] = {
                        "num_partitions": topic.partitions,
                        "replication_factor": replicas,
                        "configs": {
                            "message.timestamp.type": "LogAppendTime",
                            "retention.ms": str(topic.retention_ms),
                            "min.insync.replicas": str(max(1, replicas - 1)),
                        },
                    }
            if missing:
                with suppress(kafka_errors.TopicAlreadyExistsError):  # another process was quicker
                    admin.create_topics(missing, timeout_ms=int(deadline_s * 1000))
                admin.wait_for_topics(list(missing), timeout_ms=int(deadline_s * 1000))

    def _bound(self, partition: Partition, which: Callable[..., dict[TopicPartition, int]]) -> int:
        place = self._place(partition)
        with _translated(f"Kafka topic {place.topic}"):
            return which([place], timeout_ms=int(deadline_s * 1000))[place]

    def first(self, partition: Partition) -> int:
        with self._lock:
            return self._bound(partition, self._consumer.beginning_offsets)

    def end(self, partition: Partition) -> int:
        with self._lock:
            return self._bound(partition, self._consumer.end_offsets)

    def position_at(self, partition: Partition, time_ms: int) -> int:
        place = self._place(partition)
        with self._lock, _translated(f"Kafka topic {place.topic}"):
            found = self._consumer.offsets_for_times({place: time_ms}, timeout_ms=int(deadline_s * 1000))[place]
        return self.end(partition) if found is None else int(found.offset)

    def last(self, partition: Partition) -> Record | None:
        first, end = self.first(partition), self.end(partition)
        reader = self.reader({partition: end})
        try:
            span = 8
            while True:  # the newest offsets may all be markers or aborted records: look ever further back
                start = max(first, end - span)
                if (record := self._last_from(reader, partition, start, end)) is not None or start == first:
                    return record
                span *= 8
        finally:
            reader.close()

    @staticmethod
    def _last_from(reader: "KafkaReader", partition: Partition, start: int, end: int) -> Record | None:
        reader.seek(partition, start)
        last = None
        deadline = time.monotonic() + deadline_s
        while reader.position(partition) < end:
            for _, records in reader.read(10_000, 0.05):
                last = records[-1]
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{partition.topic}/{partition.number}: records {start} to {end} did not come")
        return last

    def delete_before(self, partition: Partition, position: int) -> None:
        with self._administrator() as admin:
            admin.delete_records({self._place(partition): position}, timeout_ms=int(deadline_s * 1000))

    def committed(self, writer_id: str) -> dict[Partition, int]:
        group = self.prefix + writer_id
        with self._administrator() as admin:
            found = admin.list_group_offsets({group: None})[group]
        return {
            Partition(place.topic.removeprefix(self.prefix), place.partition): at.offset for place, at in found.items()
        }

    def reader(self, positions: Mapping[Partition, int]) -> "KafkaReader":
        with _translated("Kafka reader"):
            return KafkaReader(_consumer(self._options), {self._place(p): p for p in positions}, positions)

    def writer(self, writer_id: str) -> "KafkaWriter":
        with _translated(f"Kafka writer {writer_id}"):
            return KafkaWriter(self._options, self.prefix, writer_id)

    def appender(self) -> "KafkaAppender":
        with _translated("Kafka appender"):
            return KafkaAppender(self._options, self.prefix)

    def close(self) -> None:
        with self._lock:
            self._consumer.close()
            if self._admin is not None:
                self._admin.close()


def _client_options(bootstrap: str, secured: KafkaSecurity) -> dict[str, Any]:
    """Return what all clients share."""
    return {
        "bootstrap_servers": bootstrap.split(","),
        "bootstrap_timeout_ms": int(deadline_s * 1000),
        "request_timeout_ms": 10_000,
        "security_protocol": secured.protocol,
        "sasl_mechanism": secured.sasl_mechanism,
        "sasl_plain_username": secured.sasl_username,
        "sasl_plain_password": secured.sasl_password,
        "ssl_cafile": secured.ssl_cafile,
        "reconnect_backoff_max_ms": 1_000,
    }


def _consumer(options: Mapping[str, Any]) -> KafkaConsumer:
    return KafkaConsumer(
        **options,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )


class KafkaReader:
    """`headrace.log.Reader` over one consumer without a group."""

    def __init__(
        self, consumer: KafkaConsumer, places: dict[TopicPartition, Partition], positions: Mapping[Partition, int]
    ) -> None:
        self._consumer, self._partitions = consumer, places
        self._places = {partition: place for place, partition in places.items()}
        self._paused: set[TopicPartition] = set()
        self._heard = time.monotonic()
        consumer.assign(list(places))
        for partition, position in positions.items():
            self.seek(partition, position)

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        self._pause({place for place, p in self._partitions.items() if only is not None and p not in only})
        try:
            with _translated("Kafka reader"):
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=records_max)
        except LogUnavailable as error:
            if isinstance(error.__cause__, _LOST):
                self._raise_lost()
            raise
        if polled:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > silence_s:
            self._check_alive()
        return [
            (self._partitions[place], [Record(r.partition, r.offset, r.timestamp, r.key, r.value) for r in records])
            for place, records in polled.items()
        ]

    def _pause(self, wanted: set[TopicPartition]) -> None:
        if wanted != self._paused:
            self._consumer.resume(*(self._paused - wanted))
            self._consumer.pause(*(wanted - self._paused))
            self._paused = wanted

    def _raise_lost(self) -> None:
        """Raise PositionLost with the bounds of the partition whose position is outside."""
        with _translated("Kafka reader"):
            firsts = self._consumer.beginning_offsets(list(self._partitions), timeout_ms=int(deadline_s * 1000))
            ends = self._consumer.end_offsets(list(self._partitions), timeout_ms=int(deadline_s * 1000))
        for place, partition in self._partitions.items():
            position = self.position(partition)
            if not firsts[place] <= position <= ends[place]:
                raise PositionLost(partition.topic, partition.number, position, firsts[place], ends[place])

    def _check_alive(self) -> None:
        """`poll` says nothing when the broker is gone, so ask for something that must be answered."""
        self.end(next(iter(self._places)))
        self._heard = time.monotonic()

    def seek(self, partition: Partition, position: int) -> None:
        self._consumer.seek(self._places[partition], position)

    def position(self, partition: Partition) -> int:
        with _translated("Kafka reader"):
            position = self._consumer.position(self._places[partition], timeout_ms=int(deadline_s * 1000))
        if position is None:
            raise LogUnavailable(f"{partition.topic}/{partition.number}: the client has no position")
        return int(position)

    def end(self, partition: Partition) -> int:
        place = self._places[partition]
        with _translated(f"Kafka topic {place.topic}"):
            return int(self._consumer.end_offsets([place], timeout_ms=int(deadline_s * 1000))[place])

    def close(self) -> None:
        self._consumer.close()


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

    def __init__(self, options: Mapping[str, Any], prefix: str, writer_id: str) -> None:
        self._prefix, self._id = prefix, writer_id
        self._producer = KafkaProducer(
            **options,
            transactional_id=prefix + writer_id,
            transaction_timeout_ms=transaction_timeout_ms,
            linger_ms=0,
            retry_backoff_ms=5,
            batch_size=2**18,
            max_request_size=2**21,
            max_block_ms=int(deadline_s * 1000),
            delivery_timeout_ms=int(deadline_s * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        try:
            self._producer.init_transactions()
        except kafka_errors.KafkaError:
            _abandon(self._producer)
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
            return job.done.result(deadline_s)
        except FutureTimeoutError:
            self._failure = LogUnavailable(f"writer {self._id}: no answer to a commit within {deadline_s:.0f} s")
        except BrokenWorld as error:
            self._failure = error
        raise self._failure

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=group_interval_s)
            except queue.Empty:  # nobody commits just now: tell lag tools where it stopped
                with suppress(kafka_errors.KafkaError):  # the next commit fails of itself
                    self._transact((), {})
                continue
            if job is None:
                return
            try:
                job.done.set_result(self._transact(job.records, job.positions))
            except Exception as error:  # whatever it is, it belongs to the caller's thread
                known = isinstance(error, kafka_errors.KafkaError)
                job.done.set_exception(_ours(error, f"writer {self._id}") if known else error)

    def _transact(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> list[int]:
        producer = self._producer
        self._ungrouped.update(positions)
        grouping = bool(self._ungrouped) and time.monotonic() - self._grouped_s >= group_interval_s
        if not records and not grouping:
            return []
        producer.begin_transaction()
        sent = []
        for record in records:
            topic, number = place_of(record)
            sent.append(producer.send(self._prefix + topic, record.value, record.key, partition=number))
        if grouping:
            offsets = {
                TopicPartition(self._prefix + topic, number): OffsetAndMetadata(position, "", -1)
                for (topic, number), position in self._ungrouped.items()
            }
            producer.send_offsets_to_transaction(offsets, self._prefix + self._id)
            self._ungrouped.clear()
            self._grouped_s = time.monotonic()
        producer.flush(timeout=deadline_s)
        # looked at before the commit: a batch that was lost when the client renewed its epoch would not fail the commit
        acknowledged = [future.get(timeout=deadline_s).offset for future in sent]
        producer.commit_transaction()
        return acknowledged

    def close(self) -> None:
        self._queue.put(None)
        _abandon(self._producer)


def _abandon(producer: KafkaProducer) -> None:
    """Close a producer without waiting for what it has in flight."""
    with suppress(kafka_errors.KafkaError):
        producer.close(timeout=0)


class KafkaAppender:
    """`headrace.log.Appender`: an idempotent producer, outside transactions, with bounded un-acknowledged bytes."""

    def __init__(self, options: Mapping[str, Any], prefix: str) -> None:
        self._options, self._prefix = options, prefix
        self._producer = self._build()
        self._waiting: deque[tuple[Any, Outgoing, int]] = deque()
        self._bytes = 0
        self._closed = False

    def _build(self) -> KafkaProducer:
        return KafkaProducer(
            **self._options,
            linger_ms=5,
            batch_size=2**17,
            max_request_size=2**21,
            max_block_ms=int(deadline_s * 1000),
            delivery_timeout_ms=int(deadline_s * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    @property
    def unacknowledged_bytes(self) -> int:
        """Key and value bytes that the broker has not yet acknowledged."""
        return self._bytes

    def append(self, record: Outgoing) -> None:
        size = check_size(record)
        waiting = self._waiting
        while waiting and (waiting[0][0].is_done or self._bytes + size > unacknowledged_bytes_max):
            self._await_oldest()
        with _translated("Kafka appender"):
            waiting.append((self._send(record), record, size))
        self._bytes += size

    def _send(self, record: Outgoing) -> Any:
        topic, number = place_of(record)
        return self._producer.send(self._prefix + topic, record.value, record.key, partition=number)

    def _await_oldest(self) -> None:
        future, _, size = self._waiting[0]
        try:
            future.get(timeout=deadline_s)
        except kafka_errors.KafkaError as error:
            if getattr(error, "retriable", False):  # a time-out and its like: nobody knows whether it was written
                raise _ours(error, "Kafka appender") from error
            self._resend()
        else:
            self._waiting.popleft()
            self._bytes -= size

    def _resend(self) -> None:
        """Build the producer anew after a refusal, and send one by one what it took with it.

        Raises:
            ValueError: the broker refused a record again, by itself; it was dropped, and the others were sent.
        """
        with _translated("Kafka appender"):
            self._producer.flush(timeout=deadline_s)  # now each outcome is known: nothing is sent twice
            failed = [record for future, record, _ in self._waiting if future.failed()]
            self._waiting.clear()
            self._bytes = 0
            refusals = []
            _abandon(self._producer)
            self._producer = self._build()
            for record in failed:
                try:
                    self._send(record).get(timeout=deadline_s)
                except kafka_errors.KafkaError as error:
                    if getattr(error, "retriable", False):
                        raise
                    refusals.append(f"record for {record.topic} refused by the broker: {error}")
                    _abandon(self._producer)
                    self._producer = self._build()
        if refusals:
            raise ValueError("; ".join(refusals))

    def flush(self) -> None:
        with _translated("Kafka appender"):
            self._producer.flush(timeout=deadline_s)
        while self._waiting:
            self._await_oldest()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self.flush()
            finally:
                _abandon(self._producer)
