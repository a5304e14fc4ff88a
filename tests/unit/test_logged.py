"""What processes log holds no secrets and no ids of shoppers, whatever they meet."""

import ast
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from consumers import shard
from headrace.config import ShardSettings
from headrace.errors import LogUnavailable
from headrace.events import Data, Event, Item, at, encode
from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.security import KafkaSecurity, Secret
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing
from headrace.metrics import ShardMetrics
from headrace.process import log_to_stderr, run_with_retries
from headrace.shard.blobs import Blobs
from headrace.topics import EVENTS, ITEMS, JUDGEMENTS, TRAITS
from learners.families import default_placements
from learners.family import Family
from learners.purchase.family import PurchaseFamily
from producers.gateway.intake import Intake
from tests.gateway_shop import SECRET, VIEW, Shop, run

ROOT = Path(__file__).parents[2]
ROOTS = ("headrace", "producers", "learners", "consumers", "serving", "operators")
MAIL = "ann@shop.example"
PASSWORD = "tiger-in-the-tank"
PLACEMENTS = default_placements()
FIELDS = {
    "at", "blob", "bound", "child", "committed", "count", "entry", "error", "events", "exc_info", "families",
    "family", "files", "found", "hides", "how", "model", "outcome", "part", "partition", "partitions", "pause_s",
    "positions",
    "record", "records", "round", "route", "seconds", "setting", "shard", "start_offset", "topic", "topics",
    "trigger", "version", "wanted", "what", "writer",
}  # fmt: skip
"""Fields of log lines, none of which is a shopper's: places in the log, names of parts, numbers, and errors."""


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """Log as a process does, one line of JSON per event on standard error, debugging of libraries left out."""
    handlers, level = logging.root.handlers[:], logging.root.level
    log_to_stderr()
    yield capsys
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def lines(logged: pytest.CaptureFixture[str]) -> tuple[str, set[str]]:
    """Return all that was logged, and its events."""
    text = logged.readouterr().err
    return text, {json.loads(line)["event"] for line in text.splitlines() if line.startswith("{")}


def test_a_gateway_logs_neither_keys_nor_shoppers(
    tmp_path: Path, logged: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(shop: Shop) -> None:
        mine = {**VIEW, "subject": MAIL}
        shop.away = True
        for number in range(20):
            await shop.send({**mine, "id": f"f{number}"})
        shop.away = False
        await shop.send(mine, {**mine, "id": "e2", "type": "gift"}, {**mine, "id": "e3", "data": MAIL})
        await shop.ask("POST", "/v1/events", mine, authorization=f"Bearer {PASSWORD}")
        await shop.ask("PUT", f"/v1/shoppers/{MAIL}/traits", {"plan": "gold"})
        with monkeypatch.context() as broken:
            broken.setattr(Intake, "take", fail)
            with pytest.raises(RuntimeError):
                await shop.ask("PUT", f"/v1/shoppers/{MAIL}/traits", {"plan": "gold"})

    def fail(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("a fault of ours")

    shop = run(tmp_path, test)
    text, events = lines(logged)
    assert {"log unavailable", "request failed"} <= events
    assert '"route": "/v1/shoppers/{shopper}/traits"' in text
    hidden = [MAIL, PASSWORD, SECRET.decode(), shop.secret.shopper(MAIL), *shop.texts.values()]
    assert [one for one in hidden if one in text] == []
    assert [key for key in shop.texts.values() if key[-16:] in text] == [], "the end of a key is secret"


class Stopping(threading.Event):
    """Set as soon as a shard has committed so many records."""

    def __init__(self, log: Log, name: str, records: int) -> None:
        super().__init__()
        self._log, self._name, self._records = log, name, records

    def is_set(self) -> bool:
        committed = self._log.committed(self._name)
        return sum(position for place, position in committed.items() if place.topic == EVENTS) >= self._records


def run_shard(log: Log, folder: Path, name: str, stop: threading.Event) -> None:
    placement = PLACEMENTS[name]
    settings, metrics = ShardSettings(partition=placement.shard.number), [kind.surface for kind in placement.kinds]
    shard.run(log, Blobs(folder), placement, settings, {}, ShardMetrics(metrics), stop)


def fill(log: Log) -> int:
    """Write events, bad records and foreign ones of shoppers whose ids are addresses; return how many there are."""
    with closing(log.appender()) as appender:
        for number in range(60):
            shopper = f"{number % 7}.{MAIL}"
            made = Event(
                id=f"{MAIL}/{number}", source="shop/web", type="view_item", specversion="1.0", shopper=shopper,
                time=at(1_750_000_000_000 + number * 1_000), data=Data(items=[Item(f"i{number % 9}")]),
            )  # fmt: skip
            value = encode(made) if number % 5 else MAIL.encode()
            appender.append(Outgoing(EVENTS, shopper.encode() if number % 3 else b"0." + MAIL.encode(), value))
        appender.append(Outgoing(ITEMS, MAIL.encode(), MAIL.encode()))
        appender.append(Outgoing(TRAITS, MAIL.encode(), MAIL.encode()))
        appender.append(Outgoing(JUDGEMENTS, MAIL.encode(), MAIL.encode(), 0))
    return 60


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_shard_logs_no_shoppers(name: str, tmp_path: Path, logged: pytest.CaptureFixture[str]) -> None:
    log = MemoryLog()
    log.create()
    for number in (1, 2):  # the second one restores what the first one left
        stop = Stopping(log, name, number * fill(log))
        run_shard(log, tmp_path, name, stop)
    text, events = lines(logged)
    assert {"folding", "stopped"} <= events
    assert MAIL not in text


def test_a_record_at_which_a_shard_fails_is_named_by_its_place(
    tmp_path: Path, logged: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(self: Family, event: Event, now: object) -> None:
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(PurchaseFamily, "learn", learn)
    log = MemoryLog()
    log.create()
    fill(log)
    with pytest.raises(AssertionError):
        run_shard(log, tmp_path, "online", threading.Event())
    text, events = lines(logged)
    assert "failed at a record" in events
    assert MAIL not in text


def test_a_broker_that_is_away_is_logged_without_the_password(logged: pytest.CaptureFixture[str]) -> None:
    secured = KafkaSecurity("SASL_PLAINTEXT", "PLAIN", "shop", Secret(PASSWORD))

    def body() -> None:
        with closing(KafkaLog("127.0.0.1:1", security=secured, deadline_s=0.3)) as log:
            log.create()

    with pytest.raises(LogUnavailable):
        run_with_retries(body, threading.Event(), deadline_s=0.2)
    text, events = lines(logged)
    assert "retrying" in events
    assert PASSWORD not in text
    assert PASSWORD not in repr(secured)


def test_the_fields_of_log_lines_are_known() -> None:
    """Whoever logs a new field thinks of whose it is, and adds it here."""
    found: dict[str, str] = {}
    for root in ROOTS:
        for path in (ROOT / root).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "structlog" not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if node.func.attr in ("info", "warning", "error", "exception", "bind"):
                    found |= {keyword.arg or "**": f"{path}:{node.lineno}" for keyword in node.keywords}
    assert {name: where for name, where in found.items() if name not in FIELDS} == {}
