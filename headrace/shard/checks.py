"""Invariants of every shard's journal: an audit of a log, for tests and operators.

Everything is read from the log and the blobs, never from a running process.
"""

from collections.abc import Sequence
from itertools import pairwise

from headrace.log.protocol import Log, Partition, Record
from headrace.log.scan import partition_records
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.follower import F, Follower, MakeFold
from headrace.shard.journal import Entry, Pointer, Run, key_of
from headrace.topics import EVENTS, Shard

read_wait_s_max = 30.0
"""Timeout for reading records that are committed."""


def committed_records(log: Log, partition: Partition) -> list[Record]:
    """Return all committed records of a partition, those of a commit that has just returned included."""
    last = log.last(partition)  # on Kafka, the log's end may be known a few milliseconds late
    return list(partition_records(log, partition, end=last.offset + 1)) if last else []


def entries_of(log: Log, shard: Shard) -> list[Entry]:
    """Return a shard's whole journal."""
    return [journal.decode(record) for record in committed_records(log, shard.journal)]


def check_covered(log: Log, shard: Shard, topics: Sequence[str] = (EVENTS,)) -> None:
    """Check that the journal applied every record of these topics exactly once, each partition in order.

    Call this when the shard has caught up.
    """
    entries = entries_of(log, shard)
    numbers = [entry.number for entry in entries]
    assert numbers == list(range(len(entries))), f"journal of {shard.name}: its entries are numbered {numbers[:20]}..."
    runs: dict[Partition, list[Run]] = {place: [] for topic in topics for place in log.partitions(topic)}
    for run in (run for entry in entries for run in entry.runs):
        if Partition(run.topic, run.partition) in runs:
            runs[Partition(run.topic, run.partition)].append(run)
    for partition, found in runs.items():
        for before, after in pairwise(found):
            assert before.end <= after.start, (
                f"journal of {shard.name}: {after} applies records that {before} had already applied"
            )
        applied = {offset for run in found for offset in range(run.start, run.end)}
        missed = [record.offset for record in committed_records(log, partition) if record.offset not in applied]
        assert not missed, f"journal of {shard.name}: {key_of(partition)} was never applied at {missed[:20]}"


def check_folds(log: Log, blobs: Blobs, shard: Shard, *, make: MakeFold[F]) -> Follower[F]:
    """Check that every snapshot that the journal names, and what is restored from the newest, equals the plain fold.

    The plain fold begins at the journal's first entry, or at the newest one that accepts a loss, and is interrupted
    only where an entry says that its state was renewed; it is returned, caught up and closed.
    A snapshot's name contains its state's digest, so snapshots whose blobs have been deleted are checked too. Those of
    other releases or settings have other bytes, and renewed ones do not follow; what follows from them is checked.
    """
    entries = entries_of(log, shard)
    pointers = [entry.snapshot for entry in entries if entry.snapshot]
    renewed = {entry.number for entry in entries if entry.renewed}
    pointers_by_number: dict[int, Pointer] = {pointer.number: pointer for pointer in pointers}
    plain = Follower(log, blobs, shard, make=make, from_start=True)
    restored = Follower(log, blobs, shard, make=make)
    assert restored.pointer == (pointers[-1] if pointers else None), f"{shard.name}: the newest snapshot was not used"
    try:
        for number in sorted(pointers_by_number):
            while plain.number < number:
                assert plain.step(read_wait_s_max, entries_max=1), (
                    f"journal of {shard.name}: entry {plain.number} could not be read"
                )
            if number < plain.number or number in renewed or pointers_by_number[number].stamp != plain.fold.stamp:
                continue  # it does not follow from the entries before, or is in bytes of another release
            digest = plain.digest()
            named_digest = pointers_by_number[number].blob.rpartition("-")[2]
            assert digest == named_digest, (
                f"{shard.name}: the snapshot after {number} entries has digest {named_digest}, their fold has {digest}"
            )
        plain.catch_up()
        restored.catch_up()
        assert restored.number == plain.number, f"{shard.name}: restored to {restored.number} of {plain.number} entries"
        assert restored.digest() == plain.digest(), (
            f"{shard.name}: the restored fold, caught up, differs from the plain fold"
        )
    finally:
        plain.close()
        restored.close()
    return plain
