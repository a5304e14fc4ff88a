"""The journal: the order in which a shard applied its input. It is the truth of what was learned.

Every commit writes one entry to the shard's partition of `journal`. Folding the entries from the first one, or from a
snapshot on, gives the shard's state again.
"""

from collections.abc import Generator
from contextlib import closing
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct, field

from headrace.errors import StateUnreadable
from headrace.log.protocol import Log, Partition, Record, decode_json
from headrace.log.scan import partition_records
from headrace.topics import Shard

newest_inspected = 32
"""Number of the newest records of a journal that are searched for its last entry; more if there is none among them."""
snapshots_kept = 3
"""Number of the newest snapshots whose blobs are kept, so that a follower that has just read an older pointer finds its
blob."""


class Run(NamedTuple):
    """Records of one partition, with start <= offset < end, that were applied one after another."""

    topic: str
    partition: int
    start: int
    end: int


class FamilyStamp(Struct, frozen=True):
    """The settings on which a family's fold depends, and the version of each part of its state."""

    settings: dict[str, Any]
    parts: dict[str, int]


class Stamp(Struct, frozen=True):
    """What a shard's state was computed and written by: the release, and each family's settings and part versions.

    States of equal stamps have equal digests. `platform` is what the arithmetic depends on beside the release, `intake`
    the version of the rules by which records become events (`headrace.shard.intake`).
    """

    headrace: str
    families: dict[str, FamilyStamp]
    platform: str = ""
    intake: int = 1


class Decision(Struct, frozen=True, omit_defaults=True):
    """What a person has decided for a shard, why, who, and when (ms since the epoch).

    `loss` accepts that the log has lost what the shard needs, `state` puts another state in place
    (`headrace.shard.restate`): the entry names a snapshot, with which all folds continue. `skip` has a record, as
    topic/partition/offset, that no fold learns. `headrace` is the release by which it was decided, `undo` whether it
    takes back the decision before.
    """

    kind: Literal["loss", "skip", "state"]
    text: str
    why: str
    who: str
    time_ms: int
    skip: str = ""
    headrace: str = ""
    undo: bool = False


class Origin(NamedTuple):
    """The newest entry that accepts a loss: a position in the journal before it, and its snapshot's blob."""

    journal: int
    blob: str


class Restated(NamedTuple):
    """The newest entry that puts another state in place: a position in the journal before it, the blob of that state,
    and the blob of the state before it, to which an undo returns."""

    journal: int
    blob: str
    before: str


class Pointer(Struct, frozen=True, omit_defaults=True):
    """A durable snapshot: the state after the journal's entries before `number`, and where to continue.

    `positions` is keyed by "topic/partition". `former` names the blobs of the snapshots before, newest first. `digest`
    is that of the entry before `number`. Releases up to 0.3.0 wrote no `stamp`, but `versions`, which they still need.

    `topics` has the ids of the topics that the shard reads, where the log tells them. `skipped` are the decided skips
    that are still to come, each with its reason. `origin` is where the readable journal begins once a loss was
    accepted, `restated` where another state was put in place since; folds from the start begin at the newer one.

    `time_ms` is when the state was frozen (ms since the epoch), 0 in snapshots of releases that did not note it.
    `renews` says that an entry with a renewed state names it: a fold that comes from before that entry needs it.
    """

    blob: str
    number: int
    journal: int
    judgements: int
    positions: dict[str, int]
    versions: dict[str, str]
    former: list[str] = field(default_factory=list)
    stamp: Stamp | None = None
    digest: str = ""
    topics: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    restated: Restated | None = None
    time_ms: int = 0
    renews: bool = False

    @property
    def named(self) -> set[str]:
        """The blobs that must stay beside this snapshot's: those before it, and those with which folds begin."""
        blobs = {self.blob, *self.former}
        if self.origin:
            blobs.add(self.origin.blob)
        if self.restated:
            blobs |= {self.restated.blob, self.restated.before}
        return blobs


class Results(Struct, frozen=True, omit_defaults=True):
    """What became of the records of `events` that a shard has read since its entry number `since`, in numbers.

    Duplicates repeat an id that the intake remembers, `unused` are no input of learners, `rejected` are dead letters.
    """

    learned: int = 0
    duplicates: int = 0
    unused: int = 0
    rejected: int = 0
    since: int = 0

    @property
    def records(self) -> int:
        """Number of records read."""
        return self.learned + self.duplicates + self.unused + self.rejected


class Entry(Struct, frozen=True, omit_defaults=True):
    """One commit of a shard: what it applied, in order, then how many records of `judgements` it learned from.

    `judgements` is a lower bound of their position: records before it that no entry counted belong to no entry.
    `snapshot` repeats the newest pointer, so that the last entry is enough to restore the state.

    `stamp` is set in the first entry of a shard and in the first one after its release or its settings have changed.
    `renewed` has the parts of the state that do not follow from the entries before this one (migrated, folded anew,
    begun anew, or bounded differently), and how. Such an entry names a snapshot of the state before it, and every fold
    of the journal continues from that snapshot.

    `read_ms` is empty, or has a time per run: when the shard read its records. Folds take it for the append time of
    records whose append time a Kafka topic that keeps producers' times does not tell. It is 0 if all are known.

    `results` counts the records of this entry and of those before. `digest` is a running hash over the records of
    `runs` and the judgements of this entry and of all before it (`headrace.shard.chain`). Releases up to 0.3.0 wrote
    neither.

    `frozen` says that the state after this entry is being stored as a snapshot, which a later entry names if that
    succeeds. So a follower can freeze its own state there and compare (`headrace.shard.comparison`).

    `topics` has the ids of the topics that the shard reads, in the entry in which they first appear or have changed.
    `decision` is what a person decided; such an entry applies no records.
    """

    writer: str
    number: int
    runs: list[Run]
    judged: int
    snapshot: Pointer | None
    judgements: int = 0
    stamp: Stamp | None = None
    renewed: dict[str, str] = field(default_factory=dict)
    read_ms: list[int] = field(default_factory=list)
    digest: str = ""
    results: Results | None = None
    frozen: bool = False
    topics: dict[str, str] = field(default_factory=dict)
    decision: Decision | None = None

    @property
    def replaces_state(self) -> bool:
        """Whether all folds continue with this entry's snapshot, by the decision of a person."""
        return self.decision is not None and self.decision.kind in ("loss", "state")


_decoder = msgspec.json.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """Return an entry's wire form, one JSON document."""
    return msgspec.json.encode(entry)


def decode(record: Record) -> Entry:
    """Return the entry of a journal record.

    Raises:
        StateUnreadable: the record is no journal entry that this version can read.
    """
    try:
        return _decoder.decode(record.value or b"")
    except msgspec.MsgspecError as error:
        raise StateUnreadable(f"journal/{record.partition} at {record.offset}: {error}") from error


def entry_in(record: Record) -> Entry | None:
    """Return the entry of a journal record, None if the record is none."""
    return decode_json(record.value, Entry)


def newest(log: Log, shard: Shard, *, before: int | None = None) -> Entry | None:
    """Return the last committed entry of a shard, or the last before a position; None if there is none.

    Records that are no entries, and copies of older ones, are passed over. Where there is no entry of this shard, one
    of another shard is returned.
    """
    wanted = newest_inspected
    while True:
        records = log.newest(shard.journal, wanted, before=before)
        entries = [entry for entry in map(entry_in, records) if entry]
        own = [entry for entry in entries if entry.writer == shard.name]
        if own or len(records) < wanted:
            return max(own or entries, key=lambda entry: entry.number, default=None)
        wanted *= 8


def entries_from(log: Log, shard: Shard, position: int, number: int = 0) -> Generator[Entry, None, None]:
    """Yield a shard's entries from a position in its journal on, up to its present end.

    Args:
        number: that of the first entry, if it is known; copies of older ones are passed over.
    """
    with closing(partition_records(log, shard.journal, start=position)) as records:
        for record in records:
            entry = entry_in(record)
            if entry and entry.writer == shard.name and entry.number >= number:
                number = entry.number + 1
                yield entry


def former_snapshot(log: Log, shard: Shard, pointer: Pointer) -> Pointer | None:
    """Return the snapshot before one, as the last entry before it names it; None if there is none."""
    last = newest(log, shard, before=pointer.journal)
    return last.snapshot if last and last.writer == shard.name else None


def origin_of(log: Log, shard: Shard, pointer: Pointer | None) -> Pointer | None:
    """Return the snapshot with which the readable journal begins, as a loss was accepted there; None: with entry 0."""
    entry = replacing(log, shard, pointer.origin) if pointer and pointer.origin else None
    return entry.snapshot if entry else None


def start_of(log: Log, shard: Shard, pointer: Pointer | None) -> Pointer | None:
    """Return the snapshot with which folds from the start begin, the newest that replaced the state; None: entry 0."""
    if pointer and pointer.restated:
        entry = replacing(log, shard, pointer.restated)
        return entry.snapshot if entry else None
    return origin_of(log, shard, pointer)


def replacing(log: Log, shard: Shard, place: Origin | Restated) -> Entry | None:
    """Return the entry that has replaced a shard's state at a place, None if it has expired."""
    with closing(entries_from(log, shard, place.journal)) as entries:
        for entry in entries:
            # Copies of entries before it may stand there, too; their snapshots do not name its place.
            if entry.snapshot and place in (entry.snapshot.origin, entry.snapshot.restated):
                return entry if entry.replaces_state else None
    return None


def judgement_key(family: str, shard: str, number: int) -> bytes:
    """Return the key of a judgement: its family, its shard, and the number of the entry that counts it.

    Thereby a record that somebody else has written to the topic is passed over, a copy of another shard's too.
    """
    return f"{family}/{shard}/{number}".encode()


def counts(entry: Entry, judgement: Record) -> bool:
    """Return whether an entry of today's releases counts a judgement."""
    return (judgement.key or b"").endswith(f"/{entry.writer}/{entry.number}".encode())


def judging_family(key: bytes | None) -> str:
    """Return the family in a judgement's key; releases up to 0.3.0 wrote it alone.

    >>> judging_family(b"next_item/online/12"), judging_family(b"online")
    ('next_item', 'online')
    """
    return (key or b"").decode(errors="replace").partition("/")[0]


def key_of(partition: Partition) -> str:
    """Return a partition as a key of `Pointer.positions`.

    >>> key_of(Partition("events", 3))
    'events/3'
    """
    return f"{partition.topic}/{partition.number}"


def place_of_key(key: str) -> Partition:
    """Return the partition whose key this is.

    >>> place_of_key("events/3")
    Partition(topic='events', number=3)
    """
    topic, _, number = key.rpartition("/")
    return Partition(topic, int(number))
