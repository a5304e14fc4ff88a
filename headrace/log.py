"""The log: ordered, durable records in partitions, with one atomic commit.

One protocol with two implementations: `headrace.sqlite_log` (one file, no server, several processes) and
`headrace.kafka_log`. Both pass `tests/contract/test_log.py`, as does the fake in `headrace.testing`.

What every implementation promises:

- Records of a partition come in the order in which they were appended. A *position* is the next record to read.
  Positions grow but need not be consecutive (on Kafka, transaction markers take offsets).
- Readers see committed records only.
- A record's time is its *append time*, given by the log, never the event's time.
- `Writer.commit` is atomic over all its records and positions, and refused once another writer opened the same id.
- A position that the log no longer holds raises `PositionLost`; nothing is ever skipped silently.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct

from headrace.errors import Misconfigured

RECORD_BYTES_MAX = 1_000_000
"""Largest key plus value of one record, in bytes (Kafka's default `message.max.bytes` less its framing)."""


class Partition(NamedTuple):
    """One ordered sequence of records: a topic's name and a number from 0."""

    topic: str
    number: int


class Record(Struct, frozen=True, gc=False):
    """A record as read: where it stands, when the log took it (ms since the epoch), and its bytes.

    A struct, for every event passes as one: it is made in a third of a named tuple's time.
    """

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None


class Outgoing(NamedTuple):
    """A record to write. Without a partition, the key's hash chooses (`headrace.topics.partition_for`)."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None


S = TypeVar("S", bound=Struct)


def told(value: bytes | None, kind: type[S]) -> S | None:
    """Return what a record's value tells in JSON, or None if it tells nothing of this kind: others write records, too.

    >>> class Alarm(Struct):
    ...     detector: str
    >>> told(b'{"detector": "price"}', Alarm), told(b"noise", Alarm)
    (Alarm(detector='price'), None)
    """
    try:
        return msgspec.json.decode(value or b"", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def check_size(record: Outgoing) -> int:
    """Return the size of a record's key and value, which every log checks before it takes one.

    Raises:
        ValueError: it is over RECORD_BYTES_MAX, or has neither key nor value.
    """
    if record.key is None and record.value is None:
        raise ValueError(f"record for {record.topic}: wanted a key or a value, found neither")
    size = len(record.key or b"") + len(record.value or b"")
    if size > RECORD_BYTES_MAX:
        raise ValueError(f"record for {record.topic}: wanted at most {RECORD_BYTES_MAX} bytes, found {size}")
    return size


class Reader(Protocol):
    """Reads committed records of its partitions, each in order. Not for use by two threads at once."""

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        """Return up to `records_max` next records, grouped by partition; nothing if none came within `timeout_s`.

        Args:
            only: of the reader's partitions, those to read now; the others keep their positions.

        Raises:
            PositionLost: a position lies outside what the log holds.
            LogUnavailable: the log does not answer.
        """

    def seek(self, partition: Partition, position: int) -> None:
        """Make `position` the next record to read in one of the reader's partitions."""

    def position(self, partition: Partition) -> int:
        """Return the next position to read: after `read`, past its last record of that partition."""

    def end(self, partition: Partition) -> int:
        """Return the position after the last readable (stable) record, as the log says now."""

    def close(self) -> None:
        """Free connections. Safe to call twice."""


class Writer(Protocol):
    """The only writer of its id; commits atomically. One commit is in flight at most."""

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        """Begin to append `records` and note `positions` for lag tools, all or nothing; first settle the one before.

        Raises:
            Fenced: another writer opened this id.
            LogUnavailable: the outcome of the former commit is unknown; restart from the last committed state.
            ValueError: a record is over RECORD_BYTES_MAX.
        """

    def settle(self) -> list[int]:
        """Wait for the commit in flight and return the offset of each of its records, in order (empty if none).

        Raises:
            Fenced, LogUnavailable: as `commit`.
        """

    def close(self) -> None:
        """Settle nothing: abandon what is in flight and free connections. Safe to call twice."""


class Appender(Protocol):
    """Appends records outside transactions (producers of `events`); bounds what is not yet acknowledged."""

    def append(self, record: Outgoing) -> None:
        """Queue one record; waits while more than the log's bound of bytes is not yet acknowledged.

        Raises:
            ValueError: the record is over RECORD_BYTES_MAX; it was not queued, later ones are unharmed.
            LogUnavailable: the log did not acknowledge within the deadline.
        """

    def flush(self) -> None:
        """Wait until every queued record is acknowledged. Raises LogUnavailable after the deadline."""

    def close(self) -> None:
        """Flush, then free connections. Safe to call twice."""


class Log(Protocol):
    """A log that is open. Methods may be called from any thread; readers, writers and appenders may not be shared."""

    def create(self) -> None:
        """Create the topics of `headrace.topics.TOPICS` that are missing."""

    def first(self, partition: Partition) -> int:
        """Return the first position that the log still holds."""

    def end(self, partition: Partition) -> int:
        """Return the position after the last committed record."""

    def position_at(self, partition: Partition, time_ms: int) -> int:
        """Return the position of the first record appended at `time_ms` or later; `end` if there is none."""

    def last(self, partition: Partition) -> Record | None:
        """Return the last committed record of a partition, past any markers, or None."""

    def delete_before(self, partition: Partition, position: int) -> None:
        """Delete the records before `position`; readers that still want them get PositionLost."""

    def committed(self, writer_id: str) -> dict[Partition, int]:
        """Return the positions that the writer's last commits noted (for lag tools, not for recovery)."""

    def reader(self, positions: Mapping[Partition, int]) -> Reader:
        """Open a reader of these partitions at these positions."""

    def writer(self, writer_id: str) -> Writer:
        """Open the writer of an id and fence the one before; after this, its commits fail and none is half done."""

    def appender(self) -> Appender:
        """Open an appender."""

    def close(self) -> None:
        """Close the log. Safe to call twice."""


def open_log(url: str) -> Log:
    """Open the log that a URL names: `sqlite:PATH` or `kafka:HOST:PORT[,HOST:PORT]`.

    Raises:
        Misconfigured: the URL names no log that we know.
        LogUnavailable: the log does not answer.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        from headrace.sqlite_log import SqliteLog

        return SqliteLog(rest)
    if scheme == "kafka" and rest:
        from headrace.kafka_log import KafkaLog

        return KafkaLog(rest)
    raise Misconfigured(f"log {url!r}: wanted sqlite:PATH or kafka:HOST:PORT[,HOST:PORT]")
