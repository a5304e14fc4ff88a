"""A shop whose log is a file, which real loops have learned."""

import math
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from consumers.shard import Judges
from headrace.clock import wall_ms
from headrace.events import Data, Event, Item, at, encode
from headrace.log.protocol import Log, Outgoing
from headrace.log.sqlite import SqliteLog
from headrace.log.sqlite_time import Uptime
from headrace.shard import verify
from headrace.shard.blobs import Blobs
from headrace.shard.follower import MakeFold
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.verify import Verified
from headrace.topics import EVENTS, Shard
from learners.shop import Shop
from tests.shards import ONLINE, next_item_judge, online

SHARD: Final = ONLINE.shard
COUNT: Final = 300
MAKE: Final = online(items_max=64, shoppers_max=50)
QUICK: Final = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=0.0, idle_wait_s=0.0)


def publish(log: Log, count: int, first: int = 0) -> None:
    chance = random.Random(first)
    with closing(log.appender()) as appender:
        for number in range(first, first + count):
            event = Event(
                id=f"e{number}", source="shop/web", type="view_item", specversion="1.0",
                shopper=f"s{chance.randrange(20)}", time=at(1_750_000_000_000 + number * 1_000),
                data=Data(items=[Item(f"i{chance.randrange(30)}")]),
            )  # fmt: skip
            appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))


class FiledShop:
    """A log in a file, and its blobs. `later_ms` is how far its clock is ahead."""

    def __init__(self, folder: Path, later_ms: int = 0) -> None:
        self.path, self.blobs, self.later_ms = folder / "log.db", Blobs(folder / "blobs"), later_ms
        self.log = SqliteLog(str(self.path), clock=self.now_ms, uptime=lambda: Uptime("", 0))
        self.log.create()

    def now_ms(self) -> int:
        return wall_ms() + self.later_ms

    def loop(self, shard: Shard = SHARD, make: MakeFold[Shop] = MAKE) -> Loop[Shop]:
        judge = Judges({"next_item": next_item_judge(self.blobs, fixed=1.0)}) if shard == SHARD else None
        loop = Loop(self.log, self.blobs, shard, make=make, settings=QUICK, judge=judge, clock=self.now_ms)
        loop._snapshots.cost_share_max = math.inf  # as many as there are steps, also on a slow machine
        return loop

    def learn(self, count: int = COUNT, first: int = 0, every_ms: int = 0) -> None:
        """Publish and learn some events, 50 at a time, with a time between."""
        with closing(self.loop()) as loop:
            for start in range(first, first + count, 50):
                publish(self.log, 50, start)
                step(loop, start + 50)
                self.later_ms += every_ms

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            assert db.execute(statement).rowcount > 0

    def verified(self, shard: Shard = SHARD) -> Verified:
        return verify.verify(self.log, self.blobs, shard)


def step(loop: Loop[Any], events: int) -> None:
    """Learn until a number of events is learned, and until the snapshot that is being taken is stored."""
    while loop.fold.events < events:
        loop.step()
    loop._snapshots._executor.submit(lambda: None).result()
