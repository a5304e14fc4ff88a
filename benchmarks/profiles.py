"""What profiles and segments cost: a bare fold, folds with them, and that of the shard `online` with and without.

    python -m benchmarks.profiles --out benchmarks/results/profiles.json

Folds of one simulated shop learn the same events in alternating chunks, by processor time. A bare fold decodes, admits
and prepares events (the desk), and learns nothing. Medians of the chunks are shown, and how much memory the profiles of
the shoppers take.
"""

import statistics
import time
import tracemalloc
from collections.abc import Sequence
from typing import Final

from benchmarks import report
from headrace.events import Rejection, decode
from headrace.log.protocol import Record
from headrace.process import collect_garbage_rarely
from headrace.shard.intake import Intake
from headrace.topics import EVENTS
from learners.desk.family import Desk
from learners.families import default_placements
from learners.family import Family
from learners.shop import Shop
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

CHUNK: Final = 2_000
FIRST: Final = 4_000
"""Events that all folds learn before they are measured."""
ADDED: Final = ("profiles", "segments")
"""The families whose cost is measured."""


class Fold:
    """A fold of some families over records in memory."""

    def __init__(self, kinds: Sequence[type[Family]]) -> None:
        self.shop, self._intake = Shop(kinds), Intake()
        self.cpu_s: list[float] = []

    def learn(self, records: Sequence[Record]) -> None:
        """Learn from a chunk of records, and note the processor time."""
        began = time.process_time()
        shop, admit = self.shop, self._intake.admit
        for record in records:
            event = decode(record)
            if not isinstance(event, Rejection) and admit(event, record.time_ms) and shop.prepare(event):
                shop.learn(event, 0, record.offset)
        shop.emit()
        self.cpu_s.append(time.process_time() - began)


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("The cost of profiles and segments.")
    parser.add_argument("--events", type=int, default=60_000, help="events of the simulated shop")
    options = parser.parse_args(arguments)
    collect_garbage_rarely()  # as a shard's process does
    records = [
        Record(0, one.number, one.time_ms, one.key, one.value)
        for one in Simulation(SimulationSettings(events=options.events)).records()
        if one.topic == EVENTS
    ]
    online = default_placements()["online"].kinds
    added = [kind for kind in online if kind.name in ADDED]
    folds = {
        "bare": Fold([Desk]),
        "profiles": Fold([Desk, *added[:1]]),
        "profiles and segments": Fold([Desk, *added]),
        "online without": Fold([kind for kind in online if kind.name not in ADDED]),
        "online": Fold(online),
    }
    turns = list(folds.values())
    for begin in range(0, len(records), CHUNK):
        for one in turns:
            one.learn(records[begin : begin + CHUNK])
        turns.reverse()
    first = FIRST // CHUNK
    us = {name: 1e6 * statistics.median(one.cpu_s[first:]) / CHUNK for name, one in folds.items()}
    shares = zip(folds["online without"].cpu_s[first:], folds["online"].cpu_s[first:], strict=True)
    alone = us["profiles and segments"] - us["bare"]
    figures = {
        "us_per_event": us,
        "us_of_both": alone,
        "events_per_s_with_decoding": 1e6 / us["profiles and segments"],
        "throughput_beside_online_without": statistics.median(without / with_ for without, with_ in shares),
        **memory(records, added),
    }
    report.show(
        f"Learning {len(records):,} events, medians of chunks of {CHUNK:,}",
        ["fold", "processor time per event (us)"],
        [[name, f"{found:.1f}"] for name, found in us.items()],
    )
    report.show(
        "Profiles and segments",
        ["figure", "value"],
        [[name, f"{found:,.2f}"] for name, found in figures.items() if name != "us_per_event"],
    )
    report.write(options.out, {"figures": figures, "events": len(records)})


def memory(records: Sequence[Record], added: Sequence[type[Family]]) -> dict[str, float]:
    """Return how many bytes the profiles and segments of the simulated shoppers take."""
    used = []
    tracemalloc.start()
    both: list[list[type[Family]]] = [[Desk], [Desk, *added]]
    for kinds in both:
        before = tracemalloc.get_traced_memory()[0]
        fold = Fold(kinds)
        fold.learn(records)
        used.append(tracemalloc.get_traced_memory()[0] - before)
        bounds = {name: use for one in fold.shop.families.values() for name, (use, _) in one.bounds().items()}
        del fold
    tracemalloc.stop()
    shoppers, tastes = bounds["profiles_shoppers"], bounds["profiles_tastes"]
    return {
        "shoppers": shoppers, "tastes_per_shopper": tastes / shoppers,
        "bytes_per_shopper": (used[1] - used[0]) / shoppers,
    }  # fmt: skip


if __name__ == "__main__":
    main(None)
