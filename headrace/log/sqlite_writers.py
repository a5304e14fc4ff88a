"""Writing to an SQLite log: appends, and the commits of a writer."""

import sqlite3
from collections.abc import Mapping, Sequence

import structlog

from headrace.clock import Clock
from headrace.errors import Fenced, LogUnavailable
from headrace.log.protocol import Outgoing, Partition, check_size
from headrace.log.sqlite_connection import Connection
from headrace.log.sqlite_time import ReadUptime, Uptime, off_ms_max, read_time, write_time
from headrace.topics import place_of

unflushed_records_max, unflushed_bytes_max = 1_000, 4 * 2**20
"""Records, or bytes of them, that an appender buffers before it writes them in one transaction."""


def numbers_of(db: sqlite3.Connection, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions."""
    return [number for (number,) in db.execute("SELECT number FROM partitions WHERE topic=? ORDER BY number", (topic,))]


def insert(db: sqlite3.Connection, records: Sequence[Outgoing], now_ms: int, uptime: Uptime) -> list[int]:
    """Append records within an open transaction; return their positions, in order.

    Args:
        now_ms: by the writer's clock.
    """
    time = read_time(db)
    in_doubt = time.doubted_ms is not None
    now_ms = time.stamp(now_ms, uptime)
    write_time(db, time)
    if time.doubted_ms is not None and not in_doubt:
        structlog.get_logger().warning("clock doubted", found=time.doubt)
    heads: dict[Partition, tuple[int, int, int]] = {}
    counts: dict[str, int] = {}
    rows, offsets = [], []
    for record in records:
        if record.topic not in counts:
            counts[record.topic] = max(1, len(numbers_of(db, record.topic)))
        place = place_of(record, counts[record.topic])
        if place not in heads:
            found = db.execute("SELECT id, next, time_ms FROM partitions WHERE topic=? AND number=?", place).fetchone()
            if found is None:
                raise LogUnavailable(f"the log has no partition {place.topic}/{place.number}; create the topics first")
            heads[place] = found
        id_, next_, last_ms = heads[place]
        steps_back = now_ms < last_ms - off_ms_max  # the log's time was set back
        if steps_back:
            db.execute("INSERT INTO steps_back VALUES (?, ?)", (id_, next_))
        time_ms = now_ms if steps_back else max(last_ms, now_ms)  # where a clock steps back a little, the time does not
        heads[place] = (id_, next_ + 1, time_ms)
        rows.append((id_, next_, time_ms, record.key, record.value))
        offsets.append(next_)
    db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
    db.executemany("UPDATE partitions SET next=?, time_ms=? WHERE id=?", [(n, t, i) for i, n, t in heads.values()])
    return offsets


class SqliteWriter:
    """`headrace.log.protocol.Writer`. Each transaction checks the epoch, so a fenced writer commits nothing."""

    def __init__(self, connection: Connection, writer_id: str, clock: Clock, uptime: ReadUptime) -> None:
        self._connection, self._id, self._clock, self._uptime = connection, writer_id, clock, uptime
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
            self._offsets = insert(db, records, self._clock(), self._uptime())
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

    def __init__(self, connection: Connection, clock: Clock, uptime: ReadUptime) -> None:
        self._connection, self._clock, self._uptime = connection, clock, uptime
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
                    insert(db, queue, self._clock(), self._uptime())
            except LogUnavailable:
                self._queue = queue
                raise
            self._bytes = 0

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self.flush()
            finally:
                self._connection.close()
