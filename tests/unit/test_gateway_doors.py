"""The doors of the gateway: whose key a request has, and how much may come in at once."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from headrace.keys import Key, KeyRing, Role, create, look_every_s, revoke
from headrace.problem import Problem
from producers.gateway.doors import Doors, key_text, keys_counted_max

NOW_MS = 1_772_359_200_000


class Hall:
    """Doors with small limits, their keys, and their clock."""

    def __init__(self, path: Path) -> None:
        self.path, self.s = path, 0.0
        ring = KeyRing(path, clock=lambda: NOW_MS, seconds=lambda: self.s)
        self.doors = Doors(
            ring, requests_max=3, key_requests_max=2, key_events_per_s=10.0, seconds=lambda: self.s
        )  # fmt: skip

    def key(self, role: Role = "ingest", origins: tuple[str, ...] = ()) -> tuple[Key, str]:
        made = create(self.path, "acme", role, origins=origins, now_ms=NOW_MS)
        self.s += look_every_s
        return made


@pytest.fixture
def hall(tmp_path: Path) -> Hall:
    return Hall(tmp_path / "keys")


def refusal(call: Callable[[], object]) -> tuple[str, int | None]:
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code, caught.value.retry_s


@pytest.mark.parametrize("text", ["", "hr_x", "x" * 10_000, "\udcff", "hr_00000000_" + "A" * 43])
def test_without_a_key_that_works_nobody_gets_in(hall: Hall, text: str) -> None:
    hall.key()
    assert refusal(lambda: hall.doors.key(text, "ingest", None)) == ("bad-key", None)


def test_a_key_is_good_for_its_role_until_it_is_revoked(hall: Hall) -> None:
    (reads, read_text), (_, text) = hall.key("read"), hall.key("operate")
    assert hall.doors.key(read_text, "read", None) == reads
    assert refusal(lambda: hall.doors.key(read_text, "ingest", None))[0] == "forbidden"
    assert hall.doors.key(text, "ingest", None).role == "operate"
    revoke(hall.path, reads.id)
    hall.s += look_every_s
    assert refusal(lambda: hall.doors.key(read_text, "read", None))[0] == "bad-key"


def test_a_key_for_pages_is_refused_on_others(hall: Hall) -> None:
    key, text = hall.key(origins=("https://a.example",))
    assert hall.doors.key(text, "ingest", "https://a.example") == key
    for origin in ("https://b.example", "null", "https://a.example.evil", "http://a.example", ""):
        assert refusal(partial(hall.doors.key, text, "ingest", origin))[0] == "forbidden"
    assert hall.doors.key(text, "ingest", None) == key  # a server, which states no page
    assert hall.doors.origins() == {"https://a.example"}


def test_requests_in_progress_are_bounded_for_each_key_and_for_all(hall: Hall) -> None:
    (one, _), (other, _) = hall.key(), hall.key()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(hall.doors.entered(one))
        assert refusal(lambda: stack.enter_context(hall.doors.entered(one))) == ("too-many-requests", 1)
        stack.enter_context(hall.doors.entered(other))
        assert hall.doors.requests == 3
        assert refusal(lambda: stack.enter_context(hall.doors.entered(other))) == ("unavailable", 1)
    assert hall.doors.requests == 0
    with pytest.raises(ZeroDivisionError), hall.doors.entered(one):
        raise ZeroDivisionError
    assert hall.doors.requests == 0


def test_events_of_a_key_are_bounded_in_time_and_what_it_owes_is_told(hall: Hall) -> None:
    (one, _), (other, _) = hall.key(), hall.key()

    def enter(key: Key) -> None:
        with hall.doors.entered(key):
            pass

    enter(one)
    hall.doors.charge(one, 70)  # 20 at once are allowed
    code, retry_s = refusal(lambda: enter(one))
    assert (code, retry_s) == ("too-many-events", 6)
    enter(other)
    assert retry_s is not None
    hall.s += retry_s - 1
    assert refusal(lambda: enter(one))[0] == "too-many-events"
    hall.s += 1
    enter(one)
    hall.s += 1_000
    hall.doors.charge(one, 20)
    assert refusal(lambda: enter(one)) == ("too-many-events", 1)


def test_the_keys_that_are_counted_are_bounded(hall: Hall) -> None:
    first = Key("first", "acme", "ingest", "", NOW_MS)
    hall.doors.charge(first, 1_000)
    for number in range(keys_counted_max):
        hall.doors.charge(Key(f"{number}", "acme", "ingest", "", NOW_MS), 1)
    with hall.doors.entered(first):
        assert hall.doors.requests == 1


@pytest.mark.parametrize(
    ("headers", "query", "text"),
    [
        ({"authorization": "Bearer hr_1"}, {"key": "hr_2"}, "hr_1"),
        ({"authorization": "bearer  hr_1 "}, {}, "hr_1"),
        ({"authorization": "Basic aHJfMTo="}, {}, "hr_1"),
        ({"authorization": "Basic aHJfMQ=="}, {}, "hr_1"),
        ({"authorization": "Basic /w=="}, {"api_secret": "hr_2"}, "hr_2"),
        ({"authorization": "Basic \xe4"}, {}, ""),
        ({"authorization": "hr_1"}, {}, ""),
        ({}, {"key": "hr_1", "api_secret": "hr_2"}, "hr_1"),
        ({}, {}, ""),
    ],
)
def test_a_key_is_read_wherever_clients_put_it(headers: dict[str, str], query: dict[str, str], text: str) -> None:
    assert key_text(headers, query) == text
