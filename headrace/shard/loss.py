"""Accepting a loss: a shard goes on although the log has lost what it needs.

The entry that is written names a snapshot, with which all folds continue, new positions and the topics' ids of now.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct, field

from headrace.clock import Clock, wall_ms
from headrace.errors import (
    BlobCorrupt,
    BlobMissing,
    JournalLost,
    Misconfigured,
    PositionLost,
    RecordsChanged,
    StateUnreadable,
    TopicReplaced,
)  # fmt: skip
from headrace.log.protocol import Log, Partition
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.chain import Chain
from headrace.shard.decision import Author, records_of
from headrace.shard.follower import F, Fold, Follower, MakeFold, freeze, restored
from headrace.shard.identity import Identities, check_journal
from headrace.shard.intake import Intake
from headrace.shard.journal import Decision, Entry, Origin, Pointer, Results, key_of, place_of_key, snapshots_kept
from headrace.shard.kept import stored_pointers
from headrace.shard.skips import Skips
from headrace.shard.snapshot import former_blobs, pointer_to
from headrace.state import encode
from headrace.topics import Shard


class Gap(Struct, frozen=True):
    """A partition that lacks what a shard would read: it `wanted` a position, the log holds `first` to `end`."""

    partition: str
    wanted: int
    first: int
    end: int


class Loss(Struct, frozen=True, kw_only=True):
    """What a log has lost of what a shard needs, and how the shard goes on.

    Attributes:
        reason: the error with which the shard's process ends; "" if only records are lost that it has not learned.
        gaps: partitions in which the shard goes on at the first position that the log holds.
        replaced: topics that were deleted and made again, with the former id and that of now.
        state: what the shard goes on with: all that its `journal` says, a `snapshot`, or nothing (`empty`).
        snapshot: the snapshot's blob.
        entries: number of journal entries that this state lacks.
        positions: where the shard goes on, by partition.
    """

    shard: str
    reason: str
    gaps: list[Gap]
    replaced: dict[str, tuple[str, str]]
    state: Literal["journal", "snapshot", "empty"]
    snapshot: str = ""
    entries: int = 0
    positions: dict[str, int] = field(default_factory=dict)


class _Base(NamedTuple):
    """A state with which a shard can go on, where it stands, and why it is not that of the journal's end."""

    state: Literal["journal", "snapshot", "empty"]
    fold: Fold
    intake: Intake
    pointer: Pointer | None
    results: Results | None
    reason: str = ""


def accept_loss(
    log: Log,
    blobs: Blobs,
    shard: Shard,
    author: Author,
    *,
    make: MakeFold[F],
    snapshot: str = "",
    dry_run: bool = False,
    clock: Clock = wall_ms,
) -> Loss | None:
    """Accept what the log has lost of what a shard needs, so that it goes on; return what, None if nothing is lost.

    The state is that of the journal's end, where that can be folded. Otherwise it is that of the newest whole snapshot;
    what is after that and still in the log is learned again, and its outputs are written again. Without one the shard
    begins anew.

    Args:
        snapshot: go on with this blob instead of the newest whole snapshot.
        dry_run: only return what would be accepted.

    Raises:
        Misconfigured: there is no such snapshot, or the reason is missing or too long.
        BrokenWorld: see `headrace.errors`.
    """
    if not dry_run:
        author.check()
    loss, _ = _assess(log, blobs, shard, make, snapshot)
    if dry_run or loss is None:  # a process that lacks nothing is not fenced
        return loss
    with closing(log.writer(shard.name, shard.written, shard.read)) as writer:  # from now on the journal stands still
        loss, base = _assess(log, blobs, shard, make, snapshot)
        if loss is None:
            return None
        decision = Decision("loss", loss_text(loss), author.why, author.who, clock())
        entry = _accepting(log, blobs, shard, base, loss, decision)
        positions = {place_of_key(name): position for name, position in loss.positions.items()}
        writer.commit(records_of(shard, entry, decision), positions)
        writer.settle()
    return loss


def loss_text(loss: Loss) -> str:
    """Return a sentence about what was lost."""
    parts = [f"the topic {topic} was replaced" for topic in loss.replaced]
    parts += [
        f"{gap.partition}: wanted {gap.wanted:,}, the log holds {gap.first:,} to {gap.end:,}"
        for gap in loss.gaps
        if place_of_key(gap.partition).topic not in loss.replaced
    ]
    return "; ".join(parts) or loss.reason


def _assess(log: Log, blobs: Blobs, shard: Shard, make: MakeFold[F], snapshot: str) -> tuple[Loss | None, _Base]:
    base = _base(log, blobs, shard, make, snapshot)
    pointer, last = base.pointer, journal.newest(log, shard)
    identities = Identities(log, shard)
    identities.known = dict(pointer.topics) if pointer else {}
    replaced = identities.replaced()
    wanted = {place_of_key(name): position for name, position in pointer.positions.items()} if pointer else {}
    positions, gaps = _positions(log, shard, wanted, replaced)
    if base.state == "journal" and not gaps:
        return None, base
    number = pointer.number if pointer else 0
    loss = Loss(
        shard=shard.name, reason=base.reason, gaps=gaps, replaced=replaced, state=base.state,
        snapshot=pointer.blob if pointer else "", entries=max(0, last.number + 1 - number) if last else 0,
        positions={key_of(place): position for place, position in positions.items()},
    )  # fmt: skip
    return loss, base


def _base(log: Log, blobs: Blobs, shard: Shard, make: MakeFold[F], snapshot: str) -> _Base:
    """Return the newest state that there is."""
    try:
        check_journal(log, shard)
        with closing(Follower(log, blobs, shard, make=make, fold_anew=True)) as follower:
            follower.catch_up()
            pointer = msgspec.structs.replace(
                pointer_to(
                    follower.number, follower.positions, follower.fold.stamp, follower.chain.value,
                    follower.identities.known, follower.skips.pending(follower.positions),
                ),
                former=former_blobs(follower.pointer),
            )  # fmt: skip
            return _Base("journal", follower.fold, follower.intake, pointer, follower.results)
    except (JournalLost, PositionLost, RecordsChanged, StateUnreadable, TopicReplaced) as error:
        reason = str(error)
    last = journal.newest(log, shard)
    results = last.results if last else None
    for pointer in _pointers(log, blobs, shard):
        if pointer.blob.startswith(snapshot):
            try:
                fold, intake = restored(blobs, make, pointer)
            except (BlobMissing, BlobCorrupt):
                continue
            return _Base("snapshot", fold, intake, _with_later_skips(log, shard, pointer), results, reason)
    if snapshot:
        raise Misconfigured(f"{shard.name}: wanted a whole snapshot {snapshot} whose pointer is known, found none")
    return _Base("empty", make(), Intake(), None, results, reason)


def _pointers(log: Log, blobs: Blobs, shard: Shard) -> Iterator[Pointer]:
    """Yield the snapshots that the journal names, then those whose pointers are in the folder, the newest first."""
    last = journal.newest(log, shard)
    pointer = last.snapshot if last else None
    for _ in range(snapshots_kept):
        if pointer:
            yield pointer
            pointer = journal.former_snapshot(log, shard, pointer)
    yield from stored_pointers(blobs, shard.name)


def _with_later_skips(log: Log, shard: Shard, pointer: Pointer) -> Pointer:
    """Return a pointer with the skips that were decided after its snapshot."""
    skips = dict(pointer.skipped)
    for entry in journal.entries_from(log, shard, pointer.journal, pointer.number):
        if entry.decision and entry.decision.skip:
            skips[entry.decision.skip] = entry.decision.why
    return msgspec.structs.replace(pointer, skipped=skips)


def _positions(
    log: Log, shard: Shard, wanted: Mapping[Partition, int], replaced: Mapping[str, object]
) -> tuple[dict[Partition, int], list[Gap]]:
    """Return where a shard goes on that wants these positions, and where the log does not hold what it wants."""
    positions, gaps = dict[Partition, int](), list[Gap]()
    for place in shard.inputs(log):
        first, end = log.first(place), log.end(place)
        position = wanted.get(place, first)
        if place.topic in replaced or not first <= position <= end:
            gaps.append(Gap(key_of(place), position, first, end))
            position = first
        positions[place] = position
    gaps += [Gap(key_of(place), at, 0, 0) for place, at in wanted.items() if place not in positions]
    return positions, gaps


def _accepting(log: Log, blobs: Blobs, shard: Shard, base: _Base, loss: Loss, decision: Decision) -> Entry:
    """Store the state with which a shard goes on; return the entry from which all folds continue with it."""
    last, end = journal.newest(log, shard), log.last(shard.journal)
    number = max(base.pointer.number if base.pointer else 0, last.number + 1 if last else 0)
    topics, digest, stamp = Identities(log, shard).found(), base.pointer.digest if base.pointer else "", base.fold.stamp
    positions = {place_of_key(name): position for name, position in loss.positions.items()}
    skips = Skips(base.pointer.skipped if base.pointer else {}).pending(positions)
    blob = blobs.put(shard.name, encode(freeze(base.fold, base.intake)))
    begin = end.offset + 1 if end else log.first(shard.journal)
    former = [one for one in (base.pointer.blob, *base.pointer.former) if one] if base.pointer else []
    pointer = msgspec.structs.replace(
        pointer_to(number, positions, stamp, digest, topics, skips), blob=blob, former=former[: snapshots_kept - 1],
        journal=begin, judgements=log.end(shard.judgements), origin=Origin(begin, blob),
    )  # fmt: skip
    return Entry(
        shard.name, number, [], 0, pointer, pointer.judgements, stamp, dict(base.fold.renewed),
        results=base.results, digest=Chain(digest).close_entry(), topics=topics, decision=decision,
    )  # fmt: skip
