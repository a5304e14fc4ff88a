"""What a run showed, read only from topics: scores, alarms, rounds, the truth where there is one, dead letters.

The demo's table, the report and `headrace status` tell these facts; nothing is computed beside the processes.

How alarms are held against the truth: a *change* is a scheduled drift's begin, and a recurring one's end, when the shop
changes back. A change is detected by the first alarm of any detector after it and not later than `horizon_events` after
it is complete (a gradual one is complete at its `until`), nor after the next change; its delay counts events from its
begin. Every alarm outside these spans is false, each detector's counted for itself. Stable days are event time outside
them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np
from msgspec import Struct

from headrace import journal
from headrace.journal import Entry
from headrace.log import Log, Partition, told
from headrace.topics import ALARMS, DEAD_LETTERS, EVENTS, JUDGEMENTS, MODELS, SCORES, SHARDS, TRUTH, partitions_of
from learners import judgement
from learners.announcement import Announcement, announced
from operators.source import looked_at, records, records_of

horizon_events: Final = 5_000
"""Events after a change is complete within which an alarm counts for it."""
slices_max: Final = 60
"""Slices of the stream, about, in which quality is shown."""
slice_judged_min: Final = 80
"""A slice holds at least this many judged predictions, or it would be noise."""
day_ms: Final = 86_400_000


class Sample(NamedTuple):
    """A scrape of `/metrics` while a demo runs, for the report alone: it is in no topic.

    `seconds` since the start, records that the online consumer `learned` and that still wait (`lag`); `freshness` and
    `serving_freshness` are histograms so far: how many were learned (answerable) within so many seconds.
    """

    seconds: float
    learned: float
    lag: float
    freshness: Mapping[float, float]
    serving_freshness: Mapping[float, float]


class Ranked(Struct):
    """One learner's prequential scores at a moment: over the newest judgements and over the whole stream."""

    judged: int
    window: dict[str, float]
    whole: dict[str, float]


class Watched(Struct):
    """What a detector saw; without a threshold it watches a loss."""

    score: float
    threshold: float | None = None


class Scored(Struct):
    """One record of `scores`."""

    events: int
    time_ms: int
    champion: str
    ranking: dict[str, Ranked]
    propensity: Ranked
    drift: dict[str, Watched]


class Raised(Struct):
    """One drift alarm: by which detector, and after how many events."""

    detector: str
    events: int
    time_ms: int
    score: float
    threshold: float


class Change(Struct):
    """Something that truly changed, from `begin` to `end` (event numbers; the same if at once), and how it was seen."""

    kind: str
    begin: int
    end: int
    until: int
    alarms: list[Raised]

    @property
    def delay_events(self) -> int | None:
        """Events from the change's begin to its first alarm; None if it was missed."""
        return self.alarms[0].events - self.begin if self.alarms else None


class Slice(Struct):
    """Quality over a slice of the stream, up to event number `events`: per learner, weighted means of what was judged.

    Slices do not overlap, so a drift shows at once, which a long window smooths away.
    """

    events: int
    judged: int
    recall: dict[str, float]
    mrr: dict[str, float]


class Best(Struct):
    """A sampled view's truth: what the best possible ranking has in expectation, and the true chance of a purchase."""

    event_number: int
    recall_at_20: float
    purchase: float


class Round(Struct):
    """A round of the slow learner: its candidate, if it got so far, and its verdict, if there is one yet."""

    candidate: Announcement | None
    verdict: Announcement | None

    @property
    def newest(self) -> Announcement:
        """What was said of it last."""
        found = self.verdict or self.candidate
        assert found is not None
        return found

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the candidate comes from."""
        return self.candidate.lineage if self.candidate else self.newest.lineage


class _Drift(Struct):
    drift: str
    at_ms: int
    until_ms: int
    event_number: int


class _Truth(Struct):
    kind: str


class _Letter(Struct):
    reason: str


def reasons_of(log: Log) -> dict[str, int]:
    """Return how many dead letters there are of each reason, the most frequent first."""
    letters = (told(record.value, _Letter) for record in records_of(log, DEAD_LETTERS))
    return dict(Counter(letter.reason for letter in letters if letter).most_common())


class Facts(Struct, kw_only=True):
    """What an open log tells of a run. Made by `read`; lists are in the order of the log.

    `published` counts records of `events`, `entries` has each shard's newest journal entry, `types` and `lacks` say
    what the first events held and lacked, `scenario` the simulated shop's settings.
    """

    published: int
    sources: list[str]
    types: dict[str, int]
    lacks: list[str]
    scores: list[Scored]
    slices: list[Slice]
    raised: list[Raised]
    rounds: list[Round]
    rollbacks: list[Announcement]
    changes: list[Change]
    false_alarms: list[Raised]
    stable_days: float
    best: list[Best]
    bots: int
    scenario: dict[str, Any] | None
    dead_letters: dict[str, int]
    entries: dict[str, Entry]

    @classmethod
    def read(cls, log: Log) -> Self:
        """Read a log.

        Raises:
            LogUnavailable: the log does not answer.
        """
        scores = [score for record in records_of(log, SCORES) if (score := told(record.value, Scored))]
        raised = [alarm for record in records_of(log, ALARMS) if (alarm := told(record.value, Raised))]
        said = [found for record in records_of(log, MODELS) if (found := announced(record))]
        truth: dict[str, list[bytes]] = {}
        for record in records_of(log, TRUTH):
            data = record.value or b""
            truth.setdefault(msgspec.json.decode(data, type=_Truth).kind, []).append(data)
        drifts = [msgspec.json.decode(data, type=_Drift) for data in truth.get("drift", [])]
        changes, false_alarms, stable_days = held_against(drifts_of(drifts, scores), raised, scores)
        sources, types, lacks = looked_at(log)
        world = truth.get("world", [])
        return cls(
            published=sum(log.end(place) - log.first(place) for place in partitions_of(EVENTS)),
            sources=sources, types=types, lacks=lacks, scores=scores, slices=slices_of(_judged(log), scores),
            raised=raised,
            rounds=rounds_of(said), rollbacks=[one for one in said if one.kind == "rolled_back"],
            changes=changes, false_alarms=false_alarms, stable_days=stable_days,
            best=[msgspec.json.decode(data, type=Best) for data in truth.get("best", [])],
            bots=len(truth.get("bot", [])),
            scenario=msgspec.json.decode(world[-1])["settings"] if world else None,
            dead_letters=reasons_of(log),
            entries={shard: entry for shard in SHARDS if (entry := journal.newest(log, shard))},
        )  # fmt: skip

    @property
    def last(self) -> Scored | None:
        """The newest scores."""
        return self.scores[-1] if self.scores else None

    def outcomes(self) -> dict[str, int]:
        """Return how many rounds ended how, have not ended yet, and how many promoted models were rolled back."""
        counts = Counter(one.verdict.kind if one.verdict else "undecided" for one in self.rounds)
        return {kind: counts.get(kind, 0) for kind in ("promoted", "refused", "failed", "undecided")} | {
            "rolled_back": len(self.rollbacks)
        }

    def false_per_day(self) -> float | None:
        """Return false alarms per stable day of event time; None without a truth to hold them against."""
        return len(self.false_alarms) / self.stable_days if self.scenario and self.stable_days else None


def _judged(log: Log) -> Iterator[judgement.Judgement]:
    for record in records(log, Partition(JUDGEMENTS, SHARDS["online"])):
        yield from judgement.decode(record.value or b"")


def slices_of(judged: Iterable[judgement.Judgement], scores: Sequence[Scored]) -> list[Slice]:
    """Return quality over time from judgements, which come in the order in which they were learned."""
    if len(scores) < 2:
        return []
    width = scores[-1].events / slices_max
    slices: list[Slice] = []
    begin, count = 0.0, 0
    sums: dict[str, list[float]] = {}
    for one in judged:
        events = _number_at(one.time_ms, scores)
        if count >= slice_judged_min and events - begin >= width:
            slices.append(_slice(events, count, sums))
            begin, count, sums = events, 0, {}
        count += 1
        for name, rank in one.ranks.items():
            entry = sums.setdefault(name, [0.0, 0.0, 0.0])
            weight = 1 / one.inclusion
            entry[0] += weight
            entry[1] += weight * (rank > 0)
            entry[2] += weight / rank if rank else 0.0
    if count >= slice_judged_min:
        slices.append(_slice(scores[-1].events, count, sums))
    return slices


def _slice(events: int, judged: int, sums: Mapping[str, Sequence[float]]) -> Slice:
    recall = {name: hits / total for name, (total, hits, _) in sums.items()}
    return Slice(events, judged, recall, {name: gain / total for name, (total, _, gain) in sums.items()})


def rounds_of(said: Sequence[Announcement]) -> list[Round]:
    """Return the rounds that announcements tell of, oldest first."""
    found: dict[int, Round] = {}
    for one in said:
        if one.kind == "candidate":
            found[one.round] = Round(one, None)
        elif one.kind in ("promoted", "refused", "failed"):
            candidate = found[one.round].candidate if one.round in found else None
            found[one.round] = Round(candidate, one)
    return list(found.values())


def drifts_of(drifts: Sequence[_Drift], scores: Sequence[Scored]) -> list[tuple[str, int, int]]:
    """Return each change's kind and the numbers of the events at which it begins and is complete."""
    changes = []
    for drift in drifts:
        end = max(drift.event_number, _number_at(drift.until_ms, scores))
        if drift.drift == "recurring":
            changes.append(("recurring", drift.event_number, drift.event_number))
            if scores and drift.until_ms < scores[-1].time_ms:
                changes.append(("recurring, back", end, end))
        else:
            changes.append(
                (drift.drift, drift.event_number, end if drift.until_ms > drift.at_ms else drift.event_number)
            )
    return changes


def _number_at(time_ms: int, scores: Sequence[Scored]) -> int:
    """Return about how many events came before a time, from the scores' times."""
    if not scores:
        return 0
    return int(np.interp(time_ms, [one.time_ms for one in scores], [one.events for one in scores]))


def held_against(
    changes: Sequence[tuple[str, int, int]], raised: Sequence[Raised], scores: Sequence[Scored]
) -> tuple[list[Change], list[Raised], float]:
    """Return changes with their alarms, the false alarms, and the days of event time in which each alarm is false."""
    found, begins = [], [begin for _, begin, _ in changes]
    last = scores[-1].events if scores else 0
    for place, (kind, begin, end) in enumerate(changes):
        until = min(end + horizon_events, *begins[place + 1 : place + 2], max(last, end))
        alarms = [alarm for alarm in raised if begin <= alarm.events < until]
        found.append(Change(kind, begin, end, until, alarms))
    false = [alarm for alarm in raised if not any(one.begin <= alarm.events < one.until for one in found)]
    return found, false, _stable_days(found, scores)


def _stable_days(changes: Sequence[Change], scores: Sequence[Scored]) -> float:
    if len(scores) < 2:
        return 0.0
    events, times = [one.events for one in scores], [one.time_ms for one in scores]
    unstable = sum(float(np.interp(c.until, events, times) - np.interp(c.begin, events, times)) for c in changes)
    return (times[-1] - times[0] - unstable) / day_ms
