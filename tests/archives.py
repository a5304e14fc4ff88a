"""A log whose clock is set by hand, and what an archive holds of it."""

import threading
from contextlib import closing
from typing import Any, Final

from consumers.archive import run
from headrace.archive.files import read_file
from headrace.archive.manifest import read_manifest
from headrace.archive.store import Store
from headrace.config import ArchiveSettings
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing, Partition, Record
from headrace.metrics import ArchiveMetrics
from headrace.topics import DAY_MS, EVENTS

E0: Final = Partition(EVENTS, 0)
E1: Final = Partition(EVENTS, 1)
SOON: Final = ArchiveSettings(flush_interval_s=1e-9)
"""Flushes at each step."""


class Days:
    """A log in memory whose clock is set by hand."""

    def __init__(self) -> None:
        self.now_ms = DAY_MS
        self.log = MemoryLog(clock=lambda: self.now_ms)
        self.log.create()

    def append(self, place: Partition, *values: bytes | None) -> None:
        with closing(self.log.appender()) as appender:
            for value in values:
                appender.append(Outgoing(place.topic, b"ann", value, place.number))


def archived(store: Store, place: Partition) -> list[Record]:
    manifest = read_manifest(store)
    return [r for file in (manifest.of(place) if manifest else []) for piece in read_file(store, file) for r in piece]


def once(log: Log, store: Store, **options: Any) -> int:
    return run(log, store, ArchiveSettings(), ArchiveMetrics(), threading.Event(), once=True, **options).records
