"""The shard `online` over one partition of events, judging all, with commits at fixed records: one journal, one digest.

`python -m tests.determined LOG BLOBS` learns what waits in a process of its own, and prints the digests.
"""

import sys
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from consumers.shard import Judges
from headrace.events import at
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.log.scan import topic_records
from headrace.shard import loop, merge
from headrace.shard.blobs import Blobs
from headrace.shard.follower import freeze
from headrace.shard.loop import Loop, LoopSettings
from headrace.state import State, digest
from headrace.topics import EVENTS
from learners.shop import Shop
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from tests.shards import ONLINE, next_item_judge, online

COUNT: Final = 256
TURN_RECORDS: Final = 32
"""Records of each commit. A judgement is learned at its commit, so other commits are another journal and state."""
STEP_MS: Final = 60_000
SHARD: Final = ONLINE.shard
MAKE: Final = online(items_max=128, shoppers_max=100)


def shopping() -> list[Outgoing]:
    """Return a simulated shop's events in their order, a minute apart: the shop's time follows from them alone."""
    log = MemoryLog()
    log.create()
    simulate(log, SimulationSettings(events=COUNT, items=100, shoppers=40, days=10))
    found = []
    for number, record in enumerate(list(topic_records(log, EVENTS))[:COUNT]):
        event = msgspec.json.decode(record.value or b"")
        event["time"] = at(1_750_000_000_000 + number * STEP_MS)
        found.append(Outgoing(EVENTS, record.key, msgspec.json.encode(event), 0))
    return found


def publish(log: Log, records: list[Outgoing]) -> None:
    """Append these records."""
    with closing(log.appender()) as appender:
        for record in records:
            appender.append(record)


def waiting(log: Log, made: Loop[Shop]) -> bool:
    """Return whether the log holds events that are not learned."""
    return any(log.end(place) > made._positions[place] for place in log.partitions(EVENTS))


class Digests(NamedTuple):
    """The digest of the families' state, and that of all: with the intake, which remembers append times."""

    families: str
    whole: str


def digests(state: State) -> Digests:
    """Return the digests of a shard's state."""
    return Digests(digest(state["fold"]), digest(state))


def learn(log: Log, blobs: Blobs, *, steps: int = 0, snapshot_interval_s: float = 0.0) -> Digests:
    """Learn so many steps (0: to the end), and drop the loop; return the digests of what it had learned."""
    settings = LoopSettings(commit_interval_s=1e9, snapshot_interval_s=snapshot_interval_s, idle_wait_s=0.0)
    judge = Judges({"next_item": next_item_judge(blobs, fixed=1.0)})
    with closing(Loop(log, blobs, SHARD, make=MAKE, judge=judge, settings=settings)) as made:
        for _ in range(steps):
            made.step()
        if not steps:
            made.run(lambda: not waiting(log, made))
        return digests(freeze(made.fold, made._intake))


if __name__ == "__main__":
    url, folder = sys.argv[1:]
    loop.turn_records_max = merge.chunk_records_max = TURN_RECORDS
    with closing(open_log(url)) as opened:
        sys.stdout.write(" ".join(learn(opened, Blobs(Path(folder)))))
