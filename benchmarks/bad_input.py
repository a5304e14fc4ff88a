"""The cost of bad input: the speed of learning good events alone, and of the same events with bad ones in between.

    python -m benchmarks.bad_input --events 40000 --out benchmarks/results/bad_input.json

Two logs hold the same good events; one of them also holds bad records of many kinds. The online shard learns both logs
in alternating chunks, so that a slower machine affects both. The benchmark compares the time per good event, which
includes decoding and refusing the bad records and writing their dead letters.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from headrace.errors import Misconfigured
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.turn import Turn
from headrace.topics import EVENTS, partitions_of
from learners.families import default_placements
from learners.shop import MakeShop
from producers.scenario import SimulationSettings
from producers.simulate import simulate

chunk_events: Final = 2_000
LENIENT: Final = LoopSettings(flood_share=1.0)
KEY: Final = b"shopper-1"


def _document(**changes: Any) -> bytes:
    made = {
        "specversion": "1.0", "id": "x", "source": "bad", "type": "view_item", "time": "2025-01-06T10:00:00Z",
        "data": {"items": [{"item_id": "i1", "price": 10.0}]},
    }  # fmt: skip
    return json.dumps({**made, **changes}).encode()


BAD: Final = (
    Outgoing(EVENTS, KEY, b""),
    Outgoing(EVENTS, None, _document(), 0),
    Outgoing(EVENTS, KEY, _document()[:100]),
    Outgoing(EVENTS, KEY, _document().replace(b"10.0", b"NaN")),
    Outgoing(EVENTS, KEY, _document().replace(b"i1", b"\xc3\x28")),
    Outgoing(EVENTS, KEY, _document(more="x")[:-1] + b', "deep": ' + b"[" * 5_000),
    Outgoing(EVENTS, KEY, _document(type="teleport")),
    Outgoing(EVENTS, KEY, _document(specversion="2.0")),
    Outgoing(EVENTS, KEY, _document(time="9999-01-01T00:00:00Z")),
    Outgoing(EVENTS, KEY, _document(data={"items": "i1"})),
    Outgoing(EVENTS, KEY, _document(data={"items": [{"item_id": f"i{n}"} for n in range(2_001)]})),
    Outgoing(EVENTS, b"k" * 200, _document()),
)


ONLINE: Final = default_placements()["online"]


class Learner:
    """The online shard on one log, with the time that it took."""

    def __init__(self, log: Log, folder: Path) -> None:
        self._loop = Loop(
            log, Blobs(folder), ONLINE.shard, make=MakeShop(ONLINE.kinds), settings=LENIENT,
        )  # fmt: skip
        self._loop.on_turn = self._on_turn
        self.learned = self.rejected = 0
        self.seconds = 0.0

    def _on_turn(self, turn: Turn) -> None:
        self.learned += turn.learned
        self.rejected += sum(turn.rejected.values())

    def take(self, target: int) -> None:
        """Learn until `target` good events are committed in total."""
        began = time.perf_counter()
        self._loop.run(lambda: self.learned >= target)
        self.seconds += time.perf_counter() - began

    def close(self) -> None:
        """Close the connections."""
        self._loop.close()


def _fill(good: Log, mixed: Log, events: int, share: float, seed: int) -> None:
    """Write a simulated shop to one log, and the same events with bad records in between to the other."""
    simulate(good, SimulationSettings(events=events, seed=seed))
    appender = mixed.appender()
    owed, placed = 0.0, 0
    for place in partitions_of(EVENTS):
        reader = good.reader({place: good.first(place)})
        while batches := reader.read(10_000, 0.0):
            for record in (record for _, records in batches for record in records):
                appender.append(Outgoing(EVENTS, record.key, record.value, place.number))
                owed += share / (1 - share)
                while owed >= 1:
                    appender.append(BAD[placed % len(BAD)]._replace(partition=place.number))
                    owed, placed = owed - 1, placed + 1
        reader.close()
    appender.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = report.parser("How much bad input slows down the learning of good events.")
    parser.add_argument("--events", type=int, default=40_000, help="good events")
    parser.add_argument("--share", type=float, default=0.1, help="share of all records that are bad")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if not 0 < options.share < 1:
        raise Misconfigured(f"--share {options.share}: wanted a share between 0 and 1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs = {kind: open_log(f"sqlite:{folder / kind}.db") for kind in ("good", "mixed")}
        for log in logs.values():
            log.create()
        _fill(logs["good"], logs["mixed"], options.events, options.share, options.seed)
        learners = {kind: Learner(log, folder / f"{kind}-blobs") for kind, log in logs.items()}
        turns = list(learners.values())
        for target in range(chunk_events, options.events + 1, chunk_events):
            for learner in turns:
                learner.take(target)
            turns.reverse()
        rates = {kind: learner.learned / learner.seconds for kind, learner in learners.items()}
        rejected = learners["mixed"].rejected
        for kind, log in logs.items():
            learners[kind].close()
            log.close()
    ratio = rates["mixed"] / rates["good"]
    rows = [[kind, f"{rate:,.0f}"] for kind, rate in rates.items()]
    rows.append(["ratio", f"{ratio:.3f}"])
    report.show(f"{rejected:,} bad records in between", ["log", "good events/s"], rows)
    report.write(
        options.out,
        {**rates, "ratio": ratio, "events": options.events, "rejected": rejected, "share": options.share},
    )


if __name__ == "__main__":
    report.run(main)
