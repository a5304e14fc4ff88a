"""Appends to Kafka outside transactions, with a bound on unacknowledged bytes."""

from collections import deque
from contextlib import suppress
from typing import Any

from headrace.errors import BrokenWorld, Misconfigured
from headrace.log.kafka.client import (
    Client,
    KafkaError,
    KafkaProducer,
    KafkaTimeoutError,
    abandon,
    headrace_error,
    is_record_rejected,
    translated_errors,
)
from headrace.log.protocol import Outgoing, check_size

unacknowledged_bytes_max = 16 * 2**20
"""Key and value bytes that may be unacknowledged before `append` waits."""


class KafkaAppender:
    """`headrace.log.protocol.Appender`: an idempotent producer with a bound on unacknowledged bytes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._producer = self._new_producer()
        self._unacknowledged: deque[tuple[Any, Outgoing, int]] = deque()
        self._bytes = 0
        self._closed = False

    def _new_producer(self) -> KafkaProducer:
        return self._client.producer(linger_ms=5, batch_size=2**17)

    @property
    def unacknowledged_bytes(self) -> int:
        """Key and value bytes that the broker has not yet acknowledged."""
        return self._bytes

    def append(self, record: Outgoing) -> None:
        size = check_size(record)
        unacknowledged = self._unacknowledged
        while unacknowledged and (unacknowledged[0][0].is_done or self._bytes + size > unacknowledged_bytes_max):
            self._await_oldest()
        try:
            unacknowledged.append((self._client.send(self._producer, record), record, size))
        except KafkaError as error:
            raise self._translated(error, record) from error
        self._bytes += size

    def _await_oldest(self) -> None:
        future, record, size = self._unacknowledged[0]
        try:
            future.get(timeout=self._client.deadline_s)
        except KafkaError as error:
            if not is_record_rejected(error):
                raise self._translated(error, record) from error
            self._resend()
        else:
            self._unacknowledged.popleft()
            self._bytes -= size

    def _translated(self, error: KafkaError, record: Outgoing) -> BrokenWorld | Misconfigured:
        return headrace_error(error, "Kafka appender", f"Write on topic {self._client.prefix}{record.topic}")

    def _resend(self) -> None:
        """Replace the producer after the broker rejected a record, and resend the failed records one by one.

        Raises:
            ValueError: the broker rejected a record again, sent alone; that record is dropped, the others were sent.
        """
        with translated_errors("Kafka appender", "Write"):
            for future, _, _ in self._unacknowledged:  # learn each outcome first, so that no record is sent twice
                with suppress(KafkaError):
                    future.get(timeout=self._client.deadline_s)
                if not future.succeeded() and not is_record_rejected(future.exception):
                    raise future.exception or KafkaTimeoutError("no answer")
            failed = [record for future, record, _ in self._unacknowledged if future.failed()]
            self._unacknowledged.clear()
            self._bytes = 0
            rejections = []
            abandon(self._producer)
            self._producer = self._new_producer()
            for record in failed:
                try:
                    self._client.send(self._producer, record).get(timeout=self._client.deadline_s)
                except KafkaError as error:
                    if not is_record_rejected(error):
                        raise
                    rejections.append(f"record for {record.topic} rejected by the broker: {error}")
                    abandon(self._producer)
                    self._producer = self._new_producer()
        if rejections:
            raise ValueError("; ".join(rejections))

    def flush(self) -> None:  # the client's own flush fails after it has split a batch
        while self._unacknowledged:
            self._await_oldest()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self.flush()
            finally:
                abandon(self._producer)
