"""A follower: folds a shard's journal as it grows, with outputs off.

Serving answers from a follower. A restarting loop uses one to return to the last commit. An operator can use one to
replay a journal.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

import structlog

from headrace.errors import (
    BlobCorrupt,
    BlobMissing,
    LogUnavailable,
    Misconfigured,
    PositionLost,
    RecordsChanged,
    StateUnreadable,
)
from headrace.events import Event, Rejection, decode
from headrace.log.protocol import Log, Outgoing, Partition, Record
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.buffer import Buffer
from headrace.shard.chain import Chain
from headrace.shard.intake import Intake
from headrace.shard.journal import Entry, Pointer, Run, Stamp, key_of, place_of_key, snapshots_kept
from headrace.shard.merge import stamped
from headrace.state import State
from headrace.state import decode as decode_state
from headrace.state import digest as digest_of
from headrace.topics import EVENTS, KEPT_FOR_EVER, TOPICS, Shard

arrival_timeout_s = 30.0
"""How long it may take until records that a committed entry names can be read. On Kafka the markers of one transaction
reach its partitions one after another, within seconds. A longer delay means that the log has lost the records."""
locked_records_max = 32
"""Maximum number of records folded while the lock is held, that is, while readers of the fold wait."""
read_ahead_records_max = 4_000
"""Maximum number of records per read; a partition with fewer buffered records is read further."""
FOLDED_ANEW = {"all": "folded anew"}
"""What a refold has renewed, as its entry says."""
report_entries = 20
"""Entries between two progress reports of a fold; folding these takes seconds."""


class Fold(Protocol):
    """What a shard learns: a pure function of the records that its journal names, in that order."""

    renewed: dict[str, str]
    """The parts of the restored state that are not as they were stored, and how they came to be."""
    begun: set[str]
    """The families of which a part could not be restored, so that it begins empty."""

    @property
    def stamp(self) -> Stamp:
        """The release, the settings and the versions by which `state` is computed and written."""

    def prepare(self, event: Event) -> bool:
        """Complete an admitted event before it is judged and learned; return whether it is to be learned."""

    def learn(self, event: Event, partition: int, offset: int) -> None:
        """Learn from one event."""

    def hear(self, topic: str, record: Record) -> Rejection | None:
        """Learn from a record of a side topic (a model's announcement, an alarm); return why, if it cannot be used."""

    def hear_again(self, topic: str, record: Record) -> None:
        """Learn from a record of a side topic, but only in the families of which nothing could be restored."""

    def absorb(self, key: str, judgement: bytes) -> None:
        """Learn from one record of judgements, as a judge of this shard wrote it; the key names its family."""

    def emit(self) -> list[Outgoing]:
        """Return and forget the outputs since the last call."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""

    def state(self) -> State:
        """Return all that was learned; shares nothing with the fold. Called only right after `emit`."""


F = TypeVar("F", bound=Fold)


class MakeFold(Protocol[F]):
    """Makes the fold of a shard, from a state or anew."""

    def __call__(self, state: State | None = None, stamp: Stamp | None = None) -> F:
        """Return a fold of this state. Parts that cannot be restored begin empty (`begun`, `renewed`).

        Args:
            stamp: the state's. The fold has its settings; without a stamp, those that are configured now.

        Raises:
            StateUnreadable: a newer release has written the state.
        """

    def adopt(self, fold: F) -> F:
        """Return a fold of the same state that has the settings that are configured now, noted in `renewed`."""

    def only(self, families: Collection[str]) -> "MakeFold[F]":
        """Return what makes the fold of these families alone, and of those that they read."""

    def replace(self, fold: F, anew: F) -> None:
        """Replace the families of `fold` by those that were folded anew."""


def no_report(folded: int, committed: int) -> None:
    """Do not report progress."""


def freeze(fold: Fold, intake: Intake) -> State:
    """Return a shard's whole state."""
    return {"fold": fold.state(), "intake": intake.state()}


class Follower(Generic[F]):
    """The fold of one shard, computed from its journal.

    Args:
        make: makes the fold, from a state or anew.
        from_start: do not begin with a snapshot, but with the journal's first entry.
        fold_anew: fold what cannot be restored from the journal's start, if the log still holds all of it. Otherwise,
            and without this, it begins empty.
        plainly: with `from_start`, also fold entries whose state was renewed, as if it had not been.
        lock: held while the fold changes, for at most `locked_records_max` records at once. A reader of
            the fold must hold it.

    `newest_ms` is the append time of the newest record that was folded, `stamp` the newest that the journal names,
    `strays` the number of records that other programs have written to the shard's journal and judgements, `damaged` the
    blobs of newer snapshots that could not be restored.

    Raises:
        PositionLost: retention has deleted all entries of the journal, so that the shard's state is unknown; or the
            journal must be folded from its start, but its first judgements are deleted.
    """

    def __init__(
        self,
        log: Log,
        blobs: Blobs,
        shard: Shard,
        *,
        make: MakeFold[F],
        from_start: bool = False,
        fold_anew: bool = False,
        plainly: bool = False,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._log, self._blobs, self._shard, self._lock = log, blobs, shard, lock or nullcontext()
        self._make, self._plainly = make, plainly
        self._unbroken = from_start  # the state follows from the journal's first entry
        self.newest_ms = self.strays = 0
        self.chain = Chain()
        self.damaged: list[str] = []
        self.stamp: Stamp | None = None
        self.fold: F = make()
        self.intake = Intake()
        self.number = 0
        self._topics = (EVENTS, *shard.hears)
        self.positions = {place: log.first(place) for topic in self._topics for place in log.partitions(topic)}
        self.journal_position = log.first(shard.journal)
        self._judgements = shard.judgements
        self.judgements_position = log.first(self._judgements)
        last = journal.newest(log, shard)
        if last and last.writer != shard.name:
            raise Misconfigured(
                f"shard {shard.name}: wanted partition {shard.number} of the journal to itself, found entries of the"
                f" shard {last.writer}; a shard's partition never changes"
            )
        if last is None and self.journal_position:
            raise PositionLost(*shard.journal, 0, self.journal_position, log.end(shard.journal))
        if from_start:
            last = None
        self.pointer: Pointer | None = last.snapshot if last else None
        if self.pointer:
            self.pointer = self._restore_newest(self.pointer)
            if self.fold.begun and fold_anew:
                self._fold_anew(self.pointer.number)
            if self.fold.begun:
                self._hear_again()
        elif self.judgements_position and not self.journal_position:
            # Entries count judgements without their exact positions: a loss is not noticed later. Beside a complete
            # journal they must be complete too.
            raise PositionLost(*self._judgements, 0, self.judgements_position, log.end(self._judgements))
        with ExitStack() as opened:
            self._journal = opened.enter_context(closing(log.reader({shard.journal: self.journal_position})))
            self._reader = log.reader({**self.positions, self._judgements: self.judgements_position})
            opened.pop_all()
        self._buffers = {place: Buffer(read_ahead_records_max) for place in (*self.positions, self._judgements)}

    def _restore_newest(self, pointer: Pointer) -> Pointer:
        """Restore a snapshot or, if its blob is damaged or missing, the newest one before it that is whole; return it.

        Raises:
            BlobMissing, BlobCorrupt: none is whole. The error is the newest one's.
        """
        damaged: BlobMissing | BlobCorrupt | None = None
        tried: Pointer | None = pointer
        for _ in range(snapshots_kept):
            if tried is None:
                break
            try:
                self._restore(tried)
                return tried
            except (BlobMissing, BlobCorrupt) as error:
                damaged = damaged or error
                warn = structlog.get_logger().warning
                warn("snapshot is damaged, going back to the one before", shard=self._shard.name, error=str(error))
                self.damaged.append(tried.blob)
                tried = journal.former_snapshot(self._log, self._shard, tried)
        assert damaged is not None
        raise damaged

    def _restore(self, pointer: Pointer) -> None:
        state = decode_state(self._blobs.get(pointer.blob))
        self.fold, self.intake = self._make(state["fold"], pointer.stamp), Intake.from_state(state["intake"])
        self.number, self.journal_position = pointer.number, pointer.journal
        self.judgements_position, self.stamp, self.chain = pointer.judgements, pointer.stamp, Chain(pointer.digest)
        for name, position in pointer.positions.items():
            place = place_of_key(name)
            if place in self.positions:
                self.positions[place] = position
            elif place.topic in self._topics:
                raise PositionLost(*place, position, 0, 0)

    def _join(self, place: Partition, position: int) -> None:
        """Read a partition that was added to its topic since this follower began."""
        if place not in self._log.partitions(place.topic):
            raise PositionLost(*place, position, 0, 0)
        read = {one: self._reader.position(one) for one in self._buffers}
        reader = self._log.reader({**read, place: position})
        self._reader.close()
        self._reader = reader
        self._buffers[place] = Buffer(read_ahead_records_max)
        self.positions[place] = position

    def _fold_anew(self, number: int) -> None:
        """Fold the families that begin empty from the journal's start instead, if the log still holds all of it."""
        make = self._make.only(self.fold.begun)
        try:
            with closing(
                Follower(self._log, self._blobs, self._shard, make=make, from_start=True, plainly=True)
            ) as anew:
                while anew.number < number:
                    if not anew.step(arrival_timeout_s, min(report_entries, number - anew.number)):
                        return
        except (PositionLost, StateUnreadable):
            return
        self._make.replace(self.fold, anew.fold)

    def _hear_again(self) -> None:
        """Let families that begin empty hear the side topics that are kept for ever, up to the state's position."""
        kept = {p: end for p, end in self.positions.items() if TOPICS[p.topic].retention_ms == KEPT_FOR_EVER}
        for place, end in kept.items():
            with closing(self._log.reader({place: self._log.first(place)})) as reader:
                while reader.position(place) < end and (
                    found := reader.read(read_ahead_records_max, arrival_timeout_s)
                ):
                    for record in (one for _, records in found for one in records if one.offset < end):
                        self.fold.hear_again(place.topic, record)

    def catch_up(self, report: Callable[[int, int], None] = no_report) -> None:
        """Fold all entries that are committed now; regularly `report` the number folded and the total."""
        last = journal.newest(self._log, self._shard)
        while last and self.number <= last.number:
            position = self.journal_position
            if not self.step(arrival_timeout_s, report_entries) and self.journal_position == position:
                raise LogUnavailable(
                    f"journal of {self._shard.name}: entry {last.number} is committed but cannot be read"
                )
            report(self.number, last.number + 1)

    def step(self, timeout_s: float, entries_max: int = 1_000) -> int:
        """Fold the entries that arrive within `timeout_s`; return their number.

        Raises:
            StateUnreadable: the journal's next entry does not follow the state.
            PositionLost: the log no longer holds what an entry names.
        """
        count = 0
        for _, records in self._journal.read(entries_max, timeout_s):
            for record in records:
                entry = journal.entry_in(record)
                self.journal_position = record.offset + 1
                if entry is None or entry.writer != self._shard.name or entry.number < self.number:
                    self._note_stray(self._shard.journal, record)  # not written by the shard, or a copy
                    continue
                self.apply(entry)
                count += 1
        return count

    def apply(self, entry: Entry) -> None:
        """Fold one entry: its runs in order, then its judgements."""
        if entry.stamp:
            self._continue_from(entry)
        if entry.number != self.number:
            raise StateUnreadable(
                f"journal of {self._shard.name}: wanted entry {self.number}, found {entry.number}; "
                "the entries between are gone and no snapshot that this version can read covers them"
            )
        for number, run in enumerate(entry.runs):
            place = Partition(run.topic, run.partition)
            if run.topic not in self._topics:  # a side topic of a family that has left this shard
                continue
            if place not in self.positions:
                self._join(place, run.start)
            if run.start < self.positions[place]:
                raise PositionLost(*place, run.start, self.positions[place], self._log.end(place))
            read_ms = entry.read_ms[number] if entry.read_ms else 0
            for taken in self._records_of(place, run):
                records = stamped(taken, read_ms) if read_ms else taken
                self.chain.add(records)
                with self._lock:
                    if run.topic == EVENTS:
                        self._learn(records)
                    else:
                        for record in records:
                            self.fold.hear(run.topic, record)
            self.positions[place] = run.end
        for record in self._take_judgements(entry):
            data = record.value or b""
            self.chain.add_judgement(data)
            with self._lock:
                self.fold.absorb(journal.judging_family(record.key), data)
            self.judgements_position = record.offset + 1
        self._check_digest(entry)
        with self._lock:
            self.fold.emit()  # outputs are off: the live shard committed them
        self.number += 1
        self.pointer = entry.snapshot or self.pointer

    def _continue_from(self, entry: Entry) -> None:
        """Take over the settings of a shard's first entry, or a state that does not follow from the entries before."""
        assert entry.stamp is not None
        if self._plainly:
            return
        if entry.number == self.number == 0:
            self.fold = self._make(None, entry.stamp)
        elif entry.renewed == FOLDED_ANEW and self._unbroken:
            pass  # what a refold wrote is this state
        elif entry.renewed and entry.snapshot and entry.number == entry.snapshot.number:
            self._restore(entry.snapshot)
            self._unbroken = False
        self.stamp = entry.stamp

    def _learn(self, records: Sequence[Record]) -> None:
        admit, prepare, learn = self.intake.admit, self.fold.prepare, self.fold.learn
        for record in records:
            event = decode(record)
            if not isinstance(event, Rejection) and admit(event, record.time_ms) and prepare(event):
                learn(event, record.partition, record.offset)
        self.newest_ms = max(self.newest_ms, records[-1].time_ms)

    def _records_of(self, place: Partition, run: Run) -> Iterator[list[Record]]:
        """Yield a run's records, some at a time; skip those of earlier entries (none, unless the log was damaged)."""
        buffer, position = self._buffers[place], run.start
        while position < run.end:
            if not buffer:
                self._fill(place)
            taken = buffer.take(locked_records_max)
            begin = bisect_left(taken, run.start, key=attrgetter("offset"))
            end = bisect_left(taken, run.end, key=attrgetter("offset"))
            buffer.put_back(taken[end:])
            if begin == end and not taken[end:]:
                continue
            if begin == end or (position == run.start and taken[begin].offset != run.start):
                raise PositionLost(place.topic, place.number, position, taken[begin].offset, run.end)
            yield taken[begin:end]
            position = taken[end - 1].offset + 1

    def _take_judgements(self, entry: Entry) -> list[Record]:
        """Return the judgements of an entry: as many as it counts, not before the position that it states."""
        place, taken = self._judgements, list[Record]()
        buffer = self._buffers[place]
        while len(taken) < entry.judged:
            if not buffer:
                self._fill(place)
            for record in buffer.take(entry.judged - len(taken)):
                if record.offset < entry.judgements:
                    continue
                if entry.digest and not journal.counts(entry, record):
                    self._note_stray(place, record)
                    continue
                taken.append(record)
        return taken

    def _check_digest(self, entry: Entry) -> None:
        """Compare the records that were applied with those that the shard learned, as far as the entry tells.

        Raises:
            RecordsChanged: they differ.
        """
        before = self.chain.value
        if not entry.digest or any(run.topic not in self._topics for run in entry.runs):
            self.chain = Chain(entry.digest)
        elif self.chain.close_entry() != entry.digest:
            runs = ", ".join(f"{run.topic}/{run.partition} from {run.start} to {run.end}" for run in entry.runs)
            raise RecordsChanged(
                f"{self._shard.name}: the records of journal entry {entry.number} are not those that were learned"
                f" ({runs or 'no records'}; {entry.judged} judgements): wanted the digest {entry.digest} after"
                f" {before or 'none'}, found {self.chain.value}"
            )

    def _note_stray(self, place: Partition, record: Record) -> None:
        """Count a record that another program wrote to the shard's own partition; it is passed over."""
        self.strays += 1
        structlog.get_logger().warning("stray record", at=f"{key_of(place)}/{record.offset}", shard=self._shard.name)

    def _fill(self, place: Partition) -> None:
        """Read ahead for all partitions with short buffers, until a record of `place` has arrived."""
        deadline = time.monotonic() + arrival_timeout_s
        while not self._buffers[place]:
            short = [one for one, buffer in self._buffers.items() if not buffer.full]
            for found, records in self._reader.read(read_ahead_records_max, 0.05, only=short):
                self._buffers[found].extend(records)
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{key_of(place)}: records that the journal names could not be read")

    def state(self) -> State:
        """Return the shard's whole state."""
        return freeze(self.fold, self.intake)

    def digest(self) -> str:
        """Return the digest of the shard's whole state, the same for every fold of the same journal."""
        return digest_of(self.state())

    def close(self) -> None:
        """Free connections. Safe to call twice."""
        for reader in (self._journal, self._reader):
            reader.close()
