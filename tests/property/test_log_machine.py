"""Whatever is done to a log in whatever order, it behaves as a list of records per partition does."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headrace.errors import Fenced, PositionLost
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing, Partition, Reader, Record, Writer
from headrace.log.sqlite import SqliteLog

PLACES = [Partition("events", 0), Partition("events", 1), Partition("scores", 0)]
PLACE = st.sampled_from(PLACES)
VALUES = st.lists(st.binary(max_size=3), min_size=1, max_size=4)
IDS = st.sampled_from(["online", "finetune"])


def readable(log: Log, place: Partition, position: int) -> list[Record]:
    """Return a partition's records from a position on, read three at a time."""
    reader, found = log.reader({place: position}), list[Record]()
    while batches := reader.read(3, 0.0):
        found += batches[0][1]
    reader.close()
    return found


def commit(writer: Writer, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> list[int]:
    """Commit, and return the offsets."""
    writer.commit(records, positions)
    return writer.settle()


class LogMachine(RuleBasedStateMachine):
    """Does what processes do to a log, and keeps what must be in it."""

    writers = Bundle("writers")
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_000
        self.held: dict[Partition, list[bytes]] = {place: [] for place in PLACES}  # values from the first record on
        self.firsts = dict.fromkeys(PLACES, 0)
        self.newest_writer: dict[str, Writer] = {}
        self.positions: dict[str, dict[Partition, int]] = {}
        self.log = self.open()
        self.log.create()

    def open(self) -> Log:
        return MemoryLog(clock=lambda: self.now_ms)

    @rule(ms=st.integers(-500, 2_000))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(place=PLACE, values=VALUES)
    def append(self, place: Partition, values: Sequence[bytes]) -> None:
        appender = self.log.appender()
        for value in values:
            appender.append(Outgoing(place.topic, b"key", value, place.number))
        appender.close()
        self.held[place] += values

    @rule(target=writers, writer_id=IDS)
    def open_writer(self, writer_id: str) -> tuple[str, Writer]:
        writer = self.newest_writer[writer_id] = self.log.writer(writer_id)
        return writer_id, writer

    @rule(opened=writers, places=st.lists(PLACE, max_size=4), values=VALUES, stored=st.integers(0, 50))
    def commit(self, opened: tuple[str, Writer], places: list[Partition], values: list[bytes], stored: int) -> None:
        writer_id, writer = opened
        records = [Outgoing(place.topic, b"key", value, place.number)
                   for place, value in zip(places, values, strict=False)]  # fmt: skip
        positions = {PLACES[0]: stored}
        if writer is not self.newest_writer[writer_id]:
            with pytest.raises(Fenced):
                commit(writer, records, positions)
            return
        offsets = commit(writer, records, positions)
        assert writer.settle() == []
        for record, offset in zip(records, offsets, strict=True):
            assert record.partition is not None
            place = Partition(record.topic, record.partition)
            self.held[place].append(record.value or b"")
            assert [one.value for one in readable(self.log, place, offset)][:1] == [record.value]
        self.positions.setdefault(writer_id, {}).update(positions)

    @rule(target=readers, place=PLACE)
    def open_reader(self, place: Partition) -> tuple[Partition, Reader]:
        return place, self.log.reader({place: self.firsts[place]})

    @rule(opened=readers, records_max=st.integers(1, 5))
    def read(self, opened: tuple[Partition, Reader], records_max: int) -> None:
        place, reader = opened
        position = reader.position(place)
        if position < self.firsts[place]:
            with pytest.raises(PositionLost):
                reader.read(records_max, 0.0)
            return
        wanted = readable(self.log, place, position)[:records_max]
        assert [one for _, records in reader.read(records_max, 0.0) for one in records] == wanted
        assert not wanted or reader.position(place) == wanted[-1].offset + 1
        assert reader.end(place) <= max(self.log.end(place), reader.position(place))

    @rule(opened=readers, number=st.integers(0, 20))
    def seek(self, opened: tuple[Partition, Reader], number: int) -> None:
        place, reader = opened
        held = readable(self.log, place, self.firsts[place])
        reader.seek(place, held[number % len(held)].offset if held else self.log.end(place))

    @rule(place=PLACE, number=st.integers(0, 20))
    def delete_before(self, place: Partition, number: int) -> None:
        held = readable(self.log, place, self.firsts[place])
        position = held[number].offset if number < len(held) else self.log.end(place)
        self.log.delete_before(place, position)
        del self.held[place][:number]
        self.firsts[place] = self.log.first(place)
        assert self.firsts[place] >= position or not held[number:]

    @rule(place=PLACE, number=st.integers(1, 8), before=st.integers(0, 30) | st.none())
    def newest(self, place: Partition, number: int, before: int | None) -> None:
        held = readable(self.log, place, self.firsts[place])
        wanted = [one for one in held if before is None or one.offset < before][-number:]
        assert self.log.newest(place, number, before=before) == wanted
        assert self.log.last(place) == (held[-1] if held else None)

    @rule(place=PLACE, time_ms=st.integers(0, 20_000))
    def position_at(self, place: Partition, time_ms: int) -> None:
        held = readable(self.log, place, self.firsts[place])
        wanted = next((one.offset for one in held if one.time_ms >= time_ms), self.log.end(place))
        assert self.log.position_at(place, time_ms) == wanted

    @invariant()
    def what_was_written_is_read_in_order(self) -> None:
        for place, values in self.held.items():
            assert self.log.first(place) == self.firsts[place]
            held = readable(self.log, place, self.firsts[place])
            assert [one.value for one in held] == values
            assert [one.time_ms for one in held] == sorted(one.time_ms for one in held)
            offsets = [one.offset for one in held]
            assert offsets == sorted(set(offsets))
            assert not held or offsets[-1] < self.log.end(place)
        for writer_id, positions in self.positions.items():
            assert self.log.committed(writer_id) == positions


class SqliteMachine(LogMachine):
    """The same for a file, which may be closed and opened again."""

    def __init__(self) -> None:
        self.folder, self.opened = tempfile.TemporaryDirectory(), list[Log]()
        super().__init__()

    def open(self) -> Log:
        self.opened.append(SqliteLog(str(Path(self.folder.name) / "log.db"), clock=lambda: self.now_ms))
        return self.opened[-1]

    @rule()
    def reopen(self) -> None:
        """Open the file again, as another process does, and go on with that; open readers and writers stay."""
        self.log = self.open()

    def teardown(self) -> None:
        for log in self.opened:
            log.close()
        self.folder.cleanup()


@pytest.mark.parametrize(("machine", "examples"), [(LogMachine, 30), (SqliteMachine, 12)])
def test_a_log_is_a_list_of_records_per_partition(machine: type[LogMachine], examples: int) -> None:
    few = settings(max_examples=examples, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(machine, settings=few)
