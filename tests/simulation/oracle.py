"""The oracle of one shard: the uninterrupted fold of what is committed, seen without any fault."""

from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Any

import msgspec

from headrace.clock import Timer
from headrace.errors import BrokenWorld
from headrace.log.protocol import Partition, Record
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.follower import Follower, MakeFold
from headrace.shard.journal import Entry, Pointer, key_of
from headrace.topics import Shard
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
    """A follower that keeps the last entry that it folded."""

    entry: Entry

    def apply(self, entry: Entry) -> None:
        super().apply(entry)
        self.entry = entry


class Oracle:
    """Folds a shard's journal as it grows, and checks each entry and each snapshot that an entry names.

    Attributes:
        digests: the state's digest after each number of entries.
        pointers: the snapshots that entries named, oldest first.
        renewed: whether the newest was named by an entry whose state does not follow from the entries before.
    """

    def __init__(self, world: World, blobs: Blobs, shard: Shard, make: MakeFold[Any]) -> None:
        self._world, self.shard = world, shard
        self._plain = PlainLog(world)
        self.follower = EntryByEntry(self._plain, blobs, shard, make=make, from_start=True, timer=IMPATIENT)
        self.digests = [self.follower.digest()]
        self._positions = [dict(self.follower.positions)]
        self.pointers: list[Pointer] = []
        self.renewed = False
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
        self._positions.append(dict(self.follower.positions))
        pointer = self.follower.pointer
        if pointer is None or (self.pointers and pointer == self.pointers[-1]):
            return
        self.pointers.append(pointer)
        self.renewed = bool(self.follower.entry.renewed)
        number = pointer.number
        if pointer.blob.rpartition("-")[2] != self.digests[number]:
            raise Violation(f"{self.shard.name}: the snapshot after {number} entries is not their fold")
        positions = {key_of(place): position for place, position in self._positions[number].items()}
        if any(positions.get(name, position) != position for name, position in pointer.positions.items()):
            raise Violation(f"{self.shard.name}: {pointer.positions} is not where entry {number} begins: {positions}")

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
        return list(getattr(self.follower.fold, "said", ()))

    def check_strays(self, written: int) -> None:
        """Check that everything in the journal is an entry of the shard, or was written by another program."""
        self.follower.step(0.0)  # what stands after the newest entry
        found = self.follower._journal.strays
        if found != written:
            raise Violation(
                f"{self.shard.name}: {found} records of the journal are no entries of it, {written} are strays"
            )
