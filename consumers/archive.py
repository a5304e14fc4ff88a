"""The archiver: copies what a log holds into an archive, each record once.

What is archived is told by the manifest alone, which is replaced whole after the files that it names are durable. A
file that no manifest names, because the process was killed before, is written again or swept. The writer's id fences a
second archiver: the one before ends at its next flush.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import groupby
from typing import Final, NamedTuple

import structlog
from msgspec.structs import replace

from headrace.archive.files import day_of, read_file, write_file
from headrace.archive.manifest import (
    ARCHIVED,
    NAME,
    ArchivedFile,
    Gap,
    Manifest,
    read_manifest,
    runs,
    write_manifest,
)
from headrace.archive.parting import parting, set_aside
from headrace.archive.store import Store
from headrace.config import ArchiveSettings
from headrace.errors import ArchiveParted, PositionLost
from headrace.log.protocol import Log, Partition, Record, size_of_all
from headrace.metrics import ArchiveMetrics
from headrace.shard.journal import key_of, place_of_key
from headrace.topics import ARCHIVE

read_records_max: Final = 20_000
poll_s: Final = 0.5
"""Time that a read waits for records."""
partitions_check_interval_s: Final = 15.0
"""Time between two looks for partitions that were added to a topic."""
compacted_files_min: Final = 8
"""Files of one partition and day that are merged into one; a day that is over, from 2 on."""
file_bytes_max: Final = 64 * 2**20
"""Size of the file that several are merged into, at most."""


class Progress(NamedTuple):
    """What an archiver has done since it began, and how many records wait."""

    records: int
    files: int
    waiting: int


class Archiver:
    """Archives the records of one log.

    Args:
        accept_gap: by whom and why records that the log lost before they were archived are given up, and archived
            records that are no longer the log's are set aside.

    Raises:
        PositionLost: the log no longer holds what is to be archived next.
        ArchiveParted: what was archived is not what the log has; see `headrace.archive.parting`.
        Fenced: from `flush`, another archiver has begun.
    """

    def __init__(
        self, log: Log, store: Store, settings: ArchiveSettings, *, accept_gap: tuple[str, str] | None = None
    ) -> None:
        self._log, self._store, self._settings = log, store, settings
        self.records = self.files = 0
        with ExitStack() as opened:
            self._writer = opened.enter_context(closing(log.writer(ARCHIVE, (), ARCHIVED)))
            self._manifest = read_manifest(store) or Manifest()
            self._sweep()
            if accept_gap:
                self._accept_gaps(*accept_gap)
            positions = self._positions()
            self._places, self._reader = list(positions), opened.enter_context(closing(log.reader(positions)))
            opened.pop_all()
        self._held: dict[Partition, list[Record]] = {}
        self._size = 0
        self._began = self._checked_at = time.monotonic()

    def _positions(self) -> dict[Partition, int]:
        """Return where to go on in each partition."""
        places = [place for topic in ARCHIVED for place in self._log.partitions(topic)]
        found = {place: next_position(self._log, self._store, self._manifest, place) for place in places}
        self._manifest.topics = self._identities() | self._manifest.topics
        return found

    def _identities(self) -> dict[str, str]:
        return {topic: found for topic in ARCHIVED if (found := self._log.identity(topic))}

    def _sweep(self) -> None:
        """Delete files that a killed archiver wrote and no manifest names."""
        kept = [*self._manifest.files, *(former.file for former in self._manifest.former)]
        named = {NAME, *(file.name for file in kept)}
        for name in self._store.names():
            if name not in named and name.endswith(".parquet"):
                self._store.delete(name)

    def _accept_gaps(self, by: str, why: str) -> None:
        for place in map(place_of_key, list(self._manifest.positions)):
            if (parted := parting(self._log, self._store, self._manifest, place)) is not None:
                self._manifest = set_aside(self._store, self._manifest, place, parted, by, why)
        self._manifest.topics |= self._identities()
        for key, end in list(self._manifest.positions.items()):
            place = place_of_key(key)
            if (first := self._log.first(place)) > end:
                self._manifest.gaps.append(Gap(*place, end, first, by, why))
                self._manifest.positions[key] = first
        write_manifest(self._store, self._manifest)

    def step(self, wait_s: float) -> int:
        """Read what comes within `wait_s`, and flush if it is time; return the number of records read."""
        self._join_added()
        read = 0
        for place, records in self._reader.read(read_records_max, wait_s):
            self._held.setdefault(place, []).extend(records)
            self._size += size_of_all(records)
            read += len(records)
        if (
            self._size >= self._settings.flush_bytes
            or time.monotonic() - self._began >= self._settings.flush_interval_s
        ):
            self.flush()
        return read

    def _join_added(self) -> None:
        if time.monotonic() - self._checked_at < partitions_check_interval_s:
            return
        self._checked_at = time.monotonic()
        if {place for topic in ARCHIVED for place in self._log.partitions(topic)} - set(self._places):
            self.flush()
            self._reader.close()
            positions = self._positions()
            self._places, self._reader = list(positions), self._log.reader(positions)

    def flush(self) -> None:
        """Write what was read to files, then the manifest; then merge small files of one partition.

        Raises:
            Fenced: another archiver has begun; nothing of this flush counts.
            ArchiveParted: a topic was deleted and made again; nothing of this flush counts.
            ArchiveUnavailable: a file could not be written; another archiver goes on from the manifest.
        """
        self._check_topics()
        held, self._held, self._size, self._began = self._held, {}, 0, time.monotonic()
        manifest = self._manifest
        ends = {place: self._position(place) for place in self._places}
        added = [file for place, records in held.items() for file in self._write(place, records, ends[place])]
        positions = manifest.positions | {key_of(place): end for place, end in ends.items()}
        if added or positions != manifest.positions:
            self._publish(replace(manifest, positions=positions, files=[*manifest.files, *added]))
            self.records += sum(file.records for file in added)
            self.files += len(added)
        self._compact()

    def _check_topics(self) -> None:
        """Raise ArchiveParted if what was read may be of a topic that was deleted and made again meanwhile."""
        for topic, identity in self._identities().items():
            if not self._manifest.is_of(topic, identity):
                raise ArchiveParted(topic, 0, 0)

    def _position(self, place: Partition) -> int:
        """Return the position of the next record that is to be archived, past the markers before it."""
        end, position = self._log.end(place), self._reader.position(place)
        return max(end, position) if self._reader.end(place) <= position else position

    def _publish(self, manifest: Manifest) -> None:
        """Replace the manifest, unless another archiver has begun; note the positions for lag tools."""
        self._writer.commit([], {place_of_key(key): position for key, position in manifest.positions.items()})
        self._writer.settle()
        write_manifest(self._store, manifest)
        self._manifest = manifest

    def _write(self, place: Partition, records: Sequence[Record], next_position: int) -> list[ArchivedFile]:
        days = [(day, list(group)) for day, group in groupby(records, key=lambda record: day_of(record.time_ms))]
        start = self._manifest.end(place)
        begin = records[0].offset if start is None else start
        found = []
        for number, (day, group) in enumerate(days):
            last = number + 1 == len(days)
            end = next_position if last else days[number + 1][1][0].offset
            found.append(write_file(self._store, place, day, begin, end, group))
            begin = end
        return found

    def _compact(self) -> None:
        """Merge the files of one partition and day, if there are many."""
        today = max((file.day for file in self._manifest.files), default="")
        for place in {file.place for file in self._manifest.files}:
            for run in runs(self._manifest.of(place)):
                few = _within(run)
                if len(few) >= (compacted_files_min if run[0].day == today else 2):
                    self._merge(place, few)
                    return

    def _merge(self, place: Partition, files: Sequence[ArchivedFile]) -> None:
        records = [record for file in files for piece in read_file(self._store, file) for record in piece]
        merged = write_file(self._store, place, files[0].day, files[0].start, files[-1].end, records)
        gone = {file.name for file in files}
        kept = [file for file in self._manifest.files if file.name not in gone]
        self._publish(replace(self._manifest, files=[*kept, merged]))
        for name in gone - {merged.name}:
            self._store.delete(name)

    def behind(self) -> int:
        """Return how many positions of the log are not read yet."""
        return sum(max(0, self._reader.end(place) - self._reader.position(place)) for place in self._places)

    def close(self) -> None:
        """Free connections; what was read and not flushed is read again by the next archiver. Safe to call twice."""
        self._reader.close()
        self._writer.close()


def waiting(log: Log, store: Store) -> int:
    """Return how many positions of the log are not archived yet. Fences nobody and changes nothing.

    Raises:
        PositionLost, ArchiveParted: as an archiver would.
    """
    manifest = read_manifest(store) or Manifest()
    count = 0
    for place in (place for topic in ARCHIVED for place in log.partitions(topic)):
        count += log.end(place) - next_position(log, store, manifest, place)
    return count


def next_position(log: Log, store: Store, manifest: Manifest, place: Partition) -> int:
    """Return where to go on in a partition; of one that is new, where it begins.

    Raises:
        PositionLost: the log no longer holds that.
        ArchiveParted: what was archived is not what the log has.
    """
    if (parted := parting(log, store, manifest, place)) is not None:
        raise ArchiveParted(*place, parted)
    first, end = log.first(place), manifest.end(place)
    if end is not None and first > end:
        raise PositionLost(*place, end, first, log.end(place))
    return first if end is None else end


def _within(run: Sequence[ArchivedFile]) -> list[ArchivedFile]:
    """Return the first files of a run that may be merged: small ones that follow one another."""
    found, size = list[ArchivedFile](), 0
    for file in run:
        if size + file.bytes > file_bytes_max:
            if len(found) > 1:
                break
            found, size = [], 0
        found.append(file)
        size += file.bytes
    return found


def run(
    log: Log, store: Store, settings: ArchiveSettings, metrics: ArchiveMetrics, stop: threading.Event,
    *, once: bool = False, accept_gap: tuple[str, str] | None = None,
) -> Progress:  # fmt: skip
    """Archive until `stop` is set, or with `once` until nothing waits; what was read is flushed at the end.

    Raises:
        BrokenWorld: see `headrace.errors`; another call goes on from the manifest.
    """
    logger = structlog.get_logger()
    with closing(Archiver(log, store, settings, accept_gap=accept_gap)) as archiver:
        logger.info("archiving", topics=ARCHIVED)
        while not stop.is_set() and not (once and not archiver.behind()):
            archiver.step(poll_s)
            metrics.observe(archiver.records, archiver.files, archiver.behind())
        archiver.flush()
        metrics.observe(archiver.records, archiver.files, archiver.behind())
        logger.info("stopped", records=archiver.records, files=archiver.files)
        return Progress(archiver.records, archiver.files, archiver.behind())
