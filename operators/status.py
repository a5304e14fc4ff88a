"""The state of a log, as `headrace status` shows it: one struct, which `operators.status_text` and JSON both render."""

from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

from headrace.announcement import Announcement
from headrace.clock import Clock, wall_ms
from headrace.drift import Moved, told
from headrace.log.protocol import Log, Partition, Record, decode_json
from headrace.log.scan import newest_records, topic_records
from headrace.reading import decode_scores
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Decision, Pointer, Results
from headrace.shard.kept import bytes_of, kept_snapshots
from headrace.surface import FamilyScores
from headrace.topics import ALARMS, MODELS, SCORES, TOPICS, Shard
from learners.families import Placement
from operators.deployment import Deployment
from operators.facts import dead_letters_by_reason, found_wrong, lag_of
from operators.requests import Request, standing
from operators.running import ProcessStatus, running_on
from operators.scraping import differing

newest_max: Final = 5
"""Number of the newest alarms, and of the newest announcements unless all are wanted, that a status has."""
inspected_scores_max: Final = 200
"""Number of the newest records of `scores` that are searched for each family's newest."""


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
    """`alarms`: the newest ones, oldest first; `events` is the number of events after which a detector raised it."""

    detector: str
    events: int | None
    detail: str
    time_ms: int


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
    their reason.
    """

    log: str
    time_ms: int
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


def collect(log: Log, deployment: Deployment, *, all_models: bool = False, clock: Clock = wall_ms) -> Status:
    """Return the state of a log.

    Args:
        all_models: with all announcements instead of the newest `newest_max`.

    Raises:
        LogUnavailable: the log does not answer.
    """
    alarms, decisions = _alarms(log)
    return Status(
        log=deployment.settings.log,
        time_ms=clock(),
        processes=running_on(deployment.settings.log),
        topics=_topics(log, deployment),
        wrong=[*found_wrong(log, deployment.shards), *differing(deployment)],
        shards=[_shard(log, placement, deployment.settings.blobs) for placement in deployment.placements.values()],
        models=_models(log, deployment, all_models=all_models),
        scores=_scores(log, deployment),
        alarms_total=len(alarms),
        alarms=alarms[-newest_max:],
        decisions=decisions[-newest_max:],
        dead_letters=dead_letters_by_reason(log),
    )


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


def _shard(log: Log, placement: Placement, folder: str) -> ShardStatus:
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
        positions=[_position(log, place, committed.get(place, 0)) for place in shard.inputs(log)],
    )


def _snapshot(shard: Shard, pointer: Pointer, number: int, folder: str) -> SnapshotStatus:
    kept = kept_snapshots(Blobs(folder), shard.name) if Path(folder).is_dir() else []
    return SnapshotStatus(
        blob=pointer.blob, behind=number + 1 - pointer.number, kept=len(kept), kept_bytes=bytes_of(kept)
    )  # fmt: skip


def _position(log: Log, place: Partition, position: int) -> PositionStatus:
    lag = lag_of(log, place, position)
    return PositionStatus(partition=journal.key_of(place), position=position, lag=lag.records, counted=lag.counted)


def _models(log: Log, deployment: Deployment, *, all_models: bool) -> ModelsStatus:
    now = standing(topic_records(log, MODELS))
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


def _scores(log: Log, deployment: Deployment) -> list[ScoresStatus]:
    """Return the newest scores of each family that has some."""
    types = {kind.name: kind.surface.scores for kind in deployment.kinds}
    newest: dict[str, tuple[Record, FamilyScores]] = {}
    for record in newest_records(log, SCORES, inspected_scores_max):
        if scored := decode_scores(record, types):
            newest[scored[0]] = record, scored[1]
    return [
        ScoresStatus(family=name, events=one.events, time_ms=record.time_ms, scores=one.scores)
        for name in types
        if name in newest
        for record, one in [newest[name]]
    ]


class _Alarm(Struct):
    """The common fields of alarms of drift and floods, and those of decisions."""

    detector: str
    events: int | None = None
    detail: str = ""
    moved: tuple[Moved, ...] = ()
    silenced: str = ""
    shard: str = ""
    decision: Decision | None = None


def _alarms(log: Log) -> tuple[list[AlarmStatus], list[DecisionStatus]]:
    """Return all alarms, and the decisions that are told beside them."""
    alarms, decisions = list[AlarmStatus](), list[DecisionStatus]()
    for record in topic_records(log, ALARMS):
        one = decode_json(record.value, _Alarm)
        if one and one.decision:
            made = one.decision
            decisions.append(
                DecisionStatus(
                    shard=one.shard, kind=made.kind, text=made.text, why=made.why, who=made.who, time_ms=made.time_ms
                )
            )
        elif one:
            detail = told(one.moved, one.detail, one.silenced)
            alarms.append(AlarmStatus(detector=one.detector, events=one.events, detail=detail, time_ms=record.time_ms))
    return alarms, decisions
