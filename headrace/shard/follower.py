"""A follower: folds a shard's journal as it grows, with outputs off.

Serving answers from a follower. A restarting loop uses one to return to the last commit. An operator can use one to
replay a journal.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from math import inf
from typing import Any, Generic, Protocol, TypeVar

import structlog

from headrace.clock import TIMER, Timer
from headrace.errors import (
    BlobCorrupt,
    BlobMissing,
    LogUnavailable,
    Misconfigured,
    PositionLost,
    StateUnreadable,
    Stopping,
)
from headrace.events import Event, Rejection, decode
from headrace.log.protocol import Log, Outgoing, Partition, Record
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.chain import Chain
from headrace.shard.comparison import Comparison
from headrace.shard.entries import EntryRecords, JournalReader, arrival_timeout_s, read_ahead_records_max
from headrace.shard.identity import Identities
from headrace.shard.intake import Intake
from headrace.shard.journal import Entry, Pointer, Results, Stamp, snapshots_kept
from headrace.shard.skips import Skips
from headrace.state import State
from headrace.state import decode as decode_state
from headrace.state import digest as digest_of
from headrace.topics import EVENTS, KEPT_FOR_EVER, TOPICS, Shard

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


def never() -> bool:
    """Do not stop."""
    return False


def freeze(fold: Fold, intake: Intake) -> State:
    """Return a shard's whole state."""
    return {"fold": fold.state(), "intake": intake.state()}


def restored(blobs: Blobs, make: MakeFold[F], pointer: Pointer) -> tuple[F, Intake]:
    """Return the fold and the intake of a snapshot.

    Raises:
        BlobMissing, BlobCorrupt: the blob is not whole.
        StateUnreadable: a newer release wrote it.
    """
    state = decode_state(blobs.get(pointer.blob))
    return make(state["fold"], pointer.stamp), Intake.from_state(state["intake"])


class _Turns:
    """Holds a lock while the fold changes, and lets others have it between two records once it has held it for long.

    Args:
        turn_s: how long, in seconds.
    """

    def __init__(self, lock: AbstractContextManager[object], turn_s: float, timer: Timer) -> None:
        self._lock, self._turn_s, self._timer = lock, turn_s, timer
        self._until_s = 0.0

    def __enter__(self) -> None:
        self._lock.__enter__()
        self._until_s = self._timer.monotonic() + self._turn_s

    def __exit__(self, *raised: Any) -> None:
        self._lock.__exit__(*raised)

    def may_end(self) -> None:
        """Let others have the lock, if this turn has been long."""
        if self._timer.monotonic() >= self._until_s:
            self._lock.__exit__(None, None, None)
            self.__enter__()


class Follower(Generic[F]):
    """The fold of one shard, computed from its journal.

    Args:
        make: makes the fold, from a state or anew.
        from_start: do not begin with a snapshot, but with the journal's first entry.
        snapshot: begin with this snapshot, not with the newest.
        fold_anew: fold what cannot be restored from the journal's start, if the log still holds all of it. Otherwise,
            and without this, it begins empty.
        plainly: with `from_start`, also fold entries whose state was renewed, as if it had not been.
        lock: held while the fold changes, for about `turn_s` seconds at once, and at least for one record. A reader of
            the fold must hold it. It is not held while the log is read, or the state is frozen for `comparison`.
        stop: whether folding is to be given up, asked before each piece; then `Stopping` is raised.
        comparison: compares the state with the shard's snapshots.

    `appended_ms` has the append times, where known, of the records of `events` that the last `step` folded, `outputs`
    what the last entry gave, which an audit compares with what the live shard committed; `stamp` is the newest that the
    journal names, `identities` the ids of the topics, `skips` what is not learned, `results` those of the last entry
    that was folded, `damaged` the blobs of newer snapshots that could not be restored.

    Raises:
        TopicReplaced: a topic was deleted and made again since the shard learned from it.
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
        snapshot: Pointer | None = None,
        fold_anew: bool = False,
        plainly: bool = False,
        lock: AbstractContextManager[object] | None = None,
        turn_s: float = inf,
        stop: Callable[[], bool] = never,
        comparison: Comparison | None = None,
        timer: Timer = TIMER,
    ) -> None:
        self._comparison = comparison
        self._log, self._blobs, self._shard = log, blobs, shard
        self._turns = _Turns(lock or nullcontext(), turn_s, timer)
        self._make, self._plainly, self._stop, self._timer = make, plainly, stop, timer
        self._unbroken = from_start  # the state follows from the journal's first entry
        self.appended_ms: list[int] = []
        self.outputs: list[Outgoing] = []
        self.damaged: list[str] = []
        self.stamp: Stamp | None = None
        self.results: Results | None = None
        self.fold: F = make()
        self.intake = Intake()
        self.number = 0
        begin, judgements = log.first(shard.journal), log.first(shard.judgements)
        self.identities, self.skips = Identities(log, shard, timer), Skips({})
        firsts = {place: log.first(place) for place in shard.inputs(log)}
        self._records = EntryRecords(log, shard, firsts, judgements, timer)
        last = journal.newest(log, shard)
        if last and last.writer != shard.name:
            raise Misconfigured(
                f"shard {shard.name}: wanted partition {shard.number} of the journal to itself, found entries of the"
                f" shard {last.writer}; a shard's partition never changes"
            )
        if last is None and begin:
            raise PositionLost(*shard.journal, 0, begin, log.end(shard.journal))
        self.pointer: Pointer | None = snapshot or (last.snapshot if last else None)
        if from_start:
            self.pointer = journal.start_of(log, shard, self.pointer)
        if self.pointer:
            self.identities.take_over(self.pointer.topics)
            if from_start or snapshot:
                self._restore(self.pointer)
            else:
                self.pointer = self._restore_newest(self.pointer)
            begin = self.pointer.journal
            if self.fold.begun and fold_anew:
                self._fold_anew(self.pointer.number)
            if self.fold.begun:
                self._hear_again()
        elif judgements and not begin:
            # Entries count judgements without their exact positions: a loss is not noticed later. Beside a complete
            # journal they must be complete too.
            raise PositionLost(*shard.judgements, 0, judgements, log.end(shard.judgements))
        self._journal = JournalReader(log, shard, begin, self.number)

    @property
    def positions(self) -> dict[Partition, int]:
        """The next record of each partition of the shard's inputs."""
        return self._records.positions

    @property
    def judgements_position(self) -> int:
        """The position before which no later entry names a judgement."""
        return self._records.judgements_position

    @property
    def journal_position(self) -> int:
        """The position after the last record of the journal that was read."""
        return self._journal.position

    @property
    def chain(self) -> Chain:
        """The running digest of what was folded."""
        return self._records.chain

    @property
    def strays(self) -> int:
        """The number of records of other programs in the shard's journal and judgements, which were passed over."""
        return self._journal.strays + self._records.strays

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
        self.fold, self.intake = restored(self._blobs, self._make, pointer)
        self.number, self.stamp, self.skips = pointer.number, pointer.stamp, Skips(pointer.skipped)
        self._records.continue_from(pointer)

    def _fold_anew(self, number: int) -> None:
        """Fold the families that begin empty from the journal's start instead, if the log still holds all of it."""
        if self.pointer and self.pointer.origin:
            return
        make = self._make.only(self.fold.begun)
        try:
            with closing(
                Follower(
                    self._log,
                    self._blobs,
                    self._shard,
                    make=make,
                    from_start=True,
                    plainly=True,
                    stop=self._stop,
                    timer=self._timer,
                )
            ) as anew:
                if anew.fold.begun:  # the state with which the fold begins cannot be restored either
                    return
                while anew.number < number:
                    if not anew.step(arrival_timeout_s, min(report_entries, number - anew.number)):
                        return
        except (BlobMissing, BlobCorrupt, PositionLost, StateUnreadable):
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
            if not self.step(arrival_timeout_s, report_entries):
                raise LogUnavailable(
                    f"journal of {self._shard.name}: entry {last.number} is committed but cannot be read"
                )
            report(self.number, last.number + 1)

    def step(self, timeout_s: float, entries_max: int = 1_000) -> int:
        """Fold the entries that arrive within `timeout_s`; return their number.

        Raises:
            StateUnreadable: the journal's next entry does not follow the state.
            PositionLost: the log no longer holds what an entry names.
            TopicReplaced: a topic was deleted and made again.
        """
        count = 0
        self.identities.check_regularly()
        self.appended_ms = []
        for entry in self._journal.read(entries_max, timeout_s):
            self.apply(entry)
            count += 1
        return count

    def apply(self, entry: Entry) -> None:
        """Fold one entry: its runs in order, then its judgements."""
        self.identities.take_over(entry.topics)
        if entry.stamp:
            self._continue_from(entry)
        if entry.decision and entry.decision.skip:
            self.skips.add({entry.decision.skip: entry.decision.why})
        if entry.number != self.number:
            raise StateUnreadable(
                f"journal of {self._shard.name}: wanted entry {self.number}, found {entry.number}; "
                "the entries between are gone and no snapshot that this version can read covers them"
            )
        runs, judgements = list(self._records.runs(entry)), self._records.judgements(entry)
        self._records.check(entry)
        with self._turns:
            for run, records, timed in runs:
                if self._stop():
                    raise Stopping
                skipped = self.skips.of(Partition(run.topic, run.partition))
                learned = [record for record in records if record.offset not in skipped] if skipped else records
                if run.topic == EVENTS:
                    self._learn(learned)
                else:
                    self._hear(run.topic, learned)
                if timed and run.topic == EVENTS:
                    self.appended_ms += [record.time_ms for record in records]
            self._absorb(judgements)
            self._turns.may_end()
            self.outputs = self.fold.emit()  # not written: the live shard committed them
        self.number += 1
        self.pointer, self.results = entry.snapshot or self.pointer, entry.results
        if self._comparison:
            self._comparison.hear(entry.snapshot)
            if entry.frozen and self._comparison.due:
                self._comparison.take(self.state(), self.number, self.fold.stamp)

    def _continue_from(self, entry: Entry) -> None:
        """Take over the settings of a shard's first entry, or a state that does not follow from the entries before."""
        assert entry.stamp is not None
        if entry.replaces_state and entry.snapshot:
            try:
                self._restore(entry.snapshot)
            except (BlobMissing, BlobCorrupt) as error:
                raise StateUnreadable(
                    f"{self._shard.name}: the state with which journal entry {entry.number} goes on is lost: {error}"
                ) from error
            self.stamp = entry.stamp
            if self._comparison:
                self._comparison.forget()
            return
        if self._plainly:
            return
        if entry.number == self.number == 0:
            self.fold = self._make(None, entry.stamp)
        elif entry.renewed == FOLDED_ANEW and self._unbroken:
            pass  # what a refold wrote is this state
        elif entry.renewed and entry.snapshot and entry.number == entry.snapshot.number:
            self._take_over(entry.snapshot)
            self._unbroken = False
        self.stamp = entry.stamp

    def _take_over(self, renewed: Pointer) -> None:
        """Go on with a renewed state, or with this one if it is the same, as after a refold of a whole journal.

        Raises:
            BlobMissing, BlobCorrupt: its blob is not whole, and it differs.
        """
        try:
            self._restore(renewed)
        except (BlobMissing, BlobCorrupt):
            if f"{self._shard.name}-{self.digest()}" != renewed.blob:
                raise

    def _learn(self, records: Sequence[Record]) -> None:
        admit, prepare, learn = self.intake.admit, self.fold.prepare, self.fold.learn
        for record in records:
            self._turns.may_end()
            event = decode(record)
            if not isinstance(event, Rejection) and admit(event, record.time_ms) and prepare(event):
                learn(event, record.partition, record.offset)

    def _hear(self, topic: str, records: Sequence[Record]) -> None:
        for record in records:
            self._turns.may_end()
            self.fold.hear(topic, record)

    def _absorb(self, judgements: Sequence[Record]) -> None:
        for record in judgements:
            self._turns.may_end()
            self.fold.absorb(journal.judging_family(record.key), record.value or b"")

    def state(self) -> State:
        """Return the shard's whole state."""
        return freeze(self.fold, self.intake)

    def digest(self) -> str:
        """Return the digest of the shard's whole state, the same for every fold of the same journal."""
        return digest_of(self.state())

    def close(self) -> None:
        """Free connections. Safe to call twice."""
        for reader in (self._journal, self._records):
            reader.close()
