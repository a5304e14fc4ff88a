"""What a campaign has counted: its table, its JSON, and the sum over the committed runs."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import report
from tests.chaos.oracle import Audit

RESULTS: Final = Path(__file__).parents[2] / "benchmarks/results"


class Tally:
    """The counts of a campaign, by fault."""

    def __init__(self) -> None:
        self.rounds, self.kills = Counter[str](), Counter[str]()
        self.exits, self.forced = Counter[str](), Counter[str]()
        self.done, self.audited = Counter[str](), Counter[str]()
        self.recoveries_s: list[float] = []
        self.resident_mib: Counter[str] = Counter()
        self.log_bytes = self.blob_bytes = 0

    def add(self, fault: str, audit: Audit | None, done: Counter[str], log_bytes: int, blob_bytes: int) -> None:
        """Add a round that has passed."""
        self.rounds[fault] += 1
        self.done.update(done)
        for name in audit.__struct_fields__ if audit else ():
            self.audited[name] += getattr(audit, name)
        self.log_bytes += log_bytes
        self.blob_bytes += blob_bytes

    def figures(self) -> dict[str, Any]:
        """Return everything as JSON can hold it. No round with a loss or a double is ever added."""
        events = max(1, self.audited["events"])
        recoveries = self.recoveries_s or [0.0]
        return {
            "rounds": dict(self.rounds), "kills": self.kills.total(), "kills_by_fault": dict(self.kills),
            "exits_restarted": self.exits.total(), "stops_forced": self.forced.total(),
            "faults": dict(self.done), "audited": dict(self.audited),
            "lost": 0, "double": 0, "digests_equal": True,
            "recovery_s": {"median": round(median(recoveries), 2), "max": round(max(recoveries), 2)},
            "resident_mib_max": {role: round(size) for role, size in self.resident_mib.items()},
            "mib_per_million_events": {
                "log": round(self.log_bytes / events * 1e6 / 2**20), "blobs": round(self.blob_bytes / 2**20, 1),
            },
        }  # fmt: skip


def show(title: str, figures: dict[str, Any]) -> None:
    """Print the table of a campaign that has passed."""
    rows = [
        [fault, str(count), str(figures["kills_by_fault"].get(fault, 0)), "0", "0", "yes"]
        for fault, count in figures["rounds"].items()
    ]
    report.show(title, ["fault", "rounds", "kills", "lost", "double", "digests equal"], rows)
    recovery, size = figures["recovery_s"], figures["mib_per_million_events"]
    more = [
        *([name, f"{count:,}"] for name, count in sorted(figures["faults"].items())),
        *([f"{name} audited".replace("_", " "), f"{count:,}"] for name, count in figures["audited"].items()),
        ["processes that exited with code 1 and were restarted", f"{figures['exits_restarted']:,}"],
        ["processes that did not stop in order at a round's end", f"{figures['stops_forced']:,}"],
        ["kill of online to its next commit, median (s)", f"{recovery['median']:.2f}"],
        ["the same, longest (s)", f"{recovery['max']:.2f}"],
        *([f"largest resident size of {role} (MiB)", str(mib)] for role, mib in figures["resident_mib_max"].items()),
        ["growth of the log (MiB per million events)", f"{size['log']:,}"],
        ["blobs that are kept at the ends of all rounds (MiB)", f"{size['blobs']:,}"],
    ]
    report.show("What was done and seen", ["", ""], more)


def committed(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the figures of the campaigns that have passed and whose files are in a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("chaos_*.json"))]


def kills(runs: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Return the number of kills of some campaigns, and of those on Kafka.

    >>> kills([{"log": "kafka", "kills": 3}, {"log": "sqlite", "kills": 4}])
    (7, 3)
    """
    found = [(run["kills"], run["log"] == "kafka") for run in runs if "kills" in run]
    return sum(count for count, _ in found), sum(count for count, on_kafka in found if on_kafka)
