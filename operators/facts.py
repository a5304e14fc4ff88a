"""The results of a run, read only from topics: scores, alarms, rounds, dead letters and, if known, the truth.

The demo's table, the report and `headrace status` show these facts.

How alarms are compared with the truth: a *change* is the begin of a scheduled drift, or the end of a recurring one,
when the shop changes back. A change is detected by the first alarm of any detector after it, but not later than
`horizon_events` after it is complete (a gradual one is complete at its `until`), nor after the next change. Its delay
is the number of events since its begin. Every alarm outside these spans is false; those of each detector count
separately. Stable days are the event time outside these spans.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np
from msgspec import Struct

from headrace.announcement import Announcement
from headrace.log.protocol import Log, Partition, decode_json
from headrace.log.scan import partition_records, topic_records
from headrace.reading import ReadOnlyLog
from headrace.shard import journal
from headrace.shard.journal import Entry, Results, key_of
from headrace.shard.verify import Verified
from headrace.surface import FamilyScores
from headrace.topics import ALARMS, DAY_MS, EVENTS, TRUTH, Shard
from headrace.watch import expiring, open_transactions
from learners.family import AlarmRecord, Family
from operators.deployment import Deployment
from operators.planted import Planted
from operators.source import describe_source
from operators.tables import in_order_shown
from operators.timeline import Slice, event_number_at, event_number_of, read_scores, slices_of
from producers.redrive import Wanted, open_letters

counted_events_max: Final = 1_000_000
"""Number of positions of `events` up to which its records are counted, without the markers that Kafka's transactions
add; beyond it, reading them takes too long, and the positions are shown."""
counted_lag_max: Final = 10_000
"""Number of offsets up to which the records that wait are counted."""
horizon_events: Final = 5_000
"""Number of events after a change is complete within which an alarm counts as its detection."""


class Sample(NamedTuple):
    """A scrape of `/metrics` while a demo runs, for the report alone: it is in no topic.

    `seconds` is the time since the start, `learned` the records that the online consumer has learned, `lag` those that
    wait. `freshness` and `serving_freshness` are cumulative histograms: how many records were learned, or reached
    answers, within how many seconds.
    """

    seconds: float
    learned: float
    lag: float
    freshness: Mapping[float, float]
    serving_freshness: Mapping[float, float]


class Change(Struct):
    """A true change from event number `begin` to `end` (equal if it is abrupt), and the alarms that detected it."""

    kind: str
    begin: int
    end: int
    until: int
    alarms: list[AlarmRecord]

    @property
    def delay_events(self) -> int | None:
        """Events from the change's begin to its first alarm; None if it was missed."""
        return self.alarms[0].events - self.begin if self.alarms else None


class Best(Struct):
    """The truth about a sampled view: the scores of the best possible answer, by name."""

    event_number: int
    scores: dict[str, float]


class RoundOutcome(Struct):
    """A round of the slow learner: its candidate, if it got so far, and its verdict, if there is one yet."""

    candidate: Announcement | None
    verdict: Announcement | None

    @property
    def newest(self) -> Announcement:
        """The newest announcement of it."""
        found = self.verdict or self.candidate
        assert found is not None
        return found

    @property
    def lineage(self) -> dict[str, Any]:
        """The lineage of the candidate."""
        return self.candidate.lineage if self.candidate else self.newest.lineage


class _Drift(Struct):
    drift: str
    at_ms: int
    until_ms: int
    event_number: int


class _Truth(Struct):
    kind: str


def results_text(found: Results) -> str:
    """Return what became of the records of `events` that a shard has read.

    >>> results_text(Results(learned=2, duplicates=11_998))
    'of 12,000 records of events: 2 learned, 11,998 dropped as repeats, 0 unused, 0 rejected'
    """
    since = f" (counted since entry {found.since:,})" if found.since else ""
    return (
        f"of {found.records:,} records of events{since}: {found.learned:,} learned, {found.duplicates:,} dropped as"
        f" repeats, {found.unused:,} unused, {found.rejected:,} rejected"
    )


def verified_text(found: Verified) -> str:
    """Return what a verification found, in lines.

    >>> print(verified_text(Verified("online", 0, 9, 800, 70, 0, 0, {"online-ab": True})))
    online: whole: 9 journal entries from 0 on, 800 records, 70 judgements, 1 snapshot
    """
    parts = [
        f"{found.entries:,} journal entries from {found.first:,} on", f"{found.records:,} records",
        f"{found.judgements:,} judgements", f"{len(found.snapshots)} snapshot{'s' * (len(found.snapshots) != 1)}",
    ]  # fmt: skip
    if found.unchecked:
        parts.append(f"{found.unchecked:,} entries without a digest, or older than what the log holds")
    if found.strays:
        parts.append(f"{found.strays:,} records of other programs, passed over")
    word = "whole" if found.whole else f"{found.problems_total:,} PROBLEMS"
    return "\n".join([f"{found.shard}: {word}: {', '.join(parts)}", *(f"  {problem}" for problem in found.problems)])


def dead_letters_by_reason(log: Log) -> dict[str, int]:
    """Return the number of dead letters of which nothing is decided, by reason, the most frequent first."""
    return dict(Counter(letter.reason for letter in open_letters(log, Wanted())).most_common())


class Lag(NamedTuple):
    """How many records wait; those of a long lag are not `counted`, but its offsets, of which some are markers."""

    records: int
    counted: bool


def lag_of(log: Log, place: Partition, position: int, counted_max: int = counted_lag_max) -> Lag:
    """Return how many records of a partition wait from a position on; up to `counted_max` they are counted."""
    last, start = log.last(place), max(position, log.first(place))
    offsets = 0 if last is None else max(0, last.offset + 1 - start)
    if offsets > counted_max:
        return Lag(offsets, counted=False)
    return Lag(sum(1 for _ in partition_records(log, place, start=start)) if offsets else 0, counted=True)


def found_wrong(log: Log, shards: Sequence[Shard]) -> list[str]:
    """Return, as lines, what is wrong with a log: open transactions, topics' settings, what retention will delete."""
    places = dict.fromkeys(place for shard in shards for place in shard.inputs(log))
    findings, unread = log.check_settings()
    return [
        *(
            f"open transaction: {key_of(place)} hides {offsets:,} offsets from {position:,} on until it ends; "
            "no lag counts them"
            for place, (position, offsets) in open_transactions(log, places).items()
        ),
        *(f"topic {one.topic}: {one.setting}: {one.text}" for one in findings),
        *(text for shard in shards for text in expiring(log, shard)),
        *([f"settings not checked, wanted the right DescribeConfigs: {', '.join(unread)}"] if unread else []),
    ]


class Facts(Struct, kw_only=True):
    """The results of a run, from an open log. Created by `read`; lists are in the order of the log.

    `published` is the number of records of `events`, `entries` has each shard's newest journal entry. `types` counts
    the event types of the first events, `lacks` states what these do not contain. `scenario` has the simulated shop's
    settings, `planted` what it says of its shoppers. `at_events` of `rounds` and `rollbacks` is on the stream's axis,
    not the fine-tuner's own count.
    """

    published: int
    sources: list[str]
    types: dict[str, int]
    lacks: list[str]
    kinds: tuple[type[Family], ...]
    scores: dict[str, list[FamilyScores]]
    slices: dict[tuple[str, str], list[Slice]]
    alarms: list[AlarmRecord]
    rounds: list[RoundOutcome]
    rollbacks: list[Announcement]
    changes: list[Change]
    false_alarms: list[AlarmRecord]
    stable_days: float
    best: list[Best]
    bots: int
    scenario: dict[str, Any] | None
    planted: list[Planted]
    dead_letters: dict[str, int]
    entries: dict[str, Entry]

    @classmethod
    def read(cls, log: Log, deployment: Deployment) -> Self:
        """Read a log.

        Raises:
            LogUnavailable: the log does not answer.
        """
        reader = ReadOnlyLog(log, {kind.name: kind.surface for kind in deployment.kinds})
        scores = read_scores(log, deployment.kinds)
        timeline = max(scores.values(), key=len, default=[])
        found = [decode_json(record.value, AlarmRecord) for record in topic_records(log, ALARMS)]
        alarms = [alarm for alarm in found if alarm and not alarm.silenced]
        announcements = [
            msgspec.structs.replace(one.value, at_events=event_number_of(one, timeline)) for one in reader.models()
        ]
        truth: dict[str, list[bytes]] = {}
        for record in topic_records(log, TRUTH):
            data = record.value or b""
            truth.setdefault(msgspec.json.decode(data, type=_Truth).kind, []).append(data)
        drifts = [msgspec.json.decode(data, type=_Drift) for data in truth.get("drift", [])]
        changes, false_alarms, stable_days = match_alarms(changes_from(drifts, timeline), alarms, timeline)
        sources, types, lacks = describe_source(log, deployment.kinds)
        world = truth.get("world", [])
        return cls(
            published=_published(log),
            sources=sources, types=types, lacks=lacks, kinds=in_order_shown(deployment.kinds), scores=scores,
            slices=_slices(reader, deployment.kinds, timeline), alarms=alarms,
            rounds=rounds_of(announcements), rollbacks=[one for one in announcements if one.kind == "rolled_back"],
            changes=changes, false_alarms=false_alarms, stable_days=stable_days,
            best=[_best(data) for data in truth.get("best", [])],
            bots=len(truth.get("bot", [])),
            scenario=msgspec.json.decode(world[-1])["settings"] if world else None,
            planted=[msgspec.json.decode(data, type=Planted) for data in truth.get("shopper", [])],
            dead_letters=dead_letters_by_reason(log),
            entries={shard.name: entry for shard in deployment.shards if (entry := journal.newest(log, shard))},
        )  # fmt: skip

    @property
    def timeline(self) -> list[FamilyScores]:
        """The scores of the family with the most records, from which times of event numbers are computed."""
        return max(self.scores.values(), key=len, default=[])

    @property
    def results(self) -> Results | None:
        """What became of the records of `events`, by the first shard whose journal tells."""
        return next((entry.results for entry in self.entries.values() if entry.results), None)

    @property
    def last(self) -> FamilyScores | None:
        """The newest of these."""
        return self.timeline[-1] if self.timeline else None

    def newest(self, kind: type[Family]) -> Any | None:
        """Return a family's newest scores, None before the first."""
        found = self.scores.get(kind.name)
        return found[-1].scores if found else None

    def outcomes(self) -> dict[str, int]:
        """Return the number of rounds by outcome, those without a verdict included, and the number of rollbacks."""
        counts = Counter(one.verdict.kind if one.verdict else "undecided" for one in self.rounds)
        return {kind: counts.get(kind, 0) for kind in ("promoted", "refused", "failed", "undecided")} | {
            "rolled_back": len(self.rollbacks)
        }

    def false_per_day(self) -> float | None:
        """Return false alarms per stable day of event time; None if the truth is unknown."""
        return len(self.false_alarms) / self.stable_days if self.scenario and self.stable_days else None


def _published(log: Log) -> int:
    """Return how many records `events` holds; if it is long, with the markers of transactions."""
    places = log.partitions(EVENTS)
    positions = sum(log.end(place) - log.first(place) for place in places)
    return positions if positions > counted_events_max else sum(1 for _ in topic_records(log, EVENTS))


def _best(data: bytes) -> Best:
    found = msgspec.json.decode(data)
    scores = {name: value for name, value in found.items() if isinstance(value, float)}
    return Best(found["event_number"], scores)


def _slices(
    reader: ReadOnlyLog, kinds: Sequence[type[Family]], timeline: Sequence[FamilyScores]
) -> dict[tuple[str, str], list[Slice]]:
    """Return the means over slices of each chart that is drawn from judgements, by family and title."""
    return {
        (kind.name, chart.title): slices_of((point(one.value) for one in reader.judgements(kind.name)), timeline)
        for kind in kinds
        for chart in kind.surface.charts
        if (point := chart.judged)
    }


def rounds_of(announcements: Sequence[Announcement]) -> list[RoundOutcome]:
    """Return the rounds that are announced, oldest first."""
    found: dict[int, RoundOutcome] = {}
    for one in announcements:
        if one.kind == "candidate":
            found[one.round] = RoundOutcome(one, None)
        elif one.kind in ("promoted", "refused", "failed"):
            candidate = found[one.round].candidate if one.round in found else None
            found[one.round] = RoundOutcome(candidate, one)
    return list(found.values())


def changes_from(drifts: Sequence[_Drift], scores: Sequence[FamilyScores]) -> list[tuple[str, int, int]]:
    """Return the kind of each change and the event numbers at which it begins and is complete."""
    changes = []
    for drift in drifts:
        end = max(drift.event_number, event_number_at(drift.until_ms, scores))
        if drift.drift == "recurring":
            changes.append(("recurring", drift.event_number, drift.event_number))
            if scores and drift.until_ms < scores[-1].time_ms:
                changes.append(("recurring, back", end, end))
        else:
            changes.append(
                (drift.drift, drift.event_number, end if drift.until_ms > drift.at_ms else drift.event_number)
            )
    return changes


def match_alarms(
    changes: Sequence[tuple[str, int, int]], alarms: Sequence[AlarmRecord], scores: Sequence[FamilyScores]
) -> tuple[list[Change], list[AlarmRecord], float]:
    """Return changes with their alarms, the false alarms, and the stable days, in which every alarm is false."""
    found, begins = [], [begin for _, begin, _ in changes]
    last = scores[-1].events if scores else 0
    for place, (kind, begin, end) in enumerate(changes):
        until = min(end + horizon_events, *begins[place + 1 : place + 2], max(last, end))
        detections = [alarm for alarm in alarms if begin <= alarm.events < until]
        found.append(Change(kind, begin, end, until, detections))
    false = [alarm for alarm in alarms if not any(one.begin <= alarm.events < one.until for one in found)]
    return found, false, _stable_days(found, scores)


def _stable_days(changes: Sequence[Change], scores: Sequence[FamilyScores]) -> float:
    if len(scores) < 2:
        return 0.0
    events, times = [one.events for one in scores], [one.time_ms for one in scores]
    unstable = sum(float(np.interp(c.until, events, times) - np.interp(c.begin, events, times)) for c in changes)
    return (times[-1] - times[0] - unstable) / DAY_MS
