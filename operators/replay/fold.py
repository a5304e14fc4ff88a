"""The fold of a shadow run: it can be killed at any moment, and goes on from its newest snapshot."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from headrace.clock import wall_ms
from headrace.errors import BlobCorrupt, BlobMissing, LogUnavailable, Misconfigured, PositionLost, StateUnreadable
from headrace.log.protocol import Log, Outgoing, Writer
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.entries import arrival_timeout_s
from headrace.shard.follower import Follower
from headrace.shard.journal import Entry, Pointer
from headrace.shard.shadow import Shadow
from headrace.shard.snapshot import pointer_to
from headrace.shard.without import LeftOut, Without
from headrace.state import encode
from headrace.topics import EVENTS, JOURNAL
from learners.families import Placement
from learners.shop import MakeShop, Shop
from operators.replay.judging import anew
from operators.replay.plan import kept
from operators.replay.run import Run, RunFolder

WRITER: Final = "replay"
"""The writer id in a run's own log."""
snapshot_interval_s: Final = 30.0
"""Time between two snapshots of a run: the work that is lost if it is killed."""
commit_entries: Final = 500
"""Entries per commit to a run's own log."""
step_entries: Final = 20
"""Entries that are folded between two looks at the pace and the progress."""


class Pace(Protocol):
    """Slows a replay down."""

    def __call__(self, records: int) -> None:
        """Wait as long as it takes, given the number of records folded so far."""


class Report(Protocol):
    """Shows a replay's progress."""

    def __call__(self, done: int, total: int, records: int, seconds: float) -> None:
        """Show the entries folded and their total, and the records folded in so many seconds."""


def sections_of(run: Run, placement: Placement) -> dict[str, Struct]:
    """Return the settings of a run's families. Raises Misconfigured if this release does not admit them."""
    try:
        return {
            kind.name: msgspec.convert(run.sections[kind.name], kind.surface.settings)
            for kind in placement.kinds
            if kind.name in run.sections
        }
    except msgspec.ValidationError as error:
        raise Misconfigured(f"run {run.name}: its settings are not those of this release: {error}") from None


def unlimited(records: int) -> None:
    """Do not wait."""


def unreported(done: int, total: int, records: int, seconds: float) -> None:
    """Show nothing."""


def fold(
    log: Log,
    blobs: Blobs,
    placement: Placement,
    folder: RunFolder,
    *,
    pace: Pace = unlimited,
    report: Report = unreported,
) -> Run:
    """Fold a run to its end, from its newest snapshot on, and return its manifest. Its folder must be held alone.

    Raises:
        BrokenWorld: see `headrace.errors`; another call goes on.
    """
    run = folder.read()
    while not run.done:
        # Before the range, the journal is followed as it is.
        ahead = run.adopts and run.number < run.begin
        end = run.begin if ahead else run.end
        with (
            folder.log() as own,
            closing(own.writer(WRITER)) as writer,
            closing(_Folding(log, placement, folder, run, own, writer, follows=ahead)) as folding,
        ):
            run = folding.to(end, pace, report)
    if not run.adopts and not run.live:
        run.live, run.live_from = live_digest(log, blobs, placement, run.number)
        folder.write(run)
    return run


class _Folding:
    """One pass over the journal: folds entries, and keeps them, their outputs and snapshots in the run's folder."""

    def __init__(
        self, log: Log, placement: Placement, folder: RunFolder, run: Run,
        own: Log, writer: Writer, *, follows: bool,
    ) -> None:  # fmt: skip
        self._folder, self._run, self._writer, self._shard = folder, run, writer, placement.shard
        self._blobs = folder.blobs()
        last = journal.newest(own, placement.shard)
        self._written = max(run.begin, last.number + 1 if last else 0)
        self._pending: list[Outgoing] = []
        self._pending_entries = self._records = 0
        self._without = Without(run.without, run.trained, run.left_out) if run.without and not follows else None
        kinds = [kind for kind in placement.kinds if kind.name in run.judged_anew]
        sections = sections_of(run, placement)
        self._shadow: Shadow[Shop] = Shadow(
            log, self._blobs, placement.shard, make=MakeShop(placement.kinds, sections),
            snapshot=run.state or run.base, adopts=run.adopts and not follows,
            anew=None if follows else anew(kinds, sections, self._blobs, log),
            without=self._without, on_entry=self._keep,
        )  # fmt: skip

    def to(self, end: int, pace: Pace, report: Report) -> Run:
        """Fold up to an entry; return the manifest."""
        run, shadow = self._run, self._shadow
        first, before, seconds = shadow.number, run.records, run.seconds
        began = saved = time.monotonic()
        while shadow.number < end:
            if not shadow.step(arrival_timeout_s, min(step_entries, end - shadow.number)):
                raise LogUnavailable(f"journal of {run.shard}: entry {shadow.number} cannot be read")
            run.records, run.seconds = before + self._records, seconds + time.monotonic() - began
            report(shadow.number - first, end - first, self._records, time.monotonic() - began)
            pace(self._records)
            if time.monotonic() - saved > snapshot_interval_s and shadow.number < end:
                self._save()
                saved = time.monotonic()
        self._save()
        return run

    def _keep(self, entry: Entry, outputs: list[Outgoing]) -> None:
        self._records += sum(run.end - run.start for run in entry.runs if run.topic == EVENTS)
        if entry.number < self._written:  # before the range, or kept before this process began
            return
        self._written = entry.number + 1
        kept = msgspec.structs.replace(entry, snapshot=self._run.state or self._run.base)
        self._pending.append(Outgoing(JOURNAL, self._shard.name.encode(), journal.encode(kept), self._shard.number))
        self._pending += outputs
        self._pending_entries += 1
        if self._pending_entries >= commit_entries:
            self._commit()

    def _commit(self) -> None:
        if self._pending:
            self._writer.commit(self._pending, {})
            self._writer.settle()
        self._pending, self._pending_entries = [], 0

    def _save(self) -> None:
        """Make all that was folded durable; the manifest, which comes last, names the state with which to go on."""
        self._commit()
        run, shadow = self._run, self._shadow
        data = encode(shadow.state())
        pointer = pointer_to(
            shadow.number, shadow.positions, shadow.fold.stamp, shadow.chain.value, shadow.identities.known,
            shadow.skips.pending(shadow.positions), wall_ms(),
        )  # fmt: skip
        run.state = msgspec.structs.replace(
            pointer, blob=self._blobs.put(run.shard, data), journal=shadow.journal_position,
            judgements=shadow.judgements_position,
        )  # fmt: skip
        run.number, run.digest, run.live = shadow.number, run.state.blob.rpartition("-")[2], ""
        if self._without:
            run.left_out = msgspec.convert(msgspec.to_builtins(self._without.found), LeftOut)
        self._folder.write(run)
        self._blobs.sweep(run.shard, {run.state.blob})

    def close(self) -> None:
        """Free connections."""
        self._shadow.close()


def live_fold(log: Log, blobs: Blobs, placement: Placement, number: int) -> tuple[Follower[Shop], int] | None:
    """Return the live shard's state after `number` entries, and the entry of the snapshot from which it was folded.

    That is 0 if it was folded from the journal's first entry, which is done if no kept snapshot is as old. None if the
    log no longer holds that either. The follower is closed.
    """
    shard, make = placement.shard, MakeShop(placement.kinds)
    beginnings: list[Pointer | None] = [one for one in kept(log, blobs, shard) if one.number <= number]
    for pointer in [*beginnings, None]:
        try:
            with closing(
                Follower(log, blobs, shard, make=make, snapshot=pointer, from_start=pointer is None)
            ) as follower:
                while follower.number < number:
                    if not follower.step(arrival_timeout_s, min(step_entries, number - follower.number)):
                        raise LogUnavailable(f"journal of {shard.name}: entry {follower.number} is missing")
                if follower.number == number:  # not where an entry later than this one names the state to begin with
                    return follower, pointer.number if pointer else 0
        except (BlobMissing, BlobCorrupt, PositionLost, StateUnreadable):
            continue
    return None


def live_digest(log: Log, blobs: Blobs, placement: Placement, number: int) -> tuple[str, int]:
    """Return the digest of the live state after `number` entries and the entry of the snapshot from which it follows.

    The digest is "" if the log no longer holds what is needed.
    """
    found = live_fold(log, blobs, placement, number)
    return (found[0].digest(), found[1]) if found else ("", 0)


def measure(
    log: Log, blobs: Blobs, placement: Placement, run: Run,
    *, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic,
) -> float:  # fmt: skip
    """Return how many records a run would fold per second, measured by folding for about a second and keeping nothing.

    It is 0 if there is nothing to fold.
    """
    records = 0

    def count(entry: Entry, outputs: list[Outgoing]) -> None:
        nonlocal records
        records += sum(one.end - one.start for one in entry.runs if one.topic == EVENTS)

    kinds = [kind for kind in placement.kinds if kind.name in run.judged_anew]
    sections = sections_of(run, placement)
    shadow: Shadow[Shop] = Shadow(
        log, blobs, placement.shard, make=MakeShop(placement.kinds, sections), snapshot=run.base, adopts=run.adopts,
        anew=anew(kinds, sections, blobs, log), without=Without(run.without) if run.without else None, on_entry=count,
    )  # fmt: skip
    with closing(shadow):
        began = clock()
        while shadow.number < run.end and clock() - began < seconds:
            if not shadow.step(arrival_timeout_s, min(step_entries, run.end - shadow.number)):
                break
        return records / max(1e-9, clock() - began)
