"""What became of an event, from its record to the first answer after it was learned (`headrace trace`).

All is read from the log, in a bounded part of it where the event's place is known. What the log cannot tell is said.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from headrace import impressions
from headrace.clock import wall_ms
from headrace.events import Event, Rejection, decode
from headrace.letters import DeadLetter, LetterDecision
from headrace.log.protocol import Log, Partition, Record, decode_json
from headrace.log.scan import partition_records
from headrace.reading import Alarm
from headrace.shard.intake import event_ids_max
from headrace.shard.journal import Entry, Pointer, Results, counts, entry_in, judging_family, key_of, newest
from headrace.shard.merge import stamped
from headrace.topics import ALARMS, DEAD_LETTERS, EVENTS, IMPRESSIONS, JOURNAL, JUDGEMENTS, Shard, partition_for
from learners.families import Placement
from operators.replay.plan import last_entry
from operators.traced import Alarmed, Answered, Applied, Judged, Letter, Trace

records_max: Final = 100
"""Most records of one id that are followed."""
slack_ms: Final = 3_600_000
"""How far the log's clock may have been set back, where records are looked for that were appended after another."""
_PLACE: Final = re.compile(r"(?:events/)?(\d{1,9})/(\d{1,18})", re.ASCII)

Report = Callable[[str, int, int], None]
"""Is told a task, how much of it is done, and the total."""


class _Named(Struct):
    """What of a document is needed to know an event again, although it may be rejected."""

    id: str
    source: str = ""
    type: str = ""


class _Timed(Struct):
    time: datetime


class _Found(NamedTuple):
    """A record of `events`, and what it holds."""

    place: Partition
    record: Record
    named: _Named
    event: Event | Rejection

    @property
    def text(self) -> str:
        return f"{self.record.partition}/{self.record.offset}"


class _Hit(NamedTuple):
    """Where a shard's journal applies a record: the entry, its time, the run in it, the results before it."""

    entry: Entry
    time_ms: int
    run: int
    before: Results | None


def silent(task: str, done: int, total: int) -> None:
    """Report nothing."""


def trace(
    log: Log,
    placements: Mapping[str, Placement],
    wanted: str,
    *,
    source: str | None = None,
    since_ms: int | None = None,
    report: Report = silent,
) -> list[Trace]:
    """Return what became of each record of `events` that has an id, the oldest first; empty if there is none.

    Args:
        wanted: the id, or a record's place as partition/offset.
        source: only events of this source.
        since_ms: search for the id only in what was appended since then.
        report: is told the progress of searches.

    Raises:
        LogUnavailable: the log does not answer.
        Misconfigured: the log denies the right to read one of the topics.
    """
    for topic in (JOURNAL, JUDGEMENTS, DEAD_LETTERS, ALARMS, IMPRESSIONS):
        log.partitions(topic)  # whoever may not read one is told before a long search
    match = _PLACE.fullmatch(wanted)
    one = _record_at(log, int(match[1]), int(match[2])) if match else None
    if one:
        same = _search(log, one.named.id, one.named.source, since_ms, report) if one.named.id else []
        followed = [one]
    else:
        same = followed = _search(log, wanted, source, since_ms, report)
    found = [_Tracer(log, placements, each, same, report).trace() for each in followed]
    for each in found if len(same) == records_max else ():
        each.unknown.append(f"whether there are more events of this id: the first {records_max} were looked at")
    for each in found if since_ms is not None else ():
        each.unknown.append("whether it repeats an event from before the time since which the log was searched")
    return found


def _record_at(log: Log, partition: int, offset: int) -> _Found | None:
    place = Partition(EVENTS, partition)
    if place not in log.partitions(EVENTS):
        return None
    end = min(log.end(place), offset + 1)
    record = next(iter(list(partition_records(log, place, start=offset, end=end))), None)
    return _found(place, record) if record and record.offset == offset else None


def _search(log: Log, id_: str, source: str | None, since_ms: int | None, report: Report) -> list[_Found]:
    """Return the records with an id, oldest first, `records_max` at most."""
    needle, found = id_.encode(errors="surrogateescape"), list[_Found]()
    places = log.partitions(EVENTS)
    starts = {place: log.first(place) if since_ms is None else log.position_at(place, since_ms) for place in places}
    ends = {place: log.end(place) for place in places}
    total, done = sum(max(0, ends[place] - starts[place]) for place in places), 0
    for place in places:
        for record in partition_records(log, place, start=starts[place], end=ends[place]):
            value = record.value or b""
            if needle in value or b"\\" in value:  # in which the id may be written with escapes
                one = _found(place, record)
                if one.named.id == id_ and source in (None, one.named.source):
                    found.append(one)
            if record.offset % 1_000 == 0:
                report("records searched", done + record.offset - starts[place], total)
            if len(found) >= records_max:
                break
        done += max(0, ends[place] - starts[place])
    return sorted(found, key=lambda one: (one.record.time_ms, *one.place, one.record.offset))[:records_max]


def _found(place: Partition, record: Record) -> _Found:
    (timed,) = [record] if record.time_ms else stamped([record], wall_ms())  # shards take the time of reading, too
    return _Found(place, record, decode_json(record.value, _Named) or _Named(""), decode(timed))


class _Tracer:
    """Follows one record.

    Args:
        same: the records of `events` with its id and source, itself included.
    """

    def __init__(
        self, log: Log, placements: Mapping[str, Placement], one: _Found, same: Sequence[_Found], report: Report
    ) -> None:
        self._log, self._placements, self._one, self._report = log, placements, one, report
        self._same = [
            other
            for other in same
            if isinstance(other.event, Event) and other.named.source == one.named.source and other.text != one.text
        ]
        self._unknown: list[str] = []

    def trace(self) -> Trace:
        """Return what became of it."""
        one, event = self._one, self._one.event
        timed = decode_json(one.record.value, _Timed)
        letter = self._letter()
        shards, judged, hits = list[Applied](), list[Judged](), dict[str, int]()
        for placement in self._placements.values():
            applied, hit = self._applied(placement, letter)
            shards.append(applied)
            if hit and applied.state in ("learned", "applied"):
                hits[applied.shard] = hit.entry.number
                judged += self._judged(placement, hit)
        if hits:
            self._unknown.append("what each learner made of it: a replay without it tells (headrace replay --without)")
        return Trace(
            place=f"{EVENTS}/{one.text}", id=one.named.id, source=one.named.source, type=one.named.type,
            shopper=event.shopper if isinstance(event, Event) else "",
            happened_ms=int(timed.time.timestamp() * 1000) if timed and timed.time.tzinfo else None,
            appended_ms=one.record.time_ms or None, shards=shards, letter=letter, judgements=judged,
            alarms=self._alarms(), answer=self._answer(event.shopper, hits) if isinstance(event, Event) else None,
            unknown=self._unknown,
        )  # fmt: skip

    def _after(self, time_ms: int) -> int | None:
        """Return how long after its append something happened."""
        return time_ms - self._one.record.time_ms if self._one.record.time_ms and time_ms else None

    def _since(self, topic: str) -> Iterator[Record]:
        """Yield what was appended to a topic since the record was."""
        time_ms = self._one.record.time_ms - slack_ms
        for place in self._log.partitions(topic):
            start = self._log.position_at(place, time_ms) if time_ms > 0 else None
            yield from partition_records(self._log, place, start=start)

    def _letter(self) -> Letter | None:
        wanted, letter = f"{EVENTS}/{self._one.text}", None
        for record in self._since(DEAD_LETTERS):
            if wanted.encode() not in (record.value or b""):
                continue
            if found := decode_json(record.value, DeadLetter):
                if found.id == wanted:
                    letter = letter or Letter(reason=found.reason, time_ms=record.time_ms)
            elif (decided := decode_json(record.value, LetterDecision)) and decided.id == wanted and letter:
                letter.decision = decided.decision
        return letter

    def _alarms(self) -> list[Alarmed]:
        found = []
        for record in self._since(ALARMS):
            alarm = decode_json(record.value, Alarm)
            if alarm and alarm.time_ms is not None and alarm.id == f"{alarm.detector}/{self._one.text}":
                found.append(
                    Alarmed(
                        detector=alarm.detector,
                        time_ms=record.time_ms,
                        score=alarm.score,
                        threshold=alarm.threshold,
                        silenced=bool(alarm.silenced),
                    )
                )
        return found

    def _applied(self, placement: Placement, letter: Letter | None) -> tuple[Applied, _Hit | None]:
        """Return what a shard has done with the record, and where."""
        shard, event = placement.shard, self._one.event
        kind = event.type if isinstance(event, Event) else ""
        families = [one.name for one in placement.kinds if kind and one.surface.teaches.get(kind)]
        found = _place_in_journal(self._log, shard, self._one, self._report)
        if isinstance(found, Applied):
            found.families = families
            if found.state == "expired":
                self._unknown.append(f"whether {shard.name} has learned it: the journal of that time has expired")
            return found, None
        applied = Applied(
            shard=shard.name,
            state="applied",
            families=families,
            entry=found.entry.number,
            time_ms=found.time_ms,
            after_ms=self._after(found.time_ms),
        )
        if isinstance(event, Rejection) and event.reason == "unused":
            applied.state = "unused"
        elif letter or isinstance(event, Rejection):
            applied.state = "rejected"
            if not letter:
                self._unknown.append(f"why {shard.name} rejected it: no dead letter is in the log")
        elif repeated := self._repeated(shard, found):
            applied.state, applied.repeats = "repeated", repeated
        elif _all_learned(found):
            applied.state = "learned"
        else:
            self._unknown.append(
                f"whether {shard.name} left it out, as it did with others of entry {found.entry.number}: the log does"
                " not tell it of each event (consent, the daily budget of a shopper)"
            )
        return applied, found

    def _repeated(self, shard: Shard, hit: _Hit) -> str:
        """Return the place of the newest event of the same id that the shard applied before, "" if there is none."""
        before: list[tuple[tuple[int, int, int], _Found, _Hit]] = []
        own = hit.entry.number, hit.run, self._one.record.offset
        for other in self._same:
            found = _place_in_journal(self._log, shard, other, self._report)
            if isinstance(found, _Hit):
                order = found.entry.number, found.run, other.record.offset
                if order < own:
                    before.append((order, other, found))
        if not before:
            return ""
        _, other, found = max(before, key=lambda one: one[0])
        first, last = found.before, hit.entry.results
        if first and last and first.since == last.since and _admitted(last) - _admitted(first) > event_ids_max:
            self._unknown.append(
                f"whether {shard.name} still knew the id of {EVENTS}/{other.text}, which is the same: more than"
                f" {event_ids_max:,} events lie between"
            )
            return ""
        return other.text

    def _judged(self, placement: Placement, hit: _Hit) -> list[Judged]:
        """Return the judgements of the record's event in an entry."""
        shard, entry = placement.shard, hit.entry
        decoders: dict[str, tuple[str, msgspec.msgpack.Decoder[Any]]] = {}
        for kind in placement.kinds:
            if kind.surface.judgements is not None:
                decoder = msgspec.msgpack.Decoder(kind.surface.judgements)
                decoders |= dict.fromkeys((kind.name, *kind.surface.former_judgement_keys), (kind.name, decoder))
        found, left = list[Judged](), entry.judged
        if not left:
            return []
        expired = self._log.first(shard.judgements) > entry.judgements
        with closing(partition_records(self._log, shard.judgements, start=entry.judgements)) as records:
            for record in records:
                if not counts(entry, record):
                    if _number_in(record.key) > entry.number:
                        break
                    continue
                if (name := judging_family(record.key)) in decoders:
                    found += self._scored(*decoders[name], record, shard.name)
                left -= 1
                if not left:
                    break
        if left and expired:
            self._unknown.append(f"what {shard.name} predicted before: the judgements of that time have expired")
        elif left:
            self._unknown.append(f"what {shard.name} predicted before: an older release wrote the judgements")
        return found

    def _scored(
        self, family: str, decoder: msgspec.msgpack.Decoder[Any], record: Record, shard: str
    ) -> Iterator[Judged]:
        try:
            decoded = decoder.decode(record.value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._unknown.append(f"what {family} predicted before: this release cannot read a judgement")
            return
        own = self._one.record
        for one in decoded if isinstance(decoded, list) else [decoded]:
            place = getattr(one, "partition", None), getattr(one, "offset", None)
            if place == (own.partition, own.offset):  # a family's judgements need not name an event
                yield Judged(
                    family=family,
                    shard=shard,
                    time_ms=record.time_ms,
                    step=getattr(one, "step", 0),
                    model=getattr(one, "model", ""),
                    ranks=dict(getattr(one, "ranks", {})),
                )

    def _answer(self, shopper: str, hits: Mapping[str, int]) -> Answered | None:
        """Return the first answer for a shopper that includes one of these entries, by shard."""
        if not hits:
            return None
        log, key, places = self._log, shopper.encode(), self._log.partitions(IMPRESSIONS)
        own = partition_for(key, len(places)) if places else 0
        first: tuple[int, Answered] | None = None
        for place in sorted(places, key=lambda place: place.number != own):  # others, as partitions may have been added
            start = log.position_at(place, self._one.record.time_ms - slack_ms) if self._one.record.time_ms else None
            start, end = log.first(place) if start is None else start, log.end(place)
            with closing(partition_records(log, place, start=start, end=end)) as records:
                for record in records:
                    if record.offset % 1_000 == 0:
                        self._report(f"{key_of(place)}: answers searched", record.offset - start, end - start)
                    if first and record.time_ms >= first[0]:
                        break
                    if record.key == key and (answered := self._includes(record, hits)):
                        first = record.time_ms, answered
                        break
        if first is None:
            self._unknown.append("answers that were not logged, or were for this person under another id")
        return first[1] if first else None

    def _includes(self, record: Record, hits: Mapping[str, int]) -> Answered | None:
        one = impressions.decode(record)
        if isinstance(one, Rejection) or one.entry <= hits.get(one.shard, one.entry):
            return None
        return Answered(
            time_ms=one.time_ms,
            route=one.route,
            placement=one.placement,
            model=one.model,
            shard=one.shard,
            entries=one.entry,
            after_ms=self._after(one.time_ms),
        )


def _number_in(key: bytes | None) -> int:
    """Return the number of the entry that a judgement's key names, -1 if it names none."""
    text = (key or b"").rpartition(b"/")[2]
    return int(text) if text.isdigit() else -1


def _admitted(results: Results) -> int:
    """Return how many events were no repetitions; some of the unused ones are counted too much."""
    return results.learned + results.unused


def _all_learned(hit: _Hit) -> bool:
    """Whether an entry left no record out as unused."""
    now, before = hit.entry.results, hit.before
    if not now:
        return False
    if hit.entry.number == now.since:
        return not now.unused
    return before is not None and now.since == before.since and now.unused == before.unused


def _place_in_journal(log: Log, shard: Shard, one: _Found, report: Report) -> _Hit | Applied:
    """Return where a shard's journal applies a record, or that it does not.

    The newest snapshot from before the record is found by bisection, and the journal is read from there.
    """
    offset, place = one.record.offset, one.place
    base = _snapshot_before(log, shard, key_of(place), offset)
    start, number = (base.journal, base.number) if base else (log.first(shard.journal), 0)
    position = base.positions.get(key_of(place), 0) if base else 0
    former = last_entry(log, shard, start) if base else None
    before = former.results if former else None if base else Results()
    gap, newest_ms, end, is_first = False, None, log.end(shard.journal), True
    with closing(partition_records(log, shard.journal, start=start, end=end)) as records:
        for record in records:
            entry = entry_in(record)
            if not entry or entry.writer != shard.name or entry.number < number:
                continue
            if is_first and entry.number > number:
                gap, before = True, None
            is_first = False
            number, newest_ms = entry.number + 1, record.time_ms
            for index, run in enumerate(entry.runs):
                if (run.topic, run.partition) != place:
                    continue
                if run.start <= offset < run.end:
                    return _Hit(entry, record.time_ms, index, before)
                if run.start > offset:
                    return Applied(shard=shard.name, state="expired" if gap else "passed", families=[])
                position = run.end
            before = entry.results or before
            if number % 1_000 == 0:
                report(f"{shard.name}: journal searched", record.offset - start, end - start)
    last = newest(log, shard) if gap else None
    if last and last.snapshot and last.snapshot.positions.get(key_of(place), 0) > offset:
        return Applied(shard=shard.name, state="expired", families=[])
    waiting = max(0, offset - max(position, log.first(place)))
    return Applied(shard=shard.name, state="waiting", families=[], waiting=waiting, newest_ms=newest_ms)


def _snapshot_before(log: Log, shard: Shard, key: str, offset: int) -> Pointer | None:
    """Return the newest snapshot of a shard that does not include a record, None if the journal names none."""
    low, high, found = log.first(shard.journal), log.end(shard.journal), None
    while low < high:
        middle = (low + high) // 2
        entry = last_entry(log, shard, middle + 1)
        pointer = entry.snapshot if entry else None
        if pointer and pointer.positions.get(key, 0) > offset:
            high = middle
        else:
            low, found = middle + 1, pointer or found
    return found
