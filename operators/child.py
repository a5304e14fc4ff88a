"""Processes that are started by a command, as a person or a supervisor would, each with its log file."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from headrace.errors import LogUnavailable
from headrace.tied import tied_command

start_s_max: Final = 180.0
"""Maximum time until a process is up: importing torch takes seconds, more on a busy machine."""
stop_s_max: Final = 30.0
kill_s_max: Final = 5.0
"""Longest wait, in seconds, for the end of a process that was killed; in a call of the system that does not return, it
ends later."""
drain_s_max: Final = 5.0
"""Maximum time, in seconds, to read the rest of the output of a process that has ended."""
tail_lines: Final = 12
kept_lines_max: Final = 10_000
"""Most lines of a process' output that are kept in memory."""
line_bytes_max: Final = 65_536
"""Most bytes of a line; the rest is a line of its own."""
log_bytes_max: Final = 10_000_000
"""Most bytes of a process' log file; the file before it has as many."""

Scraped: TypeAlias = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Scraped metrics: values by name and labels."""


def total(scraped: Scraped, name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have these labels.

    >>> total({("x", (("a", "1"),)): 2.0, ("x", (("a", "2"),)): 3.0}, "x", a="2")
    3.0
    """
    wanted = set(labels.items())
    return sum(value for (found, having), value in scraped.items() if found == name and wanted <= set(having))


def headrace(*arguments: str) -> list[str]:
    """Return the shipped command with these arguments."""
    script = Path(sys.executable).with_name("headrace")
    return [str(script) if script.exists() else "headrace", *arguments]


class LogFile:
    """A file of lines of bounded size: when it is full, it becomes `NAME.1` in place of an older one.

    A line that cannot be written, as the disk is full, is left out.
    """

    def __init__(self, path: Path, bytes_max: int = log_bytes_max) -> None:
        self._path, self._bytes_max = path, bytes_max
        self._file = path.open("ab")

    def write(self, line: bytes) -> None:
        """Append a line."""
        with suppress(OSError, ValueError):  # the latter if the file could not be opened again
            if self._file.tell() + len(line) > self._bytes_max:
                self._file.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._file = self._path.open("ab")
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()


class Child:
    """One process: its command, its output, and the address on which it listens.

    It ends with this process, however this one ends (`headrace.tied`); so it must be started by a thread that lives as
    long. A thread reads its output, appends it to a file and passes each line on. A Ctrl-C in the terminal does not
    reach it.

    Args:
        name: the first word of the line that says where it listens (`producer`, `online`, `finetune`, `serve`).
        environ: variables in addition to those of this process.
        path: its log file (`LogFile`); by default `NAME.log` in the folder.
        cwd: its working directory, from which it reads `headrace.toml`.
        on_line: is called with each line of its output, by the thread that reads it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        path: Path | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.path, self.command = name, path or folder / f"{name}.log", list(command)
        self.address = ""
        self.started_s = time.monotonic()
        self._lines: deque[str] = deque(maxlen=kept_lines_max)
        self._on_line = on_line
        self._stop_requested = False
        file = LogFile(self.path)
        try:
            self._process = subprocess.Popen(
                tied_command(self.command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})}, cwd=cwd, start_new_session=True,
            )  # fmt: skip
        except OSError:
            file.close()
            raise
        self._reader = threading.Thread(target=self._read, args=(file,), name=f"output of {name}", daemon=True)
        self._reader.start()

    def _read(self, file: LogFile) -> None:
        assert self._process.stdout
        says_where = re.compile(rf"{re.escape(self.name)}: (?:.*? on )?(http://|kafka:)([^/,\s]+)")
        with self._process.stdout as output, closing(file):
            while line := output.readline(line_bytes_max):
                file.write(line)
                text = line.decode(errors="replace").removesuffix("\n")
                self._lines.append(text)
                if not self.address and (found := says_where.match(text)):
                    self.address = "".join(found.groups())
                if self._on_line:
                    self._on_line(text)

    def __str__(self) -> str:
        return shlex.join([Path(self.command[0]).name, *self.command[1:]])

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs. When it has ended, all of its output has been read."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(drain_s_max)
        return code

    @property
    def text(self) -> str:
        """Its output so far, at most the newest `kept_lines_max` lines."""
        return "\n".join([*self._lines, ""])

    @property
    def tail(self) -> str:
        """The last lines of its output."""
        return "\n".join(list(self._lines)[-tail_lines:])

    @property
    def reason(self) -> str:
        """The line of its output that says why it ended: its last error, or else its last line; empty if none."""
        lines = [line for line in [*self._lines] if line.strip()]
        errors = [line for line in lines if line.startswith("headrace: ")]
        return next((line.removeprefix("headrace: ") for line in reversed(errors or lines)), "")

    def wait_until_up(self) -> None:
        """Wait until it says where it listens.

        Raises:
            LogUnavailable: it ended, or did not say so in time.
        """
        deadline = time.monotonic() + start_s_max
        while not self.address:
            self.check()
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{self.name} did not start within {start_s_max:.0f} s; see {self.path}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise LogUnavailable with the end of its log if it ended with an error, unless `request_stop` was called."""
        if self.code and not self._stop_requested:
            raise LogUnavailable(f"{self.name} ended with exit code {self.code}; the end of {self.path}:\n{self.tail}")

    def scrape(self) -> Scraped:
        """Return its current metrics; empty if it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.address}/metrics", timeout=10) as response:
                text = response.read().decode()
        except OSError:
            return {}
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def wait(self, timeout_s: float) -> int:
        """Wait until it ends, and return its exit code. Raises LogUnavailable if it does not end in time."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LogUnavailable(f"{self.name} did not end within {timeout_s:.0f} s; its end:\n{self.tail}") from None
        self._reader.join(drain_s_max)
        return code

    def kill(self) -> None:
        """Kill it, as in a crash."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(kill_s_max)
        self._reader.join(drain_s_max)

    def request_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal, and return at once."""
        self._stop_requested = True
        if self.code is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Stop it by SIGTERM, unless it was asked to stop before, and kill it if that takes too long."""
        if not self._stop_requested:
            self.request_stop()
        try:
            self._process.wait(stop_s_max)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(drain_s_max)


class Children:
    """Several processes, which are stopped at the end of the `with` block.

    Args:
        environ: variables for all of them.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self._folder, self._environ, self._cwd = folder, dict(environ or {}), cwd
        self._all: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._all:
            child.request_stop()
        for child in self._all:
            child.stop()

    def start(self, name: str, *arguments: str, up: bool = True) -> Child:
        """Start the shipped command with its own log file and, unless `up` is false, wait until it is up."""
        child = self.run(name, headrace(*arguments), cwd=self._cwd)
        if up:
            child.wait_until_up()
        return child

    def run(self, name: str, command: Sequence[str], cwd: Path | None = None) -> Child:
        """Start any command with its own log file."""
        path = self._folder / f"{name}-{len(self._all)}.log"
        self._all.append(Child(name, command, self._folder, environ=self._environ, path=path, cwd=cwd))
        return self._all[-1]

    def wait_until(self, what: str, condition: Callable[[], bool], timeout_s: float = 240.0) -> None:
        """Wait until `condition()` is true; `what` describes it.

        Raises:
            LogUnavailable: it did not become true in time; the text has the ends of all logs.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise LogUnavailable(f"waited {timeout_s:.0f} s, but it is not true that {what}\n{self.tails()}")
            time.sleep(0.02)

    def tails(self) -> str:
        """Return the end of each log."""
        return "\n".join(f"--- {child} (exit code {child.code})\n{child.tail}" for child in self._all)
