"""A progress bar for people, plain lines for logs."""

import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.metrics import ProducerMetrics
from producers import publisher

line_every_s: Final = 5.0


class Steps:
    """Says every few seconds how many of how many steps are done."""

    def __init__(self, name: str) -> None:
        self._name, self._said_at = name, time.monotonic()

    def __call__(self, done: int, wanted: int) -> None:
        """Take the newest count."""
        if done == wanted or time.monotonic() - self._said_at >= line_every_s:
            self._said_at = time.monotonic()
            print(f"{self._name}: {done:,} of {wanted:,}", file=sys.stderr, flush=True)


class Bar:
    """Shows how far a producer is, and tells its metrics."""

    def __init__(self, metrics: ProducerMetrics) -> None:
        self._metrics = metrics
        self._last: publisher.Progress | None = None
        self._said_at = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}")
            self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._progress.add_task("publishing", total=None, said="")

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
        """Take the newest progress."""
        last = self._last or publisher.Progress(0, 0, None)
        self._metrics.published.inc(progress.published - last.published)
        self._metrics.skipped.inc(progress.already - last.already)
        self._last = progress
        if progress.share is not None:
            self._metrics.share.set(progress.share)
        said = f"{progress.published:,} events"
        if progress.share is not None:
            said += f", {progress.share:.0%}"
        if progress.note:
            said += f" ({progress.note})"
        if self._progress:
            total = None if progress.share is None else 1.0
            self._progress.update(self._task, completed=progress.share or 0.0, total=total, said=said)
        elif time.monotonic() - self._said_at >= line_every_s:
            self._said_at = time.monotonic()
            print(f"producer: {said}", flush=True)
