"""What watching for drift and exporting metrics cost: the fold of the shard `online` with and without them, in turns.

    python -m benchmarks.watching_cost --out benchmarks/results/watching_cost.json

Folds of one simulated shop learn the same events in alternating chunks, by processor time: one as it is, one whose
families watch nothing but losses, and one that also exports no metrics. Medians of the chunks' ratios are shown, with
judging as it is on a busy shard.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import report
from benchmarks.online_fold import ENTRY_EVENTS, OnlineFold, next_item, purchase
from consumers.shard import read_every_s
from headrace.log.protocol import Record
from headrace.metrics import ShardMetrics
from headrace.topics import EVENTS
from learners.families import default_placements
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

CHUNK: Final = 2_000
FIRST: Final = 4_000
"""Events that all folds learn before they are measured."""


class Blind:
    """Stands for what watches: it sees nothing."""

    items = ()

    def __init__(self, silences: Any) -> None:
        self.silences = silences

    def observe(self, *_: Any, **__: Any) -> tuple[()]:
        """Return no alarms."""
        return ()

    observe_judgement = observe

    def observe_labels(self, *_: Any) -> list[Any]:
        """Return no alarms."""
        return []

    def category_of(self, _: Any) -> str:
        """Return no category."""
        return ""

    def watched(self) -> dict[str, Any]:
        """Return no distances."""
        return {}

    def forget(self, _: Any) -> None:
        """Forget nothing."""


class Contestant:
    """A fold, with or without watching and metrics.

    Args:
        judged: share of the events that are judged.
    """

    def __init__(self, *, watches: bool, exports: bool, judged: float) -> None:
        self._fold = OnlineFold(judged=judged)
        shop = self._fold.shop
        if not watches:
            for family in (next_item(shop), purchase(shop)):
                # It has of a `Watching` what a fold calls.
                family.watching = Blind(family.watching.silences)  # type: ignore[assignment]
            next_item(shop).browsing.dependants.pop()
        kinds = default_placements()["online"].kinds
        self._metrics = ShardMetrics([kind.surface for kind in kinds]) if exports else None
        self._read_s = 0.0
        self.cpu_s: list[float] = []

    def learn(self, records: Sequence[Record]) -> None:
        """Learn a chunk, and note its processor time."""
        began = time.process_time()
        for place in range(0, len(records), ENTRY_EVENTS):
            self._fold.learn(records[place : place + ENTRY_EVENTS])
            if self._metrics and sum(self.cpu_s) + time.process_time() - began - self._read_s > read_every_s:
                self._read_s = sum(self.cpu_s) + time.process_time() - began
                self._read(self._metrics)
        self.cpu_s.append(time.process_time() - began)

    def _read(self, metrics: ShardMetrics) -> None:
        for family in self._fold.shop.families.values():
            metrics.family_metrics.read(family.surface, family)
            for detector, seen in family.watched().items():
                metrics.set_drift(detector, seen.score, seen.threshold)


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("The cost of watching for drift and of metrics.")
    parser.add_argument("--events", type=int, default=60_000, help="events of the simulated shop")
    parser.add_argument("--judged", type=float, default=0.1, help="share of the events that are judged")
    options = parser.parse_args(arguments)
    records = [
        Record(0, one.number, one.time_ms, one.key, one.value)
        for one in Simulation(SimulationSettings(events=options.events)).records()
        if one.topic == EVENTS
    ]
    contestants = {
        "neither": Contestant(watches=False, exports=False, judged=options.judged),
        "metrics": Contestant(watches=False, exports=True, judged=options.judged),
        "drift and metrics": Contestant(watches=True, exports=True, judged=options.judged),
    }
    turns = list(contestants.values())
    for begin in range(0, len(records), CHUNK):
        for one in turns:
            one.learn(records[begin : begin + CHUNK])
        turns.reverse()
        print(f"{begin + CHUNK:,} of {len(records):,} events", flush=True)
    first = FIRST // CHUNK
    base = contestants["neither"].cpu_s[first:]
    figures = {
        name: {
            "us_per_event": 1e6 * statistics.median(one.cpu_s[first:]) / CHUNK,
            "ratio": statistics.median(mine / its for mine, its in zip(one.cpu_s[first:], base, strict=True)),
        }
        for name, one in contestants.items()
    }
    report.show(
        f"Learning {len(records):,} events, {options.judged:.0%} of them judged, medians of chunks of {CHUNK:,}",
        ["", "processor time per event (us)", "relative"],
        [[name, f"{found['us_per_event']:.1f}", f"{found['ratio']:.3f}"] for name, found in figures.items()],
    )
    report.write(options.out, {"figures": figures, "events": len(records), "judged": options.judged})


if __name__ == "__main__":
    main(None)
