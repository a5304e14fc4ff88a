"""Processes that are started by the shipped command, as a person or a supervisor would, each with its log file."""

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
"""Maximum time until a process is up: importing torch takes seconds, more on a busy machine."""
stop_s_max: Final = 30.0
tail_lines: Final = 12

Scraped: TypeAlias = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Scraped metrics: values by name and labels."""


def total(scraped: Scraped, name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have these labels.

    >>> total({("x", (("a", "1"),)): 2.0, ("x", (("a", "2"),)): 3.0}, "x", a="2")
    3.0
    """
    wanted = set(labels.items())
    return sum(value for (found, having), value in scraped.items() if found == name and wanted <= set(having))


class Child:
    """One process: its command, its log file, and the address of its metrics.

    Args:
        name: the first word of its first line (`producer`, `online`, `finetune`, `serve`).
        environ: variables in addition to those of this process.
        path: its log file; by default `NAME.log` in the folder.
        cwd: its working directory, from which it reads `headrace.toml`.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        path: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name, self.path = name, path or folder / f"{name}.log"
        script = Path(sys.executable).with_name("headrace")
        self.command = [str(script) if script.exists() else "headrace", *arguments]
        with self.path.open("wb") as file:
            self._process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **(environ or {})}, cwd=cwd
            )
        self.address = ""
        self._stop_requested = False

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
        """Its output so far."""
        return self.path.read_text(errors="replace")

    @property
    def tail(self) -> str:
        """The last lines of its output."""
        return "\n".join(self.text.splitlines()[-tail_lines:])

    def wait_until_up(self) -> None:
        """Wait until it prints the address on which it listens.

        Raises:
            LogUnavailable: it ended, or printed no address in time.
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
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LogUnavailable(f"{self.name} did not end within {timeout_s:.0f} s; its end:\n{self.tail}") from None

    def kill(self) -> None:
        """Kill it, as in a crash."""
        self._process.kill()
        self._process.wait()

    def request_stop(self) -> None:
        """Send it SIGTERM, and return at once."""
        self._stop_requested = True
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop it by SIGTERM, and kill it if that takes too long."""
        if self.code is None:
            self.request_stop()
            try:
                self._process.wait(stop_s_max)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


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
        """Start a process with its own log file and, unless `up` is false, wait until it is up."""
        path = self._folder / f"{name}-{len(self._all)}.log"
        child = Child(name, arguments, self._folder, environ=self._environ, path=path, cwd=self._cwd)
        self._all.append(child)
        if up:
            child.wait_until_up()
        return child

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
