"""The only module that imports the Kafka client: its options, translated errors, and how to abandon a producer.

The measurements behind these choices are in `headrace.log.kafka.log`.
"""

import re
import socket
import ssl
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient as KafkaAdminClient
from kafka import KafkaConsumer as KafkaConsumer
from kafka import KafkaProducer as KafkaProducer
from kafka import TopicPartition as TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource as ConfigResource
from kafka.admin import OffsetSpec, TransactionState
from kafka.errors import InvalidPartitionsError as InvalidPartitionsError
from kafka.errors import KafkaError as KafkaError
from kafka.errors import KafkaTimeoutError as KafkaTimeoutError
from kafka.errors import TopicAlreadyExistsError as TopicAlreadyExistsError
from kafka.errors import TopicAuthorizationFailedError as TopicAuthorizationFailedError
from kafka.errors import for_code as for_code
from kafka.net.sasl import get_sasl_mechanism
from kafka.structs import OffsetAndMetadata

from headrace import watchdog
from headrace.errors import BrokenWorld, Fenced, LogUnavailable, Misconfigured
from headrace.log.kafka.security import KafkaSecurity
from headrace.log.protocol import Outgoing, Partition
from headrace.topics import TOPICS, place_of

fetch_bytes = 2**18
"""Bytes per partition in one fetch (or one larger record). Four partitions then take about 50 ms to parse."""
close_timeout_s = 2.0
"""How long to wait for the end of each thread of an abandoned producer."""

hung_deadlines = 2.0
"""A wait for the client that lasts for longer than so many deadlines hangs. Those that have a deadline have ended."""
hung_close_s = 30.0
"""Time after which the end of a producer or a consumer hangs."""

retry_interval_s = 0.1
poll_interval_s = 0.005
handshake_timeout_s = 5.0

T = TypeVar("T")
POSITION_LOST_ERRORS = (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError)
"""The client's errors for a position outside what the log holds."""
_FENCING_ERRORS = (kafka_errors.ProducerFencedError, kafka_errors.InvalidProducerEpochError)
_PERMISSION_ERROR = re.compile("(Topic|Group|TransactionalId|Cluster)AuthorizationFailed")
"""Matches a denied right, even in another error's text, because the client wraps some of these errors."""


@contextmanager
def translated_errors(what: str, right: str = "Describe") -> Iterator[None]:
    """Translate the client's errors to Headrace's. `right` is what the broker checks for the enclosed calls."""
    try:
        yield
    except KafkaError as error:
        raise headrace_error(error, what, right) from error


def headrace_error(error: KafkaError, what: str, right: str) -> BrokenWorld | Misconfigured:
    """Return Headrace's exception for a client error during `what`."""
    if _is_permission_error(error):
        return permission_denied(f"{right} ({what}: {textwrap.shorten(str(error), 200)})")
    causes = [error, *error.args]  # the client wraps a producer's first error in a later one's arguments
    if any(isinstance(cause, _FENCING_ERRORS) or cause in _FENCING_ERRORS for cause in causes):
        return Fenced(f"{what}: another writer has taken over ({error})")
    return LogUnavailable(f"{what}: {type(error).__name__} {error}")


def permission_denied(rights: str) -> Misconfigured:
    """Return the exception that reports denied rights."""
    return Misconfigured(f"Kafka denies {rights}; docs/topics.md lists the rights that each process needs")


def _is_permission_error(error: BaseException) -> bool:
    return _PERMISSION_ERROR.search(f"{type(error).__name__} {error}") is not None


def is_record_rejected(error: BaseException | None) -> bool:
    """Return whether a broker rejected a record because of the record itself.

    Every other error affects later records, too: the outcome is unknown, or a right is denied.
    """
    return error is not None and not isinstance(error, kafka_errors.RetriableError) and not _is_permission_error(error)


class _TlsWithTimeout:
    """Stands in for the client's SSL context, with a timeout for the handshake; the client itself waits forever.

    The handshake blocks the client's thread for one or two round trips.
    """

    def __init__(self, tls: ssl.SSLContext, timeout_s: float) -> None:
        self._tls, self._timeout_s = tls, timeout_s

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str, **_: object) -> ssl.SSLSocket:
        sock.settimeout(self._timeout_s)
        try:
            wrapped = self._tls.wrap_socket(sock, server_hostname=server_hostname)
        except OSError as error:
            raise kafka_errors.KafkaConnectionError(f"TLS handshake with {server_hostname}: {error}") from error
        wrapped.setblocking(False)
        return wrapped


class Client(NamedTuple):
    """The settings that all clients of one log share, and the clients made from them.

    `partitions` has the number of partitions of each topic, as they were last seen.
    """

    options: dict[str, Any]
    prefix: str
    deadline_s: float
    partitions: dict[str, int]

    @property
    def deadline_ms(self) -> int:
        return int(self.deadline_s * 1000)

    def wait(self, what: str, deadlines: float = hung_deadlines) -> watchdog.Wait:
        """Return the watch on a wait for the client, which waits for some answers for ever."""
        return watchdog.wait(f"Kafka: {what}", deadlines * self.deadline_s)

    def topic_partition(self, partition: Partition) -> TopicPartition:
        return TopicPartition(self.prefix + partition.topic, partition.number)

    def consumer(self) -> KafkaConsumer:
        with self.wait("a connection"):
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
        with self.wait("a connection"):
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
        """Queue a record and return the client's future for it."""
        topic, number = place_of(record, self.partitions.get(record.topic, TOPICS[record.topic].partitions))
        return producer.send(self.prefix + topic, record.value, record.key, partition=number)

    def offsets(self, positions: Mapping[Partition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Convert positions to a consumer group's offsets."""
        return {self.topic_partition(partition): OffsetAndMetadata(at, "", -1) for partition, at in positions.items()}


def common_options(
    servers: Sequence[str], security: KafkaSecurity, tls: ssl.SSLContext | None, deadline_s: float
) -> dict[str, Any]:
    """Return the options that all clients of a log share."""
    return {
        "bootstrap_servers": list(servers),
        "bootstrap_timeout_ms": int(deadline_s * 1000),
        "request_timeout_ms": int(min(10.0, deadline_s / 2) * 1000),
        "reconnect_backoff_max_ms": 1_000,
        "ssl_context": tls and _TlsWithTimeout(tls, min(handshake_timeout_s, deadline_s / 2)),
        **_security_options(security),
    }


def sasl_mechanism(security: KafkaSecurity) -> Any:
    """Return the SASL client: call `auth_bytes` and `receive` in turn until `is_done`."""
    return get_sasl_mechanism(security.sasl_mechanism)(**_security_options(security))


def _security_options(security: KafkaSecurity) -> dict[str, Any]:
    return {
        "security_protocol": security.security_protocol,
        "sasl_mechanism": security.sasl_mechanism,
        "sasl_plain_username": security.sasl_username,
        "sasl_plain_password": security.sasl_password,
    }


def call_with_retries(call: Callable[[], T], timeout_s: float) -> T:
    """Call a method of the administration client until it succeeds, as that client does not retry by itself."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except kafka_errors.RetriableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(retry_interval_s)


def hidden_offsets(
    admin: KafkaAdminClient, partitions: Collection[TopicPartition], timeout_ms: int
) -> dict[TopicPartition, tuple[int, int]]:
    """Return the last stable offset of partitions whose high watermark is beyond it, and how many offsets it hides."""
    latest = dict.fromkeys(partitions, OffsetSpec.LATEST)
    written, stable = (
        admin.list_partition_offsets(latest, isolation_level=level, timeout_ms=timeout_ms)
        for level in ("read_uncommitted", "read_committed")
    )
    return {
        partition: (one.offset, written[partition].offset - one.offset)
        for partition, one in stable.items()
        if written[partition].offset > one.offset
    }


def must_abort_hanging(admin: KafkaAdminClient, transactional_id: str, partitions: Collection[TopicPartition]) -> bool:
    """Return whether the previous writer's hanging transaction must be aborted. Call before fencing that writer.

    It must be aborted if the id's newest transaction was aborted, or if one is open in any of these partitions. Fencing
    aborts an open transaction, and with it the hanging one in the same partitions; the other partitions must not keep
    records that these lose.
    """
    try:
        newest = admin.describe_transactions([transactional_id])[transactional_id]
    except kafka_errors.TransactionalIdNotFoundError:
        return False
    if newest.state is TransactionState.ONGOING:
        return not newest.topic_partitions.isdisjoint(partitions)
    return newest.state in (TransactionState.PREPARE_ABORT, TransactionState.COMPLETE_ABORT)


def hanging_partitions(
    admin: KafkaAdminClient, producer: KafkaProducer, partitions: Collection[TopicPartition]
) -> set[TopicPartition]:
    """Return the partitions where a producer's transaction hangs. Call while it has no transaction open."""
    producer_id = producer._transaction_manager.producer_id_and_epoch.producer_id
    return {
        partition
        for partition, found in admin.describe_producers(partitions).items()
        for one in found.active_producers
        if one.producer_id == producer_id and one.current_transaction_start_offset >= 0
    }


def add_partitions(producer: KafkaProducer, partitions: Collection[TopicPartition], timeout_s: float) -> None:
    """Add partitions to the open transaction without sending a record, so that its end marker reaches them, too.

    Waits until the coordinator has added them: a transaction that ends earlier would omit them.
    """
    transaction = producer._transaction_manager
    for partition in partitions:
        transaction.maybe_add_partition_to_transaction(partition)
    producer._sender.wakeup()
    deadline = time.monotonic() + timeout_s
    while not all(transaction.is_partition_added(partition) for partition in partitions):
        if transaction.has_error() or time.monotonic() > deadline:
            raise transaction.last_error or KafkaTimeoutError(f"{len(partitions)} partitions not added in time")
        time.sleep(poll_interval_s)


def abandon(producer: KafkaProducer) -> None:
    """Close a producer without waiting for its records in flight.

    The producer's own `close` flushes first, and leaves its thread running if the flush fails. So the thread is stopped
    first, which fails the pending records.
    """
    with watchdog.wait("Kafka: the end of a producer", hung_close_s):
        sender = producer._sender
        sender.force_close()
        sender.join(close_timeout_s)
        with suppress(KafkaError):
            producer.close(timeout=0)
