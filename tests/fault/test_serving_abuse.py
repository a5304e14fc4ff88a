"""Abuse of the server of answers, class by class: a clear refusal, bounded memory and files, and others are served."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from headrace.connection import head_bytes_max
from headrace.events import Data, Event, Item, at, encode
from headrace.exchange import question_bytes_max
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.server import other_files
from headrace.topics import EVENTS
from operators.child import Child, Children
from tests.gateway_process import HOST, Answer, answers_of, ends, head, read_answer

CONNECTIONS_MAX: Final = 100
REQUEST_S_MAX: Final = 1.0
GROWTH_KIB_MAX: Final = 48 * 1024
"""Most memory that a class of abuse may cost: as many bodies of 1 MiB as arrive at a time in these tests, and more."""
PATH: Final = "/v1/recommendations/s1?n=5"


class Server:
    """A server of a small shop, with few connections."""

    def __init__(self, children: Children, folder: Path) -> None:
        url = f"sqlite:{folder / 'log.db'}"
        with closing(open_log(url)) as log:
            log.create()
            with closing(log.appender()) as appender:
                for number in range(300):
                    time_ms = at(1_750_000_000_000 + 1_000 * number)
                    line = Item(f"i{number % 40}", item_category="hats")
                    event = Event(f"e{number}", "shop", "view_item", time_ms, Data([line]), "1.0", f"s{number % 9}")
                    appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))
        base = ("--log", url, "--blobs", str(folder / "blobs"))
        children.start("online", "online", *base, "--metrics-port", "0")
        self.child: Child = children.start("serve", "serve", *base, "--port", "0")
        self.port = int(self.child.address.rpartition(":")[2])
        children.wait_until("the server answers", lambda: self.ask(head("GET", PATH)).status == 200)

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection((HOST, self.port), 10)

    def ask(self, sent: bytes) -> Answer:
        """Send bytes on a connection of their own, and return the first answer."""
        with self.connect() as connection:
            connection.sendall(sent)
            return read_answer(connection)

    def memory_kib(self) -> int:
        """Return the resident memory of the process."""
        found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{self.child.pid}/status").read_text())
        assert found
        return int(found[1])

    def files(self) -> int:
        """Return how many files it has open."""
        return len(list(Path(f"/proc/{self.child.pid}/fd").iterdir()))


class Good:
    """A client that asks all the time, each time on a new connection, as one that was turned away would."""

    def __init__(self, server: Server) -> None:
        self._server, self._stop = server, threading.Event()
        self.seconds: list[float] = []
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Good":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            began = time.monotonic()
            try:
                status = self._server.ask(head("GET", PATH)).status
                if status != 200:
                    self.faults.append(f"status {status}")
            except OSError as error:
                self.faults.append(str(error))
            self.seconds.append(time.monotonic() - began)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield one server for this file."""
    folder = tmp_path_factory.mktemp("shop")
    environ = {
        "HEADRACE_SERVE__CONNECTIONS_MAX": str(CONNECTIONS_MAX), "HEADRACE_SERVE__REQUEST_S_MAX": str(REQUEST_S_MAX)
    }  # fmt: skip
    with Children(folder, environ, cwd=folder) as children:
        found = Server(children, folder)
        for _ in range(50):  # what it loads and keeps in any case
            found.ask(head("GET", PATH))
        yield found
        found.child.check()


@contextmanager
def abused(server: Server, what: str) -> Iterator[None]:
    """Have a good client ask during the block; it must always be answered, and the server stay within its bounds."""
    before = server.memory_kib()
    with Good(server) as good:
        yield
        time.sleep(0.2)
    grown_kib, times = server.memory_kib() - before, sorted(good.seconds)
    print(
        f"{what}: {len(times)} answers, p99 {1000 * times[int(0.99 * (len(times) - 1))]:.0f} ms, memory"
        f" {grown_kib / 1024:+.1f} MiB, {server.files()} files"
    )
    assert times
    assert not good.faults
    assert grown_kib < GROWTH_KIB_MAX
    assert server.files() <= CONNECTIONS_MAX + other_files


def test_silent_connections_give_way(server: Server) -> None:
    with abused(server, "silent connections"), ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(3 * CONNECTIONS_MAX)]
        time.sleep(0.3)
        assert server.files() <= CONNECTIONS_MAX + other_files
        assert all(ends(connection) for connection in silent), "within the time of a request"


def test_slow_heads_and_bodies_are_cut(server: Server) -> None:
    with abused(server, "slow requests"), ExitStack() as stack:
        heads, bodies = ([stack.enter_context(server.connect()) for _ in range(20)] for _ in range(2))
        for connection in heads:
            connection.sendall(b"GET /v1/popular HTTP/1.1\r\n")
        for connection in bodies:
            connection.sendall(head("POST", "/v1/rerank", content_length="1000"))
        began = time.monotonic()
        while time.monotonic() - began < REQUEST_S_MAX + 0.5:
            for connection in (*heads, *bodies):
                with suppress(OSError):  # it is cut
                    connection.sendall(b"x:1\r\n" if connection in heads else b"[")
            time.sleep(0.1)
        assert all(ends(connection) for connection in (*heads, *bodies))


def test_what_is_too_large_is_refused(server: Server) -> None:
    with abused(server, "large requests"):
        for _ in range(5):
            with suppress(OSError):  # the connection may be reset before the answer is read
                answer = server.ask(head("GET", f"/v1/popular?x={'y' * 2 * head_bytes_max}"))
                assert answer.status == 400
            for body in (b" " * (2 * question_bytes_max), b'{"items": [' + b'"i",' * question_bytes_max):
                with suppress(OSError):
                    assert server.ask(head("POST", "/v1/rerank", body=body)).status == 413
    answer = server.ask(head("POST", "/v1/rerank", body=b" " * (question_bytes_max + 1)))
    assert (answer.status, answer.problem) == (413, "too-large")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/recommendations/s1?n=1001", "/v1/recommendations/s1?n=-1", "/v1/recommendations/s1?n=1e9",
        f"/v1/recommendations/{'s' * 129}", "/v1/popular?page=" + "A" * 8_001, "/v1/popular?price_min=nan",
        "/v1/popular?" + "&".join(f"exclude=i{n}" for n in range(501)), "/v1/popular?placement=a%20b",
        "/v1/popular?availability=maybe", "/v1/similar/", "/v1/popular?x%5b%5d=1",
    ],
)  # fmt: skip
def test_parameters_out_of_bounds_are_refused(server: Server, path: str) -> None:
    answer = server.ask(head("GET", path))
    assert (answer.status, answer.problem) == (400, "bad-query")
    assert len(answer.body) < 1_500


BODIES: Final[dict[str, Any]] = {
    "deep": b"[" * 100_000, "no JSON": b"\xff\xfe", "empty": b"", "a list": [], "many items": {"items": ["i"] * 1_001},
    "no items": {"items": []}, "long ids": {"items": ["i" * 1_000]}, "numbers": {"items": [1]},
    "another field": {"items": ["i1"], "colour": "red"},
    "many events": {"items": ["i1"], "events": [{"type": "view_item", "items": ["i1"]}] * 201},
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_not_meant_are_refused(server: Server, name: str) -> None:
    answer = server.ask(head("POST", "/v1/rerank", body=BODIES[name]))
    assert (answer.status, answer.problem) == (400, "bad-query")
    assert len(answer.body) < 1_500


def test_the_most_that_may_be_asked_is_answered_while_others_are(server: Server) -> None:
    lists = [{"kind": kind, "n": 100} for kind in ("recommended", "trending", "new", "popular")] * 5
    page = head("POST", "/v1/lists", body={"shopper": "s1", "lists": lists})
    most = head("POST", "/v1/rerank", body={"items": [f"i{n}" for n in range(1_000)], "shopper": "s1"})
    with abused(server, "large questions"):
        for sent in (page, most) * 10:
            assert server.ask(sent).status == 200


def test_clients_that_do_not_read_are_cut_and_cost_little(server: Server) -> None:
    bulk = head("POST", "/v1/bulk", body={"shoppers": [f"s{n}" for n in range(10_000)], "n": 40})
    pipelined = head("GET", PATH) * 2_000
    with abused(server, "clients that do not read"), ExitStack() as stack:
        for sent in (bulk, pipelined):
            for _ in range(10):
                connection = stack.enter_context(server.connect())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                connection.settimeout(0.5)
                with suppress(OSError):  # its buffers are full
                    connection.sendall(sent)
        time.sleep(1.0)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with server.connect() as connection:
        for number in range(50):
            connection.sendall(head("GET", f"/v1/recommendations/p{number}?n=1"))
        answers = zip(range(50), answers_of(connection), strict=False)
        found = [json.loads(answer.body)["shopper"] for _, answer in answers]
    assert found == [f"p{number}" for number in range(50)]
