"""The state of a log, as `headrace status` shows it: one struct, which `operators.status_text` and JSON both render."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from headrace import drift, experiments, rules
from headrace.announcement import Announcement, announced
from headrace.clock import Clock, wall_ms
from headrace.drift import Moved, told
from headrace.events import Rejection
from headrace.letters import DeadLetter, LetterDecision
from headrace.log.protocol import Log, Partition, Record, decode_json
from headrace.log.scan import partition_records
from headrace.reading import decode_scores
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Decision, Pointer, Results
from headrace.shard.kept import bytes_of, kept_snapshots
from headrace.surface import FamilyScores
from headrace.topics import ALARMS, DEAD_LETTERS, EXPERIMENTS, MODELS, RULES, SCORES, SILENCES, TOPICS, Shard
from learners.families import Placement
from learners.parts.drift import LOSS_TESTS
from operators.deployment import Deployment
from operators.facts import counted_lag_max, found_wrong, lag_of
from operators.history import Row, letter_rows, model_rows
from operators.overview import Answer, Cause, Told, Waiting, changed, fresh, good, safe, speeds_of
from operators.replay.begin import changes_text
from operators.replay.run import runs
from operators.requests import Request, Standing, standing
from operators.running import ProcessStatus, running_on
from operators.scraping import differing, serve_cause
from operators.tables import in_order_shown
from operators.tails import Tail

newest_max: Final = 5
"""Number of the newest alarms, and of the newest announcements unless all are wanted, that a status has."""
inspected_scores_max: Final = 200
"""Number of the newest records of `scores` that are looked at."""
wrong_s: Final = 20.0
"""Least time, in seconds, between two looks at what others did to the log, and at what servers say of themselves."""


class TopicStatus(Struct, kw_only=True):
    """`topics`: `held` counts the offsets that the topic's partitions hold, `ends` are the partitions' next ones.

    On Kafka, markers of transactions take offsets, too.
    """

    name: str
    partitions: int
    held: int
    ends: list[int]


class SnapshotStatus(Struct, kw_only=True):
    """`snapshot`: the newest one of a shard; `behind` is the number of journal entries that it does not cover.

    `kept` is the number of snapshots that are kept to return to, `kept_bytes` what their blobs take.
    """

    blob: str
    behind: int
    kept: int
    kept_bytes: int


class PositionStatus(Struct, kw_only=True):
    """`positions`: the next `position` that a shard reads in a partition, and how many records wait (`lag`).

    A long lag is not counted exactly (`counted` is false): it is at most that many records.
    """

    partition: str
    position: int
    lag: int
    counted: bool


class ShardStatus(Struct, kw_only=True):
    """`shards`: `journal` is `never_run`, `expired` (retention has deleted all of it) or `held`.

    `entries` is the number of journal entries, `last_ms` the append time of the last one, `results` what became of the
    records of `events`.
    """

    name: str
    families: list[str]
    journal: Literal["never_run", "expired", "held"]
    entries: int = 0
    last_ms: int | None = None
    snapshot: SnapshotStatus | None = None
    results: Results | None = None
    positions: list[PositionStatus] = []


class ModelStatus(Struct, kw_only=True):
    """An announcement: `kind` as in the topic `models`, `at_events` the records of `events` that its writer had read.

    A request (`requested`) has the `action` that was asked for, and who asked (`by`).
    """

    version: str
    kind: str
    time_ms: int
    at_events: int
    reason: str
    action: str
    by: str


class RequestStatus(Struct, kw_only=True):
    """`request`: the newest request of a person, the shards that have `obeyed` it, and those where it is `pending`.

    `overruled_by` is the verdict that has replaced its model since.
    """

    version: str
    time_ms: int
    obeyed: list[str]
    pending: list[str]
    overruled_by: ModelStatus | None


class ModelsStatus(Struct, kw_only=True):
    """`models`: the champion; whether there has been one; the newest request; the newest announcements, oldest first.

    With `--models`, all announcements.
    """

    champion: ModelStatus | None
    ever_champion: bool
    request: RequestStatus | None
    announced: list[ModelStatus]


class ScoresStatus(Struct, kw_only=True):
    """`scores`: a family's newest record of `scores`, with the number of `events` that its scores cover."""

    family: str
    events: int
    time_ms: int
    scores: Any


class AlarmStatus(Struct, kw_only=True):
    """`alarms`: the newest ones, oldest first; `events` is the number of events after which a detector raised it.

    `silenced` is whether a person had said not to be told.
    """

    detector: str
    events: int | None
    detail: str
    time_ms: int
    silenced: bool


class DecisionStatus(Struct, kw_only=True):
    """`decisions`: the newest ones, oldest first: what a person decided for a shard, who, and why."""

    shard: str
    kind: str
    text: str
    why: str
    who: str
    time_ms: int


class Status(Struct, kw_only=True):
    """The state of a log at `time_ms`. Times (`_ms`) are milliseconds since the epoch.

    `wrong` has, as sentences, what others did to a log (topics' settings, open transactions), and which servers on this
    machine had another state than their shard. `alarms_total` counts all alarms, `dead_letters` the dead letters by
    their reason. `answers` are the answers to the four questions, in their order: fresh, good, safe, changed.
    """

    log: str
    time_ms: int
    answers: list[Answer]
    processes: list[ProcessStatus]
    topics: list[TopicStatus]
    wrong: list[str]
    shards: list[ShardStatus]
    models: ModelsStatus
    scores: list[ScoresStatus]
    alarms_total: int
    alarms: list[AlarmStatus]
    decisions: list[DecisionStatus]
    dead_letters: dict[str, int]


class _Alarm(Struct):
    """The common fields of alarms of drift and floods, and those of decisions."""

    detector: str
    events: int | None = None
    detail: str = ""
    moved: tuple[Moved, ...] = ()
    silenced: str = ""
    shard: str = ""
    decision: Decision | None = None


class Letter(NamedTuple):
    """What is kept of a dead letter: its id, reason and detail, its append time, and where its record is."""

    id: str
    reason: str
    detail: str
    appended_ms: int
    offset: int


class StatusReader:
    """Reads the state of a log, and what has come since at each further look.

    Args:
        records_max: most records of each topic that are looked at, the newest ones; None for all of them.
        counted_max: up to how many records that wait in a partition are counted, for which they are read.

    Attributes:
        letters, decided: the dead letters, and what was decided about which, by their ids.
    """

    def __init__(
        self, log: Log, deployment: Deployment, *, records_max: int | None = None,
        counted_max: int = counted_lag_max, clock: Clock = wall_ms,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._log, self._deployment, self._clock, self._seconds = log, deployment, clock, seconds
        self._records_max, self._counted_max = records_max, counted_max
        self._types = {kind.name: kind.surface.scores for kind in in_order_shown(deployment.kinds)}
        self._models: Tail[Record] = Tail(MODELS, lambda record: record)
        self._standing = standing(())
        self._alarms: Tail[AlarmStatus | DecisionStatus] = Tail(ALARMS, _alarm_in, records_max)
        self._scores = Tail(SCORES, self._scored, inspected_scores_max)
        self._letters: Tail[Letter | LetterDecision] = Tail(DEAD_LETTERS, _letter_in, records_max)
        self._rules = Tail(RULES, _rules_in, records_max)
        self._silences = Tail(SILENCES, _silence_in, records_max)
        self._experiments = Tail(EXPERIMENTS, _experiment_in, records_max)
        self.letters: dict[str, Letter] = {}
        self.decided: dict[str, LetterDecision] = {}
        self._first = True
        self._rows: list[Row] = []
        self._told: list[Told] = []
        self._wrong: list[str] = []
        self._wrong_at = float("-inf")
        self._serve: Cause | None = None

    def read(self, *, all_models: bool = False) -> Status:
        """Return the state of the log now.

        Args:
            all_models: with all announcements instead of the newest `newest_max`.

        Raises:
            LogUnavailable: the log does not answer.
        """
        log, deployment, now_ms = self._log, self._deployment, self._clock()
        topics = _topics(log, deployment)  # first: whoever may not read one is told which
        self._scores.look(log)
        tails = (self._alarms, self._rules, self._silences, self._experiments, self._models, self._letters)
        came = [tail.look(log) for tail in tails]
        if any(came) or self._first:
            self._first = False
            self._standing = standing(self._models.held)
            self._keep_letters()
            self._rows = self._kept_rows()
            self._told = [
                Told(one.time_ms, one.detector, one.detail, one.silenced, is_of_loss(one.detector))
                for one in self.alarms
            ]
        if self._seconds() - self._wrong_at >= wrong_s:
            self._wrong = [*found_wrong(log, deployment.shards), *differing(deployment)]
            self._serve, self._wrong_at = serve_cause(deployment), self._seconds()
        alarms = [one for one in self._alarms.held if isinstance(one, AlarmStatus)]
        decisions = [one for one in self._alarms.held if isinstance(one, DecisionStatus)]
        processes = running_on(deployment.settings.log)
        shards = [
            _shard(log, placement, deployment.settings.blobs, self._counted_max)
            for placement in deployment.placements.values()
        ]
        return Status(
            log=deployment.settings.log,
            time_ms=now_ms,
            answers=self._answers(processes, shards, now_ms),
            processes=processes,
            topics=topics,
            wrong=self._wrong,
            shards=shards,
            models=_models(log, self._standing, deployment, all_models=all_models),
            scores=self._newest_scores(),
            alarms_total=len(alarms),
            alarms=alarms[-newest_max:],
            decisions=decisions[-newest_max:],
            dead_letters=self.letters_by_reason(),
        )

    def changes(self) -> list[Row]:
        """Return what changed, by what has been read: the newest first."""
        folder = Blobs(self._deployment.settings.blobs)
        begun = [
            Row(
                time_ms=run.created_ms, what="replay", subject=run.name, step="begun", who=run.who,
                text=changes_text(run),
            )
            for run in (runs(folder) if folder.folder.is_dir() else ())
        ]  # fmt: skip
        return sorted([*begun, *self._rows], key=lambda row: row.time_ms, reverse=True) if begun else self._rows

    def _kept_rows(self) -> list[Row]:
        """Return the changes that records tell, the newest first."""
        rows = model_rows((one, record.time_ms) for record in self._models.held if (one := announced(record)))
        rows += letter_rows(self.decided.values())
        for found in self._alarms.held:
            if isinstance(found, DecisionStatus):
                rows.append(
                    Row(
                        time_ms=found.time_ms, what="decision", subject=found.shard, step=found.kind, text=found.text,
                        who=found.who, why=found.why,
                    )
                )  # fmt: skip
            else:
                rows.append(
                    Row(
                        time_ms=found.time_ms, what="alarm", subject=found.detector, step="raised", text=found.detail,
                        details={"events": found.events} if found.events is not None else {},
                    )
                )  # fmt: skip
        rows += self._rules.held + self._silences.held + self._experiments.held
        return sorted(rows, key=lambda row: row.time_ms, reverse=True)

    @property
    def standing(self) -> Standing:
        """What `models` says, by the newest look."""
        return self._standing

    @property
    def alarms(self) -> list[AlarmStatus]:
        """The alarms that are kept, oldest first."""
        return [one for one in self._alarms.held if isinstance(one, AlarmStatus)]

    @property
    def scores(self) -> dict[str, list[FamilyScores]]:
        """The newest records of scores by family, oldest first."""
        found: dict[str, list[FamilyScores]] = {}
        for family, one in self._scores.held:
            found.setdefault(family, []).append(one)
        return found

    def letters_by_reason(self) -> dict[str, int]:
        """Return the number of open dead letters, by reason, the most frequent first."""
        return dict(Counter(one.reason for one in self.open_letters()).most_common())

    def open_letters(self) -> list[Letter]:
        """Return the dead letters of which nothing is decided."""
        return [one for one in self.letters.values() if one.id not in self.decided]

    def _answers(self, processes: list[ProcessStatus], shards: list[ShardStatus], now_ms: int) -> list[Answer]:
        scores = self.scores
        timeline = max(scores.values(), key=len, default=[])
        waiting = [_waiting(self._log, one, now_ms) for one in shards]
        alarms = self._told
        qualities = {kind.name: kind.surface.quality for kind in self._deployment.kinds if kind.surface.quality}
        letters, rows = self.open_letters(), self.changes()
        return [
            fresh(waiting, processes, speeds_of(timeline), self._serve),
            good(qualities, scores, alarms, now_ms),
            safe(
                self._wrong, alarms, [one.appended_ms for one in letters], len(letters),
                [row for row in rows if row.what == "model"], now_ms,
            ),
            changed([row for row in rows if row.what != "alarm"], now_ms),
        ]  # fmt: skip

    def _scored(self, record: Record) -> tuple[str, FamilyScores] | None:
        return decode_scores(record, self._types)

    def _newest_scores(self) -> list[ScoresStatus]:
        """Return the newest scores of each family that has some."""
        newest = dict(self._scores.held)
        return [
            ScoresStatus(family=name, events=one.events, time_ms=one.appended_ms or one.time_ms, scores=one.scores)
            for name in self._types
            if (one := newest.get(name))
        ]

    def _keep_letters(self) -> None:
        for found in self._letters.held:
            if isinstance(found, LetterDecision):
                self.decided[found.id] = found
            else:
                self.letters.setdefault(found.id, found)
        self._letters.held.clear()
        while self._records_max is not None and len(self.letters) > self._records_max:
            del self.letters[next(iter(self.letters))]


def collect(log: Log, deployment: Deployment, *, all_models: bool = False, clock: Clock = wall_ms) -> Status:
    """Return the state of a log; see `StatusReader.read`."""
    return StatusReader(log, deployment, clock=clock).read(all_models=all_models)


def is_of_loss(detector: str) -> bool:
    """Return whether a detector watches what predictions lose, not what comes in."""
    return detector.endswith(tuple(f"_{test}" for test in LOSS_TESTS))


def _waiting(log: Log, shard: ShardStatus, now_ms: int) -> Waiting:
    oldest_ms = 0
    for one in shard.positions:
        if one.lag and (record := first_from(log, journal.place_of_key(one.partition), one.position)):
            oldest_ms = max(oldest_ms, now_ms - record.time_ms)
    return Waiting(
        shard.name, sum(one.lag for one in shard.positions), all(one.counted for one in shard.positions), oldest_ms,
        shard.journal == "held",
    )  # fmt: skip


def first_from(log: Log, place: Partition, position: int) -> Record | None:
    """Return the first record of a partition from a position on, None if none has come."""
    with closing(partition_records(log, place, start=position)) as records:
        return next(records, None)


def _topics(log: Log, deployment: Deployment) -> list[TopicStatus]:
    found = []
    written = [place for shard in deployment.shards for place in (shard.journal, shard.judgements)]
    for name in TOPICS:
        # Topics with a partition per possible shard: only the partitions of our shards, as a log may lack the others.
        places = [place for place in written if place.topic == name] or log.partitions(name)
        ends = [log.end(place) for place in places]
        held = sum(ends) - sum(log.first(place) for place in places)
        found.append(TopicStatus(name=name, partitions=len(ends), held=held, ends=ends))
    return found


def _shard(log: Log, placement: Placement, folder: str, counted_max: int) -> ShardStatus:
    shard, families = placement.shard, [kind.name for kind in placement.own_kinds]
    last, entry = log.last(shard.journal), journal.newest(log, shard)
    if last is None or entry is None:
        gone = log.first(shard.journal) > 0
        return ShardStatus(name=shard.name, families=families, journal="expired" if gone else "never_run")
    pointer, committed = entry.snapshot, log.committed(shard.name)
    return ShardStatus(
        name=shard.name,
        families=families,
        journal="held",
        entries=entry.number + 1,
        last_ms=last.time_ms,
        snapshot=_snapshot(shard, pointer, entry.number, folder) if pointer else None,
        results=entry.results,
        positions=[_position(log, place, committed.get(place, 0), counted_max) for place in shard.inputs(log)],
    )


def _snapshot(shard: Shard, pointer: Pointer, number: int, folder: str) -> SnapshotStatus:
    kept = kept_snapshots(Blobs(folder), shard.name) if Path(folder).is_dir() else []
    return SnapshotStatus(
        blob=pointer.blob, behind=number + 1 - pointer.number, kept=len(kept), kept_bytes=bytes_of(kept)
    )  # fmt: skip


def _position(log: Log, place: Partition, position: int, counted_max: int) -> PositionStatus:
    lag = lag_of(log, place, position, counted_max)
    return PositionStatus(partition=journal.key_of(place), position=position, lag=lag.records, counted=lag.counted)


def _models(log: Log, now: Standing, deployment: Deployment, *, all_models: bool) -> ModelsStatus:
    announced = [_model(one) for one in now.announcements if one.kind != "schedule"]
    return ModelsStatus(
        champion=_model(now.champion) if now.champion else None,
        ever_champion=bool(now.former),
        request=_request(log, now.request, deployment) if now.request else None,
        announced=announced if all_models else announced[-newest_max:],
    )


def _model(one: Announcement) -> ModelStatus:
    return ModelStatus(
        version=one.version, kind=one.kind, time_ms=one.time_ms, at_events=one.at_events, reason=one.reason,
        action=one.action, by=one.by,
    )  # fmt: skip


def _request(log: Log, request: Request, deployment: Deployment) -> RequestStatus:
    place = Partition(MODELS, 0)
    heard: dict[bool, list[str]] = {True: [], False: []}
    for shard in deployment.shards:
        if MODELS in shard.hears:
            heard[log.committed(shard.name).get(place, 0) > request.position].append(shard.name)
    return RequestStatus(
        version=request.announcement.version,
        time_ms=request.announcement.time_ms,
        obeyed=heard[True],
        pending=heard[False],
        overruled_by=_model(request.overruled) if request.overruled else None,
    )


def _alarm_in(record: Record) -> AlarmStatus | DecisionStatus | None:
    """Return the alarm in a record of `alarms`, or the decision that it tells."""
    one = decode_json(record.value, _Alarm)
    if one and (made := one.decision):
        return DecisionStatus(
            shard=one.shard, kind=made.kind, text=made.text, why=made.why, who=made.who, time_ms=made.time_ms
        )
    if one is None:
        return None
    return AlarmStatus(
        detector=one.detector, events=one.events, detail=told(one.moved, one.detail, one.silenced),
        time_ms=record.time_ms, silenced=bool(one.silenced),
    )  # fmt: skip


def _letter_in(record: Record) -> Letter | LetterDecision | None:
    if one := decode_json(record.value, DeadLetter):
        return Letter(one.id, one.reason, one.detail, one.appended_ms, record.offset)
    return decode_json(record.value, LetterDecision)


def _rules_in(record: Record) -> Row | None:
    one = rules.decode(record)
    if isinstance(one, Rejection):
        return None
    stated = one.rules
    step = "stated" if stated and not stated.states_nothing else "cleared"
    return Row(
        time_ms=record.time_ms, what="rules", subject=one.placement, step=step, who=stated.by if stated else "",
        why=stated.why if stated else "",
    )  # fmt: skip


def _experiment_in(record: Record) -> Row | None:
    found = experiments.decode(record)
    if isinstance(found, Rejection):
        return None
    one = found.experiment
    return Row(
        time_ms=record.time_ms, what="experiment", subject=found.name, step=one.state if one else "removed",
        who=one.by if one else "", why=one.why if one else "",
    )  # fmt: skip


def _silence_in(record: Record) -> Row | None:
    one = drift.decode(record)
    if isinstance(one, Rejection):
        return None
    return Row(
        time_ms=record.time_ms, what="silence", subject=one.detector, step="stated", who=one.by, why=one.why,
        details={"from_ms": one.from_ms, "until_ms": one.until_ms},
    )  # fmt: skip
