"""Backup and restore: a copy that is taken while the shard learns, goes on in an empty folder as the source did."""

import json
import math
import threading
from collections.abc import Callable
from contextlib import closing
from os import truncate
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from typer.testing import CliRunner

from headrace.errors import BackupDamaged, BlobMissing, Misconfigured
from headrace.log.open import open_log
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds, entries_of
from headrace.shard.follower import Follower
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.trim import plan, trim
from learners.shop import MakeShop, Shop
from operators.backup import back_up, restore
from operators.cli import app
from operators.deployment import Deployment, read_deployment
from operators.manifest import LOG, MANIFEST, Manifest, read_backup
from tests.filed_shop import COUNT, QUICK, SHARD, FiledShop, publish, step

POLITE = LoopSettings(commit_interval_s=0.01, snapshot_interval_s=0.3, idle_wait_s=0.0)
"""Snapshots as often that blobs are swept while a backup runs, but kept for as long as copying one takes."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shop and a verified backup of it."""
    folder = tmp_path_factory.mktemp("backed-up")
    shop, deployment = FiledShop(folder), deployment_in(folder)
    with closing(loop_of(shop, deployment, QUICK)) as loop:
        loop._snapshots.cost_share_max = math.inf  # as many as there are steps, also on a slow machine
        for first in range(0, COUNT, 50):
            publish(shop.log, 50, first)
            step(loop, first + 50)
        loop.run(lambda: True)
    shop.log.close()
    back_up(deployment, folder / "backup", silent, verified=True, dry_run=False)
    return folder


@pytest.fixture
def copied(backed_up: Path, folder: Path) -> Path:
    return copytree(backed_up, folder / "shop")


def deployment_in(folder: Path) -> Deployment:
    return read_deployment(log=f"sqlite:{folder / 'log.db'}", blobs=str(folder / "blobs"))


def loop_of(shop: FiledShop, deployment: Deployment, settings: LoopSettings = POLITE) -> Loop[Shop]:
    make = MakeShop(deployment.placement("online").kinds, deployment.sections)
    return Loop(shop.log, shop.blobs, SHARD, make=make, settings=settings)


def silent(task: str, done: int, total: int) -> None:
    pass


def state_after(folder: Path, deployment: Deployment, entries: int) -> str:
    """Return the digest of the fold of a log's first entries."""
    make = MakeShop(deployment.placement("online").kinds, deployment.sections)
    with (
        closing(open_log(f"sqlite:{folder / 'log.db'}")) as log,
        closing(Follower(log, Blobs(folder / "blobs"), SHARD, make=make, from_start=True)) as follower,
    ):
        while follower.number < entries:
            follower.step(10.0, 1)
        return follower.digest()


def test_a_backup_that_is_taken_while_a_shard_learns_is_restored_and_goes_on(folder: Path) -> None:
    shop, deployment, stop = FiledShop(folder / "source"), deployment_in(folder / "source"), threading.Event()

    def learn() -> None:
        with closing(loop_of(shop, deployment)) as loop:
            first = 0
            while not stop.wait(0.05):
                publish(shop.log, 50, first)
                first += 50
                step(loop, first)
            loop.run(lambda: True)

    learning = threading.Thread(target=learn)
    learning.start()
    try:
        while (entry := journal.newest(shop.log, SHARD)) is None or entry.snapshot is None:
            stop.wait(0.05)
        manifests = list[Manifest]()
        for number in range(3):
            found = back_up(deployment, folder / f"backup-{number}", silent, verified=number == 0, dry_run=False)
            manifests.append(found)
            while (last := journal.newest(shop.log, SHARD)) is None or last.number <= found.shards["online"].entry:
                stop.wait(0.01)
    finally:
        stop.set()
        learning.join()
    entries = [manifest.shards["online"].entry for manifest in manifests]
    assert entries == sorted(set(entries)), "the shard went on meanwhile"
    shop.log.close()

    there = folder / "restored"
    restored_from = restore(deployment_in(there), folder / "backup-2", silent, verified=True, dry_run=False).manifest
    point = restored_from.shards["online"]
    assert restored_from == manifests[-1]
    assert state_after(there, deployment, point.entry + 1) == state_after(
        folder / "source", deployment, point.entry + 1
    )
    assert manifests[0].shards["online"].state == state_after(folder / "source", deployment, entries[0] + 1)
    restored = FiledShop(there)
    assert [entry.number for entry in entries_of(restored.log, SHARD)] == list(range(point.entry + 1))
    with closing(loop_of(restored, deployment)) as loop:
        assert loop.number == point.entry + 1
        publish(restored.log, 50, 1_000_000)
        while loop._merge.lag(loop._positions) != dict.fromkeys(restored.log.partitions("events"), 0):
            loop.step()
        loop.run(lambda: True)
    check_covered(restored.log, SHARD)
    make = MakeShop(deployment.placement("online").kinds, deployment.sections)
    check_folds(restored.log, restored.blobs, SHARD, make=make)
    restored.log.close()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def a_blob(backup: Path) -> Path:
    return next((backup / "blobs").iterdir())


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the log": (lambda backup: flip(backup / LOG), "log.db: wanted"),
    "a byte of a blob": (lambda backup: flip(a_blob(backup)), "blobs/online.*: wanted"),
    "a blob is gone": (lambda backup: a_blob(backup).unlink(), "blobs/online.* cannot be read"),
    "a byte of the manifest": (lambda backup: flip(backup / MANIFEST), MANIFEST),
    "a part of the log": (lambda backup: truncate(backup / LOG, 8_192), "wanted .* bytes"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_is_refused_and_nothing_is_restored(copied: Path, folder: Path, damage: str) -> None:
    harm, wanted = DAMAGES[damage]
    harm(copied / "backup")
    with pytest.raises(BackupDamaged, match=wanted):
        restore(deployment_in(folder / "restored"), copied / "backup", silent, verified=False, dry_run=False)
    assert not (folder / "restored").exists()


def test_a_backup_whose_files_are_whole_but_whose_log_is_wrong_is_found_by_folding(copied: Path, folder: Path) -> None:
    shop = FiledShop(copied)
    shop.change("UPDATE records SET value = value || ' ' WHERE position = 20 AND partition = 1")
    shop.log.close()
    with pytest.raises(BackupDamaged, match="1 PROBLEMS: "):
        back_up(deployment_in(copied), folder / "changed", silent, verified=True, dry_run=False)
    with pytest.raises(Misconfigured, match=r"wanted a folder with manifest\.json"):
        read_backup(folder / "changed", silent)


def test_a_backup_of_an_empty_log_says_so(folder: Path) -> None:
    FiledShop(folder / "empty").log.close()
    found = back_up(deployment_in(folder / "empty"), folder / "backup", silent, verified=False, dry_run=False)
    assert found.text().startswith("recovery point: an empty log\n")


def test_what_is_there_is_never_overwritten(copied: Path, folder: Path) -> None:
    with pytest.raises(Misconfigured, match="wanted the folder of a new backup, found files in it"):
        back_up(deployment_in(copied), copied, silent, verified=False, dry_run=False)
    with pytest.raises(Misconfigured, match="wanted a file that is not there yet"):
        restore(deployment_in(copied), copied / "backup", silent, verified=False, dry_run=False)
    (copied / "log.db").rename(folder / "away.db")
    with pytest.raises(Misconfigured, match="wanted an empty folder for the blobs"):
        restore(deployment_in(copied), copied / "backup", silent, verified=False, dry_run=False)
    rmtree(copied / "blobs")
    on_kafka = read_deployment(log="kafka:127.0.0.1:1", blobs=str(copied / "blobs"))
    with pytest.raises(Misconfigured, match="wanted sqlite:PATH, as the backup is of sqlite:"):
        restore(on_kafka, copied / "backup", silent, verified=False, dry_run=False)
    restore(deployment_in(copied), copied / "backup", silent, verified=False, dry_run=False)


def test_damaged_blobs_and_trimmed_logs(copied: Path, folder: Path) -> None:
    shop, deployment = FiledShop(copied, later_ms=0), deployment_in(copied)
    trim(shop.log, plan(shop.log, [SHARD], 1e-9, shop.now_ms()))
    assert shop.log.first(SHARD.journal) > 0
    back_up(deployment, folder / "trimmed", silent, verified=True, dry_run=False)
    entry = journal.newest(shop.log, SHARD)
    assert entry is not None
    assert entry.snapshot is not None
    flip(shop.blobs.folder / entry.snapshot.blob)
    found = back_up(deployment, folder / "damaged", silent, verified=False, dry_run=False)
    assert found.damaged == [entry.snapshot.blob]
    assert f"NOT in the backup, as it is damaged or missing: {entry.snapshot.blob}" in found.text()
    rmtree(shop.blobs.folder)
    with pytest.raises(BlobMissing, match=entry.snapshot.blob):
        back_up(deployment, folder / "none", silent, verified=False, dry_run=False)
    shop.log.close()


def test_the_commands(copied: Path, folder: Path) -> None:
    def run(*arguments: str, log: Path = copied) -> str:
        done = CliRunner().invoke(app, [*arguments, "--log", f"sqlite:{log / 'log.db'}", "--blobs", str(log / "blobs")])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "nothing was written" in run("backup", "new", "--dry-run")
    assert not (folder / "new").exists()
    assert "recovery point: what was appended until 20" in run("backup", "new", "--verify")
    assert "nothing was written" in run("restore", "new", "--dry-run", log=folder / "there")
    assert not (folder / "there").exists()
    found = json.loads(run("restore", "new", "--verify", "--json", log=folder / "there"))
    assert found["manifest"]["shards"]["online"]["state"]
    assert found["seconds"] > 0
    assert "online: whole" in run("verify", log=folder / "there")
