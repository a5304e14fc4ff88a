"""A short campaign and a few failing system calls, as `make chaos` and `make faults` run them, and their proxy."""

import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, Plan
from tests.chaos.processes import server
from tests.chaos.proxy import Proxy
from tests.chaos.syscalls import KILL, Bench, Trial

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc")


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    return server()


@linux
def test_a_round_of_kills_loses_nothing_and_doubles_nothing(context: ForkServerContext, tmp_path: Path) -> None:
    plan = Plan(seed=7, faults=["kill"], events=200, rate=60)
    with closing(Campaign(plan, context, tmp_path)) as campaign:
        campaign.round(0, time.monotonic() + 4)
        figures = campaign.tally.figures()
    assert figures["kills"] > 0
    assert figures["audited"]["events"] >= plan.events


@linux
@pytest.mark.parametrize(
    ("call", "fault", "number"),
    [
        ("fdatasync", "error=EIO", 5),
        ("rename", KILL, 1),
        ("fsync", "error=ENOSPC", 1),
    ],
)
def test_a_call_that_fails(bench: Bench, call: str, fault: str, number: int) -> None:
    outcome = bench.run(Trial("online", call, fault, number))
    assert outcome.injected
    assert (outcome.code is None) == (fault != KILL), "a process survives one call that fails"


@pytest.fixture(scope="module")
def bench(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    if shutil.which("strace") is None:
        pytest.fail("wanted strace, found none: apt-get install strace (.ci/run does)")
    return Bench(context, tmp_path_factory.mktemp("bench") / "bench")


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    """Yield a server that answers what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_echo, args=(connection,), daemon=True).start()

        threading.Thread(target=answer, daemon=True).start()
        yield listener
        listener.shutdown(socket.SHUT_RDWR)


def _echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1_000):
            connection.sendall(data)


def test_the_proxy_breaks_connections_as_it_is_told(echo: socket.socket) -> None:
    with closing(Proxy(echo.getsockname()[1])) as proxy:
        address = ("127.0.0.1", proxy.port)
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            proxy.silent = True
            client.sendall(b"lost")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(10)
            proxy.cut = True
            assert client.recv(10) == b""
        with pytest.raises(ConnectionResetError):
            _receive(address, b"")
        proxy.heal()
        proxy.reset_after = 8
        with pytest.raises(ConnectionResetError):
            _receive(address, b"0123456789")


def _receive(address: tuple[str, int], sent: bytes) -> bytes:
    """Send something and return all that is answered until the connection ends."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(100), b""))
