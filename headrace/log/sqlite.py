"""The embedded log: one SQLite file in WAL mode, no server, several processes.

A commit is one SQL transaction. With `synchronous=FULL`, data that `commit` and `flush` acknowledged survives a power
failure. The file must be on a local disk, because SQLite's locks are unreliable on network file systems.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from headrace.clock import Clock, wall_ms
from headrace.errors import LogUnavailable, Misconfigured, PositionLost
from headrace.log.protocol import (
    READ_BYTES_MAX,
    TRANSACTION_TIMEOUT_S,
    Finding,
    Partition,
    Record,
    size_of,
)
from headrace.log.sqlite_connection import Connection, poll_interval_s
from headrace.log.sqlite_time import SCHEMA as TIME_SCHEMA
from headrace.log.sqlite_time import ReadUptime, machine_uptime, position_in, read_time
from headrace.log.sqlite_writers import SqliteAppender, SqliteWriter, numbers_of
from headrace.topics import TOPICS

deleted_at_once = 1_000
"""Maximum number of records that one transaction deletes: other writers wait for it, for milliseconds."""
copied_pages = 2_000
"""Number of pages that are copied between two reports."""
incremental = 2
"""SQLite's number for files that give unused pages back in steps."""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS partitions (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, time_ms INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number))""",
    """CREATE TABLE IF NOT EXISTS records (
    partition INTEGER NOT NULL, position INTEGER NOT NULL, time_ms INTEGER NOT NULL, key BLOB, value BLOB,
    PRIMARY KEY (partition, position)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS writers (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS positions (
    writer TEXT NOT NULL, topic TEXT NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (writer, topic, number)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TRIGGER IF NOT EXISTS topic_deleted AFTER DELETE ON partitions
    BEGIN DELETE FROM topics WHERE name = old.topic; END""",
)
_NAME_TOPICS = """
INSERT OR IGNORE INTO topics SELECT topic, lower(hex(randomblob(16))) FROM partitions GROUP BY topic
"""
"""Gives an id to each topic that has none: to new ones, and to all of a file of 0.3.0."""


class SqliteLog:
    """`headrace.log.protocol.Log` in one SQLite file.

    Args:
        existing: the file must be there; otherwise it is created.
        read_only: the file must be there and hold a log, and nothing can be written to it.
    """

    def __init__(
        self,
        path: str,
        *,
        clock: Clock = wall_ms,
        uptime: ReadUptime = machine_uptime,
        existing: bool = False,
        read_only: bool = False,
    ) -> None:
        self._path, self._clock, self._uptime, self._read_only = path, clock, uptime, read_only
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

    def _connect(self) -> Connection:
        return Connection(self._path, read_only=self._read_only)

    def _has_tables(self) -> bool:
        with self._connection.use() as db:
            found = db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('partitions', 'records')").fetchone()
        return bool(found[0] == 2)

    def create(self) -> None:
        with self._connection.transaction() as db:  # one, so that nobody meets half of the tables
            for statement in (*_SCHEMA, *TIME_SCHEMA):
                db.execute(statement)
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
            return [Partition(topic, number) for number in numbers_of(db, topic)]

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
        with self._connection.use() as db:
            return position_in(db, id_, first, end, time_ms)

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
        with self._connection.use() as db:
            return read_time(db).findings(), []

    def delete_before(self, partition: Partition, position: int) -> None:
        id_, first, end = self._head(partition)
        position = min(position, end)
        while first < position:  # in steps, so that other writers need not wait long
            first = min(position, first + deleted_at_once)
            with self._connection.transaction() as db:
                db.execute("DELETE FROM records WHERE partition=? AND position<?", (id_, first))
                db.execute("DELETE FROM steps_back WHERE partition=? AND position<=?", (id_, first))
                db.execute("UPDATE partitions SET first=max(first, ?) WHERE id=?", (first, id_))

    def put_back(self, partition: Partition, records: Sequence[Record]) -> None:
        """Append records with the positions and the append times that they have; the partition is made if it is new.

        Raises:
            LogUnavailable: the file cannot be written.
        """
        with self._connection.transaction() as db:
            db.execute("INSERT OR IGNORE INTO partitions (topic, number) VALUES (?, ?)", partition)
            id_, next_, last_ms = db.execute(
                "SELECT id, next, time_ms FROM partitions WHERE topic=? AND number=?", partition
            ).fetchone()
            assert next_ <= records[0].offset, f"{partition}: {records[0].offset} is before the end, {next_}"
            times = [last_ms, *(record.time_ms for record in records)]
            back = [
                (id_, one.offset) for one, before_ms in zip(records, times, strict=False) if one.time_ms < before_ms
            ]
            db.executemany("INSERT INTO steps_back VALUES (?, ?)", back)
            rows = [(id_, one.offset, one.time_ms, one.key, one.value) for one in records]
            db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
            db.execute("UPDATE partitions SET next=?, time_ms=? WHERE id=?", (rows[-1][1] + 1, rows[-1][2], id_))

    def reclaim(self, pages_max: int) -> bool:
        """Give some unused pages of the file back to the disk; return whether there are more to give back.

        A tenth of the file stays, for what is written next. A file that release 0.3.0 made keeps all until `vacuum`.
        """
        with self._connection.use() as db:
            mode, total, unused = (
                db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("auto_vacuum", "page_count", "freelist_count")
            )
            spare = unused - total // 10
            if mode != incremental or spare <= 0:
                return False
            db.execute(f"PRAGMA incremental_vacuum({min(spare, pages_max)})").fetchall()
            return bool(spare > pages_max)

    def vacuum(self) -> None:
        """Write the file anew, without unused pages; from then on `reclaim` works. It needs as much space again.

        Raises:
            LogUnavailable: another process uses the log, or the disk is full.
        """
        with self._connection.use() as db:
            db.execute("VACUUM")  # with the mode that `Connection` has set
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def pin(self) -> None:
        """Read, from now until this object is closed, only what is committed now. Others go on writing meanwhile."""
        with self._connection.use() as db:
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM partitions").fetchone()  # the transaction begins with its first read

    def copy_to(self, path: Path, report: Callable[[int, int], None]) -> None:
        """Write what a pinned log holds into a new file, which needs no other file beside it.

        Args:
            report: takes the number of pages copied and the total.

        Raises:
            LogUnavailable: it cannot be read or written.
        """
        with self._connection.use() as db, closing(sqlite3.connect(path, isolation_level=None)) as copy:
            db.backup(copy, pages=copied_pages, progress=lambda _, rest, total: report(total - rest, total))
            copy.execute("PRAGMA journal_mode=DELETE")

    def size(self) -> int:
        """Return the size of the file, with its write-ahead log, in bytes."""
        paths = [path for path in (self._path, f"{self._path}-wal") if os.path.exists(path)]
        return sum(os.path.getsize(path) for path in paths)

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
        return SqliteWriter(self._connect(), writer_id, self._clock, self._uptime)

    def appender(self) -> "SqliteAppender":
        return SqliteAppender(self._connect(), self._clock, self._uptime)

    def close(self) -> None:
        self._connection.close()


class SqliteReader:
    """`headrace.log.protocol.Reader` over one connection; it polls while there is no record."""

    def __init__(
        self, log: SqliteLog, connection: Connection, ids: dict[Partition, int], positions: dict[Partition, int]
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
        batches, bytes_max = list[tuple[Partition, list[Record]]](), READ_BYTES_MAX
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
                    if batches:  # they are returned first, and the loss is told by the next read
                        break
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
