"""Three brokers of which one fails or is restarted: the learned state equals the fold, with each event learned once."""

import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from headrace.topics import EVENTS, JOURNAL
from operators.child import Children
from tests.brokers import Cluster, own_cluster
from tests.running import SMALL, Running

EVENTS_EACH = 300
NODES = (1, 2, 3)

pytestmark = [
    pytest.mark.full,  # three brokers start in 15 s on two idle cores; test_crash restarts a single one
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield three brokers, which a test may kill or stop and must start again."""
    with own_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:10]}-"


@pytest.fixture
def shard(
    cluster: Cluster, prefix: str, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)
    made = Running(f"kafka:{cluster.bootstrap}?prefix={prefix}", tmp_path, children)
    yield made
    made.close()


def leader_of(cluster: Cluster, topic: str, number: int) -> int:
    """Return the broker that leads a partition, once it has one and all replicas are in sync."""
    with closing(KafkaAdminClient(bootstrap_servers=cluster.bootstrap.split(","))) as admin:
        deadline = time.monotonic() + 60.0
        while True:
            (found,) = admin.describe_topics([topic])
            place = next(one for one in found["partitions"] if one["partition_index"] == number)
            if place["leader_id"] > 0 and len(place["isr_nodes"]) == len(NODES):
                return int(place["leader_id"])
            assert time.monotonic() < deadline, f"{topic}/{number} has not got all its replicas: {place}"
            time.sleep(0.1)


@pytest.mark.parametrize("topic", [EVENTS, JOURNAL])
def test_the_leader_is_killed(cluster: Cluster, prefix: str, shard: Running, topic: str) -> None:
    online = shard.online()
    shard.publish(EVENTS_EACH)
    shard.await_entries(3)
    leader = leader_of(cluster, prefix + topic, 0)
    shard.publish(EVENTS_EACH)
    cluster.kill(leader)
    shard.publish(EVENTS_EACH)
    shard.children.wait_until("everything is learned", lambda: online.code is not None or shard.all_covered())
    cluster.start(leader)
    shard.publish(EVENTS_EACH)
    shard.finish(online)


def test_all_are_restarted_one_after_the_other(cluster: Cluster, prefix: str, shard: Running) -> None:
    path = shard.write(2_000)
    producer, online = shard.load(path, "6000x"), shard.online()
    shard.await_entries(3)
    for node in NODES:
        cluster.stop(node)
        cluster.start(node)
        leader_of(cluster, prefix + EVENTS, 0)
        assert producer.code in (None, 0), producer.tail
    assert producer.wait(240) == 0, producer.tail
    shard.finish(online)
