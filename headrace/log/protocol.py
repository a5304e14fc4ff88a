"""The log: ordered, durable records in partitions, with one atomic commit.

The protocol has two implementations for production: `headrace.log.sqlite` (one file, no server, several processes) and
`headrace.log.kafka.log`. Both pass `tests/contract/test_log.py`, as does the fake in `headrace.log.memory`.

Every implementation guarantees:

- The records of a partition are read in the order in which they were appended. A *position* is the offset of the next
  record to read. Positions increase but need not be consecutive (on Kafka, transaction markers take offsets).
- Readers see only committed records.
- A record's time is its *append time*, set by the log. It is never the event's time, and never a producer's. It may
  step back where a wrong clock was corrected.
- `Writer.commit` is atomic over all its records and positions. It fails once another writer has opened the same id.
- Reading from a position that the log no longer holds raises `PositionLost`; no record is skipped silently.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct

RECORD_BYTES_MAX = 1_000_000
"""Maximum size of a record's key plus value, in bytes (Kafka's default `message.max.bytes` minus its framing)."""

READ_BYTES_MAX = 8 * 2**20
"""Maximum size of the records that one read returns, in bytes of keys and values; exceeded by one record at most."""

TRANSACTION_TIMEOUT_S = 10.0
"""Time after which a dead writer's unfinished commit is aborted. Until then, on Kafka, it hides later records."""


class Partition(NamedTuple):
    """An ordered sequence of records, identified by a topic's name and a number that starts at 0."""

    topic: str
    number: int


class Record(Struct, frozen=True, gc=False):
    """A record as read: its partition and offset, its append time (ms since the epoch), and its bytes.

    `time_ms` is 0 where the log does not tell the append time: in a Kafka topic that keeps its producers' times.

    It is a struct because one is created per event, and creating a struct takes a third of a named tuple's time.
    """

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None


class Finding(NamedTuple):
    """A setting of a topic that is not as this log needs it.

    Attributes:
        text: what was wanted and found, what follows, and what to do.
        refused: what is learned would be wrong, or nothing can be written; otherwise records may be lost later.
    """

    topic: str
    setting: str
    text: str
    refused: bool


class Outgoing(NamedTuple):
    """A record to write. If `partition` is None, the key's hash selects it (`headrace.topics.partition_for`)."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None


S = TypeVar("S", bound=Struct)


def decode_json(value: bytes | None, kind: type[S]) -> S | None:
    """Decode JSON as `kind`; return None if the value is anything else, as other programs may write to the topic.

    >>> class Alarm(Struct):
    ...     detector: str
    >>> decode_json(b'{"detector": "price"}', Alarm), decode_json(b"noise", Alarm)
    (Alarm(detector='price'), None)
    """
    try:
        return msgspec.json.decode(value or b"", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def size_of(record: Record) -> int:
    """Return the size of a record's key plus value, in bytes.

    >>> size_of(Record(0, 0, 0, b"ann", None))
    3
    """
    return (len(record.key) if record.key else 0) + (len(record.value) if record.value else 0)


def size_of_all(records: Sequence[Record]) -> int:
    """Return the size of the keys and values of several records, in bytes."""
    return sum([len(record.key or b"") + len(record.value or b"") for record in records])


def within_bytes(records: Sequence[Record], bytes_max: int) -> tuple[int, int]:
    """Return how many of these records, from the first on, reach `bytes_max`, and their size; all if they have less.

    >>> within_bytes([Record(0, at, 0, None, b"12345") for at in range(4)], 10)
    (2, 10)
    """
    size = size_of_all(records)
    if size < bytes_max:  # nearly always
        return len(records), size
    size = number = 0
    while size < bytes_max:
        size += size_of(records[number])
        number += 1
    return number, size


def check_size(record: Outgoing) -> int:
    """Return the size of a record's key plus value. Every log calls this before it accepts a record.

    Raises:
        ValueError: the size exceeds RECORD_BYTES_MAX, or the record has neither key nor value.
    """
    if record.key is None and record.value is None:
        raise ValueError(f"record for {record.topic}: wanted a key or a value, found neither")
    size = len(record.key or b"") + len(record.value or b"")
    if size > RECORD_BYTES_MAX:
        raise ValueError(f"record for {record.topic}: wanted at most {RECORD_BYTES_MAX} bytes, found {size}")
    return size


class Reader(Protocol):
    """Reads the committed records of its partitions, each in order. Not thread-safe."""

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        """Return the next records by partition; empty if none arrived in `timeout_s`.

        They are at most `records_max`, and end with the record with which they reach READ_BYTES_MAX.

        Args:
            only: read from these partitions alone; the reader's other partitions keep their positions.

        Raises:
            PositionLost: a position lies outside what the log holds.
            LogUnavailable: the log does not answer.
        """

    def seek(self, partition: Partition, position: int) -> None:
        """Make `position` the next record to read in one of the reader's partitions."""

    def position(self, partition: Partition) -> int:
        """Return the next position to read: after `read`, past its last record of that partition."""

    def end(self, partition: Partition) -> int:
        """Return the position after the last readable (stable) record. The log is queried on each call.

        Markers after it do not count once the reader has read up to there; `position` may then be past this end.
        """

    def close(self) -> None:
        """Close connections. May be called twice."""


class Writer(Protocol):
    """The only writer of its id; commits atomically. At most one commit is in flight."""

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        """Start an atomic commit of `records` and of `positions` (for lag tools), after settling the previous commit.

        Raises:
            Fenced: another writer has opened this id.
            CommitExpired: that, or the previous commit was open for longer than its timeout, and is aborted.
            LogUnavailable: the outcome of the previous commit is unknown; restart from the last committed state.
            ValueError: a record exceeds RECORD_BYTES_MAX.
        """

    def settle(self) -> list[int]:
        """Wait for the commit in flight and return its records' offsets, in order; empty if none is in flight.

        Raises:
            Fenced, CommitExpired, LogUnavailable: as for `commit`.
        """

    def close(self) -> None:
        """Abandon the commit in flight, without settling it, and close connections. May be called twice."""


class Appender(Protocol):
    """Appends records outside transactions (for producers of `events`); bounds the unacknowledged bytes."""

    def append(self, record: Outgoing) -> None:
        """Queue one record; wait while more bytes are unacknowledged than the log's limit.

        Raises:
            ValueError: the record exceeds RECORD_BYTES_MAX; it was not queued, and later records are unaffected.
            LogUnavailable: the log did not acknowledge within the deadline.
        """

    def flush(self) -> None:
        """Wait until all queued records are acknowledged. Raises LogUnavailable after the deadline."""

    def close(self) -> None:
        """Flush, then close connections. May be called twice."""


class Log(Protocol):
    """An open log. Its methods are thread-safe; its readers, writers and appenders are not."""

    def create(self) -> None:
        """Create the missing topics of `headrace.topics.TOPICS`."""

    def partitions(self, topic: str) -> list[Partition]:
        """Return the partitions that a topic has now; those of `headrace.topics.SCALABLE` may grow at any time."""

    def identity(self, topic: str) -> str:
        """Return the id of a topic: a topic that was deleted and made again has another one.

        It is "" where the log does not tell it: on old Kafka brokers, and in a file of 0.3.0 that is opened read-only.

        Raises:
            LogUnavailable: the log has no such topic, or does not answer.
        """

    def first(self, partition: Partition) -> int:
        """Return the first position that the log still holds."""

    def end(self, partition: Partition) -> int:
        """Return the position after the last committed record."""

    def position_at(self, partition: Partition, time_ms: int) -> int:
        """Return the position of the first record appended at `time_ms` or later; `end` if there is none."""

    def last(self, partition: Partition) -> Record | None:
        """Return the last committed record of a partition (transaction markers are skipped), or None."""

    def newest(self, partition: Partition, records_max: int, *, before: int | None = None) -> list[Record]:
        """Return the last committed records of a partition, or those before a position; at most so many, in order."""

    def hidden(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return where readers wait for the end of an open transaction: the position, and how many offsets follow.

        On Kafka, an open transaction of any producer hides all later records of a partition. The offsets that follow
        are counted with the markers of transactions; `end` does not count them.
        """

    def missing(self) -> list[str]:
        """Return the topics of `headrace.topics.TOPICS` that the log lacks, or that this user may not see."""

    def check_settings(self) -> tuple[list[Finding], list[str]]:
        """Return which settings of the topics are not as needed, and the topics whose settings cannot be read.

        Logs that make their topics alone find nothing. On Kafka, reading them takes the right DescribeConfigs.
        """

    def delete_before(self, partition: Partition, position: int) -> None:
        """Delete the records before `position`; a reader positioned there then gets PositionLost."""

    def committed(self, writer_id: str) -> dict[Partition, int]:
        """Return the positions stored by the writer's last commits (for lag tools, not for recovery)."""

    def reader(self, positions: Mapping[Partition, int]) -> Reader:
        """Open a reader of these partitions, starting at these positions."""

    def writer(
        self,
        writer_id: str,
        writes: Collection[Partition] = (),
        reads: Collection[str] = (),
        *,
        timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> Writer:
        """Open the writer of an id and fence the one before; after this, its commits fail and none is half done.

        Args:
            writes: partitions that it will write. On Kafka, what its predecessor left hanging in them is ended.
            reads: topics that its process will read. On Kafka, a missing right on any of them is reported before the
                writer before is fenced.
            timeout_s: time after which an unfinished commit of this writer is aborted. One that takes longer fails.
        """

    def appender(self) -> Appender:
        """Open an appender."""

    def close(self) -> None:
        """Close the log. May be called twice."""
