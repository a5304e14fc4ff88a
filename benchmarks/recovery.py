"""Time from a kill to work again: each process is killed at random moments under load, and started again at once.

    python -m benchmarks.recovery --kills 20 --out benchmarks/results/recovery.json

For a shard, the time runs from SIGKILL until the journal has an entry that the new process has committed; for the
server, until it answers with a state that has all commits of the last two seconds. The log has a model in use, so that
all three need torch. A journal of each length is made first, with a snapshot now and then as in operation; what a
restart folds are the entries after the newest snapshot that the journal names. `headrace up` adds its pause of a
second. `--kafka` measures the same on a local broker.
"""

import json
import os
import random
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks import report
from headrace.announcement import Announcement
from headrace.errors import LogUnavailable
from headrace.events import Data, Event, Item, at, encode
from headrace.log import broker
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import EVENTS, Shard
from learners.deep.train import train
from learners.families import default_placements
from learners.rounds.job import MODEL
from learners.shop import MakeShop
from operators.child import Child, Children

PROCESSES: Final = ("online", "finetune", "serve")
entry_events: Final = 5
"""Events of one entry while a journal is made."""
up_s: Final = (2.0, 25.0)
"""Bounds of the random time that a process works before it is killed: a little more than from one snapshot to the
next."""
fresh_s: Final = 2.0
recovery_s_max: Final = 300.0
items: Final = 2_000
shoppers: Final = 5_000


class Kill(NamedTuple):
    """What one kill cost: the time until it worked again, and the entries that the restart folded."""

    seconds: float
    folded: int


def events(chance: random.Random) -> Iterator[Outgoing]:
    """Yield views of a shop without end."""
    start_ms, prefix = int(time.time() * 1000), uuid.uuid4().hex[:8]
    for number in range(10**9):
        shopper, item = f"s{chance.randrange(shoppers)}", f"i{int(items * chance.random() ** 2)}"
        event = Event(
            id=f"{prefix}-{number}", source="shop/web", type="view_item", specversion="1.0", shopper=shopper,
            time=at(start_ms + number * 10), data=Data(items=[Item(item, price=9.5, item_category="a")]),
        )  # fmt: skip
        yield Outgoing(EVENTS, shopper.encode(), encode(event))


def make_journal(log: Log, blobs: Blobs, shard: str, entries: int, source: Iterator[Outgoing]) -> None:
    """Let a shard learn until its journal has so many entries."""
    placement = default_placements()[shard]
    settings = LoopSettings(commit_interval_s=1e-6, idle_wait_s=1e-3)
    loop, appender = (
        Loop(log, blobs, placement.shard, make=MakeShop(placement.kinds), settings=settings),
        log.appender(),
    )
    while loop.number < entries:
        for _ in range(entry_events):
            appender.append(next(source))
        appender.flush()
        loop.step()
    loop.run(lambda: True)
    loop.close()
    appender.close()


def promote_a_model(log: Log, blobs: Blobs) -> None:
    """Announce a small trained model as the champion."""
    result = train(None, [[f"i{number}", f"i{number + 1}"] for number in range(200)], passes=1)
    blob = blobs.put(MODEL, result.model.to_bytes())
    promoted = Announcement(id="finetune/1", kind="promoted", round=1, at_events=0, time_ms=0, version=blob, blob=blob)
    appender = log.appender()
    appender.append(promoted.record())
    appender.close()


@contextmanager
def load(log: Log, rate: float, source: Iterator[Outgoing]) -> Iterator[None]:
    """Publish events at a rate per second, from a thread, during the block."""
    done = threading.Event()

    def publish() -> None:
        appender = log.appender()
        due_s = time.monotonic()
        while not done.is_set():
            for _ in range(max(1, int(rate / 20))):
                appender.append(next(source))
            appender.flush()
            due_s += 1 / 20
            done.wait(max(0.0, due_s - time.monotonic()))
        appender.close()

    thread = threading.Thread(target=publish, name="load")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def await_true(what: str, condition: Callable[[], bool]) -> None:
    """Wait until a condition is true. Raises LogUnavailable if it does not become so in time."""
    deadline = time.monotonic() + recovery_s_max
    while not condition():
        if time.monotonic() > deadline:
            raise LogUnavailable(f"waited {recovery_s_max:.0f} s, but it is not true that {what}")
        time.sleep(0.01)


class Killed:
    """One process that is killed and started again."""

    def __init__(self, name: str, url: str, blobs: Blobs, log: Log, children: Children) -> None:
        self._name, self._log, self._children = name, log, children
        port = "--port" if name == "serve" else "--metrics-port"
        self._command = [name, "--log", url, "--blobs", str(blobs.folder), port, "0"]
        self.shard: Shard = default_placements()["online" if name == "serve" else name].shard
        self._child = children.start(name, *self._command)
        await_true(f"{name} works", self._working_since(self._child, log.end(self.shard.journal)))

    def kill(self) -> Kill:
        """Kill it, start it again, wait until it works, and return what that cost."""
        self._child.kill()
        began, end = time.monotonic(), self._log.end(self.shard.journal)
        entry = journal.newest(self._log, self.shard)
        self._child = self._children.start(self._name, *self._command, up=False)
        await_true(f"{self._name} works again", self._working_since(self._child, end))
        seconds = time.monotonic() - began
        covered = entry.snapshot.number if entry and entry.snapshot else 0
        return Kill(seconds, entry.number + 1 - covered if entry else 0)

    def _working_since(self, child: Child, end: int) -> Callable[[], bool]:
        if self._name == "serve":
            return lambda: fresh(child)
        return lambda: self._log.end(self.shard.journal) > end


def fresh(server: Child) -> bool:
    """Whether a server answers with a state that is up to date."""
    if not server.address:
        return False
    try:
        with urllib.request.urlopen(f"{server.address}/v1/recommendations/s1", timeout=2) as answer:
            return bool(json.load(answer)["fresh"]["behind_s"] <= fresh_s)
    except OSError:
        return False


def measure(
    url: str, folder: Path, entries: int, kills: int, rate: float, chance: random.Random
) -> dict[str, list[Kill]]:
    """Make a journal of a length, and kill each process so often."""
    log, blobs, source = open_log(url), Blobs(folder / "blobs"), events(chance)
    log.create()
    for shard in ("online", "finetune"):
        print(f"making a journal of {entries:,} entries for {shard}", flush=True)
        make_journal(log, blobs, shard, entries, source)
    promote_a_model(log, blobs)
    costs: dict[str, list[Kill]] = {name: [] for name in PROCESSES}
    with Children(folder, cwd=folder) as children, load(log, rate, source):
        processes = {name: Killed(name, url, blobs, log, children) for name in PROCESSES}
        for _ in range(kills):
            for name, process in processes.items():
                time.sleep(chance.uniform(*up_s) / len(processes))
                costs[name].append(process.kill())
                print(f"{name}: {costs[name][-1].seconds:.1f} s", flush=True)
    log.close()
    return costs


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Seconds from a kill to the first new commit or fresh answer.")
    parser.add_argument("--kills", type=int, default=20, help="kills of each process, for each length")
    parser.add_argument("--entries", type=int, nargs="+", default=[200, 20_000], help="lengths of the journal")
    parser.add_argument("--rate", type=float, default=200.0, help="events per second")
    parser.add_argument("--kafka", action="store_true", help="on a local broker instead of SQLite")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    chance, rows, figures = random.Random(options.seed), list[list[str]](), list[dict[str, float | str]]()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        servers = stack.enter_context(broker.provide_broker(folder / "kafka")) if options.kafka else ""
        for entries in options.entries:
            place = folder / str(entries)
            place.mkdir()
            url = f"kafka:{servers}?prefix=n{entries}-" if servers else f"sqlite:{place / 'log.db'}"
            measured = measure(url, place, entries, kills=options.kills, rate=options.rate, chance=chance)
            for process, costs in measured.items():
                seconds, folded = sorted(one.seconds for one in costs), [one.folded for one in costs]
                rows.append(
                    [process, f"{entries:,}", f"{median(folded):,.0f}", f"{max(folded):,}", f"{median(seconds):.1f}",
                     f"{seconds[-1]:.1f}"]
                )  # fmt: skip
                figures.append(
                    {"process": process, "entries": entries, "folded_p50": median(folded), "folded_max": max(folded),
                     "p50_s": median(seconds), "max_s": seconds[-1]}
                )  # fmt: skip
    log = "Kafka" if options.kafka else "SQLite"
    report.show(
        f"From SIGKILL to work again, {options.kills} kills each, {options.rate:g} events/s, {log}",
        ["process", "entries", "folded p50", "folded max", "p50 (s)", "max (s)"],
        rows,
    )
    report.write(
        options.out,
        {"log": log, "kills": options.kills, "rate": options.rate, "load": os.getloadavg()[0], "recovery": figures},
    )


if __name__ == "__main__":
    report.run(main)
