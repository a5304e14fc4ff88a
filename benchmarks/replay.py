"""Speed of folding a shard's journal: live, replay, what-if, refold, and replay from the archive, in one run.

    python -m benchmarks.replay --events 50000 --out benchmarks/results/replay.json

A simulated shop's events are loaded into a log in a file. The shard `online` learns them live, with judging, commits
and snapshots. Then its journal is folded again: into a shadow run as it was, into one with another setting, so that
all events are judged again, by a refold, and into a run for which all that is old is read from the archive. Each is
done by this process, one after the other, on one core.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from consumers.archive import run as archive
from consumers.shard import judges_of
from headrace.archive.log import ArchivedLog
from headrace.archive.store import FolderStore
from headrace.artifacts import resolve
from headrace.config import ArchiveSettings
from headrace.log.protocol import Log
from headrace.log.sqlite import SqliteLog
from headrace.metrics import ArchiveMetrics, ShardMetrics
from headrace.process import collect_garbage_rarely
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.refold import refold
from headrace.topics import EVENTS
from learners.families import default_placements
from learners.shop import MakeShop
from operators.cli.app import merge_sets
from operators.deployment import read_deployment
from operators.replay.begin import new_run
from operators.replay.fold import fold
from operators.replay.run import RunFolder
from producers.scenario import SimulationSettings
from producers.simulate import simulate

PLACEMENT: Final = default_placements()["online"]
CHANGED: Final = "next_item.items_max=100000"


def learn(log: Log, blobs: Blobs, events: int) -> None:
    """Learn all events live."""
    deployment = read_deployment()
    judges = judges_of(PLACEMENT.kinds, deployment.sections, blobs, ShardMetrics([]))
    make = MakeShop(PLACEMENT.kinds, deployment.sections)
    settings = LoopSettings(snapshot_interval_s=10.0)
    with (
        closing(judges),
        closing(Loop(log, blobs, PLACEMENT.shard, make=make, judge=judges, settings=settings)) as loop,
    ):
        loop.run(lambda: loop._results.records + loop._tally.records >= events)


def replay(log: Log, blobs: Blobs, name: str, *sets: str) -> str:
    """Fold the whole journal into a run; return its digest."""
    folder = RunFolder(blobs, name)
    with folder.alone():
        run, _ = new_run(
            log, blobs, read_deployment(**merge_sets(sets)), PLACEMENT, name, begin="0", end=None, kind="", sets=sets,
            without=(), who="benchmark",
        )  # fmt: skip
        folder.write(run)
        run = fold(log, blobs, PLACEMENT, folder)
    assert sets or not run.live or run.digest == run.live
    return run.digest


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Speed of folding a journal: live, replay, what-if, archive and refold, on one core.")
    parser.add_argument("--events", type=int, default=50_000, help="events published and learned")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    MakeShop(PLACEMENT.kinds)()  # imports what learning needs, which takes as long as thousands of events
    for kind in PLACEMENT.kinds:
        if kind.surface.judge:
            resolve(kind.surface.judge)
    collect_garbage_rarely()
    found: dict[str, dict[str, float]] = {}

    def measure(name: str, work: Callable[[], Any]) -> Any:
        began, began_cpu = time.monotonic(), time.process_time()
        result = work()
        seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
        found[name] = {"events_per_s": options.events / seconds, "events_per_cpu_s": options.events / cpu}
        return result

    with tempfile.TemporaryDirectory() as name, closing(SqliteLog(f"{name}/log.db")) as log:
        blobs, store = Blobs(Path(name) / "blobs"), FolderStore(Path(name) / "archive")
        log.create()
        simulate(log, SimulationSettings(events=options.events))
        measure("live", lambda: learn(log, blobs, options.events))
        digest = measure("replay", lambda: replay(log, blobs, "same"))
        measure("what-if", lambda: replay(log, blobs, "other", CHANGED))
        archive(log, store, ArchiveSettings(), ArchiveMetrics(), threading.Event(), once=True)
        for place in [*log.partitions(EVENTS), PLACEMENT.shard.journal, PLACEMENT.shard.judgements]:
            log.delete_before(place, log.end(place) - 1)
        assert measure("archive", lambda: replay(ArchivedLog(log, store), blobs, "archived")) == digest
        make = MakeShop(PLACEMENT.kinds, read_deployment().sections)
        pointer = measure(
            "refold", lambda: refold(ArchivedLog(log, store), blobs, PLACEMENT.shard, make=make)
        )  # fmt: skip
        assert pointer.blob.endswith(digest)
        last = journal.newest(log, PLACEMENT.shard)
        entries = last.number if last else 0
    live = found["live"]
    for one in found.values():
        one["times_live"] = one["events_per_s"] / live["events_per_s"]
        one["times_live_cpu"] = one["events_per_cpu_s"] / live["events_per_cpu_s"]
    report.show(
        f"{options.events:,} events, {entries:,} entries, one core",
        ["", "events/s", "times live", "events per second of processor time", "times live"],
        [
            [
                name, f"{one['events_per_s']:,.0f}", f"{one['times_live']:.2f}", f"{one['events_per_cpu_s']:,.0f}",
                f"{one['times_live_cpu']:.2f}",
            ]
            for name, one in found.items()
        ],
    )  # fmt: skip
    report.write(options.out, {"events": options.events, "entries": entries, "results": found})


if __name__ == "__main__":
    report.run(main)
