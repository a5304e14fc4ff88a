"""A shop of real processes under load: a campaign kills them, and this restarts them as a supervisor would."""

import signal
import time
from collections.abc import Callable, Iterable
from contextlib import chdir, closing, suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Final

import httpx

from headrace import events
from headrace.errors import LogUnavailable
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.shard import journal
from headrace.topics import EVENTS, JOURNAL, TOPICS, Shard
from operators.child import Child
from operators.deployment import Deployment, read_deployment
from producers import simulate
from producers.scenario import SimulationSettings
from tests.chaos.processes import Process
from tests.chaos.sender import Sender, address_in, prepare
from tests.chaos.violation import Violation
from tests.chaos.watcher import Watcher

ROLES: Final = ("online", "finetune", "serve", "gateway", "producer", "archive")
SETTINGS: Final = """\
[next_item]
items_max = 1000
shoppers_max = 1000

[rounds]
items_max = 1000
shoppers_max = 1000
round_events = {round_events}
gate_records_max = 100000
width = 8
first_passes = 10

[shards.online]
partition = 0
metrics_port = 0
commit_interval_s = 0.01
snapshot_interval_s = 0.2
retry_s = 5

[shards.finetune]
partition = 1
metrics_port = 0
commit_interval_s = 0.02
snapshot_interval_s = 0.3
retry_s = 5

[serve]
port = 0
retry_s = 5

[gateway]
port = 0
metrics_port = 0

[producer]
metrics_port = 0
retry_s = 5

[archive]
url = "archive"
metrics_port = 0
flush_interval_s = 0.3
retry_s = 5
"""
"""Small tables, and commits and snapshots so often that a kill hits every step."""
round_events_never: Final = 10_000_000
event_days: Final = 2.0
settle_s_max: Final = 180.0
"""Maximum time, in seconds, in which everything is learned once no fault is active."""
EXITS: Final = ("ArchiveUnavailable", "LogUnavailable", "CommitExpired", "Fenced", "BlobUnwritable", "Hung")
"""Failures after which a process may exit with code 1, to be restarted. `Hung`: a call of Kafka's client did not end
while a broker was away, so that the watchdog ended the process."""
tick_s: Final = 0.02
backoff_s: Final = 0.5
"""Pause, in seconds, before a process that has failed is started again."""


def simulated(count: int, seed: int) -> list[events.Event]:
    """Return the events that `headrace simulate` publishes."""
    log = MemoryLog()
    log.create()
    simulate.simulate(log, SimulationSettings(events=count, seed=seed, days=event_days))
    found = []
    for place in log.partitions(EVENTS):
        for record in log.newest(place, count):
            event = events.decode(record)
            assert isinstance(event, events.Event)
            found.append(event)
    return sorted(found, key=lambda event: event.own_ms)


class Shop:
    """The processes of one round over a new log, and what is known of their log from outside.

    Args:
        rate: events that the producer publishes per second.
        trains: let the fine-tuner train rounds.

    Attributes:
        expected: ids of the events that the producer publishes.
        sender: sends to the gateway all the time.
        kills: SIGKILLs sent to processes of ours.
        exits: processes that ended because of a fault, and were started again.
        forced: processes that did not stop in order at the end, because of a fault.
        recoveries_s: times from a kill of `online` to its next commit, in seconds.
        resident_mib: the largest resident size of each role, in MiB.
    """

    def __init__(
        self, context: ForkServerContext, url: str, folder: Path, *, count: int, rate: float, seed: int, trains: bool
    ) -> None:
        self.url, self.folder, self.context = url, folder, context
        self.archive = folder / "archive"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "headrace.toml").write_text(
            SETTINGS.format(round_events=count // 4 if trains else round_events_never)
        )
        with chdir(folder):
            self.deployment: Deployment = read_deployment()
        with closing(open_log(url)) as log:
            log.create()
        found = simulated(count, seed)
        self.expected = [event.id for event in found]
        self._file = folder / "events.jsonl"
        self._file.write_bytes(b"".join(events.encode(event) + b"\n" for event in found))
        self._commands = self._commands_of(count, rate, seed)
        key = prepare(folder)
        self.watcher = Watcher(url, str(self.archive), [name for name in TOPICS if name != "events-replay"])
        self.processes: dict[str, Process] = {}
        self._restart_at: dict[str, float] = {}
        self.published = False
        self.kills = self.exits = self.forced = 0
        self.recoveries_s: list[float] = []
        self.resident_mib = dict.fromkeys(ROLES, 0.0)
        self._killed_at: float | None = None
        self._entries = 0
        self.sender = Sender(key, self._gateway)

    def _gateway(self) -> str:
        """Return where the gateway takes events, empty while nobody knows."""
        process = self.processes.get("gateway")
        return address_in(process.text) if process else ""

    def _commands_of(self, count: int, rate: float, seed: int) -> dict[str, list[str]]:
        common = ["--log", self.url, "--blobs", str(self.folder / "blobs")]
        speed = f"{event_days * 86_400 * rate / count:.0f}x"
        simulated = ["simulate", "--events", str(count), "--seed", str(seed), "--days", str(event_days)]
        # Odd seeds publish from a file, even ones simulate: both must publish each event once.
        produce = ["load", str(self._file)] if seed % 2 else simulated
        return {
            "online": ["online", *common],
            "finetune": ["finetune", *common],
            "serve": ["serve", *common],
            "gateway": ["gateway", "--log", self.url],
            "producer": [*produce, "--speed", speed, "--log", self.url],
            "archive": ["archive", "--log", self.url],
        }

    @property
    def shards(self) -> list[Shard]:
        """The shards that run."""
        return self.deployment.shards

    def start(self, role: str, **options: Any) -> Process:
        """Start a process; options as for `Process`."""
        output = self.folder / f"{role}.log"
        process = Process(self.context, role, self._commands[role], self.folder, output, **options)
        self.processes[role] = process
        return process

    def kill(self, roles: Iterable[str]) -> None:
        """Send SIGKILL to some processes at once, and start them again."""
        self.put_down(roles)
        self.tend()

    def put_down(self, roles: Iterable[str]) -> None:
        """Send SIGKILL to some processes at once; the next `tend` starts them again."""
        victims = [role for role in roles if role in self.processes and self.processes[role].code is None]
        for role in victims:
            self._note(role)
            self.processes[role].signal(signal.SIGKILL)
        for role in victims:
            process = self.processes.pop(role)
            code = process.join()
            if code == -signal.SIGKILL:
                self.kills += 1
            if role == "producer" and code == 0:
                self.published = True
        if "online" in victims:
            self._killed_at, self._entries = time.monotonic(), self.watcher.count(JOURNAL)

    def _note(self, role: str) -> None:
        self.resident_mib[role] = max(self.resident_mib[role], self.processes[role].resident_mib)

    def tend(self) -> None:
        """Restart what has ended, as a supervisor would.

        Raises:
            Violation: a process ended in a way that no fault explains.
        """
        now = time.monotonic()
        for role in ROLES:
            process = self.processes.get(role)
            if process is not None and process.code is not None:
                self._ended(role, process, now)
            waits = now < self._restart_at.get(role, 0.0) or (role == "producer" and self.published)
            if role not in self.processes and not waits:
                self.start(role)
        if self._killed_at is not None and self.watcher.count(JOURNAL) > self._entries:
            self.recoveries_s.append(now - self._killed_at)
            self._killed_at = None

    def _ended(self, role: str, process: Process, now: float) -> None:
        del self.processes[role]
        if role == "producer" and process.code == 0:
            self.published = True
            return
        if not failed_as_promised(process):
            raise Violation(f"{role} ended with exit code {process.code}: {process.text[-3_000:]}")
        self.exits += 1
        self._restart_at[role] = now + backoff_s

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Tend the processes for a time, or until something is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not until():
            self.tend()
            time.sleep(tick_s)

    def entries(self) -> int:
        """Return how many journal entries of all shards are committed, as the reader that runs all the time saw it."""
        return self.watcher.count(JOURNAL)

    def spoil(self, number: int) -> None:
        """Append a record that no process can use: exactly one dead letter must follow."""
        with suppress(LogUnavailable), closing(open_log(self.url)) as log, closing(log.appender()) as appender:
            appender.append(Outgoing(EVENTS, b"chaos", b'{"bad": %d}' % number))
            appender.flush()

    def settle(self) -> None:
        """Wait until the producer has published all, and all shards and the server have applied it.

        Raises:
            Violation: that does not happen in time.
        """
        deadline = time.monotonic() + settle_s_max
        self.sender.stop()
        self._commands["producer"] += ["--speed", "max"]
        self.kill(["producer"])
        self.run(settle_s_max, lambda: self.published)
        while not self._settled():
            if time.monotonic() > deadline + settle_s_max:
                texts = "\n".join(f"--- {role}\n{one.text[-1_500:]}" for role, one in self.processes.items())
                raise Violation(f"not everything was learned within {2 * settle_s_max:.0f} s\n{texts}")
            self.run(0.2)

    def _settled(self) -> bool:
        try:
            with closing(open_log(self.url)) as log:
                if any((self.folder / "headrace-data/spool").glob("*.spool")) or not self.published:
                    return False
                return all(covers(log, shard) for shard in self.shards) and self._served(log)
        except LogUnavailable:
            return False

    def _served(self, log: Log) -> bool:
        """Return whether the server has followed the shard `online` up to its last entry."""
        entry = journal.newest(log, self.deployment.placement("online").shard)
        server = self.processes.get("serve")
        address = next((word for word in server.text.split() if word.startswith("http://")), "") if server else ""
        address = "/".join(address.split("/")[:3])  # the first route's, without its path
        if not entry or not address:
            return False
        try:
            fresh = httpx.get(f"{address}/v1/recommendations/somebody", timeout=10).json().get("fresh")
        except (httpx.HTTPError, ValueError):
            return False
        return bool(fresh and fresh["entry"] >= entry.number + 1)

    def stop(self) -> None:
        """Stop all processes by SIGTERM.

        Raises:
            Violation: one does not end as is promised (docs/operating.md).
        """
        for role, process in self.processes.items():
            self._note(role)
            process.signal(signal.SIGTERM)
        for role, process in self.processes.items():
            # Until it says where it listens, a process has nothing to finish: the signal ends it at once.
            wanted = 0 if "http://" in process.text else -signal.SIGTERM
            if process.join() in (0, wanted):
                continue
            if not (failed_as_promised(process) or ended_in_kafka(process)):
                raise Violation(f"{role} did not stop by SIGTERM (exit code {process.code}): {process.text[-2_000:]}")
            self.forced += 1
        self.processes = {}

    def close(self) -> None:
        """Kill what still runs."""
        with suppress(Violation):
            self.sender.stop()
        for process in self.processes.values():
            process.kill()
        self.watcher.close()


def failed_as_promised(process: Process, reasons_allowed: tuple[str, ...] = EXITS) -> bool:
    """Return whether a process ended with exit code 1 and such a reason as its last word, without a traceback."""
    return process.code == 1 and last_reason(process).startswith(reasons_allowed)


def ended_in_kafka(process: Process | Child) -> bool:
    """Return whether the watchdog ended a process after SIGTERM, in a call of Kafka's client that did not return."""
    reason = last_reason(process)
    stopping = reason.startswith("Hung: ") and " for the process to stop; " in reason
    return process.code == 128 + signal.SIGTERM and stopping and "Kafka: " in reason


def last_reason(process: Process | Child) -> str:
    """Return the line in which a process says why it ended; "" if there is none, or a traceback."""
    lines = process.text.splitlines()
    reasons = [line.removeprefix("headrace: ") for line in lines if line.startswith("headrace: ")]
    crashed = any(line.startswith("Traceback") for line in lines)  # a client's are within a line of the log
    return reasons[-1] if reasons and not crashed else ""


def covers(log: Log, shard: Shard) -> bool:
    """Return whether a shard has committed all records of the topics that it applies."""
    entry = journal.newest(log, shard)
    if entry is None or entry.writer != shard.name:
        return False
    committed = log.committed(shard.name)
    for place in shard.inputs(log):
        last = log.last(place)
        if last is not None and committed.get(place, 0) <= last.offset:
            return False
    return True
