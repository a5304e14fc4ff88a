"""Whatever ends or hinders a process, what it learns stays the plain fold of the journal, nothing lost or twice."""

import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import rmtree

import httpx
import pytest
from kafka import KafkaConsumer, TopicPartition

from consumers.online import MakeShop
from headrace import broker, journal
from headrace.blobs import Blobs
from headrace.checks import check_covered, check_folds, records_of
from headrace.config import settings as read_settings
from headrace.events import Data, Event, Item, at, encode
from headrace.kafka_client import common_options
from headrace.kafka_log import deadline_s_default
from headrace.kafka_security import security
from headrace.kafka_writer import transaction_timeout_ms
from headrace.log import Log, Outgoing, open_log
from headrace.topics import EVENTS, MODELS, partitions_of
from operators.child import Child, Children
from tests.brokers import own_broker

STEP_MS = 60_000
LOADED, SLOW, QUICK = 2_000, "600x", "12000x"
"""Events of the file, and the speeds at which 10 and 200 of them go out in a second."""
SMALL = {
    "ONLINE__ITEMS_MAX": "1000",
    "ONLINE__SHOPPERS_MAX": "1000",
    "ONLINE__COMMIT_INTERVAL_S": "0.001",
    "ONLINE__SNAPSHOT_INTERVAL_S": "0.1",
}
PLACES = partitions_of(EVENTS)


class Shard:
    """The online consumer, what feeds it, and what it has committed."""

    def __init__(self, url: str, folder: Path, children: Children) -> None:
        self.url, self.folder, self.children = url, folder, children
        self.chance = random.Random(3)
        self.published = 0
        self.connect()

    def connect(self) -> None:
        """Open the log for the test's own look at it."""
        self.log: Log = open_log(self.url)
        self.log.create()
        self._appender = self.log.appender()
        self._tail = self.log.reader({journal.partition_of("online"): 0})
        self.entries = self.covered = 0
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
        """Write events that `load` is to publish."""
        path = self.folder / "events.jsonl"
        path.write_bytes(b"".join(encode(self._event()) + b"\n" for _ in range(count)))
        return path

    def online(self, *options: str, up: bool = True) -> Child:
        common = ["--log", self.url, "--blobs", str(self.folder / "blobs"), "--metrics-port", "0", *options]
        return self.children.start("online", "online", *common, up=up)

    def serve(self) -> Child:
        common = ["--log", self.url, "--blobs", str(self.folder / "blobs"), "--port", "0"]
        return self.children.start("serve", "serve", *common)

    def load(self, path: Path, speed: str) -> Child:
        command = ["load", str(path), "--speed", speed, "--log", self.url, "--metrics-port", "0"]
        return self.children.start("producer", *command)

    def follow(self) -> int:
        """Return how many entries were committed so far."""
        for _, records in self._tail.read(10_000, 0.05):
            for entry in map(journal.decode, records):
                self.entries += 1
                self.covered += sum(run.end - run.start for run in entry.runs if run.topic == EVENTS)
                if entry.snapshot:
                    self.snapshots.add(entry.snapshot.blob)
        return self.entries

    def await_entries(self, wanted: int) -> None:
        self.children.await_that(f"there are {wanted} entries", lambda: self.follow() >= wanted)

    def all_covered(self) -> bool:
        return bool(self.follow()) and self.covered == self.published

    def await_covered(self) -> None:
        self.children.await_that("all is learned", self.all_covered, 600)

    def await_snapshot(self) -> None:
        """Publish, an event at a time, until an entry names a snapshot: a quick shard has learned all by then."""

        def named() -> bool:
            if self.follow() and not self.snapshots:
                self.publish(1)
            return bool(self.snapshots)

        self.children.await_that("an entry names a snapshot", named)

    def check(self) -> None:
        """Everything was published and learned once, and every snapshot is the plain fold."""
        ids = [record.value for place in PLACES for record in records_of(self.log, place)]
        assert len(ids) == len(set(ids)) == self.published
        check_covered(self.log, "online", PLACES)
        fold = check_folds(
            self.log, Blobs(self.folder / "blobs"), "online",
            make=MakeShop(read_settings().online), inputs=[*PLACES, *partitions_of(MODELS)],
        ).fold  # fmt: skip
        assert fold.events == self.published

    def finish(self, online: Child) -> None:
        """Let a consumer that may have been fenced, and then only, begin again, and check all once it has caught up."""
        if online.code is not None:
            assert online.code == 1
            assert "headrace: Fenced: " in online.text
            online = self.online()
        self.await_covered()
        online.check()
        self.check()

    def close(self) -> None:
        self._appender.close()
        self._tail.close()
        self.log.close()


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes commit and freeze often, so that a crash hits every step of it, and read no settings of others."""
    for name, value in SMALL.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shard(log_url: str, tmp_path: Path, children: Children) -> Iterator[Shard]:
    made = Shard(log_url, tmp_path, children)
    yield made
    made.close()


@pytest.fixture
def broker_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a broker that a test may stop and start."""
    folder = tmp_path_factory.mktemp("broker")
    with own_broker(folder):
        yield folder


@pytest.mark.timeout(1200)
def test_killed_at_random_moments(shard: Shard) -> None:
    chance = random.Random(11)
    for _ in range(4):
        shard.publish(900)
        entries = shard.follow()
        online = shard.online(up=False)
        shard.await_entries(entries + 1 + chance.randrange(10))
        online.kill()
    online = shard.online()
    shard.await_covered()
    assert len(shard.snapshots) > 3
    online.check()
    shard.check()


def test_the_newer_of_two_fences_the_older(shard: Shard) -> None:
    shard.publish(300)
    older = shard.online()
    shard.await_entries(3)
    newer = shard.online()

    def fenced() -> bool:
        if shard.all_covered():  # who has nothing to commit does not learn that another has taken over
            shard.publish(30)
        return older.code is not None

    shard.children.await_that("the older is fenced", fenced)
    assert older.code == 1
    assert "headrace: Fenced: " in older.text
    shard.await_covered()
    newer.check()
    shard.check()


def stop_in_a_transaction(shard: Shard, online: Child) -> None:
    """Stop it while records that it has written are not yet committed."""
    servers, _, prefix = shard.url.removeprefix("kafka:").partition("?prefix=")
    journal_0, secured = TopicPartition(f"{prefix}journal", 0), security()
    options = common_options(servers.split(","), secured, secured.tls(), deadline_s_default)
    with closing(KafkaConsumer(**options, isolation_level="read_uncommitted")) as all_records:
        for _ in range(300):
            if shard.follow() and shard.covered == shard.published:
                shard.publish(300)
            time.sleep(shard.chance.uniform(0, 0.1))
            os.kill(online.pid, signal.SIGSTOP)
            time.sleep(0.05)  # what is on its way arrives
            if all_records.end_offsets([journal_0])[journal_0] > shard.log.end(journal.partition_of("online")):
                return
            os.kill(online.pid, signal.SIGCONT)
    raise AssertionError("it was never in a transaction")


@pytest.mark.parametrize("log_url", ["kafka"], indirect=True)
def test_one_that_stood_still_past_its_transaction_does_no_harm(shard: Shard) -> None:
    """The broker aborts the open transaction and raises the epoch: who wakes up is fenced.

    It goes on if its word to commit was on its way when it stopped: then nothing was open.
    """
    shard.publish(900)
    online = shard.online()
    shard.await_entries(3)
    stop_in_a_transaction(shard, online)
    shard.publish(300)
    # The broker looks for transactions that have run out every 10 s.
    time.sleep(transaction_timeout_ms / 1_000 + 12)
    entries = shard.follow()
    os.kill(online.pid, signal.SIGCONT)
    shard.children.await_that("it died or went on", lambda: online.code is not None or shard.follow() > entries)
    shard.finish(online)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux: the limit of a running process' files")
def test_a_full_disk_is_waited_for(shard: Shard) -> None:
    shard.publish(300)
    online = shard.online()
    shard.await_entries(3)
    _, hard = limits = resource.prlimit(online.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(online.pid, resource.RLIMIT_FSIZE, (20_000, hard))  # its log file stays below, nothing else does
    shard.publish(300)
    shard.children.await_that("it says that it tries again", lambda: '"event": "retrying"' in online.text)
    resource.prlimit(online.pid, resource.RLIMIT_FSIZE, limits)
    shard.await_covered()
    online.check()
    shard.check()
    assert not list((shard.folder / "blobs").glob("*.part")), "what could not be written was left behind"


@pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)
def test_a_damaged_snapshot_stops_with_a_clear_word(shard: Shard) -> None:
    shard.publish(600)
    online = shard.online()
    shard.await_snapshot()
    shard.await_covered()
    online.kill()
    entry = journal.newest(shard.log, "online")
    assert entry is not None
    assert entry.snapshot is not None
    path = shard.folder / "blobs" / entry.snapshot.blob
    good = path.read_bytes()

    path.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    online = shard.online(up=False)
    assert online.wait(240) == 1
    assert f"headrace: BlobCorrupt: blob {path.name}" in online.text
    path.unlink()
    online = shard.online(up=False)
    assert online.wait(240) == 1
    assert f"headrace: BlobMissing: blob {path.name}" in online.text
    assert "Traceback" not in online.text

    path.write_bytes(good)
    shard.online()
    shard.check()


def test_a_lost_folder_of_blobs_is_made_anew_from_the_journal(shard: Shard) -> None:
    shard.publish(600)
    online = shard.online()
    shard.await_snapshot()
    shard.await_covered()
    online.kill()
    rmtree(shard.folder / "blobs")
    online = shard.online(up=False)
    assert online.wait(240) == 1
    assert "headrace: BlobMissing: " in online.text
    assert "see --refold" in online.text

    entries = shard.follow()
    refold = shard.online("--refold", up=False)
    assert refold.wait(240) == 0, refold.text
    assert f"online: entries folded: {entries:,} of {entries:,}" in refold.text
    assert f"online: {entries:,} journal entries folded, snapshot online-" in refold.text
    assert shard.follow() == entries + 1
    shard.publish(300)
    online = shard.online()
    shard.await_covered()
    online.check()
    shard.check()


@pytest.mark.timeout(600)
def test_a_short_outage_needs_nobody(broker_folder: Path, tmp_path: Path, children: Children) -> None:
    """The broker is away for ten seconds: the same process goes on, by the client's retries or by ours.

    On a busy machine the broker is away for longer than a commit may stay open. Then Kafka fences the process, which
    says so and leaves the rest to its supervisor.
    """
    running = broker.status(broker_folder)
    assert running is not None
    shard = Shard(f"kafka:{running.bootstrap}", tmp_path, children)
    shard.publish(900)
    online = shard.online()
    shard.await_entries(3)
    shard.publish(900)  # so that it goes in mid-stream
    shard.close()  # the test itself does not look while nothing answers
    broker.stop(broker_folder)
    time.sleep(10)
    assert online.code is None, online.tail
    broker.start(broker_folder)
    shard.connect()
    shard.publish(300)
    children.await_that("all is learned", lambda: online.code is not None or shard.all_covered(), 300)
    shard.finish(online)
    shard.close()


@pytest.mark.timeout(1200)
def test_the_broker_goes_and_comes_back(
    broker_folder: Path, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may still try again goes on; who may not dies with exit code 1 and goes on when started again."""
    running = broker.status(broker_folder)
    assert running is not None
    shard = Shard(f"kafka:{running.bootstrap}", tmp_path, children)
    path = shard.write(LOADED)
    serve = shard.serve()
    monkeypatch.setenv("HEADRACE_ONLINE__RETRY_S", "1")
    online = shard.online()
    producer = shard.load(path, SLOW)  # it would take minutes: the broker goes in mid-stream, however slow this machine
    shard.await_entries(5)
    assert producer.code is None, "the broker was to go in mid-stream"
    shard.close()  # the test itself does not look while nothing answers
    broker.stop(broker_folder)
    assert online.wait(400) == 1
    assert "headrace: LogUnavailable: " in online.text
    assert producer.wait(300) == 1
    assert httpx.get(f"{serve.address}/v1/recommendations/somebody", timeout=60).json()["items"], "old answers go on"
    broker.start(broker_folder)
    shard.connect()
    producer, online = shard.load(path, QUICK), shard.online()
    assert producer.wait(240) == 0, producer.tail
    assert "were in the log already" in producer.text
    shard.await_covered()
    address = f"{serve.address}/v1/recommendations/somebody"
    children.await_that(
        "the server has caught up",
        lambda: httpx.get(address, timeout=60).json()["fresh"]["entry"] == shard.follow(),
    )
    serve.check()
    shard.check()
    shard.close()
