"""A connection to the file of an SQLite log."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headrace import watchdog
from headrace.errors import LogUnavailable, Misconfigured

busy_timeout_s = 30.0
"""How long a process waits for another's transaction. They take milliseconds; a longer wait raises LogUnavailable."""
hung_s = 120.0
"""Time after which a disk that does not answer hangs; long transactions on a slow disk take a part of it."""
poll_interval_s = 0.01
"""Pause between two polls while a read finds no record."""


class Connection:
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
                    db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file; changes no other one
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
