"""Real brokers behind proxies: one, or three of one cluster."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from headrace.log import broker
from tests.brokers import CLUSTER_PROPERTIES
from tests.chaos.proxy import Proxy

_LISTENERS = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},BETWEEN://127.0.0.1:%d
advertised.listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:{controller_port},BETWEEN://127.0.0.1:%d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,BETWEEN:PLAINTEXT
inter.broker.listener.name=BETWEEN
"""
"""Clients reach a broker by its proxy alone, brokers reach each other directly."""


class Brokers:
    """One broker or a cluster, which a fault may stop, kill, or pause.

    Attributes:
        bootstrap: the addresses of the proxies.
        nodes: the numbers of the brokers, from 1 on.
    """

    def __init__(self, folder: Path, count: int) -> None:
        ports = _free_ports(3 * count)
        self.nodes = range(1, count + 1)
        self._folders = {node: folder / f"broker-{node}" for node in self.nodes}
        self._ports = {node: (ports[3 * node - 3], ports[3 * node - 2]) for node in self.nodes}
        self.proxies = {node: Proxy(self._ports[node][0]) for node in self.nodes}
        voters = ",".join(f"{node}@127.0.0.1:{self._ports[node][1]}" for node in self.nodes)
        self._properties = {
            node: _LISTENERS % (ports[3 * node - 1], self.proxies[node].port, ports[3 * node - 1])
            + (CLUSTER_PROPERTIES.replace("{node}", str(node)).replace("{voters}", voters) if count > 1 else "")
            for node in self.nodes
        }
        self._cluster = broker.cluster_id() if count > 1 else ""
        self.bootstrap = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies.values())

    def __enter__(self) -> Self:
        with ThreadPoolExecutor(len(self.nodes)) as executor:
            list(executor.map(self.start, self.nodes))
        return self

    def __exit__(self, *_: object) -> None:
        for node, folder in self._folders.items():
            if broker.status(folder):
                self.kill(node)
            self.proxies[node].close()

    def start(self, node: int) -> None:
        """Start a broker and wait until it is ready; do nothing if it runs."""
        broker.start(
            self._folders[node], self._properties[node], cluster=self._cluster, ports=self._ports[node],
        )  # fmt: skip

    def stop(self, node: int) -> None:
        """Stop a broker by SIGTERM."""
        broker.stop(self._folders[node])

    def signal(self, node: int, number: signal.Signals) -> None:
        """Send a broker a signal: SIGSTOP pauses it, SIGCONT lets it go on."""
        running = broker.status(self._folders[node])
        if running:
            os.kill(running.pid, number)

    def kill(self, node: int) -> None:
        """Kill a broker."""
        self.signal(node, signal.SIGKILL)
        broker.stop(self._folders[node])  # waits for its end

    def heal(self) -> None:
        """Let all brokers run and all proxies pass everything on."""
        for node in self.nodes:
            self.proxies[node].heal()
            self.signal(node, signal.SIGCONT)
            self.start(node)


def _free_ports(count: int) -> list[int]:
    """Return free ports, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
