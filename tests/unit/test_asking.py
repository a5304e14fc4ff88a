"""Questions to the server of answers: connections are kept and bounded, and whatever it does, there is an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from msgspec import Struct

from headrace.errors import Misconfigured
from headrace.problem import Problem
from producers.gateway import asking
from producers.gateway.asking import Asking, connections_max

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n" + b'{"n": 171}'


class Found(Struct):
    n: int


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(*answers: bytes) -> Handle:
    """Return a server that gives these answers on each connection, one a request, and then closes it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await head_of(reader)
            writer.write(answer)
        writer.close()

    return handle


def run(handle: Handle, test: Callable[[Asking], Awaitable[None]]) -> int:
    """Run a test against a server; return how many connections it had."""
    opened, handling = 0, list[asyncio.Task[None]]()

    async def both() -> None:
        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal opened
            opened += 1
            task = asyncio.current_task()
            assert task
            handling.append(task)
            with suppress(asyncio.IncompleteReadError):  # the client has closed the connection
                await handle(reader, writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(count, "127.0.0.1", 0)
        found = Asking(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/path/")
        await test(found)
        found.close()
        server.close()
        await asyncio.gather(*handling)

    asyncio.run(both())
    return opened


async def refused(found: Asking) -> Problem:
    with pytest.raises(Problem) as problem:
        await found.get(Found, "key", ("v1",))
    return problem.value


def test_a_question_has_its_parts_quoted_and_its_key() -> None:
    heads = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await head_of(reader)).decode())
        writer.write(OK)

    async def test(found: Asking) -> None:
        parameters = {"n": 3, "category": ["a b", "c&d"], "page": "", "shopper": "é"}
        answer = await found.get(Found, "hr_1", ("v1", "items", "a/b?é\r\nx: y"), parameters)
        assert answer == Found(171)

    run(handle, test)
    line, *headers = heads[0].split("\r\n")
    assert line == (
        "GET /path/v1/items/a%2Fb%3F%C3%A9%0D%0Ax%3A%20y?n=3&category=a+b&category=c%26d&shopper=%C3%A9 HTTP/1.1"
    )
    assert "authorization: Bearer hr_1" in headers


def test_a_connection_is_kept_and_opened_again_where_it_was_closed() -> None:
    async def test(found: Asking) -> None:
        for _ in range(6):
            assert await found.get(Found, "key", ("v1",)) == Found(171)
            await asyncio.sleep(0.02)  # until the end of the connection is seen

    assert run(answering(OK, OK), test) == 3


def test_connections_are_bounded() -> None:
    now, most = 0, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        while True:
            await head_of(reader)
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1
            writer.write(OK)

    async def test(found: Asking) -> None:
        await asyncio.gather(*(found.get(Found, "key", ("v1",)) for _ in range(5 * connections_max)))

    assert run(handle, test) <= connections_max
    assert most <= connections_max


CHUNKED = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"n":\r\n4\r\n 171\r\n1\r\n}\r\n0\r\n\r\n'


def test_an_answer_in_chunks() -> None:
    async def test(found: Asking) -> None:
        assert await found.get(Found, "key", ("v1",)) == Found(171)

    run(answering(CHUNKED), test)


PROBLEM = b'{"detail": "n: wanted 1 to 9"}'


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "bad-query"),
        (404, "unknown"),
        (401, "bad-key"),
        (403, "forbidden"),
        (413, "bad-query"),
        (500, "no-answers"),
    ],
)
def test_what_the_server_refuses_is_passed_on(status: int, code: str) -> None:
    async def test(found: Asking) -> None:
        problem = await refused(found)
        assert (problem.code, problem.detail) == (code, "n: wanted 1 to 9")

    run(answering(b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n" % (status, len(PROBLEM)) + PROBLEM), test)


def test_a_server_that_restores_says_when_to_ask_again() -> None:
    async def test(found: Asking) -> None:
        assert (await refused(found)).retry_s == 7

    run(answering(b"HTTP/1.1 503 No\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}"), test)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", b"SSH-2.0\r\n\r\n", OK.replace(b'"n"', b'"m"'),
     b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xff", OK[:-1] + b"!"],
)  # fmt: skip
def test_what_is_no_answer_of_ours_is_none(answer: bytes) -> None:
    async def test(found: Asking) -> None:
        problem = await refused(found)
        assert (problem.code, problem.retry_s) == ("no-answers", asking.retry_s)

    run(answering(answer), test)


def test_an_answer_that_is_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "answer_bytes_max", 40)

    async def test(found: Asking) -> None:
        assert "more than 40 bytes" in (await refused(found)).detail

    run(answering(OK), test)


def test_a_server_that_is_silent_or_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "answer_s_max", 0.05)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(OK)

    async def test(found: Asking) -> None:
        assert "within 0.05 s" in (await refused(found)).detail
        # The late answer is not the next question's.
        assert "within 0.05 s" in (await refused(found)).detail

    assert run(handle, test) == 2

    async def nobody() -> None:
        assert (await refused(Asking("http://127.0.0.1:1"))).code == "no-answers"

    asyncio.run(nobody())


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://a", "http://", "http://a:x", "http://a?b", "http://u@a"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"gateway\.answers"):
        Asking(url)
