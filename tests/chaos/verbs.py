"""The verbs of operators under chaos: each is killed at a random moment, and can be run again; nothing is half done."""

import json
import random
import shutil
import signal
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from headrace.archive.files import read_file
from headrace.archive.manifest import ARCHIVED, problems, read_manifest
from headrace.archive.store import FolderStore
from headrace.errors import BackupDamaged, LogUnavailable
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing, Partition
from headrace.topics import EVENTS
from operators.manifest import MANIFEST, read_backup
from tests.chaos.processes import Process
from tests.chaos.shop import Shop, failed_as_promised
from tests.chaos.violation import Violation
from tests.chaos.watcher import Watcher, fingerprint

TRIM: Final = ("trim", "--keep-days", "1e-9")
"""Deletes all that is archived and that no kept snapshot needs."""
MAPPING: Final = """\
[event]
shopper = "_key"
type = {column = "kind", values = {seen = "view_item"}}
time = {column = "at"}
[item]
item_id = "thing"
"""
"""Makes events of the records that `spoil` appends."""
seconds_max: Final = 1.5
"""Maximum time, in seconds, until a verb is killed."""
end_s_max: Final = 60.0


class Verbs:
    """The verbs of one round; it counts what they did in `done`."""

    def __init__(self, shop: Shop, chance: random.Random, done: Counter[str]) -> None:
        self._shop, self._chance, self._done = shop, chance, done
        (shop.folder / "mapping.toml").write_text(MAPPING)
        self._backup = shop.folder / "backup"
        common = ["--log", shop.url]
        self._commands = {
            "backup": ["backup", str(self._backup), "--blobs", str(shop.folder / "blobs"), *common],
            "redrive": ["dead-letters", "redrive", "--source", "chaos", "--map", "mapping.toml", "--why", "x", *common],
        }
        if shop.url.startswith("sqlite:"):
            self._commands["trim"] = [*TRIM, *common]

    def spoil(self, number: int) -> None:
        """Append a record of which a re-driven letter makes an event, which must then be there once."""
        name = f"again-{number}"
        document = {"id": name, "source": "chaos", "kind": "seen", "at": "2025-01-06T00:00:00Z", "thing": "item-00001"}
        with suppress(LogUnavailable), closing(open_log(self._shop.url)) as log, closing(log.appender()) as appender:
            appender.append(Outgoing(EVENTS, b"chaos", json.dumps(document).encode()))
            appender.flush()
            self._shop.expected.append(name)

    def kill_one(self) -> None:
        """Start a verb and kill it at a random moment, unless it has ended before.

        Raises:
            Violation: it failed in a way that no fault explains, or left a backup that is damaged.
        """
        name = self._chance.choice(sorted(self._commands))
        process = self._start(name)
        self._shop.run(self._chance.uniform(0, seconds_max), lambda: process.code is not None)
        process.kill()
        killed = process.code == -signal.SIGKILL
        self._shop.kills += killed
        self._done[f"{name} {'killed' if killed else 'ended'}"] += 1
        if not (killed or process.code == 0 or failed_as_promised(process)):
            raise Violation(f"{name} ended with exit code {process.code}: {process.text[-3_000:]}")
        if name == "backup":
            self._check_backup()

    def _check_backup(self) -> None:
        if (self._backup / MANIFEST).exists():
            try:
                read_backup(self._backup, lambda *_: None)
            except BackupDamaged as error:
                raise Violation(f"a backup has a manifest and is damaged: {error}") from error
        shutil.rmtree(self._backup, ignore_errors=True)

    def finish(self) -> None:
        """Run each verb to its end. Raises Violation if one fails."""
        for name in sorted(self._commands):
            self._run(name, self._commands[name])
        self._check_backup()

    def _start(self, name: str) -> Process:
        shop = self._shop
        return Process(shop.context, name, self._commands[name], shop.folder, shop.folder / f"{name}.log")

    def _run(self, name: str, command: list[str]) -> None:
        shop = self._shop
        process = Process(shop.context, name, command, shop.folder, shop.folder / f"{name}.log")
        shop.run(end_s_max, lambda: process.code is not None)
        if process.code != 0:
            process.kill()
            raise Violation(f"{name} ended with exit code {process.code}: {process.text[-3_000:]}")

    def archive(self) -> None:
        """Archive what is left, once nothing else runs, and compare it with what a reader saw that ran all the time."""
        process = Process(
            self._shop.context, "archive", ["archive", "--once", "--log", self._shop.url], self._shop.folder,
            self._shop.folder / "archive.log",
        )  # fmt: skip
        if process.join(end_s_max) != 0:
            raise Violation(f"archive --once ended with exit code {process.code}: {process.text[-3_000:]}")
        check_archive(self._shop.archive, self._shop.watcher)


def check_archive(folder: Path, watcher: Watcher) -> None:
    """Check that an archive is whole and has each record that was seen, once, and no other."""
    store = FolderStore(folder)
    if found := list(problems(store)):
        raise Violation(f"archive: {'; '.join(found)}")
    manifest = read_manifest(store)
    assert manifest is not None
    for place, seen in watcher.seen.items():
        if place.topic in ARCHIVED:
            _same(
                place,
                seen,
                [
                    (r.offset, fingerprint(r.key, r.value))
                    for file in manifest.of(place)
                    for piece in read_file(store, file)
                    for r in piece
                ],
            )


def _same(place: Partition, seen: list[tuple[int, bytes]], archived: list[tuple[int, bytes]]) -> None:
    if archived[: len(seen)] != seen:
        raise Violation(f"archive: {place.topic}/{place.number}: {len(archived)} records, {len(seen)} were read")
