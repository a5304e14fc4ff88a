"""Reads from Kafka in batches, with one consumer without a group and a bound on buffered records."""

import sys
import time
from collections import deque
from collections.abc import Collection, Mapping

from headrace import watchdog
from headrace.errors import LogUnavailable, PositionLost
from headrace.log.kafka.client import (
    POSITION_LOST_ERRORS,
    Client,
    TopicPartition,
    hung_close_s,
    translated_errors,
)
from headrace.log.protocol import READ_BYTES_MAX, Partition, Record, within_bytes

idle_check_after_s = 5.0
"""After this time without a record, a reader checks that the broker still answers."""
fetches_max = 3
"""Fetches of one partition that are buffered until they are read; a partition that reaches it is paused."""
LOG_APPEND_TIME = 1
"""The type of a record's timestamp that the broker has set."""
end_age_s_max = 0.01
"""How long requested ends may be used: a caller that needs the ends of all partitions calls `end` for each in turn."""


class KafkaReader:
    """`headrace.log.protocol.Reader` over one consumer without a group.

    Each poll takes all records that the client has parsed; those that a read does not return are buffered here. The
    reason is that a partition paused while the client holds parsed records of it may never resume (seen with 3.0.12).
    """

    def __init__(self, client: Client, positions: Mapping[Partition, int]) -> None:
        self._client, self._consumer = client, client.consumer()
        self._topic_partitions = {partition: client.topic_partition(partition) for partition in positions}
        self._partitions = {topic_partition: partition for partition, topic_partition in self._topic_partitions.items()}
        self._fetches: dict[Partition, deque[list[Record]]] = {partition: deque() for partition in positions}
        self._order = deque(positions)
        self._paused: set[TopicPartition] = set()
        self._after_last: dict[Partition, int] = {}  # the position after the last record that the client returned
        self._ends: dict[Partition, int] = {}  # requested ends that `end` has not returned yet
        self._ends_requested_s = self._answered_s = time.monotonic()
        self._consumer.assign(list(self._partitions))
        for partition, position in positions.items():
            self.seek(partition, position)

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        wanted = [partition for partition in self._order if only is None or partition in only]
        self._order.rotate(-1)  # so that a busy partition cannot starve the others
        self._fill(wanted, 0.0 if any(self._fetches[partition] for partition in wanted) else timeout_s)
        batches, bytes_max = [], READ_BYTES_MAX
        for partition in wanted:
            if min(records_max, bytes_max) <= 0:
                break
            records, size = self._take_records(partition, records_max, bytes_max)
            if records:
                batches.append((partition, records))
                records_max, bytes_max = records_max - len(records), bytes_max - size
        return batches

    def _take_records(self, partition: Partition, records_max: int, bytes_max: int) -> tuple[list[Record], int]:
        """Return buffered records, and their size in bytes."""
        fetches = self._fetches[partition]
        records: list[Record] = []
        taken = 0
        while fetches and len(records) < records_max and taken < bytes_max:
            fetch = fetches.popleft()
            count, size = within_bytes(fetch[: records_max - len(records)], bytes_max - taken)
            records += fetch[:count]
            taken += size
            if len(fetch) > count:
                fetches.appendleft(fetch[count:])
        return records, taken

    def _fill(self, wanted: Collection[Partition], timeout_s: float) -> None:
        """Poll the wanted partitions whose buffers are not full."""
        if self._poll(wanted, timeout_s):
            # A poll that returns records sends no fetch. This one does; the reply arrives while the caller learns.
            self._poll(wanted, 0.0)

    def _poll(self, wanted: Collection[Partition], timeout_s: float) -> bool:
        """Poll once; return whether records arrived."""
        full = {p for p, fetches in self._fetches.items() if p not in wanted or len(fetches) >= fetches_max}
        paused = {self._topic_partitions[partition] for partition in full}
        if paused != self._paused:
            self._consumer.resume(*(self._paused - paused))
            self._consumer.pause(*(paused - self._paused))
            self._paused = paused
        try:
            with self._client.wait("records"), translated_errors("Kafka reader", "Read"):
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=sys.maxsize)
        except LogUnavailable as error:
            if isinstance(error.__cause__, POSITION_LOST_ERRORS):
                self._raise_lost()
            raise
        for topic_partition, records in polled.items():
            self._after_last[self._partitions[topic_partition]] = records[-1].offset + 1
            number = topic_partition.partition
            self._fetches[self._partitions[topic_partition]].append(
                # A topic that keeps the producers' times does not tell the append time.
                [
                    Record(number, r.offset, r.timestamp if r.timestamp_type == LOG_APPEND_TIME else 0, r.key, r.value)
                    for r in records
                ]
            )
        if polled:
            self._answered_s = time.monotonic()
        elif time.monotonic() - self._answered_s > min(idle_check_after_s, self._client.deadline_s):
            self._check_alive()
        return bool(polled)

    def _raise_lost(self) -> None:
        """Raise PositionLost with the bounds of the partition whose position is outside them."""
        with self._client.wait("the bounds of partitions", 4.0), translated_errors("Kafka reader"):
            firsts = self._consumer.beginning_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
            ends = self._consumer.end_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
        for topic_partition, partition in self._partitions.items():
            position = self._fetched_position(partition)
            if not firsts[topic_partition] <= position <= ends[topic_partition]:
                raise PositionLost(
                    partition.topic, partition.number, position, firsts[topic_partition], ends[topic_partition]
                )

    def _check_alive(self) -> None:
        """Send a request that must be answered, because `poll` does not report a broker that is gone."""
        self._request_ends()
        self._answered_s = time.monotonic()

    def seek(self, partition: Partition, position: int) -> None:
        self._fetches[partition].clear()
        self._after_last[partition] = position
        self._consumer.seek(self._topic_partitions[partition], position)

    def position(self, partition: Partition) -> int:
        fetches = self._fetches[partition]
        return fetches[0][0].offset if fetches else self._fetched_position(partition)

    def _fetched_position(self, partition: Partition) -> int:
        """Return the position up to which the client has read, markers included."""
        with self._client.wait("a position"), translated_errors("Kafka reader"):
            position = self._consumer.position(self._topic_partitions[partition], timeout_ms=self._client.deadline_ms)
        if position is None:
            raise LogUnavailable(f"{partition.topic}/{partition.number}: the client has no position")
        return int(position)

    def end(self, partition: Partition) -> int:
        # A request for all takes as long as for one. Each end is returned once: a second call wants a newer one.
        if partition not in self._ends or time.monotonic() - self._ends_requested_s > end_age_s_max:
            self._request_ends()
        end = self._ends.pop(partition)
        # What the client has read past the last record are markers.
        return end if end > self._fetched_position(partition) else min(end, self._after_last[partition])

    def _request_ends(self) -> None:
        try:
            with self._client.wait("the ends of partitions"), translated_errors("Kafka reader", "Read"):
                ends = self._consumer.end_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
        except KeyError as error:  # the client fails on a partition that this user may no longer describe
            raise LogUnavailable(f"Kafka reader: the log did not return the end of {error}") from error
        self._ends = {self._partitions[topic_partition]: int(end) for topic_partition, end in ends.items()}
        self._ends_requested_s = time.monotonic()

    def close(self) -> None:
        with watchdog.wait("Kafka: the end of a consumer", hung_close_s):
            self._consumer.close()
