"""The log on Apache Kafka (brokers 4.1 or later).

A URL is `kafka:HOST:PORT[,HOST:PORT][?prefix=NAME]`; the prefix stands before the names of topics, writer ids and
groups, so that several shops (or tests) share a cluster. TLS and passwords are configured separately
(`headrace.log.kafka.security`). This module has the log's queries; `reader`, `writer` and `appender` read and write
records, and only `client` imports the client library.

Design choices and the measurements behind them (kafka-python 3.0.12, broker on the same two cores):

- Readers use `assign` and `poll` in batches: no group, no rebalance listeners, no iterator (which has a third of the
  speed). They read bytes, because a deserialiser that raises makes `poll` fail forever at the same record.
- With `auto_offset_reset="none"`, a lost range stops the reader with the exact bounds; it is not skipped.
- Topics use the append time as the record's timestamp: with event time, records of 2010 were deleted at the first
  retention check.
- Transactions run in their own thread, with `linger_ms=0` and `retry_backoff_ms=5` (18 ms; 52 ms by default), so that
  the caller folds the next batch meanwhile. Group offsets cost another 10 ms and serve only lag tools, so they are sent
  every `maintenance_interval_s`.
- Client calls that may wait forever, and the TLS handshake, get a deadline. The client does not report why a broker
  refuses a connection, so `probe` connects first. For topics that the user may not describe, the client waits for
  their leaders until the deadline or omits them from its answer; so the user's rights are queried first, too.
- The client accepts records without a bound while the broker is down, so unacknowledged bytes are bounded here.
- A rejected record makes the idempotent producer fail for all later ones. So sizes are checked first, and after a
  rejection the producer is replaced and the unacknowledged records are sent again.

Only trusted producers may write to the topics: a batch of 306 KB was seen to decompress to 300 MB, and the client
offers no limit for that.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qs
from uuid import UUID

from headrace import watchdog
from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.kafka.appender import KafkaAppender
from headrace.log.kafka.client import (
    Client,
    InvalidPartitionsError,
    KafkaAdminClient,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    TopicPartition,
    call_with_retries,
    common_options,
    for_code,
    hidden_offsets,
    hung_close_s,
    permission_denied,
    translated_errors,
)
from headrace.log.kafka.probe import probe_brokers
from headrace.log.kafka.reader import KafkaReader
from headrace.log.kafka.security import KafkaSecurity, read_security
from headrace.log.kafka.topic_settings import check_topic, describe_topics
from headrace.log.kafka.writer import KafkaWriter
from headrace.log.protocol import TRANSACTION_TIMEOUT_S, Finding, Partition, Record
from headrace.topics import JOURNAL, JUDGEMENTS, SCALABLE, TOPICS, Right, partitions_of

deadline_s_default = 30.0
"""Time without an answer after which LogUnavailable is raised. Leader elections take seconds."""
hidden_timeout_s = 2.0
"""How long a look for open transactions waits for partitions without a leader; the caller looks again later."""
probe_deadlines = 3.0
"""The brokers are probed up to twice, each time with a deadline of its own; longer than so many deadlines is a hang."""
administration_deadlines = 6.0
"""A use of the administration client that lasts for longer than so many deadlines hangs; creating topics takes several
calls, each with a deadline of its own."""
replicas_max = 3
IMPLYING_DESCRIBE = "Read, Write and Describe"
"""What is denied where Describe is: each of the others includes it."""
NO_TOPIC_ID = UUID(int=0)
GROWING = (JOURNAL, JUDGEMENTS)
"""Topics with a partition for each shard: those that an older version made have fewer, and get the others."""


class KafkaLog:
    """`headrace.log.protocol.Log` on Kafka. `servers` is the part of the URL after `kafka:`."""

    def __init__(
        self, servers: str, *, security: KafkaSecurity | None = None, deadline_s: float = deadline_s_default
    ) -> None:
        bootstrap, _, query = servers.partition("?")
        addresses = bootstrap.split(",")
        for server in addresses:
            host, _, port = server.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise Misconfigured(f"log kafka:{servers}: wanted HOST:PORT, found {server!r}")
        options = parse_qs(query, keep_blank_values=True)
        if unknown := sorted(set(options) - {"prefix"}):
            raise Misconfigured(f"log kafka:{servers}: wanted only the option prefix, found {', '.join(unknown)}")
        security = security or read_security()
        tls = security.tls()
        common = common_options(addresses, security, tls, deadline_s)
        self._client = Client(common, options.get("prefix", [""])[-1], deadline_s, {})
        with self._client.wait("a broker that answers", probe_deadlines):
            probe_brokers(addresses, security, tls, deadline_s)
        self._admin: KafkaAdminClient | None = None
        self._closed = False
        self._allowed: dict[str, Collection[str]] | None = None
        self._lock = threading.Lock()
        with translated_errors(f"Kafka at {bootstrap}"):
            self._consumer = self._client.consumer()

    @contextmanager
    def _administrator(self) -> Iterator[KafkaAdminClient]:
        """Lend the administration client to one thread at a time. It is opened at the first use."""
        with (
            self._client.wait("administration", administration_deadlines),
            self._lock,
            translated_errors("Kafka administration"),
        ):
            if self._closed:
                raise LogUnavailable("the log is closed")
            if self._admin is None:
                self._admin = KafkaAdminClient(**self._client.options)
            yield self._admin

    def _allowed_operations(self) -> dict[str, Collection[str]]:
        """Return the operations, in capitals, that this user may do on each topic. Omits topics of unknown rights."""
        prefix = self._client.prefix
        with self._administrator() as admin:
            return {
                topic["name"].removeprefix(prefix): topic["authorized_operations"] or ()
                for topic in admin.describe_topics([prefix + name for name in TOPICS])
                if topic["authorized_operations"] or topic["error_code"] == TopicAuthorizationFailedError.errno
            }

    def _check_rights(self, wanted: Iterable[Right], *, refresh: bool = False) -> None:
        """Raise Misconfigured if one of these rights concerns a topic and is denied."""
        allowed = self._allowed
        if refresh or allowed is None:
            allowed = self._allowed = self._allowed_operations()
        denied = [
            f"{IMPLYING_DESCRIBE if operation == 'Describe' else operation} on topic {self._client.prefix}{name}"
            for operation, kind, name, _ in wanted
            if kind == "topic" and operation.upper() not in allowed.get(name, [operation.upper()])
        ]
        if denied:
            raise permission_denied(", ".join(denied))

    def create(self) -> None:
        prefix = self._client.prefix
        with self._administrator() as admin:
            brokers = len(admin.describe_cluster()["brokers"])
            present = {topic["name"]: topic for topic in admin.describe_topics([prefix + name for name in TOPICS])}
            missing, growing = {}, {}
            for topic in TOPICS.values():
                found = present[prefix + topic.name]
                if found["error_code"] == TopicAuthorizationFailedError.errno:
                    continue  # whoever may not see a topic either does without it, or is told when it asks for it
                if found["error_code"] == 0 and len(found["partitions"]) < topic.partitions and topic.name in GROWING:
                    growing[prefix + topic.name] = topic.partitions
                elif topic.name in SCALABLE:
                    self._client.partitions[topic.name] = len(found["partitions"]) or topic.partitions
                elif found["error_code"] == 0 and len(found["partitions"]) != topic.partitions:
                    raise Misconfigured(
                        f"topic {topic.name}: wanted {topic.partitions} partitions, found {len(found['partitions'])}"
                    )
                if found["error_code"]:
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
            if growing:
                self._grow(admin, growing)
            if missing:
                created = admin.create_topics(missing, timeout_ms=self._client.deadline_ms, raise_errors=False)
                errors = {
                    topic["name"]: for_code(topic["error_code"]) for topic in created["topics"] if topic["error_code"]
                }
                if denied := [name for name in missing if errors.get(name) is TopicAuthorizationFailedError]:
                    raise permission_denied(f"Create on topics that are missing ({', '.join(denied)})")
                for name, error in errors.items():
                    if error is not TopicAlreadyExistsError:  # another process has created it meanwhile
                        raise error(name)
                admin.wait_for_topics(list(missing), timeout_ms=self._client.deadline_ms)

    def _grow(self, admin: KafkaAdminClient, growing: dict[str, int]) -> None:
        """Add partitions to topics until they have so many, and wait until they are there."""
        results = admin.create_partitions(growing, timeout_ms=self._client.deadline_ms, raise_errors=False).results
        errors = {one.name: for_code(one.error_code) for one in results if one.error_code}
        for name, error in errors.items():
            # Without the right, the shards that there were still have their partitions; or another process was quicker.
            if error not in (TopicAuthorizationFailedError, InvalidPartitionsError):
                raise error(name)
        waiting = [name for name in growing if errors.get(name) is not TopicAuthorizationFailedError]
        deadline = time.monotonic() + self._client.deadline_s
        while short := [
            topic["name"]
            for topic in (admin.describe_topics(waiting) if waiting else ())
            if sum(one["leader_id"] >= 0 for one in topic["partitions"]) < growing[topic["name"]]
        ]:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topics that grow have not got all their partitions: {', '.join(short)}")
            time.sleep(0.05)

    def _offset(self, partition: Partition, ask: Callable[..., Any], question: Callable[[TopicPartition], Any]) -> Any:
        """Return what the client answers about a partition to a question about it."""
        self._check_rights([Right("Describe", "topic", partition.topic)])
        place = self._client.topic_partition(partition)
        with (
            self._lock,
            self._client.wait("an offset"),
            translated_errors(f"Kafka topic {place.topic}", "Read and Describe"),
        ):
            try:
                return ask(question(place), timeout_ms=self._client.deadline_ms)[place]
            except KeyError:  # the client passes over a partition that this user may no longer describe
                pass
        self._described(partition.topic)
        raise LogUnavailable(f"Kafka topic {place.topic}: no answer about partition {place.partition}")

    def partitions(self, topic: str) -> list[Partition]:
        if topic not in (*SCALABLE, *GROWING):
            return partitions_of(topic)
        found = self._described(topic)
        self._client.partitions[topic] = len(found["partitions"])
        return [Partition(topic, number) for number in sorted(one["partition_index"] for one in found["partitions"])]

    def identity(self, topic: str) -> str:
        found = self._described(topic)
        id_ = UUID(str(found.get("topic_id", NO_TOPIC_ID)))  # brokers before 2.8 answer none
        return "" if id_ == NO_TOPIC_ID else id_.hex

    def _described(self, topic: str) -> dict[str, Any]:
        """Return what the broker says of a topic that is there.

        Raises Misconfigured if it may not be seen, also where that right was taken after the start.
        """
        self._check_rights([Right("Describe", "topic", topic)])
        with self._administrator() as admin:
            (found,) = admin.describe_topics([self._client.prefix + topic])
        if found["error_code"] == TopicAuthorizationFailedError.errno:
            raise permission_denied(f"{IMPLYING_DESCRIBE} on topic {self._client.prefix}{topic}")
        if not found["partitions"]:
            raise LogUnavailable(f"the log has no topic {self._client.prefix}{topic}; create the topics first")
        return cast(dict[str, Any], found)

    def first(self, partition: Partition) -> int:
        return int(self._offset(partition, self._consumer.beginning_offsets, lambda place: [place]))

    def end(self, partition: Partition) -> int:
        return int(self._offset(partition, self._consumer.end_offsets, lambda place: [place]))

    def position_at(self, partition: Partition, time_ms: int) -> int:
        found = self._offset(partition, self._consumer.offsets_for_times, lambda place: {place: time_ms})
        return self.end(partition) if found is None else int(found.offset)

    def last(self, partition: Partition) -> Record | None:
        return next(iter(self.newest(partition, 1)), None)

    def newest(self, partition: Partition, records_max: int, *, before: int | None = None) -> list[Record]:
        first, end = self.first(partition), self.end(partition)
        end = end if before is None else max(first, min(before, end))
        reader = self.reader({partition: end})
        try:
            span = max(8, 2 * records_max)  # a transaction of one record has a marker
            while True:  # the newest offsets may all be markers or aborted records
                start = max(first, end - span)
                found = self._between(reader, partition, start, end, records_max, before)
                if len(found) == records_max or start == first:
                    return found
                span *= 8
        finally:
            reader.close()

    def _between(
        self, reader: KafkaReader, partition: Partition, start: int, end: int, records_max: int, before: int | None
    ) -> list[Record]:
        """Return the last records between `start` and `end`, and those after it that have arrived meanwhile."""
        reader.seek(partition, start)
        found: list[Record] = []
        deadline = time.monotonic() + self._client.deadline_s
        while reader.position(partition) < end:
            for _, records in reader.read(10_000, 0.05):
                found += [record for record in records if before is None or record.offset < before]
                del found[:-records_max]
            if time.monotonic() > deadline:
                where = f"{partition.topic}/{partition.number}"
                raise LogUnavailable(f"{where}: records {start} to {end} did not arrive")
        return found

    def hidden(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        places = {self._client.topic_partition(partition): partition for partition in partitions}
        with self._administrator() as admin:
            found = hidden_offsets(admin, places, int(hidden_timeout_s * 1000))
        return {places[place]: one for place, one in found.items()}

    def missing(self) -> list[str]:
        prefix = self._client.prefix
        with self._administrator() as admin:
            found = admin.describe_topics([prefix + name for name in TOPICS])
        seen = {one["name"] for one in found if not one["error_code"]}
        return [name for name in TOPICS if prefix + name not in seen]

    def check_settings(self) -> tuple[list[Finding], list[str]]:
        with self._administrator() as admin:
            topics, unread = call_with_retries(
                lambda: describe_topics(admin, self._client.prefix), self._client.deadline_s
            )
        return [finding for one in topics for finding in check_topic(one)], unread

    def delete_before(self, partition: Partition, position: int) -> None:
        self._check_rights([Right("Delete", "topic", partition.topic)])
        with self._administrator() as admin:
            admin.delete_records(
                {self._client.topic_partition(partition): position}, timeout_ms=self._client.deadline_ms
            )

    def committed(self, writer_id: str) -> dict[Partition, int]:
        prefix = self._client.prefix
        group = prefix + writer_id
        with self._administrator() as admin, translated_errors("positions", f"Describe on group {group}"):
            found = call_with_retries(lambda: admin.list_group_offsets({group: None}), self._client.deadline_s)[group]
        return {Partition(at.topic.removeprefix(prefix), at.partition): offset.offset for at, offset in found.items()}

    def reader(self, positions: Mapping[Partition, int]) -> KafkaReader:
        topics = dict.fromkeys(partition.topic for partition in positions)
        self._check_rights([Right("Read", "topic", topic) for topic in topics], refresh=True)
        with translated_errors("Kafka reader", "Read"):
            return KafkaReader(self._client, positions)

    def writer(
        self,
        writer_id: str,
        writes: Collection[Partition] = (),
        reads: Collection[str] = (),
        *,
        timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> KafkaWriter:
        wanted = {Right("Write", "topic", place.topic): None for place in writes}
        topics = (*(place.topic for place in writes), *reads)
        wanted |= {Right("Read", "topic", topic): None for topic in topics}
        self._check_rights(wanted, refresh=True)
        with translated_errors(
            f"Kafka writer {writer_id}", f"Write on transactional id {self._client.prefix}{writer_id}"
        ):
            return KafkaWriter(self._client, writer_id, writes, self._administrator, timeout_s)

    def appender(self) -> KafkaAppender:
        with translated_errors("Kafka appender"):
            return KafkaAppender(self._client)

    def close(self) -> None:
        with watchdog.wait("Kafka: the end of the log's clients", hung_close_s), self._lock:
            self._closed = True
            self._consumer.close()
            if self._admin is not None:
                self._admin.close()
