"""Reading from Kafka: one consumer without a group, in batches, with bounds on what waits here."""

import sys
import time
from collections import deque
from collections.abc import Collection, Mapping

from headrace.errors import LogUnavailable, PositionLost
from headrace.kafka_client import LOST, Client, TopicPartition, translated
from headrace.log import Partition, Record

silence_s = 5.0
"""After so long without a record, a reader asks whether the broker still answers."""
chunks_max = 3
"""What has come of one partition and waits to be read, in fetches; then it is paused."""
end_age_s_max = 0.01
"""How long an answer waits for its question: who asks for all partitions' ends does so in a row."""


class KafkaReader:
    """`headrace.log.Reader` over one consumer without a group.

    Each poll takes all records that the client has parsed, and what a read does not return waits here: a partition that
    is paused while the client itself holds parsed records of it may never be resumed (seen with 3.0.12).
    """

    def __init__(self, client: Client, positions: Mapping[Partition, int]) -> None:
        self._client, self._consumer = client, client.consumer()
        self._places = {partition: client.place(partition) for partition in positions}
        self._partitions = {place: partition for partition, place in self._places.items()}
        self._chunks: dict[Partition, deque[list[Record]]] = {partition: deque() for partition in positions}
        self._order = deque(positions)
        self._paused: set[TopicPartition] = set()
        self._ends: dict[Partition, int] = {}  # answers that nobody has asked for yet
        self._ends_at = self._heard = time.monotonic()
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
        """Poll for wanted partitions that have room."""
        if self._poll(wanted, timeout_s):
            # A poll that returns records asks for no more; this one does, and the answer travels while we learn.
            self._poll(wanted, 0.0)

    def _poll(self, wanted: Collection[Partition], timeout_s: float) -> bool:
        """Poll once; return whether anything came."""
        full = {p for p, chunks in self._chunks.items() if p not in wanted or len(chunks) >= chunks_max}
        paused = {self._places[partition] for partition in full}
        if paused != self._paused:
            self._consumer.resume(*(self._paused - paused))
            self._consumer.pause(*(paused - self._paused))
            self._paused = paused
        try:
            with translated("Kafka reader", "Read"):
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=sys.maxsize)
        except LogUnavailable as error:
            if isinstance(error.__cause__, LOST):
                self._raise_lost()
            raise
        for place, records in polled.items():
            number = place.partition
            self._chunks[self._partitions[place]].append(
                [Record(number, r.offset, r.timestamp, r.key, r.value) for r in records]
            )
        if polled:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > min(silence_s, self._client.deadline_s):
            self._check_alive()
        return bool(polled)

    def _raise_lost(self) -> None:
        """Raise PositionLost with the bounds of the partition whose position is outside."""
        with translated("Kafka reader"):
            firsts = self._consumer.beginning_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
            ends = self._consumer.end_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
        for place, partition in self._partitions.items():
            position = self._fetched(partition)
            if not firsts[place] <= position <= ends[place]:
                raise PositionLost(partition.topic, partition.number, position, firsts[place], ends[place])

    def _check_alive(self) -> None:
        """`poll` says nothing when the broker is gone, so ask for something that must be answered."""
        self._ask_ends()
        self._heard = time.monotonic()

    def seek(self, partition: Partition, position: int) -> None:
        self._chunks[partition].clear()
        self._consumer.seek(self._places[partition], position)

    def position(self, partition: Partition) -> int:
        chunks = self._chunks[partition]
        return chunks[0][0].offset if chunks else self._fetched(partition)

    def _fetched(self, partition: Partition) -> int:
        """Return the position up to which the client has read, past markers."""
        with translated("Kafka reader"):
            position = self._consumer.position(self._places[partition], timeout_ms=self._client.deadline_ms)
        if position is None:
            raise LogUnavailable(f"{partition.topic}/{partition.number}: the client has no position")
        return int(position)

    def end(self, partition: Partition) -> int:
        # A request takes as long for all as for one. No answer is given twice: who asks again wants a newer one.
        if partition not in self._ends or time.monotonic() - self._ends_at > end_age_s_max:
            self._ask_ends()
        return self._ends.pop(partition)

    def _ask_ends(self) -> None:
        try:
            with translated("Kafka reader", "Read"):
                ends = self._consumer.end_offsets(list(self._partitions), timeout_ms=self._client.deadline_ms)
        except KeyError as error:  # the client trips over what we may not see any more
            raise LogUnavailable(f"Kafka reader: the log does not say where {error} ends") from error
        self._ends = {self._partitions[place]: int(end) for place, end in ends.items()}
        self._ends_at = time.monotonic()

    def close(self) -> None:
        self._consumer.close()
