"""Publishes the events and items of an archive into another log, byte for byte, each once.

They are published by append time, so that the records of a shopper or an item keep their order. What became bad records
in the log that was archived becomes so again. A later run goes on where the one before ended, also once the archive has
grown.
"""

import heapq
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, cast

from headrace.archive.files import digest_of, read_file
from headrace.archive.manifest import NAME, Manifest, read_manifest
from headrace.archive.store import Store, open_store
from headrace.errors import Misconfigured
from headrace.log.protocol import Log, Partition, Record
from headrace.shard.journal import key_of, place_of_key
from headrace.topics import EVENTS, ITEMS
from producers.publisher import ProgressCallback, PublishResult, ignore_progress, publish, retry_s_default
from producers.sequence import InputDigest, NumberedRecord

TOPICS: Final = (EVENTS, ITEMS)
"""What is published; all else in an archive follows from it."""


def is_archive(url: str) -> bool:
    """Return whether a path or URL is that of an archive: any URL, or a folder with a manifest."""
    return "://" in url or os.path.isfile(os.path.join(url, NAME))  # for any text; Path.is_file raises for some


class Archived:
    """The events and items of an archive, as a sequence.

    Raises:
        Misconfigured: there is no archive, or it has no event.
        ArchiveCorrupt, ArchiveUnavailable: as for `headrace.archive.manifest.read_manifest`; from `records`, also as
            for `headrace.archive.files.read_file`.
    """

    def __init__(self, url: str) -> None:
        self._store: Store = open_store(url)
        found = read_manifest(self._store)
        if found is None:
            raise Misconfigured(f"{url}: wanted an archive, found no {NAME} in it")
        self.manifest: Manifest = found
        self.url, self._read = url, 0
        files = [*found.files, *(former.file for former in found.former)]
        self.counts = Counter({topic: sum(one.records for one in files if one.topic == topic) for topic in TOPICS})
        if not self.counts[EVENTS]:
            raise Misconfigured(f"{url}: wanted an archive with at least one event, found none")

    def share(self) -> float:
        """Return the share of the records that has been read, 0 to 1."""
        return min(1.0, self._read / self.counts.total())

    def records(self) -> Iterator[NumberedRecord]:
        """Yield the records by append time, those of a partition in their order; `time_ms` is the append time."""
        self._read, digest = 0, InputDigest("archive")
        places = {place_of_key(key) for key in self.manifest.positions}
        places |= {former.file.place for former in self.manifest.former}
        for time_ms, _, record, place in heapq.merge(
            *(self._partition(place) for place in sorted(places) if place.topic in TOPICS), key=lambda one: one[:2]
        ):
            name = f"{key_of(place)} {digest_of(record)}".encode()
            digest.begin(name)
            self._read += 1
            key, value = cast(bytes, record.key), cast(bytes, record.value)  # one is None where another program wrote
            yield NumberedRecord(self._read, time_ms, key, value, place.topic, digest.add_sorted(name, 0))

    def _partition(self, place: Partition) -> Iterator[tuple[int, str, Record, Partition]]:
        """Yield a partition's records with append times that never step back, those that were set aside first."""
        former = [(one.file, one.start) for one in self.manifest.former if one.file.place == place]
        time_ms = 0
        for file, start in [*former, *((file, file.start) for file in self.manifest.of(place))]:
            for piece in read_file(self._store, file, start):
                for record in piece:
                    time_ms = max(time_ms, record.time_ms)
                    yield time_ms, key_of(place), record, place


def load_archive(
    log: Log,
    url: str,
    *,
    retry_s: float = retry_s_default,
    progress: ProgressCallback = ignore_progress,
    **options: Any,
) -> PublishResult:
    """Publish an archive's events and items, except for those that the log has from it already.

    Args:
        url: a folder, or a URL that fsspec knows.
        options: `speed`, `time_from_ms`, `time_to_ms`, `limit` and `gate`, as for `producers.publisher.publish`; times
            are append times.

    Raises:
        Misconfigured: there is no such archive, or it is one of this log.
        ArchiveCorrupt, ArchiveUnavailable: the archive is not as it was written, or cannot be read.
        Fenced, LogUnavailable: as for `producers.publisher.publish`.
    """
    archived = Archived(url)
    if (known := archived.manifest.topics.get(EVENTS)) and known == log.identity(EVENTS):
        raise Misconfigured(f"{url}: wanted the archive of another log, found that of this one, which has these events")
    return publish(
        log, archived.records, origin=f"load:archive:{known or ''}", topics=TOPICS, retry_s=retry_s,
        share=archived.share, progress=progress, **options,
    )  # fmt: skip
