"""What happens around the processes: retention, added partitions, other programs' records, damaged files, clocks."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from headrace.log.memory import MemoryLog, _StoredPartition
from headrace.log.protocol import Outgoing, Partition
from headrace.shard.journal import Pointer, key_of, place_of_key, snapshots_kept
from headrace.topics import EVENTS, JOURNAL, Shard
from tests.simulation.faulty_log import resolve
from tests.simulation.oracle import Oracle, needs_of
from tests.simulation.publishing import NOISE, Publishing
from tests.simulation.world import START_MS, World

partitions_max = 6


class Meddling:
    """Changes the world under the processes.

    Attributes:
        rotten: the blobs that were damaged.
        strays: number of records that were written to a shard's own topics, by partition.
        oracles: those of the scenario's shards.
    """

    def __init__(self, world: World, folder: Path, oracles: Sequence[Oracle], publishing: Publishing) -> None:
        self._world, self._folder, self.oracles, self._publishing = world, folder, oracles, publishing
        self.rotten: set[str] = set()
        self.strays: Counter[Partition] = Counter()
        if world.rng.random() < 0.2:
            world.untimed = {Partition(EVENTS, 1)}

    def act(self) -> None:
        """Let each of these things happen, if chance says so."""
        world = self._world
        if world.strikes("clock jump"):
            world.wall_offset_ms = START_MS + world.rng.choice((-7_200_000, -60_000, 0, 60_000, 400 * 86_400_000))
        if world.strikes("partition added"):
            add_partition(world.log)
        if world.strikes("stray"):
            self._stray()
        if not world.lost and world.strikes("bit rot"):
            self.rot(self.resilient())
        if not world.lost and world.strikes("retention"):
            self._expire()

    def _stray(self) -> None:
        """Write garbage, or a copy of a record, to a shard's journal or judgements."""
        rng, log = self._world.rng, self._world.log
        shard = rng.choice(self.oracles).shard
        place = rng.choice((shard.journal, shard.judgements))
        found = log.newest(Partition(place.topic, rng.choice(self.oracles).shard.number), 8)
        if place.topic == JOURNAL and log.last(shard.journal) is None:
            return  # a copy of another shard's entry would claim the partition for it
        copied = rng.choice(found) if found and rng.random() < 0.6 else None
        key, value = (copied.key, copied.value) if copied else (b"noise", rng.choice(NOISE))
        log.appender().append(Outgoing(place.topic, key, value, place.number))
        self.strays[place] += 1

    def rot(self, oracles: Sequence[Oracle]) -> None:
        """Flip a byte of the newest snapshot of each of these shards, where those that are kept beside it are whole."""
        for oracle in oracles:
            if self._spare(oracle):
                newest = oracle.pointers[-1].blob
                data = bytearray((self._folder / newest).read_bytes())
                data[self._world.rng.randrange(len(data))] ^= 1
                (self._folder / newest).write_bytes(data)
                self.rotten.add(newest)

    def resilient(self) -> list[Oracle]:
        """Return the shards that could go on from each of their kept snapshots.

        They could not where a loss has taken what only the newest no longer needs: nobody has to accept such a loss.
        """
        return [
            oracle
            for oracle in self.oracles
            if self._spare(oracle)
            and all(self._holds(oracle.shard, pointer) for pointer in oracle.pointers[-snapshots_kept:])
        ]

    def _spare(self, oracle: Oracle) -> bool:
        """Return whether a shard has enough kept snapshots, and all of them whole."""
        oracle.follow()
        if not oracle.pointers or oracle.replaced:  # no fold can go past an accepted loss
            return False
        newest = oracle.pointers[-1]
        kept = {newest.blob, *newest.former}
        return len(kept) == snapshots_kept and not self.rotten & kept and (self._folder / newest.blob).exists()

    def _holds(self, shard: Shard, pointer: Pointer) -> bool:
        """Return whether the log holds what follows a snapshot."""
        log = self._world.log
        needed = {**dict.fromkeys(shard.inputs(log), 0), **needs_of(shard, pointer)}
        return all(log.first(place) <= position for place, position in needed.items())

    def _expire(self) -> None:
        """Delete records that no kept snapshot needs."""
        self.read_all()
        needed = [oracle.pointers[-snapshots_kept - 1 :] for oracle in self.oracles]
        if any(len(pointers) <= snapshots_kept for pointers in needed):
            return
        log, rng = self._world.log, self._world.rng
        for oracle, (oldest, *_) in zip(self.oracles, needed, strict=True):
            ends = [(oracle.shard.journal, oldest.journal), (oracle.shard.judgements, oldest.judgements)]
            for place, end in ends:
                if rng.random() < 0.7:
                    log.delete_before(place, end)
        for place in log.partitions(EVENTS):
            positions = [{place_of_key(key): at for key, at in one[0].positions.items()} for one in needed]
            if rng.random() < 0.7:
                log.delete_before(place, min(one.get(place, 0) for one in positions))

    def read_all(self) -> None:
        """Let the oracles and the reader of everything read what is there, as some of it will be deleted."""
        for oracle in self.oracles:
            oracle.follow()
        self._publishing.collect()

    def lose(self) -> None:
        """Lose records of `events`, learned or not, or all of it: the topic is made again. No process survives this.

        What no snapshot knows yet may be lost unnoticed: without one of each shard, nothing is lost.
        """
        world = self._world
        for writer_id in list(world.pending):
            resolve(world, writer_id)
        world.hidden.clear()
        self.read_all()
        known = [oracle.pointers[-1].positions if oracle.pointers else {} for oracle in self.oracles]
        places = [place for place in world.log.partitions(EVENTS) if all(key_of(place) in one for one in known)]
        if not places:
            return
        if world.rng.random() < 0.5:
            make_again(world)
            for _ in range(world.rng.choice((0, 40, 90))):
                self._publishing.publish()
        else:
            for place in places:
                if world.rng.random() < 0.7:
                    world.log.delete_before(place, world.rng.randint(world.log.first(place), world.log.end(place)))
        world.lost = {oracle.shard.name for oracle in self.oracles}


def make_again(world: World) -> None:
    """Delete the topic `events`, and make it again, with the number of partitions that a new log has."""
    for place in world.log.partitions(EVENTS):
        del world.log._partitions[place]
    world.log.create()
    world.era += 1
    world.faults["topic made again"] += 1


def add_partition(log: MemoryLog) -> None:
    """Add a partition to `events`, as an operator of Kafka may."""
    number = len(log.partitions(EVENTS))
    if number < partitions_max:
        log._partitions[Partition(EVENTS, number)] = _StoredPartition()
