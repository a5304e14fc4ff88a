"""The doctor: a healthy shop is all ok, and each fault brings its own finding, and no other."""

import json
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import headrace
from headrace.announcement import Announcement
from headrace.clock import wall_ms
from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing, Partition
from headrace.metrics import MetricsServer, ServingMetrics
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Pointer
from headrace.shard.kept import store_pointer
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import EVENTS, JOURNAL
from learners.purchase.family import PurchaseFamily
from operators.cli import app
from operators.deployment import read_deployment
from operators.doctor import examination, storage_checks
from operators.doctor.examination import CHECKS, Examination, examine, run_checks
from operators.doctor.finding import Check, Finding, World, warning
from operators.status import collect
from tests.shards import FINETUNE, ONLINE, finetune, online

SHARD = ONLINE.shard
SHARDS = (
    (ONLINE.shard, online(items_max=64, shoppers_max=50)),
    (FINETUNE.shard, finetune(items_max=64, shoppers_max=50)),
)
E0 = Partition(EVENTS, 0)
NO_PORTS: dict[str, Any] = {
    "shards": {name: {"metrics_port": 0} for name in ("online", "finetune")}, "serve": {"port": 0},
}  # fmt: skip


def event(number: int, **more: Any) -> Event:
    chance = random.Random(number)
    head = {"id": f"e{number}", "source": "shop/web", "time": at(1_750_000_000_000 + number * 1_000)}
    return Event(
        **{**head, **more}, type="view_item", specversion="1.0", shopper=f"s{chance.randrange(20)}",
        data=Data(items=[Item(f"i{chance.randrange(30)}")]),
    )  # fmt: skip


class Shop:
    """A log in a file that both default shards have learned, in a folder that a test may harm."""

    def __init__(self, folder: Path) -> None:
        self.file, self.blobs = folder / "log.db", Blobs(folder / "blobs")
        self.options = {"log": f"sqlite:{self.file}", "blobs": str(self.blobs.folder), **NO_PORTS}
        self.log = open_log(f"sqlite:{self.file}")
        self.log.create()

    def append(self, *records: Outgoing) -> None:
        with closing(self.log.appender()) as appender:
            for record in records:
                appender.append(record)

    def publish(self, *events: Event, partition: int | None = None) -> None:
        self.append(*(Outgoing(EVENTS, one.shopper.encode(), encode(one), partition) for one in events))

    def learn(self, *, snapshot_interval_s: float = 0.0) -> None:
        """Learn all that waits, and take a snapshot of each commit."""
        quick = LoopSettings(commit_interval_s=0.0, snapshot_interval_s=snapshot_interval_s, idle_wait_s=0.0)
        for shard, make in SHARDS:
            with closing(Loop(self.log, self.blobs, shard, make=make, settings=quick)) as loop:
                while any(self.log.end(place) > loop._positions[place] for place in shard.inputs(self.log)):
                    loop.step()
                    loop._snapshots._executor.submit(lambda: None).result()

    @property
    def pointer(self) -> Pointer:
        entry = journal.newest(self.log, SHARD)
        assert entry is not None
        assert entry.snapshot is not None
        return entry.snapshot

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.file)) as db, db:
            assert db.execute(statement).rowcount > 0

    def examined(self, **given: Any) -> Examination:
        return run_checks(World(read_deployment(**self.options), self.log, **given), CHECKS)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    shop = Shop(folder)
    for first in (0, 60, 120):
        shop.publish(*map(event, range(first, first + 60)))
        shop.learn()
    shop.publish(*map(event, range(180, 240)))
    shop.learn(snapshot_interval_s=1_000.0)
    shop.log.close()
    return folder


@pytest.fixture
def shop(healthy: Path, tmp_path: Path, clean_environment: None) -> Iterator[Shop]:
    shutil.copytree(healthy, tmp_path / "shop")
    made = Shop(tmp_path / "shop")
    yield made
    made.log.close()


def wrong(found: Examination) -> set[tuple[str, str]]:
    return {(one.check, one.level) for one in found.findings if one.level != "ok"}


def test_a_healthy_shop_is_all_ok(shop: Shop) -> None:
    for full in (False, True):
        found = examine(shop.options, full=full)
        assert wrong(found) == set(), found.findings
        assert [one.check for one in found.findings] == ["settings", "log", *(check.name for check in CHECKS)]
        assert found.unchecked == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete_before_the_snapshot(shop: Shop, more: int) -> None:
    shop.log.delete_before(E0, shop.pointer.positions["events/0"] + more)


def learn_bad_records(shop: Shop) -> None:
    shop.append(*(Outgoing(EVENTS, b"ann", b"%d" % number) for number in range(60)))
    shop.learn()


def send_from_a_fast_clock(shop: Shop) -> None:
    time = at(wall_ms() + 3_600_000)
    shop.publish(*(event(number, id=f"f{number}", source="app", time=time) for number in range(30)))


def send_to_two_partitions(shop: Shop) -> None:
    for number in (0, 1):
        shop.publish(event(999), partition=number)


def promote_a_missing_model(shop: Shop) -> None:
    shop.append(
        Announcement(
            id="finetune/1", kind="promoted", round=1, at_events=0, time_ms=0, blob=f"model-{'0' * 64}", version="r1"
        ).record()
    )


FAULTS: dict[str, tuple[Callable[[Shop], object], dict[str, Any], tuple[str, str]]] = {
    "the newest snapshot is deleted": (
        lambda shop: (shop.blobs.folder / shop.pointer.blob).unlink(), {}, ("snapshots", "warning")),
    "a byte of the newest snapshot is flipped": (
        lambda shop: flip(shop.blobs.folder / shop.pointer.blob), {}, ("snapshots", "warning")),
    "all snapshots are damaged": (
        lambda shop: any(map(flip, shop.blobs.folder.iterdir())), {}, ("snapshots", "error")),
    "all snapshots are deleted": (
        lambda shop: list(map(Path.unlink, shop.blobs.folder.iterdir())), {}, ("snapshots", "error")),
    "the folder has a snapshot of a longer journal": (
        lambda shop: store_pointer(
            shop.blobs, SHARD.name, msgspec.structs.replace(shop.pointer, number=9_999)
        ), {}, ("snapshots", "warning")),
    "retention has deleted what a restart reads": (
        lambda shop: delete_before_the_snapshot(shop, 1), {}, ("retention", "error")),
    "retention has deleted all before what a restart reads": (
        lambda shop: delete_before_the_snapshot(shop, 0), {}, ("retention", "warning")),
    "retention has deleted the journal": (
        lambda shop: shop.log.delete_before(SHARD.journal, shop.log.end(SHARD.journal)), {}, ("shards", "error")),
    "this clock is ten minutes late": (
        lambda shop: None, {"clock": lambda: wall_ms() - 600_000}, ("clocks", "warning")),
    "this clock is two hours late": (
        lambda shop: None, {"clock": lambda: wall_ms() - 7_200_000}, ("clocks", "error")),
    "a writer's clock was two days late": (
        lambda shop: shop.change("UPDATE clock SET ahead_ms = -172800000, told_ms = time_ms"), {},
        ("topic settings", "warning")),
    "another program writes to the journal": (
        lambda shop: shop.append(Outgoing(JOURNAL, b"x", b"{}", SHARD.number)), {}, ("strays", "warning")),
    "an event is changed": (
        lambda shop: shop.change(
            "UPDATE records SET value = value || ' ' WHERE position = (SELECT next - 1 FROM partitions WHERE"
            " topic = 'events' AND number = 0) AND partition = (SELECT id FROM partitions WHERE topic = 'events'"
            " AND number = 0)"
        ), {}, ("digests", "error")),
    "the disk is full": (lambda shop: None, {"free": lambda folder: 1_000}, ("disk", "error")),
    "the log grows by more a day than is free": (
        lambda shop: None,
        {
            "free": lambda folder: 1_000 if folder.name == "shop" else 10**12,
            "clock": lambda: wall_ms() + 90_000_000,
        },
        ("disk", "error")),
    "nothing is learned": (
        lambda shop: shop.publish(event(999)), {"clock": lambda: wall_ms() + 3_600_000}, ("shards", "error")),
    "the shards have stopped": (
        lambda shop: None, {"clock": lambda: wall_ms() + 300_000_000}, ("shards", "warning")),
    "a topic is missing": (
        lambda shop: shop.change("DELETE FROM partitions WHERE topic = 'scores'"), {}, ("topics", "error")),
    "the model in use is missing": (promote_a_missing_model, {}, ("artifacts", "error")),
    "a quarter of the newest records are bad": (learn_bad_records, {}, ("dead letters", "warning")),
    "a shopper is in two partitions": (
        send_to_two_partitions, {}, ("keys", "warning")),
    "a sender's clock is an hour fast": (send_from_a_fast_clock, {}, ("senders", "warning")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_brings_its_finding_and_no_other(shop: Shop, fault: str) -> None:
    harm, given, wanted = FAULTS[fault]
    harm(shop)
    found = shop.examined(**given)
    assert wrong(found) == {wanted}, found.findings
    for one in found.findings:
        assert one.level == "ok" or all((one.subject, one.wanted, one.found, one.follows, one.mends)), one
    assert found.unchecked == ([check.name for check in CHECKS[1:] if check.reads_log] if wanted[0] == "topics" else [])


def test_a_folder_that_cannot_be_written_to_is_told(shop: Shop) -> None:
    world = World(read_deployment(**{**shop.options, "blobs": "/proc/self"}), None)
    assert [(one.level, one.subject) for one in storage_checks.rights(world)] == [("error", "/proc/self")]


def test_other_releases_are_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headrace, "__version__", "0.0.1")
    assert wrong(shop.examined()) == {("versions", "warning")}
    newer = {name: part._replace(version=0) for name, part in PurchaseFamily.declared_parts().items()}
    monkeypatch.setattr(PurchaseFamily, "declared_parts", lambda: newer)
    found = shop.examined()
    assert wrong(found) == {("versions", "error"), ("versions", "warning")}, "the other shard is as before"


def test_a_server_that_differed_from_its_shard_is_told(shop: Shop) -> None:
    metrics = ServingMetrics()
    with MetricsServer(metrics) as server:
        shop.options["serve"] = {"port": server.port}
        assert wrong(shop.examined()) == set()
        metrics.differences.inc()
        assert wrong(shop.examined()) == {("processes", "warning")}
        status = collect(shop.log, read_deployment(**shop.options))
        assert [text for text in status.wrong if text.startswith("serve: its state differed from its shard's, 1 times")]


def test_no_check_ends_or_holds_up_the_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "deadline_s", 0.1)
    ended = threading.Event()
    world = World(read_deployment(**shop.options), shop.log)

    def fails(world: World) -> Iterator[Finding]:
        raise ZeroDivisionError("by zero")

    def hangs(world: World) -> Iterator[Finding]:
        ended.wait()
        yield from ()

    def finds(world: World) -> Iterator[Finding]:
        yield warning("it", wanted="a", found="b", follows="c", mends="d")

    checks = [Check(one.__name__, "all is well", one) for one in (fails, hangs, finds)]
    found = run_checks(world, checks).findings
    ended.set()
    assert [(one.check, one.level) for one in found] == [("fails", "error"), ("hangs", "error"), ("finds", "warning")]
    assert [one.found for one in found] == ["ZeroDivisionError: by zero", "no answer within 0.1 s", "b"]


def test_the_command_tells_what_is_wrong_by_its_exit_code(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SHARDS__ONLINE__METRICS_PORT", "SHARDS__FINETUNE__METRICS_PORT", "SERVE__PORT"):
        monkeypatch.setenv(f"HEADRACE_{variable}", "0")
    common = ["--log", str(shop.options["log"]), "--blobs", str(shop.options["blobs"])]

    def doctor(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["doctor", *common, *more])
        return done.exit_code, done.output

    assert doctor("--strict")[0] == 0
    (shop.blobs.folder / shop.pointer.blob).unlink()
    code, text = doctor()
    assert (code, "0 errors, 1 warnings" in text) == (0, True), text
    assert doctor("--strict")[0] == 1
    text = doctor("--json", "--full")[1]
    found = json.loads(text[text.index("{") :])  # the progress stands before it
    assert [one["check"] for one in found["findings"] if one["level"] != "ok"] == ["snapshots"], "told once"
    shop.log.close()
    data = shop.file.read_bytes()
    shop.file.write_bytes(b"no database " * 400)
    (broken, *_) = [one for one in json.loads(doctor("--json")[1])["findings"] if one["level"] == "error"]
    assert (broken["check"], "headrace restore" in broken["mends"]) == ("log", True), broken
    shop.file.write_bytes(data)
    shop.file.unlink()
    code, text = doctor("--json")
    found = json.loads(text)
    assert (code, found["errors"]) == (1, 1)
    assert "snapshots" in found["unchecked"]
    assert doctor("--set", "serve.prt=1")[0] == 1
    assert not shop.file.exists(), "it makes nothing"
