"""What a snapshot takes from learning: the same number of events with one and without, in turns in one process.

    python -m benchmarks.snapshot_cost --out benchmarks/results/snapshot_cost.json

The whole shard `online` learns from an SQLite log, first `--warm` events, so that its state has a real size, then
stretches of `--stretch` events; a snapshot is taken at the first commit of every other one and stored within it. The
difference is the cost of a cycle, over the interval between snapshots its share of the time. The pause is that of the
commit at which the state is frozen.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Final, NamedTuple

from benchmarks import report
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.process import collect_garbage_rarely
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.turn import Turn
from learners.families import default_placements
from learners.shop import MakeShop, Shop
from producers.file import ReadOptions
from producers.load import load
from producers.scenario import SimulationSettings
from producers.simulate import simulate

ONLINE: Final = default_placements()["online"]


class Stretch(NamedTuple):
    """A number of events: seconds per event, the longest commit, and what the snapshot's own clock says it cost."""

    event_s: float
    commit_s: float
    own_cost_s: float


class Learner:
    """The loop, whose snapshots are taken when it is told to."""

    def __init__(self, log: Log, blobs: Blobs) -> None:
        settings = LoopSettings(snapshot_interval_s=inf)
        self.loop: Loop[Shop] = Loop(log, blobs, ONLINE.shard, make=MakeShop(ONLINE.kinds), settings=settings)
        self.snapshots = self.loop._snapshots
        self.snapshots.cost_share_max = inf
        self._turns: list[Turn] = []
        self.loop.on_turn = self._turns.append

    def learn(self, events: int, *, snapshot: bool = False) -> Stretch:
        """Learn at least so many events, with a snapshot or without."""
        self._turns.clear()
        self.snapshots.interval_s = 0.0 if snapshot else inf
        behind = self.snapshots.behind(0)
        began = perf_counter()
        while (learned := sum(turn.records for turn in self._turns)) < events or (
            snapshot and self.snapshots.behind(0) == behind
        ):
            self.loop.step()
            if self._turns:
                self.snapshots.interval_s = inf
        seconds = perf_counter() - began
        return Stretch(seconds / learned, max(turn.commit_s for turn in self._turns), self.snapshots.cost_s)


def publish(log: Log, options: argparse.Namespace) -> None:
    """Publish the events that are learned."""
    if options.data:
        load(log, options.data, options=ReadOptions())
    else:
        count = options.warm + 2 * options.pairs * options.stretch + options.stretch
        simulate(log, SimulationSettings(events=count, shoppers=count // 15))


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("What a snapshot takes from learning.")
    parser.add_argument("--warm", type=int, default=200_000, help="events learned before the measurement")
    parser.add_argument("--stretch", type=int, default=10_000, help="events of one stretch")
    parser.add_argument("--pairs", type=int, default=8, help="stretches with a snapshot, and without")
    parser.add_argument("--interval", type=float, default=20.0, help="seconds between two snapshots, for the share")
    parser.add_argument("--data", type=Path, help="a file of events instead of a simulated shop, e.g. online_retail")
    options = parser.parse_args(arguments)
    collect_garbage_rarely()
    with tempfile.TemporaryDirectory() as name:
        log = open_log(f"sqlite:{Path(name) / 'log.db'}")
        log.create()
        print("publishing", flush=True)
        publish(log, options)
        learner = Learner(log, Blobs(Path(name) / "blobs"))
        with closing(log), closing(learner.loop):
            print("learning", flush=True)
            learner.learn(options.warm)
            learner.learn(1, snapshot=True)  # the first one is stored from cold caches
            without, with_one = list[Stretch](), list[Stretch]()
            for pair in range(options.pairs):
                for snapshot in (True, False) if pair % 2 else (False, True):
                    (with_one if snapshot else without).append(learner.learn(options.stretch, snapshot=snapshot))
            size = learner.snapshots.size
    cost_s = options.stretch * (mean(one.event_s for one in with_one) - mean(one.event_s for one in without))
    figures = {
        "state_mb": size / 1e6,
        "events_per_s": 1 / mean(one.event_s for one in without),
        "cycle_s": cost_s,
        "own_cost_s": mean(one.own_cost_s for one in with_one),
        "share": cost_s / options.interval,
        "pause_p50_s": median(one.commit_s for one in with_one),
        "pause_max_s": max(one.commit_s for one in with_one),
        "commit_max_s": max(one.commit_s for one in without),
    }
    report.show(
        f"A snapshot every {options.interval:g} s, after {options.warm:,} events",
        ["", ""],
        [
            ["state (MB)", f"{figures['state_mb']:.1f}"],
            ["events/s without snapshots", f"{figures['events_per_s']:,.0f}"],
            ["cost of a cycle (s)", f"{figures['cycle_s']:.2f}"],
            ["as the loop estimates it (s)", f"{figures['own_cost_s']:.2f}"],
            ["share of the time", f"{figures['share']:.1%}"],
            ["longest commit with a snapshot, p50 (s)", f"{figures['pause_p50_s']:.2f}"],
            ["longest commit with a snapshot, max (s)", f"{figures['pause_max_s']:.2f}"],
            ["longest commit without (s)", f"{figures['commit_max_s']:.2f}"],
        ],
    )  # fmt: skip
    report.write(options.out, figures)


if __name__ == "__main__":
    report.run(main)
