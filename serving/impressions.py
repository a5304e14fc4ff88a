"""Impressions: what answers show is written to the log by one thread, from a bounded queue for which no answer waits.

An answer is *logged* if its impressions were accepted into the queue while the last write had succeeded. While the log
is away, impressions are dropped and counted; those that were accepted before are written when it is back. A write that
failed may have reached the log, so that it may have an impression twice: consumers know it by its id. What waits when
the process is killed is lost.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from headrace.errors import BrokenWorld, Misconfigured
from headrace.impressions import Impression, record_of
from headrace.log.protocol import Appender, Log
from headrace.metrics import ServingMetrics

batch_max: Final = 1_000
"""Most impressions that are written at once."""
pause_s: Final = 0.1
"""Pause after each write, in which more impressions come together; what waits is written at the latest then."""
retry_s: Final = 1.0
"""Pause after a failed write."""
flush_s: Final = 3.0
"""Longest time, in seconds, from the stop to the end of the last write; what waits after it is dropped."""


class Impressions:
    """A bounded queue of impressions, and the thread that writes them (`run`). `offer` may be called from any thread.

    Args:
        log: None as long as it is not open: then nothing is accepted. Set the attribute before `run`.
        records_max: most impressions that wait; further ones are dropped.
    """

    def __init__(
        self,
        log: Log | None,
        metrics: ServingMetrics,
        *,
        records_max: int,
        retry_s: float = retry_s,
        flush_s: float = flush_s,
    ) -> None:
        self.log, self._metrics, self._records_max = log, metrics, records_max
        self._retry_s, self._flush_s = retry_s, flush_s
        self._queue: deque[Impression] = deque()  # of which `append` and `popleft` are atomic
        self._batch: list[Impression] = []
        self._appender: Appender | None = None
        self._away = log is None

    def offer(self, shown: Sequence[Impression]) -> bool:
        """Return whether impressions were accepted; count them as dropped if not. Never waits."""
        if self._away:
            self._metrics.count_unlogged("log_away", len(shown))
            return False
        if len(self._queue) + len(shown) > self._records_max:
            self._metrics.count_unlogged("queue_full", len(shown))
            return False
        self._queue.extend(shown)
        return True

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many impressions wait, and the most that may."""
        return {"impressions_queue": (len(self._queue), self._records_max)}

    def run(self, stop: threading.Event) -> None:
        """Write what is offered until `stop` is set; then write what waits, for a bounded time.

        Raises:
            Misconfigured: the log does not let this process write impressions.
        """
        assert self.log is not None
        self._away = False
        try:
            while not stop.is_set():
                stop.wait(pause_s if self._write() else self._retry_s)
            deadline = time.monotonic() + self._flush_s
            while (self._batch or self._queue) and time.monotonic() < deadline:
                if not self._write():
                    time.sleep(min(self._retry_s, max(0.0, deadline - time.monotonic())))
        finally:
            self._abandon()

    def _write(self) -> bool:
        """Write a batch, or that of the last failure again; return whether it is written."""
        self._batch = self._batch or self._taken()
        if not self._batch:
            return True
        try:
            self._append()
        except BrokenWorld as error:
            if not self._away:
                structlog.get_logger().warning("impressions are not logged", error=str(error))
            self._away = True
            self._close()
            return False
        if self._away:
            structlog.get_logger().info("impressions are logged again")
        self._away = False
        self._batch = []
        return True

    def _taken(self) -> list[Impression]:
        return [self._queue.popleft() for _ in range(min(batch_max, len(self._queue)))]

    def _append(self) -> None:
        """Append the batch. A record that the log refuses for ever is dropped, and the others are written."""
        assert self.log is not None
        appender = self._appender = self._appender or self.log.appender()
        refused = sum(_is_refused(partial(_append, appender, one)) for one in self._batch)
        refused += _is_refused(appender.flush)
        self._metrics.count_unlogged("refused", refused)
        self._metrics.impressions.inc(len(self._batch) - refused)

    def _close(self) -> None:
        appender, self._appender = self._appender, None
        if appender is not None:
            with suppress(BrokenWorld, Misconfigured, ValueError):
                appender.close()

    def _abandon(self) -> None:
        """Count what was not written, and close."""
        lost = len(self._batch) + len(self._queue)
        self._away = True
        self._queue.clear()
        self._batch = []
        if lost:
            self._metrics.count_unlogged("stopped", lost)
            structlog.get_logger().warning("impressions lost", count=lost)
        self._close()


def _append(appender: Appender, one: Impression) -> None:
    appender.append(record_of(one))


def _is_refused(act: Callable[[], None]) -> bool:
    """Return whether a record is refused for ever, be it the one that is appended or one before it."""
    try:
        act()
    except ValueError as error:
        structlog.get_logger().warning("impression refused", error=str(error))
        return True
    return False
