"""What a drill prints: what it does while it does it, and one closing table of what was seen."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Drill:
    """Collects steps. A step that raises fails, and ends the drill; the table is printed in any case."""

    def __init__(self, name: str) -> None:
        self.name, self._began = name, time.monotonic()
        self._rows: list[tuple[str, str, float]] = []

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(f"{self.name} {time.monotonic() - self._began:6.0f} s  {text}", flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Run a step, which adds what it has seen to the list."""
        self.say(what)
        seen: list[str] = []
        began = time.monotonic()
        try:
            yield seen
        except BaseException as error:
            self._rows.append(
                (what, f"FAILED: {type(error).__name__}: {error}".splitlines()[0], time.monotonic() - began)
            )
            raise
        self._rows.append((what, "; ".join(seen), time.monotonic() - began))

    def table(self) -> str:
        """Return the closing table, in Markdown."""
        lines = ["| step | seen | s |", "| --- | --- | --- |"]
        return "\n".join([*lines, *(f"| {what} | {seen} | {took:.0f} |" for what, seen, took in self._rows)])


def wait_until(what: str, holds: Callable[[], object], timeout_s: float, each_s: float = 1.0) -> float:
    """Wait until something holds; return the seconds. Raises AssertionError."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(each_s)
    return time.monotonic() - began
