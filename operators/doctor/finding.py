"""What a check finds, and what it is given."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from headrace.clock import Clock, wall_ms
from headrace.events import Event, Rejection, decode
from headrace.log.protocol import Log, Partition, Record
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.follower import no_report
from headrace.shard.journal import Entry
from headrace.shard.verify import Verified, verify, verify_newest
from headrace.topics import EVENTS
from learners.families import Placement
from operators.deployment import Deployment

Level = Literal["ok", "warning", "error"]

sampled_records_max: Final = 1_000
"""Number of the newest records of each partition of `events` that are looked at."""
newest_entries: Final = 32
"""Number of the newest entries of each journal that are compared with their digests, without `--full`."""


class Finding(Struct, frozen=True, kw_only=True):
    """What is wrong with `subject`: what was `wanted` and `found`, what `follows`, and what `mends` it.

    A check that finds nothing wrong has one finding of level `ok`.
    """

    check: str = ""
    level: Level
    subject: str
    wanted: str
    found: str
    follows: str = ""
    mends: str = ""


def warning(subject: str, *, wanted: str, found: str, follows: str, mends: str) -> Finding:
    """Return a finding that needs attention within days."""
    return Finding(level="warning", subject=subject, wanted=wanted, found=found, follows=follows, mends=mends)


def error(subject: str, *, wanted: str, found: str, follows: str, mends: str) -> Finding:
    """Return a finding that loses something, or stops something, now or at the next restart."""
    return Finding(level="error", subject=subject, wanted=wanted, found=found, follows=follows, mends=mends)


class Sampled(NamedTuple):
    """A record of `events`, its partition, and what it says."""

    place: Partition
    record: Record
    said: Event | Rejection


def free_bytes(path: Path) -> int:
    """Return how much may still be written to the disk of a folder."""
    return shutil.disk_usage(path).free


@dataclass
class World:
    """What the checks look at. What several checks need is read once.

    Args:
        opened: the log, opened for reading only; None if it does not answer.
        full: read all that the journals name, not only the newest entries.
        report: takes how many entries of a journal have been read, and their total.
    """

    deployment: Deployment
    opened: Log | None
    clock: Clock = wall_ms
    free: Callable[[Path], int] = free_bytes
    full: bool = False
    report: Callable[[int, int], None] = no_report

    @property
    def log(self) -> Log:
        """The log, for checks that are made only if it answers."""
        assert self.opened is not None
        return self.opened

    @property
    def placements(self) -> list[Placement]:
        """The shards, with their families."""
        return list(self.deployment.placements.values())

    @property
    def blobs_folder(self) -> Path:
        """The folder of blobs, which may be missing."""
        return Path(self.deployment.settings.blobs)

    @property
    def log_file(self) -> Path | None:
        """The file of an SQLite log."""
        scheme, _, path = self.deployment.settings.log.partition(":")
        return Path(path) if scheme == "sqlite" else None

    @cached_property
    def blobs(self) -> Blobs | None:
        """The blobs; None if there is no folder, as opening one makes it."""
        return Blobs(self.blobs_folder) if self.blobs_folder.is_dir() else None

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The newest entry of each shard that has one."""
        found = {one.shard.name: journal.newest(self.log, one.shard) for one in self.placements}
        return {name: entry for name, entry in found.items() if entry}

    @cached_property
    def verified(self) -> list[Verified]:
        """What is true of each shard's journal and of what it names."""
        shards = self.deployment.shards
        if not self.full or self.blobs is None:
            return [verify_newest(self.log, shard, newest_entries) for shard in shards]
        return [verify(self.log, self.blobs, shard, self.report) for shard in shards]

    @cached_property
    def sample(self) -> list[Sampled]:
        """The newest records of `events`."""
        return [
            Sampled(place, record, decode(record))
            for place in self.log.partitions(EVENTS)
            for record in self.log.newest(place, sampled_records_max)
        ]


class Check(NamedTuple):
    """A check: its name, what it wants, and the function that yields what is wrong; whether it reads the log."""

    name: str
    wants: str
    run: Callable[[World], Iterable[Finding]]
    reads_log: bool = True
