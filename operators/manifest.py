"""The manifest of a backup: what its files hold, and their hashes."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from headrace.errors import BackupDamaged, Misconfigured
from headrace.shard.journal import Pointer
from headrace.topics import (
    ALARMS,
    EVENTS,
    EXPERIMENTS,
    IMPRESSIONS,
    ITEMS,
    JOURNAL,
    JUDGEMENTS,
    MODELS,
    POLICIES,
    PUBLISHED,
    RULES,
    SILENCES,
    TRAITS,
)

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
LOG: Final = "log.db"
BLOBS: Final = "blobs"
hashed_bytes: Final = 2**20
"""Number of bytes of a file that are read at once."""
KAFKA_KEEPS: Final = (
    EVENTS, IMPRESSIONS, ITEMS, TRAITS, RULES, SILENCES, EXPERIMENTS, POLICIES, MODELS, ALARMS, JOURNAL, JUDGEMENTS,
    PUBLISHED,
)  # fmt: skip
"""What a shard, a follower or a producer reads again after a restart."""
Report: TypeAlias = Callable[[str, int, int], None]
"""Takes what is done, how much of it, and the total."""


class Stored(Struct, frozen=True):
    """A file of a backup."""

    bytes: int
    sha256: str


class Point(Struct, frozen=True):
    """Where a shard stands in a backup.

    It has committed the journal's entries up to number `entry`, the last one at `appended_ms`; `digest` is that
    entry's. `snapshot` is the newest one that the entry names. `state` is the digest of the shard's state after that
    entry, empty if the backup was not verified.
    """

    entry: int
    appended_ms: int
    digest: str
    snapshot: Pointer | None
    state: str = ""


class Manifest(Struct, kw_only=True, omit_defaults=True):
    """What a backup holds.

    `time_ms` is when it was begun, by the clock of its process; `newest_ms` the newest append time in `events` and
    `journal`. `log` is the URL of the source; with a log on Kafka, `files` has only blobs. `damaged` are blobs that
    were to be copied and could not be. `seconds` is how long the backup took, `fold_s` how long its verification
    folded. `checksum` is the hash of the manifest without it.
    """

    format: int = FORMAT
    headrace: str
    time_ms: int
    log: str
    newest_ms: int
    shards: dict[str, Point]
    files: dict[str, Stored]
    damaged: list[str] = []
    seconds: float = 0.0
    fold_s: float = 0.0
    checksum: str = ""

    @property
    def has_log(self) -> bool:
        """Whether the log is in the backup."""
        return LOG in self.files

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(stored.bytes for stored in self.files.values())

    def text(self) -> str:
        """Return the recovery point and what the backup has, in lines."""
        appended = f"what was appended until {time_text(self.newest_ms)}" if self.newest_ms else "an empty log"
        lines = [f"recovery point: {appended}"]
        for name, point in self.shards.items():
            snapshot = f"snapshot after {point.snapshot.number:,} entries" if point.snapshot else "no snapshot"
            state = f", state {point.state[:16]}" if point.state else ""
            lines.append(
                f"{name}: up to journal entry {point.entry:,} ({time_text(point.appended_ms)}); {snapshot}{state}"
            )
        blobs = len(self.files) - self.has_log
        lines.append(f"{'the log and ' if self.has_log else ''}{blobs} blobs, {self.bytes / 1e6:,.1f} MB")
        lines += [f"NOT in the backup, as it is damaged or missing: {blob}" for blob in self.damaged]
        if not self.has_log:
            kept = ", ".join(KAFKA_KEEPS)
            lines.append(f"the log is not in it; Kafka must keep these topics by its own means: {kept}")
        return "\n".join(lines)


def time_text(time_ms: int) -> str:
    """Return a time as text."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def read_backup(folder: Path, report: Report) -> Manifest:
    """Return the manifest of a backup after all its files were compared with it.

    Raises:
        Misconfigured: there is no backup, or one of another format.
        BackupDamaged: a file is missing, or is not as it was written.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise Misconfigured(f"backup {folder}: wanted a folder with {MANIFEST}, found {error}") from error
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupDamaged(f"backup {folder}: {MANIFEST}: {error}") from error
    if manifest.format != FORMAT:
        raise Misconfigured(
            f"backup {folder}: wanted format {FORMAT}, found {manifest.format}, written by Headrace {manifest.headrace}"
        )
    if manifest.checksum != _checksum(manifest):
        raise BackupDamaged(f"backup {folder}: {MANIFEST} does not have the checksum that it states")
    for done, (name, wanted) in enumerate(manifest.files.items(), 1):
        try:
            found = stored(folder / name)
        except OSError as error:
            raise BackupDamaged(f"backup {folder}: {name} cannot be read: {error}") from error
        if found != wanted:
            raise BackupDamaged(
                f"backup {folder}: {name}: wanted {wanted.bytes:,} bytes with the hash {wanted.sha256[:16]}, found"
                f" {found.bytes:,} with {found.sha256[:16]}"
            )
        report("files checked", done, len(manifest.files))
    return manifest


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest of a backup, durably, with its checksum."""
    manifest.checksum = _checksum(manifest)
    part = folder / f"{MANIFEST}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    sync(part)
    part.rename(folder / MANIFEST)
    sync(folder)


def _checksum(manifest: Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(manifest, checksum=""))).hexdigest()


def stored(path: Path) -> Stored:
    """Return the size and the hash of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(hashed_bytes):
            found.update(data)
    return Stored(path.stat().st_size, found.hexdigest())


def sync(path: Path) -> None:
    """Make a file or a folder durable."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
