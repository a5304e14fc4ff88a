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
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from headrace.broker import KafkaSecurity, security
from headrace.errors import BrokenWorld, Fenced, LogUnavailable, Misconfigured, PositionLost
from headrace.log import Outgoing, Partition, Record, check_size
from headrace.topics import TOPICS, place_of

deadline_s_default = 30.0
"""How long a broker may not answer before that is a broken world. Elections take seconds."""
transaction_timeout_ms = 10_000
"""After this the broker aborts a dead writer's transaction, which until then hides later records of its partitions."""
unacknowledged_bytes_max = 16 * 2**20
"""Key and value bytes that an appender holds before `append` waits."""
group_interval_s = 5.0
"""How often a writer's positions go to its consumer group."""
silence_s = 5.0
"""After so long without a record, a reader asks whether the broker still answers."""
fetch_bytes = 2**18
"""Bytes of one partition that the broker sends at a time (or one larger record): about 50 ms of parsing for four."""
close_timeout_s = 2.0
"""How long an abandoned producer's thread may take to end."""
chunks_max = 3
"""What has come of one partition and waits to be read, in fetches; then it is paused."""
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


def _is_unknown(error: BaseException | None) -> bool:
    """Say whether a record may or may not have been written; only a plain refusal is certain."""
    return error is None or isinstance(error, kafka_errors.RetriableError)


class _Client(NamedTuple):
    """What all clients of one log share."""

    options: dict[str, Any]
    prefix: str
    deadline_s: float

    @property
    def deadline_ms(self) -> int:
        return int(self.deadline_s * 1000)

    def place(self, partition: Partition) -> TopicPartition:
        return TopicPartition(self.prefix + partition.topic, partition.number)

    def consumer(self) -> KafkaConsumer:
        return KafkaConsumer(
            **self.options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=fetch_bytes,
            metrics_enabled=False,
        )

    def producer(self, **options: Any) -> KafkaProducer:
        return KafkaProducer(
            **self.options,
            max_request_size=2**21,
            max_block_ms=self.deadline_ms,
            delivery_timeout_ms=self.deadline_ms,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **options,
        )

    def send(self, producer: KafkaProducer, record: Outgoing) -> Any:
        """Queue a record and return the client's future of it."""
        topic, number = place_of(record)
        return producer.send(self.prefix + topic, record.value, record.key, partition=number)


class KafkaLog:
    """`headrace.log.Log` on Kafka. `servers` is what stands behind `kafka:` in a URL."""

    def __init__(
        self, servers: str, *, secured: KafkaSecurity | None = None, deadline_s: float = deadline_s_default
    ) -> None:
        bootstrap, _, query = servers.partition("?")
        options = parse_qs(query, keep_blank_values=True, strict_parsing=True) if query else {}
        if unknown := sorted(set(options) - {"prefix"}):
            raise Misconfigured(f"log kafka:{servers}: wanted only the option prefix, found {', '.join(unknown)}")
        common = _common_options(bootstrap, secured or security(), deadline_s)
        self._client = _Client(common, options.get("prefix", [""])[-1], deadline_s)
        self._admin: KafkaAdminClient | None = None
        self._lock = threading.Lock()
        with _translated(f"Kafka at {bootstrap}"):
            self._consumer = self._client.consumer()

    @contextmanager
    def _administrator(self) -> Iterator[KafkaAdminClient]:
        """Give the administration client, opened at its first use, to one thread at a time."""
        with self._lock, _translated("Kafka administration"):
            if self._admin is None:
                self._admin = KafkaAdminClient(**self._client.options)
            yield self._admin

    def create(self) -> None:
        prefix = self._client.prefix
        with self._administrator() as admin:
            brokers = len(admin.describe_cluster()["brokers"])
            present = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}
            missing = {}
            for topic in TOPICS.values():
                found = present.get(prefix + topic.name, topic.partitions)
                if found != topic.partitions:
                    raise Misconfigured(f"topic {topic.name}: wanted {topic.partitions} partitions, found {found}")
                if prefix + topic.name not in present:
                    replicas = min(replicas_max, brokers)
                    missing[prefix + topic.name] = {
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
                    admin.create_topics(missing, timeout_ms=self._client.deadline_ms)
                admin.wait_for_topics(list(missing), timeout_ms=self._client.deadline_ms)

    def _bound(self, partition: Partition, which: Callable[..., dict[TopicPartition, int]]) -> int:
        place = self._client.place(partition)
        with _translated(f"Kafka topic {place.topic}"):
            return which([place], timeout_ms=self._client.deadline_ms)[place]

    def first(self, partition: Partition) -> int:
        with self._lock:
            return self._bound(partition, self._consumer.beginning_offsets)

    def end(self, partition: Partition) -> int:
        with self._lock:
            return self._bound(partition, self._consumer.end_offsets)

    def position_at(self, partition: Partition, time_ms: int) -> int:
        place = self._client.place(partition)
        with self._lock, _translated(f"Kafka topic {place.topic}"):
            found = self._consumer.offsets_for_times({place: time_ms}, timeout_ms=self._client.deadline_ms)[place]
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

    def _last_from(self, reader: "KafkaReader", partition: Partition, start: int, end: int) -> Record | None:
        reader.seek(partition, start)
        last = None
        deadline = time.monotonic() + self._client.deadline_s
        while reader.position(partition) < end:
            for _, records in reader.read(10_000, 0.05):
                last = records[-1]
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{partition.topic}/{partition.number}: records {start} to {end} did not come")
        return last

    def delete_before(self, partition: Partition, position: int) -> None:
        with self._administrator() as admin:
            admin.delete_records({self._client.place(partition): position}, timeout_ms=self._client.deadline_ms)

    def committed(self, writer_id: str) -> dict[Partition, int]:
        prefix = self._client.prefix
        group = prefix + writer_id
        with self._administrator() as admin:
            found = admin.list_group_offsets({group: None})[group]
        return {Partition(place.topic.removeprefix(prefix), place.partition): at.offset for place, at in found.items()}

    def reader(self, positions: Mapping[Partition, int]) -> "KafkaReader":
        with _translated("Kafka reader"):
            return KafkaReader(self._client, positions)

    def writer(self, writer_id: str) -> "KafkaWriter":
        with _translated(f"Kafka writer {writer_id}"):
            return KafkaWriter(self._client, writer_id)

    def appender(self) -> "KafkaAppender":
        with _translated("Kafka appender"):
            return KafkaAppender(self._client)

    def close(self) -> None:
        with self._lock:
            self._consumer.close()
            if self._admin is not None:
                self._admin.close()


def _common_options(bootstrap: str, secured: KafkaSecurity, deadline_s: float) -> dict[str, Any]:
    return {
        "bootstrap_servers": bootstrap.split(","),
        "bootstrap_timeout_ms": int(deadline_s * 1000),
        "request_timeout_ms": int(min(10.0, deadline_s / 2) * 1000),
        "security_protocol": secured.protocol,
        "sasl_mechanism": secured.sasl_mechanism,
        "sasl_plain_username": secured.sasl_username,
        "sasl_plain_password": secured.sasl_password,
        "ssl_cafile": secured.ssl_cafile,
        "reconnect_backoff_max_ms": 1_000,
    }


class KafkaReader:
    """`headrace.log.Reader` over one consumer without a group.

    Each poll takes all records that the client has parsed, and what a read does not return waits here: a partition that
    is paused while the client itself holds parsed records of it may never be resumed (seen with 3.0.12).
    """

    def __init__(self, client: _Client, positions: Mapping[Partition, int]) -> None:
        self._client, self._consumer = client, client.consumer()
        self._places = {partition: client.place(partition) for partition in positions}
        self._partitions = {place: partition for partition, place in self._places.items()}
        self._chunks: dict[Partition, deque[list[Record]]] = {partition: deque() for partition in positions}
        self._order = deque(positions)
        self._paused: set[TopicPartition] = set()
        self._heard = time.monotonic()
        self._consumer.assign(list(self._partitions))
        for partition, position in positions.items():
            self.seek(partition, position)

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        wanted = [partition for partition in self._order if only is None or partition in only]
        self._order.rotate(-1)  # so that a full partition cannot starve the others
        self._fill(wanted, 0.0 if any(self._chunks[partition] for partition in wanted) else timeout_s)
        batches = []
        for partition in wanted:
            if records_max <= 0:
                break
            if records := self._take(partition, records_max):
                batches.append((partition, records))
                records_max -= len(records)
        return batches

    def _take(self, partition: Partition, records_max: int) -> list[Record]:
        chunks = self._chunks[partition]
        taken: list[Record] = []
        while chunks and len(taken) < records_max:
            chunk = chunks.popleft()
            room = records_max - len(taken)
            taken += chunk[:room]
            if len(chunk) > room:
                chunks.appendleft(chunk[room:])
        return taken

    def _fill(self, wanted: Collection[Partition], timeout_s: float) -> None:
        """Poll once, for wanted partitions that have room."""
        full = {p for p, chunks in self._chunks.items() if p not in wanted or len(chunks) >= chunks_max}
        paused = {self._places[partition] for partition in full}
        if paused != self._paused:
            self._consumer.resume(*(self._paused - paused))
            self._consumer.pause(*(paused - self._paused))
            self._paused = paused
        try:
            with _translated("Kafka reader"):
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=sys.maxsize)
        except LogUnavailable as error:
            if isinstance(error.__cause__, _LOST):
                self._raise_lost()
            raise
        for place, records in polled.items():
            self._chunks[self._partitions[place]].append(
                [Record(r.partition, r.offset, r.timestamp, r.key, r.value) for r in records]
            )
        if polled:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > min(silence_s, self._client.deadline_s):
            self._check_alive()

    def _raise_lost(self) -> None:
        """Raise PositionLost with the bounds of the partition whose position is outside."""
        with _translated("Kafka reader"):
            firsts = self._consumer.beginning_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
            ends = self._consumer.end_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
        for place, partition in self._partitions.items():
            position = self._fetched(partition)
            if not firsts[place] <= position <= ends[place]:
                raise PositionLost(partition.topic, partition.number, position, firsts[place], ends[place])

    def _check_alive(self) -> None:
        """`poll` says nothing when the broker is gone, so ask for something that must be answered."""
        self.end(self._order[0])
        self._heard = time.monotonic()

    def seek(self, partition: Partition, position: int) -> None:
        self._chunks[partition].clear()
        self._consumer.seek(self._places[partition], position)

    def position(self, partition: Partition) -> int:
        chunks = self._chunks[partition]
        return chunks[0][0].offset if chunks else self._fetched(partition)

    def _fetched(self, partition: Partition) -> int:
        """Return the position up to which the client has read, past markers."""
        with _translated("Kafka reader"):
            position = self._consumer.position(self._places[partition], timeout_ms=self._client.deadline_ms)
        if position is None:
            raise LogUnavailable(f"{partition.topic}/{partition.number}: the client has no position")
        return int(position)

    def end(self, partition: Partition) -> int:
        place = self._places[partition]
        with _translated(f"Kafka topic {place.topic}"):
            return int(self._consumer.end_offsets([place], timeout_ms=self._client.deadline_ms)[place])

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

    def __init__(self, client: _Client, writer_id: str) -> None:
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
        sent = [self._client.send(producer, record) for record in records]
        if grouping:
            places = {self._client.place(partition): at for partition, at in self._ungrouped.items()}
            offsets = {place: OffsetAndMetadata(at, "", -1) for place, at in places.items()}
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
        _abandon(self._producer)


def _abandon(producer: KafkaProducer) -> None:
    """Close a producer without waiting for what it has in flight.

    Its own `close` first flushes, and leaves its thread running if that does not succeed; so the thread is ended first,
    which fails what waits.
    """
    sender = producer._sender
    sender.force_close()
    sender.join(close_timeout_s)
    with suppress(kafka_errors.KafkaError):
        producer.close(timeout=0)


class KafkaAppender:
    """`headrace.log.Appender`: an idempotent producer, outside transactions, with bounded un-acknowledged bytes."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._producer = self._build()
        self._waiting: deque[tuple[Any, Outgoing, int]] = deque()
        self._bytes = 0
        self._closed = False

    def _build(self) -> KafkaProducer:
        return self._client.producer(linger_ms=5, batch_size=2**17)

    @property
    def unacknowledged_bytes(self) -> int:
        """Key and value bytes that the broker has not yet acknowledged."""
        return self._bytes

    def append(self, record: Outgoing) -> None:
        size = check_size(record)
        waiting = self._waiting
        while waiting and (waiting[0][0].is_done or self._bytes + size > unacknowledged_bytes_max):
            self._await_oldest()
        try:
            waiting.append((self._client.send(self._producer, record), record, size))
        except kafka_errors.KafkaError as error:
            raise _ours(error, "Kafka appender") from error
        self._bytes += size

    def _await_oldest(self) -> None:
        future, _, size = self._waiting[0]
        try:
            future.get(timeout=self._client.deadline_s)
        except kafka_errors.KafkaError as error:
            if _is_unknown(error):
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
            for future, _, _ in self._waiting:  # now each outcome is known: nothing is sent twice
                with suppress(kafka_errors.KafkaError):
                    future.get(timeout=self._client.deadline_s)
                if not future.succeeded() and _is_unknown(future.exception):
                    raise future.exception or kafka_errors.KafkaTimeoutError("no answer")
            failed = [record for future, record, _ in self._waiting if future.failed()]
            self._waiting.clear()
            self._bytes = 0
            refusals = []
            _abandon(self._producer)
            self._producer = self._build()
            for record in failed:
                try:
                    self._client.send(self._producer, record).get(timeout=self._client.deadline_s)
                except kafka_errors.KafkaError as error:
                    if _is_unknown(error):
                        raise
                    refusals.append(f"record for {record.topic} refused by the broker: {error}")
                    _abandon(self._producer)
                    self._producer = self._build()
        if refusals:
            raise ValueError("; ".join(refusals))

    def flush(self) -> None:  # the client's own fails when it has split a batch
        while self._waiting:
            self._await_oldest()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self.flush()
            finally:
                _abandon(self._producer)
