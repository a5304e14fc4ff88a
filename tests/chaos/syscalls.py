"""System calls that fail, or never return: each n-th one of a process that restores, commits and takes snapshots.

strace lets a call of a running process fail (EIO, ENOSPC) or kills the process at it. Each trial begins with a copy of
the same folder; afterwards the process runs again without faults, and everything is audited.

Calls are counted per thread: SQLite's in the main thread, those of snapshots in a thread of their own.
"""

import re
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import chdir, closing, contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Event
from typing import Final

import msgspec

from consumers.archive import run as archive
from headrace import events
from headrace.archive.store import FolderStore
from headrace.config import ArchiveSettings
from headrace.errors import LogUnavailable
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.metrics import ArchiveMetrics
from headrace.shard import journal
from headrace.topics import EVENTS
from operators.deployment import Deployment, read_deployment
from tests.chaos.oracle import audit
from tests.chaos.processes import Process, tracer_of
from tests.chaos.shop import EXITS, SETTINGS, covers, failed_as_promised, round_events_never, simulated
from tests.chaos.verbs import TRIM
from tests.chaos.violation import Violation

CALLS: Final = ("pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "write")
"""Calls of the commit path and of snapshots: SQLite writes by pwrite64 and fdatasync, blobs by write, fsync, rename."""
KAFKA_CALLS: Final = ("sendto",)
COMMANDS: Final = {"online": ("online",), "refold": ("online", "--refold"), "trim": TRIM}
"""What is run. `online` begins with a log that nobody has read; the others with one of which it has learned everything,
and they end by themselves."""
KILL: Final = "signal=KILL"
ERRORS: Final = {"sendto": ("error=ECONNRESET",), "write": ()}
"""What a call may return, if not EIO and ENOSPC. `write` also writes the process' own output, so it is only killed."""
HUNG: Final = "Hung"
"""A fault may hit what wakes a thread of the Kafka client, which then waits for ever: the watchdog ends the process."""
events_each: Final = 120
wait_s_max: Final = 240.0
"""Much, as strace stops a process at each call and the machine may have other work."""
attach_s_max: Final = 20.0


class Trial(msgspec.Struct, frozen=True):
    """The n-th call of a kind by each thread of a command, and what becomes of it."""

    command: str
    call: str
    fault: str
    number: int


class Outcome(msgspec.Struct, frozen=True):
    """What became of the process: its exit code (None if it went on), and whether the call was ever made."""

    code: int | None
    injected: bool


class Bench:
    """Runs trials, each on a copy of a folder with a log on SQLite, or on a new log on Kafka.

    Args:
        context: from `tests.chaos.processes.server`.
        bootstrap: addresses of brokers; without them the logs are on SQLite.
    """

    def __init__(self, context: ForkServerContext, folder: Path, bootstrap: str = "") -> None:
        self._context, self._folder, self._bootstrap = context, folder, bootstrap
        self._prefix = ""
        self._events = simulated(events_each, seed=1)
        self._new, self._learned = folder / "new", folder / "learned"
        self._prepare(self._new)
        with chdir(self._new):
            self.deployment: Deployment = read_deployment()
        shutil.copytree(self._new, self._learned)
        self._finish(self._learned)
        with closing(open_log(self._url_of(self._learned))) as log:
            archive(
                log, FolderStore(self._learned / "archive"), ArchiveSettings(), ArchiveMetrics(), Event(), once=True
            )

    def _url_of(self, folder: Path) -> str:
        return f"kafka:{self._bootstrap}?prefix={self._prefix}" if self._bootstrap else f"sqlite:{folder / 'log.db'}"

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "headrace.toml").write_text(SETTINGS.format(round_events=round_events_never))
        self._prefix = f"t{uuid.uuid4().hex[:8]}-"
        with closing(open_log(self._url_of(folder))) as log:
            log.create()
            with closing(log.appender()) as appender:
                for event in self._events:
                    appender.append(Outgoing(EVENTS, event.shopper.encode(), events.encode(event)))

    def start(self, folder: Path, command: str, *, traced: bool = False) -> Process:
        """Start a command of `COMMANDS` on a folder."""
        common = ["--log", self._url_of(folder)]
        if command != "trim":
            common += ["--blobs", str(folder / "blobs")]
        return Process(
            self._context, command, [*COMMANDS[command], *common], folder, folder / f"{command}.log", traced=traced
        )

    def count(self, command: str) -> Counter[str]:
        """Return how often the busiest thread of a command makes each call, if nothing fails."""
        with self._copy(command) as folder:
            process = self.start(folder, command, traced=True)
            with strace(process, folder / "strace.txt", [f"trace={','.join((*CALLS, *KAFKA_CALLS))}"]):
                self._await(folder, command, process)
                process.signal(signal.SIGTERM)
                process.join()
            lines = re.findall(r"^(\d+) +(\w+)\(", (folder / "strace.txt").read_text(), re.MULTILINE)
        found: Counter[str] = Counter()
        for (_, call), count in Counter(lines).items():
            found[call] = max(found[call], count)
        return found

    def run(self, trial: Trial) -> Outcome:
        """Run a trial, then the process without faults, then the audit.

        Raises:
            Violation: a promise is broken.
        """
        with self._copy(trial.command) as folder:
            process = self.start(folder, trial.command, traced=True)
            inject = f"inject={trial.call}:{trial.fault}:when={trial.number}"
            with strace(process, folder / "strace.txt", [f"trace={trial.call}", inject]):
                self._await(folder, trial.command, process)
            code = process.code
            self._check_end(trial, process, code)
            process.signal(signal.SIGTERM)
            process.join()
            text = (folder / "strace.txt").read_text()
            self._finish(folder)
            expected = [event.id for event in self._events]
            audit(
                self._url_of(folder), folder / "blobs", self.deployment, expected, None, shards=["online"],
                archive=folder / "archive",
            )  # fmt: skip
            return Outcome(code, "INJECTED" in text or code == -signal.SIGKILL)

    @contextmanager
    def _copy(self, command: str) -> Iterator[Path]:
        """Yield a trial's folder; it is kept if the trial fails."""
        folder = self._folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        if not self._bootstrap:
            shutil.copytree(self._new if command == "online" else self._learned, folder)
        else:
            self._prepare(folder)
            if command != "online":
                self._finish(folder)
        yield folder
        shutil.rmtree(folder)

    def _check_end(self, trial: Trial, process: Process, code: int | None) -> None:
        killed = code == -signal.SIGKILL and trial.fault == KILL
        if not (code in (None, 0) or killed or failed_as_promised(process, (*EXITS, HUNG))):
            raise Violation(f"{trial}: exit code {code}: {process.text[-2_000:]}")

    def _await(self, folder: Path, command: str, process: Process) -> None:
        """Wait until the process has ended or, if it does not end by itself, has learned all and named a snapshot."""
        deadline = time.monotonic() + wait_s_max
        while process.code is None and not (command == "online" and _folds(process) and self._done(folder)):
            if time.monotonic() > deadline:
                raise Violation(f"{command}: neither ended nor learned all within {wait_s_max:.0f} s: {process.text}")
            time.sleep(0.02)

    def _done(self, folder: Path) -> bool:
        shard = self.deployment.placement("online").shard
        try:
            with closing(open_log(self._url_of(folder))) as log:
                if not covers(log, shard):
                    return False
                entry = journal.newest(log, shard)
                if entry and entry.snapshot:
                    return True
                with closing(log.appender()) as appender:  # the next commit names the snapshot
                    appender.append(Outgoing(EVENTS, b"s", b"{}"))
                return False
        except LogUnavailable:
            return False

    def _finish(self, folder: Path) -> None:
        """Run `online` without faults until it has learned all; stop it."""
        process = self.start(folder, "online")
        self._await(folder, "online", process)
        process.signal(signal.SIGTERM)
        if process.join() != 0:
            raise Violation(f"online after the fault: exit code {process.code}: {process.text[-2_000:]}")


@contextmanager
def strace(process: Process, output: Path, expressions: Sequence[str]) -> Iterator[None]:
    """Trace a process that waits for it, and detach at the end."""
    options = [word for one in expressions for word in ("-e", one)]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", str(output), *options, "-p", str(process.pid)], stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + attach_s_max
        while process.code is None and tracer_of(process.pid) != tracer.pid:
            if tracer.poll() is not None or time.monotonic() > deadline:
                raise LogUnavailable(f"strace cannot trace a process: {tracer.communicate()[1].decode()}")
            time.sleep(0.005)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # it detaches
        tracer.communicate()


def _folds(process: Process) -> bool:
    """Return whether a shard has restored its state, so that it also obeys SIGTERM."""
    return '"event": "folding"' in process.text


def trials(command: str, counts: Counter[str], each_max: int, calls: Sequence[str] = CALLS) -> list[Trial]:
    """Return the trials of a command: of each call and fault, at most `each_max` numbers, evenly spread.

    >>> [one.number for one in trials("online", Counter(rename=9), 3, ["rename"]) if one.fault == KILL]
    [1, 5, 9]
    """
    found = []
    for call in calls:
        last = counts[call]
        step = max(1, -(-(last - 1) // max(1, each_max - 1)))
        for fault in (KILL, *ERRORS.get(call, ("error=EIO", "error=ENOSPC"))):
            found += [Trial(command, call, fault, number) for number in range(1, last + 1, step)]
    return found
