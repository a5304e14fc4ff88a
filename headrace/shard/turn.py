"""A turn of the loop: what was applied since the last commit, counted while it happens and reported afterwards."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import structlog

from headrace.events import Rejection
from headrace.letters import DeadLetter, letter_bytes_max, letter_key_bytes_max
from headrace.log.protocol import Outgoing, Partition, Record
from headrace.shard.journal import Results, Run, key_of
from headrace.shard.merge import Chunk
from headrace.topics import DEAD_LETTERS, EVENTS


class Turn(NamedTuple):
    """What one commit did, for metrics.

    `freshness_ms` has, for each record of `events`, the time from its append until its chunk was learned;
    `event_ages_ms` has, for each learned event, the time from its event time to its append. Both leave out records
    whose append time the log does not tell, and are negative where clocks disagree. `snapshot_bytes` is the size of the
    newest snapshot that this process took, 0 before the first; `snapshot_behind_entries` is the number of journal
    entries that a restart would fold, `snapshot_failures` how many snapshots in a row could not be stored.
    """

    records: int
    learned: int
    duplicates: int
    unused: int
    lines_dropped: int
    rejected: Mapping[str, int]
    rejected_events: int
    judgements: int
    freshness_ms: Sequence[int]
    event_ages_ms: Sequence[int]
    learn_s: float
    judge_s: float
    commit_s: float
    lag: Mapping[Partition, int]
    bounds: Mapping[str, tuple[int, int]]
    snapshot_bytes: int
    snapshot_behind_entries: int
    snapshot_failures: int = 0


class Tally:
    """What a turn has applied so far.

    Args:
        began: when it began, on the timer of the loop (s).
    """

    def __init__(self, began: float) -> None:
        self.runs: list[Run] = []
        self.read_ms: list[int] = []  # per run; see `Entry`
        self.letters: list[Outgoing] = []
        self.records = self.learned = self.duplicates = self.unused = self.lines_dropped = 0
        self.rejected: Counter[str] = Counter()  # of all topics
        self.rejected_events = 0
        self.freshness_ms: list[int] = []
        self.event_ages_ms: list[int] = []
        self.learn_s = 0.0
        self.size = 0  # of all records, in bytes
        self.began = began
        self.offset = -1  # of the record that is being learned

    @contextmanager
    def naming(self, place: Partition) -> Iterator[None]:
        """If learning a partition's records fails, log at which one: a person may decide to skip it."""
        learned = False
        try:
            yield
            learned = True
        finally:
            if not learned:
                structlog.get_logger().error("failed at a record", record=f"{key_of(place)}/{self.offset}")

    def add_run(self, chunk: Chunk) -> None:
        """Add records that were applied one after another; they extend the last run if it is of their partition."""
        place, records, size, read_ms = chunk
        start, end = records[0].offset, records[-1].offset + 1
        runs = self.runs
        if runs and runs[-1][:2] == place and runs[-1].end <= start and self.read_ms[-1] == read_ms:
            runs[-1] = Run(*place, runs[-1].start, end)
        else:
            runs.append(Run(*place, start, end))
            self.read_ms.append(read_ms)
        self.records += len(records)
        self.size += size

    def added_to(self, results: Results) -> Results:
        """Return these results with those of this turn."""
        return Results(
            results.learned + self.learned,
            results.duplicates + self.duplicates,
            results.unused + self.unused,
            results.rejected + self.rejected_events,
            results.since,
        )

    def reject(self, place: Partition, record: Record, rejection: Rejection, *, quarantine: bool) -> None:
        """Count a bad record and, where this shard quarantines, write its dead letter; an unused one is no bad one."""
        if rejection.reason == "unused":
            self.unused += 1
            return
        self.rejected[rejection.reason] += 1
        self.rejected_events += place.topic == EVENTS
        if not quarantine:
            return
        origin = f"{key_of(place)}/{record.offset}"
        key, value = record.key or b"", record.value or b""
        letter = DeadLetter(
            origin, rejection.reason, rejection.detail, record.time_ms, key[:letter_key_bytes_max],
            value[:letter_bytes_max], len(value),
        )  # fmt: skip
        self.letters.append(Outgoing(DEAD_LETTERS, origin.encode(), msgspec.json.encode(letter), 0))


class FloodGuard:
    """Notices when too many of the newest records are bad.

    Args:
        records_min: newest records that are looked at; of fewer, nothing is said.
        share_max: largest share of bad ones among them.
    """

    def __init__(self, records_min: int, share_max: float) -> None:
        self._records_min, self._share_max = records_min, share_max
        self._turns: deque[tuple[int, int]] = deque()

    def observe(self, records: int, rejected: int) -> str:
        """Take in a turn's counts; return what is wrong, or "" while the share is within bounds."""
        self._turns.append((records, rejected))
        total = sum(count for count, _ in self._turns)
        while total - self._turns[0][0] >= self._records_min:
            total -= self._turns.popleft()[0]
        bad = sum(count for _, count in self._turns)
        if total < self._records_min or bad <= self._share_max * total:
            return ""
        return f"{bad} of the newest {total} records were bad; see the topic {DEAD_LETTERS} for reasons and origins"
