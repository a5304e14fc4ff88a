"""The Kafka client as we use it: the one module that imports it. Options, errors in our words, how to leave.

`headrace.kafka_log` says what was measured, and is therefore done.
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
from kafka.admin import TransactionState
from kafka.errors import KafkaError as KafkaError
from kafka.errors import KafkaTimeoutError as KafkaTimeoutError
from kafka.errors import TopicAlreadyExistsError as TopicAlreadyExistsError
from kafka.errors import TopicAuthorizationFailedError as TopicAuthorizationFailedError
from kafka.errors import for_code as for_code
from kafka.net.sasl import get_sasl_mechanism
from kafka.structs import OffsetAndMetadata

from headrace.errors import BrokenWorld, Fenced, LogUnavailable, Misconfigured
from headrace.kafka_security import KafkaSecurity
from headrace.log import Outgoing, Partition
from headrace.topics import place_of

fetch_bytes = 2**18
"""Bytes of one partition that the broker sends at a time (or one larger record): about 50 ms of parsing for four."""
close_timeout_s = 2.0
"""How long each of an abandoned producer's threads may take to end."""

retry_s = 0.1
look_s = 0.005
handshake_s_max = 5.0

T = TypeVar("T")
LOST = (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError)
"""What says that a position is outside what the log holds."""
_FENCING = (kafka_errors.ProducerFencedError, kafka_errors.InvalidProducerEpochError)
_DENIAL = re.compile("(Topic|Group|TransactionalId|Cluster)AuthorizationFailed")
"""What says that a right is denied, be it in another error's text: so the client passes some of them on."""


@contextmanager
def translated(what: str, right: str = "Describe") -> Iterator[None]:
    """Turn the client's errors into ours; `right` is what a broker asks for meanwhile."""
    try:
        yield
    except KafkaError as error:
        raise ours(error, what, right) from error


def ours(error: KafkaError, what: str, right: str) -> BrokenWorld | Misconfigured:
    """Return the failure of `what` in our words."""
    if _is_denial(error):
        return refusal(f"{right} ({what}: {textwrap.shorten(str(error), 200)})")
    causes = [error, *error.args]  # the client wraps a producer's first error in a later one's arguments
    if any(isinstance(cause, _FENCING) or cause in _FENCING for cause in causes):
        return Fenced(f"{what}: another writer has taken over ({error})")
    return LogUnavailable(f"{what}: {type(error).__name__} {error}")


def refusal(rights: str) -> Misconfigured:
    """Return what says that rights are denied us."""
    return Misconfigured(f"Kafka denies {rights}; docs/topics.md lists the rights that each process needs")


def _is_denial(error: BaseException) -> bool:
    return _DENIAL.search(f"{type(error).__name__} {error}") is not None


def is_refusal(error: BaseException | None) -> bool:
    """Say whether a broker refused a record for what it is.

    All else befalls the records behind it, too: it may or may not have been written, or a right is denied.
    """
    return error is not None and not isinstance(error, kafka_errors.RetriableError) and not _is_denial(error)


class _Handshake:
    """What the client takes for an SSL context: shakes hands within a time, where the client waits for ever.

    The client's thread waits meanwhile, a round trip or two.
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

    def offsets(self, positions: Mapping[Partition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return positions as a consumer group's."""
        return {self.place(partition): OffsetAndMetadata(at, "", -1) for partition, at in positions.items()}


def common_options(
    servers: Sequence[str], secured: KafkaSecurity, tls: ssl.SSLContext | None, deadline_s: float
) -> dict[str, Any]:
    """Return the options that every client of a log is made with."""
    return {
        "bootstrap_servers": list(servers),
        "bootstrap_timeout_ms": int(deadline_s * 1000),
        "request_timeout_ms": int(min(10.0, deadline_s / 2) * 1000),
        "reconnect_backoff_max_ms": 1_000,
        "ssl_context": tls and _Handshake(tls, min(handshake_s_max, deadline_s / 2)),
        **_names(secured),
    }


def sasl_mechanism(secured: KafkaSecurity) -> Any:
    """Return the client's side of proving who we are: `auth_bytes` and `receive`, in turn until `is_done`."""
    return get_sasl_mechanism(secured.sasl_mechanism)(**_names(secured))


def _names(secured: KafkaSecurity) -> dict[str, Any]:
    return {
        "security_protocol": secured.security_protocol,
        "sasl_mechanism": secured.sasl_mechanism,
        "sasl_plain_username": secured.sasl_username,
        "sasl_plain_password": secured.sasl_password,
    }


def asked(question: Callable[[], T], timeout_s: float) -> T:
    """Return the answer to a question of the administration client's, which asks but once and may be too early."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return question()
        except kafka_errors.RetriableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(retry_s)


def aborts(admin: KafkaAdminClient, transactional_id: str, places: Collection[TopicPartition]) -> bool:
    """Say whether what hangs of an id must come to nothing once the id is taken over: asked before.

    It must if its newest transaction was aborted. It must, too, if one is open in any of these partitions: that will be
    aborted, and what hangs in the same partitions with it; the others must not keep what those lose.
    """
    try:
        newest = admin.describe_transactions([transactional_id])[transactional_id]
    except kafka_errors.TransactionalIdNotFoundError:
        return False
    if newest.state is TransactionState.ONGOING:
        return not newest.topic_partitions.isdisjoint(places)
    return newest.state in (TransactionState.PREPARE_ABORT, TransactionState.COMPLETE_ABORT)


def hanging(
    admin: KafkaAdminClient, producer: KafkaProducer, places: Collection[TopicPartition]
) -> set[TopicPartition]:
    """Return the partitions that wait for the end of a transaction of a producer's, asked while it has none open."""
    own = producer._transaction_manager.producer_id_and_epoch.producer_id
    return {
        place
        for place, found in admin.describe_producers(places).items()
        for one in found.active_producers
        if one.producer_id == own and one.current_transaction_start_offset >= 0
    }


def enlist(producer: KafkaProducer, places: Collection[TopicPartition], timeout_s: float) -> None:
    """Give the transaction that is open these partitions too, without a record, so that its end is theirs.

    Waits until the coordinator knows: an end that came before would leave them out.
    """
    transaction = producer._transaction_manager
    for place in places:
        transaction.maybe_add_partition_to_transaction(place)
    producer._sender.wakeup()
    deadline = time.monotonic() + timeout_s
    while not all(transaction.is_partition_added(place) for place in places):
        if transaction.has_error() or time.monotonic() > deadline:
            raise transaction.last_error or KafkaTimeoutError(f"{len(places)} partitions were not enlisted")
        time.sleep(look_s)


def abandon(producer: KafkaProducer) -> None:
    """Close a producer without waiting for what it has in flight.

    Its own `close` first flushes, and leaves its thread running if that does not succeed; so the thread is ended first,
    which fails what waits.
    """
    sender = producer._sender
    sender.force_close()
    sender.join(close_timeout_s)
    with suppress(KafkaError):
        producer.close(timeout=0)
