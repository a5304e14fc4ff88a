"""The embedded log: one SQLite file in WAL mode, no server, several processes.

A commit is one SQL transaction. With `synchronous=FULL`, data that `commit` and `flush` acknowledged survives a power
failure. The file must be on a local disk, because SQLite's locks are unreliable on network file systems.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headrace import watchdog
from headrace.clock import Clock, wall_ms
from headrace.errors import Fenced, LogUnavailable, Misconfigured, PositionLost
from headrace.log.protocol import (
    READ_BYTES_MAX,
    TRANSACTION_TIMEOUT_S,
    Finding,
    Outgoing,
    Partition,
    Record,
    check_size,
    size_of,
)
from headrace.topics import TOPICS, place_of

busy_timeout_s = 30.0
"""How long a process waits for another's transaction. They take milliseconds; a longer wait raises LogUnavailable."""
hung_s = 120.0
"""Time after which a disk that does not answer hangs; long transactions on a slow disk take a part of it."""
poll_interval_s = 0.01
"""Pause between two polls while a read finds no record."""
unflushed_records_max, unflushed_bytes_max = 1_000, 4 * 2**20
"""Records, or bytes of them, that an appender buffers before it writes them in one transaction."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS partitions (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, time_ms INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number));
CREATE TABLE IF NOT EXISTS records (
    partition INTEGER NOT NULL, position INTEGER NOT NULL, time_ms INTEGER NOT NULL, key BLOB, value BLOB,
    PRIMARY KEY (partition, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writers (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS positions (
    writer TEXT NOT NULL, topic TEXT NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (writer, topic, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS topic_deleted AFTER DELETE ON partitions
    BEGIN DELETE FROM topics WHERE name = old.topic; END;
"""
_NAME_TOPICS = """
INSERT OR IGNORE INTO topics SELECT topic, lower(hex(randomblob(16))) FROM partitions GROUP BY topic
"""
"""Gives an id to each topic that has none: to new ones, and to all of a file of 0.3.0."""


class _Connection:
    """A connection that one thread uses at a time. It translates SQLite's errors into those of `headrace.errors`."""

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        name = f"{Path(path).absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        self._db = sqlite3.connect(
            name, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, uri=True
        )
        self._db.text_factory = bytes  # records that somebody has written by hand may be text
        self._lock = threading.Lock()
        with ExitStack() as failed:
            failed.callback(self._db.close)
            with self.use() as db:
                if not read_only:
                    self._use_wal(db)
                    db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA cache_size=-16000")
            failed.pop_all()

    @staticmethod
    def _use_wal(db: sqlite3.Connection) -> None:
        """Switch to WAL mode. SQLite's busy timeout does not apply to this statement, so it is retried here."""
        deadline = time.monotonic() + busy_timeout_s
        while True:
            try:
                db.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(poll_interval_s)
            else:
                return

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        with watchdog.wait("SQLite", hung_s), self._lock:
            try:
                yield self._db
            except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                    raise Misconfigured(f"SQLite log: {error}") from error
                raise LogUnavailable(f"SQLite log: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self.use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                if db.in_transaction:  # SQLite rolls some failures back itself, such as a full disk
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _numbers(db: sqlite3.Connection, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions."""
    return [number for (number,) in db.execute("SELECT number FROM partitions WHERE topic=? ORDER BY number", (topic,))]


def _insert(db: sqlite3.Connection, records: Sequence[Outgoing], now_ms: int) -> list[int]:
    """Append records within an open transaction; return their positions, in order."""
    heads: dict[Partition, tuple[int, int, int]] = {}
    counts: dict[str, int] = {}
    rows, offsets = [], []
    for record in records:
        if record.topic not in counts:
            counts[record.topic] = max(1, len(_numbers(db, record.topic)))
        place = place_of(record, counts[record.topic])
        if place not in heads:
            found = db.execute("SELECT id, next, time_ms FROM partitions WHERE topic=? AND number=?", place).fetchone()
            if found is None:
                raise LogUnavailable(f"the log has no partition {place.topic}/{place.number}; create the topics first")
            heads[place] = found
        id_, next_, last_ms = heads[place]
        time_ms = max(last_ms, now_ms)  # the wall clock may step back, but append time must not
        heads[place] = (id_, next_ + 1, time_ms)
        rows.append((id_, next_, time_ms, record.key, record.value))
        offsets.append(next_)
    db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
    db.executemany("UPDATE partitions SET next=?, time_ms=? WHERE id=?", [(n, t, i) for i, n, t in heads.values()])
    return offsets


class SqliteLog:
    """`headrace.log.protocol.Log` in one SQLite file.

    Args:
        existing: the file must be there; otherwise it is created.
        read_only: the file must be there and hold a log, and nothing can be written to it.
    """

    def __init__(self, path: str, *, clock: Clock = wall_ms, existing: bool = False, read_only: bool = False) -> None:
        self._path, self._clock, self._read_only = path, clock, read_only
        if path == ":memory:":
            raise Misconfigured(f"log {path}: wanted a file that several processes can open")
        if os.path.isdir(path):  # not Path.is_dir, which fails for a name that is too long
            raise Misconfigured(f"log {path}: wanted a file, found a folder")
        if not (existing or read_only):
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Misconfigured(f"log {path}: wanted a file in a folder, found {error}") from error
        elif not os.path.exists(path):  # a typing error would look like a shop without events
            raise Misconfigured(f"log {path}: there is no such file")
        try:
            self._connection = self._connect()
        except sqlite3.Error as error:
            raise LogUnavailable(f"SQLite log {path}: {error}") from error
        if read_only and not self._has_tables():
            self.close()
            raise Misconfigured(f"log {path}: wanted a log of Headrace, found another SQLite database")

    def _connect(self) -> _Connection:
        return _Connection(self._path, read_only=self._read_only)

    def _has_tables(self) -> bool:
        with self._connection.use() as db:
            found = db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('partitions', 'records')").fetchone()
        return bool(found[0] == 2)

    def create(self) -> None:
        with self._connection.use() as db:
            db.executescript(_SCHEMA)
        with self._connection.transaction() as db:
            for topic in TOPICS.values():
                for number in range(topic.partitions):
                    db.execute("INSERT OR IGNORE INTO partitions (topic, number) VALUES (?, ?)", (topic.name, number))
            db.execute(_NAME_TOPICS)

    def _head(self, partition: Partition) -> tuple[int, int, int]:
        with self._connection.use() as db:
            row = db.execute("SELECT id, first, next FROM partitions WHERE topic=? AND number=?", partition).fetchone()
        if row is None:
            raise LogUnavailable(
                f"the log has no partition {partition.topic}/{partition.number}; create the topics first"
            )
        return row  # type: ignore[no-any-return]  # sqlite3 rows are untyped

    def partitions(self, topic: str) -> list[Partition]:
        with self._connection.use() as db:
            return [Partition(topic, number) for number in _numbers(db, topic)]

    def identity(self, topic: str) -> str:
        self._head(Partition(topic, 0))
        with self._connection.use() as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name='topics'").fetchone():
                return ""
            found = db.execute("SELECT id FROM topics WHERE name=?", (topic,)).fetchone()
        return found[0].decode() if found else ""

    def first(self, partition: Partition) -> int:
        return self._head(partition)[1]

    def end(self, partition: Partition) -> int:
        return self._head(partition)[2]

    def position_at(self, partition: Partition, time_ms: int) -> int:
        id_, first, end = self._head(partition)
        with self._connection.use() as db:  # append time never decreases, so a binary search works
            while first < end:
                middle = (first + end) // 2
                found = db.execute(
                    "SELECT time_ms FROM records WHERE partition=? AND position=?", (id_, middle)
                ).fetchone()
                # A record that is missing was deleted meanwhile: it is older than all that are there.
                first, end = (middle + 1, end) if found is None or found[0] < time_ms else (first, middle)
        return first

    def last(self, partition: Partition) -> Record | None:
        return next(iter(self.newest(partition, 1)), None)

    def newest(self, partition: Partition, records_max: int, *, before: int | None = None) -> list[Record]:
        id_, _, end = self._head(partition)
        with self._connection.use() as db:
            rows = db.execute(
                "SELECT position, time_ms, key, value FROM records WHERE partition=? AND position<?"
                " ORDER BY position DESC LIMIT ?",
                (id_, end if before is None else before, records_max),
            ).fetchall()
        return [Record(partition.number, *row) for row in reversed(rows)]

    def hidden(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        return {}

    def missing(self) -> list[str]:
        return [topic for topic in TOPICS if not self.partitions(topic)]

    def check_settings(self) -> tuple[list[Finding], list[str]]:
        return [], []

    def delete_before(self, partition: Partition, position: int) -> None:
        id_ = self._head(partition)[0]
        with self._connection.transaction() as db:
            db.execute("DELETE FROM records WHERE partition=? AND position<?", (id_, position))
            db.execute("UPDATE partitions SET first=max(first, min(?, next)) WHERE id=?", (position, id_))

    def committed(self, writer_id: str) -> dict[Partition, int]:
        with self._connection.use() as db:
            rows = db.execute("SELECT topic, number, position FROM positions WHERE writer=?", (writer_id,)).fetchall()
        return {Partition(topic.decode(), number): position for topic, number, position in rows}

    def reader(self, positions: Mapping[Partition, int]) -> "SqliteReader":
        return SqliteReader(self, self._connect(), {p: self._head(p)[0] for p in positions}, dict(positions))

    def writer(
        self,
        writer_id: str,
        writes: Collection[Partition] = (),
        reads: Collection[str] = (),
        *,
        timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> "SqliteWriter":
        return SqliteWriter(self._connect(), writer_id, self._clock)

    def appender(self) -> "SqliteAppender":
        return SqliteAppender(self._connect(), self._clock)

    def close(self) -> None:
        self._connection.close()


class SqliteReader:
    """`headrace.log.protocol.Reader` over one connection; it polls while there is no record."""

    def __init__(
        self, log: SqliteLog, connection: _Connection, ids: dict[Partition, int], positions: dict[Partition, int]
    ) -> None:
        self._log, self._connection, self._ids, self._positions = log, connection, ids, positions
        self._rotation = 0

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        deadline = time.monotonic() + timeout_s
        wanted = [p for p in self._ids if only is None or p in only]
        while True:
            batches = self._read_now(wanted, records_max)
            if batches or time.monotonic() >= deadline:
                return batches
            time.sleep(min(poll_interval_s, max(0.0, deadline - time.monotonic())))

    def _read_now(self, wanted: list[Partition], records_max: int) -> list[tuple[Partition, list[Record]]]:
        batches, bytes_max = [], READ_BYTES_MAX
        self._rotation += 1  # rotate, so that a busy partition cannot starve the others
        for place in wanted[self._rotation % max(1, len(wanted)) :] + wanted[: self._rotation % max(1, len(wanted))]:
            if min(records_max, bytes_max) <= 0:
                break
            position = self._positions[place]
            with self._connection.use() as db:
                rows = db.execute(
                    "SELECT ?, position, time_ms, key, value FROM records WHERE partition=? AND position>=?"
                    " ORDER BY position LIMIT ?",
                    (place.number, self._ids[place], position, records_max),
                )
                batch = []
                for row in rows:
                    batch.append(record := Record(*row))
                    bytes_max -= size_of(record)
                    if bytes_max <= 0:
                        break
                rows.close()
            if not batch or batch[0].offset != position:
                first, end = self._log.first(place), self._log.end(place)
                if not first <= position <= end:
                    raise PositionLost(place.topic, place.number, position, first, end)
            if batch:
                self._positions[place] = batch[-1].offset + 1
                records_max -= len(batch)
                batches.append((place, batch))
        return batches

    def seek(self, partition: Partition, position: int) -> None:
        assert partition in self._ids, f"{partition} is not assigned to this reader"
        self._positions[partition] = position

    def position(self, partition: Partition) -> int:
        return self._positions[partition]

    def end(self, partition: Partition) -> int:
        return self._log.end(partition)

    def close(self) -> None:
        self._connection.close()


class SqliteWriter:
    """`headrace.log.protocol.Writer`. Each transaction checks the epoch, so a fenced writer commits nothing."""

    def __init__(self, connection: _Connection, writer_id: str, clock: Clock) -> None:
        self._connection, self._id, self._clock = connection, writer_id, clock
        self._offsets: list[int] = []
        with connection.transaction() as db:
            db.execute(
                "INSERT INTO writers VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1", (writer_id,)
            )
            (self._epoch,) = db.execute("SELECT epoch FROM writers WHERE id=?", (writer_id,)).fetchone()

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        for record in records:
            check_size(record)
        with self._connection.transaction() as db:
            (epoch,) = db.execute("SELECT epoch FROM writers WHERE id=?", (self._id,)).fetchone()
            if epoch != self._epoch:
                raise Fenced(f"writer {self._id}: epoch {self._epoch} was taken over by epoch {epoch}")
            self._offsets = _insert(db, records, self._clock())
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)",
                [(self._id, *place, position) for place, position in positions.items()],
            )

    def settle(self) -> list[int]:
        offsets, self._offsets = self._offsets, []
        return offsets

    def close(self) -> None:
        self._connection.close()


class SqliteAppender:
    """`headrace.log.protocol.Appender`. It writes records in transactions of up to `unflushed_records_max` records."""

    def __init__(self, connection: _Connection, clock: Clock) -> None:
        self._connection, self._clock = connection, clock
        self._queue: list[Outgoing] = []
        self._bytes = 0
        self._closed = False

    def append(self, record: Outgoing) -> None:
        self._bytes += check_size(record)
        self._queue.append(record)
        if len(self._queue) >= unflushed_records_max or self._bytes >= unflushed_bytes_max:
            self.flush()

    def flush(self) -> None:
        if self._queue:
            # Cleared first: an interrupt just after the commit must not make `close` write the records a second time.
            queue, self._queue = self._queue, []
            try:
                with self._connection.transaction() as db:
                    _insert(db, queue, self._clock())
            except LogUnavailable:
                self._queue = queue
                raise
            self._bytes = 0

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.flush()
            self._connection.close()
