"""Crashes and outages: the learned state still equals the fold of the journal, with each event learned once."""

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

from headrace.log import broker
from headrace.log.kafka.client import common_options
from headrace.log.kafka.log import deadline_s_default
from headrace.log.kafka.security import read_security
from headrace.log.protocol import TRANSACTION_TIMEOUT_S
from headrace.shard import journal
from operators.child import Child, Children
from operators.deployment import read_deployment
from tests.brokers import own_broker
from tests.running import SHARD, SMALL, Running

LOADED, SLOW, QUICK = 2_000, "600x", "12000x"
"""Number of events in the file, and the speeds at which 10 and 200 of them are published per second."""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit and snapshot often, so that crashes hit every step; change to a folder without settings."""
    for name, value in SMALL.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shard(log_url: str, tmp_path: Path, children: Children) -> Iterator[Running]:
    made = Running(log_url, tmp_path, children)
    yield made
    made.close()


@pytest.fixture
def broker_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of a broker that a test may stop and start."""
    folder = tmp_path_factory.mktemp("broker")
    with own_broker(folder):
        yield folder


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("log_url", ["kafka"], indirect=True)  # on SQLite: test_chaos
def test_killed_at_random_moments(shard: Running) -> None:
    chance = random.Random(11)
    for _ in range(2):
        shard.publish(900)
        entries = shard.follow()
        online = shard.online(up=False)
        shard.await_entries(entries + 1 + chance.randrange(10))
        online.kill()
    online = shard.online()
    shard.await_covered()
    assert len(shard.snapshots) > 1
    online.check()
    shard.check()


@pytest.mark.full  # the chaos tests kill all processes of a shop
@pytest.mark.timeout(600)
def test_two_shards_of_one_log_are_killed_and_go_on(shard: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family of purchases lives in a third shard, apart from the online one."""
    quick = {"COMMIT_INTERVAL_S": "0.001", "SNAPSHOT_INTERVAL_S": "0.1"}
    for name, value in {"PARTITION": "2", "FAMILIES": '["purchase"]', **quick}.items():
        monkeypatch.setenv(f"HEADRACE_SHARDS__THIRD__{name}", value)
    third = Running(shard.url, shard.folder, shard.children, read_deployment().placement("third").shard)
    with closing(third):
        for order in ((third, shard), (shard, third)):
            shard.publish(900)
            third.published = shard.published
            wanted = {one: one.follow() + 3 for one in order}
            processes = {shard: shard.online(up=False), third: third.learn("learn", "purchase", up=False)}
            for one in order:
                one.await_entries(wanted[one])
                processes[one].kill()
        processes = {shard: shard.online(), third: third.learn("learn", "purchase")}
        for one, process in processes.items():
            one.await_covered()
            process.check()
            one.check()
        assert read_deployment().placement("third").shard.journal.number == 2
        assert "purchase" not in {kind.name for kind in read_deployment().placement("online").own_kinds}


def test_the_newer_of_two_fences_the_older(shard: Running) -> None:
    """A broker may answer the older one's commit with an unknown error; it begins anew then, and so is the newer."""
    shard.publish(300)
    older = shard.online()
    shard.await_entries(3)
    newer = shard.online()

    def fenced() -> bool:
        if shard.all_covered():  # a consumer notices that it was fenced only when it commits
            shard.publish(30)
        return older.code is not None or newer.code is not None

    shard.children.wait_until("one of them is fenced", fenced)
    ended, other = (older, newer) if older.code is not None else (newer, older)
    assert ended is older or '"event": "retrying"' in older.text
    assert ended.code == 1, ended.tail
    assert "headrace: Fenced: " in ended.text
    shard.await_covered()
    assert other.code is None, other.tail
    shard.check()


def stop_in_a_transaction(shard: Running, online: Child) -> None:
    """Stop it while records that it has written are not yet committed."""
    servers, _, prefix = shard.url.removeprefix("kafka:").partition("?prefix=")
    journal_0, secured = TopicPartition(f"{prefix}journal", 0), read_security()
    options = common_options(servers.split(","), secured, secured.tls(), deadline_s_default)
    with closing(KafkaConsumer(**options, isolation_level="read_uncommitted")) as all_records:
        for _ in range(300):
            if shard.all_covered():
                shard.publish(300)
            time.sleep(shard.chance.uniform(0, 0.1))
            os.kill(online.pid, signal.SIGSTOP)
            time.sleep(0.05)  # what is on its way arrives
            if all_records.end_offsets([journal_0])[journal_0] > shard.log.end(SHARD.journal):
                return
            os.kill(online.pid, signal.SIGCONT)
    raise AssertionError("the process was never stopped in a transaction")


@pytest.mark.full  # it waits for transactions to expire; the simulation has this, too
@pytest.mark.parametrize("log_url", ["kafka"], indirect=True)
def test_one_that_stood_still_past_its_transaction_does_no_harm(shard: Running) -> None:
    """The broker aborts the open transaction and raises the epoch: who wakes up is fenced.

    It is not fenced if its commit request was already sent when it stopped: then no transaction was open.
    """
    shard.publish(900)
    online = shard.online()
    shard.await_entries(3)
    stop_in_a_transaction(shard, online)
    shard.publish(300)
    # The broker checks for expired transactions every 10 s.
    time.sleep(TRANSACTION_TIMEOUT_S + 12)
    os.kill(online.pid, signal.SIGCONT)
    shard.children.wait_until(
        "the process ended or has learned all", lambda: online.code is not None or shard.all_covered()
    )
    shard.finish(online)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux: the limit of a running process' files")
@pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)
def test_a_full_disk_of_the_log_is_waited_for(shard: Running) -> None:
    shard.publish(300)
    online = shard.online()
    shard.await_entries(3)
    _, hard = limits = resource.prlimit(online.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(online.pid, resource.RLIMIT_FSIZE, (20_000, hard))
    shard.publish(300)
    shard.children.wait_until("it logs that it retries", lambda: '"event": "retrying"' in online.text)
    resource.prlimit(online.pid, resource.RLIMIT_FSIZE, limits)
    shard.await_covered()
    online.check()
    shard.check()
    assert not list((shard.folder / "blobs").glob("*.part")), "an unfinished file was left behind"


@pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)  # the blobs are the same, whatever the log
def test_learning_goes_on_while_the_disk_of_the_blobs_is_away(shard: Running) -> None:
    shard.publish(300)
    online = shard.online()
    shard.await_snapshot()
    blobs = shard.folder / "blobs"
    blobs.rename(shard.folder / "away")
    shard.publish(300)
    shard.await_covered()
    while '"event": "snapshot failed"' not in online.text:
        shard.publish(1)
        shard.await_covered()
    named = len(shard.snapshots)
    (shard.folder / "away").rename(blobs)
    while len(shard.snapshots) == named:
        shard.publish(1)
        shard.await_covered()
    online.check()
    shard.check()


@pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)
def test_damaged_snapshots_are_passed_over_and_if_all_are_it_stops_with_a_clear_word(shard: Running) -> None:
    shard.publish(600)
    online = shard.online()
    shard.await_snapshot()
    while len(shard.snapshots) < 2:
        shard.publish(1)
        shard.children.wait_until("it is learned", shard.all_covered)
    online.kill()
    entry = journal.newest(shard.log, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    path = shard.folder / "blobs" / entry.snapshot.blob
    good = path.read_bytes()

    path.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    shard.publish(300)
    online = shard.online()
    shard.await_covered()
    assert '"event": "snapshot is damaged, going back to the one before"' in online.text
    online.kill()
    path.write_bytes(good)
    shard.check()

    for blob in (shard.folder / "blobs").glob("online-*"):
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    online = shard.online(up=False)
    assert online.wait(240) == 1
    assert "headrace: BlobCorrupt: blob online-" in online.text
    assert "Traceback" not in online.text


@pytest.mark.full  # test_loop refolds without processes
def test_a_lost_folder_of_blobs_is_made_anew_from_the_journal(shard: Running) -> None:
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
def test_a_short_outage_needs_no_intervention(broker_folder: Path, tmp_path: Path, children: Children) -> None:
    """The broker is stopped for seconds: the same process continues, by the client's retries or by Headrace's.

    On a busy machine the outage may be longer than a transaction may stay open. Then Kafka fences the process, which
    exits with that message, so that its supervisor restarts it.
    """
    running = broker.status(broker_folder)
    assert running is not None
    shard = Running(f"kafka:{running.bootstrap}", tmp_path, children)
    shard.publish(900)
    online = shard.online()
    shard.await_entries(3)
    shard.publish(900)  # so that the broker stops while the consumer learns
    shard.close()  # the test does not use the log while the broker is stopped
    broker.stop(broker_folder)
    time.sleep(4)
    assert online.code is None, online.tail
    broker.start(broker_folder)
    shard.connect()
    shard.publish(300)
    children.wait_until("everything is learned", lambda: online.code is not None or shard.all_covered(), 300)
    shard.finish(online)
    shard.close()


@pytest.mark.full  # it waits for deadlines of a minute; a short outage is always tested
@pytest.mark.timeout(1200)
def test_processes_exit_or_continue_over_a_long_outage(
    broker_folder: Path, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with time left to retry continues; the others exit with code 1 and resume when restarted."""
    running = broker.status(broker_folder)
    assert running is not None
    shard = Running(f"kafka:{running.bootstrap}", tmp_path, children)
    path = shard.write(LOADED)
    serve = shard.serve()
    monkeypatch.setenv("HEADRACE_SHARDS__ONLINE__RETRY_S", "1")
    monkeypatch.setenv("HEADRACE_PRODUCER__RETRY_S", "1")
    online = shard.online()
    producer = shard.load(path, SLOW)  # takes minutes, so that the broker stops before it ends, even on a slow machine
    shard.await_entries(5)
    address = f"{serve.address}/v1/recommendations/somebody"
    children.wait_until("the server has items", lambda: bool(httpx.get(address, timeout=60).json()["items"]))
    assert producer.code is None, "the broker should stop while the producer publishes"
    shard.close()  # the test does not use the log while the broker is stopped
    broker.stop(broker_folder)
    assert online.wait(400) == 1
    assert "headrace: LogUnavailable: " in online.text
    assert producer.wait(300) == 1
    assert httpx.get(address, timeout=60).json()["items"], "the server still answers"
    broker.start(broker_folder)
    shard.connect()
    producer, online = shard.load(path, QUICK), shard.online()
    assert producer.wait(240) == 0, producer.tail
    assert "were in the log already" in producer.text
    shard.await_covered()
    children.wait_until(
        "the server has caught up",
        lambda: httpx.get(address, timeout=60).json()["fresh"]["entry"] == shard.follow(),
    )
    serve.check()
    shard.check()
    shard.close()
