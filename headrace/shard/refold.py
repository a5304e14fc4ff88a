"""Refolding: making a shard's snapshot again from its whole journal, for when its blob is lost.

It uses the journal's judgements and learns only what the journal holds. It commits one entry that applies no record and
names the snapshot of the state before it, from which every fold of the journal continues.
"""

from collections.abc import Callable, Mapping
from contextlib import closing

import msgspec

from headrace.clock import TIMER, Clock, Timer, wall_ms
from headrace.errors import PositionLost, StateUnreadable
from headrace.log.protocol import Log, Outgoing
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.chain import Chain
from headrace.shard.follower import FOLDED_ANEW, F, Follower, MakeFold, freeze, no_report
from headrace.shard.journal import Entry, Pointer, Stamp, key_of, place_of_key
from headrace.shard.kept import store_pointer
from headrace.shard.snapshot import continued, pointer_to
from headrace.state import encode
from headrace.topics import JOURNAL, Shard


def pointer_here(follower: Follower[F], stamp: Stamp, time_ms: int = 0) -> Pointer:
    """Return a pointer to a follower's place in the journal that lacks the blob."""
    pointer = pointer_to(
        follower.number, follower.positions, stamp, follower.chain.value, follower.identities.known,
        follower.skips.pending(follower.positions), time_ms,
    )  # fmt: skip
    return msgspec.structs.replace(
        pointer, journal=follower.journal_position, judgements=follower.judgements_position
    )  # fmt: skip


def entry_from_here(
    follower: Follower[F], fold: F, blobs: Blobs, shard: Shard, renewed: Mapping[str, str], time_ms: int
) -> Entry:
    """Store a fold at a follower's place in the journal; return the entry from which all folds continue with it."""
    stamp = fold.stamp
    pointer = msgspec.structs.replace(
        continued(pointer_here(follower, stamp, time_ms), follower.pointer),
        blob=blobs.put(shard.name, encode(freeze(fold, follower.intake))),
        renews=True,
    )
    store_pointer(blobs, shard.name, pointer)
    return Entry(
        shard.name, follower.number, [], 0, pointer, follower.judgements_position, stamp, dict(renewed),
        results=follower.results, digest=Chain(follower.chain.value).close_entry(),
    )  # fmt: skip


def _keep_unread(log: Log, follower: Follower[F]) -> None:
    """Stay where the shard was in partitions of which no entry names a record: a loss there must be accepted."""
    for name, position in (follower.pointer.positions if follower.pointer else {}).items():
        place = place_of_key(name)
        if position < follower.positions.get(place, 0) == log.first(place):  # all that entries name is held
            follower.positions[place] = position


def refold(
    log: Log,
    blobs: Blobs,
    shard: Shard,
    *,
    make: MakeFold[F],
    report: Callable[[int, int], None] = no_report,
    timer: Timer = TIMER,
    clock: Clock = wall_ms,
) -> Pointer:
    """Fold a shard's journal from its first entry, commit a snapshot of its end, and return the snapshot's pointer.

    A running process of the shard is fenced. A process of it that starts just before the commit fences this one.

    Args:
        make: as for `Follower`.
        report: called every few entries with the number folded and the total.

    Raises:
        StateUnreadable: the log no longer holds the whole journal, or records that it names.
        BrokenWorld: see `headrace.errors`; calling again starts over.
    """
    if journal.newest(log, shard) is None:
        raise StateUnreadable(f"{shard.name}: wanted a journal to fold, found no entry in {key_of(shard.journal)}")
    try:
        with closing(Follower(log, blobs, shard, make=make, from_start=True, plainly=True, timer=timer)) as follower:
            follower.catch_up(report)
            # Opened after the long fold: until then, a process that a supervisor restarts would fence this writer.
            with closing(log.writer(shard.name, shard.written)) as writer:
                follower.catch_up(report)  # what was committed meanwhile; the writer has fenced all others
                _keep_unread(log, follower)
                entry = entry_from_here(follower, follower.fold, blobs, shard, FOLDED_ANEW, clock())
                record = Outgoing(JOURNAL, shard.name.encode(), journal.encode(entry), shard.number)
                writer.commit([record, *follower.fold.emit()], {})
                writer.settle()
    except (PositionLost, StateUnreadable) as error:
        raise StateUnreadable(f"{shard.name} cannot be folded from its start: {error}") from error
    assert entry.snapshot is not None
    return entry.snapshot
