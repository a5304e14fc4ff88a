"""The oracle of one shard: the uninterrupted fold of what is committed, seen without any fault."""

from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple

import msgspec

from headrace.clock import Timer
from headrace.errors import BrokenWorld
from headrace.log.protocol import Partition, Record
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.follower import Follower, MakeFold
from headrace.shard.journal import Entry, Pointer, key_of, place_of_key
from headrace.topics import EVENTS, Shard
from tests.simulation.faulty_log import FaultyLog
from tests.simulation.folds import HashingFold
from tests.simulation.world import Process, Violation, World

IMPATIENT = Timer(monotonic=count(step=1.0).__next__)
"""Each look takes a second: what the plain log does not hold at once, it never will."""


class PlainLog(FaultyLog):
    """The log without faults, apart from append times that it does not tell."""

    def __init__(self, world: World) -> None:
        super().__init__(world, Process("oracle"))

    def _call(self, what: str) -> None:
        """Never fail."""

    def identity(self, topic: str) -> str:
        return ""  # it reads everything before it is deleted

    def reader(self, positions: Mapping[Partition, int]) -> Any:
        return PlainReader(self._world, positions)


class PlainReader:
    """Reads all that is committed."""

    def __init__(self, world: World, positions: Mapping[Partition, int]) -> None:
        self._reader, self._untimed = world.log.reader(positions), world.untimed
        self.seek, self.position, self.end = self._reader.seek, self._reader.position, self._reader.end
        self.close = self._reader.close

    def read(self, records_max: int, timeout_s: float, only: Any = None) -> list[tuple[Partition, list[Record]]]:
        found = self._reader.read(records_max, 0.0, only)
        return [(place, [untimed(one) for one in records] if place in self._untimed else records)
                for place, records in found]  # fmt: skip


def untimed(record: Record) -> Record:
    """Return a record without its append time."""
    return msgspec.structs.replace(record, time_ms=0)


class EntryByEntry(Follower[Any]):
    """A follower that keeps the last entry that it folded, and what folds wrote out that a loss has ended."""

    entry: Entry
    said_before: tuple[str, ...] = ()

    def apply(self, entry: Entry) -> None:
        fold = self.fold
        super().apply(entry)
        if self.fold is not fold:
            self.said_before += tuple(getattr(fold, "said", ()))
        self.entry = entry


class Applied(NamedTuple):
    """Records of a partition of `events`, of some era, or of another topic, that an entry names."""

    place: Partition
    era: int
    start: int
    end: int


class Stand(NamedTuple):
    """Where a shard stands: in which era of `events`, and at which positions."""

    era: int
    positions: Mapping[Partition, int]

    def of(self, place: Partition) -> tuple[int, int]:
        """Return the era and the position of a partition."""
        return era_of(place.topic, self.era), self.positions.get(place, 0)


def era_of(topic: str, era: int) -> int:
    """Return the era of a topic's records: only `events` is ever made again."""
    return era if topic == EVENTS else 0


def needs_of(shard: Shard, pointer: Pointer) -> dict[Partition, int]:
    """Return the first position of each partition that a fold from a snapshot reads, as far as the snapshot says."""
    inputs = {place_of_key(name): position for name, position in pointer.positions.items()}
    return {**inputs, shard.journal: pointer.journal, shard.judgements: pointer.judgements}


class Oracle:
    """Folds a shard's journal as it grows, and checks each entry and each snapshot that an entry names.

    Attributes:
        digests: the state's digest after each number of entries.
        pointers: the snapshots that entries named, oldest first.
        replaced: whether the newest was named by the entry that accepts a loss.
        applied: all that entries name, in order.
        jumps: from where to where the shard went at each accepted loss.
    """

    def __init__(self, world: World, blobs: Blobs, shard: Shard, make: MakeFold[Any]) -> None:
        self._world, self.shard = world, shard
        self._plain = PlainLog(world)
        self.follower = EntryByEntry(self._plain, blobs, shard, make=make, from_start=True, timer=IMPATIENT)
        self.digests = [self.follower.digest()]
        self._stands = [self._stand()]  # after each number of entries
        self.applied: list[Applied] = []
        self.jumps: list[tuple[Stand, Stand]] = []
        self.pointers: list[Pointer] = []
        self.replaced = False
        self._strays: Counter[Partition] = Counter()

    def follow(self) -> None:
        """Fold all that is committed."""
        log = self._world.log
        last = journal.newest(log, self.shard)
        try:
            while last and self.follower.number <= last.number:
                before = self.follower.journal_position
                self.follower.step(0.0, 1)
                if self.follower.journal_position == before:
                    raise Violation(f"{self.shard.name}: entry {self.follower.number} is missing, {last} is the newest")
                if self.follower.number == len(self.digests):
                    self._note_entry()
        except BrokenWorld as error:
            raise Violation(
                f"{self.shard.name}: the journal cannot be folded: {type(error).__name__}: {error}"
            ) from error

    def _note_entry(self) -> None:
        self.digests.append(self.follower.digest())
        entry, pointer = self.follower.entry, self.follower.pointer
        self._stands.append(self._stand())
        self.applied += [
            Applied(Partition(run.topic, run.partition), era_of(run.topic, self._world.era), run.start, run.end)
            for run in entry.runs
        ]
        if entry.replaces_state and pointer:
            self.pointers, self.replaced = [pointer], True
            self._note_loss()
            return
        if pointer is None or (self.pointers and pointer == self.pointers[-1]):
            return
        self._check_needs(pointer)
        self.pointers.append(pointer)
        self.replaced = False
        number = pointer.number
        if pointer.blob.rpartition("-")[2] != self.digests[number]:
            raise Violation(f"{self.shard.name}: the snapshot after {number} entries is not their fold")
        positions = {key_of(place): position for place, position in self._stands[number].positions.items()}
        if any(positions.get(name, position) != position for name, position in pointer.positions.items()):
            raise Violation(f"{self.shard.name}: {pointer.positions} is not where entry {number} begins: {positions}")

    def _check_needs(self, pointer: Pointer) -> None:
        """Check that a fold from a snapshot reads nothing that one from an earlier snapshot does not read."""
        needs = needs_of(self.shard, pointer)
        for earlier in (one for one in self.pointers if one.number < pointer.number):
            for place, position in needs_of(self.shard, earlier).items():
                if needs.get(place, position) < position:
                    raise Violation(
                        f"{self.shard.name}: the snapshot after {pointer.number} entries needs {key_of(place)} from"
                        f" {needs[place]} on, the one after {earlier.number} from {position} on"
                    )

    def _stand(self) -> Stand:
        return Stand(self._world.era, dict(self.follower.positions))

    def _note_loss(self) -> None:
        """Check that a shard goes on after a loss with a former state, and reads all after it that the log holds."""
        before, now = self._stands[-2:]
        self.jumps.append((before, now))
        states = [number for number, digest in enumerate(self.digests[:-1]) if digest == self.digests[-1]]
        if not any(self._goes_on(now, self._stands[number]) for number in states):
            raise Violation(f"{self.shard.name}: goes on at {now.positions} after a loss; the states: {states}")

    def _goes_on(self, now: Stand, wanted: Stand) -> bool:
        """Return whether a shard stands where a state does, or where the log begins if it lacks what is wanted."""
        log = self._world.log
        for place in now.positions:
            (era, position), (era_before, at), first = now.of(place), wanted.of(place), log.first(place)
            held = era == era_before and first <= at <= log.end(place)
            if position != at and (held or first < position):
                return False
        return True

    def left_out(self, place: Partition, era: int, offset: int) -> bool:
        """Return whether a shard has never read a record, because of a loss."""
        return any(before.of(place) <= (era, offset) < after.of(place) for before, after in self.jumps)

    def check(self, number: int, digest: str, who: object) -> None:
        """Check that a state after so many entries is that of the plain fold."""
        self.follow()
        if number >= len(self.digests):
            raise Violation(f"{who} has folded {number} entries of {len(self.digests) - 1}")
        if digest != self.digests[number]:
            raise Violation(f"{who}: its state after {number} entries differs from the plain fold's")

    @property
    def covered(self) -> bool:
        """Whether all that the log holds was applied."""
        log, positions = self._world.log, self.follower.positions
        return all(
            last.offset < positions.get(place, 0) for place in self.shard.inputs(log) if (last := log.last(place))
        )

    @property
    def notes(self) -> bool:
        """Whether the fold notes what it has written out."""
        return isinstance(self.follower.fold, HashingFold)

    @property
    def said(self) -> list[str]:
        """What the fold has written out, in order; nothing where the fold does not note it."""
        return [*self.follower.said_before, *getattr(self.follower.fold, "said", ())]

    def check_strays(self, written: int) -> None:
        """Check that everything in the journal is an entry of the shard, or was written by another program."""
        self.follower.step(0.0)  # what stands after the newest entry
        found = self.follower._journal.strays
        if found != written:
            raise Violation(
                f"{self.shard.name}: {found} records of the journal are no entries of it, {written} are strays"
            )
