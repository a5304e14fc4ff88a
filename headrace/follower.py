"""A follower: folds a shard's journal as it grows, with outputs off.

Serving answers from one; a restarting loop uses one to come back to the last commit; an operator can replay with one.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import Generic, Protocol, TypeVar

from headrace import journal
from headrace.blobs import Blobs
from headrace.errors import LogUnavailable, PositionLost, StateUnreadable
from headrace.events import Event, Rejection, decode
from headrace.intake import Intake
from headrace.journal import Entry, Pointer, Run, key_of
from headrace.log import Log, Outgoing, Partition, Record
from headrace.state import State
from headrace.state import decode as decode_state
from headrace.state import digest as digest_of
from headrace.topics import EVENTS, JUDGEMENTS, SHARDS

arrival_max_s = 30.0
"""How long records that a committed entry names may take to be readable. On Kafka the markers of one transaction reach
its partitions one after another; more than seconds means that the log lost them."""
locked_records_max = 32
"""Records folded in one go while a reader of the fold waits."""
read_records_max = 4_000
"""Records asked for at once while folding."""
report_entries = 20
"""Entries between two reports of how far a fold is: seconds."""


class Fold(Protocol):
    """What a shard learns: a pure function of the records that its journal names, in that order."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of everything that shapes the state's bytes; a snapshot of other versions is folded anew."""

    def learn(self, event: Event, partition: int, offset: int) -> None:
        """Learn from one event."""

    def hear(self, topic: str, record: Record) -> None:
        """Take up a record of a side topic (a model's announcement, an alarm)."""

    def absorb(self, judgement: bytes) -> None:
        """Learn from one judgement, as this shard's judge wrote it."""

    def emit(self) -> list[Outgoing]:
        """Return and forget the outputs since the last call."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""

    def state(self) -> State:
        """Return all that was learned; shares nothing with the fold. Called only when `emit` has just been."""


def silent(folded: int, committed: int) -> None:
    """Report to nobody."""


def freeze(fold: Fold, intake: Intake) -> State:
    """Return a shard's whole state."""
    return {"fold": fold.state(), "intake": intake.state()}


F = TypeVar("F", bound=Fold)


class Follower(Generic[F]):
    """One shard as its journal tells it.

    Args:
        make: builds the fold, from a state or anew.
        inputs: all partitions that the shard reads.
        from_start: ignore snapshots and fold the whole journal.
        lock: held while the fold changes, for at most `locked_records_max` records at once; between, it may be read.

    `newest_ms` is the append time of the newest record that was folded.

    Raises:
        PositionLost: all entries of the journal are gone (retention), so that nobody can tell what was learned; or it
            is to be folded from its start, but its first judgements are gone.
    """

    def __init__(
        self,
        log: Log,
        blobs: Blobs,
        shard: str,
        *,
        make: Callable[[State | None], F],
        inputs: Sequence[Partition],
        from_start: bool = False,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._log, self._shard, self._lock = log, shard, lock or nullcontext()
        self.newest_ms = 0
        self.fold: F = make(None)
        self.intake = Intake()
        self.number = 0
        self.positions: dict[Partition, int] = {place: log.first(place) for place in inputs}
        self.journal_position = log.first(journal.partition_of(shard))
        self._judgements = Partition(JUDGEMENTS, SHARDS[shard])
        self.judgements_position = log.first(self._judgements)
        last = journal.newest(log, shard)
        if last is None and self.journal_position:
            place = journal.partition_of(shard)
            raise PositionLost(*place, 0, self.journal_position, log.end(place))
        if from_start:
            last = None
        self.pointer: Pointer | None = last.snapshot if last else None
        if self.pointer and self.pointer.versions == dict(self.fold.versions):
            self._restore(self.pointer, blobs, make)
        else:
            self.pointer = None
            if self.judgements_position and not self.journal_position:
                # Entries count them and name no position: beside a whole journal, they must be whole too.
                raise PositionLost(*self._judgements, 0, self.judgements_position, log.end(self._judgements))
        with ExitStack() as opened:
            self._journal = opened.enter_context(
                closing(log.reader({journal.partition_of(shard): self.journal_position}))
            )
            self._reader = log.reader({**self.positions, self._judgements: self.judgements_position})
            opened.pop_all()
        self._buffers: dict[Partition, deque[Record]] = {
            place: deque() for place in [*self.positions, self._judgements]
        }

    def _restore(self, pointer: Pointer, blobs: Blobs, make: Callable[[State | None], F]) -> None:
        state = decode_state(blobs.get(pointer.blob))
        self.fold, self.intake = make(state["fold"]), Intake.from_state(state["intake"])
        self.number, self.journal_position = pointer.number, pointer.journal
        self.judgements_position = pointer.judgements
        for place in self.positions:
            self.positions[place] = pointer.positions.get(key_of(place), self.positions[place])

    def catch_up(self, report: Callable[[int, int], None] = silent) -> None:
        """Fold all entries that are committed now; now and then, `report` how many of how many are folded."""
        last = journal.newest(self._log, self._shard)
        while last and self.number <= last.number:
            if not self.step(arrival_max_s, report_entries):
                raise LogUnavailable(f"journal of {self._shard}: entry {last.number} is committed but cannot be read")
            report(self.number, last.number + 1)

    def step(self, timeout_s: float, entries_max: int = 1_000) -> int:
        """Fold the entries that come within `timeout_s`; return how many.

        Raises:
            StateUnreadable: the journal does not go on where the state ends.
            PositionLost: the log no longer holds what an entry names.
        """
        count = 0
        for _, records in self._journal.read(entries_max, timeout_s):
            for record in records:
                self.apply(journal.decode(record))
                self.journal_position = record.offset + 1
                count += 1
        return count

    def apply(self, entry: Entry) -> None:
        """Fold one entry: its runs in order, then its judgements."""
        if entry.number != self.number:
            raise StateUnreadable(
                f"journal of {self._shard}: wanted entry {self.number}, found {entry.number}; "
                "the entries between are gone and no snapshot that this version can read covers them"
            )
        for run in entry.runs:
            place = Partition(run.topic, run.partition)
            if run.start < self.positions[place]:
                raise PositionLost(*place, run.start, self.positions[place], self._log.end(place))
            records = self._take(place, run)
            if run.topic == EVENTS:
                self._learn(records)
            else:
                with self._lock:
                    for record in records:
                        self.fold.hear(run.topic, record)
            self.positions[place] = run.end
        for record in self._next(self._judgements, entry.judgements, entry.judged):
            with self._lock:
                self.fold.absorb(record.value or b"")
            self.judgements_position = record.offset + 1
        with self._lock:
            self.fold.emit()  # outputs are off: the live shard committed them
        self.number += 1
        self.pointer = entry.snapshot or self.pointer

    def _learn(self, records: Sequence[Record]) -> None:
        admit, learn = self.intake.admit, self.fold.learn
        for start in range(0, len(records), locked_records_max):
            with self._lock:
                for record in records[start : start + locked_records_max]:
                    event = decode(record)
                    if not isinstance(event, Rejection) and admit(event):
                        learn(event, record.partition, record.offset)
        if records:
            self.newest_ms = max(self.newest_ms, records[-1].time_ms)

    def _take(self, place: Partition, run: Run) -> list[Record]:
        """Return the records of a run; skips what an entry before covered (nothing, unless the log was damaged)."""
        buffer, taken = self._buffers[place], list[Record]()
        deadline = time.monotonic() + arrival_max_s
        while not taken or taken[-1].offset + 1 < run.end:
            if not buffer:
                self._fill(place, deadline)
            record = buffer.popleft()
            if record.offset < run.start:
                continue
            if record.offset >= run.end or (not taken and record.offset != run.start):
                raise PositionLost(place.topic, place.number, run.start, record.offset, run.end)
            taken.append(record)
        return taken

    def _next(self, place: Partition, start: int, count: int) -> list[Record]:
        """Return the next records of a partition that do not lie before `start`."""
        buffer, taken = self._buffers[place], list[Record]()
        deadline = time.monotonic() + arrival_max_s
        while len(taken) < count:
            if not buffer:
                self._fill(place, deadline)
            record = buffer.popleft()
            if record.offset >= start:
                taken.append(record)
        return taken

    def _fill(self, place: Partition, deadline: float) -> None:
        """Read ahead for all partitions whose buffers are short, until there is something for `place`."""
        size = len(self._buffers[place])
        while len(self._buffers[place]) == size:
            hungry = [p for p, buffer in self._buffers.items() if len(buffer) < read_records_max or p == place]
            for found, records in self._reader.read(read_records_max, 0.05, only=hungry):
                self._buffers[found].extend(records)
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{key_of(place)}: records that the journal names did not come")

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
