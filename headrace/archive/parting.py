"""Where an archive and its log part: a topic was deleted and made again, or a log was restored from an older backup.

The archived records from there on are no longer the log's. They are set aside, not deleted: the manifest names their
files as former ones, which nothing reads as the log's.
"""

from itertools import chain

import msgspec

from headrace.archive.files import digest_of, read_file, write_file
from headrace.archive.manifest import ArchivedFile, Former, Manifest
from headrace.archive.store import Store
from headrace.log.protocol import Log, Partition
from headrace.log.scan import partition_records
from headrace.shard.journal import key_of


def parting(log: Log, store: Store, manifest: Manifest, place: Partition) -> int | None:
    """Return the position from which on the archived records are not the log's; None if they do not part.

    What the log has deleted cannot be compared.

    Raises:
        ArchiveCorrupt: as for `headrace.archive.files.read_file`.
    """
    if not manifest.is_of(place.topic, log.identity(place.topic)):
        return 0
    for file in _differing(log, manifest, place):
        end = min(file.end, log.end(place))
        held = {record.offset: record for record in partition_records(log, place, start=file.start, end=end)}
        first = log.first(place)  # asked last: it may delete records meanwhile
        for record in chain.from_iterable(read_file(store, file)):
            if record.offset >= first and held.get(record.offset) != record:
                return record.offset
    return None


def _differing(log: Log, manifest: Manifest, place: Partition) -> list[ArchivedFile]:
    """Return the files, in order, whose last record is not the log's; none if that of the last file is."""
    files = [file for file in manifest.of(place) if file.last and file.end > log.first(place)]
    if not files or _agrees(log, files[-1]):
        return []
    return [file for file in files if not _agrees(log, file)]


def _agrees(log: Log, file: ArchivedFile) -> bool:
    held = log.newest(file.place, 1, before=file.end)
    if not held:  # its records are deleted: markers may follow them, as on Kafka
        return log.end(file.place) >= file.end
    return digest_of(held[0]) == file.last


def set_aside(store: Store, manifest: Manifest, place: Partition, position: int, by: str, why: str) -> Manifest:
    """Return a manifest without a partition's records from a position on; what it names is durable.

    Raises:
        ArchiveCorrupt, ArchiveUnavailable: a file that has records before and after the position cannot be rewritten.
    """
    files, former = [file for file in manifest.files if file.place != place], list(manifest.former)
    for file in manifest.of(place):
        if file.end <= position:
            files.append(file)
            continue
        former.append(Former(file, max(file.start, position), by, why))
        kept = [one for piece in read_file(store, file) for one in piece if one.offset < position]
        if kept:
            files.append(write_file(store, place, file.day, file.start, position, kept))
    positions = manifest.positions | {key_of(place): position}
    if not position:  # it begins anew, where the log begins
        del positions[key_of(place)]
    gaps = [gap for gap in manifest.gaps if (gap.topic, gap.partition) != place or gap.start < position]
    return msgspec.structs.replace(manifest, positions=positions, files=files, former=former, gaps=gaps)
