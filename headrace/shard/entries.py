"""What the entries of a journal name: their records and judgements, read in order and checked against their digests."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import closing
from operator import attrgetter

import structlog

from headrace.clock import TIMER, Timer
from headrace.errors import LogUnavailable, PositionLost, RecordsChanged
from headrace.log.protocol import Log, Partition, Reader, Record
from headrace.shard import journal
from headrace.shard.buffer import Buffer
from headrace.shard.chain import Chain
from headrace.shard.journal import Entry, Pointer, Run, key_of, place_of_key
from headrace.shard.merge import stamped
from headrace.topics import EVENTS, Shard

arrival_timeout_s = 30.0
"""How long it may take until records that a committed entry names can be read. On Kafka the markers of one transaction
reach its partitions one after another, within seconds. A longer delay means that the log has lost the records."""
piece_records_max = 32
"""Maximum number of records that are handed out at once."""
read_ahead_records_max = 4_000
"""Maximum number of records per read; a partition with fewer buffered records is read further."""


class EntryRecords:
    """Reads what entries name, one entry after the other. Call, for each: `runs`, then `judgements`, then `check`.

    Args:
        positions: where the next runs begin at the earliest, by partition.
        judgements: the same for the shard's judgements.

    Attributes:
        positions: the ends of the runs that were read.
        judgements_position: the position before which no later entry names a judgement.
        chain: the running digest of what was read.
        strays: number of judgements that were passed over, as another program wrote them.
    """

    def __init__(
        self, log: Log, shard: Shard, positions: Mapping[Partition, int], judgements: int, timer: Timer = TIMER
    ) -> None:  # fmt: skip
        self._log, self._shard, self._timer = log, shard, timer
        self._topics = (EVENTS, *shard.hears)
        self.positions, self.judgements_position = dict(positions), judgements
        self.chain = Chain()
        self.strays = 0
        self._reader: Reader | None = None
        self._buffers = {place: Buffer(read_ahead_records_max) for place in (*positions, shard.judgements)}

    def continue_from(self, pointer: Pointer) -> None:
        """Go on with what follows a snapshot.

        What was read ahead is read again: it may be of a topic that was replaced.

        Raises:
            PositionLost: a partition that the snapshot covers does not exist.
        """
        self.judgements_position, self.chain = pointer.judgements, Chain(pointer.digest)
        self.close()
        self._reader = None
        held, named = self._shard.inputs(self._log), {place_of_key(name): at for name, at in pointer.positions.items()}
        for place, position in named.items():
            if place not in held and place.topic in self._topics:
                raise PositionLost(*place, position, 0, 0)
        # A partition that was added later is read from its start on, also if one of this number was read before.
        self.positions = {place: named[place] if place in named else self._log.first(place) for place in held}
        self._buffers = {place: Buffer(read_ahead_records_max) for place in (*self.positions, self._shard.judgements)}

    def pass_over_expired(self, firsts: Mapping[Partition, int], judgements: int) -> None:
        """Begin nowhere before these positions, which are the first ones that the log holds."""
        self.positions = {place: max(at, firsts.get(place, 0)) for place, at in self.positions.items()}
        self.judgements_position = max(self.judgements_position, judgements)

    def runs(self, entry: Entry) -> Iterator[tuple[Run, list[Record], bool]]:
        """Yield the records of an entry's runs, some at a time, and whether the log tells their append times.

        Raises:
            PositionLost: the log no longer holds what the entry names.
        """
        for number, run in enumerate(entry.runs):
            place = Partition(run.topic, run.partition)
            if run.topic not in self._topics:  # a side topic of a family that has left this shard
                continue
            if place not in self.positions:
                self._join(place, run.start)
            if run.start < self.positions[place]:
                raise PositionLost(*place, run.start, self.positions[place], self._log.end(place))
            read_ms = entry.read_ms[number] if entry.read_ms else 0
            for taken in self._pieces(place, run):
                records = stamped(taken, read_ms) if read_ms else taken
                self.chain.add(records)
                yield run, records, not read_ms
            self.positions[place] = run.end

    def judgements(self, entry: Entry) -> list[Record]:
        """Return the judgements of an entry: as many as it counts, not before the position that it states."""
        place, taken = self._shard.judgements, list[Record]()
        buffer = self._buffers[place]
        while len(taken) < entry.judged:
            if not buffer:
                self._pass_over(entry.judgements)
                self._fill(place)
            for record in buffer.take(entry.judged - len(taken)):
                if record.offset < entry.judgements:
                    continue
                if entry.digest and not journal.counts(entry, record):
                    self.strays += 1
                    warn_of_stray(place, record, self._shard)
                    continue
                taken.append(record)
        for record in taken:
            self.chain.add_judgement(record.value or b"")
        # Also past those before it that no entry counts: a snapshot taken here needs no more than an earlier one.
        self.judgements_position = taken[-1].offset + 1 if taken else max(self.judgements_position, entry.judgements)
        return taken

    def _pass_over(self, position: int) -> None:
        """Read no judgement before a position: none is named any more, so trimming may have deleted it."""
        self.judgements_position = max(self.judgements_position, position)
        if self._reader and self._reader.position(self._shard.judgements) < position:
            self._reader.seek(self._shard.judgements, position)

    def check(self, entry: Entry) -> None:
        """Compare what was read with what the shard had applied, as far as the entry tells.

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

    def _join(self, place: Partition, position: int) -> None:
        """Read a partition that was added to its topic since this reader began."""
        if place not in self._log.partitions(place.topic):
            raise PositionLost(*place, position, 0, 0)
        if self._reader:
            read = {one: self._reader.position(one) for one in self._buffers}
            with closing(self._reader):
                self._reader = self._log.reader({**read, place: position})
        self._buffers[place] = Buffer(read_ahead_records_max)
        self.positions[place] = position

    def _pieces(self, place: Partition, run: Run) -> Iterator[list[Record]]:
        """Yield a run's records, some at a time; skip those of earlier entries (none, unless the log was damaged)."""
        buffer, position = self._buffers[place], run.start
        while position < run.end:
            if not buffer:
                self._fill(place)
            taken = buffer.take(min(piece_records_max, run.end - position))
            if taken[0].offset == position and taken[-1].offset < run.end:  # nearly always
                yield taken
                position = taken[-1].offset + 1
                continue
            begin = bisect_left(taken, run.start, key=attrgetter("offset"))
            end = bisect_left(taken, run.end, key=attrgetter("offset"))
            buffer.put_back(taken[end:])
            if begin == end and not taken[end:]:
                continue
            if begin == end or (position == run.start and taken[begin].offset != run.start):
                raise PositionLost(place.topic, place.number, position, taken[begin].offset, run.end)
            yield taken[begin:end]
            position = taken[end - 1].offset + 1

    def _fill(self, place: Partition) -> None:
        """Read ahead for all partitions with short buffers, until a record of `place` has arrived."""
        if self._reader is None:
            self._reader = self._log.reader({**self.positions, self._shard.judgements: self.judgements_position})
        deadline = self._timer.monotonic() + arrival_timeout_s
        while not self._buffers[place]:
            for found, records in self._read_ahead(self._reader, place):
                self._buffers[found].extend(records)
            if self._timer.monotonic() > deadline:
                raise LogUnavailable(f"{key_of(place)}: records that the journal names could not be read")

    def _read_ahead(self, reader: Reader, place: Partition) -> list[tuple[Partition, list[Record]]]:
        short = [one for one, buffer in self._buffers.items() if not buffer.full]
        try:
            return reader.read(read_ahead_records_max, 0.05, only=short)
        except PositionLost as lost:
            if (lost.topic, lost.partition) == place:
                raise
            # What is lost in another partition may be named by no entry: the shard was to learn it next.
            return reader.read(read_ahead_records_max, 0.05, only=[place])

    def close(self) -> None:
        """Free connections. Safe to call twice."""
        if self._reader:
            self._reader.close()


class JournalReader:
    """Reads the entries of a shard's journal.

    Args:
        number: that of the next entry.

    Attributes:
        position: the position after the last record that was read.
        strays: number of records that were passed over: no entries of the shard, or copies of older ones.
    """

    def __init__(self, log: Log, shard: Shard, position: int, number: int) -> None:
        self._shard, self.position, self._number = shard, position, number
        self.strays = 0
        self._reader = log.reader({shard.journal: position})

    def read(self, entries_max: int, timeout_s: float) -> Iterator[Entry]:
        """Yield the entries that arrive within `timeout_s`; those right behind strays, too."""
        found = False
        while not found and (batches := self._reader.read(entries_max, timeout_s)):
            for place, records in batches:
                for record in records:
                    entry = journal.entry_in(record)
                    self.position = record.offset + 1
                    if entry is None or entry.writer != self._shard.name or entry.number < self._number:
                        self.strays += 1
                        warn_of_stray(place, record, self._shard)
                    else:
                        self._number, found = entry.number + 1, True
                        yield entry

    def close(self) -> None:
        """Free connections. Safe to call twice."""
        self._reader.close()


def warn_of_stray(place: Partition, record: Record, shard: Shard) -> None:
    """Log a record that another program wrote to a shard's own topic; it is passed over."""
    structlog.get_logger().warning("stray record", at=f"{key_of(place)}/{record.offset}", shard=shard.name)
