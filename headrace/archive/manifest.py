"""The manifest of an archive: which files hold which records, and where each partition goes on; replaced whole."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct, field

from headrace.archive.store import Store
from headrace.errors import ArchiveCorrupt
from headrace.log.protocol import Partition
from headrace.shard.journal import key_of, place_of_key
from headrace.topics import (
    ALARMS,
    DEAD_LETTERS,
    EVENTS,
    EXPERIMENTS,
    EXPOSURES,
    IMPRESSIONS,
    ITEMS,
    JOURNAL,
    JUDGEMENTS,
    MODELS,
    POLICIES,
    RULES,
    SEGMENTS,
    SILENCES,
    TRAITS,
)

NAME: Final = "manifest.json"
ARCHIVED: Final = (
    EVENTS, IMPRESSIONS, ITEMS, TRAITS, RULES, EXPERIMENTS, POLICIES, EXPOSURES, SEGMENTS, SILENCES, ALARMS,
    DEAD_LETTERS, MODELS, JOURNAL, JUDGEMENTS,
)  # fmt: skip
"""The topics of an archive: what is needed to fold all that was learned again."""


class ArchivedFile(Struct, frozen=True):
    """A Parquet file of records of one partition that were appended on one day, in order.

    It has the records with start <= offset < end, `records` of them; `first_ms` and `last_ms` are append times, `last`
    is a digest of the last record.
    """

    name: str
    topic: str
    partition: int
    day: str
    start: int
    end: int
    records: int
    bytes: int
    sha256: str
    first_ms: int
    last_ms: int
    last: str = ""

    @property
    def place(self) -> Partition:
        """The partition."""
        return Partition(self.topic, self.partition)


class Gap(Struct, frozen=True):
    """Records that the log lost before they were archived, as somebody has accepted."""

    topic: str
    partition: int
    start: int
    end: int
    by: str
    why: str


class Former(Struct, frozen=True):
    """A file with records that the log no longer has at their positions, as somebody has accepted.

    Its topic was deleted and made again, or the log was restored from a backup that is older than these records. The
    log's own records begin at `start`; those before it are also in a file that the manifest names.
    """

    file: ArchivedFile
    start: int
    by: str
    why: str


class Manifest(Struct):
    """What an archive holds.

    `positions` are by "topic/partition" the next record to archive, `topics` by topic its id (`Log.identity`), as far
    as the log tells it.
    """

    positions: dict[str, int] = field(default_factory=dict)
    files: list[ArchivedFile] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    topics: dict[str, str] = field(default_factory=dict)
    former: list[Former] = field(default_factory=list)
    version: int = 1

    def is_of(self, topic: str, identity: str) -> bool:
        """Return whether a topic of this id is the one that was archived, as far as both are known."""
        known = self.topics.get(topic)
        return not known or not identity or known == identity

    def end(self, place: Partition) -> int | None:
        """Return the next position to archive; None if nothing of the partition was archived."""
        return self.positions.get(key_of(place))

    def of(self, place: Partition) -> list[ArchivedFile]:
        """Return a partition's files, in order."""
        found = [file for file in self.files if file.topic == place.topic and file.partition == place.number]
        return sorted(found, key=lambda file: file.start)

    def gave_up(self, place: Partition, start: int, end: int) -> bool:
        """Return whether somebody has accepted that these records are missing."""
        return any((gap.topic, gap.partition, gap.start, gap.end) == (*place, start, end) for gap in self.gaps)

    def first(self, place: Partition) -> int | None:
        """Return the first position from which on nothing is missing up to `end`; None if nothing is archived."""
        first = self.end(place)
        for file in reversed(self.of(place)):
            if file.end != first:
                break
            first = file.start
        return first


def read_manifest(store: Store) -> Manifest | None:
    """Return the manifest; None if there is no archive yet.

    Raises:
        ArchiveCorrupt: it cannot be read.
    """
    data = store.read(NAME)
    if data is None:
        return None
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveCorrupt(f"archive: wanted a manifest in {NAME}, found: {error}") from None
    if found.version != 1:
        raise ArchiveCorrupt(f"archive: wanted a manifest of version 1, found {found.version}, of a newer release")
    return found


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Replace the manifest. What it names must be durable."""
    store.write(NAME, msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def checked(store: Store, file: ArchivedFile) -> bytes:
    """Return a file's bytes.

    Raises:
        ArchiveCorrupt: the file is missing, or its bytes were changed.
    """
    data = store.read(file.name)
    if data is None:
        raise ArchiveCorrupt(f"archive: {file.name} is missing")
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ArchiveCorrupt(f"archive: {file.name} does not have the checksum that the manifest states")
    return data


def problems(store: Store) -> Iterator[str]:
    """Yield what is wrong with an archive: files that are missing or were changed, and records that are missing."""
    manifest = read_manifest(store)
    if manifest is None:
        yield "there is no archive yet"
        return
    for former in manifest.former:
        try:
            checked(store, former.file)
        except ArchiveCorrupt as error:
            yield str(error)
    for key, end in manifest.positions.items():
        files, place = manifest.of(place_of_key(key)), place_of_key(key)
        starts = [*(file.start for file in files[1:]), end] if files else []
        for file, following in zip(files, starts, strict=True):
            try:
                checked(store, file)
            except ArchiveCorrupt as error:
                yield str(error)
            if file.end != following and not manifest.gave_up(place, file.end, following):
                yield f"archive: {key}: wanted the records from {file.end} on, found those from {following} on"


def runs(files: Sequence[ArchivedFile]) -> Iterator[list[ArchivedFile]]:
    """Yield a partition's files of the same day that follow one another without a gap."""
    run: list[ArchivedFile] = []
    for file in files:
        if run and (file.day != run[-1].day or file.start != run[-1].end):
            yield run
            run = []
        run.append(file)
    if run:
        yield run
