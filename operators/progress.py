"""Progress reports: a bar on a terminal, plain lines in a log."""

import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.progress import Progress

from headrace.metrics import ProducerMetrics
from operators.terminal import Terminal, progress_bar, say
from producers import publisher

line_every_s: Final = 5.0


class StepReport:
    """Prints every few seconds how many steps are done, and their total."""

    def __init__(self, name: str) -> None:
        self._name, self._reported_at = name, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Report the newest count."""
        if done == total or time.monotonic() - self._reported_at >= line_every_s:
            self._reported_at = time.monotonic()
            say(f"{self._name}: {done:,} of {total:,}", error=True)


class TaskReport:
    """Prints every few seconds what is done, how much of it, and the total."""

    def __init__(self, name: str) -> None:
        self._name, self._reported_at = name, time.monotonic()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Report the newest count of a task."""
        if time.monotonic() - self._reported_at >= line_every_s:
            self._reported_at = time.monotonic()
            say(f"{self._name}: {task}: {done:,} of {total:,}", error=True)


class ProgressReport:
    """Shows the progress of a producer, and updates its metrics.

    Args:
        to_stderr: write lines of progress to standard error instead of standard output.
    """

    def __init__(self, metrics: ProducerMetrics, *, to_stderr: bool = False) -> None:
        self._metrics, self._to_stderr = metrics, to_stderr
        self._last: publisher.Progress | None = None
        self._reported_at = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = progress_bar(Terminal(stderr=True))
            self._task = self._progress.add_task("publishing", total=None, text="")

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def __call__(self, progress: publisher.Progress) -> None:
        """Report the newest progress."""
        last = self._last or publisher.Progress(0, 0, None)
        self._metrics.published.inc(progress.published - last.published)
        self._metrics.skipped.inc(progress.already_published - last.already_published)
        self._last = progress
        if progress.share is not None:
            self._metrics.share.set(progress.share)
        text = f"{progress.published:,} events"
        if progress.share is not None:
            text += f", {progress.share:.0%}"
        if progress.note:
            text += f" ({progress.note})"
        if self._progress:
            total = None if progress.share is None else 1.0
            self._progress.update(self._task, completed=progress.share or 0.0, total=total, text=text)
        elif time.monotonic() - self._reported_at >= line_every_s:
            self._reported_at = time.monotonic()
            say(f"producer: {text}", error=self._to_stderr)
