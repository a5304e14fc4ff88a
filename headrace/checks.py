"""What every shard's journal must obey: the audit of a log, for tests and for whoever doubts.

Everything is read from the log; nothing is taken from a process that may be wrong about itself.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from headrace import journal
from headrace.blobs import Blobs
from headrace.follower import F, Follower
from headrace.journal import Entry, Pointer, Run, key_of
from headrace.log import Log, Partition, Record
from headrace.state import State

read_s_max = 30.0
"""How long records that the log says it holds may take to come."""


def records_of(log: Log, partition: Partition) -> list[Record]:
    """Return all committed records of a partition."""
    last = log.last(partition)
    reader = log.reader({partition: log.first(partition)})
    found: list[Record] = []
    try:
        while last and (not found or found[-1].offset < last.offset):
            batches = reader.read(10_000, read_s_max)
            assert batches, f"{key_of(partition)}: records up to {last.offset} are committed but did not come"
            found += [record for _, records in batches for record in records]
    finally:
        reader.close()
    return found


def entries_of(log: Log, shard: str) -> list[Entry]:
    """Return a shard's whole journal."""
    return [journal.decode(record) for record in records_of(log, journal.partition_of(shard))]


def check_covered(log: Log, shard: str, partitions: Sequence[Partition]) -> None:
    """Check that the journal applied every record of these partitions exactly once, each partition in order.

    Call it when the shard has caught up.
    """
    entries = entries_of(log, shard)
    numbers = [entry.number for entry in entries]
    assert numbers == list(range(len(entries))), f"journal of {shard}: its entries are numbered {numbers[:20]}..."
    runs: dict[Partition, list[Run]] = {partition: [] for partition in partitions}
    for run in (run for entry in entries for run in entry.runs):
        if Partition(run.topic, run.partition) in runs:
            runs[Partition(run.topic, run.partition)].append(run)
    for partition, found in runs.items():
        for before, after in pairwise(found):
            assert before.end <= after.start, f"journal of {shard}: {after} applies again what {before} had applied"
        applied = {offset for run in found for offset in range(run.start, run.end)}
        missed = [record.offset for record in records_of(log, partition) if record.offset not in applied]
        assert not missed, f"journal of {shard}: {key_of(partition)} was never applied at {missed[:20]}"


def check_folds(
    log: Log, blobs: Blobs, shard: str, *, make: Callable[[State | None], F], inputs: Sequence[Partition]
) -> Follower[F]:
    """Check that every snapshot that the journal names, and what is restored from the newest, equals the plain fold.

    The plain fold begins at the journal's first entry and is never interrupted; it is returned, caught up and closed.
    A snapshot's name is its state's digest, so those whose blobs are gone by now are checked too.
    """
    pointers = [entry.snapshot for entry in entries_of(log, shard) if entry.snapshot]
    named: dict[int, Pointer] = {pointer.number: pointer for pointer in pointers}
    plain = Follower(log, blobs, shard, make=make, inputs=inputs, from_start=True)
    restored = Follower(log, blobs, shard, make=make, inputs=inputs)
    assert restored.pointer == (pointers[-1] if pointers else None), f"{shard}: the newest snapshot was set aside"
    try:
        for number in sorted(named):
            while plain.number < number:
                assert plain.step(read_s_max, entries_max=1), f"journal of {shard}: entry {plain.number} did not come"
            digest = plain.digest()
            told = named[number].blob.rpartition("-")[2]
            assert digest == told, f"{shard}: the snapshot after {number} entries is {told}, their fold is {digest}"
        plain.catch_up()
        restored.catch_up()
        assert restored.number == plain.number, f"{shard}: restored to {restored.number} of {plain.number} entries"
        assert restored.digest() == plain.digest(), f"{shard}: restored and caught up, it is not the plain fold"
    finally:
        plain.close()
        restored.close()
    return plain
