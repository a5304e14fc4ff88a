"""What a snapshot takes from learning: short stretches of events with a snapshot and without, in turns in one process.

    python -m benchmarks.snapshot_cost --data online_retail.csv.gz --out benchmarks/results/snapshot_cost.json

The whole shard `online` learns from an SQLite log without ever waiting for events. After each number of events of
`--after`, when its state has a size, it learns `2 * pairs` stretches; in every other one a snapshot is frozen at the
first commit, stored beside the loop and named by a later commit. The cost of a cycle is the difference in time between
the two kinds of stretches: processor time of all threads, and time on the clock, which other work on the machine
disturbs. Over the interval at which the loop would take such snapshots, by what it measures itself, the cost is a
snapshot's share of throughput: of the clock's time where a second core stores it, of the processor's where there is
one core.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from math import inf, sqrt
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter, process_time
from typing import Final, NamedTuple

from benchmarks import report
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.process import collect_garbage_rarely
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.snapshot import cost_share_max, rarer_s_max
from headrace.shard.turn import Turn
from headrace.topics import EVENTS
from learners.families import default_placements
from learners.shop import MakeShop, Shop
from producers.file import ReadOptions
from producers.load import load
from producers.scenario import SimulationSettings
from producers.simulate import simulate

ONLINE: Final = default_placements()["online"]
interval_s: Final = LoopSettings().snapshot_interval_s


class Stretch(NamedTuple):
    """A number of events: seconds per event, on the clock and of the processor, and the longest commit (s).

    With a snapshot: what the loop itself counts as its cost, and how long the loop stood still to freeze it (s).
    """

    clock_s: float
    processor_s: float
    commit_s: float
    own_cost_s: float
    freeze_s: float


class Learner:
    """The loop, whose snapshots are taken when it is told to."""

    def __init__(self, log: Log, blobs: Blobs) -> None:
        settings = LoopSettings(snapshot_interval_s=inf)
        self.loop: Loop[Shop] = Loop(log, blobs, ONLINE.shard, make=MakeShop(ONLINE.kinds), settings=settings)
        self.snapshots = self.loop._snapshots
        self.snapshots.cost_share_max = inf
        self.learned = 0
        self._turns: list[Turn] = []
        self.loop.on_turn = self._turns.append

    def learn(self, events: int, *, snapshot: bool = False) -> Stretch:
        """Learn at least so many events, and until the snapshot is stored and named, if there is to be one."""
        self._turns.clear()
        self.snapshots.interval_s = 0.0 if snapshot else inf
        behind = self.snapshots.behind(0)
        began, began_cpu = perf_counter(), process_time()
        while (learned := sum(turn.records for turn in self._turns)) < events or (
            snapshot and self.snapshots.behind(0) == behind
        ):
            self.loop.step()
            if self._turns:
                self.snapshots.interval_s = inf
        seconds, processor_s = perf_counter() - began, process_time() - began_cpu
        self.learned += learned
        longest = max(turn.commit_s for turn in self._turns)
        cost_s, freeze_s = self.snapshots.cost_s, self.snapshots._freeze_s
        return Stretch(seconds / learned, processor_s / learned, longest, cost_s, freeze_s)


def publish(log: Log, options: argparse.Namespace) -> int:
    """Publish the events that are learned; return their number."""
    if options.data:
        load(log, options.data, options=ReadOptions())
        return sum(log.end(place) for place in log.partitions(EVENTS))
    count: int = max(options.after) + (2 * options.pairs + 4) * options.stretch
    simulate(log, SimulationSettings(events=count, shoppers=count // 15))
    return count


def measure(learner: Learner, options: argparse.Namespace) -> dict[str, float]:
    """Return what a cycle costs with the state that the learner has now."""
    learner.learn(1, snapshot=True)  # the first one is stored from cold caches
    without, with_one = list[Stretch](), list[Stretch]()
    for pair in range(options.pairs):
        for snapshot in (True, False) if pair % 2 else (False, True):
            (with_one if snapshot else without).append(learner.learn(options.stretch, snapshot=snapshot))

    def cost(of: Callable[[Stretch], float]) -> tuple[float, float]:
        """Return the mean difference in seconds, and its standard error."""
        both = [[of(one) * options.stretch for one in stretches] for stretches in (with_one, without)]
        error = sqrt(sum(stdev(one) ** 2 / len(one) for one in both))
        return mean(both[0]) - mean(both[1]), error

    clock, processor = cost(lambda one: one.clock_s), cost(lambda one: one.processor_s)
    own_s = mean(one.own_cost_s for one in with_one)
    # Each interval follows from its own snapshot.
    cycle_s = mean(max(interval_s, min(one.own_cost_s / cost_share_max, rarer_s_max)) for one in with_one)
    return {
        "events": learner.learned,
        "state_mb": learner.snapshots.size / 1e6,
        "events_per_processor_s": 1 / mean(one.processor_s for one in without),
        "clock_s": clock[0],
        "clock_error_s": clock[1],
        "processor_s": processor[0],
        "processor_error_s": processor[1],
        "own_cost_s": own_s,
        "interval_s": cycle_s,
        "clock_share": clock[0] / cycle_s,
        "processor_share": processor[0] / cycle_s,
        "freeze_p50_s": median(one.freeze_s for one in with_one),
        "freeze_max_s": max(one.freeze_s for one in with_one),
        "commit_p50_s": median(one.commit_s for one in without),
    }


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("What a snapshot takes from learning.")
    parser.add_argument("--after", type=int, nargs="+", default=[500, 18_000], help="events before each measurement")
    parser.add_argument("--stretch", type=int, default=150, help="events of one stretch")
    parser.add_argument("--pairs", type=int, default=8, help="stretches with a snapshot, and as many without")
    parser.add_argument("--data", type=Path, help="a file of events instead of a simulated shop, e.g. online_retail")
    options = parser.parse_args(arguments)
    collect_garbage_rarely()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        log = open_log(f"sqlite:{Path(name) / 'log.db'}")
        log.create()
        print("publishing", flush=True)
        published = publish(log, options)
        learner = Learner(log, Blobs(Path(name) / "blobs"))
        with closing(log), closing(learner.loop):
            for after in options.after:
                print(f"learning {after:,} of {published:,} events", flush=True)
                learner.learn(after - learner.learned)
                rows.append(measure(learner, options))
    report.show(
        f"A snapshot every {interval_s:g} s or more",
        ["", *(f"{row['events']:,} events" for row in rows)],
        [
            [text, *(form.format(**row) for row in rows)]
            for text, form in (
                ("state (MB)", "{state_mb:.1f}"),
                ("events per second of processor time", "{events_per_processor_s:,.0f}"),
                ("cost of a cycle, processor (s)", "{processor_s:.2f} ± {processor_error_s:.2f}"),
                ("cost of a cycle, clock (s)", "{clock_s:.2f} ± {clock_error_s:.2f}"),
                ("cost as the loop counts it (s)", "{own_cost_s:.2f}"),
                ("interval that follows (s)", "{interval_s:.0f}"),
                ("share of the processor's time", "{processor_share:.1%}"),
                ("share of the clock's time", "{clock_share:.1%}"),
                ("the loop stands still, p50 (s)", "{freeze_p50_s:.2f}"),
                ("the loop stands still, max (s)", "{freeze_max_s:.2f}"),
                ("longest commit without a snapshot, p50 (s)", "{commit_p50_s:.2f}"),
            )
        ],
    )
    report.write(options.out, {"data": options.data.name if options.data else "simulated", "states": rows})


if __name__ == "__main__":
    report.run(main)
