"""The depot: a record is acknowledged when it is safe, in the log or in the spool, whatever the log does."""

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable
from headrace.log.memory import MemoryAppender, MemoryLog
from headrace.log.protocol import Outgoing, check_size
from headrace.spool import Spool
from headrace.topics import EVENTS
from producers.gateway import depot as module
from producers.gateway.depot import Depot, DepotFull, RecordRefused

RECORD_BYTES_MAX = 1_000
"""More than that the topics of these tests do not take."""


class ShakyLog(MemoryLog):
    """A log in memory that is away, hangs, or takes no large records, as a test wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.create()
        self.away = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.flushes = self.opened = self.open_appenders = 0

    def appender(self) -> "ShakyAppender":
        self.open_appenders += 1
        return ShakyAppender(self)

    def open(self) -> "ShakyLog":
        if self.away:
            raise LogUnavailable("the broker is away")
        self.opened += 1
        return self

    def values(self) -> list[bytes]:
        """Return what was written to `events`, in order; the tests write to one partition alone."""
        places = self.partitions(EVENTS)
        return [record.value or b"" for place in places for record in self.newest(place, 10_000)]


class ShakyAppender(MemoryAppender):
    """Writes when it is flushed."""

    def __init__(self, log: ShakyLog) -> None:
        super().__init__(log)
        self._shaky, self._queue = log, list[Outgoing]()

    def append(self, record: Outgoing) -> None:
        check_size(record)
        if len(record.value or b"") > RECORD_BYTES_MAX:
            raise ValueError("record too large for the topic")
        self._queue.append(record)

    def flush(self) -> None:
        assert self._shaky.goes_on.wait(30)
        if self._shaky.away:
            raise LogUnavailable("the broker is away")
        self._shaky.flushes += 1
        queue, self._queue = self._queue, []
        for record in queue:
            super().append(record)

    def close(self) -> None:
        self._shaky.open_appenders -= 1
        self.flush()


class Bench:
    """A depot that runs, its log, and its spool's folder."""

    def __init__(self, folder: Path, log: ShakyLog, bytes_max: int = 10_000) -> None:
        self.log, self.folder = log, folder
        self.depot = Depot(log.open, Spool(folder, bytes_max=bytes_max), patience_s=0.05, retry_s=0.01)

    async def store(self, *values: bytes) -> str:
        return await self.depot.store([Outgoing(EVENTS, b"ann", value) for value in values])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)

    async def drained(self) -> None:
        await self.until(lambda: self.depot.bounds()["gateway_spool_bytes"][0] == 0)


def run(
    folder: Path, test: Callable[[Bench], Awaitable[None]], log: ShakyLog | None = None, bytes_max: int = 10_000
) -> ShakyLog:
    """Run a test beside a depot, which is stopped then; return the log."""
    log = log or ShakyLog()

    async def both() -> None:
        bench = Bench(folder, log, bytes_max)
        running = asyncio.create_task(bench.depot.run())
        try:
            await test(bench)
        finally:
            bench.depot.stop()
            async with asyncio.timeout(10):
                await running

    asyncio.run(both())
    return log


@contextmanager
def hanging(log: ShakyLog) -> Iterator[None]:
    """Let each write wait during the block."""
    log.goes_on.clear()
    try:
        yield
    finally:
        log.goes_on.set()


def test_what_comes_during_a_write_is_written_together(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.store(b"0") == "log"
        stored = [asyncio.create_task(bench.store(b"%d" % number)) for number in range(1, 41)]
        assert set(await asyncio.gather(*stored)) == {"log"}
        assert bench.depot.bounds()["gateway_pending_bytes"][0] == 0

    log = run(tmp_path, test)
    assert log.values() == [b"%d" % number for number in range(41)]
    assert log.flushes <= 4
    assert (log.opened, log.open_appenders) == (1, 0)


def test_without_a_log_records_are_spooled_and_written_in_order_when_it_is_back(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.store(b"0") == "log"
        bench.log.away = True
        assert [await bench.store(b"%d" % number) for number in range(1, 9)] == ["spool"] * 8
        assert "the broker is away" in bench.depot.fault
        bench.log.away = False
        rest = [await bench.store(b"%d" % number) for number in range(9, 15)]
        await bench.drained()
        assert await bench.store(b"last") == "log"
        assert set(rest) <= {"spool", "log"}
        assert not bench.depot.fault

    log = run(tmp_path, test)
    assert log.values() == [*(b"%d" % number for number in range(15)), b"last"]
    assert log.open_appenders == 0


def test_a_failing_log_is_opened_again_and_nothing_of_it_is_left_open(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.store(b"0")
        bench.log.away = True
        await bench.store(b"1")
        await asyncio.sleep(0.05)  # a few attempts
        assert bench.log.open_appenders == 0
        bench.log.away = False
        await bench.drained()

    assert run(tmp_path, test).opened == 2


def test_a_log_that_hangs_is_answered_as_spooled_within_patience(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        with hanging(bench.log):
            began = asyncio.get_running_loop().time()
            assert await bench.store(b"0") == "spool"
            assert await bench.store(b"1") == "spool"
            assert asyncio.get_running_loop().time() - began < 2.0
            assert bench.depot.fault == "the log does not answer in time"
        await bench.drained()
        assert await bench.store(b"2") == "log"

    values = run(tmp_path, test).values()
    assert list(dict.fromkeys(values)) == [b"0", b"1", b"2"]  # what hung was written, and then what was spooled


def test_a_log_that_hung_is_used_again_though_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, flags, *mode)

    async def test(bench: Bench) -> None:
        with hanging(bench.log):
            monkeypatch.setattr(os, "open", refuse)
            for _ in range(2):
                with pytest.raises(DepotFull, match="the log does not answer"):
                    await bench.store(b"0")
        await bench.until(lambda: bench.log.flushes == 1)
        await asyncio.sleep(0.01)  # the loop learns of it
        assert await bench.store(b"1") == "log"

    assert run(tmp_path, test).values() == [b"0", b"1"]


def test_a_full_spool_refuses_and_loses_nothing(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.log.away = True
        taken, refused = list[bytes](), 0
        for number in range(20):
            value = b"%d" % number * 20
            try:
                assert await bench.store(value) == "spool"
                taken.append(value)
            except DepotFull:
                refused += 1
        assert refused > 5
        used, most = bench.depot.bounds()["gateway_spool_bytes"]
        assert used <= most
        bench.log.away = False
        await bench.drained()
        assert bench.log.values() == taken
        assert await bench.store(b"last") == "log"

    run(tmp_path, test, bytes_max=500)


def test_what_is_spooled_is_written_by_the_next_process_before_anything_newer(tmp_path: Path) -> None:
    log = ShakyLog()
    log.away = True

    async def before(bench: Bench) -> None:
        assert await bench.store(b"0", b"1") == "spool"
        assert await bench.store(b"2") == "spool"

    async def after(bench: Bench) -> None:
        bench.log.away = False
        await bench.store(b"3")
        await bench.drained()

    run(tmp_path, before, log)
    run(tmp_path, after, log)
    assert log.values() == [b"0", b"1", b"2", b"3"]


def test_a_record_that_the_log_refuses_costs_its_own_request_alone(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        large = b"x" * (RECORD_BYTES_MAX + 1)
        found = await asyncio.gather(
            bench.store(b"0"), bench.store(b"1", large), bench.store(b"2"), return_exceptions=True
        )  # fmt: skip
        assert [type(one).__name__ for one in found] == ["str", "RecordRefused", "str"]
        with pytest.raises(RecordRefused, match="too large"):
            await bench.store(large)
        assert await bench.store(b"3") == "log"
        assert not bench.depot.fault

    log = run(tmp_path, test)
    assert {b"0", b"2", b"3"} <= set(log.values()) <= {b"0", b"1", b"2", b"3"}
    assert log.open_appenders == 0


def test_a_spooled_record_that_the_log_refuses_is_counted_and_the_others_are_written(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.log.away = True
        for value in (b"0", b"x" * (RECORD_BYTES_MAX + 1), b"2"):
            assert await bench.store(value) == "spool"
        bench.log.away = False
        await bench.drained()
        assert bench.depot.refused == 1
        assert await bench.store(b"3") == "log"

    assert set(run(tmp_path, test).values()) == {b"0", b"2", b"3"}


def test_more_than_may_wait_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pending_bytes_max", 50)

    async def test(bench: Bench) -> None:
        with hanging(bench.log):
            waiting = [asyncio.create_task(bench.store(b"x" * 20)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(DepotFull, match="too many events wait"):
                await bench.store(b"yy")
            assert set(await asyncio.gather(*waiting)) == {"spool"}
        assert await bench.store(b"z") in ("log", "spool")

    assert b"yy" not in run(tmp_path, test).values()


def test_stopping_makes_safe_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        waiting = [asyncio.create_task(bench.store(b"%d" % number)) for number in range(3)]
        await asyncio.sleep(0)
        bench.depot.stop()
        with pytest.raises(DepotFull, match="stopping"):
            await bench.store(b"late")
        assert await asyncio.gather(*waiting) == ["log"] * 3

    assert run(tmp_path, test).values() == [b"0", b"1", b"2"]


def test_a_hanging_log_does_not_keep_the_depot_from_stopping(tmp_path: Path) -> None:
    log = ShakyLog()

    async def test(bench: Bench) -> None:
        log.goes_on.clear()
        assert await bench.store(b"0") == "spool"

    try:
        run(tmp_path, test, log)
    finally:
        log.goes_on.set()
    spool = Spool(tmp_path, bytes_max=10_000)
    segment = spool.first()
    assert segment is not None
    assert len(segment.entries) == 1
    spool.close()


def test_a_client_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        with hanging(bench.log):
            gone = asyncio.create_task(bench.store(b"0"))
            stays = asyncio.create_task(bench.store(b"1"))
            await asyncio.sleep(0)
            gone.cancel()
            assert await stays == "spool"
        await bench.drained()

    assert set(run(tmp_path, test).values()) == {b"0", b"1"}
