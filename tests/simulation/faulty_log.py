"""A process' view of the log: the memory log with commits in flight, late visibility, lost answers and crashes."""

from collections.abc import Collection, Mapping, Sequence

from headrace.errors import CommitExpired, Fenced, LogUnavailable
from headrace.log.memory import MemoryAppender, MemoryReader, MemoryWriter
from headrace.log.protocol import TRANSACTION_TIMEOUT_S, Finding, Outgoing, Partition, Record
from headrace.topics import EVENTS
from tests.simulation.world import Process, World


class FaultyLog:
    """`headrace.log.protocol.Log` as one process sees it."""

    def __init__(self, world: World, process: Process) -> None:
        self._world, self._process = world, process

    def create(self) -> None:
        self._world.log.create()

    def missing(self) -> list[str]:
        return []

    def identity(self, topic: str) -> str:
        self._call("identity")
        return f"{topic} {self._world.era}" if topic == EVENTS else topic

    def partitions(self, topic: str) -> list[Partition]:
        self._call("partitions")
        return self._world.log.partitions(topic)

    def first(self, partition: Partition) -> int:
        self._call("first")
        return self._world.log.first(partition)

    def end(self, partition: Partition) -> int:
        self._call("end")
        end, hidden = self._world.log.end(partition), self._world.visible_end(partition)
        return end if hidden is None else min(end, hidden)

    def position_at(self, partition: Partition, time_ms: int) -> int:
        self._call("position_at")
        return self._world.log.position_at(partition, time_ms)

    def last(self, partition: Partition) -> Record | None:
        return next(iter(self.newest(partition, 1)), None)

    def newest(self, partition: Partition, records_max: int, *, before: int | None = None) -> list[Record]:
        self._call("newest")
        hidden = self._world.visible_end(partition)
        ends = [end for end in (before, hidden) if end is not None]
        return self._world.log.newest(partition, records_max, before=min(ends) if ends else None)

    def hidden(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        self._call("hidden")
        found = {one: self._world.visible_end(one) for one in partitions}
        return {one: (end, self._world.log.end(one) - end) for one, end in found.items() if end is not None}

    def check_settings(self) -> tuple[list[Finding], list[str]]:
        return [], []

    def delete_before(self, partition: Partition, position: int) -> None:
        self._call("delete_before")
        self._world.log.delete_before(partition, position)

    def reclaim(self, pages: int) -> bool:
        """Do nothing, as `trim` wants it of a file."""
        return False

    def committed(self, writer_id: str) -> dict[Partition, int]:
        self._call("committed")
        return self._world.log.committed(writer_id)

    def reader(self, positions: Mapping[Partition, int]) -> "FaultyReader":
        self._call("reader")
        return FaultyReader(self._world, self._process, self._world.log.reader(positions))

    def writer(
        self,
        writer_id: str,
        writes: Collection[Partition] = (),
        reads: Collection[str] = (),
        *,
        timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> "FaultyWriter":
        """Open a writer. The commit that its predecessor had in flight is complete, or has no effect, from here on."""
        self._call("writer")
        world = self._world
        if world.fencing:
            resolve(world, writer_id)
        for place in writes:
            world.hidden.pop(place, None)
        return FaultyWriter(world, self._process, writer_id, world.log.writer(writer_id))

    def appender(self) -> MemoryAppender:
        self._call("appender")
        return self._world.log.appender()

    def close(self) -> None:
        """Do nothing: the world's log stays."""

    def _call(self, what: str) -> None:
        self._world.call(self._process, what)


def resolve(world: World, writer_id: str) -> None:
    """Complete or abort the commit in flight of a writer, as chance says."""
    pending: FaultyWriter | None = world.pending.get(writer_id)
    if pending:
        if world.rng.random() < 0.5:
            pending.complete()
        else:
            pending.abort()


class FaultyReader:
    """`headrace.log.protocol.Reader`; sees the readable prefix of each partition."""

    def __init__(self, world: World, process: Process, reader: MemoryReader) -> None:
        self._world, self._process, self._reader = world, process, reader
        self.seek, self.position = reader.seek, reader.position

    def read(
        self, records_max: int, timeout_s: float, only: Collection[Partition] | None = None
    ) -> list[tuple[Partition, list[Record]]]:
        world = self._world
        world.call(self._process, "read")
        deadline_us = world.now_us + int(timeout_s * 1e6)
        if world.rng.random() < 0.3:
            records_max = min(records_max, world.rng.randrange(1, 8))
        while True:
            batches = [(place, kept) for place, found in self._reader.read(records_max, 0.0, only)
                       if (kept := self._readable(place, found))]  # fmt: skip
            if batches or world.now_us >= deadline_us:
                return batches
            release_us = world.next_release_us()
            world.now_us = min(deadline_us, release_us or deadline_us)

    def _readable(self, place: Partition, records: list[Record]) -> list[Record]:
        hidden = self._world.visible_end(place)
        if hidden is not None and records[-1].offset >= hidden:
            self._reader.seek(place, next(one.offset for one in records if one.offset >= hidden))
            records = [one for one in records if one.offset < hidden]
        if place in self._world.untimed:
            records = [Record(one.partition, one.offset, 0, one.key, one.value) for one in records]
        return records

    def end(self, partition: Partition) -> int:
        self._world.call(self._process, "end")
        hidden = self._world.visible_end(partition)
        if hidden is None:
            return self._reader.end(partition)
        last = next(iter(self._world.log.newest(partition, 1, before=hidden)), None)
        return last.offset + 1 if last else hidden

    def close(self) -> None:
        """Do nothing: there are no connections."""


class FaultyWriter:
    """`headrace.log.protocol.Writer`; a commit is in flight until it is settled, and its outcome may stay unknown."""

    def __init__(self, world: World, process: Process, writer_id: str, writer: MemoryWriter) -> None:
        self._world, self._process, self._id, self._writer = world, process, writer_id, writer
        self._records: Sequence[Outgoing] = ()
        self._positions: Mapping[Partition, int] = {}
        self._started_us = 0
        self._offsets: list[int] | None = []  # of the last commit; None once it is aborted
        self._unsettled = False

    @property
    def fenced(self) -> bool:
        """Whether another writer has taken over, which this one is told at its next commit."""
        return self._writer._epoch != self._world.log._epochs[self._id]

    def commit(self, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        world = self._world
        self.settle()
        world.call(self._process, "commit")
        if world.fencing:
            self._writer.commit([], {})  # raises Fenced
        self._records, self._positions, self._started_us = records, positions, world.now_us
        self._unsettled = True
        world.pending[self._id] = self
        if not world.strikes("commit later", self._process):
            self.complete()
        world.maybe_crash(self._process, "commit")

    def complete(self) -> None:
        """Make the commit in flight final."""
        world = self._world
        if not world.fencing:
            self._writer = world.log.writer(self._id)
        positions = {} if world.strikes("offsets stale", self._process) else self._positions
        self._writer.commit(self._records, positions)
        self._offsets = self._writer.settle()
        self._ended()
        world.commits += 1
        world.note(f"committed {len(self._records)} records of {self._process}")
        firsts: dict[Partition, int] = {}
        for record, offset in zip(self._records, self._offsets, strict=True):
            firsts.setdefault(Partition(record.topic, record.partition or 0), offset)
        for place, offset in firsts.items():
            if world.strikes("hide", place.topic):
                world.hide(place, offset)

    def abort(self) -> None:
        """Give the commit in flight no effect."""
        self._offsets = None
        self._ended()
        self._world.note(f"aborted {len(self._records)} records of {self._process}")

    def _ended(self) -> None:
        if self._world.pending.get(self._id) is self:
            del self._world.pending[self._id]

    def settle(self) -> list[int]:
        if not self._unsettled:
            return []
        world = self._world
        world.call(self._process, "settle")
        if world.pending.get(self._id) is self:
            if world.now_us - self._started_us > TRANSACTION_TIMEOUT_S * 1e6:
                self.abort()
                raise CommitExpired(f"writer {self._id}: the commit was open for too long")
            if world.strikes("commit aborted", self._process):
                self.abort()
                raise LogUnavailable(f"writer {self._id}: the outcome is unknown")
            self.complete()
        if world.strikes("answer lost", self._process):
            raise LogUnavailable(f"writer {self._id}: the outcome is unknown")
        if self._offsets is None:
            raise Fenced(f"writer {self._id}: the commit was aborted by a successor")
        self._unsettled = False
        offsets, self._offsets = self._offsets, []
        return offsets

    def close(self) -> None:
        """Do nothing: what is in flight stays so until a successor resolves it."""
