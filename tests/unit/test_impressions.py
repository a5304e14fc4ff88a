"""Impressions on the wire, and the queue and the thread by which a server logs them."""

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from headrace.errors import LogUnavailable, Misconfigured
from headrace.events import Rejection
from headrace.impressions import Explored, Impression, ShownItem, decode, items_max, record_of
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing, Partition, Record
from headrace.metrics import ServingMetrics
from headrace.reading import ReadOnlyLog
from headrace.topics import IMPRESSIONS
from serving.impressions import Impressions
from tests.hostile import HOSTILE, wire

PLACE = Partition(IMPRESSIONS, 0)


def impression(name: str = "r1", **changes: Any) -> Impression:
    values = {"time_ms": 5, "route": "/v1/x", "items": [ShownItem("a", 0.5), ShownItem("b")], **changes}
    return Impression(name, **values)


def as_read(made: Impression) -> Record:
    written = record_of(made)
    return Record(0, 0, 9, written.key, written.value)


IMPRESSION = st.builds(
    Impression,
    recommendation_id=st.text(min_size=1, max_size=128), time_ms=st.integers(0, 2**63 - 1),
    route=st.text(min_size=1, max_size=128),
    items=st.lists(
        st.builds(ShownItem, st.text(min_size=1, max_size=128), st.floats(0, 1, exclude_min=True)), max_size=8
    ),
    placement=st.text(max_size=128), model=st.text(max_size=128), shopper=st.text(max_size=128),
    shard=st.text(max_size=128), entry=st.integers(0, 2**63 - 1), newest_event_ms=st.integers(0, 2**63 - 1),
)  # fmt: skip


EXPLORED = {"experiment": "e", "actions": ["a", "b"], "probabilities": [0.75, 0.25], "action": 1}


def test_a_choice_left_to_chance_is_read_as_it_was_written() -> None:
    made = impression(explored=Explored("e", ["a", "b"], [0.75, 0.25], 1, 3, "v1", [0.5, -1.0]))
    assert decode(as_read(made)) == made


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"probabilities": [0.75, 0.2, 0.05]}, "wanted a probability for each action, found 3 for 2"),
        ({"action": 2}, "wanted an action from 0 to 1, found 2"),
        ({"probabilities": [1, 0]}, "wanted a chosen action with a probability above 0, found 0"),
        ({"probabilities": [0.75, 0.5]}, "wanted probabilities that add up to 1, found 1.25"),
        ({"actions": ["a"], "probabilities": [1], "action": 0}, "length >= 2"),
        ({"context": [0.0] * 65}, "length <= 64"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(change: dict[str, Any], detail: str) -> None:
    value = json.dumps(
        {"recommendation_id": "r1", "time_ms": 5, "route": "/", "items": [], "explored": EXPLORED | change}
    )
    found = decode(Record(0, 0, 0, None, value.encode()))
    assert isinstance(found, Rejection)
    assert detail in found.detail


@given(IMPRESSION)
def test_an_impression_is_read_as_it_was_written(made: Impression) -> None:
    assert decode(as_read(made)) == made
    assert record_of(made).key == (made.shopper.encode() or None)


@pytest.mark.parametrize("value", [*(wire(text).encode() for text in HOSTILE), None, b"null", b"[]", b"\xff"])
def test_what_is_no_impression_is_refused(value: bytes | None) -> None:
    found = decode(Record(0, 0, 0, None, value))
    assert isinstance(found, Rejection)
    assert found.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"recommendation_id": ""},
        {"recommendation_id": "x" * 129},
        {"items": [["a", 0.0]]},
        {"items": [["a", 1.5]]},
        {"items": [["", 1.0]]},
        {"items": [["a", 1.0]] * (items_max + 1)},
        {"time_ms": -1},
        {"time_ms": 2**63},
        {"placement": "x" * 129},
        {"route": ""},
    ],
    ids=str,
)
def test_each_field_has_its_bounds(changes: dict[str, Any]) -> None:
    document = {"recommendation_id": "r1", "time_ms": 5, "route": "/v1/x", "items": [["a", 1.0]]}
    assert isinstance(decode(Record(0, 0, 0, None, json.dumps(document).encode())), Impression)
    found = decode(Record(0, 0, 0, None, json.dumps(document | changes).encode()))
    assert isinstance(found, Rejection)
    assert found.reason == "schema"


def test_they_are_read_by_shopper_and_placement() -> None:
    log = MemoryLog()
    log.create()
    with closing(log.appender()) as appender:
        for made in (
            impression("r1", shopper="ann", placement="home"),
            impression("r2", placement="cart"),
            impression("r3", shopper="ann"),
        ):
            appender.append(record_of(made))
        appender.append(Outgoing(IMPRESSIONS, b"ann", b"noise"))
    with ReadOnlyLog(log, {}) as reading:
        assert [one.value.recommendation_id for one in reading.impressions()] == ["r1", "r2", "r3"]
        assert [one.value.recommendation_id for one in reading.impressions(shoppers="ann")] == ["r1", "r3"]
        assert [one.value.recommendation_id for one in reading.impressions(placements=["home", "cart"])] == ["r1", "r2"]
        assert reading.unreadable == {IMPRESSIONS: 3}


class Failing:
    """A log, and its appender, that fails while `error` is set; `opened` counts how often it was opened."""

    def __init__(self, log: MemoryLog) -> None:
        self._log, self.opened = log, 0
        self.error: Exception | None = None

    def appender(self) -> "Failing":
        self._appender = self._log.appender()
        self.opened += 1
        return self

    def append(self, record: Outgoing) -> None:
        if b"refused" in (record.value or b""):
            raise ValueError("the record is too large")
        self._appender.append(record)

    def flush(self) -> None:
        if self.error:
            raise self.error
        self._appender.flush()

    def close(self) -> None:
        pass


class Logger:
    """A log that can fail, and the thread that writes impressions to it."""

    def __init__(self, records_max: int = 100, flush_s: float = 0.2) -> None:
        self.log, self.metrics, self.stop = MemoryLog(), ServingMetrics(), threading.Event()
        self.log.create()
        self.failing = Failing(self.log)
        log: Any = self.failing
        self.impressions = Impressions(log, self.metrics, records_max=records_max, retry_s=0.01, flush_s=flush_s)
        self.errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.impressions.run(self.stop)
        except Misconfigured as error:
            self.errors.append(error)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self.stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def written(self) -> list[str]:
        reader = self.log.reader({PLACE: 0})
        records = [record for _, found in reader.read(10_000, 0.0) for record in found]
        return [found.recommendation_id for one in records if isinstance(found := decode(one), Impression)]

    def counts(self) -> dict[str, float]:
        """Return how many were written, and dropped by reason; those above 0."""
        return {
            sample.labels.get("reason", "written"): sample.value
            for family in text_string_to_metric_families(generate_latest(self.metrics.registry).decode())
            for sample in family.samples
            if sample.name.startswith("headrace_impressions_") and sample.value
        }


def offered(logger: Logger, names: Sequence[str]) -> list[bool]:
    return [logger.impressions.offer([impression(name)]) for name in names]


def until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        waited.wait(0.01)
    pytest.fail("it never became so")


def test_what_is_offered_is_written_in_order_and_the_rest_at_the_stop() -> None:
    logger = Logger()
    assert offered(logger, ["r1", "r2"]) == [True, True]
    logger.start()
    until(lambda: logger.written() == ["r1", "r2"])
    assert offered(logger, ["r3"]) == [True]
    logger.finish()
    assert logger.written() == ["r1", "r2", "r3"]
    assert logger.counts() == {"written": 3}
    assert logger.failing.opened == 1


def test_a_full_queue_drops_and_counts() -> None:
    logger = Logger(records_max=2)
    assert offered(logger, ["r1", "r2", "r3"]) == [True, True, False]
    assert logger.impressions.bounds() == {"impressions_queue": (2, 2)}
    logger.start()
    logger.finish()
    assert logger.written() == ["r1", "r2"]
    assert logger.counts() == {"written": 2, "queue_full": 1}


def test_while_the_log_is_away_answers_are_unlogged_and_what_was_accepted_is_written_later() -> None:
    logger = Logger()
    logger.failing.error = LogUnavailable("the broker is away")
    logger.start()
    assert offered(logger, ["r1"]) == [True], "nobody has noticed yet"
    until(lambda: not logger.impressions.offer([]))
    assert offered(logger, ["r2", "r3"]) == [False, False]
    logger.failing.error = None
    until(lambda: logger.impressions.offer([]))
    assert offered(logger, ["r4"]) == [True]
    logger.finish()
    assert set(logger.written()) == {"r1", "r4"}
    assert logger.counts() == {"written": 2, "log_away": 2}


def test_a_stop_does_not_wait_for_a_log_that_stays_away() -> None:
    logger = Logger()
    logger.failing.error = LogUnavailable("the broker is away")
    offered(logger, ["r1", "r2"])
    logger.start()
    until(lambda: not logger.impressions.offer([]))
    logger.finish()
    assert logger.counts() == {"stopped": 2}
    assert offered(logger, ["r3"]) == [False]


def test_one_refused_record_does_not_cost_the_others() -> None:
    logger = Logger()
    offered(logger, ["r1", "refused", "no text: \ud800", "r3"])
    logger.start()
    logger.finish()
    assert logger.written() == ["r1", "r3"]
    assert logger.counts() == {"written": 2, "refused": 2}


def test_a_log_that_may_not_be_written_ends_it() -> None:
    logger = Logger()
    logger.failing.error = Misconfigured("Kafka denies Write on topic impressions")
    offered(logger, ["r1"])
    logger.start()
    until(lambda: bool(logger.errors))
    logger.finish()
    assert offered(logger, ["r2"]) == [False]
    assert logger.counts() == {"stopped": 1, "log_away": 1}


def test_threads_that_offer_at_once_lose_nothing() -> None:
    logger = Logger(records_max=10_000, flush_s=9.0)
    logger.start()
    threads = [
        threading.Thread(target=offered, args=(logger, [f"{thread}-{n}" for n in range(500)])) for thread in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    logger.finish()
    assert sorted(logger.written()) == sorted(f"{thread}-{n}" for thread in range(8) for n in range(500))
