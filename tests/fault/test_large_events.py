"""Events of almost the largest size: what shards and followers hold of them is bounded by bytes, not only by number."""

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consumers.shard import Judges
from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import RECORD_BYTES_MAX, Log, Outgoing, Partition
from headrace.shard.blobs import Blobs
from headrace.shard.follower import Follower
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import EVENTS
from tests.shards import ONLINE, next_item_judge, online

EVENTS_COUNT = 60
"""Number of events, which together have 55 MB, and more when they are decoded."""
held_bytes_max = 48 * 2**20
"""Bytes that a shard may hold beside its state: buffers, a turn, and what is made of one event while it is learned."""
SHARD = ONLINE.shard
make_shop = online(items_max=1_000, shoppers_max=50)


def large(number: int) -> Event:
    """Return a view of a list of many items with long names."""
    lines = [Item(f"i{line % 300}", item_name="n" * 470) for line in range(1_850)]
    return Event(
        id=f"e{number}", source="shop/web", type="view_item_list" if number % 2 else "view_item", specversion="1.0",
        shopper=f"s{number % 9}", time=at(1_750_000_000_000 + number * 1_000), data=Data(items=lines),
    )  # fmt: skip


class SlowDisk:
    """A log whose commits take a while."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def writer(self, *args: Any, **options: Any) -> Any:
        return SlowWriter(self._log.writer(*args, **options))


class SlowWriter:
    """Its writer."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        time.sleep(0.2)
        self._writer.commit(records, positions)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Log]:
    """Yield a log that a fast producer has filled."""
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()
    with closing(log.appender()) as appender:
        for event in map(large, range(EVENTS_COUNT)):
            value = encode(event)
            assert 0.9 * RECORD_BYTES_MAX < len(value) < RECORD_BYTES_MAX - 100
            appender.append(Outgoing(EVENTS, event.shopper.encode(), value))
    yield log
    log.close()


def peak_bytes(body: Callable[[], None]) -> int:
    """Return the most memory that `body` held at once, beside what it still holds."""
    tracemalloc.start()
    try:
        body()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - held


@pytest.mark.full  # tracing each allocation makes it take a minute
def test_what_a_shard_and_a_follower_hold_is_bounded_by_bytes(full: Log, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    judges = Judges({"next_item": next_item_judge(blobs, fixed=1.0)})
    settings = LoopSettings(commit_interval_s=3.0, snapshot_interval_s=1_000)
    with closing(Loop(SlowDisk(full), blobs, SHARD, make=make_shop, settings=settings, judge=judges)) as loop:
        assert peak_bytes(lambda: loop.run(lambda: loop.fold.events == EVENTS_COUNT)) < held_bytes_max
        assert loop.fold.events == EVENTS_COUNT
    with closing(Follower(full, blobs, SHARD, make=make_shop)) as follower:
        assert peak_bytes(follower.catch_up) < held_bytes_max
        assert follower.fold.events == EVENTS_COUNT
