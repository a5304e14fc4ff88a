"""How fresh a live shard stays while an operator replays its whole journal, over and over, beside it.

    python -m benchmarks.replay_beside --out benchmarks/results/replay_beside.json

A simulated shop's events are learned by the process `online` on a log in a file. Then events come at a steady rate, in
phases with and without replays (`headrace replay --rate live`, each into a new run), in turns. Freshness is the time
from the append of an event to that of the journal entry that says it was learned, of every event.
"""

import itertools
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import report
from benchmarks.recovery import await_true, events, load
from headrace.log.open import open_log
from headrace.log.protocol import Log, Partition
from headrace.log.scan import partition_records
from headrace.shard import journal
from headrace.topics import EVENTS
from learners.families import default_placements
from operators.child import Child, Children
from producers.scenario import SimulationSettings
from producers.simulate import simulate

SHARD: Final = default_placements()["online"].shard
settle_s: Final = 3.0
"""Time after a phase begins that is not counted."""
PERCENTILES: Final = (50, 99)


def learned(log: Log) -> bool:
    """Whether the shard has learned all events."""
    done = log.committed(SHARD.name)
    return all(done.get(place, 0) >= log.end(place) for place in log.partitions(EVENTS))


def delays_ms(log: Log, start: int, phases: Sequence[tuple[bool, int, int]]) -> dict[bool, list[int]]:
    """Return the freshness of each event, by whether replays ran when it was appended.

    Args:
        start: a position in the journal.
        phases: whether replays ran, from when to when (ms).
    """
    appended = {
        (place.number, record.offset): record.time_ms
        for place in log.partitions(EVENTS)
        for record in partition_records(log, place, start=log.position_at(place, phases[0][1]))
    }
    found: dict[bool, list[int]] = {True: [], False: []}
    for record in partition_records(log, SHARD.journal, start=start):
        entry = journal.entry_in(record)
        for run in entry.runs if entry else ():
            for offset in range(run.start, run.end) if run.topic == EVENTS else ():
                at_ms = appended.get((run.partition, offset))
                for beside, begin, end in phases if at_ms is not None else ():
                    if at_ms is not None and begin <= at_ms < end:
                        found[beside].append(record.time_ms - at_ms)
    return found


def replays(children: Children, common: Sequence[str]) -> Iterator[Child]:
    """Yield one replay of the whole journal after the other."""
    for number in itertools.count():
        yield children.start(
            "replay", "replay", "--into", f"beside-{number}", "--from", "0", "--rate", "live", *common, up=False
        )


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Freshness of a live shard with and without a replay beside it.")
    parser.add_argument("--events", type=int, default=40_000, help="events that a replay folds")
    parser.add_argument("--rate", type=float, default=200.0, help="events per second that come in meanwhile")
    parser.add_argument("--phase", type=float, default=20.0, help="seconds of a phase")
    parser.add_argument("--turns", type=int, default=3, help="phases of each kind")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, closing(open_log(f"sqlite:{name}/log.db")) as log:
        log.create()
        simulate(log, SimulationSettings(events=options.events))
        common = ["--log", f"sqlite:{name}/log.db", "--blobs", f"{name}/blobs"]
        phases: list[tuple[bool, int, int]] = []
        done = 0
        with Children(Path(name), cwd=Path(name)) as children:
            children.start("online", "online", "--metrics-port", "0", *common)
            await_true("all is learned", lambda: learned(log))
            start = log.end(Partition(SHARD.journal.topic, SHARD.journal.number))
            with load(log, options.rate, events(random.Random(0))):
                running = replays(children, common)
                for beside in (False, True) * options.turns:
                    began = time.time()
                    child = next(running) if beside else None
                    while time.time() < began + settle_s + options.phase:
                        time.sleep(0.05)
                        if child is not None and child.code is not None:
                            child.check()
                            done += 1
                            child = next(running)
                    phases.append((beside, int((began + settle_s) * 1000), int(time.time() * 1000)))
                    if child is not None:
                        child.kill()
            await_true("all is learned", lambda: learned(log))
        found = delays_ms(log, start, phases)
    figures = {
        "beside" if beside else "alone": {f"p{one}_ms": float(np.percentile(times, one)) for one in PERCENTILES}
        for beside, times in found.items()
    }
    ratio = figures["beside"]["p99_ms"] / figures["alone"]["p99_ms"]
    report.show(
        f"Freshness at {options.rate:g} events/s, {done} replays of {options.events:,} events ended beside it",
        ["", "events", "p50 (ms)", "p99 (ms)"],
        [
            [name, f"{len(found[name == 'beside']):,}", f"{one['p50_ms']:.0f}", f"{one['p99_ms']:.0f}"]
            for name, one in figures.items()
        ],
    )
    print(f"p99 beside a replay: {ratio:.2f} times that without")
    report.write(options.out, {"rate": options.rate, "replays": done, "freshness": figures, "p99_ratio": ratio})


if __name__ == "__main__":
    report.run(main)
