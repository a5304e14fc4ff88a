"""Guarantees of the SQLite log beyond the contract: interrupts, full disks, and concurrent creation."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import LogUnavailable
from headrace.log.protocol import Outgoing, Partition
from headrace.log.sqlite import SqliteLog
from headrace.log.sqlite_connection import Connection
from headrace.topics import EVENTS

PLACE = Partition(EVENTS, 0)


def test_an_appender_interrupted_just_after_its_commit_does_not_write_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(str(tmp_path / "log.db"))
    log.create()
    appender = log.appender()
    appender.append(Outgoing(EVENTS, b"ann", b"1", 0))
    transaction = Connection.transaction

    @contextmanager
    def interrupted(connection: Connection) -> Iterator[sqlite3.Connection]:
        with transaction(connection) as db:
            yield db
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "transaction", interrupted)
        with pytest.raises(KeyboardInterrupt):
            appender.flush()
    appender.close()
    assert log.end(PLACE) == 1
    log.close()


def test_records_of_a_failed_flush_are_written_by_the_next_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(str(tmp_path / "log.db"))
    log.create()
    appender = log.appender()
    appender.append(Outgoing(EVENTS, b"ann", b"1", 0))

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("headrace.log.sqlite_writers.insert", full)
        with pytest.raises(LogUnavailable, match="disk is full"):
            appender.flush()
    appender.close()
    assert log.end(PLACE) == 1
    log.close()


def test_a_full_disk_is_reported_and_loses_no_record(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path / "log.db"))
    log.create()
    appender = log.appender()
    for _ in range(9):
        appender.append(Outgoing(EVENTS, b"ann", bytes(100_000), 0))
    with appender._connection.use() as db:  # the file may not grow
        db.execute("PRAGMA max_page_count=1")
    with pytest.raises(LogUnavailable, match="disk is full"):
        appender.flush()
    with appender._connection.use() as db:
        db.execute("PRAGMA max_page_count=100000")
    appender.close()
    assert log.end(PLACE) == 9
    log.close()


def test_nobody_meets_a_file_with_half_of_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SqliteLog(str(tmp_path / "log.db"))
    with monkeypatch.context() as patched:
        patched.setattr("headrace.log.sqlite.TOPICS", None)  # the disk fails before it is done, say
        with pytest.raises(AttributeError):
            log.create()
    assert not log._has_tables()
    log.create()
    assert log.end(PLACE) == 0
    log.close()


def test_several_threads_may_create_a_new_file_at_once(tmp_path: Path) -> None:
    for attempt in range(30):
        start = threading.Barrier(4)

        def opened(path: str = str(tmp_path / f"{attempt}.db"), start: threading.Barrier = start) -> int:
            start.wait()
            log = SqliteLog(path)
            log.create()
            end = log.end(PLACE)
            log.close()
            return end

        with ThreadPoolExecutor(4) as pool:
            assert [future.result() for future in [pool.submit(opened) for _ in range(4)]] == [0] * 4


def test_a_position_is_found_while_records_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SqliteLog(str(tmp_path / "log.db"), clock=iter(range(10)).__next__)
    log.create()
    appender = log.appender()
    for _ in range(10):
        appender.append(Outgoing(EVENTS, b"ann", b"1", 0))
        appender.flush()
    appender.close()
    head = log._head(PLACE)
    log.delete_before(PLACE, 7)
    monkeypatch.setattr(log, "_head", lambda _: head)  # as read before the deletion
    assert [log.position_at(PLACE, time_ms) for time_ms in (0, 7, 8, 10)] == [7, 7, 8, 10]
    log.close()
