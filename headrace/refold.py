"""Refolding: a shard's snapshot made anew from its whole journal, for when its blob is lost.

Judgements are those of the journal, and nothing is learned that it does not hold. What is committed is one entry that
applies no record and names the snapshot of the state before it, as a loop without events might have written it.
"""

from collections.abc import Callable, Sequence
from contextlib import closing

from headrace import journal
from headrace.blobs import Blobs
from headrace.errors import PositionLost, StateUnreadable
from headrace.follower import F, Follower, silent
from headrace.journal import Entry, Pointer, key_of
from headrace.log import Log, Outgoing, Partition
from headrace.state import State, encode


def refold(
    log: Log,
    blobs: Blobs,
    shard: str,
    *,
    make: Callable[[State | None], F],
    inputs: Sequence[Partition],
    report: Callable[[int, int], None] = silent,
) -> Pointer:
    """Fold a shard's journal from its first entry, commit a snapshot of its end, and return the snapshot's pointer.

    A process of the shard that runs is fenced; one that is started just before the commit fences this one.

    Args:
        make, inputs: as for `Follower`.
        report: told every few entries how many of how many are folded.

    Raises:
        StateUnreadable: the log does not hold the journal, or what it names, from the first entry on.
        BrokenWorld: see `headrace.errors`; calling again begins again.
    """
    place = journal.partition_of(shard)
    if journal.newest(log, shard) is None:
        raise StateUnreadable(f"{shard}: wanted a journal to fold, found no entry in {key_of(place)}")
    try:
        with closing(Follower(log, blobs, shard, make=make, inputs=inputs, from_start=True)) as follower:
            follower.catch_up(report)
            # Not before the long fold: whoever is started again and again for want of a snapshot would fence us.
            with closing(log.writer(shard)) as writer:
                follower.catch_up(report)  # what was committed meanwhile, after which nobody else commits
                pointer = Pointer(
                    blob=blobs.put(shard, encode(follower.state())), number=follower.number,
                    journal=follower.journal_position, judgements=follower.judgements_position,
                    positions={key_of(one): position for one, position in follower.positions.items()},
                    versions=dict(follower.fold.versions),
                )  # fmt: skip
                entry = Entry(shard, follower.number, [], 0, pointer, follower.judgements_position)
                record = Outgoing(place.topic, shard.encode(), journal.encode(entry), place.number)
                writer.commit([record, *follower.fold.emit()], {})
                writer.settle()
    except (PositionLost, StateUnreadable) as error:
        raise StateUnreadable(f"{shard} cannot be folded from its start: {error}") from error
    return pointer
