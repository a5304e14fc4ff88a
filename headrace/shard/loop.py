"""The loop: a fold over the log. It is the only loop; every process that learns runs it.

What a shard learns (`Fold`) is a pure function of its journal. Code that must not run in the fold (torch) judges events
beside it (`ShardJudge`). Its judgements are written to the log and then given to the fold, so that a replay does not
need torch.

Live, the numbered steps are:

1. read batches, next from the partition whose head is oldest in event time;
2. decode and validate; a record that cannot be used becomes a dead letter;
3. let the judge observe each event, then learn it; collect outputs and the applied order;
4. every few hundred milliseconds judge, learn from the judgements, and commit outputs, dead letters, judgements, the
   journal entry and positions in one transaction;
5. at some commits freeze the state, store it as a blob, and name it in a later commit.

Restart: fence the old writer, restore the newest snapshot, fold the journal from there with outputs off, continue.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol

import msgspec
import structlog

from headrace.clock import TIMER, Clock, Timer, wall_ms
from headrace.errors import Flooded
from headrace.events import Event, Rejection
from headrace.log.protocol import Log, Outgoing, Partition, size_of_all
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.chain import Chain
from headrace.shard.follower import F, Follower, MakeFold, freeze, never
from headrace.shard.identity import check_journal
from headrace.shard.journal import Entry, Pointer, Results, key_of
from headrace.shard.merge import Chunk, Merge
from headrace.shard.refold import entry_from_here
from headrace.shard.snapshot import Snapshots, pointer_to
from headrace.shard.turn import FloodGuard, Tally, Turn
from headrace.topics import ALARMS, EVENTS, JOURNAL, JUDGEMENTS, Shard

turn_records_max = 20_000
"""Maximum number of records of one commit; bounds the work lost in a crash and the time that a judge takes."""
turn_bytes_max = 16 * 2**20
"""Size of the records of one commit, in bytes of keys and values; one chunk may exceed it. Judges keep what they
observe until the commit, and dead letters repeat bad records."""
side_records_max = 5_000
"""Maximum number of records of side topics that a turn applies: events wait for them, at a feed of items a tenth of a
second."""
partitions_check_interval_s = 15.0
"""Time between two looks for partitions that were added to a topic."""
empty_entry_interval_s = 86_400.0
"""A shard with nothing to commit writes an empty entry after this time. The newest entry is needed to find the state;
without a new one, retention would delete the last."""


class JudgementRecord(NamedTuple):
    """A record of judgements: its key, which names the family, and bytes in the family's own format."""

    key: str
    data: bytes


class ShardJudge(Protocol):
    """Judges events beside the fold, in the live loop only."""

    def observe(self, fold: Any, event: Event, partition: int, offset: int) -> None:
        """Observe an event before the fold learns it. Must not change the fold."""

    def judge(self, fold: Any, lag: int) -> Sequence[JudgementRecord]:
        """Return the judgements of what was observed since the last call; called once before each commit.

        Args:
            lag: number of records that wait to be read, so that a judge can do less when the loop is behind.
        """


class LoopSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often the loop commits and takes snapshots, and which share of bad records stops it."""

    commit_interval_s: float = 0.3
    snapshot_interval_s: float = 20.0
    idle_wait_s: float = 0.05
    flood_records: int = 5_000
    flood_share: float = 0.5


class Loop(Generic[F]):
    """One shard, live. `on_turn` is called after each commit; `number` is the number of entries in the journal, and
    `strays` that of records in its own topics that other programs wrote and that its start passed over.

    `judge_ready` returns whether the judge has a result although no record came; then an entry without records is
    committed.

    Args:
        make: makes the fold, from a state or anew.
        shard: the partitions that it learns (merged by event time) and hears (side topics, polled without waiting at a
            turn's start), and the partition of its journal.
        quarantine: write bad records to the dead letters. Exactly one of the shards that read a topic does so.
        stop: whether the fold up to the last commit is to be given up.
        executor: stores snapshots beside the loop; a thread by default.

    Raises:
        Stopping: `stop` returned true before that fold had ended.
    """

    def __init__(
        self,
        log: Log,
        blobs: Blobs,
        shard: Shard,
        *,
        make: MakeFold[F],
        judge: ShardJudge | None = None,
        settings: LoopSettings | None = None,
        quarantine: bool = True,
        clock: Clock = wall_ms,
        stop: Callable[[], bool] = never,
        timer: Timer = TIMER,
        executor: Executor | None = None,
    ) -> None:
        self._log, self._shard, self._judge = log, shard, judge
        self._settings, self._quarantine = settings or LoopSettings(), quarantine
        self._clock, self._timer = clock, timer
        self.on_turn: Callable[[Turn], None] = lambda turn: None
        self.judge_ready: Callable[[], bool] = lambda: False
        with ExitStack() as opened:  # everything is closed again if one of these fails
            # The writer comes first: it fences the old one, whose commits are final from then on.
            self._writer = opened.enter_context(closing(log.writer(shard.name, shard.written, shard.read)))
            check_journal(log, shard)
            with closing(Follower(log, blobs, shard, make=make, fold_anew=True, stop=stop, timer=timer)) as follower:
                follower.catch_up()
            self._identities, self._skips = follower.identities, follower.skips
            self._topics_due = self._identities.complete()
            self.fold: F = make.adopt(follower.fold)
            self.strays = follower.strays
            self._intake, pointer, self._chain = follower.intake, follower.pointer, follower.chain
            self.number, self._positions = follower.number, follower.positions
            if self.number and self.fold.stamp != follower.stamp:
                pointer = self._continue_from_here(follower, blobs)
            self._results = follower.results or Results(since=self.number)
            # Only this shard writes to this partition: judgements that no entry counted are of a torn commit.
            self._judgements_position = max(follower.judgements_position, log.end(shard.judgements))
            self._merge = opened.enter_context(closing(Merge(log, self._positions_in(EVENTS), clock, timer)))
            self._sides = opened.enter_context(closing(log.reader(self._positions_in(*shard.hears))))
            # A log updates group offsets, which lag tools read, with a delay: those of a killed loop's last commits are
            # missing.
            if self.number:
                self._writer.commit([], self._positions)
            opened.pop_all()
        interval_s = self._settings.snapshot_interval_s
        self._snapshots = Snapshots(blobs, shard.name, pointer, interval_s=interval_s, timer=timer, executor=executor)
        self._committed_at = self._timer.monotonic()
        self._judgements_in_flight = 0
        self._entry_due = self.number == 0  # a new shard writes an entry at once, even an empty one
        self._checked_at = self._timer.monotonic()
        self._flood = FloodGuard(self._settings.flood_records, self._settings.flood_share)
        self._tally = Tally(self._timer.monotonic())

    def _continue_from_here(self, follower: Follower[F], blobs: Blobs) -> Pointer:
        """Commit the state with which this release and these settings continue; return its pointer."""
        entry = entry_from_here(follower, self.fold, blobs, self._shard, self.fold.renewed, self._clock())
        self._writer.commit([self._record(entry)], {})
        self._writer.settle()
        self.number += 1
        self._chain = Chain(entry.digest)
        assert entry.snapshot is not None
        return entry.snapshot

    def _record(self, entry: Entry) -> Outgoing:
        return Outgoing(JOURNAL, self._shard.name.encode(), journal.encode(entry), self._shard.number)

    def run(self, until: Callable[[], bool]) -> None:
        """Fold until `until()` returns true; then commit what was learned and wait until it is durable.

        Raises:
            Flooded: too many of the newest records were bad. They are in the dead letters; no record is lost.
            BrokenWorld: see `headrace.errors`; drop this object and restart from the log.
        """
        while not until():
            self.step()
        self._commit()
        self._settle()

    def step(self) -> None:
        """Learn the next chunk, waiting a bounded time for one, and commit when a commit is due."""
        if not self._tally.runs:
            self._hear()
            self._join_added()
        taken = self._merge.take(0.0 if self._tally.runs else self._settings.idle_wait_s)
        if taken:
            with self._tally.naming(taken.place):
                self._learn(taken)
        elapsed = self._timer.monotonic() - self._tally.began
        full = self._tally.records >= turn_records_max or self._tally.size >= turn_bytes_max
        if full or elapsed >= self._settings.commit_interval_s:
            self._commit()
        elif not taken and self._tally.runs:
            self._timer.sleep(min(0.005, self._settings.commit_interval_s - elapsed))

    def close(self) -> None:
        """Free connections without committing. Safe to call twice."""
        self._snapshots.close()
        for part in (self._merge, self._sides, self._writer):
            part.close()

    def _hear(self) -> None:
        for place, records in self._sides.read(side_records_max, 0.0) if self._shard.hears else ():
            skipped = self._skips.of(place)
            with self._tally.naming(place):
                for record in records:
                    self._tally.offset = record.offset
                    if record.offset in skipped:
                        rejection: Rejection | None = Rejection("skipped", skipped[record.offset])
                    else:
                        rejection = self.fold.hear(place.topic, record)
                    if rejection:
                        self._tally.reject(place, record, rejection, quarantine=self._quarantine)
            self._apply(Chunk(place, records, size_of_all(records), 0))

    def _positions_in(self, *topics: str) -> dict[Partition, int]:
        return {place: position for place, position in self._positions.items() if place.topic in topics}

    def _join_added(self) -> None:
        """Now and then, look whether a topic was replaced, and begin to read partitions that were added to one.

        Their first runs are in the journal.
        """
        if self._timer.monotonic() - self._checked_at < partitions_check_interval_s:
            return
        self._checked_at = self._timer.monotonic()
        self._identities.check()
        places = self._shard.inputs(self._log)
        added = {place: self._log.first(place) for place in places if place not in self._positions}
        if not added:
            return
        self._positions |= added
        if events := {place: first for place, first in added.items() if place.topic == EVENTS}:
            self._merge.add(events)
        if len(added) > len(events):
            self._sides.close()
            self._sides = self._log.reader(self._positions_in(*self._shard.hears))
        if self._quarantine:
            names = ", ".join(map(key_of, added))
            detail = f"{names}: added to the log, and read from now on; restart producers that choose partitions"
            self._tally.letters.append(self._alarm("partitions", detail))
        self._entry_due = True

    def _alarm(self, detector: str, detail: str) -> Outgoing:
        alarm = {"detector": detector, "id": f"{detector}/{self._shard.name}/{self.number}", "detail": detail}
        return Outgoing(ALARMS, detector.encode(), msgspec.json.encode(alarm), 0)

    def _apply(self, chunk: Chunk) -> None:
        """Note that these records were applied, for the journal entry and the positions."""
        self._tally.add_run(chunk)
        self._chain.add(chunk.records)
        self._positions[chunk.place] = chunk.records[-1].offset + 1

    def _learn(self, chunk: Chunk) -> None:
        # Each record is decoded right before it is learned, not when it is read: a decoded event that waits leaves the
        # processor's caches, and fetching it from memory again takes as long as decoding.
        began = self._timer.monotonic()
        place, fold, tally = chunk.place, self.fold, self._tally
        number = place.number
        admit, prepare, learn, judge = self._intake.admit, fold.prepare, fold.learn, self._judge
        ages_ms: list[int] = []
        add_age, decode = ages_ms.append, self._skips.decoder(place)
        record = chunk.records[0]
        try:
            for record in chunk.records:
                event = decode(record)
                if isinstance(event, Rejection):
                    tally.reject(place, record, event, quarantine=self._quarantine)
                elif admit(event, record.time_ms):
                    if event.lines_dropped:
                        tally.lines_dropped += event.lines_dropped
                    if prepare(event):
                        if judge is not None:
                            judge.observe(fold, event, number, record.offset)
                        learn(event, number, record.offset)
                        add_age(record.time_ms - event.own_ms)
                    else:
                        tally.unused += 1
                else:
                    tally.duplicates += 1
        finally:
            tally.offset = record.offset
        tally.learned += len(ages_ms)
        self._apply(chunk)
        tally.learn_s += self._timer.monotonic() - began
        if not chunk.read_ms:  # else the append times are unknown
            now_ms = self._clock()
            tally.freshness_ms += [now_ms - record.time_ms for record in chunk.records]
            tally.event_ages_ms += ages_ms

    def _commit(self) -> None:
        """Steps 4 and 5."""
        recently_committed = self._timer.monotonic() - self._committed_at < empty_entry_interval_s
        tally = self._tally
        if not tally.runs and not self._entry_due and recently_committed and not self.judge_ready():
            self._settle()  # else a failed commit would be noticed with the next record, maybe hours later
            tally.began = self._timer.monotonic()
            return
        lag = self._merge.lag(self._positions)
        began = self._timer.monotonic()
        judgements = list(self._judge.judge(self.fold, sum(lag.values()))) if self._judge else []
        for judged in judgements:
            self.fold.absorb(judged.key, judged.data)
            self._chain.add_judgement(judged.data)
        judge_s = self._timer.monotonic() - began

        began = self._timer.monotonic()
        self._settle()
        shard, runs, snapshot = self._shard, tally.runs, self._newest_snapshot()
        self._results, frozen = tally.added_to(self._results), self._snapshots.due
        entry = Entry(
            shard.name, self.number, runs, len(judgements), snapshot, self._judgements_position,
            None if self.number else self.fold.stamp, read_ms=tally.read_ms if any(tally.read_ms) else [],
            results=self._results, digest=self._chain.close_entry(), frozen=frozen,
            topics=self._identities.known if self._topics_due else {},
        )  # fmt: skip
        keys = {one.key: journal.judgement_key(one.key, shard.name, self.number) for one in judgements}
        records = [Outgoing(JUDGEMENTS, keys[one.key], one.data, shard.number) for one in judgements]
        records.append(self._record(entry))
        records += tally.letters
        records += self.fold.emit()
        # The first entry comes with positions, so that a journal that vanishes later is missed.
        positions = {Partition(run.topic, run.partition): run.end for run in runs} if self.number else self._positions
        self._writer.commit(records, positions)
        self.number, self._judgements_in_flight, self._entry_due = self.number + 1, len(judgements), False
        self._topics_due = False
        self._committed_at = self._timer.monotonic()
        if frozen:
            self._snapshots.take(
                partial(freeze, self.fold, self._intake),
                pointer_to(
                    self.number, self._positions, self.fold.stamp, self._chain.value, self._identities.known,
                    self._skips.pending(self._positions), self._clock(),
                ),
            )  # fmt: skip
        commit_s = self._timer.monotonic() - began
        turn = Turn(
            tally.records, tally.learned, tally.duplicates, tally.unused, tally.lines_dropped, tally.rejected,
            tally.rejected_events, len(judgements), tally.freshness_ms, tally.event_ages_ms, tally.learn_s, judge_s,
            commit_s, lag, {**self._intake.bounds(), **self.fold.bounds()}, self._snapshots.size,
            self._snapshots.behind(self.number), self._snapshots.failures,
        )  # fmt: skip
        self._tally = Tally(self._timer.monotonic())
        self.on_turn(turn)
        self._check_flood(turn)

    def _newest_snapshot(self) -> Pointer | None:
        """Return the newest durable snapshot; tell of one that could not be written, the first in a row by an alarm."""
        failures = self._snapshots.failures
        newest = self._snapshots.newest()
        if self._snapshots.failures > failures:
            structlog.get_logger().warning("snapshot failed", shard=self._shard.name, error=self._snapshots.failure)
            if not failures:
                self._tally.letters.append(self._alarm("snapshot", self._snapshots.failure))
        return newest

    def _settle(self) -> None:
        """Wait for the previous commit; take the positions of its judgements and its journal entry from the writer."""
        offsets = self._writer.settle()
        if offsets:
            if self._judgements_in_flight:
                self._judgements_position = offsets[self._judgements_in_flight - 1] + 1
            self._snapshots.settled(self.number, offsets[self._judgements_in_flight] + 1, self._judgements_position)

    def _check_flood(self, turn: Turn) -> None:
        # Names of a shop's own events are no flood: trackers send them beside those of GA4.
        text = self._flood.observe(turn.records, sum(turn.rejected.values()) - turn.rejected.get("unknown_event", 0))
        if not text:
            return
        self._writer.commit([self._alarm("flood", text)], {})
        self._writer.settle()
        raise Flooded(text)
