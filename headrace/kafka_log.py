"""The log on Apache Kafka (brokers 4.1 or later).

A URL is `kafka:HOST:PORT[,HOST:PORT][?prefix=NAME]`; the prefix stands before the names of topics, writer ids and
groups, so that several shops (or tests) share a cluster. TLS and passwords come beside it
(`headrace.kafka_security`). Here is what a log can be asked; `kafka_reader`, `kafka_writer` and `kafka_appender`
read and write, and `kafka_client` alone imports the client.

What was measured, and is therefore done (kafka-python 3.0.12, broker on the same two cores):

- `assign` and `poll` in batches: no group, no rebalance listeners, no iterator (a third of the speed). Bytes only: a
  deserialiser that raises makes `poll` fail for ever at the same record.
- `auto_offset_reset="none"`: a lost range stops the reader with its exact bounds instead of being skipped.
- Topics stamp records with their append time: with event time, records of 2010 went at the first retention check.
- Transactions run in a thread of their own, with `linger_ms=0` and `retry_backoff_ms=5` (18 ms; 52 ms by default), so
  that the caller folds the next batch meanwhile. Group offsets cost another 10 ms: they go only every
  `care_interval_s`, for lag tools.
- Calls of the client that may wait for ever are waited for with a deadline; so is its TLS handshake. What a broker
  refuses it does not tell: `kafka_greeting` asks before it. For the leaders of topics that it may not see it waits
  until the deadline, or leaves such topics out of its answer: what the brokers allow us is asked before, too.
- The client takes records without bound while the broker is down: un-acknowledged bytes are bounded here.
- A refused record spoils the idempotent producer for all later ones: sizes are checked first, and on a refusal the
  producer is built anew and what was not acknowledged is sent again.

Only trusted producers may write to the topics: a batch of 306 KB was seen to unpack to 300 MB, and the client has no
bound for that.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import parse_qs

from headrace.errors import LogUnavailable, Misconfigured
from headrace.kafka_appender import KafkaAppender
from headrace.kafka_client import (
    Client,
    KafkaAdminClient,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    TopicPartition,
    asked,
    common_options,
    for_code,
    refusal,
    translated,
)
from headrace.kafka_greeting import greet
from headrace.kafka_reader import KafkaReader
from headrace.kafka_security import KafkaSecurity, security
from headrace.kafka_writer import KafkaWriter
from headrace.log import Partition, Record
from headrace.topics import TOPICS, Right, rights

deadline_s_default = 30.0
"""How long a broker may not answer before that is a broken world. Elections take seconds."""
replicas_max = 3


class KafkaLog:
    """`headrace.log.Log` on Kafka. `servers` is what stands behind `kafka:` in a URL."""

    def __init__(
        self, servers: str, *, secured: KafkaSecurity | None = None, deadline_s: float = deadline_s_default
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
        secured = secured or security()
        tls = secured.tls()
        greet(addresses, secured, tls, deadline_s)
        common = common_options(addresses, secured, tls, deadline_s)
        self._client = Client(common, options.get("prefix", [""])[-1], deadline_s)
        self._admin: KafkaAdminClient | None = None
        self._closed = False
        self._allowed: dict[str, Collection[str]] | None = None
        self._lock = threading.Lock()
        with translated(f"Kafka at {bootstrap}"):
            self._consumer = self._client.consumer()

    @contextmanager
    def _administrator(self) -> Iterator[KafkaAdminClient]:
        """Give the administration client, opened at its first use, to one thread at a time."""
        with self._lock, translated("Kafka administration"):
            if self._closed:
                raise LogUnavailable("the log is closed")
            if self._admin is None:
                self._admin = KafkaAdminClient(**self._client.options)
            yield self._admin

    def _told(self) -> dict[str, Collection[str]]:
        """Return what we may do to each topic, in capitals, as far as the brokers tell."""
        prefix = self._client.prefix
        with self._administrator() as admin:
            return {
                topic["name"].removeprefix(prefix): topic["authorized_operations"] or ()
                for topic in admin.describe_topics([prefix + name for name in TOPICS])
                if topic["authorized_operations"] or topic["error_code"] == TopicAuthorizationFailedError.errno
            }

    def _check(self, wanted: Iterable[Right], *, anew: bool = False) -> None:
        """Raise Misconfigured if one of these rights is on a topic, and denied."""
        allowed = self._allowed
        if anew or allowed is None:
            allowed = self._allowed = self._told()
        denied = [
            f"{'Read and Describe' if operation == 'Describe' else operation} on topic {self._client.prefix}{name}"
            for operation, kind, name in wanted
            if kind == "topic" and operation.upper() not in allowed.get(name, [operation.upper()])
        ]
        if denied:
            raise refusal(", ".join(denied))

    def create(self) -> None:
        prefix = self._client.prefix
        with self._administrator() as admin:
            brokers = len(admin.describe_cluster()["brokers"])
            present = {topic["name"]: topic for topic in admin.describe_topics([prefix + name for name in TOPICS])}
            missing = {}
            for topic in TOPICS.values():
                found = present[prefix + topic.name]
                if found["error_code"] == TopicAuthorizationFailedError.errno:
                    continue  # whoever may not see a topic either does without it, or is told when it asks for it
                if found["error_code"] == 0 and len(found["partitions"]) != topic.partitions:
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
            if missing:
                made = admin.create_topics(missing, timeout_ms=self._client.deadline_ms, raise_errors=False)["topics"]
                errors = {topic["name"]: for_code(topic["error_code"]) for topic in made if topic["error_code"]}
                if denied := [name for name in missing if errors.get(name) is TopicAuthorizationFailedError]:
                    raise refusal(f"Create on topics that are missing ({', '.join(denied)})")
                for name, error in errors.items():
                    if error is not TopicAlreadyExistsError:  # another process was quicker
                        raise error(name)
                admin.wait_for_topics(list(missing), timeout_ms=self._client.deadline_ms)

    def _bound(self, partition: Partition, which: Callable[..., dict[TopicPartition, int]]) -> int:
        place = self._client.place(partition)
        with translated(f"Kafka topic {place.topic}", "Read and Describe"):
            return which([place], timeout_ms=self._client.deadline_ms)[place]

    def first(self, partition: Partition) -> int:
        self._check([Right("Describe", "topic", partition.topic)])
        with self._lock:
            return self._bound(partition, self._consumer.beginning_offsets)

    def end(self, partition: Partition) -> int:
        self._check([Right("Describe", "topic", partition.topic)])
        with self._lock:
            return self._bound(partition, self._consumer.end_offsets)

    def position_at(self, partition: Partition, time_ms: int) -> int:
        place = self._client.place(partition)
        self._check([Right("Describe", "topic", partition.topic)])
        with self._lock, translated(f"Kafka topic {place.topic}", "Read and Describe"):
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

    def _last_from(self, reader: KafkaReader, partition: Partition, start: int, end: int) -> Record | None:
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
        self._check([Right("Delete", "topic", partition.topic)])
        with self._administrator() as admin:
            admin.delete_records({self._client.place(partition): position}, timeout_ms=self._client.deadline_ms)

    def committed(self, writer_id: str) -> dict[Partition, int]:
        prefix = self._client.prefix
        group = prefix + writer_id
        with self._administrator() as admin, translated("positions", f"Describe on group {group}"):
            found = asked(lambda: admin.list_group_offsets({group: None}), self._client.deadline_s)[group]
        return {Partition(place.topic.removeprefix(prefix), place.partition): at.offset for place, at in found.items()}

    def reader(self, positions: Mapping[Partition, int]) -> KafkaReader:
        topics = dict.fromkeys(partition.topic for partition in positions)
        self._check([Right("Read", "topic", topic) for topic in topics], anew=True)
        with translated("Kafka reader", "Read"):
            return KafkaReader(self._client, positions)

    def writer(self, writer_id: str) -> KafkaWriter:
        self._check(rights(writer_id), anew=True)
        with translated(f"Kafka writer {writer_id}", f"Write on transactional id {self._client.prefix}{writer_id}"):
            return KafkaWriter(self._client, writer_id, self._administrator)

    def appender(self) -> KafkaAppender:
        with translated("Kafka appender"):
            return KafkaAppender(self._client)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._consumer.close()
            if self._admin is not None:
                self._admin.close()
