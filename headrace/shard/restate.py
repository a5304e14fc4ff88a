"""Putting another state in place: a shard goes on with a state that was stored before, or elsewhere.

The entry that is written names that state as a snapshot, with which all folds continue, and the positions of now: the
events between are left out. The state before is stored too and named, so that the decision can be undone by another
one. Nothing is deleted from the log.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Final

import msgspec

from headrace.clock import Clock, wall_ms
from headrace.errors import Fenced, Misconfigured
from headrace.log.protocol import Log, Partition
from headrace.shard.blobs import Blobs
from headrace.shard.chain import Chain
from headrace.shard.decision import Author, records_of
from headrace.shard.follower import F, Follower, MakeFold, freeze, restored
from headrace.shard.identity import check_journal
from headrace.shard.journal import Decision, Entry, Pointer, Restated, key_of
from headrace.shard.kept import pointers_kind, store_pointer
from headrace.shard.refold import pointer_here
from headrace.shard.snapshot import continued
from headrace.state import encode
from headrace.topics import EVENTS, Shard

tries_max: Final = 5
"""How often a writer is opened that a starting process of the shard, or another operator, fences before it commits."""


def restate(
    log: Log,
    blobs: Blobs,
    shard: Shard,
    *,
    make: MakeFold[F],
    state: Pointer,
    author: Author,
    text: str,
    undo: bool = False,
    clock: Clock = wall_ms,
    caught_up: Callable[[int], Pointer] | None = None,
) -> Entry:
    """Have a shard go on with another state; return the entry that says so.

    A running process of the shard is fenced, and continues with that state when it is started again. Events are read
    on from the present positions. What the state has not heard of side topics (announced models, items) is heard again,
    as far as the log holds it.

    A process that ends within this has changed nothing: call it again. A second call at the same time takes its turn.

    Args:
        make: makes the shard's fold.
        state: a pointer to the state: its `blob`, which may be of another kind, its `stamp`, and its `positions`, which
            count for side topics only.
        text: a sentence about what is decided, for `headrace status` and `headrace history`.
        undo: whether the state is the one that the newest such decision replaced.
        caught_up: brings the state up to a number of entries, if it has fewer than the journal, and returns a pointer
            to it; called once the shard is fenced.

    Raises:
        Misconfigured: the shard has no journal yet, or the reason is missing or too long.
        BlobMissing, BlobCorrupt, StateUnreadable: the state, or the journal, cannot be read.
        BrokenWorld: see `headrace.errors`.
    """
    author.check()
    read = _read(blobs, make, state)
    decision = Decision("state", text, author.why, author.who, clock(), undo=undo)
    for tried in range(1, tries_max + 1):
        try:
            return _restate(log, blobs, shard, make, state, read, decision, caught_up)
        except Fenced:
            if tried == tries_max:
                raise
    raise AssertionError("unreachable")


def _read(blobs: Blobs, make: MakeFold[F], state: Pointer) -> tuple[F, bytes]:
    """Return the fold of a state, and the bytes of the whole."""
    fold, intake = restored(blobs, make, state)
    return fold, encode(freeze(fold, intake))


def _restate(
    log: Log, blobs: Blobs, shard: Shard, make: MakeFold[F], state: Pointer, read: tuple[F, bytes],
    decision: Decision, caught_up: Callable[[int], Pointer] | None,
) -> Entry:  # fmt: skip
    with closing(Follower(log, blobs, shard, make=make, fold_anew=True)) as follower:
        check_journal(log, shard)
        follower.catch_up()
        # Opened after the fold: until then, a process that a supervisor restarts would fence this writer.
        with closing(log.writer(shard.name, shard.written, shard.read)) as writer:
            follower.catch_up()  # what was committed meanwhile; the writer has fenced all others
            if not follower.number:
                raise Misconfigured(f"{shard.name}: wanted a shard that has learned, found an empty journal")
            if caught_up and state.number < follower.number:
                state = caught_up(follower.number)
                read = _read(blobs, make, state)
            fold, data = read
            before = _store_before(blobs, shard, follower, decision.time_ms - 1)
            blob = blobs.put(shard.name, data)
            blobs.renew(blob)  # the shard's process deletes older ones that no entry names
            here, stamp = continued(before, follower.pointer), fold.stamp
            positions = {**follower.positions, **_side_positions(log, shard, follower.positions, state)}
            end = log.last(shard.journal)
            begin = end.offset + 1 if end else log.first(shard.journal)
            pointer = msgspec.structs.replace(
                here, blob=blob, stamp=stamp, versions={"headrace": stamp.headrace}, time_ms=decision.time_ms,
                journal=begin, judgements=log.end(shard.judgements), restated=Restated(begin, blob, before.blob),
                positions={key_of(place): position for place, position in positions.items()},
            )  # fmt: skip
            entry = Entry(
                shard.name, follower.number, [], 0, pointer, pointer.judgements, stamp, dict(fold.renewed),
                results=follower.results, digest=Chain(follower.chain.value).close_entry(), topics=pointer.topics,
                decision=decision,
            )  # fmt: skip
            writer.commit(records_of(shard, entry, decision), positions)
            writer.settle()
    store_pointer(blobs, shard.name, pointer)
    return entry


def _store_before(blobs: Blobs, shard: Shard, follower: Follower[F], now_ms: int) -> Pointer:
    """Store the state at a follower's place with its pointer, so that it can be put in place again."""
    blob = blobs.put(shard.name, encode(follower.state()))
    blobs.renew(blob)
    pointer = msgspec.structs.replace(
        continued(pointer_here(follower, follower.fold.stamp, now_ms), follower.pointer), blob=blob
    )
    blobs.renew(blobs.put(pointers_kind(shard.name), msgspec.json.encode(pointer)))
    return pointer


def _side_positions(
    log: Log, shard: Shard, positions: dict[Partition, int], state: Pointer
) -> dict[Partition, int]:  # fmt: skip
    """Return where a state goes on to hear side topics: at what it has not heard, as far as the log holds it."""
    return {
        place: min(position, max(log.first(place), state.positions.get(key_of(place), position)))
        for place, position in positions.items()
        if place.topic != EVENTS
    }
