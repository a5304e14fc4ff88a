"""What watching for drift and exporting metrics cost: the fold of the shard `online` with and without them, in turns.

    python -m benchmarks.watching_cost --out benchmarks/results/watching_cost.json

Folds of one simulated shop learn the same events in alternating chunks, by processor time: one as it is, one whose
families watch nothing but losses, and one that also exports no metrics. That one has a twin: how far the two are apart
is noise, mostly of where each fold's objects lie in memory. Within one fold there is no such noise, so the time spent
in the calls that watch and export is shown, too, as a share of the rest, with judging as it is on a busy shard. There
are two shops: a quiet one, where each block is as small as it can be, and the smallest that Headrace is made for.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import convert

from benchmarks import report
from benchmarks.online_fold import ENTRY_EVENTS, OnlineFold, next_item, purchase
from consumers.shard import read_every_s
from headrace.log.protocol import Record
from headrace.metrics import ShardMetrics
from headrace.process import collect_garbage_rarely
from headrace.topics import EVENTS
from learners.families import default_placements
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

CHUNK: Final = 1_000
FIRST: Final = 4_000
"""Events that all folds learn before they are measured."""
SHOPS: Final = {
    "quiet": {"items": 800, "shoppers": 2_500, "days": 28.0},
    "busy": {"items": 5_000, "shoppers": 20_000, "days": 0.6},
}
"""By name: its size, and the days in which it has its events (of 60,000: 2,143 and 100,000 a day)."""


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


class Stopwatch:
    """Adds up the time of calls by what they are for, less what a call of the stopwatch itself takes.

    Attributes:
        seconds: so far, by what for.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._own_s = 0.0
        nothing = self.around(lambda: None, "")
        for _ in range(20_000):
            nothing()
        self._own_s = self.seconds.pop("") / 20_000

    def around(self, call: Callable[..., Any], what: str) -> Callable[..., Any]:
        """Return a call that does the same and is timed."""
        self.seconds.setdefault(what, 0.0)

        def timed(*positional: Any, **named: Any) -> Any:
            began = time.perf_counter()
            found = call(*positional, **named)
            self.seconds[what] += time.perf_counter() - began - self._own_s
            return found

        return timed


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

    def clock(self) -> "Stopwatch":
        """Time the calls that watch and export from now on."""
        stopwatch = Stopwatch()
        for family in (next_item(self._fold.shop), purchase(self._fold.shop)):
            watching: Any = family.watching
            for name in ("observe", "observe_judgement", "observe_labels", "forget"):
                if call := getattr(watching, name, None):
                    setattr(watching, name, stopwatch.around(call, "drift"))
        self._read = stopwatch.around(self._read, "metrics")  # type: ignore[method-assign]
        return stopwatch

    def _read(self, metrics: ShardMetrics) -> None:
        for family in self._fold.shop.families.values():
            metrics.family_metrics.read(family.surface, family)
            for detector, seen in family.watched().items():
                metrics.set_drift(detector, seen.score, seen.threshold)


def measured(name: str, events: int, judged: float) -> dict[str, Any]:
    """Return the figures of each fold over one shop, and the shares within one of them."""
    settings = convert({**SHOPS[name], "events": events}, SimulationSettings)
    records = [
        Record(0, one.number, one.time_ms, one.key, one.value)
        for one in Simulation(settings).records()
        if one.topic == EVENTS
    ]
    collect_garbage_rarely()  # as each process does
    contestants = {
        "neither": Contestant(watches=False, exports=False, judged=judged),
        "neither, its twin": Contestant(watches=False, exports=False, judged=judged),
        "metrics": Contestant(watches=False, exports=True, judged=judged),
        "drift and metrics": Contestant(watches=True, exports=True, judged=judged),
    }
    timed = Contestant(watches=True, exports=True, judged=judged)
    stopwatch = timed.clock()
    turns = [*contestants.values(), timed]
    for number, begin in enumerate(range(0, len(records), CHUNK)):
        for place in range(len(turns)):  # each fold has each place as often
            turns[(place + number) % len(turns)].learn(records[begin : begin + CHUNK])
        if begin % 10_000 == 0:
            print(f"{name}: {begin:,} of {len(records):,} events", flush=True)
    first = FIRST // CHUNK
    base = contestants["neither"].cpu_s[first:]
    rest_s = sum(timed.cpu_s) - sum(stopwatch.seconds.values())
    return {
        "folds": {
            name: {
                "us_per_event": 1e6 * statistics.median(one.cpu_s[first:]) / CHUNK,
                "ratio": statistics.median(mine / its for mine, its in zip(one.cpu_s[first:], base, strict=True)),
            }
            for name, one in contestants.items()
        },
        "within_one": {what: seconds / rest_s for what, seconds in stopwatch.seconds.items()},
    }


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("The cost of watching for drift and of metrics.")
    parser.add_argument("--events", type=int, default=60_000, help="events of each simulated shop")
    parser.add_argument("--judged", type=float, default=0.1, help="share of the events that are judged")
    options = parser.parse_args(arguments)
    shops = {}
    for shop in SHOPS:
        shops[shop] = found = measured(shop, options.events, options.judged)
        report.show(
            f"Learning {options.events:,} events of a {shop} shop, {options.judged:.0%} of them judged,"
            f" medians of chunks of {CHUNK:,}",
            ["", "processor time per event (us)", "relative"],
            [[name, f"{one['us_per_event']:.1f}", f"{one['ratio']:.3f}"] for name, one in found["folds"].items()],
        )
        report.show(
            "Time of the calls within one fold",
            ["", "share of the rest"],
            [[what, f"{share:.2%}"] for what, share in found["within_one"].items()],
        )
    report.write(options.out, {"shops": shops, "events": options.events, "judged": options.judged})


if __name__ == "__main__":
    main(None)
