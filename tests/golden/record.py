"""Record a release's golden log, by the processes of its wheel, and the digests that today's code makes of all logs.

    python -m tests.golden.record dist/headrace-0.4.0-py3-none-any.whl
    python -m tests.golden.record

The first writes the archive beside this file and keeps the wheel. Both add the digests that `expected.json` lacks, of
new logs and of parts whose version was raised; a digest that is there is never replaced.
"""

import json
import shutil
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from headrace.log.open import open_log
from headrace.shard import journal
from operators.child import Child, Children, total
from tests.golden.logs import EXPECTED, FOLDER, PLACEMENTS, digests, expected, folded, releases, unpack

EVENTS: Final = (4_200, 400)
"""Events before the last snapshot, and after it."""
SETTINGS: Final = (
    "next_item.items_max=400", "next_item.shoppers_max=300", "rounds.items_max=400", "rounds.shoppers_max=300",
    "rounds.round_events=1500", "rounds.gate_records_max=1400", "rounds.width=16", "rounds.train_s_max=20",
    "rounds.window_max=800", "rounds.rehearsal_max=400",
)  # fmt: skip


def record(wheel: Path) -> None:
    """Record the golden log of a wheel's release."""
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, events in enumerate(EVENTS):
            _run(wheel, folder, number, events, interval_s=1e4 if number else 1.0)
        _archive(folder, FOLDER / f"{version}.tar.xz")
    if wheel.parent != FOLDER:
        shutil.copy(wheel, FOLDER)


def _run(wheel: Path, folder: Path, number: int, events: int, *, interval_s: float) -> None:
    """Let both shards learn simulated events; kill them when they have."""
    common = ["--log", f"sqlite:{folder / 'log.db'}", "--blobs", str(folder / "blobs"), "--metrics-port", "0"]
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    with Children(folder, {"PYTHONPATH": str(wheel.resolve())}, cwd=folder) as processes:
        learn = [*common, "--snapshot-interval-s", str(interval_s), *sets]
        shards = [processes.start(shard, shard, *learn) for shard in PLACEMENTS]
        shop = ["--items", "120", "--shoppers", "150", "--seed", str(30 + number), "--pace", "rounds"]
        published = processes.start("producer", "simulate", "--events", str(events), *shop, *common[:2], up=False)
        if published.wait(300):
            raise SystemExit(published.tail)
        processes.wait_until("all is learned", lambda: all(_learned(child, events) for child in shards))
        if not number:
            processes.wait_until("each has a snapshot", lambda: all(_stored(child) for child in shards))
        for child in shards:
            child.kill()


def _learned(child: Child, events: int) -> bool:
    return total(child.scrape(), "headrace_events_total") >= events


def _stored(child: Child) -> bool:
    return total(child.scrape(), "headrace_snapshot_size_bytes") > 0


def _archive(folder: Path, path: Path) -> None:
    """Archive the log, the models and the newest snapshots."""
    with closing(open_log(f"sqlite:{folder / 'log.db'}")) as log:
        entries = [journal.newest(log, placement.shard) for placement in PLACEMENTS.values()]
    kept = {entry.snapshot.blob for entry in entries if entry and entry.snapshot}
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for one in [folder / "log.db", *sorted((folder / "blobs").iterdir())]:
            if one.name in kept or one.name.startswith(("log", "model-")):
                archive.add(one, str(one.relative_to(folder)))


def expect() -> None:
    """Add the digests that `expected.json` lacks."""
    found = expected()
    for release in releases():
        for shard, placement in PLACEMENTS.items():
            with tempfile.TemporaryDirectory() as name, closing(unpack(release, Path(name))) as golden:
                for part, version, digest in digests(folded(golden, placement)):
                    known = found.setdefault(release, {}).setdefault(shard, {}).setdefault(part, {})
                    if version not in known:
                        print(f"{release}, {shard}: {part} of version {version}")
                        known[version] = digest
    EXPECTED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        record(Path(argument))
    expect()
