"""A log that goes on where another begins: what retention has deleted there is read from the archive."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from headrace.archive.files import read_file
from headrace.archive.manifest import ARCHIVED, ArchivedFile, Manifest, read_manifest
from headrace.archive.parting import parting
from headrace.archive.store import Store, open_store
from headrace.errors import ArchiveCorrupt, PositionLost
from headrace.log.protocol import (
    READ_BYTES_MAX,
    TRANSACTION_TIMEOUT_S,
    Appender,
    Finding,
    Log,
    Partition,
    Reader,
    Record,
    Writer,
    within_bytes,
)


def with_archive(log: Log, url: str) -> Log:
    """Return a log that goes on where this one begins, from the archive at a URL; the log itself if that is empty."""
    return ArchivedLog(log, open_store(url)) if url else log


class ArchivedLog:
    """`headrace.log.protocol.Log` over a live one and its archive. What is written goes to the live one.

    The archive is read only for positions before the live log's first one; live reads cost no more than without it.
    It is not read for a topic that was deleted and made again since it was archived.
    """

    def __init__(self, log: Log, store: Store) -> None:
        self._log, self._store = log, store

    @property
    def live(self) -> Log:
        """The log behind which the archive lies."""
        return self._log

    def covered(self) -> dict[Partition, int]:
        """Return up to which position the archive holds the log's records of each partition of its topics."""
        manifest = read_manifest(self._store) or Manifest()
        places = [place for topic in ARCHIVED for place in self._log.partitions(topic)]
        parted = {place: parting(self._log, self._store, manifest, place) for place in places}
        return {place: (manifest.end(place) or 0) if at is None else at for place, at in parted.items()}

    def create(self) -> None:
        self._log.create()

    def missing(self) -> list[str]:
        return self._log.missing()

    def identity(self, topic: str) -> str:
        return self._log.identity(topic)

    def partitions(self, topic: str) -> list[Partition]:
        return self._log.partitions(topic)

    def first(self, partition: Partition) -> int:
        live, archived = self._log.first(partition), self.archived_first(partition)
        return live if archived is None else min(live, archived)

    def archived_first(self, partition: Partition) -> int | None:
        """Return the first position from which on the archive reaches the live log; None if it does not reach it."""
        manifest = manifest_of(self._log, self._store, partition.topic)
        end = manifest.end(partition)
        return None if end is None or end < self._log.first(partition) else manifest.first(partition)

    def end(self, partition: Partition) -> int:
        return self._log.end(partition)

    def position_at(self, partition: Partition, time_ms: int) -> int:
        found, first = self._log.position_at(partition, time_ms), self._log.first(partition)
        if found > first or (oldest := self.archived_first(partition)) is None:
            return found
        for file in manifest_of(self._log, self._store, partition.topic).of(partition):
            if file.last_ms >= time_ms and oldest <= file.start < first:
                for records in read_file(self._store, file):
                    for record in records:
                        if record.time_ms >= time_ms and record.offset < first:
                            return record.offset
        return found

    def last(self, partition: Partition) -> Record | None:
        return next(reversed(self.newest(partition, 1)), None)

    def newest(self, partition: Partition, records_max: int, *, before: int | None = None) -> list[Record]:
        first = self._log.first(partition)
        found = (
            [] if before is not None and before <= first else self._log.newest(partition, records_max, before=before)
        )
        if len(found) < records_max and self.archived_first(partition) is not None:
            older = self._archived_newest(partition, records_max - len(found), min(first, before or first))
            found = older + found
        return found

    def _archived_newest(self, partition: Partition, records_max: int, before: int) -> list[Record]:
        found: list[Record] = []
        for file in reversed(manifest_of(self._log, self._store, partition.topic).of(partition)):
            if file.start >= before:
                continue
            if len(found) >= records_max:
                break
            records = [one for piece in read_file(self._store, file) for one in piece if one.offset < before]
            found = records[-(records_max - len(found)) :] + found
        return found

    def hidden(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        return self._log.hidden(partitions)

    def check_settings(self) -> tuple[list[Finding], list[str]]:
        return self._log.check_settings()

    def delete_before(self, partition: Partition, position: int) -> None:
        self._log.delete_before(partition, position)

    def committed(self, writer_id: str) -> dict[Partition, int]:
        return self._log.committed(writer_id)

    def reader(self, positions: Mapping[Partition, int]) -> "ArchivedReader":
        return ArchivedReader(self._log, self._store, positions)

    def writer(
        self,
        writer_id: str,
        writes: Collection[Partition] = (),
        reads: Collection[str] = (),
        *,
        timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> Writer:
        return self._log.writer(writer_id, writes, reads, timeout_s=timeout_s)

    def appender(self) -> Appender:
        return self._log.appender()

    def close(self) -> None:
        self._log.close()


def manifest_of(log: Log, store: Store, topic: str) -> Manifest:
    """Return an archive's manifest; an empty one if there is none, or if it is of a former topic of that name."""
    found = read_manifest(store)
    return found if found and (topic not in found.topics or found.is_of(topic, log.identity(topic))) else Manifest()


class _Cursor:
    """A place in the archived records of one partition: reads one row group at a time."""

    def __init__(self, log: Log, store: Store, place: Partition, position: int) -> None:
        self._log, self._store, self._place = log, store, place
        self.position = position
        self._pieces = self._read(position)
        self._piece: Sequence[Record] = []

    def _read(self, position: int) -> Iterator[tuple[list[Record], int]]:
        """Yield pieces, and the position after each."""
        while file := self._file(position):
            try:
                for records in read_file(self._store, file, position):
                    position = records[-1].offset + 1
                    yield records, position
            except ArchiveCorrupt:
                if self._file(position) == file:
                    raise
                continue  # the archiver has merged it with others meanwhile
            position = file.end
            yield [], position

    def _file(self, position: int) -> ArchivedFile | None:
        """Return the file that holds a position, by the present manifest."""
        found = manifest_of(self._log, self._store, self._place.topic).of(self._place)
        return next((file for file in found if file.start <= position < file.end), None)

    def take(self, records_max: int, bytes_max: int) -> tuple[list[Record], int]:
        """Return the next records and their size; none once all is read."""
        while not self._piece:
            found = next(self._pieces, None)
            if found is None:
                return [], 0
            self._piece, self.position = found[0], self.position if found[0] else found[1]
        count, size = within_bytes(self._piece[:records_max], bytes_max)
        taken, self._piece = list(self._piece[:count]), self._piece[count:]
        self.position = taken[-1].offset + 1
        return taken, size


class ArchivedReader:
    """`headrace.log.protocol.Reader` that begins in the archive where the live log no longer holds a position."""

    def __init__(self, log: Log, store: Store, positions: Mapping[Partition, int]) -> None:
        self._log, self._store = log, store
        self._places = list(positions)
        self._cursors: dict[Partition, _Cursor] = {}
        live = {place: self._placed(place, position) for place, position in positions.items()}
        self._live: Reader = log.reader(live)

    def _placed(self, place: Partition, position: int) -> int:
        """Begin to read a partition at a position, in the archive if it must; return where the live log is read."""
        self._cursors.pop(place, None)
        first = self._log.first(place)
        if position >= first:
            return position
        manifest = manifest_of(self._log, self._store, place.topic)
        begin, end = manifest.first(place), manifest.end(place)
        if begin is None or end is None or not begin <= position < end:
            return position  # lost in both: the live reader tells it with its bounds
        self._cursors[place] = _Cursor(self._log, self._store, place, position)
        return first

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        wanted = self._places if only is None else [place for place in self._places if place in only]
        batches, left, bytes_left = list[tuple[Partition, list[Record]]](), records_max, READ_BYTES_MAX
        for place in [place for place in wanted if place in self._cursors]:
            if min(left, bytes_left) <= 0:
                return batches
            records, size = self._cursors[place].take(left, bytes_left)
            if records:
                batches.append((place, records))
                left, bytes_left = left - len(records), bytes_left - size
            else:
                self._go_on(place)
        if batches:  # the live log's turn comes once the archive is read; both together would exceed the bounds
            return batches
        try:
            return self._live.read(records_max, timeout_s, [place for place in wanted if place not in self._cursors])
        except PositionLost as lost:  # retention has outrun this reader; the archive may have what it reads next
            place = Partition(lost.topic, lost.partition)
            self._live.seek(place, self._placed(place, lost.wanted))
            if place not in self._cursors:
                raise
            return []

    def _go_on(self, place: Partition) -> None:
        """Leave the archive for the live log, or for what was archived meanwhile."""
        position = self._cursors[place].position
        self._live.seek(place, self._placed(place, position))

    def seek(self, partition: Partition, position: int) -> None:
        self._live.seek(partition, self._placed(partition, position))

    def position(self, partition: Partition) -> int:
        cursor = self._cursors.get(partition)
        return cursor.position if cursor else self._live.position(partition)

    def end(self, partition: Partition) -> int:
        return self._live.end(partition)

    def close(self) -> None:
        self._live.close()
