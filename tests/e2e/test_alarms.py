"""Faults in running processes: the right alarm arrives at a webhook, no other does, and it is over after the mend.

A real Prometheus with the shipped rules scrapes real processes and tells a real Alertmanager with the shipped
configuration, which posts to a webhook. All durations are divided by `FACTOR` (`tests.alarms`), so a minute of a shop
is a second of the test. The tests are one story, in their order; faults that are in flight together have different
causes.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.topics import EVENTS, JOURNAL
from operators.child import Child, Children, total
from tests.alarms import Alarm, Watched, free_ports, program
from tests.gateway_process import GatewayProcess
from tests.pages import DOCS, commands_of, run
from tests.small_shop import said

LONG: Final = pytest.mark.full
"""These take two minutes, and a machine that other tests use delays processes by what counts as minutes here."""
FACTOR: Final = 60
THRESHOLDS: Final = {"SnapshotOld": ("> 10000", "> 100"), "LagGrows": ("> 300", "> 5")}
"""Both take an hour of a shop to be reached: entries come by time, and LagGrows compares seconds of learning."""
SECONDS: Final = {
    "ProcessDown": 30, "SnapshotOld": 60, "ModelMissing": 60, "GatewaySilent": 60, "FollowerDiffers": 60,
    "SnapshotsFail": 90, "BadEvents": 60, "LagGrows": 90, "DriftAlarm": 60, "LogAway": 40,
}  # fmt: skip
"""By alert, the longest time from the fault to the message: three times what rule and route say and the processes take,
as other tests use the machine.
"""
HISTORY: Final = 10_500
"""Events in the log from the start, of two weeks: no drift is told before a week has passed."""
HISTORY_MS: Final = 14 * 86_400_000
LOST: Final = f"model-{'0' * 64}"
SETTINGS: Final = """\
[next_item]
items_max = 5000
shoppers_max = 5000

[serve]
compare_s = 0.5
"""


class Shop(Watched):
    """A shop's processes, and what is sent to them."""

    seconds = SECONDS

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, folder / "headrace-data", stack)
        self.chance, self.numbers = random.Random(1), itertools.count()
        (self.data / "logs").mkdir(parents=True)
        (folder / "headrace.toml").write_text(SETTINGS)
        self.url, self.blobs = f"sqlite:{self.data / 'log.db'}", self.data / "blobs"
        self.ports = dict(zip(("online", "serve", "gateway"), free_ports(3), strict=True))
        self.environ = {
            "HEADRACE_LOG": self.url, "HEADRACE_BLOBS": str(self.blobs), "HEADRACE_HOST": "127.0.0.1",
            "HEADRACE_KEYS": str(self.data / "keys.json"), "HEADRACE_PSEUDONYMS": str(self.data / "pseudonyms.json"),
            "HEADRACE_GATEWAY__SPOOL": str(self.data / "spool"), "HEADRACE_GATEWAY__PORT": "0",
            "HEADRACE_GATEWAY__METRICS_PORT": str(self.ports["gateway"]),
        }  # fmt: skip
        self.children = stack.enter_context(Children(self.data / "logs", self.environ, cwd=folder))
        self.log: Log = stack.enter_context(closing(open_log(self.url)))
        self.log.create()
        self.appender = stack.enter_context(closing(self.log.appender()))
        self.publish(HISTORY, over_ms=HISTORY_MS)
        # Its first snapshot would be due after eleven days.
        self.online = self.start_online(1e6, 0.02)
        self.serve = self.start("serve", "serve", "--port", str(self.ports["serve"]))
        self.gateway = GatewayProcess(self.children, folder, self.environ)
        self.online.wait_until_up()
        self.serve.wait_until_up()
        self.children.wait_until("the history is learned", lambda: self.learned() >= HISTORY)
        self.sends = threading.Event()
        self.sends.set()
        self.ended = threading.Event()
        stack.callback(self.ended.set)
        sender = threading.Thread(target=self.send, name="sender", daemon=True)
        sender.start()
        self.watch(self.ports, FACTOR, thresholds=THRESHOLDS, known=self.yesterday())

    def learned(self) -> float:
        return total(self.online.scrape(), "headrace_events_total", result="learned")

    def start(self, name: str, *arguments: str) -> Child:
        return self.children.start(name, *arguments, up=False)

    def start_online(self, snapshot_interval_s: float, commit_interval_s: float) -> Child:
        return self.start(
            "online", "online", "--metrics-port", str(self.ports["online"]),
            "--set", f"shards.online.snapshot_interval_s={snapshot_interval_s}",
            "--set", f"shards.online.commit_interval_s={commit_interval_s}",
        )  # fmt: skip

    def event(self, item: str, price: float, ago_ms: int = 0) -> Event:
        number = next(self.numbers)
        return Event(
            id=f"e{number}", source="shop/web", type="view_item", specversion="1.0",
            shopper=f"s{self.chance.randrange(2_000)}", time=at(round(time.time() * 1_000) - ago_ms),
            data=Data(items=[Item(item, price=price)]),
        )  # fmt: skip

    def usual(self, ago_ms: int = 0) -> Event:
        number = self.chance.randrange(300)
        return self.event(f"i{number}", 5.0 + number % 40, ago_ms)

    def changed(self) -> Event:
        """Return an event of another assortment, a hundred times as dear."""
        number = self.chance.randrange(40)
        return self.event(f"new{number}", 5_000.0 + number)

    def publish(self, count: int, *, changed: bool = False, over_ms: int = 0) -> None:
        """Publish so many events, of now, or spread over a time until now."""
        for number in range(count):
            event = self.changed() if changed else self.usual(over_ms - over_ms * number // count)
            self.appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))
        self.appender.flush()

    def publish_bad(self, count: int) -> None:
        for _ in range(count):
            self.appender.append(Outgoing(EVENTS, b"somebody", b"no event"))
        self.appender.flush()

    def send(self) -> None:
        """Send events to the gateway, 100 a second, as long as `sends` is set."""
        while not self.ended.wait(0.05):
            if self.sends.is_set():
                body = b"[" + b",".join(encode(self.usual()) for _ in range(5)) + b"]"
                try:
                    self.gateway.ask("POST", "/v1/events", body, timeout_s=30)
                except OSError:
                    continue

    def yesterday(self) -> str:
        """Return what Prometheus would know of yesterday."""
        yesterday = time.time() - 86_400 / FACTOR
        name = "headrace:gateway_accepted:increase10m"
        # Not of the first seconds, in which Prometheus has not found the gateway yet.
        samples = [f"{name} 900 {yesterday + second:.0f}" for second in range(25, 600)]
        return "\n".join([f"# TYPE {name} gauge", *samples, "# EOF", ""])

    def settle_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process be where a person runs commands: in the shop's folder, with the addresses."""
        addresses = {
            "PROMETHEUS": self.prometheus, "ALERTMANAGER": self.alertmanager, "SERVE": self.serve.address,
            "GATEWAY": f"http://127.0.0.1:{self.gateway.port}",
        }  # fmt: skip
        monkeypatch.chdir(self.folder)
        for name, value in {**self.environ, **addresses}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield a shop in which all is well."""
    for name in ("prometheus", "promtool", "amtool"):
        program(name)
    with ExitStack() as stack:
        made = Shop(tmp_path_factory.mktemp("shop"), stack)
        yield made
        print(made.webhook.told())
        print(made.children.tails())


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OLD, LOST_MODEL = Alarm("SnapshotOld", "online"), Alarm("ModelMissing", "serve")
KILLED, SILENT = Alarm("ProcessDown", "online"), Alarm("GatewaySilent", "gateway")
DIFFERS, FULL = Alarm("FollowerDiffers", "serve"), Alarm("SnapshotsFail", "online")
FLOOD, LAG, DRIFT = Alarm("BadEvents", "online"), Alarm("LagGrows", "online"), Alarm("DriftAlarm")
AWAY: Final = Alarm("LogAway", "gateway")


@LONG
def test_a_stale_snapshot_and_a_model_that_is_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No snapshot is taken from the start; a model is announced of which nobody has the blob."""
    began_s = time.monotonic()
    with shop.only(OLD, LOST_MODEL):
        shop.appender.append(said("promoted", 1, version="r1", blob=LOST).record())
        shop.appender.flush()
        shop.wait_for(LOST_MODEL, OLD, since_s=began_s)
        shop.settle_in(monkeypatch)
        code, output = run("headrace roll-back --to none --why 'its blob is lost'")
        assert code == 0, output
        shop.wait_until_over(LOST_MODEL)


@LONG
def test_a_kill_and_a_silent_gateway(shop: Shop) -> None:
    """The shard is killed and started again with snapshots; nothing is sent to the gateway."""
    began_s = time.monotonic()
    with shop.only(KILLED, SILENT):
        shop.sends.clear()
        shop.children.wait_until("all is learned", lambda: total(shop.serve.scrape(), "headrace_lag_records") == 0)
        time.sleep(1.5)  # the server reports its lag each second
        shop.online.kill()
        shop.wait_for(KILLED, since_s=began_s)
        shop.online = shop.start_online(1.0, 0.2)
        shop.wait_for(SILENT, since_s=began_s)
        # Its start is not faster than in a shop; records that wait meanwhile would count as minutes.
        shop.children.wait_until("it learns", lambda: '"folding"' in shop.online.text, 120)
        shop.sends.set()
        shop.wait_until_over(KILLED, SILENT, OLD)


Found = tuple[int, dict[str, Any]]


def entries(db: sqlite3.Connection, wanted: str, position: int = -1) -> list[Found]:
    """Return positions and entries of the journal of `online`: the `newest` one, or `all` after a position."""
    found = db.execute(
        "SELECT r.position, r.value FROM records r JOIN partitions p ON p.id = r.partition"
        " WHERE p.topic = ? AND p.number = 0 AND r.position > ? ORDER BY r.position DESC LIMIT ?",
        (JOURNAL, position, 1 if wanted == "newest" else 1_000),
    ).fetchall()
    return [(place, json.loads(value)) for place, value in reversed(found)]


def rewrite(db: sqlite3.Connection, position: int, entry: Mapping[str, Any]) -> None:
    """Put an entry in the place of another one."""
    db.execute(
        "UPDATE records SET value = ? WHERE position = ?"
        " AND partition = (SELECT id FROM partitions WHERE topic = ? AND number = 0)",
        (msgspec.json.encode(entry), position, JOURNAL),
    )


def names_another(db: sqlite3.Connection, frozen: Found) -> Found | None:
    """Return the first entry that names the snapshot of the state after a frozen one, None if there is none yet."""
    position, before = frozen
    return next((one for one in entries(db, "all", position) if one[1]["snapshot"] != before["snapshot"]), None)


@contextmanager
def edited_journal(shop: Shop) -> Iterator[None]:
    """Let an entry of the journal name another snapshot than the shard has stored; put it right after the block.

    The server stands still for a moment, so that it reads the changed entry. It compares its state with the digest in
    the snapshot's name, and finds another one.
    """
    path = shop.url.removeprefix("sqlite:")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        shop.children.wait_until("a state is frozen", lambda: bool(entries(db, "newest")[0][1].get("frozen")), 30)
        os.kill(shop.serve.pid, signal.SIGSTOP)
        try:
            frozen = next(one for one in reversed(entries(db, "all")) if one[1].get("frozen"))
            shop.children.wait_until("it is stored", lambda: names_another(db, frozen) is not None, 30)
            found = names_another(db, frozen)
            assert found
            position, right = found
            snapshot = {**right["snapshot"], "blob": f"online-{'0' * 64}"}
            rewrite(db, position, {**right, "snapshot": snapshot})
        finally:
            os.kill(shop.serve.pid, signal.SIGCONT)
        try:
            yield
        finally:
            rewrite(db, position, right)


@contextmanager
def full_disk(shop: Shop) -> Iterator[None]:
    """Let the folder of blobs be full for the shard during the block: its calls fail with ENOSPC."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("needs strace: apt-get install strace")
    command = [strace, "-qq", "-f", "-p", str(shop.online.pid), "-o", "/dev/null", "-P", str(shop.blobs)]
    traced = shop.children.run("strace", [*command, "-e", "trace=fsync", "-e", "inject=fsync:error=ENOSPC"])
    try:
        yield
    finally:
        traced.request_stop(signal.SIGINT)
        traced.stop()


@LONG
def test_a_follower_that_differs_a_full_disk_and_a_flood(shop: Shop) -> None:
    """The server finds another digest than its own; then no blob can be stored, and a tenth of the events is bad."""
    with shop.only(DIFFERS, FULL, FLOOD):
        began_s = time.monotonic()
        with edited_journal(shop), full_disk(shop):
            while FLOOD not in shop.webhook.firing() and time.monotonic() < began_s + SECONDS["BadEvents"]:
                shop.publish_bad(4)
                time.sleep(0.2)
            shop.wait_for(FLOOD, DIFFERS, FULL, since_s=began_s)
        shop.wait_until_over(FULL, FLOOD)


@contextmanager
def starved(process: Child) -> Iterator[None]:
    """Let a process run a fifth of the time only, in the block."""
    over = threading.Event()

    def starve() -> None:
        while not over.is_set():
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.16)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.04)

    thread = threading.Thread(target=starve, name="starve")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@LONG
def test_a_lag_and_a_drift(shop: Shop) -> None:
    """The shard gets a fifth of a core while more comes in, and what comes is another assortment."""
    began_s = time.monotonic()
    with shop.only(LAG, DRIFT):
        with starved(shop.online):
            while LAG not in shop.webhook.firing() and time.monotonic() < began_s + SECONDS["LagGrows"]:
                shop.publish(300, changed=True)
                time.sleep(0.2)
            shop.wait_for(LAG, since_s=began_s)
        # How much of it came during the lag depends on the machine, and a drift is seen within 20,000 events.
        until_s = time.monotonic() + SECONDS["DriftAlarm"]
        while DRIFT not in shop.webhook.arrived() and time.monotonic() < until_s:
            shop.publish(200, changed=True)
            time.sleep(0.2)
        assert DRIFT in shop.webhook.arrived(), shop.webhook.told()
        shop.wait_until_over(LAG, DRIFT)


def test_a_log_that_is_away(shop: Shop) -> None:
    """Nobody can write to the log: the gateway says so, and takes events to its disk."""
    path = shop.url.removeprefix("sqlite:")
    # That shoppers view the usual assortment again is a drift, too. What the log's absence holds back, that nobody
    # learns anything, may be over a moment later, or be told before the receiver of alerts has heard of the absence.
    with (
        shop.only(AWAY, besides=[DRIFT, Alarm("Stalled", "serve"), Alarm("Stalled", "online")]),
        closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as db,
    ):
        began_s = time.monotonic()
        db.execute("BEGIN IMMEDIATE")
        try:
            shop.wait_for(AWAY, since_s=began_s)
        finally:
            db.execute("ROLLBACK")
        shop.wait_until_over(AWAY)


MAY_REFUSE: Final = {"headrace doctor": 1, "headrace roll-back --to none": 2}
"""Commands, and with what exit code they may end: faults have left their marks, and no model is in use any more."""


def test_the_commands_of_the_runbook_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is run once, where all is well again."""
    for name in ("online", "serve", "gateway", "finetune"):  # a shard that does not run here has a log all the same
        (shop.data / f"logs/{name}.log").touch()
    commands = dict.fromkeys(commands_of(DOCS / "alerts.md"))
    assert len(commands) > 30
    shop.settle_in(monkeypatch)
    for command in commands:
        code, output = run(f"true; {command}" if "|" in command else command)  # pipes need a shell
        assert code in (0, *(one for begin, one in MAY_REFUSE.items() if command.startswith(begin))), (
            f"{command}\n{output}"
        )
    code, output = run('amtool --alertmanager.url "$ALERTMANAGER" silence query --expired -o json')
    silences = json.loads(output)
    assert len(silences) == 1
    assert {one["status"]["state"] for one in silences} == {"expired"}


@LONG
def test_all_is_over(shop: Shop) -> None:
    shop.wait_until_over(*shop.webhook.firing(), within_s=90)
    severities = {texts["severity"] for _, _, _, texts in shop.webhook.messages}
    assert severities == {"page", "warn", "info"}
