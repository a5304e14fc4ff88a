"""A watchdog for waits that a library, a disk or a thread may never end: it ends the process.

A process that waits for ever neither works nor fails, so its supervisor does not start it again. A wait that has no
deadline of its own stands in `with watchdog.wait("a commit", 45.0):`. If it lasts longer, the watchdog writes one line
to standard error and ends the process at once; all that was committed stays. Limits are well above the deadlines that
libraries have, so it acts only where those fail (docs/decisions/0023-no-wait-without-an-end.md).

It acts in processes that a supervisor starts again, and that have called `watch`. In others, waits are only noted.
"""

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, NoReturn, Self

check_interval_s: Final = 0.5
"""Time between two looks at what is waited for."""
tick_s_max: Final = 2.0
"""Most time that passes between two looks, as the watchdog counts it: while a process or its machine is suspended, no
library can end a wait."""
HUNG: Final = 1
"""Exit code of a process whose wait did not end."""


def end_process(text: str, code: int) -> NoReturn:
    """Write a line to standard error and end the process, without running anything else."""
    os.write(2, f"headrace: {text}\n".encode(errors="backslashreplace"))
    os._exit(code)


class Wait:
    """A wait that is under way during its `with` block."""

    __slots__ = ("_watchdog", "code", "limit_s", "since_s", "what")

    def __init__(self, watchdog: "Watchdog", what: str, limit_s: float, code: int) -> None:
        self._watchdog, self.what, self.limit_s, self.code = watchdog, what, limit_s, code
        self.since_s = 0.0

    def __enter__(self) -> Self:
        self.since_s = self._watchdog.now_s
        self._watchdog.waits.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.waits.discard(self)


class Watchdog:
    """Looks at all waits of a process from a thread of its own. A wait takes no lock and reads no clock.

    Args:
        seconds: a monotonic clock.
        end: ends the process, given the line for standard error and the exit code.

    Attributes:
        now_s: seconds for which this process has run, as of the last look.
        waits: those under way. (Adding to and removing from a set are atomic.)
    """

    def __init__(
        self, *, seconds: Callable[[], float] = time.monotonic, end: Callable[[str, int], object] = end_process
    ) -> None:
        self._seconds, self._end = seconds, end
        self.now_s = 0.0
        self.waits: set[Wait] = set()
        self._looked_s = seconds()
        self._thread: threading.Thread | None = None

    def wait(self, what: str, limit_s: float, *, code: int = HUNG) -> Wait:
        """Return a context manager for a wait of at most `limit_s` seconds.

        Args:
            what: what is waited for, for the line that tells of it.
            code: the exit code with which the process ends.
        """
        return Wait(self, what, limit_s, code)

    def look(self) -> None:
        """End the process if a wait has lasted for longer than its limit."""
        now = self._seconds()
        self.now_s += min(tick_s_max, now - self._looked_s)
        self._looked_s = now
        waits = sorted(self.waits.copy(), key=lambda one: one.since_s)
        for one in waits:
            if self.now_s - one.since_s > one.limit_s:
                others = [f"{other.what} ({self.now_s - other.since_s:.0f} s)" for other in waits if other is not one]
                also = f"; also waiting for {', '.join(others)}" if others else ""
                self._end(f"Hung: waited {self.now_s - one.since_s:.0f} s for {one.what}{also}; ending", one.code)
                return

    def watch(self) -> None:
        """Look at all waits from now on, until the process ends. Safe to call twice."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while True:
            time.sleep(check_interval_s)
            self.look()


_of_process: Final = Watchdog()
wait: Final = _of_process.wait
watch: Final = _of_process.watch
