"""The publisher: nothing twice and nothing lost after any cut, pacing by event time, ranges, the gate."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Misconfigured
from headrace.log import Log, Outgoing
from headrace.sqlite_log import SqliteLog
from headrace.testing import MemoryLog
from headrace.topics import EVENTS, EVENTS_REPLAY, partitions_of
from producers.publisher import Numbered, Progress, last_published, publish
from producers.republish import republish

ORIGIN = "load:test:file:0123456789abcdef"


def sequence(count: int, origin: str = ORIGIN) -> list[Numbered]:
    return [
        Numbered(n, 1_000 * n, f"shopper-{n % 13}".encode(), json.dumps({"source": origin, "id": str(n)}).encode())
        for n in range(count)
    ]


def opened() -> MemoryLog:
    log = MemoryLog()
    log.create()
    return log


def numbers(log: Log) -> list[list[int]]:
    """Return the ids in each partition of `events`, leaving out records of others."""
    out = []
    for place in partitions_of(EVENTS):
        batches = log.reader({place: log.first(place)}).read(100_000, 0.0)
        values = [record.value for _, records in batches for record in records if record.value is not None]
        own = [json.loads(value) for value in values if value.startswith(b'{"source": "' + ORIGIN.encode())]
        out.append([int(value["id"]) for value in own])
    return out


def test_publishes_in_order_per_partition() -> None:
    log = opened()
    assert publish(log, sequence(100), origin=ORIGIN)[:3] == (100, 0, 99_000)
    found = numbers(log)
    assert sorted(n for part in found for n in part) == list(range(100))
    assert all(part == sorted(part) for part in found)
    assert sum(map(bool, found)) > 1, "the keys should reach more than one partition"


@given(cuts=st.lists(st.integers(0, 60), min_size=4, max_size=4), aliens=st.integers(0, 3))
def test_goes_on_after_any_cut_with_nothing_twice(cuts: list[int], aliens: int) -> None:
    whole = opened()
    publish(whole, sequence(150), origin=ORIGIN)
    log = opened()
    appender = log.appender()
    for place, cut in zip(partitions_of(EVENTS), cuts, strict=True):
        reader = whole.reader({place: 0})
        for _, records in reader.read(cut, 0.0) if cut else []:
            for record in records:
                appender.append(Outgoing(EVENTS, record.key, record.value))
        for _ in range(aliens):
            appender.append(Outgoing(EVENTS, b"x", b'{"source":"other","id":"7"}', place.number))
    before = sum(map(len, numbers(log)))
    published = publish(log, sequence(150), origin=ORIGIN)
    assert (published.published, published.already) == (150 - before, before)
    assert numbers(log) == numbers(whole)


def test_goes_on_on_every_log(log: Log) -> None:
    assert publish(log, sequence(80), origin=ORIGIN, limit=33).published == 33
    assert publish(log, sequence(80), origin=ORIGIN)[:2] == (47, 33)
    assert publish(log, sequence(80), origin=ORIGIN)[:2] == (0, 80)
    assert republish(log, EVENTS, EVENTS_REPLAY) == 80
    found: list[int] = []
    reader = log.reader(dict.fromkeys(partitions_of(EVENTS_REPLAY), 0))
    while len(found) < 80 and (batches := reader.read(1_000, 10.0)):
        found.extend(json.loads(record.value or b"")["id"] for _, records in batches for record in records)
    reader.close()
    assert sorted(map(int, found)) == list(range(80))


@pytest.mark.parametrize("others", [*range(9, 22), 57])
def test_looks_back_past_many_records_of_others(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    monkeypatch.setattr("producers.publisher.look_back_max", 10)
    log = opened()
    publish(log, sequence(30), origin=ORIGIN)
    appender = log.appender()
    for place in partitions_of(EVENTS):
        for _ in range(others):
            appender.append(Outgoing(EVENTS, b"x", b"not even JSON " + ORIGIN.encode(), place.number))
    assert publish(log, sequence(30), origin=ORIGIN).published == 0
    wanted = {place: part[-1] for place, part in zip(partitions_of(EVENTS), numbers(log), strict=True) if part}
    assert last_published(log, ORIGIN, [EVENTS]) == wanted


def test_goes_on_beside_records_that_have_been_deleted() -> None:
    log = opened()
    publish(log, sequence(60), origin=ORIGIN)
    for place in partitions_of(EVENTS):
        log.delete_before(place, log.end(place) // 2)
    assert publish(log, sequence(80), origin=ORIGIN).published == 20


def test_refuses_other_content_under_the_same_name() -> None:
    log = opened()
    publish(log, sequence(20), origin=ORIGIN)
    with pytest.raises(Misconfigured, match="other content"):
        publish(log, sequence(20), origin="load:test:file:ffffffffffffffff")
    assert sum(map(len, numbers(log))) == 20
    other = "load:test:another:ffffffffffffffff"
    assert publish(log, sequence(20, other), origin=other).published == 20


def test_range_and_limit_count_what_is_there() -> None:
    log = opened()
    first = publish(log, sequence(100), origin=ORIGIN, time_from_ms=10_000, time_to_ms=50_000, limit=15)
    assert first[:2] == (15, 0)
    again = publish(log, sequence(100), origin=ORIGIN, time_from_ms=10_000, time_to_ms=50_000, limit=15)
    assert again[:2] == (0, 15)
    more = publish(log, sequence(100), origin=ORIGIN, time_from_ms=10_000, time_to_ms=50_000)
    assert more[:2] == (25, 15)
    assert sorted(n for part in numbers(log) for n in part) == list(range(10, 50))


@pytest.mark.parametrize(("speed", "wanted_s"), [(1.0, 99.0), (100.0, 0.99), (None, 0.0)])
def test_paces_by_event_time(speed: float | None, wanted_s: float) -> None:
    now = [50.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    publish(opened(), sequence(100), origin=ORIGIN, speed=speed, clock=lambda: now[0], sleep=sleep)
    assert now[0] - 50.0 == pytest.approx(wanted_s, abs=0.03)


def test_what_is_published_can_be_read_while_the_publisher_waits(tmp_path: Path) -> None:
    log, seen = SqliteLog(str(tmp_path / "log.db")), list[int]()
    log.create()

    def held() -> int:
        return sum(log.end(place) for place in partitions_of(EVENTS))

    def gate(number: int) -> str | None:
        return "waiting" if number == 5 and len(seen) < 5 else None

    publish(
        log, sequence(8), origin=ORIGIN, speed=1.0, gate=gate, clock=lambda: 0.0, sleep=lambda _: seen.append(held())
    )
    assert seen == [1, 2, 3, 4, 5, 6, 7]  # after the gate the pace counts anew: the sixth is due at once
    log.close()


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_speed_that_is_none(speed: float) -> None:
    with pytest.raises(Misconfigured, match="speed"):
        publish(opened(), sequence(1), origin=ORIGIN, speed=speed)


def test_waits_at_the_gate_and_says_so() -> None:
    log, asked, reports = opened(), [0], list[Progress]()

    def gate(number: int) -> str | None:
        asked[0] += 1
        return "waiting" if number == 40 and asked[0] < 50 else None

    published = publish(log, sequence(60), origin=ORIGIN, gate=gate, progress=reports.append, sleep=lambda _: None)
    assert published.published == 60
    waits = [report for report in reports if report.note]
    assert waits
    assert {(report.published, report.note) for report in waits} == {(40, "waiting")}
    assert reports[-1] == Progress(60, 0, 1.0)
