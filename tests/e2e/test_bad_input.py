"""Bad input: each record becomes one dead letter with its reason, or is accepted by a rule; models stay finite."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from kafka import KafkaProducer

from headrace.log.open import open_log
from headrace.log.protocol import RECORD_BYTES_MAX, Log, Outgoing, Partition
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds, committed_records
from headrace.topics import DEAD_LETTERS, EVENTS, partitions_of
from learners.shop import MakeShop
from operators.child import Children, total
from operators.deployment import read_deployment
from tests.shards import next_item

PLACES = partitions_of(EVENTS)
DUPLICATE: Final = "duplicate"


def document(number: int | str, /, **changes: Any) -> dict[str, Any]:
    made = {
        "specversion": "1.0", "id": f"e{number}", "source": "shop/web", "type": "view_item",
        "time": "2026-01-05T10:00:00Z", "data": {"items": [{"item_id": "i1", "price": 10.0}]},
    }  # fmt: skip
    return {**made, **changes}


def good(number: int) -> bytes:
    time = f"2026-01-05T{10 + number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    item = {"item_id": f"i{number % 7}", "price": 5.0 + number % 3}
    return json.dumps(document(number, time=time, data={"items": [item]})).encode()


def raw(text: str) -> bytes:
    return json.dumps(document("raw")).replace('"i1"', text).encode()


def priced(text: str) -> bytes:
    return json.dumps(document("priced")).replace("10.0", text).encode()


def changed(name: str, /, **changes: Any) -> bytes:
    return json.dumps(document(name, **changes)).encode()


def items(name: str, count: int) -> bytes:
    return changed(name, data={"items": [{"item_id": f"many{number}"} for number in range(count)]})


COMPLETE: Final = changed("whole")
KEY: Final = b"somebody"
CASES: Final[list[tuple[str, bytes | None, bytes | None, str | None]]] = [
    ("empty", KEY, b"", "empty"),
    ("no value", KEY, None, "empty"),
    ("no key", None, COMPLETE, "key_missing"),
    ("an empty key", b"", COMPLETE, "key_missing"),
    ("a huge key", b"k" * 129, COMPLETE, "key_invalid"),
    ("a key that is not UTF-8", b"\xff\xfe", COMPLETE, "bad_utf8"),
    ("another subject", KEY, changed("subject", subject="else"), "key_mismatch"),
    ("truncated", KEY, COMPLETE[: len(COMPLETE) // 2], "not_json"),
    ("two documents", KEY, COMPLETE + COMPLETE, "not_json"),
    ("not JSON", KEY, b"\x00\x01\x02", "not_json"),
    ("bad UTF-8", KEY, raw('"i1"').replace(b"i1", b"\xc3\x28"), "bad_utf8"),
    ("a lone surrogate", KEY, raw('"\\ud800"'), "not_json"),
    ("nested in a known field", KEY, b'{"data": ' + b"[" * 100_000, "schema"),
    ("nested in an unknown field", KEY, COMPLETE[:-1] + b', "more": ' + b'{"a":' * 100_000, "too_deep"),
    ("a list", KEY, b"[]", "schema"),
    ("null", KEY, b"null", "schema"),
    ("a number", KEY, b"17", "schema"),
    ("items of a wrong type", KEY, changed("type", data={"items": "i1"}), "schema"),
    ("an item id of a wrong type", KEY, raw("5"), "schema"),
    ("a huge integer as id", KEY, raw("9" * 5000), "schema"),
    ("a price of a wrong type", KEY, priced('"12"'), "schema"),
    ("NaN", KEY, priced("NaN"), "not_json"),
    ("Infinity", KEY, priced("Infinity"), "not_json"),
    ("minus Infinity", KEY, priced("-Infinity"), "not_json"),
    ("a number too large for a float", KEY, priced("1e999"), "schema"),
    ("a huge price", KEY, priced("1e308"), "schema"),
    ("a negative price", KEY, priced("-0.01"), "schema"),
    ("a huge value", KEY, changed("value", data={"items": [{"item_id": "i1"}], "value": 1e300}), "schema"),
    ("a huge quantity", KEY, changed("quantity", data={"items": [{"item_id": "i1", "quantity": 10**30}]}), "schema"),
    ("the year 9999", KEY, changed("late", time="9999-12-31T23:59:59Z"), "time_ahead"),
    ("the year 1", KEY, changed("early", time="0001-01-01T00:00:00+14:00"), "time_absurd"),
    ("1970", KEY, changed("epoch", time="1970-01-01T00:00:00Z"), "time_absurd"),
    ("a time without a zone", KEY, changed("zone", time="2026-01-05T10:00:00"), "schema"),
    ("an impossible date", KEY, changed("none", time="2026-02-30T10:00:00Z"), "schema"),
    ("a number as time", KEY, changed("number", time=1_767_600_000), "schema"),
    ("a huge event id", KEY, changed("x" * 200), "schema"),
    ("a huge item id", KEY, raw('"' + "i" * 500_000 + '"'), "schema"),
    ("10,000 items", KEY, items("10000", 10_000), "schema"),
    ("an unknown event", KEY, changed("event", type="teleport"), "unknown_event"),
    ("an unknown version", KEY, changed("version", specversion="2.0"), "unknown_version"),
    ("no items", KEY, changed("items", data={}), "items_missing"),
    ("a search without a term", KEY, changed("search", type="search", data={}), "search_term_missing"),
    ("a review without rating", KEY, changed("review", type="review", data={}), "rating_missing"),
    ("no data", KEY, b'{"specversion": "1.0", "id": "1", "source": "s", "type": "login"}', "schema"),
    # accepted
    ("a duplicate event", b"s0", good(0), DUPLICATE),
    ("a duplicate key", KEY, COMPLETE[:-1] + b', "id": "the last one is used"}', None),
    ("unknown fields", KEY, changed("unknown", more={"a": [1, None]}), None),
    ("2,000 items", KEY, items("2000", 2_000), None),
    ("half a year ahead of the newest", KEY, changed("ahead", time="2026-06-05T10:00:00Z"), None),
    ("five years behind", KEY, changed("behind", time="2021-01-05T10:00:00Z"), None),
]


@pytest.fixture
def log(log_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    for name in ("NEXT_ITEM__ITEMS_MAX", "NEXT_ITEM__SHOPPERS_MAX"):
        monkeypatch.setenv(f"HEADRACE_{name}", "5000")
    monkeypatch.setenv("HEADRACE_SHARDS__ONLINE__SNAPSHOT_INTERVAL_S", "0.2")
    monkeypatch.chdir(tmp_path)
    opened = open_log(log_url)
    opened.create()
    yield opened
    opened.close()


def test_bad_input(log: Log, log_url: str, tmp_path: Path, children: Children, request: pytest.FixtureRequest) -> None:
    deployment = read_deployment()
    placement = deployment.placement("online")
    command = ["online", "--log", log_url, "--blobs", str(tmp_path / "blobs"), "--metrics-port", "0"]
    first, second = CASES[: len(CASES) // 2], CASES[len(CASES) // 2 :]
    expected: Counter[tuple[str, bytes]] = Counter()
    count = 0

    def publish(cases: list[tuple[str, bytes | None, bytes | None, str | None]]) -> None:
        """Append each case between two valid events."""
        nonlocal count
        appender = log.appender()
        for number, (_, key, value, reason) in enumerate(cases, count):
            appender.append(Outgoing(EVENTS, b"s%d" % (number % 5), good(number)))
            appender.append(Outgoing(EVENTS, key, value, 0 if not key else None))
            if reason not in (None, DUPLICATE):
                expected[str(reason), value or b""] += 1
        count += len(cases)
        with pytest.raises(ValueError, match="wanted at most 1000000 bytes"):
            appender.append(Outgoing(EVENTS, KEY, b" " * RECORD_BYTES_MAX))
        appender.append(Outgoing(EVENTS, b"s0", good(count)))  # the rejection does not affect later records
        count += 1
        appender.close()

    def learned(records: int) -> bool:
        entries = [journal.decode(record) for record in committed_records(log, placement.shard.journal)]
        return sum(run.end - run.start for entry in entries for run in entry.runs) == records

    publish(first)
    online = children.start("online", *command)
    children.wait_until("the first half is learned", lambda: learned(2 * count - 1))
    online.kill()
    publish(second)
    online = children.start("online", *command)
    records = 2 * count - 2
    if log_url.startswith("kafka:"):  # the broker accepts slightly larger records than Headrace's producers send
        huge = COMPLETE + b" " * (RECORD_BYTES_MAX + 1 - len(COMPLETE))
        prefix = log_url.partition("?prefix=")[2]
        producer = KafkaProducer(**request.getfixturevalue("kafka_options"), max_request_size=2**21)
        producer.send(prefix + EVENTS, key=KEY, value=huge).get(timeout=120)
        producer.close()
        expected["too_large", huge] += 1
        records += 1
    children.wait_until("everything is learned", lambda: learned(records))

    letters = [
        msgspec.json.decode(record.value or b"") for record in committed_records(log, Partition(DEAD_LETTERS, 0))
    ]
    origins = {
        f"{EVENTS}/{place.number}/{record.offset}": record
        for place in PLACES
        for record in committed_records(log, place)
    }
    assert len({letter["id"] for letter in letters}) == len(letters)
    found: Counter[tuple[str, bytes]] = Counter()
    for letter in letters:
        value = origins[letter["id"]].value or b""
        assert letter["value_bytes"] == len(value)
        assert letter["detail"]
        found[letter["reason"], value] += 1
    assert sorted((reason, value[:300]) for reason, value in (found - expected)) == []
    assert sorted((reason, value[:300]) for reason, value in (expected - found)) == []

    check_covered(log, placement.shard)
    blobs = Blobs(tmp_path / "blobs")
    shop = check_folds(log, blobs, placement.shard, make=MakeShop(placement.kinds, deployment.sections)).fold
    accepted = sum(reason is None for _, _, _, reason in CASES)
    assert shop.events == count + accepted
    answer = next_item(shop).recommend("s1", shop.time_ms, 20)
    assert len(answer) == 20
    assert np.isfinite([score for _, score in answer]).all()
    begins = {f"/families/purchase/drift/loss/{name}" for name in ("lowest", "highest")}  # of what was not observed yet
    assert set(not_finite(shop.state())) <= {*begins, "/families/stock/levels/money"}  # the latter of no price at all
    children.wait_until("there is no lag", lambda: total(online.scrape(), "headrace_lag_records") == 0)
    before = sum(reason not in (None, DUPLICATE) for _, _, _, reason in first)
    assert total(online.scrape(), "headrace_events_rejected_total") == expected.total() - before


def not_finite(state: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of a state where a number is not finite."""
    if isinstance(state, dict):
        for name, part in state.items():
            yield from not_finite(part, f"{path}/{name}")
    elif isinstance(state, list):
        for place, part in enumerate(state):
            yield from not_finite(part, f"{path}/{place}")
    elif isinstance(state, float | np.ndarray) and not np.isfinite(state).all():
        yield path
