"""Backups: a folder with the blobs that are in use, the log if it is a file, and a manifest that says what they hold.

The log is read as of one moment, the recovery point. The snapshots that it names at that moment are copied first: each
stays for as long as two newer ones are taken. The manifest is written last; a folder without one is no backup.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

import headrace
from headrace.archive.store import open_store
from headrace.clock import Clock, wall_ms
from headrace.errors import BackupDamaged, BackupUnwritable, BlobCorrupt, BlobMissing, Misconfigured
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.log.sqlite import SqliteLog
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds
from headrace.shard.follower import Follower, no_report
from headrace.shard.kept import pointers_kind
from headrace.shard.verify import verify
from headrace.topics import EVENTS, JOURNAL
from learners.families import Placement
from learners.shop import MakeShop
from operators.catching_up import Newer, append_newer, find_newer
from operators.deployment import Deployment
from operators.facts import verified_text
from operators.manifest import (
    BLOBS,
    LOG,
    Manifest,
    Point,
    Report,
    Stored,
    hashed_bytes,
    read_backup,
    stored,
    sync,
    time_text,
    write_manifest,
)


def back_up(
    deployment: Deployment, folder: Path, report: Report, *, verified: bool, dry_run: bool, clock: Clock = wall_ms
) -> Manifest:
    """Write a backup into a new folder while all processes run; return its manifest.

    Args:
        verified: then fold the copy, as `fold_backup` does.
        dry_run: write nothing; the files' hashes are empty.

    Raises:
        Misconfigured: the folder is not empty, or there is no such log.
        BlobMissing, BlobCorrupt: no snapshot of a shard is whole; the error is the newest one's.
        BackupUnwritable: the folder cannot be written to.
        BackupDamaged: the copy, folded, does not give what the log says.
        LogUnavailable: the log does not answer.
    """
    began, settings = time.monotonic(), deployment.settings
    _check_empty(folder, "the folder of a new backup")
    source = Blobs(settings.blobs)
    if verified:
        _check_foldable(settings.log)
    with closing(open_log(settings.log, existing=True, read_only=True)) as log:
        if isinstance(log, SqliteLog):
            log.pin()
        manifest = _manifest(log, deployment, clock())
        if dry_run:
            names = _named(manifest, deployment, source)
            sizes = {f"{BLOBS}/{name}": (source.folder / name).stat().st_size for name in names}
            if isinstance(log, SqliteLog):
                sizes[LOG] = log.size()
            manifest.files = {name: Stored(size, "") for name, size in sizes.items()}
            return manifest
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _copy_blobs(manifest, deployment, source, folder, report)
            if isinstance(log, SqliteLog):
                log.copy_to(folder / LOG, lambda done, total: report("pages of the log copied", done, total))
                sync(folder / LOG)
                manifest.files[LOG] = stored(folder / LOG)
    manifest.seconds = round(time.monotonic() - began, 3)
    if verified:
        _fold_into(manifest, folder, deployment, report)
    with _writing(folder):
        write_manifest(manifest, folder)
    return manifest


def _manifest(log: Log, deployment: Deployment, now_ms: int) -> Manifest:
    """Return a manifest without files."""
    shards, newest_ms = {}, 0
    for shard in deployment.shards:
        entry, last = journal.newest(log, shard), log.last(shard.journal)
        if entry and last:
            shards[shard.name] = Point(entry.number, last.time_ms, entry.digest, entry.snapshot)
    for topic in (EVENTS, JOURNAL):
        newest_ms = max([newest_ms, *(last.time_ms for place in log.partitions(topic) if (last := log.last(place)))])
    return Manifest(
        headrace=headrace.__version__, time_ms=now_ms, log=deployment.settings.log, newest_ms=newest_ms,
        shards=shards, files={},
    )  # fmt: skip


def _named(manifest: Manifest, deployment: Deployment, source: Blobs) -> list[str]:
    """Return the blobs that are there and that pointers name, the newest first, and then those of artifacts."""
    pointers = [point.snapshot for point in manifest.shards.values() if point.snapshot]
    names = [blob for pointer in pointers for blob in (pointer.blob, *pointer.former)]
    names += [blob for pointer in pointers for blob in sorted(pointer.named)]
    names += [blob for shard in manifest.shards for blob in source.names(pointers_kind(shard))]
    for kind in sorted({kind.surface.artifact.kind for kind in deployment.kinds if kind.surface.artifact}):
        names += sorted(path.name for path in source.folder.glob(f"{kind}-*") if path.suffix != ".part")
    return [name for name in dict.fromkeys(names) if (source.folder / name).exists()]


def _copy_blobs(manifest: Manifest, deployment: Deployment, source: Blobs, folder: Path, report: Report) -> None:
    """Copy what is named. Raises BlobMissing or BlobCorrupt if no snapshot of a shard is whole."""
    copy, failed = Blobs(folder / BLOBS), dict[str, BlobMissing | BlobCorrupt]()
    names = _named(manifest, deployment, source)
    for done, name in enumerate(names, 1):
        try:
            copy.put(name.rpartition("-")[0], source.get(name))
            manifest.files[f"{BLOBS}/{name}"] = stored(copy.folder / name)
        except (BlobMissing, BlobCorrupt) as error:
            failed[name] = error
        report("blobs copied", done, len(names))
    manifest.damaged = list(failed)
    for pointer in (point.snapshot for point in manifest.shards.values() if point.snapshot):
        if not any(f"{BLOBS}/{blob}" in manifest.files for blob in (pointer.blob, *pointer.former)):
            raise failed.get(pointer.blob) or BlobMissing(f"blob {pointer.blob} is not in {source.folder}")


def _fold_into(manifest: Manifest, folder: Path, deployment: Deployment, report: Report) -> None:
    """Fold a backup, and note the states and the time that it took."""
    began = time.monotonic()
    states = fold_backup(manifest, folder, deployment, report)
    manifest.shards = {
        name: msgspec.structs.replace(point, state=states[name]) for name, point in manifest.shards.items()
    }
    manifest.fold_s = round(time.monotonic() - began, 3)


def fold_backup(manifest: Manifest, folder: Path, deployment: Deployment, report: Report) -> dict[str, str]:
    """Restore each shard's newest snapshot from a backup, fold what follows, and return the digests of the states.

    Before, all records are compared with the journal's digests. Where the journal still begins with entry 0, it is
    folded from there, too, and each snapshot must have the state of that fold; not where a state was renewed long ago.

    Raises:
        Misconfigured: the backup has a shard that the settings do not have.
        BackupDamaged: something is missing or differs.
    """
    blobs, states = Blobs(folder / BLOBS), {}
    with closing(SqliteLog(str(folder / LOG), read_only=True)) as log:
        for name, point in manifest.shards.items():
            placement = deployment.placement(name)
            found = verify(log, blobs, placement.shard, partial(report, f"{name}: entries verified"))
            if not found.whole:
                raise BackupDamaged(f"backup {folder}: {verified_text(found)}")
            states[name] = _fold(log, blobs, placement, deployment, whole=not found.first and not found.unchecked)
            if point.state and states[name] != point.state:
                raise BackupDamaged(
                    f"backup {folder}: {name}: wanted the state {point.state} after entry {point.entry:,}, found"
                    f" {states[name]}"
                )
    return states


def _fold(log: Log, blobs: Blobs, placement: Placement, deployment: Deployment, *, whole: bool) -> str:
    make = MakeShop(placement.kinds, deployment.sections)
    if whole:
        try:
            return check_folds(log, blobs, placement.shard, make=make).digest()
        except AssertionError as error:  # says what differs
            raise BackupDamaged(str(error)) from error
        except BlobMissing:
            pass  # the state was renewed (an upgrade), and the snapshot from which it went on is deleted since
    with closing(Follower(log, blobs, placement.shard, make=make)) as follower:
        follower.catch_up(no_report)
        return follower.digest()


class Restored(Struct, kw_only=True):
    """What was restored, and how long it took; `newer` is what an archive had beyond the backup, None without one."""

    manifest: Manifest
    seconds: float
    newer: Newer | None = None

    def text(self) -> str:
        """Return the recovery point and what was restored, in lines."""
        lines = [self.manifest.text()]
        if self.newer:
            counts = " and ".join(f"{count:,} {topic}" for topic, count in self.newer.records.items())
            until = f", until {time_text(self.newer.newest_ms)}" if self.newer.newest_ms else ""
            lines.append(f"and from the archive what was appended after the backup: {counts}{until}")
        return "\n".join(lines)


def restore(deployment: Deployment, folder: Path, report: Report, *, verified: bool, dry_run: bool) -> Restored:
    """Write what a backup holds to where the settings say, which must be empty.

    The log is put in place last, under another name until it is whole. Where the settings name an archive, its events
    and items that are newer than the backup are appended to it before.

    Args:
        verified: before that, fold the backup, as `fold_backup` does.
        dry_run: write nothing.

    Raises:
        Misconfigured: there is no backup, or a log or blobs are already there; or the archive is not of this log.
        BackupDamaged: the backup is not as it was written. Nothing was restored.
        ArchiveCorrupt, ArchiveUnavailable: the archive cannot be read. The log was not restored.
        BackupUnwritable: what is restored cannot be written.
    """
    began, settings = time.monotonic(), deployment.settings
    manifest = read_backup(folder, report)
    scheme, _, path = settings.log.partition(":")
    if manifest.has_log != (scheme == "sqlite"):
        wanted = "sqlite:PATH" if manifest.has_log else "the log on Kafka that it belongs to"
        raise Misconfigured(f"--log {settings.log}: wanted {wanted}, as the backup is of {manifest.log}")
    if manifest.has_log and Path(path).exists():
        raise Misconfigured(f"--log {settings.log}: wanted a file that is not there yet, found one")
    _check_empty(Path(settings.blobs), "an empty folder for the blobs")
    store, newer = open_store(settings.archive.url) if settings.archive.url and manifest.has_log else None, None
    if store:
        with closing(SqliteLog(str(folder / LOG), read_only=True)) as log:
            newer, archived = find_newer(log, store)
    if verified:
        _check_foldable(settings.log)
        fold_backup(manifest, folder, deployment, report)
    if not dry_run:
        blobs, names = Blobs(settings.blobs), [name for name in manifest.files if name != LOG]
        for done, name in enumerate(names, 1):
            kind = Path(name).name.rpartition("-")[0]
            blobs.put(kind, (folder / name).read_bytes())
            report("blobs restored", done, len(names))
        if manifest.has_log:
            with _writing(Path(path)), _written(Path(path)) as part:
                _copy_file(folder / LOG, part)
                if store and newer:
                    with closing(SqliteLog(str(part))) as log:
                        append_newer(log, store, archived, newer.total, partial(report, "archived records appended"))
    return Restored(manifest=manifest, seconds=round(time.monotonic() - began, 3), newer=newer)


def _check_foldable(url: str) -> None:
    if not url.startswith("sqlite:"):
        raise Misconfigured(f"--verify: wanted a log in a file, found {url}; run headrace verify on it")


def _check_empty(folder: Path, wanted: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Misconfigured(f"{folder}: wanted {wanted}, found {'files in it' if folder.is_dir() else 'a file'}")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupUnwritable(f"{path} cannot be written: {error}") from error


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """Yield the name under which a file is written until it is whole; then put it in place, durably."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for end in ("", "-wal", "-shm"):  # what a killed run left would be taken for this file's
        target.with_name(f"{part.name}{end}").unlink(missing_ok=True)
    yield part
    sync(part)
    part.rename(target)
    sync(target.parent)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        while data := read.read(hashed_bytes):
            written.write(data)
