"""Memory of the online shard: its resident size over millions of events with an open vocabulary.

    python -m benchmarks.memory --events 2000000 --out benchmarks/results/memory.json

New shoppers and items arrive all the time, so every table fills up and evicts. The loop runs with everything on:
validation, journal, commits, snapshots, a judged sample. After the warm-up (the first half) the slope of a
least-squares line through the resident size gives the remaining growth.
"""

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import report
from consumers.shard import Judges, judging_of
from headrace import events
from headrace.events import Data, Event, EventType, Item
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.metrics import ShardMetrics
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.turn import Turn
from headrace.topics import EVENTS, partitions_of
from learners.families import default_placements
from learners.next_item.family import NextItemFamily, NextItemSettings
from learners.next_item.judge import NextItemJudge
from learners.shop import MakeShop

batch_events: Final = 20_000
BOUNDS: Final = {"next_item": NextItemSettings(items_max=20_000, shoppers_max=20_000)}
"""Small enough that all tables are full after the first tenth."""
start_ms: Final = 1_736_121_600_000


def resident_mib() -> float:
    """Return the resident size of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status: this benchmark needs Linux")


def stream(seed: int) -> Iterator[Event]:
    """Yield events without end: visits of a few views, half of the items and shoppers never seen before."""
    rng, number, fresh = np.random.default_rng(seed), 0, 0
    while True:
        for draw in rng.random((1_000, 8)):
            fresh += 1
            shopper = f"shopper-{fresh if draw[0] < 0.5 else int(draw[1] * fresh)}"
            for view in range(1 + int(draw[2] * 4)):
                number += 1
                item = f"item-{fresh * 2 + view if draw[3 + view] < 0.3 else int((draw[3 + view] ** 4) * fresh)}"
                line = Item(item_id=item, item_category=f"c{fresh % 50_000}", price=1 + 99 * float(draw[3 + view]))
                kind: EventType = "purchase" if view and draw[7] < 0.1 else "view_item"
                time_ms = start_ms + number * 400
                yield Event(
                    id=f"m-{number}", source="memory", type=kind, time=events.at(time_ms), data=Data(items=[line]),
                    specversion="1.0", shopper=shopper,
                )  # fmt: skip


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Resident size with an open vocabulary.")
    parser.add_argument("--events", type=int, default=2_000_000, help="events learned")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        log = open_log(f"sqlite:{name}/log.db")
        log.create()
        blobs, turns = Blobs(Path(name) / "blobs"), list[Turn]()
        shard, kinds = default_placements()["online"]
        judging = judging_of(NextItemFamily, BOUNDS, blobs, ShardMetrics([kind.surface for kind in kinds]))
        judge = Judges({NextItemFamily.name: NextItemJudge(judging, fixed=1 / 64)})
        settings = LoopSettings(snapshot_interval_s=15.0)
        loop = Loop(log, blobs, shard, make=MakeShop(kinds, BOUNDS), judge=judge, settings=settings)
        taken = 0

        def on_turn(turn: Turn) -> None:
            nonlocal taken
            taken += turn.records
            turns[:] = [turn]

        loop.on_turn = on_turn
        appender, source = log.appender(), stream(options.seed)
        curve: list[tuple[int, float]] = []
        began = time.perf_counter()
        while taken < options.events:
            for _, event in zip(range(batch_events), source, strict=False):
                appender.append(Outgoing(EVENTS, event.shopper.encode(), events.encode(event)))
            appender.flush()
            target = taken + batch_events
            while taken < target:
                loop.step()
            for place in partitions_of(EVENTS):  # the log's file is not measured
                log.delete_before(place, log.end(place))
            gc.collect()
            curve.append((taken, resident_mib()))
            if taken % (5 * batch_events) == 0:
                rate = taken / (time.perf_counter() - began)
                print(f"{taken:>10,} events  {curve[-1][1]:8.1f} MiB  {rate:,.0f} events/s", flush=True)
        bounds = {table: list(use) for table, use in turns[0].bounds.items()}
        loop.close()
        appender.close()
        log.close()
    late = [(count / 1e6, size) for count, size in curve if count >= options.events / 2]
    slope = float(np.polyfit([at for at, _ in late], [size for _, size in late], 1)[0])
    figures: dict[str, Any] = {
        "events": taken,
        "mib_at_end": curve[-1][1],
        "mib_at_half": late[0][1],
        "slope_mib_per_million_events": slope,
        "curve": curve[:: max(1, len(curve) // 50)],
        "bounds": bounds,
    }
    report.show(
        f"Resident size over {taken:,} events with an open vocabulary",
        ["", ""],
        [
            ["at half-way (MiB)", f"{figures['mib_at_half']:.1f}"],
            ["at the end (MiB)", f"{figures['mib_at_end']:.1f}"],
            ["slope of the second half (MiB per million events)", f"{slope:.2f}"],
            *[[f"{table}: in use, of the maximum", f"{used:,} of {most:,}"] for table, (used, most) in bounds.items()],
        ],
    )
    report.write(options.out, figures)


if __name__ == "__main__":
    report.run(main)
