"""Processes of the house, started as a person or a supervisor would: by the shipped command, each with its log file."""

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from headrace.errors import LogUnavailable

start_s_max: Final = 180.0
"""A process imports torch at its start: seconds, more on a busy machine."""
stop_s_max: Final = 30.0
tail_lines: Final = 12

Scraped: TypeAlias = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Metrics as they were scraped: values by name and labels."""


def total(scraped: Scraped, name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have these labels.

    >>> total({("x", (("a", "1"),)): 2.0, ("x", (("a", "2"),)): 3.0}, "x", a="2")
    3.0
    """
    wanted = set(labels.items())
    return sum(value for (found, having), value in scraped.items() if found == name and wanted <= set(having))


class Child:
    """One process: its command, its log file, and where its metrics are.

    Args:
        name: the word with which its first line begins (`producer`, `online`, `finetune`, `serve`).
        environ: variables beside those of this process.
        path: its log file; `NAME.log` in the folder unless given.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        path: Path | None = None,
    ) -> None:
        self.name, self.path = name, path or folder / f"{name}.log"
        script = Path(sys.executable).with_name("headrace")
        self.command = [str(script) if script.exists() else "headrace", *arguments]
        with self.path.open("wb") as file:
            self._process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **(environ or {})}
            )
        self.address = ""
        self._asked = False

    def __str__(self) -> str:
        return shlex.join(["headrace", *self.command[1:]])

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self.path.read_text(errors="replace")

    @property
    def tail(self) -> str:
        """The end of what it has said."""
        return "\n".join(self.text.splitlines()[-tail_lines:])

    def await_up(self) -> None:
        """Wait until it says where it listens.

        Raises:
            LogUnavailable: it died, or said nothing in time.
        """
        deadline = time.monotonic() + start_s_max
        while time.monotonic() < deadline:
            for line in self.text.splitlines(keepends=True):
                if line.startswith(f"{self.name}:") and "http://" in line and line.endswith("\n"):
                    self.address = "http://" + line.partition("http://")[2].partition("/")[0]
                    return
            self.check()
            time.sleep(0.1)
        raise LogUnavailable(f"{self.name} did not start within {start_s_max:.0f} s; see {self.path}")

    def check(self) -> None:
        """Raise LogUnavailable with the end of its log if it ended with an error, unless it was asked to end."""
        if self.code and not self._asked:
            raise LogUnavailable(f"{self.name} ended with exit code {self.code}; the end of {self.path}:\n{self.tail}")

    def scrape(self) -> Scraped:
        """Return its metrics now; nothing if it does not answer."""
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
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LogUnavailable(f"{self.name} did not end within {timeout_s:.0f} s; its end:\n{self.tail}") from None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def ask(self) -> None:
        """Ask it to end, and return at once."""
        self._asked = True
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it, gently at first."""
        if self.code is None:
            self.ask()
            try:
                self._process.wait(stop_s_max)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


class Children:
    """Several processes that end with the block, and what to wait for while they run.

    Args:
        environ: variables for all of them.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self._folder, self._environ = folder, dict(environ or {})
        self._all: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._all:
            child.ask()
        for child in self._all:
            child.stop()

    def start(self, name: str, *arguments: str, up: bool = True) -> Child:
        """Start a process with its own log file and, unless told otherwise, wait until it is up."""
        path = self._folder / f"{name}-{len(self._all)}.log"
        child = Child(name, arguments, self._folder, environ=self._environ, path=path)
        self._all.append(child)
        if up:
            child.await_up()
        return child

    def await_that(self, what: str, holds: Callable[[], bool], timeout_s: float = 240.0) -> None:
        """Wait until something holds.

        Raises:
            LogUnavailable: it did not hold in time; the text has the ends of all logs.
        """
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise LogUnavailable(f"waited {timeout_s:.0f} s in vain until {what}\n{self.tails()}")
            time.sleep(0.02)

    def tails(self) -> str:
        """Return the end of each log."""
        return "\n".join(f"--- {child} (exit code {child.code})\n{child.tail}" for child in self._all)
