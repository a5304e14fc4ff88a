"""The HTTP server by raw sockets: what it takes, what it refuses, and when it ends a connection.

An application tells how it has read each request, so that a second reading would show.
"""

import asyncio
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, Final, TypeAlias

import h11
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from headrace.connection import Connection, feed_bytes, head_bytes_max
from headrace.connections import Connections
from headrace.direct import Direct, DirectRoute, Waiting, together_max
from headrace.exchange import FunctionExchange, dropped_bytes_max, question_bytes_max
from headrace.http import counted_route, error_handler, listen
from headrace.problem import Problem
from headrace.server import serving
from tests.gateway_process import Answer, answers_of, ends, read_answer

HOST: Final = b"host: x\r\n"
NEXT: Final = b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n"
METHODS: Final = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


class Told:
    """What the server tells of its connections."""

    def __init__(self) -> None:
        self.turned_away = self.refused = 0

    def count_turned_away(self) -> None:
        self.turned_away += 1

    def refuse(self) -> Response:
        self.refused += 1
        return Problem("bad-request", "wanted HTTP/1.1", closes=True).response()

    def count_request(self, route: str, code: int, duration_s: float) -> None:
        """Count an answer of a direct route."""


class Running:
    """A server in a thread."""

    def __init__(self, app: ASGIApp | Direct, **limits: Any) -> None:
        self._app, self._limits = app, {"connections_max": 100, "request_s_max": 10.0, **limits}
        self._listener, self._stop, self._began = listen("127.0.0.1", 0), threading.Event(), threading.Event()
        self.told, self.port = Told(), self._listener.getsockname()[1]
        self.connections: Connections
        self.thread = threading.Thread(target=lambda: uvloop.run(self._serve()), name="server")
        self.thread.start()
        assert self._began.wait(10)

    async def _serve(self) -> None:
        async with serving(self._app, self._listener, self.told, **self._limits) as self.connections:
            self._began.set()
            while not self._stop.is_set():
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), 5)

    def exchange(self, sent: bytes) -> list[Answer]:
        """Send bytes and an end; return the answers until the server ends the connection."""
        with self.connect() as connection:
            with suppress(OSError):
                connection.sendall(sent)
            found = list[Answer]()
            connection.settimeout(1)
            with suppress(OSError):
                found += answers_of(connection)
            return found


@contextmanager
def served(app: ASGIApp | Direct, **limits: Any) -> Iterator[Running]:
    running = Running(app, **limits)
    try:
        yield running
    finally:
        running.stop()


def told(request: Request, body: bytes) -> Response:
    """Answer how a request was read."""
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw]
    found = {
        "method": request.method, "path": request.scope["path"], "query": request.scope["query_string"].decode(),
        "headers": headers, "body": body.decode("latin-1"),
    }  # fmt: skip
    return Response(json.dumps(found), media_type="application/json")


def direct(handler: Callable[[Request, bytes], Response] = told) -> Direct:
    """Return an application of one handler for all paths."""
    observer = Told()
    routes: list[DirectRoute] = [counted_route(observer, "{path}", handler, method=method) for method in METHODS]
    return Direct(routes, error_handler(observer, [("GET", "/"), ("POST", "/")]))


def asgi() -> Starlette:
    async def answer(request: Request) -> Response:
        return told(request, await request.body())

    return Starlette(routes=[Route("/{path:whole}", answer, methods=list(METHODS))])


@pytest.fixture(scope="module", params=["direct", "asgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with served(direct() if request.param == "direct" else asgi()) as running:
        yield running


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1", target: bytes = b"/a") -> bytes:
    return b"".join([b"POST ", target, b" HTTP/", version, b"\r\n", *(line + b"\r\n" for line in lines), b"\r\n", body])


CHUNKED: Final = b"transfer-encoding: chunked"
REFUSED: Final = {
    "bare-lf": b"GET / HTTP/1.1\nhost: x\n\n",
    "bare-lf-in-a-header": b"GET / HTTP/1.1\r\nhost: x\r\na: b\n\r\n",
    "bare-cr-in-a-header": post(b"host: x", b"a: b\rcontent-length: 5"),
    "bare-cr-behind-the-line": b"GET / HTTP/1.1\rhost: x\r\n\r\n",
    "folded": post(b"host: x", b"a: b", b" c"),
    "folded-first": post(b" a: b", b"host: x"),
    "folded-length": post(b"host: x", b"content-length:", b" 5", body=b"abcde"),
    "space-before-colon": post(b"host: x", b"content-length : 5", body=b"abcde"),
    "no-colon": post(b"host: x", b"a"),
    "no-name": post(b"host: x", b": a"),
    "name-in-latin-1": post(b"host: x", b"\xe9: a"),
    "name-with-a-bracket": post(b"host: x", b"a(b): c"),
    "nul": post(b"host: x", b"a: b\0c"),
    "control-character": post(b"host: x", b"a: b\x01c"),
    "delete-character": post(b"host: x", b"a: \x7f"),
    "no-host": post(b"a: b"),
    "two-hosts": post(b"host: x", b"host: x"),
    "two-hosts-in-1.0": post(b"host: x", b"host: y", version=b"1.0"),
    "0.9": b"GET /\r\n\r\n",
    "0.9-by-name": b"GET / HTTP/0.9\r\n\r\n",
    "2.0": b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    "2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "1.2": b"GET / HTTP/1.2\r\nhost: x\r\n\r\n",
    "lower-case-version": b"GET / http/1.1\r\nhost: x\r\n\r\n",
    "space-behind-the-version": b"GET / HTTP/1.1 \r\nhost: x\r\n\r\n",
    "unknown-method": b"FETCH / HTTP/1.1\r\nhost: x\r\n\r\n",
    "lower-case-method": b"get / HTTP/1.1\r\nhost: x\r\n\r\n",
    "long-method": b"G" * 5_000 + b" / HTTP/1.1\r\nhost: x\r\n\r\n",
    "connect": b"CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n",
    "space-in-the-target": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
    "nul-in-the-target": b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
    "latin-1-in-the-target": b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    "tab-in-the-target": b"GET /a\tb HTTP/1.1\r\nhost: x\r\n\r\n",
    "relative-target": b"GET a HTTP/1.1\r\nhost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00",
    "length-and-chunks": post(b"host: x", b"content-length: 5", CHUNKED, body=b"0\r\n\r\n"),
    "chunks-and-length": post(b"host: x", CHUNKED, b"content-length: 5", body=b"0\r\n\r\n"),
    "two-lengths": post(b"host: x", b"content-length: 0", b"content-length: 5"),
    "two-equal-lengths": post(b"host: x", b"content-length: 5", b"content-length: 5", body=b"abcde"),
    "list-of-lengths": post(b"host: x", b"content-length: 5, 5", body=b"abcde"),
    "length-with-a-sign": post(b"host: x", b"content-length: +5", body=b"abcde"),
    "length-below-zero": post(b"host: x", b"content-length: -1"),
    "length-in-hexadecimal": post(b"host: x", b"content-length: 0x5", body=b"abcde"),
    "length-with-a-blank": post(b"host: x", b"content-length: 5 5", body=b"abcde"),
    "empty-length": post(b"host: x", b"content-length:"),
    "length-over-64-bits": post(b"host: x", b"content-length: 99999999999999999999999"),
    "unknown-encoding": post(b"host: x", b"transfer-encoding: xchunked", body=b"0\r\n\r\n"),
    "encoding-before-chunked": post(b"host: x", b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "encoding-behind-chunked": post(b"host: x", b"transfer-encoding: chunked, identity", body=b"0\r\n\r\n"),
    "identity": post(b"host: x", b"transfer-encoding: identity", body=b"0\r\n\r\n"),
    "chunked-twice": post(b"host: x", CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "chunked-with-a-parameter": post(b"host: x", CHUNKED + b";a=b", body=b"0\r\n\r\n"),
    "chunked-behind-a-tabulator": post(b"host: x", b"transfer-encoding:\x0bchunked", body=b"0\r\n\r\n"),
    "empty-encoding": post(b"host: x", b"transfer-encoding:", b"content-length: 2", body=b"ab"),
    "chunks-in-1.0": post(b"host: x", CHUNKED, version=b"1.0", body=b"0\r\n\r\n"),
    "chunk-with-a-bare-lf": post(b"host: x", CHUNKED, body=b"1\na\r\n0\r\n\r\n"),
    "chunk-ended-by-a-bare-lf": post(b"host: x", CHUNKED, body=b"1\r\na\n0\r\n\r\n"),
    "chunk-with-a-blank": post(b"host: x", CHUNKED, body=b"1 \r\na\r\n0\r\n\r\n"),
    "chunk-in-0x": post(b"host: x", CHUNKED, body=b"0x1\r\na\r\n0\r\n\r\n"),
    "chunk-below-zero": post(b"host: x", CHUNKED, body=b"-1\r\na\r\n0\r\n\r\n"),
    "chunk-over-64-bits": post(b"host: x", CHUNKED, body=b"10000000000000001\r\na\r\n0\r\n\r\n"),
    "chunk-longer-than-it-says": post(b"host: x", CHUNKED, body=b"1\r\nab\r\n0\r\n\r\n"),
    "lf-in-a-chunk-extension": post(b"host: x", CHUNKED, body=b"1;a\nb\r\na\r\n0\r\n\r\n"),
    "open-quotes-in-a-chunk-extension": post(b"host: x", CHUNKED, body=b'1;a="b\r\na\r\n0\r\n\r\n'),
    "trailer-with-a-bare-lf": post(b"host: x", CHUNKED, body=b"0\r\na: b\n\r\n"),
    "long-target": b"GET /" + b"a" * 2 * head_bytes_max,
    "long-header": post(b"host: x", b"a: " + b"b" * 2 * head_bytes_max),
    "long-name": post(b"host: x", b"a" * 2 * head_bytes_max),
    "many-headers": post(b"host: x", *[b"a: b"] * head_bytes_max),
    "long-chunk-extension": post(b"host: x", CHUNKED, body=b"1;" + b"a" * 2 * head_bytes_max),
    "long-trailer": post(b"host: x", CHUNKED, body=b"0\r\na: " + b"b" * 2 * head_bytes_max),
    "many-trailers": post(b"host: x", CHUNKED, body=b"0\r\n" + b"a: b\r\n" * head_bytes_max),
    "many-empty-lines": b"\r\n" * head_bytes_max,
    "chunks-of-a-byte": post(b"host: x", CHUNKED, body=b"1\r\na\r\n" * 1_001),
}  # fmt: skip


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
def test_what_may_be_read_in_two_ways_is_refused(server: Running, sent: bytes) -> None:
    refused = server.told.refused
    answers = server.exchange(sent + NEXT)
    assert [(one.status, one.problem) for one in answers] == [(400, "bad-request")]
    assert answers[0].headers["connection"] == "close"
    assert server.told.refused == refused + 1


def read(server: Running, sent: bytes, number: int = 1) -> list[Any]:
    """Return how requests were read, and that the one behind them was read, too."""
    with server.connect() as connection:
        connection.sendall(sent + NEXT)
        answers = list(islice(answers_of(connection), number + 1))
    assert [one.status for one in answers] == [200] * (number + 1)
    found = [json.loads(one.body) for one in answers]
    assert found.pop()["path"].strip("/") == "next"
    return found


ACCEPTED: Final = {
    "empty-lines-before": (b"\r\n\r\n" + post(b"host: x"), ""),
    "header-in-latin-1": (post(b"host: x", b"a: \xff"), ""),
    "empty-header": (post(b"host: x", b"a:"), ""),
    "length-between-blanks": (post(b"host: x", b"content-length:  5 \t", body=b"abcde"), "abcde"),
    "chunk-extension": (post(b"host: x", CHUNKED, body=b"1;a=b\r\na\r\n0\r\n\r\n"), "a"),
    "chunked-in-capitals": (post(b"host: x", b"Transfer-Encoding: Chunked", body=b"1\r\na\r\n0\r\n\r\n"), "a"),
    "upgrade": (post(b"host: x", b"connection: upgrade, http2-settings", b"upgrade: h2c"), ""),
    "upgrade-with-a-body": (
        post(b"host: x", b"connection: upgrade", b"upgrade: h2c", b"content-length: 5", body=b"abcde"),
        "abcde",
    ),
    "upgrade-with-chunks": (
        post(b"host: x", b"connection: upgrade", b"upgrade: websocket", CHUNKED, body=b"1\r\na\r\n0\r\n\r\n"),
        "a",
    ),
    "hidden-request": (post(b"host: x", b"content-length: %d" % len(NEXT), body=NEXT), NEXT.decode()),
    "long-body": (post(b"host: x", b"content-length: 300000", body=b"a" * 300_000), "a" * 300_000),
}


@pytest.mark.parametrize(("sent", "body"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_plain_is_read(server: Running, sent: bytes, body: str) -> None:
    (found,) = read(server, sent)
    assert (found["method"], found["path"].strip("/"), found["body"]) == ("POST", "a", body)


def test_trailers_are_no_headers(server: Running) -> None:
    (found,) = read(server, post(b"host: x", CHUNKED, body=b"1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n"))
    assert "authorization" not in dict(found["headers"])


def test_a_request_may_come_byte_by_byte(server: Running) -> None:
    sent = post(b"host: x", b"a: b", b"connection: upgrade", b"upgrade: h2c", CHUNKED, body=b"2\r\nab\r\n0\r\n\r\n")
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(sent)):
            connection.sendall(sent[place : place + 1])
            time.sleep(0.0002)
        found = json.loads(read_answer(connection).body)
    assert (found["body"], dict(found["headers"])["a"]) == ("ab", "b")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_the_last_request_ends_the_connection(server: Running, version: bytes) -> None:
    answers = server.exchange(post(b"host: x", b"connection: close", version=version) + NEXT + b"\0")
    assert [(one.status, one.headers["connection"]) for one in answers] == [(200, "close")]


def test_a_client_that_asks_may_go_on(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(post(b"host: x", b"expect: 100-Continue", b"content-length: 2"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ab")
        assert json.loads(read_answer(connection).body)["body"] == "ab"


def test_head_is_answered_without_a_body(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1_000), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (head.startswith(b"HTTP/1.1 200 OK\r\ndate: "), body) == (True, b"")
    assert b"content-length: " in head


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    sent = b"".join(
        post(b"host: x", b"content-length: 1", target=b"/a?%d" % number, body=b"a") for number in range(500)
    )
    assert [one["query"] for one in read(server, sent, 500)] == [str(number) for number in range(500)]


def test_what_is_no_http_is_refused_after_the_answers_before(server: Running) -> None:
    answers = server.exchange(NEXT * 3 + b"\0\0")
    assert [one.status for one in answers] == [200, 200, 200, 400]


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        """Nothing more comes by itself."""

    resume_reading = pause_reading


Reading: TypeAlias = tuple[bytes, bytes, bytes] | None
"""The method, target and body of the first request; None if there is no whole one."""


def by_us(sent: bytes) -> Reading:
    """Read the first request as the server does."""
    found: list[tuple[bytes, bytes, bytes]] = []

    def note(request: Request, body: bytes | None, answer: Callable[[Response], None]) -> None:
        query = request.scope["query_string"]
        target = request.scope["raw_path"] + (b"?" + query if query else b"")
        found.append((request.method.encode(), target, body or b""))
        answer(Response())

    async def receive() -> None:
        connection = Connection(Connections(1, Told()), partial(FunctionExchange, note), 10.0, None)
        connection.connection_made(Wire())
        connection.data_received(sent)

    asyncio.run(receive())
    return found[0] if found else None


def by_h11(sent: bytes) -> Reading:
    """Read the first request as h11 does."""
    reader, found, body = h11.Connection(h11.SERVER), None, b""
    reader.receive_data(sent)
    try:
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Request):
                found = event.method, event.target
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                return None
    except h11.RemoteProtocolError:
        return None
    return (*found, body) if found else None


def test_other_readers_read_alike() -> None:
    """Of what is accepted of damaged requests, another implementation makes the same, or refuses it."""
    chance, alike = random.Random(1), 0
    bits = (b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"0", b"1", b";", b",", b"\0", b"content-length: 1\r\n", HOST)
    seeds = [sent for name, (sent, _) in ACCEPTED.items() if not name.startswith("long")]
    for _ in range(1_500):
        sent = chance.choice(seeds)
        for _ in range(chance.randint(1, 2)):
            place = chance.randrange(len(sent))
            sent = sent[:place] + chance.choice(bits) + sent[place + chance.randint(0, 2) :]
        ours, other = by_us(sent), by_h11(sent)
        assert ours is None or other is None or ours == other, sent
        alike += ours is not None and ours == other
    assert alike > 100


def test_other_protocols_are_told_from_http(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert ends(connection)


# Applications


def raising(request: Request, body: bytes) -> Response:
    raise RuntimeError("secret")


async def raise_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret")


async def say_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without an answer."""


async def break_a_line(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"a", b"b\r\nset-cookie: c"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("app", [direct(raising), raise_at_once, say_nothing, break_a_line])
def test_a_failure_is_answered_without_its_text_and_logged(app: ASGIApp | Direct) -> None:
    with capture_logs() as lines, served(app) as running:
        (answer,) = running.exchange(NEXT)
    assert (answer.status, answer.problem, answer.headers["connection"]) == (500, "internal", "close")
    assert b"secret" not in answer.body
    assert [line["event"] for line in lines] == (["request failed"] if app is not say_nothing else [])


async def answer_less(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    await send({"type": "http.response.body", "body": b"half"})


async def stop_halfway(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("secret")


@pytest.mark.parametrize("app", [answer_less, stop_halfway])
def test_half_an_answer_is_not_taken_for_a_whole_one(app: ASGIApp) -> None:
    with served(app) as running, running.connect() as connection:
        connection.sendall(NEXT)
        response = http.client.HTTPResponse(connection)
        response.begin()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()


def lines_of(count: int, made: list[int], length: int = 1) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(count):
            made.append(number)
            yield b"%0*d\n" % (length, number)
            await asyncio.sleep(0)

    return StreamingResponse(lines(), media_type="text/plain")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_direct_route_may_stream(version: bytes) -> None:
    with served(direct(lambda request, body: lines_of(3, []))) as running, running.connect() as connection:
        connection.sendall(post(b"host: x", version=version))
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.read() == b"0\n1\n2\n"
        assert response.getheader("transfer-encoding") == ("chunked" if version == b"1.1" else None)


def test_a_stream_ends_with_its_client_and_waits_for_it() -> None:
    made: list[int] = []
    with served(direct(lambda request, body: lines_of(10**6, made, 10_000))) as running:
        with running.connect() as connection:
            connection.sendall(NEXT)
            connection.recv(1)
            until(lambda: standing(made), "it waits for its client")
        until(lambda: not running.connections.tasks, "it has ended")
        assert len(made) < 10**6


def standing(made: list[int]) -> bool:
    """Return whether nothing was added for a while."""
    before = len(made)
    time.sleep(0.05)
    return len(made) == before


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_body_that_is_too_long_for_a_direct_route_is_refused() -> None:
    with served(direct()) as running:
        longest, longer = (
            post(b"host: x", b"content-length: %d" % size, body=b"a" * size)
            for size in (question_bytes_max, question_bytes_max + 1)
        )
        assert len(read(running, longest)[0]["body"]) == question_bytes_max
        assert [one.problem for one in running.exchange(longer + NEXT)] == ["too-large"]
        announced = post(b"host: x", b"content-length: %d" % 2**40, b"expect: 100-continue")
        assert [one.problem for one in running.exchange(announced)] == ["too-large"]
        with running.connect() as connection:
            connection.sendall(post(b"host: x", b"content-length: %d" % 2**40))
            with suppress(OSError):
                connection.sendall(b"a" * 4 * dropped_bytes_max)
                pytest.fail("it reads on")


def test_an_application_may_answer_before_the_body_has_come() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("no", 401)(scope, receive, send)

    with served(refuse) as running, running.connect() as connection:
        connection.sendall(post(b"host: x", b"content-length: 100000", body=b"a"))
        assert read_answer(connection).status == 401
        connection.sendall(b"a" * 99_999 + NEXT)
        assert read_answer(connection).status == 401, "the rest was dropped"


# Turns


def test_a_burst_of_requests_keeps_no_other_client_waiting() -> None:
    asked: list[str] = []

    def slowly(request: Request, body: bytes) -> Response:
        asked.append(request.scope["path"])
        time.sleep(0.001)
        return Response("done")

    with served(direct(slowly)) as running, running.connect() as burst, running.connect() as other:
        burst.sendall(b"GET /burst HTTP/1.1\r\nhost: x\r\n\r\n" * 1_000)
        until(lambda: bool(asked), "the burst has begun")
        other.sendall(NEXT)
        assert read_answer(other).status == 200
        place = asked.index("/next")
        assert len(list(islice(answers_of(burst), 1_000))) == 1_000
    assert place < 500


def test_requests_of_one_round_are_prepared_together_and_addresses_take_turns() -> None:
    prepared, answered = list[list[str]](), list[str]()

    def handler(request: Request, body: bytes) -> Response:
        answered.append(request.scope["path"])
        return Response(request.scope["path"])

    def question(request: Request, body: bytes) -> str | None:
        path: str = request.scope["path"]
        return None if path.startswith("/refused") else path

    def prepare(questions: Sequence[str]) -> None:
        prepared.append(list(questions))
        if "/fails" in questions:
            raise RuntimeError("a mistake")

    observer = Told()
    route = counted_route(observer, "{path}", handler, question=question, prepare=prepare)
    app = Direct([route], error_handler(observer, [("GET", "/"), ("POST", "/")]))

    async def ask(by: Sequence[tuple[str, str]]) -> None:
        waiting = Waiting(app, asyncio.get_running_loop())
        for address, path in by:
            scope = {"type": "http", "method": "GET", "path": path, "headers": [], "client": (address, 1)}
            waiting(Request(scope), b"", lambda response: None)
        assert not answered, "none before all were read"
        while len(answered) < len(by):
            await asyncio.sleep(0)

    many = [("greedy", f"/{number}") for number in range(3 * together_max)]
    asyncio.run(ask([*many, ("good", "/good"), ("other", "/refused")]))
    first = [path for path in answered[:together_max] if not path.startswith("/refused")]
    assert "/good" in first[:3], "an address that asks for little does not wait for one that asks for much"
    assert prepared[0] == first, "what is refused is not prepared"
    assert sorted(answered) == sorted([*(path for _, path in many), "/good", "/refused"])
    answered.clear()
    with capture_logs() as logs:
        asyncio.run(ask([("a", "/fails"), ("b", "/works")]))
    assert sorted(answered) == ["/fails", "/works"], "answers do not depend on it"
    assert [one["event"] for one in logs] == ["requests could not be prepared"]


def test_few_requests_are_parsed_while_one_waits() -> None:
    answer = threading.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        while not answer.is_set():
            await asyncio.sleep(0.01)
        await Response("done")(scope, receive, send)

    with served(wait) as running, running.connect() as connection:
        count = 3_000
        sender = threading.Thread(target=connection.sendall, args=(NEXT * count,))
        sender.start()
        until(lambda: bool(running.connections.tasks), "the first has begun")
        time.sleep(0.1)
        (one,) = running.connections._open
        assert isinstance(one, Connection)
        assert len(one._exchanges) <= 2 * feed_bytes / len(NEXT)
        assert not one._transport.is_reading()
        answer.set()
        assert len(list(islice(answers_of(connection), count))) == count
        sender.join()


# Time


def test_a_connection_ends_when_its_time_is_over() -> None:
    with served(direct(), request_s_max=0.3) as running:
        slow = (b"", b"GET / HTTP", post(b"host: x", b"content-length: 2", body=b"a"))
        for sent in slow:
            with running.connect() as connection:
                connection.sendall(sent)
                assert ends(connection, 2)
        assert running.told.turned_away == len(slow)
        with running.connect() as connection:
            for _ in range(2):
                connection.sendall(NEXT)
                assert read_answer(connection).status == 200
                time.sleep(0.7)  # idle for longer than a request may take


def test_an_idle_connection_gives_way() -> None:
    with served(direct(), connections_max=2) as running:
        with running.connect() as first, running.connect() as second:
            for connection in (second, first):
                connection.sendall(NEXT)
                assert read_answer(connection).status == 200
            with running.connect() as third:
                third.sendall(NEXT)
                assert read_answer(third).status == 200
            assert ends(second), "it has been idle longest"
            first.sendall(NEXT)
            assert read_answer(first).status == 200
        assert running.told.turned_away == 1


def test_requests_in_progress_are_answered_when_it_stops() -> None:
    begun = threading.Event()

    async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        await Response("done")(scope, receive, send)

    with served(slowly) as running, running.connect() as idle, running.connect() as busy:
        busy.sendall(NEXT)
        assert begun.wait(5)
        running.stop()
        answer = read_answer(busy)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert ends(idle)
