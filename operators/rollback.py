"""Putting what shards have learned back to a former state (`headrace roll-back --state`, `--undo`)."""

import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

import msgspec
from msgspec import Struct

from headrace.clock import Clock, read_time_ms, wall_ms
from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.decision import Author
from headrace.shard.entries import arrival_timeout_s
from headrace.shard.follower import Follower, no_report, report_entries
from headrace.shard.journal import Pointer, key_of
from headrace.shard.kept import HOUR_MS, kept_snapshots
from headrace.shard.refold import pointer_here
from headrace.shard.restate import restate
from headrace.state import encode
from headrace.topics import DAY_MS, EVENTS, MODELS, Shard
from learners.shop import MakeShop, Shop
from operators.manifest import time_text

blob_characters_shown: Final = 20
UNITS_MS: Final = {"m": HOUR_MS // 60, "h": HOUR_MS, "d": DAY_MS}


class Rollback(Struct, kw_only=True):
    """The state to which a shard goes back.

    Attributes:
        snapshot: the kept snapshot's blob.
        time_ms, entries: when it was the shard's state, and how many journal entries gave it.
        left_out: number of records of `events` that were read since, which the state does not have.
        fold_entries, fold_s: number of entries that are folded from the snapshot on to be exact, and about how many
            seconds that takes; 0 if the snapshot itself is put in place.
        entry: number of the journal entry that says so; None if nothing was changed.
    """

    shard: str
    snapshot: str
    time_ms: int
    entries: int
    left_out: int
    fold_entries: int = 0
    fold_s: float = 0.0
    entry: int | None = None


class Plan(Struct, kw_only=True):
    """A rollback that can be done: the snapshot, and until which entry it is folded on (0: not at all).

    `undo` is whether it takes back the newest one.
    """

    shard: Shard
    make: MakeShop
    pointer: Pointer
    text: str
    found: Rollback
    until: int = 0
    undo: bool = False


def plan_state(
    log: Log, blobs: Blobs, shard: Shard, make: MakeShop, wanted: str, *, exact: bool = False, clock: Clock = wall_ms
) -> Plan:
    """Return how a shard goes back to a kept snapshot, or to a time.

    Args:
        wanted: the beginning of a snapshot's name, a time (ISO 8601), or how long ago (90m, 2h, 3d). A time between
            kept snapshots means the one before it.
        exact: fold on from that snapshot up to the last entry at that time. The log, or its archive, must hold what
            was learned between.

    Raises:
        Misconfigured: no such snapshot is kept, or the shard's state follows what it has written.
        BrokenWorld: see `headrace.errors`.
    """
    _check(log, shard)
    kept = [one.pointer for one in kept_snapshots(blobs, shard.name)]
    named = [one for one in kept if wanted.startswith(f"{shard.name}-") and one.blob.startswith(wanted)]
    if wanted.startswith(f"{shard.name}-"):
        if (count := len({one.blob for one in named})) != 1:
            raise Misconfigured(f"--state {wanted}: wanted one kept snapshot of {shard.name}, found {count}")
        return _plan(log, shard, make, named[0], f"goes back to its state of {time_text(named[0].time_ms)}")
    ago = re.fullmatch("([0-9]{1,6})([mhd])", wanted)
    time_ms = clock() - int(ago[1]) * UNITS_MS[ago[2]] if ago else read_time_ms("--state", wanted)
    if time_ms > clock():
        raise Misconfigured(f"--state {wanted}: wanted a time that has passed, found one to come")
    before = [one for one in kept if one.time_ms <= time_ms]
    if not before:
        oldest = f"the oldest is of {time_text(kept[-1].time_ms)}" if kept else "none is kept"
        raise Misconfigured(
            f"--state {wanted}: wanted a snapshot of {shard.name} at or before that, found none; {oldest}"
        )
    plan = _plan(log, shard, make, before[0], f"goes back to its state of {time_text(before[0].time_ms)}")
    return _exactly(log, blobs, plan, time_ms) if exact else plan


def plan_undo(log: Log, blobs: Blobs, shard: Shard, make: MakeShop) -> Plan:
    """Return how a shard goes back to the state before the newest decision that put another one in place.

    Raises:
        Misconfigured: there was none, it was itself an undo, or the state before it is lost.
    """
    _check(log, shard)
    last = journal.newest(log, shard)
    restated = last.snapshot.restated if last and last.snapshot else None
    if restated is None:
        raise Misconfigured(f"{shard.name}: wanted a rollback to undo, found none")
    entry = journal.replacing(log, shard, restated)
    if entry and entry.decision and entry.decision.undo:
        raise Misconfigured(
            f"{shard.name}: wanted a rollback to undo, found that the newest is undone; to return to what was learned"
            f" between: --state {restated.before[:blob_characters_shown]}"
        )
    for one in kept_snapshots(blobs, shard.name):
        if one.pointer.blob == restated.before:
            text = f"undone: goes on from its state of {time_text(one.pointer.time_ms)}"
            return msgspec.structs.replace(_plan(log, shard, make, one.pointer, text), undo=True)
    raise Misconfigured(f"{shard.name}: wanted the state before, {restated.before}, found that it is lost")


def roll_back_state(
    log: Log,
    blobs: Blobs,
    plan: Plan,
    author: Author,
    *,
    report: Callable[[int, int], None] = no_report,
    clock: Clock = wall_ms,
) -> Rollback:
    """Do what was planned; a running process of the shard is fenced. Return what was done.

    Raises:
        BrokenWorld: see `headrace.errors`; nothing was changed, call again.
    """
    pointer = plan.pointer
    if plan.until:
        with closing(_follower(log, blobs, plan)) as follower:
            _fold(follower, plan.until, lambda done: report(done, plan.found.fold_entries))
            blob = blobs.put(plan.shard.name, encode(follower.state()))
            pointer = msgspec.structs.replace(pointer_here(follower, follower.fold.stamp), blob=blob)
    entry = restate(
        log, blobs, plan.shard, make=plan.make, state=pointer, author=author, text=plan.text, undo=plan.undo,
        clock=clock,
    )  # fmt: skip
    return msgspec.structs.replace(plan.found, entry=entry.number)


def can_roll_back(shard: Shard) -> bool:
    """Return whether a shard's state may be put back: not the one of a shard that decides about models.

    What such a shard has announced stays announced; its state must follow from it.
    """
    return MODELS not in shard.writes


def _check(log: Log, shard: Shard) -> None:
    if not can_roll_back(shard):
        raise Misconfigured(
            f"{shard.name}: wanted a shard of fast learners, found the one that announces models, whose state must"
            " follow from them; put a former model back by: headrace roll-back --to VERSION"
        )
    if journal.newest(log, shard) is None:
        raise Misconfigured(f"{shard.name}: wanted a shard that has learned, found an empty journal")


def _plan(log: Log, shard: Shard, make: MakeShop, pointer: Pointer, text: str) -> Plan:
    left_out = sum(
        max(0, position - pointer.positions.get(key_of(place), 0))
        for place, position in log.committed(shard.name).items()
        if place.topic == EVENTS
    )
    found = Rollback(
        shard=shard.name, snapshot=pointer.blob, time_ms=pointer.time_ms, entries=pointer.number, left_out=left_out
    )  # fmt: skip
    text += f", without {left_out:,} records of events since"
    return Plan(shard=shard, make=make, pointer=pointer, found=found, text=text)


def _exactly(log: Log, blobs: Blobs, plan: Plan, time_ms: int) -> Plan:
    """Return a plan that also folds the entries up to a time; fold some, to know how long that takes."""
    last = journal.newest(log, plan.shard, before=log.position_at(plan.shard.journal, time_ms + 1))
    until = last.number + 1 if last and last.writer == plan.shard.name else 0
    count = until - plan.pointer.number
    if count <= 0:
        return plan
    plan = msgspec.structs.replace(plan, until=until)
    with closing(_follower(log, blobs, plan)) as follower:
        began = time.perf_counter()
        tried = min(count, report_entries)
        _fold(follower, plan.pointer.number + tried)
        seconds = (time.perf_counter() - began) * count / tried
    learned = sum(
        run.end - run.start
        for entry in journal.entries_from(log, plan.shard, plan.pointer.journal, plan.pointer.number)
        if entry.number < until
        for run in entry.runs
        if run.topic == EVENTS
    )
    left_out = plan.found.left_out - learned
    found = msgspec.structs.replace(
        plan.found, time_ms=time_ms, entries=until, left_out=left_out, fold_entries=count, fold_s=round(seconds, 1)
    )  # fmt: skip
    text = f"goes back to its state of {time_text(time_ms)}, without {left_out:,} records of events since"
    return msgspec.structs.replace(plan, found=found, text=text)


def _follower(log: Log, blobs: Blobs, plan: Plan) -> Follower[Shop]:
    return Follower(log, blobs, plan.shard, make=plan.make, snapshot=plan.pointer)


def _fold(follower: Follower[Shop], until: int, report: Callable[[int], None] = lambda done: None) -> None:
    """Fold the entries before number `until`."""
    begin = follower.number
    while follower.number < until:
        if not follower.step(arrival_timeout_s, min(report_entries, until - follower.number)):
            raise Misconfigured(f"wanted journal entry {follower.number}, found that it cannot be read any more")
        report(follower.number - begin)


def planned_text(found: Rollback) -> str:
    """Return what a rollback does, in a line."""
    snapshot = f"snapshot {found.snapshot[:blob_characters_shown]}..."
    if found.fold_entries:
        snapshot += f" and {found.fold_entries:,} entries that are folded, in about {found.fold_s:,.1f} s"
    return (
        f"{found.shard}: to its state of {time_text(found.time_ms)}, after {found.entries:,} journal entries"
        f" ({snapshot}); {found.left_out:,} records of events since are left out"
    )
