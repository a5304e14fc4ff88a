"""What the embedded log promises beyond the contract: whoever is interrupted, or comes with others, does no harm."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import LogUnavailable
from headrace.log import Outgoing, Partition
from headrace.sqlite_log import SqliteLog, _Connection
from headrace.topics import EVENTS

PLACE = Partition(EVENTS, 0)


def test_an_appender_interrupted_just_after_its_commit_does_not_write_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(str(tmp_path / "log.db"))
    log.create()
    appender = log.appender()
    appender.append(Outgoing(EVENTS, b"ann", b"1", 0))
    whole = _Connection.transaction

    @contextmanager
    def interrupted(connection: _Connection) -> Iterator[sqlite3.Connection]:
        with whole(connection) as db:
            yield db
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Connection, "transaction", interrupted)
        with pytest.raises(KeyboardInterrupt):
            appender.flush()
    appender.close()
    assert log.end(PLACE) == 1
    log.close()


def test_what_was_refused_once_is_written_when_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SqliteLog(str(tmp_path / "log.db"))
    log.create()
    appender = log.appender()
    appender.append(Outgoing(EVENTS, b"ann", b"1", 0))

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("headrace.sqlite_log._insert", full)
        with pytest.raises(LogUnavailable, match="disk is full"):
            appender.flush()
    appender.close()
    assert log.end(PLACE) == 1
    log.close()


def test_a_full_disk_is_told_as_such_and_loses_nothing(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path / "log.db"))
    log.create()
    appender = log.appender()
    for _ in range(9):
        appender.append(Outgoing(EVENTS, b"ann", bytes(100_000), 0))
    with appender._connection.use() as db:  # as small as it is, and no larger
        db.execute("PRAGMA max_page_count=1")
    with pytest.raises(LogUnavailable, match="disk is full"):
        appender.flush()
    with appender._connection.use() as db:
        db.execute("PRAGMA max_page_count=100000")
    appender.close()
    assert log.end(PLACE) == 9
    log.close()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
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
