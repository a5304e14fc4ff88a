"""The publisher: each record exactly once after any interruption, pacing by event time, ranges, the gate."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import CommitExpired, Fenced, LogUnavailable, Misconfigured
from headrace.log.memory import MemoryLog, MemoryWriter
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.log.sqlite import SqliteLog
from headrace.shard.checks import committed_records
from headrace.topics import EVENTS, EVENTS_REPLAY, partitions_of
from producers.published import last_published
from producers.publisher import Progress, PublishResult, publish
from producers.republish import republish
from producers.sequence import InputDigest, NumberedRecord

Sequence = Callable[[], list[NumberedRecord]]
ORIGIN = "load:test:file:0123456789abcdef"


def records(contents: Iterable[int], origin: str = ORIGIN) -> Sequence:
    """Return a sequence of records with these contents, numbered from 0."""
    digest, found = InputDigest("test"), []
    for n, content in enumerate(contents):
        value = json.dumps({"source": origin, "id": str(content)}).encode()
        shopper = f"shopper-{content % 13}".encode()
        found.append(NumberedRecord(n, 1_000 * n, shopper, value, digest=digest.add(str(content).encode())))
    return lambda: found


def sequence(count: int, origin: str = ORIGIN) -> Sequence:
    return records(range(count), origin)


def opened() -> MemoryLog:
    log = MemoryLog()
    log.create()
    return log


def append_all(log: Log, found: Sequence) -> None:
    """Publish records as release 0.3.0 did."""
    appender = log.appender()
    for record in found():
        appender.append(Outgoing(EVENTS, record.key, record.value))


def numbers(log: Log) -> list[list[int]]:
    """Return the ids in each partition of `events`, without other programs' records."""
    out = []
    for place in partitions_of(EVENTS):
        values = [record.value for record in committed_records(log, place) if record.value is not None]
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


@given(cuts=st.lists(st.integers(0, 60), min_size=4, max_size=4), others=st.integers(0, 3))
def test_resumes_what_release_0_3_0_began_without_duplicates(cuts: list[int], others: int) -> None:
    complete = opened()
    publish(complete, sequence(150), origin=ORIGIN)
    log = opened()
    appender = log.appender()
    for place, count in zip(partitions_of(EVENTS), cuts, strict=True):
        reader = complete.reader({place: 0})
        for _, records in reader.read(count, 0.0) if count else []:
            for record in records:
                appender.append(Outgoing(EVENTS, record.key, record.value))
        for _ in range(others):
            appender.append(Outgoing(EVENTS, b"x", b'{"source":"other","id":"7"}', place.number))
    before = sum(map(len, numbers(log)))
    limited = publish(log, sequence(150), origin=ORIGIN, limit=1)
    published = publish(log, sequence(150), origin=ORIGIN)
    assert limited.published + published.published == 150 - before
    assert numbers(log) == numbers(complete)


@given(
    seen=st.integers(0, 40), crash=st.integers(0, 40), batch=st.integers(1, 12),
    first=st.integers(1, 40), shared=st.integers(1, 40), more=st.integers(0, 12),
)  # fmt: skip
def test_an_input_continues_after_what_it_shares_with_those_before(
    seen: int, crash: int, batch: int, first: int, shared: int, more: int
) -> None:
    """One input, the same after a crash, then one that begins alike: nothing is missing or repeated."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("producers.published.batch_records_max", batch)
        log = opened()
        publish(log, sequence(first), origin=ORIGIN, limit=seen)

        def interrupted() -> Iterator[NumberedRecord]:
            yield from sequence(first)()[:crash]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            publish(log, interrupted, origin=ORIGIN)
        again = publish(log, sequence(first), origin=ORIGIN)
        assert again.published + again.already_published == first
        assert sorted(n for part in numbers(log) for n in part) == list(range(first))

        same = min(first, shared)
        contents = [*range(same), *range(1_000, 1_000 + more)]
        other = publish(log, records(contents), origin=f"{ORIGIN}-renamed")
        assert other[:2] == (more, same)
        assert publish(log, records(contents), origin=ORIGIN)[:2] == (0, len(contents))
        assert publish(log, records([*contents, 2_000]), origin=ORIGIN)[:2] == (1, len(contents))


def test_a_run_that_was_overtaken_publishes_nothing_more(log: Log) -> None:
    """The rerun of a suspended run finishes first."""
    overtaken = False

    def gate(number: int) -> str | None:
        nonlocal overtaken
        if number == 40 and not overtaken:
            overtaken = True
            assert publish(log, sequence(60), origin="renamed").published == 60
        return None

    with pytest.raises(Fenced, match="another run publishes this input"):
        publish(log, sequence(80), origin=ORIGIN, gate=gate)
    assert publish(log, sequence(80), origin=ORIGIN)[:2] == (20, 60)
    assert sorted(n for part in numbers(log) for n in part) == list(range(80))


def test_resumes_on_every_log(log: Log) -> None:
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
def test_searches_backwards_past_many_records_of_others(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    monkeypatch.setattr("producers.published.look_back_max", 10)
    log = opened()
    append_all(log, sequence(30))
    appender = log.appender()
    for place in partitions_of(EVENTS):
        for _ in range(others):
            appender.append(Outgoing(EVENTS, b"x", b"not even JSON " + ORIGIN.encode(), place.number))
    assert publish(log, sequence(30), origin=ORIGIN).published == 0
    wanted = {place: part[-1] for place, part in zip(partitions_of(EVENTS), numbers(log), strict=True) if part}
    assert last_published(log, ORIGIN, [EVENTS]) == wanted


def test_resumes_although_older_records_were_deleted() -> None:
    log = opened()
    publish(log, sequence(60), origin=ORIGIN)
    for place in partitions_of(EVENTS):
        log.delete_before(place, log.end(place) // 2)
    assert publish(log, sequence(80), origin=ORIGIN).published == 20


def test_rejects_other_content_under_the_name_of_what_release_0_3_0_published() -> None:
    log = opened()
    append_all(log, sequence(20))
    with pytest.raises(Misconfigured, match="other content"):
        publish(log, sequence(20), origin="load:test:file:ffffffffffffffff")
    assert sum(map(len, numbers(log))) == 20
    other = "load:test:another:ffffffffffffffff"
    assert publish(log, sequence(20, other), origin=other).published == 20


def test_range_and_limit_include_what_is_already_published() -> None:
    log = opened()
    first = publish(log, sequence(100), origin=ORIGIN, time_from_ms=10_000, time_to_ms=50_000, limit=15)
    assert first[:2] == (15, 0)
    again = publish(log, sequence(100), origin=ORIGIN, time_from_ms=10_000, time_to_ms=50_000, limit=15)
    assert again[:2] == (0, 15)
    more = publish(log, sequence(100), origin=ORIGIN, time_from_ms=10_000, time_to_ms=50_000)
    assert more[:2] == (25, 15)
    assert sorted(n for part in numbers(log) for n in part) == list(range(10, 50))


@given(ranges=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)), max_size=4))
def test_what_ranges_skipped_is_published_by_a_later_run_once(ranges: list[tuple[int, int, int]]) -> None:
    log, done = opened(), set[int]()
    for start, end, limit in ranges:
        chosen = range(start, end)[:limit]
        found = publish(
            log, sequence(100), origin=ORIGIN, time_from_ms=1_000 * start, time_to_ms=1_000 * end, limit=limit
        )
        assert found[:2] == (len({*chosen} - done), len({*chosen} & done))
        done |= {*chosen}
    assert publish(log, sequence(100), origin=ORIGIN)[:2] == (100 - len(done), len(done))
    assert sorted(n for part in numbers(log) for n in part) == list(range(100))


@pytest.mark.parametrize(("start", "limit"), [(0, None), (60, None), (0, 5)])
def test_a_range_of_what_release_0_3_0_began_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, start: int, limit: int | None
) -> None:
    monkeypatch.setattr("producers.published.noted_max", 7)
    log = opened()
    append_all(log, lambda: sequence(80)()[:30])
    first = publish(log, sequence(80), origin=ORIGIN, time_from_ms=1_000 * start, limit=limit)
    rest = publish(log, sequence(80), origin=ORIGIN)
    assert (first.published + rest.published, rest.published + rest.already_published) == (50, 80)
    assert sorted(n for part in numbers(log) for n in part) == list(range(80))


@pytest.mark.parametrize(("speed", "wanted_s"), [(1.0, 99.0), (100.0, 0.99), (None, 0.0)])
def test_paces_by_event_time(speed: float | None, wanted_s: float) -> None:
    now = [50.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    publish(opened(), sequence(100), origin=ORIGIN, speed=speed, clock=lambda: now[0], sleep=sleep)
    assert now[0] - 50.0 == pytest.approx(wanted_s, abs=0.03)


def test_published_records_are_readable_while_the_publisher_waits(tmp_path: Path) -> None:
    log, seen = SqliteLog(str(tmp_path / "log.db")), list[int]()
    log.create()

    def readable() -> int:
        return sum(log.end(place) for place in partitions_of(EVENTS))

    def gate(number: int) -> str | None:
        return "waiting" if number == 5 and len(seen) < 5 else None

    publish(
        log,
        sequence(8),
        origin=ORIGIN,
        speed=1.0,
        gate=gate,
        clock=lambda: 0.0,
        sleep=lambda _: seen.append(readable()),
    )
    assert seen == [1, 2, 3, 4, 5, 6, 7]  # the pace restarts after the gate, so the sixth is due at once
    log.close()


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_rejects_an_invalid_speed(speed: float) -> None:
    with pytest.raises(Misconfigured, match="speed"):
        publish(opened(), sequence(1), origin=ORIGIN, speed=speed)


def test_waits_at_the_gate_and_reports_it() -> None:
    log, calls, reports = opened(), [0], list[Progress]()

    def gate(number: int) -> str | None:
        calls[0] += 1
        return "waiting" if number == 40 and calls[0] < 50 else None

    published = publish(log, sequence(60), origin=ORIGIN, gate=gate, progress=reports.append, sleep=lambda _: None)
    assert published.published == 60
    waits = [report for report in reports if report.note]
    assert waits
    assert {(report.published, report.note) for report in waits} == {(40, "waiting")}
    assert reports[-1] == Progress(60, 0, 1.0)


class Failing(MemoryLog):
    """A log of which one commit fails, with this error, `before` or after it is done; then `meanwhile` is called."""

    def __init__(self, error: Exception, *, before: bool, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.create()
        self.error, self.before, self.meanwhile = error, before, meanwhile
        self.commits = 0

    def writer(self, *arguments: Any, **options: Any) -> MemoryWriter:
        writer = super().writer(*arguments, **options)
        commit = writer.commit

        def failing(records: list[Outgoing], positions: Mapping[Partition, int]) -> None:
            self.commits += 1
            fails = self.commits == 2
            if not (fails and self.before):
                commit(records, positions)
            if fails:
                self.meanwhile()
                raise self.error

        writer.commit = failing  # type: ignore[method-assign,assignment]  # as a broker that fails
        return writer


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("error", [LogUnavailable("no answer"), CommitExpired("open for too long")])
def test_a_failure_is_retried_and_each_record_published_once(error: Exception, before: bool) -> None:
    log = Failing(error, before=before)
    publish(log, sequence(200), origin=ORIGIN)
    log.commits = 0
    seen: list[Progress] = []
    done = publish(log, sequence(3_500), origin=ORIGIN, progress=seen.append)
    assert [(one.published, one.already_published) for one in seen] == sorted(one[:2] for one in seen)
    assert done == PublishResult(3_300, 200, 3_499_000, first_time_ms=200_000, origin=ORIGIN)
    assert sorted(n for part in numbers(log) for n in part) == list(range(3_500))


def test_another_run_is_told_from_a_commit_that_expired() -> None:
    log = Failing(CommitExpired("open for too long"), before=True)
    log.meanwhile = lambda: publish(log, sequence(3_000), origin=ORIGIN)
    with pytest.raises(Fenced, match="another run publishes this input"):
        publish(log, sequence(3_500), origin=ORIGIN)
    assert sorted(n for part in numbers(log) for n in part) == list(range(3_000))


def test_retries_end_after_their_time() -> None:
    log = Failing(LogUnavailable("no answer"), before=True)
    with pytest.raises(LogUnavailable, match="no answer"):
        publish(log, sequence(3_500), origin=ORIGIN, retry_s=-1.0)
