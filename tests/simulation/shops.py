"""The shards of a scenario: hashing ones, or the online shard with its real families and a judge."""

from collections.abc import Callable
from typing import Any, NamedTuple

from consumers.shard import Judges
from headrace.artifacts import Artifacts
from headrace.clock import Timer
from headrace.shard.blobs import Blobs
from headrace.shard.follower import MakeFold
from headrace.shard.loop import ShardJudge
from headrace.topics import Shard
from learners.families import default_placements
from learners.family import Judging
from learners.next_item.family import NextItemSettings
from learners.next_item.judge import NextItemJudge
from learners.shop import MakeShop
from tests.simulation.folds import HashingJudge, MakeHashing

SMALL = NextItemSettings(items_max=64, shoppers_max=4)
STILL = Timer(monotonic=lambda: 0.0)


class Kind(NamedTuple):
    """A shard, what makes its fold, and what makes its judge."""

    shard: Shard
    make: MakeFold[Any]
    judge: Callable[[Blobs], ShardJudge]


def hashing(shard: Shard) -> Kind:
    """Return a shard whose fold hashes what it is given."""
    return Kind(shard, MakeHashing(shard), lambda blobs: HashingJudge())


def real() -> Kind:
    """Return the online shard with small tables; its judge judges half of the events, and no model exists."""
    placement = default_placements()["online"]

    def judge(blobs: Blobs) -> ShardJudge:
        judging = Judging(SMALL, Artifacts(blobs, "builtins:bytes", _silent, STILL), lambda: 0.0, _silent, _silent)
        return Judges({"next_item": NextItemJudge(judging, fixed=0.5)})

    return Kind(placement.shard, MakeShop(placement.kinds, {"next_item": SMALL}), judge)


def _silent(*_: Any, **__: Any) -> None:
    """Take a metric or a log line, and drop it."""
