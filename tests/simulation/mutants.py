"""Known bugs, planted one at a time: a simulation that does not find them proves nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from headrace.log.protocol import Log, Outgoing, Partition, Record
from headrace.shard import follower, loop, loss
from headrace.shard import trim as trimming
from headrace.shard.entries import EntryRecords
from headrace.shard.follower import Follower
from headrace.shard.identity import Identities
from headrace.shard.intake import Intake
from headrace.shard.journal import Entry, Pointer, place_of_key
from headrace.shard.loop import Loop
from headrace.shard.merge import Chunk, Merge
from headrace.shard.snapshot import Snapshots, former_blobs
from headrace.state import State, encode
from headrace.topics import JOURNAL, Shard
from tests.simulation.disk import SimulatedBlobs
from tests.simulation.faulty_log import FaultyWriter
from tests.simulation.world import World

Mutant = Callable[[], Any]
"""Returns a context manager within which the bug is there."""
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Callable[[], Iterator[None]]) -> Mutant:
    """Register a mutant by its name."""
    found = contextmanager(make)
    MUTANTS[make.__name__.replace("_", " ")] = found
    return found


@mutant
def outputs_after_the_commit() -> Iterator[None]:
    """The journal and the positions are committed first, outputs and judgements in a commit of their own."""
    commit = FaultyWriter.commit

    def split(self: FaultyWriter, records: Sequence[Outgoing], positions: Mapping[Partition, int]) -> None:
        parts = [[n for n, one in enumerate(records) if (one.topic == JOURNAL) is wanted] for wanted in (True, False)]
        if not all(parts):
            commit(self, records, positions)
            return
        offsets = [0] * len(records)
        for part in parts:
            commit(self, [records[number] for number in part], positions)
            for number, offset in zip(part, self.settle(), strict=True):
                offsets[number] = offset
        self._offsets, self._unsettled = offsets, True

    with patch.object(FaultyWriter, "commit", split):
        yield


@mutant
def a_follower_skips_an_entry() -> Iterator[None]:
    """After a restart, the first entry that was not yet folded is passed over."""
    apply = Follower.apply

    def skip(self: Follower[Any], entry: Entry) -> None:
        if self.number and self.number % 5 == 0 and not self._unbroken:
            fold = self.fold
            self.fold = self._make(fold.state(), None)
            apply(self, entry)
            self.fold = fold
        else:
            apply(self, entry)

    with patch.object(Follower, "apply", skip):
        yield


@mutant
def a_pointer_before_its_blob_is_durable() -> Iterator[None]:
    """An entry names a snapshot whose blob is still being written."""
    take, newest = Snapshots.take, Snapshots.newest
    names: dict[int, str] = {}

    def remember(self: Snapshots, frozen: Callable[[], State], pointer: Pointer) -> None:
        state = frozen()
        names[id(self)] = f"{self._kind}-{sha256(encode(state)).hexdigest()}"
        take(self, lambda: state, pointer)

    def early(self: Snapshots) -> Pointer | None:
        pending = self._pending
        if pending and pending.pointer.journal:
            former = former_blobs(self._pointer)
            self._pointer = msgspec.structs.replace(pending.pointer, blob=names[id(self)], former=former)
            self._pending = None
        return newest(self)

    with patch.object(Snapshots, "take", remember), patch.object(Snapshots, "newest", early):
        yield


@mutant
def a_writer_that_is_not_fenced() -> Iterator[None]:
    """An old process of a shard goes on committing beside the new one."""
    init = World.__init__

    def unfenced(self: World, seed: int) -> None:
        init(self, seed)
        self.fencing = False

    with patch.object(World, "__init__", unfenced):
        yield


@mutant
def blobs_whose_names_are_not_synced() -> Iterator[None]:
    """A blob's file is renamed, but its folder is not synced."""
    with patch.object(SimulatedBlobs, "_sync_folder", lambda self: None):
        yield


@mutant
def blobs_whose_bytes_are_not_synced() -> Iterator[None]:
    """A blob's file is renamed before its bytes are durable."""

    def nothing(self: SimulatedBlobs, path: Path) -> None:
        pass

    with patch.object(SimulatedBlobs, "_fsync", nothing):
        yield


@mutant
def a_snapshot_without_the_event_ids() -> Iterator[None]:
    """Repeated events are not detected after a restart."""

    def forget(fold: Any, intake: Intake) -> State:
        return {"fold": fold.state(), "intake": Intake().state()}

    with patch.object(loop, "freeze", forget), patch.object(follower, "freeze", forget):
        yield


@mutant
def positions_of_the_group_are_trusted() -> Iterator[None]:
    """A restart begins to read where the group's offsets stand, not where the journal ends."""
    init = Loop._positions_in

    def stale(self: Loop[Any], *topics: str) -> dict[Partition, int]:
        committed = self._log.committed(self._shard.name)
        return {place: committed.get(place, position) for place, position in init(self, *topics).items()}

    with patch.object(Loop, "_positions_in", stale):
        yield


@mutant
def blobs_are_swept_before_the_commit() -> Iterator[None]:
    """Former snapshots are deleted when a new one is stored, before an entry that names it is committed."""
    newest = Snapshots.newest

    def sweep(self: Snapshots) -> Pointer | None:
        found = newest(self)
        if found and self._kept_blobs:
            self._blobs.sweep(self._kind, {found.blob})
        return found

    with patch.object(Snapshots, "newest", sweep):
        yield


@mutant
def an_accepted_loss_goes_on_at_the_end() -> Iterator[None]:
    """Where a log lacks what a shard wants, the shard goes on at the end, not with what the log still holds."""
    positions_of = loss._positions

    def at_the_end(log: Log, shard: Shard, *wanted: Any) -> tuple[dict[Partition, int], list[loss.Gap]]:
        positions, gaps = positions_of(log, shard, *wanted)
        return positions | {place_of_key(gap.partition): gap.end for gap in gaps}, gaps

    with patch.object(loss, "_positions", at_the_end):
        yield


@mutant
def a_topic_that_was_made_again_is_taken_for_the_former() -> Iterator[None]:
    """The ids of topics are not compared."""
    with patch.object(Identities, "replaced", lambda self: {}):
        yield


@mutant
def trimming_asks_one_shard() -> Iterator[None]:
    """What the other shards need is trimmed, too."""
    needs = trimming._needs

    def of_one(log: Log, shards: Sequence[Shard], since_ms: int) -> dict[Partition, trimming.Need]:
        return needs(log, shards[-1:], 2**60)

    with patch.object(trimming, "_needs", of_one):
        yield


@mutant
def trimming_forgets_former_snapshots() -> Iterator[None]:
    """What only a restart from a former snapshot needs is trimmed."""
    with patch.object(trimming, "kept_snapshots", lambda log, shard, newest: [newest]):
        yield


@mutant
def strays_are_folded() -> Iterator[None]:
    """Records of other programs in `judgements` are taken for the shard's own."""
    with patch("headrace.shard.journal.counts", lambda entry, judgement: True):
        yield


@mutant
def a_record_is_dropped_at_a_full_chunk() -> Iterator[None]:
    """The last record of a chunk is lost where the chunk was cut."""
    take = Merge.take

    def cut(self: Merge, wait_s: float) -> Chunk | None:
        chunk = take(self, wait_s)
        if chunk and len(chunk.records) > 5:
            return chunk._replace(records=chunk.records[:-1])
        return chunk

    with patch.object(Merge, "take", cut):
        yield


@mutant
def the_time_of_reading_is_not_kept() -> Iterator[None]:
    """Records of unknown append time are folded again with the time 0."""
    runs = EntryRecords.runs

    def untimed(self: EntryRecords, entry: Entry) -> Iterator[tuple[Any, list[Record], bool]]:
        return runs(self, msgspec.structs.replace(entry, read_ms=[]))

    with patch.object(EntryRecords, "runs", untimed):
        yield
