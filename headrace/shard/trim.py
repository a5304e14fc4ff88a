"""Trimming a log in a file: deleting records that are old and that no shard, follower or restart needs.

Kafka deletes by age alone. Here a record of `events`, of a side topic, of a journal or of judgements is deleted only if
it is older than the topic keeps records and lies before the oldest kept snapshot of every shard that reads it. Topics
that are kept for ever are never touched.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog
from msgspec import Struct

from headrace.archive.log import ArchivedLog
from headrace.clock import Clock, wall_ms
from headrace.errors import LogUnavailable
from headrace.log.protocol import Log, Partition
from headrace.log.sqlite import SqliteLog, deleted_at_once
from headrace.shard import journal
from headrace.shard.follower import no_report
from headrace.shard.journal import Entry, Pointer, key_of, place_of_key, snapshots_kept
from headrace.topics import ARCHIVE, DAY_MS, EVENTS, JOURNAL, JUDGEMENTS, KEPT_FOR_EVER, TOPICS, Shard, Topic

plan_interval_s: Final = 600.0
"""Time between two plans of a process that trims while it learns."""
step_interval_s: Final = 0.5
"""Time between two steps of such a process."""
step_s: Final = 0.05
"""How long a step takes; one transaction may exceed it."""
reclaimed_pages: Final = 500
"""Number of unused pages that are given back at once."""


class Cut(Struct, frozen=True):
    """What is deleted of a partition: its records from `first` on and before `until`; it ends at `end`.

    `held_by` names the shard that needs older records than the topic would keep, empty if none does.
    """

    partition: str
    first: int
    until: int
    end: int
    held_by: str = ""

    @property
    def records(self) -> int:
        """Number of records that are deleted."""
        return self.until - self.first


class Need(NamedTuple):
    """The first position of a partition that a shard needs."""

    position: int
    shard: str


def plan(log: Log, shards: Sequence[Shard], keep_days: float, now_ms: int) -> list[Cut]:
    """Return what may be deleted now; also, with nothing to delete, what a shard holds back.

    Of a log with an archive, only what is archived is deleted.

    Ages are counted from the newest append time of the journals, or from `now_ms` if that is earlier: in a log that
    nobody writes to, and while a clock is ahead, nothing expires.

    Args:
        shards: those that are configured. One that has no journal yet needs nothing. A shard that is not configured,
            but has a journal, needs its records until the journal is old.
        keep_days: how long records of `events`, `journal` and `judgements` are kept; other topics state it.

    Raises:
        LogUnavailable: the log does not answer.
    """
    covered: Mapping[Partition, int] = {}
    if isinstance(log, ArchivedLog):
        covered, log = log.covered(), log.live
    newest = [record.time_ms for place in log.partitions(JOURNAL) if (record := log.last(place))]
    if not newest:
        return []
    now_ms = min(now_ms, max(newest))
    # Listed before what the shards need: of a partition that is added meanwhile, nobody would say that it is needed.
    places = {topic: log.partitions(topic.name) for topic in TOPICS.values() if topic.retention_ms != KEPT_FOR_EVER}
    needs = _needs(log, shards, now_ms - _keep_ms(TOPICS[JOURNAL], keep_days))
    found = []
    for topic, held in places.items():
        for place in held:
            first, end = log.first(place), log.end(place)
            until, need = log.position_at(place, now_ms - _keep_ms(topic, keep_days)), needs.get(place)
            if place in covered and (need is None or covered[place] < need.position):
                need = Need(covered[place], ARCHIVE)
            held_by = need.shard if need and need.position < until else ""
            until = min(until, need.position) if need else until
            cut = Cut(key_of(place), first, max(first, until), end, held_by)
            if cut.records or cut.held_by:
                found.append(cut)
    return found


def _keep_ms(topic: Topic, keep_days: float) -> int:
    return int(keep_days * DAY_MS) if topic.name in (EVENTS, JOURNAL, JUDGEMENTS) else topic.retention_ms


def _needs(log: Log, shards: Sequence[Shard], since_ms: int) -> dict[Partition, Need]:
    """Return what the shards need, by partition."""
    configured = {shard.number: shard for shard in shards}
    found: dict[Partition, Need] = {}
    for place in log.partitions(JOURNAL):
        shard = configured.get(place.number) or _unconfigured(log, place, since_ms)
        entry = journal.newest(log, shard) if shard else None
        if not shard or not entry:
            continue
        for needed, position in _needs_of(log, shard, entry).items():
            if needed not in found or position < found[needed].position:
                found[needed] = Need(position, shard.name)
    return found


def _unconfigured(log: Log, place: Partition, since_ms: int) -> Shard | None:
    """Return the shard of a journal that no configured shard has, None if it is empty or has been idle since then."""
    last = log.last(place)
    entry = journal.newest(log, Shard("", place.number)) if last and last.time_ms >= since_ms else None
    return Shard(entry.writer, place.number) if entry else None


def _needs_of(log: Log, shard: Shard, entry: Entry) -> Mapping[Partition, int]:
    """Return the first positions that a restart from the oldest kept snapshot of a shard reads."""
    if entry.snapshot is None:
        return dict.fromkeys([*shard.inputs(log), shard.journal, shard.judgements], 0)
    oldest = kept_snapshots(log, shard, entry.snapshot)[-1]
    positions = {place_of_key(key): position for key, position in oldest.positions.items()}
    added = dict.fromkeys(shard.inputs(log), 0)  # partitions that the snapshot does not know yet
    return {**added, **positions, shard.journal: oldest.journal, shard.judgements: oldest.judgements}


def kept_snapshots(log: Log, shard: Shard, newest: Pointer) -> list[Pointer]:
    """Return the pointers of the snapshots whose blobs are kept, newest first, as far as the journal names them.

    Not those from before an accepted loss: no restart can go on from them, and their positions may be of a topic that
    was replaced.
    """
    kept = [newest]
    while len(kept) < snapshots_kept:
        former = journal.former_snapshot(log, shard, kept[-1])
        if former is None or former.blob not in newest.former or former.origin != newest.origin:
            break
        kept.append(former)
    return kept


def file_of(log: Log) -> SqliteLog | None:
    """Return the file that a log is, with an archive or without; None if it is none."""
    live = log.live if isinstance(log, ArchivedLog) else log
    return live if isinstance(live, SqliteLog) else None


def trim(log: SqliteLog, cuts: Sequence[Cut], report: Callable[[int, int], None] = no_report) -> int:
    """Delete what a plan says, in small steps beside other processes; return the number of deleted records.

    Args:
        report: called after each step with the number of records deleted and the total.

    Raises:
        LogUnavailable: the log does not answer; what was deleted until then is gone.
    """
    total, deleted = sum(cut.records for cut in cuts), 0
    for cut in cuts:
        position = cut.first
        while position < cut.until:
            position = _delete_some(log, cut, position)
            report(deleted + position - cut.first, total)
        deleted += cut.records
    while log.reclaim(reclaimed_pages):
        pass
    return deleted


def _delete_some(log: Log, cut: Cut, position: int) -> int:
    """Delete some records of a partition from a position on; return the next position."""
    position = min(cut.until, position + deleted_at_once)
    log.delete_before(place_of_key(cut.partition), position)
    return position


class Trimmer:
    """Trims a log beside a loop, at most a tenth of the time. Call `step` often.

    Args:
        file: of the log (`file_of`).
        keep_days: as for `plan`; with 0, nothing is deleted.
        on_deleted: takes the number of records that a step deleted.
    """

    def __init__(
        self,
        log: Log,
        file: SqliteLog,
        shards: Sequence[Shard],
        keep_days: float,
        *,
        on_deleted: Callable[[int], None],
        clock: Clock = wall_ms,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._file, self._shards, self._keep_days = log, file, shards, keep_days
        self._on_deleted, self._clock, self._seconds = on_deleted, clock, seconds
        self._cuts: list[Cut] = []
        self._planned_at = self._stepped_at = float("-inf")
        self._reclaiming = False

    def step(self) -> None:
        """Plan if that is due, and delete some of what was planned. A log that does not answer is tried again later."""
        now = self._seconds()
        if not self._keep_days or now - self._stepped_at < step_interval_s:
            return
        self._stepped_at = now
        try:
            if not self._cuts and not self._reclaiming and now - self._planned_at >= plan_interval_s:
                self._plan(now)
            self._delete(now + step_s)
        except LogUnavailable as error:
            structlog.get_logger().warning("trimming failed", error=str(error))
            self._cuts, self._reclaiming = [], False

    def _plan(self, now: float) -> None:
        self._planned_at = now
        self._cuts = [cut for cut in plan(self._log, self._shards, self._keep_days, self._clock()) if cut.records]
        self._reclaiming = True
        if self._cuts:
            deleting = {cut.partition: cut.records for cut in self._cuts}
            structlog.get_logger().info("trimming", records=deleting)

    def _delete(self, until: float) -> None:
        while self._cuts:
            cut = self._cuts[0]
            position = _delete_some(self._file, cut, cut.first)
            self._on_deleted(position - cut.first)
            rest = Cut(cut.partition, position, cut.until, cut.end)
            self._cuts[:1] = [rest] if rest.records else []
            if self._seconds() >= until:
                return
        if not self._cuts and self._reclaiming:
            self._reclaiming = self._file.reclaim(reclaimed_pages)
