"""The wall clock as a value to pass in, and times that people write.

Only processes have a clock; learners use event time.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

from headrace.errors import Misconfigured

Clock: TypeAlias = Callable[[], int]
"""Returns milliseconds since the epoch."""


class Timer(NamedTuple):
    """Measures time and waits. A simulation passes one of its own.

    `monotonic` returns seconds since any moment, which never decrease; `sleep` waits for so many seconds; `cpu` returns
    the seconds of processor time that this thread has used.
    """

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    cpu: Callable[[], float] = time.thread_time


TIMER = Timer()
"""The system's."""


def wall_ms() -> int:
    """Return the time of day in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def read_time_ms(name: str, time: datetime | str) -> int:
    """Return a time that somebody gives, in ms since the epoch. Without a time zone it is in UTC.

    Args:
        name: what the time is called, for the error.

    Raises:
        Misconfigured: a text is not ISO 8601.

    >>> read_time_ms("since", "1970-01-01T01:00+01:00"), read_time_ms("since", "1970-01-02")
    (0, 86400000)
    """
    try:
        found = datetime.fromisoformat(time) if isinstance(time, str) else time
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Misconfigured(f"{name} {time}: wanted a time such as 2011-03-01 or 2011-03-01T08:00:00Z") from None
