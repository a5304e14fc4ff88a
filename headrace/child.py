"""A child process for work that takes longer than a commit may. It never outlives its parent.

The parent starts it with `ChildProcess` and polls it. The child runs `python -m headrace.child`, calls one function
with the bytes that it was given, and writes what the function returns to a file. Its standard output is discarded, so
whatever it prints cannot be taken for a result. Every way in which it can end is a value (`Ended`).

The files lie in a temporary folder of its own. The parent holds a lock on that folder; a folder without a lock is left
over from a parent that was killed (`remove_leftovers`).
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

from headrace.artifacts import resolve
from headrace.clock import wall_ms
from headrace.tied import die_with

INPUT: Final = "input"
OUTPUT: Final = "output"
ERRORS: Final = "errors"
Work: TypeAlias = Callable[[bytes, Callable[[], float]], bytes]
"""What a child runs: given the input and a monotonic clock (s), it returns the output."""

kill_s_max: Final = 5.0
"""Longest time, in seconds, for which the parent waits until a killed child is gone."""
parent_poll_s: Final = 1.0
"""Time, in seconds, between two looks of the child at its parent."""
reason_characters_max: Final = 300
"""Most characters of the child's last line that a reason repeats."""
_OOM_SCORE: Final = "500"
"""Added to the child's score by which Linux chooses a process to kill where memory runs out."""


class Ended(NamedTuple):
    """How a child ended: with an output, or without one for a reason."""

    output: bytes | None
    reason: str = ""


class Running(Protocol):
    """Work that runs beside this process. `started_ms` is when it started (wall clock)."""

    started_ms: int

    def poll(self) -> Ended | None:
        """Return how it ended, None while it runs; quick, and the same answer from the end on."""

    def close(self) -> None:
        """End it at once, and remove its files. Safe to call twice."""


class ChildProcess:
    """One call of a function in a process of its own.

    Args:
        work: the function, as `module:name`; see `Work`.
        data: its input.
        key: begins the name of the temporary folder; see `remove_leftovers`.
        limit_s: time after which it is killed.

    Raises:
        OSError: the input cannot be written, or the process cannot be started; nothing is left.
    """

    def __init__(self, work: str, data: bytes, *, key: str, limit_s: float) -> None:
        self.started_ms, self._limit_s = wall_ms(), limit_s
        self._deadline = time.monotonic() + limit_s
        self._ended: Ended | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=_prefix(key)))
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            (self.folder / INPUT).write_bytes(data)
            with (self.folder / ERRORS).open("wb") as errors:
                self._process = subprocess.Popen(
                    # -P: a file in the working directory must not be taken for a module.
                    [sys.executable, "-P", "-m", "headrace.child", work, str(self.folder), str(os.getpid())],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                    start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which then ends the child
                )  # fmt: skip
        except OSError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def poll(self) -> Ended | None:
        """Return how the child ended, None while it runs. A child that has run for too long is killed."""
        if self._ended is None:
            assert self._process is not None
            code = self._process.poll()
            if code is not None:
                self._ended = self._result(code)
            elif time.monotonic() > self._deadline:
                self._ended = Ended(None, f"it did not end within {self._limit_s:.0f} s")
            if self._ended:
                self.close()
        return self._ended

    def _result(self, code: int) -> Ended:
        if code == 0:
            try:
                return Ended((self.folder / OUTPUT).read_bytes())
            except OSError as error:
                return Ended(None, f"its result cannot be read: {error.strerror}")
        if code < 0:
            return Ended(None, f"it was killed by {_signal_name(-code)}")
        return Ended(None, f"it ended with exit code {code}: {self._last_line() or 'it wrote no reason'}")

    def _last_line(self) -> str:
        """Return the last line that the child wrote to standard error, shortened."""
        with suppress(OSError), (self.folder / ERRORS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * reason_characters_max))
            lines = file.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[-reason_characters_max:]
        return ""

    def close(self) -> None:
        """Kill the child if it runs, and remove its folder. Safe to call twice."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # in an uninterruptible call; the signal ends it afterwards
                self._process.wait(kill_s_max)
        if self._lock >= 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def remove_leftovers(key: str) -> list[Path]:
    """Remove the folders of children whose parents were killed; return them.

    A living parent holds a lock on its folder; the system frees the locks of a process that ends in any way.
    """
    removed = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(_prefix(key) + "*")):
        with suppress(OSError):  # removed meanwhile, or another user's
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                    removed.append(folder)
            finally:
                os.close(lock)
    return removed


def _prefix(key: str) -> str:
    return f"headrace-{key}-"


def _signal_name(number: int) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL; perhaps memory ran out"
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _die_with(parent: int) -> None:
    """Let this process end when its parent does: at once on Linux, else within `parent_poll_s`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(parent_poll_s)
        os._exit(1)

    die_with(parent)
    threading.Thread(target=watch, daemon=True).start()


def _die_first() -> None:
    """Let Linux kill this process rather than its parent where memory runs out."""
    with suppress(OSError):  # there is no such file elsewhere
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def main(arguments: Sequence[str]) -> None:
    """Run the child: call the function with the input, and write its output."""
    name, place, parent = arguments
    _die_with(int(parent))
    _die_first()
    folder = Path(place)
    work: Work = resolve(name)  # imports; the slow part, so after the process is tied to its parent
    output = work((folder / INPUT).read_bytes(), time.perf_counter)
    (folder / "part").write_bytes(output)
    (folder / "part").rename(folder / OUTPUT)


if __name__ == "__main__":
    main(sys.argv[1:])
