"""How fast the archiver copies a log into Parquet files, and how fast what it wrote is read back.

    python -m benchmarks.archive --out benchmarks/results/archive.json

Simulated events are published to an SQLite log (or to `--log`) and archived in one process, as by `headrace archive
--once`. Then the log's events are deleted, and read from the archive by the reader that folds use, and by `headrace
load`, which publishes them into a new SQLite log.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

from benchmarks import report
from consumers.archive import run
from headrace.archive.log import ArchivedLog
from headrace.archive.manifest import problems, read_manifest
from headrace.archive.store import FolderStore
from headrace.config import ArchiveSettings
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.metrics import ArchiveMetrics
from headrace.process import collect_garbage_rarely
from headrace.shard.entries import read_ahead_records_max
from headrace.topics import EVENTS
from producers.archived import load_archive
from producers.scenario import SimulationSettings
from producers.simulate import simulate


def archived(log: Log, folder: Path) -> tuple[float, float]:
    """Archive a log into a new folder; return the seconds and the CPU seconds that it took."""
    began, used = time.perf_counter(), time.process_time()
    run(log, FolderStore(folder), ArchiveSettings(), ArchiveMetrics(), threading.Event(), once=True)
    return time.perf_counter() - began, time.process_time() - used


def read_back(log: Log) -> tuple[int, float]:
    """Read all events as a fold does; return their number and the seconds."""
    began, count = time.perf_counter(), 0
    ends = {place: log.end(place) for place in log.partitions(EVENTS)}
    with closing(log.reader({place: log.first(place) for place in ends})) as reader:
        while any(reader.position(place) < end for place, end in ends.items()):
            count += sum(len(records) for _, records in reader.read(read_ahead_records_max, 0.0))
    return count, time.perf_counter() - began


def loaded(url: str, path: Path) -> float:
    """Publish an archive's events and items into a new log; return the seconds."""
    with closing(open_log(f"sqlite:{path}")) as log:
        log.create()
        began = time.perf_counter()
        load_archive(log, url)
        return time.perf_counter() - began


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Archiving a log, and reading the archive.")
    parser.add_argument("--events", type=int, default=300_000, help="events that are published")
    parser.add_argument("--runs", type=int, default=3, help="how often each part is measured; the median counts")
    parser.add_argument("--log", help="log to publish to instead of a new SQLite file, e.g. kafka:localhost:9092")
    options = parser.parse_args(arguments)
    collect_garbage_rarely()
    with tempfile.TemporaryDirectory() as name, closing(open_log(options.log or f"sqlite:{name}/log.db")) as log:
        log.create()
        print("publishing", flush=True)
        simulate(log, SimulationSettings(events=options.events, shoppers=options.events // 15))
        figures = measure(log, Path(name), options)
    report.show(
        f"Archiving {options.events:,} events",
        ["", "events/s"],
        [[label, f"{figures[key]:,.0f}"] for label, key in ROWS.items()],
    )
    report.write(options.out, figures)


ROWS = {
    "archive": "archived_per_s",
    "archive, per second of CPU": "archived_per_cpu_s",
    "read the log": "log_read_per_s",
    "read the archive": "archive_read_per_s",
    "load the archive": "loaded_per_s",
}


def measure(log: Log, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the figures."""
    print("archiving", flush=True)
    took = [archived(log, folder / f"archive-{number}") for number in range(options.runs)]
    count, live_s = read_back(log)
    store = FolderStore(folder / "archive-0")
    assert list(problems(store)) == []
    manifest = read_manifest(store)
    assert manifest is not None
    size, records = sum(file.bytes for file in manifest.files), sum(file.records for file in manifest.files)
    for place in log.partitions(EVENTS):
        log.delete_before(place, log.end(place))
    print("reading", flush=True)
    reads = [read_back(ArchivedLog(log, store)) for _ in range(options.runs)]
    assert {number for number, _ in reads} == {count}
    print("loading", flush=True)
    load_s = loaded(str(folder / "archive-0"), folder / "loaded.db")
    return {
        "events": count,
        "bytes_per_record": size / records,
        "archived_per_s": records / median(seconds for seconds, _ in took),
        "archived_per_cpu_s": records / median(cpu_s for _, cpu_s in took),
        "log_read_per_s": count / live_s,
        "archive_read_per_s": count / median(seconds for _, seconds in reads),
        "loaded_per_s": count / load_s,
    }


if __name__ == "__main__":
    report.run(main)
