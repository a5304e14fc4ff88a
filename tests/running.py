"""A shard's process in a test, what feeds it, and an audit of what it has committed."""

import random
from pathlib import Path

from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds, committed_records
from headrace.topics import EVENTS, Shard
from learners.shop import MakeShop
from operators.child import Child, Children
from operators.deployment import read_deployment
from tests.coverage import Coverage
from tests.shards import ONLINE

STEP_MS = 60_000
SMALL = {
    "NEXT_ITEM__ITEMS_MAX": "1000",
    "NEXT_ITEM__SHOPPERS_MAX": "1000",
    "SHARDS__ONLINE__COMMIT_INTERVAL_S": "0.001",
    "SHARDS__ONLINE__SNAPSHOT_INTERVAL_S": "0.1",
}
"""Variables with which a shard commits and takes snapshots often, so that failures hit every step."""
SHARD = ONLINE.shard


class Running:
    """A shard's process, by default the online one's, what feeds it, and what it has committed."""

    def __init__(self, url: str, folder: Path, children: Children, shard: Shard = SHARD) -> None:
        self.url, self.folder, self.children, self.shard = url, folder, children, shard
        self.chance = random.Random(3)
        self.published = 0
        self.connect()

    def connect(self) -> None:
        """Open the log for the test itself."""
        self.log: Log = open_log(self.url)
        self.log.create()
        self._appender = self.log.appender()
        self._tail = self.log.reader({self.shard.journal: 0})
        self._coverage = Coverage(self.log)
        self.entries = 0
        self.snapshots: set[str] = set()

    def _event(self) -> Event:
        self.published += 1
        number, shopper, item = self.published, self.chance.randrange(80), self.chance.randrange(60)
        return Event(
            id=f"e{number}", source="shop/web", type="view_item", specversion="1.0", shopper=f"s{shopper}",
            time=at(1_750_000_000_000 + number * STEP_MS), data=Data(items=[Item(f"i{item}")]),
        )  # fmt: skip

    def publish(self, count: int) -> None:
        for event in [self._event() for _ in range(count)]:
            self._appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))
        self._appender.flush()

    def write(self, count: int) -> Path:
        """Write a file of events for `load`."""
        path = self.folder / "events.jsonl"
        path.write_bytes(b"".join(encode(self._event()) + b"\n" for _ in range(count)))
        return path

    def online(self, *options: str, up: bool = True) -> Child:
        return self.learn("online", *options, up=up)

    def learn(self, *command: str, up: bool = True) -> Child:
        common = ["--log", self.url, "--blobs", str(self.folder / "blobs"), "--metrics-port", "0"]
        return self.children.start(self.shard.name, *command, *common, up=up)

    def serve(self) -> Child:
        common = ["--log", self.url, "--blobs", str(self.folder / "blobs"), "--port", "0"]
        return self.children.start("serve", "serve", *common)

    def load(self, path: Path, speed: str) -> Child:
        command = ["load", str(path), "--speed", speed, "--log", self.url, "--metrics-port", "0"]
        return self.children.start("producer", *command)

    def follow(self) -> int:
        """Return the number of entries committed so far."""
        for _, records in self._tail.read(10_000, 0.05):
            for entry in map(journal.decode, records):
                self.entries += 1
                self._coverage.follow(entry)
                if entry.snapshot:
                    self.snapshots.add(entry.snapshot.blob)
        return self.entries

    def await_entries(self, wanted: int) -> None:
        self.children.wait_until(f"there are {wanted} entries", lambda: self.follow() >= wanted)

    def all_covered(self) -> bool:
        return bool(self.follow()) and self._coverage.records == self.published

    def await_covered(self) -> None:
        self.children.wait_until("everything is learned", self.all_covered, 600)

    def await_snapshot(self) -> None:
        """Publish single events until an entry names a snapshot, as a fast shard has learned all the others by then."""

        def named() -> bool:
            if self.follow() and not self.snapshots:
                self.publish(1)
            return bool(self.snapshots)

        self.children.wait_until("an entry names a snapshot", named)

    def check(self) -> None:
        """Everything was published and learned once, and every snapshot is the plain fold."""
        ids = [record.value for place in self.log.partitions(EVENTS) for record in committed_records(self.log, place)]
        assert len(ids) == len(set(ids)) == self.published
        check_covered(self.log, self.shard)
        deployment = read_deployment()
        make = MakeShop(deployment.placement(self.shard.name).kinds, deployment.sections)
        fold = check_folds(self.log, Blobs(self.folder / "blobs"), self.shard, make=make).fold
        assert fold.events == self.published

    def finish(self, online: Child) -> None:
        """Restart the consumer if it was fenced (no other exit is allowed), wait until it has caught up, and check."""
        if online.code is not None:
            assert online.code == 1
            assert "headrace: Fenced: " in online.text or "headrace: CommitExpired: " in online.text
            online = self.online()
        self.await_covered()
        online.check()
        self.check()

    def close(self) -> None:
        self._appender.close()
        self._tail.close()
        self._coverage.close()
        self.log.close()
