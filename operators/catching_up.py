"""What an archive has beyond a backup: the newer events and items, which are appended to the log that is restored.

All else is derived from these: the shards learn them after the restart, and write journal, judgements, dead letters and
models anew.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from headrace.archive.files import read_file
from headrace.archive.manifest import Manifest, read_manifest
from headrace.archive.parting import parting
from headrace.archive.store import Store
from headrace.errors import Misconfigured
from headrace.log.protocol import Partition
from headrace.log.sqlite import SqliteLog
from headrace.shard.journal import key_of, place_of_key
from headrace.topics import EVENTS, ITEMS

INPUTS: Final = (EVENTS, ITEMS)


class Newer(Struct, frozen=True):
    """Records by topic that an archive has beyond a log, and the newest append time among them; 0 if there is none."""

    records: dict[str, int]
    newest_ms: int

    @property
    def total(self) -> int:
        """The number of these records."""
        return sum(self.records.values())


def find_newer(log: SqliteLog, store: Store) -> tuple[Newer, Manifest]:
    """Return what an archive has beyond a log, and the archive's manifest.

    Raises:
        Misconfigured: there is no archive, or it is not of this log.
        ArchiveCorrupt, ArchiveUnavailable: the archive cannot be read.
    """
    manifest = read_manifest(store)
    if manifest is None:
        raise Misconfigured('archive: wanted one of the log that is restored, found none; without one: --archive ""')
    records, newest_ms = dict.fromkeys(INPUTS, 0), 0
    for place in _places(manifest):
        end = log.end(place) if place in log.partitions(place.topic) else 0
        parted = parting(log, store, manifest, place) if end else None
        if parted is not None and parted < end:
            raise Misconfigured(
                f"archive: wanted one of the log that is restored, found other records in {key_of(place)} from"
                f' {parted} on; without one: --archive ""'
            )
        newer = [file for file in manifest.of(place) if file.end > end]
        records[place.topic] += sum(file.records - max(0, end - file.start) for file in newer)
        newest_ms = max([newest_ms, *(file.last_ms for file in newer)])
    return Newer(records, newest_ms), manifest


def append_newer(
    log: SqliteLog, store: Store, manifest: Manifest, total: int, report: Callable[[int, int], None]
) -> None:
    """Append what an archive has beyond a log, with the positions and the append times that it had.

    Args:
        total: the number of these records.
        report: takes the number of records appended and the total.

    Raises:
        ArchiveCorrupt, ArchiveUnavailable: the archive cannot be read.
        LogUnavailable: the log cannot be written.
    """
    done = 0
    for place in _places(manifest):
        end = log.end(place) if place in log.partitions(place.topic) else 0
        for file in manifest.of(place):
            for records in read_file(store, file, end) if file.end > end else ():
                log.put_back(place, records)
                done += len(records)
                report(done, total)


def _places(manifest: Manifest) -> list[Partition]:
    return [place for place in map(place_of_key, manifest.positions) if place.topic in INPUTS]
