"""The world around the simulated processes: one seeded generator decides when, and how, it breaks.

Everything runs in one thread. Each call of a process to the log, the disk or the clock passes through `World.call`,
where the process may crash, may be told that the log does not answer, or may wait while others run.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from headrace.clock import Timer
from headrace.errors import LogUnavailable
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Partition

START_MS = 1_736_121_600_000
NO_ANSWER = "the simulated log does not answer"
depth_max = 2
"""How many processes may run inside the call of another one."""

FAULTS = {
    # At each call of a process
    "crash": 0.02, "power loss": 0.002, "unavailable": 0.01, "interleave": 0.05, "pause": 0.005,
    # At each commit
    "commit aborted": 0.03, "answer lost": 0.03, "commit later": 0.5, "offsets stale": 0.2, "hide": 0.1,
    # At each write of a blob
    "torn write": 0.1, "disk full": 0.2,
    # At each step of the scenario
    "clock jump": 0.1, "zombie": 0.05, "stop": 0.05, "fence": 0.05, "refold": 0.1, "verify": 0.1,
    "slow follower": 0.1, "retention": 0.2, "partition added": 0.1, "bit rot": 0.2, "stray": 0.3,
    "trim": 0.2, "fall back": 1.5, "accept-loss": 0.05, "loss": 0.6,
    # At each published event
    "event twice": 0.1, "garbage": 0.1, "side record": 0.1,
}  # fmt: skip
"""The faults, and the highest rate of each. A seed has some of them, each at a rate of its own."""


class Crash(BaseException):
    """The process ends here: the object is dropped without `close`. No code of the process may catch it."""


class Violation(AssertionError):
    """The system broke a promise."""


class Process:
    """One incarnation of a process: it lives until it crashes, fails or is stopped."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = False  # it is in a step, maybe inside another process' call
        self.doomed = False  # it dies at its next call

    def __str__(self) -> str:
        return self.name


class World:
    """Time, chance, the committed log and the disk.

    Attributes:
        log: what is committed, without any fault.
        hidden: where a partition's readable prefix ends, and when all of it becomes readable (us).
        pending: the commit in flight of each writer id.
        unsynced: blobs whose bytes or names are not yet durable: "bytes" or "name".
        untimed: partitions whose records do not tell when they were appended.
        lost: names of the shards for which records are lost, until that is accepted.
        accepted: names of those for which a loss was accepted; who cannot read that yet still meets it.
        era: how often `events` was made again.
        trace: what happened, a line each.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_us = 0
        self.wall_offset_ms = START_MS
        self.log = MemoryLog(clock=self.wall_ms)
        self.log.create()
        self.timer = Timer(self.monotonic, self.sleep, lambda: 0.0)
        self.hidden: dict[Partition, tuple[int, int]] = {}
        self.pending: dict[str, Any] = {}
        self.unsynced: dict[str, str] = {}
        self.untimed: set[Partition] = set()
        self.lost: set[str] = set()
        self.accepted: set[str] = set()
        self.era = 0
        self.fencing = True
        self.trace: list[str] = []
        self.faults: Counter[str] = Counter()
        self.commits = self.calls = 0
        self.interleave: Callable[[], None] = lambda: None
        self.on_power_loss: Callable[[], None] = lambda: None
        self._depth = 0
        chosen = 0.2 + 0.8 * self.rng.random()  # some seeds have few kinds of faults, some have many
        self._rates = {
            name: self.rng.random() * highest if self.rng.random() < chosen else 0.0 for name, highest in FAULTS.items()
        }

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now_us / 1e6:.6f} {text}")

    def strikes(self, fault: str, detail: object = "") -> bool:
        """Return whether a fault happens now."""
        rate = self._rates[fault]
        if not rate or self.rng.random() >= rate:
            return False
        self.faults[fault] += 1
        self.note(f"{fault} {detail}")
        return True

    @property
    def quiet(self) -> bool:
        """Whether no process is in the middle of a call."""
        return self._depth == 0

    def calm(self) -> None:
        """End all faults."""
        self.note("calm")
        self._rates = dict.fromkeys(FAULTS, 0.0)
        self.hidden.clear()
        self.wall_offset_ms = START_MS

    def monotonic(self) -> float:
        """Return the time in seconds; looking takes a little."""
        self.now_us += 20
        return self.now_us / 1e6

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_us += max(0, int(seconds * 1e6))

    def wall_ms(self) -> int:
        """Return the time of day, which may jump."""
        return self.wall_offset_ms + self.now_us // 1_000

    def timer_of(self, process: Process) -> Timer:
        """Return a process' timer, whose calls are calls of the process."""

        def monotonic() -> float:
            if process.doomed:
                raise Crash
            return self.monotonic()

        def sleep(seconds: float) -> None:
            self.call(process, "sleep")
            self.sleep(seconds)

        return Timer(monotonic, sleep, lambda: 0.0)

    def call(self, process: Process, what: str) -> None:
        """Note that a process calls what is outside of it.

        Raises:
            Crash: the process dies here.
            LogUnavailable: the log does not answer.
        """
        self.calls += 1
        if process.doomed:
            raise Crash
        if self._depth < depth_max and self.strikes("interleave", f"in {what} of {process}"):
            self._depth += 1
            try:
                for _ in range(self.rng.randrange(1, 8)):
                    self.interleave()
            finally:
                self._depth -= 1
            if process.doomed:
                raise Crash
        if self.strikes("pause", process):
            self.sleep(self.rng.choice((1, 15, 60)))
        if self.strikes("power loss", f"in {what} of {process}"):
            self.on_power_loss()
            raise Crash
        self.maybe_crash(process, what)
        if what not in ("write", "sync", "sleep", "get", "sweep") and self.strikes(
            "unavailable", f"{what} of {process}"
        ):
            raise LogUnavailable(f"{what}: {NO_ANSWER}")

    def maybe_crash(self, process: Process, what: str) -> None:
        """Let the process die, if chance says so."""
        if self.strikes("crash", f"in {what} of {process}"):
            process.doomed = True
            raise Crash

    @contextmanager
    def running(self, process: Process) -> Iterator[None]:
        """Mark a process as being in a step."""
        process.running = True
        try:
            yield
        finally:
            process.running = False

    def hide(self, partition: Partition, offset: int) -> None:
        """Let readers see a partition's new records later, up to 8 s from now."""
        if partition not in self.hidden:
            self.hidden[partition] = offset, self.now_us + self.rng.randrange(1, 8_000_000)

    def visible_end(self, partition: Partition) -> int | None:
        """Return the first offset of a partition that cannot be read yet; None if there is none."""
        found = self.hidden.get(partition)
        if found and found[1] <= self.now_us:
            del self.hidden[partition]
            return None
        return found[0] if found else None

    def next_release_us(self) -> int | None:
        """Return when the next hidden records become readable."""
        return min((until for _, until in self.hidden.values() if until > self.now_us), default=None)
