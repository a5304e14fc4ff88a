"""Abuse of the gateway, class by class: a clear refusal, bounded memory and files, and good clients are served."""

import gzip
import json
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

import pytest

from headrace.keys import look_every_s, revoke
from headrace.server import other_files
from tests.gateway_process import (
    BODY_BYTES_MAX,
    BODY_S_MAX,
    CONNECTIONS_MAX,
    HOST,
    Answer,
    GatewayProcess,
    Good,
    answers_of,
    ends,
    head,
    read_answer,
    running,
    view,
)

GROWTH_KIB_MAX: Final = 64 * 1024
"""Most memory that a class of abuse may cost. A body is 256 KiB at most, and 16 requests are in progress."""
FILES_MAX: Final = CONNECTIONS_MAX + other_files


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Yield one gateway for this file."""
    with running(tmp_path_factory.mktemp("gateway")) as found:
        for number in range(50):  # what it loads and keeps in any case
            assert found.ask("POST", "/v1/events", view(f"warm-{number}")).status == 200
        yield found
        found.child.check()


@pytest.fixture(scope="module")
def quiet_ms(gateway: GatewayProcess) -> float:
    """Return a good client's p99 without abuse."""
    with Good(gateway) as good:
        time.sleep(0.5)
    return good.p99_ms()


@contextmanager
def abused(gateway: GatewayProcess, quiet_ms: float, what: str) -> Iterator[Good]:
    """Check, around a class of abuse, what it costs, and that a good client is served during and after it."""
    memory_kib = gateway.memory_kib()
    with Good(gateway) as good:
        good.wait_for(5)
        yield good
        good.wait_for(len(good.ids) + 5)
    grown_kib = gateway.memory_kib() - memory_kib
    print(
        f"{what}: p99 {good.p99_ms():.1f} ms (quiet: {quiet_ms:.1f} ms), longest {1000 * max(good.seconds):.0f} ms,"
        f" {good.again} attempts again, {len(good.ids)} events; memory {grown_kib / 1024:+.1f} MiB,"
        f" {gateway.files()} files"
    )
    assert not good.fault
    assert grown_kib < GROWTH_KIB_MAX
    assert gateway.files() <= FILES_MAX
    assert gateway.child.code is None


def idle_files(gateway: GatewayProcess, most: int, within_s: float = 10.0) -> bool:
    """Return whether the gateway soon has at most so many open files."""
    deadline = time.monotonic() + within_s
    while gateway.files() > most:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_slow_clients_are_cut(gateway: GatewayProcess, quiet_ms: float) -> None:
    key, files = gateway.texts["ingest"], gateway.files()
    with abused(gateway, quiet_ms, "slow clients"), ExitStack() as stack:
        silent, heads, bodies = ([stack.enter_context(gateway.connect()) for _ in range(20)] for _ in range(3))
        began = time.monotonic()
        for connection in heads:
            connection.sendall(b"POST /v1/events HTTP/1.1\r\n")
        for connection in bodies:
            connection.sendall(head("POST", "/v1/events", key, content_length="1000"))
        statuses = list[int]()
        while time.monotonic() - began < BODY_S_MAX + 0.3:
            for connection in (*heads, *bodies):
                with suppress(OSError):  # it is cut
                    connection.sendall(b"x:1\r\n" if connection in heads else b"[")
            time.sleep(0.1)
        for connection in bodies:
            with suppress(ConnectionError):
                statuses.append(read_answer(connection).status)
        assert {*statuses} <= {408, 429}
        assert 408 in statuses
        assert all(ends(connection) for connection in (*silent, *heads, *bodies))
        assert time.monotonic() - began < 3 * BODY_S_MAX + 2
    assert idle_files(gateway, files)


def send_for_ever(connection: socket.socket, piece: bytes, most: int) -> tuple[int, Answer | None]:
    """Send pieces until the server ends the connection or `most` bytes are sent; return how many, and the answer."""
    sent = 0
    with suppress(OSError):
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    with suppress(OSError):
        return sent, read_answer(connection)
    return sent, None


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_1_gb_is_refused_early(gateway: GatewayProcess, quiet_ms: float, chunked: bool) -> None:
    key, block = gateway.texts["ingest"], b" " * 65_536
    piece = b"10000\r\n" + block + b"\r\n" if chunked else block
    length = {"transfer_encoding": "chunked"} if chunked else {"content_length": str(2**30)}
    request, keyless = (head("POST", "/v1/events", text, **length) for text in (key, ""))
    if chunked:
        request, keyless = (one.replace(b"content-length: 0\r\n", b"") for one in (request, keyless))
    answers = list[Answer | None]()
    with abused(gateway, quiet_ms, f"bodies of 1 GB, {'chunked' if chunked else 'with their length'}"):
        for one in (request, keyless, request, keyless):
            with gateway.connect() as connection:
                connection.sendall(one)
                sent, answer = send_for_ever(connection, piece, 2**30)
                answers.append(answer)
                assert sent < 64 * 2**20
    assert {answer.status for answer in answers if answer} <= {413, 401}
    waiting = gateway.ask("POST", "/v1/events", content_length=str(2**30), expect="100-continue")
    assert (waiting.status, waiting.problem, waiting.headers["connection"]) == (413, "too-large", "close")
    chunk = request + b"%x\r\n" % (BODY_BYTES_MAX + 1) + b" " * (BODY_BYTES_MAX + 1) + b"\r\n0\r\n\r\n"
    if chunked:
        assert gateway.exchange(chunk).problem == "too-large"


def test_chunks_without_an_end_are_refused(gateway: GatewayProcess, quiet_ms: float) -> None:
    request = head("POST", "/v1/events", gateway.texts["ingest"], transfer_encoding="chunked")
    request = request.replace(b"content-length: 0\r\n", b"")
    with abused(gateway, quiet_ms, "endless chunks"):
        for piece in (b"1\r\n[\r\n" * 1_000, b"1;" + b"x" * 60_000, b"f" * 60_000, b"-1\r\n"):
            with gateway.connect() as connection:
                connection.sendall(request)
                _, answer = send_for_ever(connection, piece, 2**26)
                assert answer is None or answer.status in (400, 408, 413)
                assert ends(connection)


@pytest.mark.parametrize(
    "bomb",
    [b"x: " + b"y" * 2**20, b"x: y\r\n" * 200_000, b"y" * 2**20, b"x:\r\n y" + b" y" * 2**19],
    ids=["long", "many", "nameless", "folded"],
)
def test_header_bombs_are_refused(gateway: GatewayProcess, quiet_ms: float, bomb: bytes) -> None:
    with abused(gateway, quiet_ms, "header bombs"):
        for start in (b"POST /v1/events HTTP/1.1\r\nhost: x\r\n", b"GET /" + b"a" * 2**20):
            with gateway.connect() as connection:
                with suppress(OSError):
                    connection.sendall(start + bomb)
                with suppress(OSError):  # the kernel drops an answer where more was sent than was read
                    answer = read_answer(connection)
                    assert (answer.status, answer.problem) == (400, "bad-request")
                assert ends(connection)


def test_decompression_bombs_are_refused(gateway: GatewayProcess, quiet_ms: float) -> None:
    once = gzip.compress(b" " * 2**26)
    with abused(gateway, quiet_ms, "decompression bombs"):
        for bomb in (once, gzip.compress(once), gzip.compress(b"[" * BODY_BYTES_MAX)):
            for _ in range(5):
                answer = gateway.ask("POST", "/v1/events", bomb, content_encoding="gzip")
                assert answer.problem in ("too-large", "bad-body")


def test_thousands_of_connections_do_not_keep_others_out(gateway: GatewayProcess, quiet_ms: float) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(10_000, hard - 200 if hard != resource.RLIM_INFINITY else 10_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 200), hard))
    files, turned_away = gateway.files(), gateway.metric("headrace_gateway_turned_away_total")
    try:
        with abused(gateway, quiet_ms, f"{wanted} connections"), ExitStack() as stack:
            for number in range(wanted):
                connection = stack.enter_context(socket.socket())
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    connection.connect((HOST, gateway.port))
                if number % 200 == 0:
                    time.sleep(0.005)
            time.sleep(0.3)
            assert gateway.files() <= FILES_MAX
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert gateway.metric("headrace_gateway_turned_away_total") - turned_away > CONNECTIONS_MAX
    assert idle_files(gateway, files)


def test_clients_that_never_read_their_answers_are_cut(gateway: GatewayProcess, quiet_ms: float) -> None:
    files = gateway.files()
    with abused(gateway, quiet_ms, "unread answers"), ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX // 2):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(0.2)
            with suppress(OSError):
                connection.connect((HOST, gateway.port))
                connection.sendall(head("GET", "/openapi.json") * 80)
        assert idle_files(gateway, files + 2)


PATHS: Final = (
    "/v1/items/..%2F..%2Fetc%2Fpasswd", "/v1/items/../../v1/events", "/v1/items/%00", "/v1/items/%ff%fe",
    "/v1/items/" + "x" * 8_000, "/v1/items/%E2%80%AE%F0%9F%91%A9", "/v1/items/%0d%0aset-cookie:%20a=b", "//v1//events",
    "/v1/items/a?dry_run=1&dry_run=" + "1" * 4_000, "/v1/./events", "/v1/shoppers/..%2f/traits", "/%2e%2e/%2e%2e/keys",
    "/v1/items/{id}", "/v1/items/%", "/v1/items/%zz", "http://evil.example/v1/events", "*", "/v1/items/a;b=c#d",
    "/static/../../app.py", "/headrace.js/../app.py", "/v1/events%00", "/v1/items/" + "%2F" * 100,
)  # fmt: skip


def test_path_tricks_reach_nothing_else(gateway: GatewayProcess, quiet_ms: float) -> None:
    with abused(gateway, quiet_ms, "path tricks"):
        for path in PATHS:
            for method in ("PUT", "GET", "POST", "DELETE"):
                answer = gateway.ask(method, path, {"title": "A"}, "operate")
                assert answer.status in (200, 400, 404, 405), (method, path, answer)
                assert answer.status == 200 or answer.problem
                assert "set-cookie" not in answer.headers
                assert "location" not in answer.headers
                assert b"root:" not in answer.body
                assert b"digest" not in answer.body


def test_deep_and_odd_documents_are_refused(gateway: GatewayProcess, quiet_ms: float) -> None:
    deep = 60_000
    with abused(gateway, quiet_ms, "deep documents"):
        for body in (
            b"[" * deep, b"[" * deep + b"]" * deep, b'{"a":' * (deep // 2) + b"1" + b"}" * (deep // 2),
            b'[{"data":{"items":[' + b"[" * deep, b'{"id":1e999}', b'{"id":"\\ud800"}', b'{"id":NaN}', b"\x00",
            b"[" + b"1," * (deep // 2) + b"1]", b'{"' + b"a" * deep + b'":1}',
            b"[" + b'{"a":' * 500 + b"1" + b"}" * 500 + b"]",
        ):  # fmt: skip
            answer = gateway.ask("POST", "/v1/events", body)
            assert answer.status == 400, (body[:20], answer)
            assert answer.problem in ("bad-body", "all-refused")


def test_wrong_and_stolen_keys_are_refused(gateway: GatewayProcess, quiet_ms: float) -> None:
    stolen = gateway.key("ingest", "https://acme.example")
    revoked = gateway.key("ingest")
    gateway.follow_keys()
    with abused(gateway, quiet_ms, "wrong keys"):
        body = view("stolen")

        def ask(key: str, **headers: str) -> tuple[int, str]:
            answer = gateway.exchange(head("POST", "/v1/events", key, body, **headers))
            return answer.status, answer.problem

        for key in ("", "hr_x", "hr_" + "A" * 200, "x" * 4_000, stolen[:-1], stolen + "A", gateway.id_of(stolen)):
            assert ask(key) == (401, "bad-key")
        assert ask(stolen, origin="https://evil.example") == (403, "forbidden")
        assert ask(stolen, origin="null") == (403, "forbidden")
        assert ask(gateway.texts["read"]) == (403, "forbidden")
        assert ask(stolen, authorization="Basic " + "!" * 100) == (401, "bad-key")
        assert ask(revoked)[0] == 200
        revoke(gateway.keys, gateway.id_of(revoked))
        deadline = time.monotonic() + look_every_s + 0.5
        while ask(revoked)[0] == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ask(revoked) == (401, "bad-key")


def test_replayed_and_reordered_events_and_clocks_years_off(gateway: GatewayProcess, quiet_ms: float) -> None:
    with abused(gateway, quiet_ms, "replays and clocks") as good:
        counts = {"accepted": 0, "repeated": 0}
        for _ in range(20):
            answer = json.loads(gateway.ask("POST", "/v1/events", [view("again"), view("again")]).body)
            for name in counts:
                counts[name] += answer[name]
        assert counts == {"accepted": 1, "repeated": 39}
        reasons = {}
        for time_ in (
            "1969-12-31T23:59:59Z", "1994-01-01T00:00:00Z", "2016-01-01T00:00:00Z", "2046-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "2016-12-31T23:59:60Z", "soon", 1e300, -(2**63),
        ):  # fmt: skip
            answer = json.loads(
                gateway.ask("POST", "/v1/events", [view(f"at {time_}", time=time_), view("again")]).body
            )
            reasons[time_] = answer["refused"][0]["reason"] if answer["refused"] else "accepted"
        assert list(reasons.values()) == [
            "time_absurd", "time_absurd", "accepted", "time_ahead", "time_ahead", "time_absurd", "accepted",
            "schema", "schema", "schema",
        ]  # fmt: skip
    found = gateway.event_ids()
    assert found.count("again") == 1
    assert len(found) == len(set(found))
    assert set(good.ids) <= set(found)


def test_two_readings_of_one_request_are_not_possible(gateway: GatewayProcess, quiet_ms: float) -> None:
    key = gateway.texts["ingest"].encode()
    hidden = b"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key + b"\r\ncontent-length: 2\r\n\r\n[]"
    begin = b"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key + b"\r\n"
    tricks = (
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"content-length: 0\r\ncontent-length: 5\r\n\r\n", b"content-length: 0, 5\r\n\r\n",
        b"content-length: -1\r\n\r\n", b"content-length: +0\r\n\r\n", b"content-length: 0x0\r\n\r\n",
        b"content-length: " + b"9" * 5_000 + b"\r\n\r\n", b"content-length : 0\r\n\r\n",
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n0x0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n" + b"f" * 21 + b"\r\n", b"x\r\n\r\n", b": x\r\n\r\n", b"x: \0\r\n\r\n",
    )  # fmt: skip
    with abused(gateway, quiet_ms, "smuggling"):
        for trick in tricks:
            with gateway.connect() as connection:
                connection.sendall(begin + trick + hidden)
                statuses = list[int]()
                with suppress(ConnectionError):
                    statuses += [answer.status for answer in answers_of(connection)]
                assert statuses == [400], (trick, statuses)
        for start in (
            b"POST /v1/events\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
            b"POST /v1/events HTTP/2.0\r\n\r\n",
            b"\r\n" * 9,
        ):
            with gateway.connect() as connection:
                connection.sendall(start + hidden)
                connection.shutdown(socket.SHUT_WR)
                assert ends(connection)


def test_pipelined_requests_are_answered_in_their_order(gateway: GatewayProcess, quiet_ms: float) -> None:
    key = gateway.texts["ingest"]
    with abused(gateway, quiet_ms, "pipelining"), gateway.connect() as connection:
        paths = [("POST", "/v1/events"), ("GET", "/health/live"), ("POST", "/v1/events?dry_run=1")]
        sent = [(*paths[number % 3], f"piped-{number}") for number in range(90)]
        content = b"".join(head(method, path, key, view(id_)) for method, path, id_ in sent)
        sender = threading.Thread(target=connection.sendall, args=(content,))
        sender.start()
        answers = list(islice(answers_of(connection), len(sent)))
        sender.join()
        assert {one.status for one in answers} == {200}
        found = [next(iter(json.loads(one.body))) for one in answers]
        assert found == ["accepted", "live", "dry_run"] * 30


def test_half_closed_connections_leave_nothing_behind(gateway: GatewayProcess, quiet_ms: float) -> None:
    key, files = gateway.texts["ingest"], gateway.files()
    with abused(gateway, quiet_ms, "half-closed connections"), ExitStack() as stack:
        for number, sent in zip(range(120), [b"", b"POST /v1", head("POST", "/v1/events", key, [])] * 40, strict=True):
            connection = stack.enter_context(gateway.connect())
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_RD if number % 2 and len(sent) < 10 else socket.SHUT_WR)
        assert idle_files(gateway, files + 10)
    assert idle_files(gateway, files)


def test_a_port_with_tls_bounds_those_who_do_not_speak_it(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    curve, names = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], f"subjectAltName=IP:{HOST}"
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", "-subj", "/CN=gateway", "-addext", names]
    subprocess.run([*command, "-keyout", "key", "-out", "pem"], check=True, capture_output=True, cwd=tmp_path)
    files = {"certificate": str(tmp_path / "pem"), "certificate_key": str(tmp_path / "key")}
    tls, handshake_s = ssl.create_default_context(cafile=str(tmp_path / "pem")), 3.0
    with running(tmp_path, **files, body_s_max=str(handshake_s)) as gateway, ExitStack() as stack:
        with Good(gateway, tls) as good:
            for piece in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\xff" * 70_000):
                connection = stack.enter_context(gateway.connect())
                connection.sendall(piece)
                assert ends(connection, handshake_s / 2)
            for _ in range(3 * CONNECTIONS_MAX):
                stack.enter_context(gateway.connect())
            assert idle_files(gateway, CONNECTIONS_MAX + 32, handshake_s / 2)
            good.wait_for(len(good.ids) + 5)
        assert not good.fault
        print(f"silent connections with TLS: p99 {good.p99_ms():.1f} ms, {good.again} attempts again")
        assert idle_files(gateway, 32)  # those who were silent are cut
        stranger = ssl.create_default_context()
        with gateway.connect() as plain, pytest.raises(ssl.SSLError), stranger.wrap_socket(plain, server_hostname=HOST):
            pass
        gateway.child.check()
