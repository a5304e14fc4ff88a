"""What the console takes from the server of answers, whatever it says, and from the log over a long time."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing
from headrace.topics import SCORES
from operators.console.desk import Away, Desk
from operators.deployment import read_deployment
from operators.tails import Thinned

PROFILE = b"""{"shopper": "ann", "since_ms": 1, "newest_ms": 2, "stated": {}, "tastes": {}, "visit": null, "traits":
  {"visits": {"value": 1.0, "confidence": 1.0, "evidence": 1, "since_ms": 1}, "order_days": {"value": null}}}"""


@contextmanager
def desk(tmp_path: Path, status: int, body: bytes) -> Iterator[Desk]:
    """Yield a desk that asks a server which answers everything alike."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    deployment = read_deployment(log=f"sqlite:{tmp_path / 'log.db'}", blobs=str(tmp_path / "blobs"))
    made = Desk(deployment, answers=f"http://127.0.0.1:{server.server_port}")
    try:
        yield made
    finally:
        made.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_answer_has_every_field_that_its_route_declares(tmp_path: Path) -> None:
    with desk(tmp_path, 200, PROFILE) as asked:
        found = asyncio.run(asked.answer(("v1", "shoppers", "ann", "profile")))
    assert found["traits"]["order_days"] == {"value": None, "confidence": 0.0, "evidence": 0, "since_ms": 0}


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no JSON", b'{"shopper": 7}', PROFILE.replace(b"1.0", b'"high"')])
def test_an_answer_of_another_form_is_none(tmp_path: Path, body: bytes) -> None:
    with desk(tmp_path, 200, body) as asked, pytest.raises(Away) as caught:
        asyncio.run(asked.answer(("v1", "shoppers", "ann", "profile")))
    assert not caught.value.unknown


@pytest.mark.parametrize(("status", "unknown"), [(404, True), (400, False), (500, False)])
def test_a_refusal_says_why_and_whether_it_is_that_nothing_is_known(
    tmp_path: Path, status: int, unknown: bool
) -> None:  # fmt: skip
    with (
        desk(tmp_path, status, b'{"detail": "found none"}') as asked,
        pytest.raises(Away, match="found none") as caught,
    ):
        asyncio.run(asked.answer(("v1", "shoppers", "ann", "profile")))
    assert caught.value.unknown == unknown


def test_a_question_that_no_family_answers_is_not_asked(tmp_path: Path) -> None:
    with desk(tmp_path, 200, b"{}") as asked, pytest.raises(Away, match="no family") as caught:
        asyncio.run(asked.answer(("v1", "nonsense", "ann")))
    assert caught.value.unknown


def test_a_long_course_is_thinned_evenly_and_keeps_the_newest() -> None:
    log = MemoryLog()
    log.create()
    course = Thinned(SCORES, lambda record: ("a", int(record.value or b"")), kept_max=8, records_max=1_000)
    assert course.of("a") == []
    for number in range(100):
        appender = log.appender()
        appender.append(Outgoing(SCORES, b"a", b"%d" % number, 0))
        appender.close()
        if number % 7 == 0:
            course.look(log)
    course.look(log)
    found = course.of("a")
    assert (found[0], found[-1]) == (0, 99)
    assert len(found) <= 9
    assert len({after - before for before, after in pairwise(found[:-1])}) == 1
