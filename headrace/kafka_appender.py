"""Appending to Kafka outside transactions, with bounded un-acknowledged bytes."""

from collections import deque
from contextlib import suppress
from typing import Any

from headrace.errors import BrokenWorld, Misconfigured
from headrace.kafka_client import (
    Client,
    KafkaError,
    KafkaProducer,
    KafkaTimeoutError,
    abandon,
    is_refusal,
    ours,
    translated,
)
from headrace.log import Outgoing, check_size

unacknowledged_bytes_max = 16 * 2**20
"""Key and value bytes that an appender holds before `append` waits."""


class KafkaAppender:
    """`headrace.log.Appender`: an idempotent producer, outside transactions, with bounded un-acknowledged bytes."""

    def __init__(self, client: Client) -> None:
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
        except KafkaError as error:
            raise self._failure(error, record) from error
        self._bytes += size

    def _await_oldest(self) -> None:
        future, record, size = self._waiting[0]
        try:
            future.get(timeout=self._client.deadline_s)
        except KafkaError as error:
            if not is_refusal(error):
                raise self._failure(error, record) from error
            self._resend()
        else:
            self._waiting.popleft()
            self._bytes -= size

    def _failure(self, error: KafkaError, record: Outgoing) -> BrokenWorld | Misconfigured:
        return ours(error, "Kafka appender", f"Write on topic {self._client.prefix}{record.topic}")

    def _resend(self) -> None:
        """Build the producer anew after a refusal, and send one by one what it took with it.

        Raises:
            ValueError: the broker refused a record again, by itself; it was dropped, and the others were sent.
        """
        with translated("Kafka appender", "Write"):
            for future, _, _ in self._waiting:  # now each outcome is known: nothing is sent twice
                with suppress(KafkaError):
                    future.get(timeout=self._client.deadline_s)
                if not future.succeeded() and not is_refusal(future.exception):
                    raise future.exception or KafkaTimeoutError("no answer")
            failed = [record for future, record, _ in self._waiting if future.failed()]
            self._waiting.clear()
            self._bytes = 0
            refusals = []
            abandon(self._producer)
            self._producer = self._build()
            for record in failed:
                try:
                    self._client.send(self._producer, record).get(timeout=self._client.deadline_s)
                except KafkaError as error:
                    if not is_refusal(error):
                        raise
                    refusals.append(f"record for {record.topic} refused by the broker: {error}")
                    abandon(self._producer)
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
                abandon(self._producer)
