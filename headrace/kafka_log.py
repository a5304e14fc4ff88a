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
  refuses it does not tell: `kafka_greeting` asks before it.
- The client takes records without bound while the broker is down: un-acknowledged bytes are bounded here.
- A refused record spoils the idempotent producer for all later ones: sizes are checked first, and on a refusal the
  producer is built anew and what was not acknowledged is sent again.

Only trusted producers may write to the topics: a batch of 306 KB was seen to unpack to 300 MB, and the client has no
bound for that.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs

from headrace.errors import LogUnavailable, Misconfigured
from headrace.kafka_appender import KafkaAppender
from headrace.kafka_client import (
    Client,
    KafkaAdminClient,
    TopicAlreadyExistsError,
    TopicPartition,
    asked,
    common_options,
    translated,
)
from headrace.kafka_greeting import greet
from headrace.kafka_reader import KafkaReader
from headrace.kafka_security import KafkaSecurity, security
from headrace.kafka_writer import KafkaWriter
from headrace.log import Partition, Record
from headrace.topics import TOPICS

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
        self._lock = threading.Lock()
        with translated(f"Kafka at {bootstrap}"):
            self._consumer = self._client.consumer()

    @contextmanager
    def _administrator(self) -> Iterator[KafkaAdminClient]:
        """Give the administration client, opened at its first use, to one thread at a time."""
        with self._lock, translated("Kafka administration"):
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
                with suppress(TopicAlreadyExistsError):  # another process was quicker
                    admin.create_topics(missing, timeout_ms=self._client.deadline_ms)
                admin.wait_for_topics(list(missing), timeout_ms=self._client.deadline_ms)

    def _bound(self, partition: Partition, which: Callable[..., dict[TopicPartition, int]]) -> int:
        place = self._client.place(partition)
        with translated(f"Kafka topic {place.topic}"):
            return which([place], timeout_ms=self._client.deadline_ms)[place]

    def first(self, partition: Partition) -> int:
        with self._lock:
            return self._bound(partition, self._consumer.beginning_offsets)

    def end(self, partition: Partition) -> int:
        with self._lock:
            return self._bound(partition, self._consumer.end_offsets)

    def position_at(self, partition: Partition, time_ms: int) -> int:
        place = self._client.place(partition)
        with self._lock, translated(f"Kafka topic {place.topic}"):
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
        with self._administrator() as admin:
            admin.delete_records({self._client.place(partition): position}, timeout_ms=self._client.deadline_ms)

    def committed(self, writer_id: str) -> dict[Partition, int]:
        prefix = self._client.prefix
        group = prefix + writer_id
        with self._administrator() as admin:
            found = asked(lambda: admin.list_group_offsets({group: None}), self._client.deadline_s)[group]
        return {Partition(place.topic.removeprefix(prefix), place.partition): at.offset for place, at in found.items()}

    def reader(self, positions: Mapping[Partition, int]) -> KafkaReader:
        with translated("Kafka reader"):
            return KafkaReader(self._client, positions)

    def writer(self, writer_id: str) -> KafkaWriter:
        with translated(f"Kafka writer {writer_id}"):
            return KafkaWriter(self._client, writer_id, self._administrator)

    def appender(self) -> KafkaAppender:
        with translated("Kafka appender"):
            return KafkaAppender(self._client)

    def close(self) -> None:
        with self._lock:
            self._consumer.close()
            if self._admin is not None:
                self._admin.close()
