"""Read what a log holds as decoded, typed values, without writing: what `headrace.open` returns.

This package imports no family of learners. How a family's scores and judgements are decoded is in its declarations
(`headrace.surface`), which are found by name when a log is opened.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Self, TypeAlias, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

from headrace import drift, events, experiments, impressions, items, policies, rules, shopper_classes, traits
from headrace.announcement import Announcement, Kind, announced
from headrace.archive.log import with_archive
from headrace.artifacts import resolve
from headrace.clock import wall_ms
from headrace.config import archive_of, own_families
from headrace.drift import Moved, Silence
from headrace.errors import Misconfigured
from headrace.events import Event, EventType, Reason, Rejection
from headrace.experiment_reports import Report
from headrace.experiment_reports import decode as decode_report
from headrace.experiments import StatedExperiment
from headrace.exposures import Exposure
from headrace.exposures import decode as decode_exposure
from headrace.impressions import Impression
from headrace.items import ItemRecord
from headrace.letters import DeadLetter, LetterDecision
from headrace.log.open import open_log
from headrace.log.protocol import Log, Record, decode_json
from headrace.policies import StatedPolicy
from headrace.records import Records
from headrace.rules import StatedRules
from headrace.segments import Moved as SegmentMove
from headrace.segments import SegmentRules
from headrace.shard.journal import Entry, judging_family
from headrace.shard.merge import stamped
from headrace.shopper_classes import ShopperClass
from headrace.surface import FamilyScores, Surface, Watched
from headrace.topics import (
    ALARMS,
    DEAD_LETTERS,
    EVENTS,
    EXPERIMENT_REPORTS,
    EXPERIMENTS,
    EXPOSURES,
    IMPRESSIONS,
    ITEMS,
    JOURNAL,
    JUDGEMENTS,
    MODELS,
    POLICIES,
    RULES,
    SCORES,
    SEGMENT_MOVES,
    SEGMENTS,
    SHOPPER_CLASSES,
    SILENCES,
    TRAITS,
)
from headrace.traits import StatedTraits

FAMILIES: Final = "learners.families:families"
"""The function that returns the families, ours and the named ones of the user."""
Names: TypeAlias = str | Collection[str] | None
"""What to select by: one name, several, or None for all."""

T = TypeVar("T")
S = TypeVar("S", bound=Struct)


class Alarm(Struct, frozen=True):
    """A record of `alarms`. Of drift, `score`, `threshold`, `events` (events learned so far) and `time_ms` (event time)
    are set, and `moved` is what moved most; of anything else, such as a flood of bad records, `detail` says what
    happened. `silenced` is why a person did not want to be told."""

    detector: str
    id: str = ""
    score: float | None = None
    threshold: float | None = None
    events: int | None = None
    time_ms: int | None = None
    detail: str = ""
    moved: tuple[Moved, ...] = ()
    silenced: str = ""


class ReadOnlyLog:
    """A log that is open to be read. What it reads is decoded by the release that runs, whichever has written it.

    Args:
        surfaces: what the families declare whose scores and judgements can be read, by the family's name.

    Attributes:
        unreadable: number of records by topic that were left out so far because this release cannot decode them.
    """

    def __init__(self, log: Log, surfaces: Mapping[str, Surface]) -> None:
        self._log, self._surfaces = log, surfaces
        self.unreadable: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log. May be called twice."""
        self._log.close()

    def events(self, *, shoppers: Names = None, types: Names = None) -> Records[Event]:
        """Return the events, each as it was sent: `time_ms` is its sender's time, at most the append time.

        Events that are repeated, or whose shopper is over the daily budget, are there as well.

        Raises:
            Misconfigured: a type is none of `headrace.events.EventType`.
        """
        is_wanted_key, is_wanted = _keys(shoppers), _names("event type", types, get_args(EventType))

        def decode(record: Record) -> list[Event]:
            if not is_wanted_key(record.key):
                return []
            found = _event(record)
            return [] if isinstance(found, Rejection) or not is_wanted(found.type) else [found]

        return Records(self._log, EVENTS, Event, decode)

    def rejected(self, *, shoppers: Names = None, reasons: Names = None) -> Records[Rejection]:
        """Return why records of `events` are not used, by the rules of this release; `reason` is `unused` for some.

        Raises:
            Misconfigured: a reason is none of `headrace.events.Reason`.
        """
        is_wanted_key, is_wanted = _keys(shoppers), _names("reason", reasons, get_args(Reason))

        def decode(record: Record) -> list[Rejection]:
            if not is_wanted_key(record.key):
                return []
            found = _event(record)
            return [found] if isinstance(found, Rejection) and is_wanted(found.reason) else []

        return Records(self._log, EVENTS, Rejection, decode)

    def dead_letters(self, *, reasons: Names = None) -> Records[DeadLetter]:
        """Return the bad records of `events` and of side topics, as the shard that met them has described them.

        Raises:
            Misconfigured: a reason is none of `headrace.events.Reason`.
        """
        is_wanted = _names("reason", reasons, get_args(Reason))

        def decode(record: Record) -> list[DeadLetter]:
            letter = decode_json(record.value, DeadLetter)
            if letter is None and decode_json(record.value, LetterDecision):
                return []
            return [one for one in self._readable(DEAD_LETTERS, letter) if is_wanted(one.reason)]

        return Records(self._log, DEAD_LETTERS, DeadLetter, decode)

    def items(self, *, ids: Names = None) -> Records[ItemRecord]:
        """Return what the shop stated of its items; of several records of an item, the last one holds."""
        is_wanted_key = _keys(ids)

        def decode(record: Record) -> list[ItemRecord]:
            if not is_wanted_key(record.key):
                return []
            found = items.decode(record)
            return self._readable(ITEMS, None if isinstance(found, Rejection) else found)

        return Records(self._log, ITEMS, ItemRecord, decode)

    def traits(self, *, shoppers: Names = None) -> Records[StatedTraits]:
        """Return what the shop stated of its shoppers; of a trait that is stated again, the newest value holds."""
        is_wanted_key = _keys(shoppers)

        def decode(record: Record) -> list[StatedTraits]:
            return self._readable(TRAITS, traits.decode(record)) if is_wanted_key(record.key) else []

        return Records(self._log, TRAITS, StatedTraits, decode)

    def rules(self, *, placements: Names = None) -> Records[StatedRules]:
        """Return the rules that recommendations had to obey; of several records of a placement, the last one holds."""
        is_wanted_key = _keys(placements)

        def decode(record: Record) -> list[StatedRules]:
            if not is_wanted_key(record.key):
                return []
            found = rules.decode(record)
            return self._readable(RULES, None if isinstance(found, Rejection) else found)

        return Records(self._log, RULES, StatedRules, decode)

    def experiments(self, *, names: Names = None) -> Records[StatedExperiment]:
        """Return what was stated of experiments; what contradicts the statements before it has no effect."""
        is_wanted_key = _keys(names)

        def decode(record: Record) -> list[StatedExperiment]:
            if not is_wanted_key(record.key):
                return []
            found = experiments.decode(record)
            return self._readable(EXPERIMENTS, None if isinstance(found, Rejection) else found)

        return Records(self._log, EXPERIMENTS, StatedExperiment, decode)

    def experiment_reports(self, *, names: Names = None) -> Records[Report]:
        """Return what experiments had shown over time; of several of an experiment, the last one holds."""
        is_wanted_key = _keys(names)

        def decode(record: Record) -> list[Report]:
            return self._readable(EXPERIMENT_REPORTS, decode_report(record)) if is_wanted_key(record.key) else []

        return Records(self._log, EXPERIMENT_REPORTS, Report, decode)

    def policies(self, *, names: Names = None) -> Records[StatedPolicy]:
        """Return the policies of exploring arms over time, by `experiment/arm`; of an arm, the last one holds."""
        is_wanted_key = _keys(names)

        def decode(record: Record) -> list[StatedPolicy]:
            if not is_wanted_key(record.key):
                return []
            found = policies.decode(record)
            return self._readable(POLICIES, None if isinstance(found, Rejection) else found)

        return Records(self._log, POLICIES, StatedPolicy, decode)

    def exposures(self, *, placements: Names = None) -> Records[Exposure]:
        """Return what kept exposure within rules; of several of a placement, or of an arm there, the last one holds."""
        is_wanted_key = _keys(placements)

        def decode(record: Record) -> list[Exposure]:
            if not is_wanted_key(record.key):
                return []
            found = decode_exposure(record)
            return self._readable(EXPOSURES, None if isinstance(found, Rejection) else found)

        return Records(self._log, EXPOSURES, Exposure, decode)

    def segments(self) -> Records[SegmentRules]:
        """Return the segments by rule over time; the last record holds."""
        return self._documents(SEGMENTS, SegmentRules, lambda one: True)

    def segment_moves(self) -> Records[SegmentMove]:
        """Return which shoppers entered and left segments, and which clusters came and went."""
        return self._documents(SEGMENT_MOVES, SegmentMove, lambda one: True)

    def shopper_classes(self, *, shoppers: Names = None) -> Records[ShopperClass]:
        """Return when the class of a shopper's value changed, and what was expected then."""
        is_wanted_key = _keys(shoppers)

        def decode(record: Record) -> list[ShopperClass]:
            found = shopper_classes.decode(record)
            return self._readable(SHOPPER_CLASSES, found) if is_wanted_key(record.key) else []

        return Records(self._log, SHOPPER_CLASSES, ShopperClass, decode)

    def silences(self, *, detectors: Names = None) -> Records[Silence]:
        """Return the times at which persons wanted no drift alarms; of several of a detector, the last one holds."""
        is_wanted = _names("detector", detectors)

        def decode(record: Record) -> list[Silence]:
            found = drift.decode(record)
            readable = self._readable(SILENCES, None if isinstance(found, Rejection) else found)
            return [one for one in readable if is_wanted(one.detector)]

        return Records(self._log, SILENCES, Silence, decode)

    def impressions(self, *, shoppers: Names = None, placements: Names = None) -> Records[Impression]:
        """Return what answers showed, with the propensity of each item."""
        is_wanted_key, is_wanted = _keys(shoppers), _names("placement", placements)

        def decode(record: Record) -> list[Impression]:
            if not is_wanted_key(record.key):
                return []
            found = impressions.decode(record)
            readable = self._readable(IMPRESSIONS, None if isinstance(found, Rejection) else found)
            return [one for one in readable if is_wanted(one.placement)]

        return Records(self._log, IMPRESSIONS, Impression, decode)

    def models(self, *, kinds: Names = None) -> Records[Announcement]:
        """Return the announcements of models: candidates, verdicts, rollbacks, requests.

        Raises:
            Misconfigured: a kind is none of `headrace.announcement.Kind`.
        """
        is_wanted = _names("kind", kinds, get_args(Kind))

        def decode(record: Record) -> list[Announcement]:
            return [one for one in self._readable(MODELS, announced(record)) if is_wanted(one.kind)]

        return Records(self._log, MODELS, Announcement, decode)

    def alarms(self, *, detectors: Names = None) -> Records[Alarm]:
        """Return the alarms: of drift, of floods of bad records (the detector `flood`), of added partitions."""
        is_wanted = _names("detector", detectors)
        return self._documents(ALARMS, Alarm, lambda one: is_wanted(one.detector))

    def journal(self, *, shards: Names = None) -> Records[Entry]:
        """Return the journal entries of all shards, or of these; `writer` is the shard's name."""
        is_wanted = _names("shard", shards)
        return self._documents(JOURNAL, Entry, lambda one: is_wanted(one.writer))

    def scores(self, family: str) -> Records[FamilyScores]:
        """Return a family's scores over time; `scores` of each is an instance of its `surface.scores`.

        Raises:
            Misconfigured: the family is unknown, or declares no scores.
        """
        kind = self._surface(family).scores
        if kind is None:
            raise Misconfigured(f"family {family}: wanted one that has scores")
        types = {family: kind}

        def decode(record: Record) -> list[FamilyScores]:
            named = decode_json(record.value, _Named)
            if named and named.family != family:
                return []
            found = decode_scores(record, types)
            return self._readable(SCORES, found and found[1])

        return Records(self._log, SCORES, FamilyScores, decode)

    def judgements(self, family: str) -> Records[Any]:
        """Return a family's judgements, each of the type that its surface declares (`judgements`).

        Raises:
            Misconfigured: the family is unknown, or does not declare the type of its judgements.
        """
        surface = self._surface(family)
        if surface.judgements is None:
            raise Misconfigured(f"family {family}: wanted one that declares the type of its judgements")
        several = get_origin(surface.judgements) is list
        decoder = msgspec.msgpack.Decoder(surface.judgements)
        names = {family, *surface.former_judgement_keys}

        def decode(record: Record) -> Sequence[Any]:
            if judging_family(record.key) not in names:
                return []
            try:
                found = decoder.decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return self._readable(JUDGEMENTS, None)
            return found if several else [found]

        kind = get_args(surface.judgements)[0] if several else surface.judgements
        return Records(self._log, JUDGEMENTS, kind, decode)

    def _surface(self, family: str) -> Surface:
        if family not in self._surfaces:
            raise Misconfigured(f"family {family}: wanted one of {', '.join(self._surfaces)}")
        return self._surfaces[family]

    def _documents(self, topic: str, kind: type[S], is_wanted: Callable[[S], bool]) -> Records[S]:
        """Return the wanted records of a topic whose records are JSON documents of one kind."""

        def decode(record: Record) -> list[S]:
            return [one for one in self._readable(topic, decode_json(record.value, kind)) if is_wanted(one)]

        return Records(self._log, topic, kind, decode)

    def _readable(self, topic: str, found: T | None) -> list[T]:
        """Return what was decoded, as a list; count what could not be."""
        if found is None:
            self.unreadable[topic] += 1
            return []
        return [found]


def open_read_only(url: str, own: Sequence[str] | None = None, archive: str | None = None) -> ReadOnlyLog:
    """Open a log to be read: see `headrace.open`."""
    kinds = resolve(FAMILIES)(own_families() if own is None else own)
    log = with_archive(open_log(url, read_only=True), archive_of(url) if archive is None else archive)
    return ReadOnlyLog(log, {kind.name: kind.surface for kind in kinds})


class _Named(Struct):
    family: str


class _Scored(Struct):
    family: str
    events: int
    time_ms: int
    scores: msgspec.Raw
    drift: dict[str, Watched]


def decode_scores(record: Record, types: Mapping[str, Any]) -> tuple[str, FamilyScores] | None:
    """Return the family and the scores of a record of `scores`, None if this version cannot read it.

    Args:
        types: the type of each family's scores, by its name.
    """
    one = decode_json(record.value, _Scored)
    if one is None or not types.get(one.family):
        return None
    scores = decode_json(bytes(one.scores), types[one.family])
    if scores is None:
        return None
    return one.family, FamilyScores(one.events, one.time_ms, scores, one.drift, record.time_ms)


def _event(record: Record) -> Event | Rejection:
    if not record.time_ms:  # the log does not tell it; shards take the time of reading, too
        (record,) = stamped([record], wall_ms())
    return events.decode(record)


def _names(what: str, given: Names, known: Collection[str] = ()) -> Callable[[str], bool]:
    """Return whether a name is wanted. Raises Misconfigured if what is given is none of the known ones."""
    if given is None:
        return lambda name: True
    names = {given} if isinstance(given, str) else set(given)
    if known and (unknown := sorted(names - set(known))):
        raise Misconfigured(f"{what} {unknown[0]}: wanted one of {', '.join(known)}")
    return names.__contains__


def _keys(given: Names) -> Callable[[bytes | None], bool]:
    """Return whether a record is wanted, by its key."""
    if given is None:
        return lambda key: True
    return {name.encode() for name in ({given} if isinstance(given, str) else given)}.__contains__
