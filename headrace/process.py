"""What every long-running process does: stop on a signal, retry a broken world in one place under one deadline, log."""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable

import structlog

from headrace.errors import BrokenWorld

first_pause_s = 0.2
pause_s_max = 5.0
attempt_s_max_default = 120.0
"""A body that ran longer before it failed had come to life. A log that is away is noticed in less, for each call to it
has a deadline of 30 s and few come one after another; so an attempt that only waited is no sign of life."""


def calm_collector() -> None:
    """Look for reference cycles rarely. Learners hold millions of small objects and make no cycles that matter, and a
    collection walks them all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set. Call it from the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def retried(
    body: Callable[[], None],
    stop: threading.Event,
    *,
    deadline_s: float,
    attempt_s_max: float = attempt_s_max_default,
) -> None:
    """Run `body` until it returns. After a retriable failure run it anew, for it restarts from the last commit.

    The deadline counts from the first failure in a row; a `body` that ran longer than `attempt_s_max` before it failed
    begins a new row.

    Raises:
        BrokenWorld: not retriable, or the deadline has passed; the process should die and its supervisor restart it.
    """
    say = structlog.get_logger()
    failing_since: float | None = None
    pause_s = first_pause_s
    while not stop.is_set():
        began = time.monotonic()
        try:
            body()
            return
        except BrokenWorld as error:
            now = time.monotonic()
            if now - began > attempt_s_max:
                failing_since, pause_s = None, first_pause_s
            failing_since = failing_since or now
            if not error.retriable or now - failing_since > deadline_s:
                raise
            say.warning("retrying", error=str(error), pause_s=pause_s)
            stop.wait(pause_s)
            pause_s = min(pause_s_max, 2 * pause_s)


def log_to_stderr() -> None:
    """Write one line per happening to standard error: readable on a terminal, JSON elsewhere."""
    shape = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            shape,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
