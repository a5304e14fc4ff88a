"""The loop: a fold over the log. There is only this one; every process that learns runs it, live or as a follower.

What a shard learns (`Fold`) is a pure function of its journal. What must not run in the fold (torch) judges events
beside it (`Judge`); its judgements are written to the log and then given to the fold, so that a replay needs no torch.

Live, the numbered steps are:

1. read batches, taking up the partition whose head is oldest in event time;
2. decode and validate; what cannot be used becomes a dead letter;
3. let the judge look, then learn; collect outputs and the applied order;
4. every few hundred milliseconds judge, learn from the judgements, and commit outputs, dead letters, judgements, the
   journal entry and positions in one transaction;
5. now and then freeze the state at a commit, store it as a blob, and name it in a later commit.

Restart: fence the old writer, restore the newest snapshot, fold the journal from there with outputs off, go on.
"""

import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol

import msgspec

from headrace import journal
from headrace.blobs import Blobs
from headrace.clock import Clock, wall_ms
from headrace.errors import Flooded
from headrace.events import Event, Rejection, decode
from headrace.follower import F, Follower, freeze
from headrace.journal import Entry, Pointer, Run, key_of, snapshots_kept
from headrace.log import Log, Outgoing, Partition, Record
from headrace.state import State, encode
from headrace.topics import ALARMS, DEAD_LETTERS, JUDGEMENTS

chunk_records_max = 64
"""Most records taken from one partition before the heads are compared again; bounds the zigzag of event time."""
read_records_max = 4_000
"""Records of one read, over all partitions."""
buffer_records_max = 2_000
"""Records waiting of one partition at which it is not read further: the rest of a read comes on top."""
turn_records_max = 20_000
"""Most records of one commit; bounds how much a crash makes us fold again and how long a judge may take."""
look_interval_s = 0.01
"""How often partitions that are empty are looked at while others have records."""
late_wait_s = 0.1
"""How long an empty partition that has more to come is waited for, while others have records."""
end_age_s_max = 0.2
"""How old our knowledge of a partition's end may be where it says that there is no more."""
lag_age_s_max = 1.0
"""How old it may be for the lag: to ask waits for the broker."""
silence_s_max = 86_400.0
"""A shard that has nothing to commit writes an empty entry after so long, for the newest entry alone tells where the
state is, and a journal without any for as long as it is kept would be empty."""
letter_bytes_max = 65_536
"""Bytes of a bad record that its dead letter repeats; the whole record stays at its origin."""


class Judge(Protocol):
    """What judges beside the fold, live only. Its judgements are opaque bytes that the fold understands."""

    def observe(self, fold: Any, event: Event, partition: int, offset: int) -> None:
        """Look at an event before the fold learns it. Must not change the fold."""

    def judge(self, fold: Any, lag: int) -> Sequence[bytes]:
        """Return the judgements of what was observed since the last call; called once before each commit.

        Args:
            lag: records that wait to be read, so that a judge can do less when the loop is behind.
        """


class Turn(NamedTuple):
    """What one commit did, for metrics. Times are in seconds.

    Of each chunk's last record: `freshness_s` is the time from its append to its learning, `event_ages_s` from what
    happened to its append.
    """

    records: int
    learned: int
    duplicates: int
    rejected: Mapping[str, int]
    judgements: int
    freshness_s: Sequence[float]
    event_ages_s: Sequence[float]
    learn_s: float
    judge_s: float
    commit_s: float
    lag: Mapping[Partition, int]
    bounds: Mapping[str, tuple[int, int]]
    snapshot_bytes: int


class LoopSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often the loop commits and freezes, and when a flood of bad records stops it."""

    commit_interval_s: float = 0.3
    snapshot_interval_s: float = 20.0
    idle_wait_s: float = 0.05
    flood_records: int = 5_000
    flood_share: float = 0.5


@dataclass
class _Frozen:
    """A snapshot on its way: its pointer (without the blob's name and, at first, the journal's position), its blob."""

    pointer: Pointer
    stored: Future[tuple[str, int]]


class Loop(Generic[F]):
    """One shard, live. `on_turn` is told after each commit what was done; `number` counts the journal's entries.

    Args:
        make: builds the fold, from a state or anew.
        sources: partitions whose records are merged by event time and learned.
        sides: partitions polled without waiting and heard at a turn's start (model announcements, alarms).
        quarantine: write bad records to the dead letters. Of the shards that read a topic, one does it.
    """

    def __init__(
        self,
        log: Log,
        blobs: Blobs,
        shard: str,
        *,
        make: Callable[[State | None], F],
        sources: Sequence[Partition],
        sides: Sequence[Partition],
        judge: Judge | None = None,
        settings: LoopSettings | None = None,
        quarantine: bool = True,
        clock: Clock = wall_ms,
    ) -> None:
        self._log, self._blobs, self._shard, self._judge = log, blobs, shard, judge
        self._settings, self._quarantine, self._clock = settings or LoopSettings(), quarantine, clock
        self.on_turn: Callable[[Turn], None] = lambda turn: None
        with ExitStack() as opened:  # all of it is closed again if one of these fails
            # The writer comes first, for it fences the old one: what that had committed is now final.
            self._writer = opened.enter_context(closing(log.writer(shard)))
            with closing(Follower(log, blobs, shard, make=make, inputs=[*sources, *sides])) as follower:
                follower.catch_up()
            self.fold: F = follower.fold
            self._intake = follower.intake
            self.number, self._pointer, self._positions = follower.number, follower.pointer, follower.positions
            # Nobody else writes judgements here: what no entry counted, a commit left that came to nothing elsewhere.
            self._judgements_position = max(
                follower.judgements_position, log.end(Partition(JUDGEMENTS, journal.partition_of(shard).number))
            )
            self._reader = opened.enter_context(closing(log.reader({p: self._positions[p] for p in sources})))
            self._side_reader = opened.enter_context(closing(log.reader({p: self._positions[p] for p in sides})))
            if self.number:  # a log tells lag tools of a commit when it finds time: of a killed loop's last ones never
                self._writer.commit([], self._positions)
            opened.pop_all()
        self._sides = list(sides)
        self._buffers: dict[Partition, deque[Record]] = {p: deque() for p in sources}
        self._heads_ms: dict[Partition, int] = {}  # when the first of a buffer happened, where that was asked
        self._ends = dict.fromkeys(sources, 0)
        self._ends_at = 0.0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._frozen: _Frozen | None = None
        self._kept: set[str] | None = None  # snapshots that stay once the commit in flight, which names them, is done
        self._committed_at = self._snapshot_at = time.monotonic()
        self._snapshot_bytes = 0
        self._judged = 0
        self._announcing = self.number == 0  # a new shard says so at once: its first commit may be empty
        self._filled_at = 0.0
        self._flood: deque[tuple[int, int]] = deque()
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._runs: list[Run] = []
        self._letters: list[Outgoing] = []
        self._records = self._learned = self._duplicates = 0
        self._rejected: Counter[str] = Counter()
        self._freshness: list[float] = []
        self._event_ages: list[float] = []
        self._learn_s = 0.0
        self._began = time.monotonic()

    def run(self, until: Callable[[], bool]) -> None:
        """Fold until `until()` says stop; then commit what was learned and wait until it is durable.

        Raises:
            Flooded: too many of the newest records were bad; they are in the dead letters, and nothing is lost.
            BrokenWorld: see `headrace.errors`; drop this object and restart from the log.
        """
        while not until():
            self.step()
        self._commit()
        self._settle()

    def step(self) -> None:
        """Take up one chunk, or wait for one a bounded time, and commit when it is due."""
        if not self._runs:
            self._hear()
        took = self._take_chunk()
        elapsed = time.monotonic() - self._began
        if self._records >= turn_records_max or elapsed >= self._settings.commit_interval_s:
            self._commit()
        elif not took and self._runs:
            time.sleep(min(0.005, self._settings.commit_interval_s - elapsed))

    def close(self) -> None:
        """Free connections without committing. Safe to call twice."""
        self._disk.shutdown(wait=True)
        for part in (self._reader, self._side_reader, self._writer):
            part.close()

    def _hear(self) -> None:
        for place, records in self._side_reader.read(100, 0.0) if self._sides else ():
            for record in records:
                self.fold.hear(place.topic, record)
            self._applied(place, records)

    def _applied(self, place: Partition, records: Sequence[Record]) -> None:
        start, end = records[0].offset, records[-1].offset + 1
        runs = self._runs
        if runs and runs[-1][:2] == place and runs[-1].end <= start:
            runs[-1] = Run(*place, runs[-1].start, end)
        else:
            runs.append(Run(*place, start, end))
        self._positions[place] = end
        self._records += len(records)

    def _fill(self, timeout_s: float) -> None:
        """Step 1: read into the buffers that have room."""
        hungry = [place for place, buffer in self._buffers.items() if len(buffer) < buffer_records_max]
        for place, records in self._reader.read(read_records_max, timeout_s, only=hungry):
            self._buffers[place].extend(records)

    def _take_chunk(self) -> bool:
        """Steps 2 and 3 for the partition whose head is oldest in event time; return whether there was one."""
        waiting = [place for place, buffer in self._buffers.items() if buffer]
        if len(waiting) < len(self._buffers) and (not waiting or time.monotonic() - self._filled_at > look_interval_s):
            self._fill(0.0 if waiting or self._runs else self._settings.idle_wait_s)
            if any(self._buffers.values()):
                self._wait_for_late()
            self._filled_at = time.monotonic()
            waiting = [place for place, buffer in self._buffers.items() if buffer]
        if not waiting:
            return False
        place = min(waiting, key=self._head_ms)
        del self._heads_ms[place]
        buffer = self._buffers[place]
        self._learn(place, [buffer.popleft() for _ in range(min(len(buffer), chunk_records_max))])
        return True

    def _head_ms(self, place: Partition) -> int:
        """Return when the next record of a partition happened; a bad one goes first, for it has no time."""
        if place not in self._heads_ms:
            event = decode(self._buffers[place][0])
            self._heads_ms[place] = 0 if isinstance(event, Rejection) else event.time_ms
        return self._heads_ms[place]

    def _wait_for_late(self) -> None:
        """Wait, a bounded time, for the empty partitions that the log says have more."""
        deadline = time.monotonic() + late_wait_s
        while time.monotonic() < deadline:
            empty = [place for place, buffer in self._buffers.items() if not buffer]
            if not any(self._behind(place) for place in empty):
                return
            self._fill(0.02)

    def _behind(self, place: Partition) -> bool:
        """Return whether the log has more of a partition; it is asked only where its last answer may have grown old."""
        position = self._reader.position(place)
        if self._ends[place] <= position and time.monotonic() - self._ends_at > end_age_s_max:
            self._refresh_ends()
        return self._ends[place] > position

    def _refresh_ends(self) -> None:
        self._ends = {place: self._reader.end(place) for place in self._buffers}
        self._ends_at = time.monotonic()

    def _learn(self, place: Partition, chunk: Sequence[Record]) -> None:
        # Each is decoded when it is learned, not when it is read: what waited meanwhile would have to be fetched from
        # memory again, which takes as long as decoding.
        began = time.monotonic()
        number, fold, intake = place.number, self.fold, self._intake
        admit, learn, judge = intake.admit, fold.learn, self._judge
        learned = 0
        for record in chunk:
            event = decode(record)
            if isinstance(event, Rejection):
                self._reject(place, record, event)
            elif admit(event):
                if judge is not None:
                    judge.observe(fold, event, number, record.offset)
                learn(event, number, record.offset)
                learned += 1
            else:
                self._duplicates += 1
        self._learned += learned
        self._applied(place, chunk)
        self._learn_s += time.monotonic() - began
        self._freshness.append(max(0.0, (self._clock() - record.time_ms) / 1000))
        if not isinstance(event, Rejection):
            self._event_ages.append(max(0.0, (record.time_ms - event.time_ms) / 1000))

    def _reject(self, place: Partition, record: Record, rejection: Rejection) -> None:
        self._rejected[rejection.reason] += 1
        if not self._quarantine:
            return
        origin = f"{key_of(place)}/{record.offset}"
        letter = {
            "id": origin,
            "reason": rejection.reason,
            "detail": rejection.detail,
            "appended_ms": record.time_ms,
            "key": b64encode((record.key or b"")[:1_024]).decode(),
            "value": b64encode((record.value or b"")[:letter_bytes_max]).decode(),
            "value_bytes": len(record.value or b""),
        }
        self._letters.append(Outgoing(DEAD_LETTERS, origin.encode(), msgspec.json.encode(letter), 0))

    def _commit(self) -> None:
        """Steps 4 and 5."""
        quiet = time.monotonic() - self._committed_at < silence_s_max
        if not self._runs and not self._announcing and quiet:
            self._began = time.monotonic()
            return
        lag = self._lag()
        began = time.monotonic()
        judgements = list(self._judge.judge(self.fold, sum(lag.values()))) if self._judge else []
        for judgement in judgements:
            self.fold.absorb(judgement)
        judge_s = time.monotonic() - began

        began = time.monotonic()
        self._settle()
        pointer = self._newest_pointer()
        place, key = journal.partition_of(self._shard), self._shard.encode()
        entry = Entry(self._shard, self.number, self._runs, len(judgements), pointer, self._judgements_position)
        records = [Outgoing(JUDGEMENTS, key, judgement, place.number) for judgement in judgements]
        records.append(Outgoing(place.topic, key, journal.encode(entry), place.number))
        records += self._letters
        records += self.fold.emit()
        self._writer.commit(records, {Partition(run.topic, run.partition): run.end for run in self._runs})
        self.number, self._judged, self._announcing = self.number + 1, len(judgements), False
        self._committed_at = time.monotonic()
        due = time.monotonic() - self._snapshot_at >= self._settings.snapshot_interval_s
        if due and self._frozen is None and self._kept is None:
            self._freeze()
        commit_s = time.monotonic() - began
        turn = Turn(
            self._records, self._learned, self._duplicates, self._rejected, len(judgements), self._freshness,
            self._event_ages, self._learn_s, judge_s, commit_s, lag, {**self._intake.bounds(), **self.fold.bounds()},
            self._snapshot_bytes,
        )  # fmt: skip
        self._begin_turn()
        self.on_turn(turn)
        self._stop_flood(turn)

    def _settle(self) -> None:
        """Learn where the commit before put its journal entry and judgements; a new snapshot waits for that.

        If it named a snapshot, drop the blobs that no kept pointer names.
        """
        offsets = self._writer.settle()
        if offsets:
            if self._kept:  # not before: who is fenced must not delete what its successor has written
                self._disk.submit(self._blobs.sweep, self._shard, self._kept)
                self._kept = None
            if self._judged:
                self._judgements_position = offsets[self._judged - 1] + 1
            if self._frozen and self._frozen.pointer.number == self.number and not self._frozen.pointer.journal:
                self._frozen.pointer = msgspec.structs.replace(
                    self._frozen.pointer, journal=offsets[self._judged] + 1, judgements=self._judgements_position
                )

    def _freeze(self) -> None:
        """Take the state after the entries before `self.number` and store it beside the loop."""
        state = freeze(self.fold, self._intake)
        pointer = Pointer(
            blob="", number=self.number, journal=0, judgements=0, versions=dict(self.fold.versions),
            positions={key_of(place): position for place, position in self._positions.items()},
        )  # fmt: skip
        self._frozen = _Frozen(pointer, self._disk.submit(self._store, state))
        self._snapshot_at = time.monotonic()

    def _store(self, state: State) -> tuple[str, int]:
        data = encode(state)
        return self._blobs.put(self._shard, data), len(data)

    def _newest_pointer(self) -> Pointer | None:
        """Return the newest pointer whose blob is durable."""
        frozen = self._frozen
        if frozen and frozen.pointer.journal and frozen.stored.done():
            blob, self._snapshot_bytes = frozen.stored.result()
            former = [self._pointer.blob, *self._pointer.former][: snapshots_kept - 1] if self._pointer else []
            self._pointer = msgspec.structs.replace(frozen.pointer, blob=blob, former=former)
            self._frozen, self._kept = None, {blob, *former}
        return self._pointer

    def _lag(self) -> dict[Partition, int]:
        if time.monotonic() - self._ends_at > lag_age_s_max:
            self._refresh_ends()
        return {place: max(0, end - self._positions[place]) for place, end in self._ends.items()}

    def _stop_flood(self, turn: Turn) -> None:
        self._flood.append((turn.records, sum(turn.rejected.values())))
        records = sum(count for count, _ in self._flood)
        while records - self._flood[0][0] >= self._settings.flood_records:
            records -= self._flood.popleft()[0]
        bad = sum(count for _, count in self._flood)
        if records < self._settings.flood_records or bad <= self._settings.flood_share * records:
            return
        text = f"{bad} of the newest {records} records were bad; see the topic {DEAD_LETTERS} for reasons and origins"
        alarm = {"detector": "flood", "id": f"flood/{self._shard}/{self.number}", "detail": text}
        self._writer.commit([Outgoing(ALARMS, b"flood", msgspec.json.encode(alarm), 0)], {})
        self._writer.settle()
        raise Flooded(text)
