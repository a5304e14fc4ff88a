"""What every long-running process needs: a stop on signals, one retry loop with one deadline, and logging."""

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from headrace import watchdog
from headrace.errors import BrokenWorld, Stopping
from headrace.text import visible, visible_lines

first_pause_s = 0.2
pause_s_max = 5.0
healthy_attempt_s_default = 120.0
"""An attempt that ran longer than this before it failed counts as having worked. An attempt that only waited for an
unreachable log is shorter, because each call has a deadline of 30 s and few calls follow one another."""

stop_s_max = 8.0
"""Longest time, in seconds, that a process takes from its first SIGTERM or SIGINT to its end."""


def collect_garbage_rarely() -> None:
    """Run the garbage collector rarely.

    Learners hold millions of small objects, all of which a collection visits, and create few reference cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def stop_on_signals(within_s: float = stop_s_max) -> threading.Event:
    """Return an event that the first SIGTERM or SIGINT sets. Must be called from the main thread.

    The process ends `within_s` seconds after that signal, whatever it does then, and at once with the second one; in
    both cases with exit code 128 + the signal's number. From now on the process is watched (`headrace.watchdog`).

    A thread takes the signals, because a handler in Python runs only when the main thread does: not while that waits in
    a library's code.
    """
    stop = threading.Event()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def take() -> None:
        code = 128 + os.read(read, 1)[0]
        with watchdog.wait("the process to stop", within_s, code=code):
            stop.set()
            os._exit(128 + os.read(read, 1)[0])

    watchdog.watch()
    threading.Thread(target=take, name="signals", daemon=True).start()
    return stop


def run_with_retries(
    body: Callable[[], None],
    stop: threading.Event,
    *,
    deadline_s: float,
    healthy_attempt_s: float = healthy_attempt_s_default,
) -> None:
    """Run `body` until it returns or stops, and again after each retriable failure, from the last commit.

    The deadline is measured from the first of consecutive failures. An attempt that ran longer than `healthy_attempt_s`
    before it failed starts a new series.

    Raises:
        BrokenWorld: it is not retriable, or the deadline has passed, or `body` was to stop, so that what it had not
            committed is left to the next start; the process should exit, and its supervisor should restart it.
    """
    logger = structlog.get_logger()
    first_failure_s: float | None = None
    pause_s = first_pause_s
    while not stop.is_set():
        started_s = time.monotonic()
        try:
            body()
            return
        except Stopping:
            return
        except BrokenWorld as error:
            now_s = time.monotonic()
            if now_s - started_s > healthy_attempt_s:
                first_failure_s, pause_s = None, first_pause_s
            first_failure_s = first_failure_s or now_s
            if not error.retriable or now_s - first_failure_s > deadline_s or stop.is_set():
                raise
            logger.warning("retrying", error=str(error), pause_s=pause_s)
            stop.wait(pause_s)
            pause_s = min(pause_s_max, 2 * pause_s)


def warn_of_renewed(shard: str, renewed: Mapping[str, str]) -> None:
    """Log each part of a shard's restored state that is not as it was stored."""
    for part, how in renewed.items():
        structlog.get_logger().warning("state renewed", shard=shard, part=part, how=how)


class _StandardError:
    """Standard error, of which a line that cannot be written is left out: a full disk must not end what works."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def log_to_stderr() -> None:
    """Log to standard error: formatted for reading on a terminal, one line of JSON per event otherwise.

    Warnings of libraries are logged in the same way.
    """
    prepare: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    render: list[Processor] = [structlog.processors.JSONRenderer()]
    if sys.stderr.isatty():
        render = [_make_visible, structlog.dev.ConsoleRenderer()]
    structlog.configure(
        processors=[*prepare, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast(TextIO, _StandardError()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=prepare,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _make_visible(logger: Any, method: str, event: EventDict) -> EventDict:
    """Escape what would control the terminal in the texts of a log event; an exception keeps its lines."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = visible_lines(value) if name == "exception" else visible(value)
    return event
