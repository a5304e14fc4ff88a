"""The sender: what of a sequence goes to a gateway, at which pace, and how the result counts it."""

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from headrace.client import Undelivered
from headrace.errors import Misconfigured
from headrace.log.memory import MemoryLog
from headrace.log.scan import topic_records
from headrace.topics import EVENTS, ITEMS, TRUTH
from operators.cli import app
from producers.publisher import Progress
from producers.scenario import SimulationSettings
from producers.sender import send
from producers.sequence import NumberedRecord
from producers.simulate import simulate, simulate_to_gateway
from tests.small_gateway import KEY, SmallGateway

SMALL = SimulationSettings(events=60, items=100, shoppers=10)


@pytest.fixture
def gateway() -> Iterator[SmallGateway]:
    with SmallGateway() as opened:
        yield opened


def event(number: int, **fields: object) -> NumberedRecord:
    document = {
        "specversion": "1.0", "id": str(number), "source": "test", "type": "login", "subject": "ann",
        "time": "2026-03-01T10:00:00Z", "data": {}, **fields,
    }  # fmt: skip
    return NumberedRecord(number, 1_000 * number, b"ann", json.dumps(document).encode())


def test_a_gateway_gets_the_events_and_items_that_the_log_would(gateway: SmallGateway) -> None:
    log = MemoryLog()
    log.create()
    simulate(log, SMALL)
    done = simulate_to_gateway(gateway.url, KEY, SMALL)
    sent_items = [item for target, batch in gateway.others for item in batch]
    ordered = sorted(gateway.events, key=lambda event: int(event["id"].rpartition("-")[2]))
    assert gateway.events == ordered
    in_log = [json.loads(record.value or b"") for record in topic_records(log, EVENTS)]
    assert {one["id"]: one for one in gateway.events} == {one["id"]: one for one in in_log}
    items = [json.loads(record.value or b"") for record in topic_records(log, ITEMS)]
    assert sent_items == items
    truths = len(list(topic_records(log, TRUTH)))
    assert (done.published, done.already_published, done.left_out) == (60, 0, {"truth": truths})


def test_a_second_run_repeats_what_the_gateway_knows(gateway: SmallGateway) -> None:
    simulate_to_gateway(gateway.url, KEY, SMALL)
    done = simulate_to_gateway(gateway.url, KEY, SMALL)
    assert (done.published, done.already_published) == (0, 60)
    assert len(gateway.events) == 60


def test_refusals_are_counted_by_reason(gateway: SmallGateway) -> None:
    sequence = [event(0), event(1, type="lift_off"), event(2, type="view_item"), event(3)]
    done = send(gateway.url, KEY, sequence, origin="test")
    assert (done.published, done.rejected) == (2, {"unknown_event": 1, "items_missing": 1})
    assert [example.partition(": ")[0] for example in done.examples] == ["POST /v1/events"] * 2
    assert (done.first_time_ms, done.last_time_ms) == (0, 3_000)


def test_events_are_sent_at_the_pace_of_event_time(gateway: SmallGateway) -> None:
    now_s, sleeps, reports = 0.0, list[float](), list[Progress]()

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        sleeps.append(duration_s)
        now_s += duration_s

    sequence = [event(number) for number in range(4)]
    send(
        gateway.url, KEY, sequence, origin="test", speed=2.0, clock=lambda: now_s, sleep=sleep, progress=reports.append
    )
    assert sleeps == [0.5, 0.5, 0.5]
    assert reports == [Progress(4, 0, 1.0)]


def test_a_gateway_that_is_away_or_refuses_the_key_ends_the_run(gateway: SmallGateway) -> None:
    with pytest.raises(Undelivered, match="http_401"):
        send(gateway.url, "another", [event(0)], origin="test", retry_s=5)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(
        app, ["simulate", "--events", "30", "--items", "100", "--metrics-port", "0", *arguments]
    )
    if result.exception:
        raise result.exception
    return result.output


@pytest.mark.usefixtures("clean_environment")
def test_the_command_sends_and_says_what_it_cannot_send(gateway: SmallGateway) -> None:
    output = run("--gateway", gateway.url, "--key", KEY)
    assert f"gateway {gateway.url}" in output
    assert "producer: 30 events published, 0 were in the log already" in output
    assert "left out: truth" in output
    assert len(gateway.events) == 30


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--gateway", "http://127.0.0.1:1"), "wanted both --gateway and --key"),
        (("--key", KEY), "wanted both --gateway and --key"),
        (
            ("--gateway", "http://127.0.0.1:1", "--key", KEY, "--log", "sqlite:log.db"),
            "wanted neither --log nor --pace",
        ),
        (("--gateway", "http://127.0.0.1:1", "--key", KEY, "--pace", "rounds"), "wanted neither --log nor --pace"),
        (("--gateway", "127.0.0.1:1", "--key", KEY), "wanted http://HOST"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: tuple[str, ...], found: str) -> None:
    with pytest.raises(Misconfigured, match=found):
        run(*options)
