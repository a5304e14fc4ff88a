"""The depot: writes what was taken to the log, and says when it is safe.

Requests that come while a write is in progress are written together in the next one. Where the log does not answer
within `patience_s`, records go to a spool on disk and are acknowledged as spooled; they are written, before any newer
ones, when the log answers again. A record may then be written twice: events and items bear that, because consumers drop
an event whose id they know, and an item's record replaces the one before.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
import structlog

from headrace.errors import BrokenWorld, Misconfigured
from headrace.log.protocol import Appender, Log, Outgoing
from headrace.spool import Spool, SpoolFull

patience_s: Final = 2.0
"""How long a request waits for the log until its records are spooled."""
pending_bytes_max: Final = 32 * 2**20
"""Bytes of records that may wait to be written; a request beyond them is refused."""
write_bytes_max: Final = 4 * 2**20
"""Bytes of records of one write, exceeded by one request at most."""
retry_s: Final = 1.0
"""Pause after a failed attempt to write what is spooled."""
Where: TypeAlias = Literal["log", "spool"]
"""Where records are safe."""


class DepotFull(Exception):
    """The records were not taken, because too many wait, or because the spool is full; the text says which."""


class RecordRefused(Exception):
    """The log refused a record for ever, as larger than its topic admits; none of the request's records counts."""


class _Wait(NamedTuple):
    records: Sequence[Outgoing]
    size: int
    done: "asyncio.Future[Where]"


class Depot:
    """Writes records to a log, or to a spool while the log is away. Use it in one event loop; `run` must be running.

    Args:
        open_log: opens the log, at the first write and after a failure; it may take long or raise BrokenWorld.
        spool: owned by the depot from now on.
    """

    def __init__(
        self, open_log: Callable[[], Log], spool: Spool, *, patience_s: float = patience_s, retry_s: float = retry_s
    ) -> None:
        self._open_log, self._spool, self._patience_s, self._retry_s = open_log, spool, patience_s, retry_s
        self._pending: list[_Wait] = []
        self._pending_bytes = 0
        self._wake = asyncio.Event()
        self._stopping = False
        # One thread each, so that a log that hangs does not keep records from the disk.
        self._to_log, self._to_disk = ThreadPoolExecutor(1, "log"), ThreadPoolExecutor(1, "spool")
        self._log: Log | None = None
        self._appender: Appender | None = None
        self._hanging: asyncio.Future[None] | None = None
        self._emptying: asyncio.Task[None] | None = None
        self._spooling = self._full = False
        self.fault = ""
        """Why the log cannot be written; empty if it can."""
        self.refused = 0
        """Spooled records that the log refused, so that they are lost; the log of the process names them."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many bytes wait in memory and on disk, and the most that may."""
        return {
            "gateway_pending_bytes": (self._pending_bytes, pending_bytes_max),
            "gateway_spool_bytes": (self._spool.size, self._spool.bytes_max),
        }

    async def store(self, records: Sequence[Outgoing]) -> Where:
        """Return once all records are safe, and where.

        Raises:
            DepotFull: they cannot be taken now.
            RecordRefused: the log does not take one of them.
        """
        size = sum(len(record.key or b"") + len(record.value or b"") for record in records)
        if self._pending_bytes + size > pending_bytes_max or self._stopping:
            raise DepotFull("the server is stopping" if self._stopping else "too many events wait to be written")
        wait = _Wait(records, size, asyncio.get_running_loop().create_future())
        self._pending.append(wait)
        self._pending_bytes += size
        self._wake.set()
        return await wait.done

    async def run(self) -> None:
        """Write until `stop` was called and nothing waits. What is spooled stays for the next process."""
        if len(self._spool):
            self._begin_emptying()
        while not (self._stopping and not self._pending):
            await self._wake.wait()
            self._wake.clear()
            if self._emptying and self._emptying.done():
                self._emptying.result()  # raises what was wrong
            while self._pending:
                waits = self._take()
                await self._write(waits)
                self._pending_bytes -= sum(wait.size for wait in waits)
        if self._emptying:
            self._emptying.cancel()
            with suppress(asyncio.CancelledError):
                await self._emptying
        self._to_disk.shutdown()
        closing = asyncio.get_running_loop().run_in_executor(self._to_log, self._close_log)
        await asyncio.wait([closing], timeout=self._patience_s)
        self._to_log.shutdown(wait=False, cancel_futures=True)  # the log may hang, and the process ends anyway
        self._spool.close()

    def stop(self) -> None:
        """Let `run` return once what waits is safe."""
        self._stopping = True
        self._wake.set()

    def _take(self) -> list[_Wait]:
        size = count = 0
        for wait in self._pending:
            count, size = count + 1, size + wait.size
            if size >= write_bytes_max:
                break
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken

    async def _write(self, waits: list[_Wait]) -> None:
        """Make the records of some requests safe, and answer these."""
        if self._emptying is None:
            records = [record for wait in waits for record in wait.records]
            try:
                if await self._append(records):
                    _answer(waits, "log")
                    return
            except RecordRefused:
                if len(waits) == 1:
                    _refuse(waits, RecordRefused("the log refused a record as too large for its topic"))
                    return
                for wait in waits:
                    await self._write([wait])
                return
        try:
            await self._spooled([record for wait in waits for record in wait.records])
            _answer(waits, "spool")
            self._full = False
        except SpoolFull as error:
            if not self._full:  # once, not for each request that is refused
                structlog.get_logger().warning("spool full", error=str(error))
            self._full = True
            _refuse(waits, DepotFull("the log does not answer, and no more can be kept for it"))
        if self._emptying is None:
            self._begin_emptying()

    async def _append(self, records: Sequence[Outgoing]) -> bool:
        """Return whether the log has the records within the time that a request waits. Raises RecordRefused."""
        if self._hanging is not None:
            if not self._hanging.done():
                return False
            self._settle_hanging()
        attempt = asyncio.get_running_loop().run_in_executor(self._to_log, self._append_now, records)
        finished, _ = await asyncio.wait([attempt], timeout=self._patience_s)
        if not finished:
            self._hanging, self.fault = attempt, "the log does not answer in time"
            return False
        return self._succeeded(attempt)

    def _settle_hanging(self) -> None:
        """Note the outcome of an attempt that took longer than a request waits; its records were spooled or refused."""
        if (attempt := self._hanging) is not None:
            self._hanging = None
            with suppress(RecordRefused):
                self._succeeded(attempt)

    def _succeeded(self, attempt: "asyncio.Future[None]") -> bool:
        """Return whether a finished attempt has written its records. Raises RecordRefused."""
        try:
            attempt.result()
        except (BrokenWorld, Misconfigured) as error:
            if str(error) != self.fault:
                structlog.get_logger().warning("log unavailable", error=str(error))
            self.fault = str(error)
            return False
        except ValueError as error:
            raise RecordRefused(str(error)) from error
        self.fault = ""
        return True

    def _append_now(self, records: Sequence[Outgoing]) -> None:
        """Append and flush, in the thread that has the log; after a failure, open the log again."""
        try:
            if self._log is None:
                self._log = self._open_log()
            if self._appender is None:
                self._appender = self._log.appender()
            for record in records:
                self._appender.append(record)
            self._appender.flush()
        except (BrokenWorld, Misconfigured):
            self._close_log()
            raise
        except ValueError:  # the others are written; what of them is written again is dropped by consumers
            self._close_appender()
            raise

    def _close_appender(self) -> None:
        """Close the appender, which holds a connection of its own."""
        appender, self._appender = self._appender, None
        if appender is not None:
            with suppress(BrokenWorld, Misconfigured, ValueError):
                appender.close()

    def _close_log(self) -> None:
        self._close_appender()
        log, self._log = self._log, None
        if log is not None:
            with suppress(BrokenWorld, Misconfigured, ValueError):
                log.close()

    async def _spooled(self, records: Sequence[Outgoing]) -> None:
        """Spool records; raises SpoolFull."""
        entries = [msgspec.msgpack.encode(record) for record in records]
        self._spooling = True
        try:
            await asyncio.get_running_loop().run_in_executor(self._to_disk, self._spool.add, entries)
        finally:
            self._spooling = False

    def _begin_emptying(self) -> None:
        self._emptying = asyncio.get_running_loop().create_task(self._empty())
        self._emptying.add_done_callback(lambda _: self._wake.set())

    async def _empty(self) -> None:
        """Write what is spooled to the log, until nothing is; requests go to the spool's end meanwhile."""
        loop, began_s, count = asyncio.get_running_loop(), time.monotonic(), 0
        while self._spooling or len(self._spool):
            segment = await loop.run_in_executor(self._to_disk, self._spool.first)
            if segment is None:  # the first records are on their way to the disk
                continue
            records = [msgspec.msgpack.decode(entry, type=Outgoing) for entry in segment.entries]
            while not await self._written(records):
                await asyncio.sleep(self._retry_s)
            count += len(records)
            await loop.run_in_executor(self._to_disk, self._spool.remove, segment)
        self._emptying = None  # at once: what is taken from now on goes to the log
        if count:
            seconds = round(time.monotonic() - began_s, 1)
            structlog.get_logger().info("spool written", records=count, seconds=seconds)

    async def _written(self, records: Sequence[Outgoing]) -> bool:
        """Return whether spooled records are written, however long the log takes to say so."""
        if self._hanging is not None:
            await asyncio.wait([self._hanging])
            self._settle_hanging()
        attempt = asyncio.get_running_loop().run_in_executor(self._to_log, self._append_now, records)
        await asyncio.wait([attempt])
        try:
            return self._succeeded(attempt)
        except RecordRefused as error:
            if len(records) > 1:
                return all([await self._written([record]) for record in records])
            self.refused += 1
            structlog.get_logger().error("record refused by the log", topic=records[0].topic, error=str(error))
            return True


def _answer(waits: Sequence[_Wait], where: Where) -> None:
    for wait in waits:
        if not wait.done.done():  # of a request that was cancelled it is
            wait.done.set_result(where)


def _refuse(waits: Sequence[_Wait], error: Exception) -> None:
    """Let each request fail."""
    for wait in waits:
        if not wait.done.done():
            wait.done.set_exception(error)
