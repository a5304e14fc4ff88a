"""Checks of files: rights, free space, snapshots and models."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.filesize import decimal

from headrace.errors import BlobCorrupt, BlobMissing, Misconfigured
from headrace.log.scan import topic_records
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.kept import kept_snapshots
from headrace.topics import DAY_MS, EVENTS, MODELS, Shard
from operators.doctor.finding import Finding, World, error, warning
from operators.requests import standing

snapshots_free: Final = 10
"""Snapshots of each shard for which there should be space."""
days_free: Final = 7
"""Days for which there should be space, if an SQLite log grows as it did."""
space_least: Final = 10_000_000
"""Bytes that should be free, however little is needed so far."""
behind_max: Final = 10_000
"""Entries that a restart may fold; with events all the time, they are an hour."""


def rights(world: World) -> Iterator[Finding]:
    """Find files and folders that this user cannot write to."""
    try:
        if world.blobs:
            world.blobs.check_writable()
    except Misconfigured as refused:
        yield _unwritable(world.blobs_folder, str(refused))
    if (file := world.log_file) and file.exists():
        for path in (file, file.absolute().parent):
            if not os.access(path, os.R_OK | os.W_OK):
                yield _unwritable(path, "no right to write, or a disk that is mounted read-only")


def _unwritable(path: Path, found: str) -> Finding:
    return error(
        str(path), wanted="the right to write, for the user of the processes", found=found,
        follows="processes of this user end at their start",
        mends="chown or chmod, or mount it read-write; or run this as the processes' user",
    )  # fmt: skip


def disk(world: World) -> Iterator[Finding]:
    """Find disks that are nearly full, by what snapshots and the log need."""
    if world.blobs:
        size = sum(
            _size(world.blobs_folder / entry.snapshot.blob) for entry in world.entries.values() if entry.snapshot
        )
        yield from _space(
            world, world.blobs_folder, size, snapshots_free, "snapshots of all shards", "no snapshot is stored"
        )
    if world.log_file:
        folder, follows = world.log_file.absolute().parent, "nothing is learned any more"
        yield from _space(world, folder, _growth(world), days_free, "days of growth of the log", follows)


def _space(world: World, folder: Path, unit: int, units: int, what: str, follows: str) -> Iterator[Finding]:
    unit = max(unit, space_least // units)
    free = world.free(folder)
    if free < unit * units:
        make = error if free < 2 * unit else warning
        yield make(
            str(folder), wanted=f"space for {units} {what} ({decimal(unit * units)})", found=decimal(free),
            follows=follows,
            mends="free space, or move the folder to a larger disk; `headrace trim` shortens an SQLite log",
        )  # fmt: skip


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _growth(world: World) -> int:
    """Return by how many bytes a day an SQLite log grew, 0 if it is younger than a day."""
    assert world.log_file is not None
    oldest = [
        found[0].time_ms for place in world.log.partitions(EVENTS)
        if (found := world.log.newest(place, 1, before=world.log.first(place) + 1))
    ]  # fmt: skip
    age_ms = world.clock() - min(oldest, default=world.clock())
    return int(_size(world.log_file) * DAY_MS / age_ms) if age_ms >= DAY_MS else 0


def snapshots(world: World) -> Iterator[Finding]:
    """Find snapshots that are missing, damaged or old."""
    shards = {one.shard.name: one.shard for one in world.placements}
    for name, entry in world.entries.items():
        yield from _strangers(world, shards[name], entry.number + 1)
        pointer = entry.snapshot
        behind = entry.number + 1 - (pointer.number if pointer else 0)
        if behind > behind_max:
            yield warning(
                name, wanted=f"a snapshot that lacks at most {behind_max:,} entries", found=f"{behind:,}",
                follows="a restart takes long, and retention may delete what it reads",
                mends="see in the process' log why it takes no snapshot (`snapshot failed`)",
            )  # fmt: skip
        named = [pointer.blob, *pointer.former] if pointer else []
        damaged = {blob: text for blob in named if (text := _damage(world.blobs, blob))}
        if named and len(damaged) == len(named):
            yield error(
                name, wanted=f"a whole snapshot, of the {len(named)} that its journal names",
                found=f"none: {damaged[named[0]]}",
                follows=f"{name} cannot start, nor can a server; if it still runs, its next snapshot mends this",
                mends=f"restore the folder of blobs, or `headrace restore` a backup; without one, stop {name} and run"
                " its command once with --refold",
            )  # fmt: skip
            continue
        for blob, text in damaged.items():
            yield warning(
                blob, wanted="a file that has the hash in its name", found=text,
                follows=f"a restart {'begins with an older one' if blob == named[0] else 'has fewer to begin with'}",
                mends=f"start {name}, or let it run: it stores others",
            )  # fmt: skip


def _strangers(world: World, shard: Shard, entries: int) -> Iterator[Finding]:
    """Find snapshots of more entries than a journal has: they are of another log, or of this one's lost end."""
    found = kept_snapshots(world.blobs, shard.name) if world.blobs else []
    most = max((one.pointer.number for one in found), default=0)
    if most > entries:
        last = journal.newest(world.log, shard)  # a running shard has written more meanwhile
        if last and most > last.number + 1:
            yield warning(
                shard.name, wanted="a journal with all entries that the snapshots beside it were taken after",
                found=f"{last.number + 1:,} entries, and a snapshot after {most:,}",
                follows="the log is another one, or an older copy: what it lacks is not learned again",
                mends="stop the processes and use the former log, or `headrace restore` from a backup; if it is lost"
                " for good, nothing: these snapshots thin out",
            )  # fmt: skip


def artifacts(world: World) -> Iterator[Finding]:
    """Find out whether the model in use is there and whole."""
    champion = standing(topic_records(world.log, MODELS)).champion
    if champion and (text := _damage(world.blobs, champion.blob)):
        yield error(
            champion.blob, wanted=f"the model in use ({champion.version}), whole", found=text,
            follows="answers and gate go on without it",
            mends="`headrace restore` from a backup and restart the processes, or `headrace roll-back`",
        )  # fmt: skip


def _damage(blobs: Blobs | None, name: str) -> str:
    """Return what is wrong with a blob, "" if nothing is."""
    try:
        if blobs is None:
            return "no folder of blobs"
        blobs.get(name)
    except (BlobMissing, BlobCorrupt) as damaged:
        return str(damaged)
    return ""
