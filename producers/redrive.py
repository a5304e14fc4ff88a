"""Dead letters are published again once what was wrong with them is mended, or are marked as dropped; each once.

What was decided about a letter is a record of `dead-letters`, in one commit with the event that is published again. So
a run that was killed, or another operator's, is continued: the writer's id is one for all, and fences the one before.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from datetime import UTC
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from headrace import events, items
from headrace.clock import Clock, wall_ms
from headrace.errors import LogUnavailable, PositionLost
from headrace.events import Event, Rejection, at
from headrace.letters import DeadLetter, Decision, LetterDecision
from headrace.log.protocol import Log, Outgoing, Partition, Record, Writer, decode_json
from headrace.log.scan import topic_records
from headrace.shard.journal import key_of
from headrace.topics import DEAD_LETTERS, EVENTS, ITEMS
from producers.mapper import Mapper
from producers.mapping import Mapping
from producers.publisher import Progress, ProgressCallback, ignore_progress
from producers.values import Unusable

WRITER_ID: Final = DEAD_LETTERS
commit_letters_max: Final = 500
commit_bytes_max: Final = 4 * 2**20
"""Letters, and bytes of them, of one commit."""
read_timeout_s: Final = 30.0
"""How long the log may take to return a record that it holds."""
examples_max: Final = 5

_decoders: Final = {EVENTS: events.decode, ITEMS: items.decode}
"""By the topics whose records can be published again: what decides whether one is usable."""


class Wanted(NamedTuple):
    """Which letters are meant; an empty collection stands for all.

    Args:
        ids: origins.
        sources: of events, what their documents name as `source`.
        since_ms, until_ms: the bad record's append time, end exclusive.
    """

    ids: Collection[str] = ()
    reasons: Collection[str] = ()
    topics: Collection[str] = ()
    sources: Collection[str] = ()
    since_ms: int | None = None
    until_ms: int | None = None

    def has(self, letter: DeadLetter) -> bool:
        """Return whether a letter is meant."""
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.topics or letter.id.partition("/")[0] in self.topics)
            and (not self.sources or source_of(letter) in self.sources)
            and (self.since_ms is None or letter.appended_ms >= self.since_ms)
            and (self.until_ms is None or letter.appended_ms < self.until_ms)
        )


class Settled(Struct):
    """What became of the letters that were meant: how many were published again or dropped, and how many were not.

    `rejected` would be rejected again, by reason; `lost` are no longer whole anywhere; `foreign` are of topics that no
    shop writes; `left_out` are those that the mapping leaves out. All these stay open.
    """

    settled: int = 0
    rejected: Counter[str] = msgspec.field(default_factory=Counter)
    lost: int = 0
    foreign: int = 0
    left_out: int = 0
    examples: list[str] = msgspec.field(default_factory=list)

    @property
    def open(self) -> int:
        """Number of letters that stay open."""
        return self.rejected.total() + self.lost + self.foreign + self.left_out


class _Sourced(Struct):
    source: str


def source_of(letter: DeadLetter) -> str:
    """Return the source that the document of an event names; "" if it cannot be read."""
    found = decode_json(letter.value, _Sourced)
    return found.source if found else ""


def decisions(log: Log) -> dict[str, Decision]:
    """Return what was decided, by the letters' ids."""
    found: dict[str, Decision] = {}
    for record in topic_records(log, DEAD_LETTERS):
        if one := decode_json(record.value, LetterDecision):
            found[one.id] = one.decision
    return found


def letters(log: Log, wanted: Wanted) -> Iterator[DeadLetter]:
    """Yield the letters that are meant, those that are decided, too, in the order in which they were written."""
    for record in topic_records(log, DEAD_LETTERS):
        if (letter := decode_json(record.value, DeadLetter)) and wanted.has(letter):
            yield letter


def open_letters(log: Log, wanted: Wanted) -> Iterator[DeadLetter]:
    """Yield the letters that are meant and of which nothing is decided yet, each once."""
    decided = set(decisions(log))
    for letter in letters(log, wanted):
        if letter.id not in decided:
            decided.add(letter.id)
            yield letter


def redrive(
    log: Log,
    wanted: Wanted,
    *,
    by: str,
    why: str,
    mapping: Mapping | None = None,
    dry_run: bool = False,
    clock: Clock = wall_ms,
    progress: ProgressCallback = ignore_progress,
) -> Settled:
    """Publish open letters again, in their order, each to the partition of its origin unless its key changes.

    A letter that would be rejected again, now or as it is mapped, is not published.

    Args:
        mapping: makes each event of the letter's document, as from a file of JSON lines; `_key` is the record's key.
        dry_run: publish and decide nothing.

    Raises:
        Fenced: another operator works on dead letters.
        LogUnavailable: the log did not answer in time; another call goes on.
    """
    mapper = None if mapping is None else Mapper(mapping, zone=UTC, order=mapping.time.date_order or "month-first")
    found = Settled()

    def publish(letter: DeadLetter) -> Outgoing | None:
        return _again(log, letter, mapper, found, clock())

    if dry_run:
        for letter in open_letters(log, wanted):
            found.settled += publish(letter) is not None
        return found
    with closing(_writer(log)) as writer:
        batch = _Batch(writer, "redriven", by, why, clock)
        for letter in open_letters(log, wanted):
            if record := publish(letter):
                batch.add(letter, record)
                found.settled += 1
                progress(Progress(found.settled, found.open, None))
        batch.commit()
    return found


def drop(log: Log, wanted: Wanted, *, by: str, why: str, dry_run: bool = False, clock: Clock = wall_ms) -> Settled:
    """Mark open letters as dropped; they stay in the topic until it expires. Raises as `redrive`."""
    if dry_run:
        return Settled(sum(1 for _ in open_letters(log, wanted)))
    found = Settled()
    with closing(_writer(log)) as writer:
        batch = _Batch(writer, "dropped", by, why, clock)
        for letter in open_letters(log, wanted):
            batch.add(letter)
            found.settled += 1
        batch.commit()
    return found


def _writer(log: Log) -> Writer:
    """Open the writer. What is decided is read after this: nobody else can decide any more."""
    places = [place for topic in (DEAD_LETTERS, *_decoders) for place in log.partitions(topic)]
    return log.writer(WRITER_ID, places, (DEAD_LETTERS, *_decoders))


class _Batch:
    """Letters that are decided in one commit."""

    def __init__(self, writer: Writer, decision: Decision, by: str, why: str, clock: Clock) -> None:
        self._writer, self._clock = writer, clock
        self._decision: Decision = decision
        self._by, self._why = by, why
        self._records: list[Outgoing] = []
        self._size = 0

    def add(self, letter: DeadLetter, record: Outgoing | None = None) -> None:
        if record:
            self._records.append(record)
            self._size += len(record.value or b"")
        self._records.append(LetterDecision(letter.id, self._decision, self._by, self._why, self._clock()).record())
        if len(self._records) >= commit_letters_max or self._size >= commit_bytes_max:
            self.commit()

    def commit(self) -> None:
        if self._records:
            self._writer.commit(self._records, {})
            self._writer.settle()
        self._records, self._size = [], 0


def _again(log: Log, letter: DeadLetter, mapper: Mapper | None, found: Settled, now_ms: int) -> Outgoing | None:
    """Return the record to publish for a letter; None, counted, if there is none."""
    place, offset = letter.origin
    if place.topic not in _decoders:
        found.foreign += 1
        return None
    record = _whole(log, letter, place, offset)
    if record is None:
        found.lost += 1
        return None
    sent = Outgoing(place.topic, record.key, record.value, place.number)
    if mapper:
        mapped = _mapped(letter, record, mapper) if place.topic == EVENTS else None
        if mapped is None:
            found.left_out += 1
            return None
        if isinstance(mapped, Rejection):
            _reject(found, letter, mapped)
            return None
        sent = mapped._replace(partition=place.number if mapped.key == record.key else None)
    usable = _decoders[place.topic](Record(0, 0, now_ms, sent.key, sent.value))
    if isinstance(usable, Rejection):
        _reject(found, letter, usable)
        return None
    return sent


def _reject(found: Settled, letter: DeadLetter, rejection: Rejection) -> None:
    found.rejected[rejection.reason] += 1
    if len(found.examples) < examples_max:
        found.examples.append(f"{letter.id}: {rejection.reason}: {rejection.detail}")


def _whole(log: Log, letter: DeadLetter, place: Partition, offset: int) -> Record | None:
    """Return the whole record of a letter, from its origin if the letter repeats only a part; None if that is gone."""
    if letter.whole:
        return Record(place.number, offset, letter.appended_ms, letter.key or None, letter.value or None)
    with closing(log.reader({place: offset})) as reader:
        try:
            batches = reader.read(1, read_timeout_s)
        except PositionLost:
            return None
    if not batches:
        raise LogUnavailable(f"{key_of(place)}: record {offset} did not arrive within {read_timeout_s:g} s")
    record = batches[0][1][0]
    return record if record.offset == offset and record.time_ms in (0, letter.appended_ms) else None


def _mapped(letter: DeadLetter, record: Record, mapper: Mapper) -> Outgoing | Rejection | None:
    """Return the event that a mapping makes of a record, or why it makes none; None if it leaves the record out."""
    try:
        row = msgspec.json.decode(record.value or b"", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Rejection("not_json", f"wanted a JSON object to map: {error}"[:300])
    row["_key"] = (record.key or b"").decode(errors="replace")
    if not mapper.keeps(row):
        return None
    try:
        made = mapper.event([row])
        if made is None:
            return None
        id_, source = row.get("id"), row.get("source")
        event = Event(
            id_ if isinstance(id_, str) and id_ else letter.id, source if isinstance(source, str) and source else
            "redriven", made.type, at(made.time_ms), made.data, "1.0", made.shopper,
        )  # fmt: skip
    except Unusable as fault:
        return Rejection("schema", f"{fault.reason}: {fault}")
    except (ValueError, OverflowError, OSError):  # what datetime raises for years after 9999
        return Rejection("time_absurd", "wanted a time of the years 1995 to 9999, found another one")
    return Outgoing(EVENTS, made.shopper.encode(), events.encode(event))
