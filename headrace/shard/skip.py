"""Skipping a record: a shard goes around one that it cannot learn, as its process ends at it each time."""

import re
from contextlib import closing
from typing import Final

from msgspec import Struct

from headrace.clock import Clock, wall_ms
from headrace.errors import Misconfigured
from headrace.log.protocol import Log, Partition, Record
from headrace.log.scan import partition_records
from headrace.shard import journal
from headrace.shard.chain import Chain
from headrace.shard.decision import Author, records_of
from headrace.shard.journal import Decision, Entry, key_of
from headrace.shard.skips import skips_max
from headrace.topics import EVENTS, Shard

value_characters_max: Final = 200


class Skip(Struct, frozen=True, kw_only=True):
    """A record that a shard goes around: the size of its value, and how that begins.

    `before` is whether that was decided before; then its value is not read again.
    """

    shard: str
    record: str
    bytes: int
    value: str
    before: bool


def skip(log: Log, shard: Shard, record: str, author: Author, *, dry_run: bool = False, clock: Clock = wall_ms) -> Skip:
    """Decide that a shard goes around a record that it has not learned yet: it becomes a dead letter instead.

    Args:
        record: topic/partition/offset.
        dry_run: only check that it can be skipped.

    Raises:
        Misconfigured: the shard does not read it, has learned it, or has no journal yet; the log does not hold it; too
            many skips are pending; or the reason is missing or too long.
    """
    place, offset = _place_of_record(record, shard)
    if not dry_run:
        author.check()
    found, last = _skippable(log, shard, place, offset)
    if dry_run or found.before:  # the process is not fenced
        return found
    with closing(log.writer(shard.name, shard.written, shard.read)) as writer:
        found, last = _skippable(log, shard, place, offset)
        if not found.before:
            text = f"the record {record} is not learned"
            decision = Decision("skip", text, author.why, author.who, clock(), skip=record)
            entry = Entry(
                shard.name, last.number + 1, [], 0, last.snapshot, last.judgements, results=last.results,
                digest=Chain(last.digest).close_entry(), decision=decision,
            )  # fmt: skip
            writer.commit(records_of(shard, entry, decision), {})
            writer.settle()
    return found


def _place_of_record(record: str, shard: Shard) -> tuple[Partition, int]:
    """Return the partition and the offset of topic/partition/offset."""
    topic, *numbers = record.split("/")
    if len(numbers) != 2 or not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
        raise Misconfigured(f"record {record!r}: wanted TOPIC/PARTITION/OFFSET, as events/0/123")
    if topic not in (EVENTS, *shard.hears):
        raise Misconfigured(f"record {record}: wanted a topic that {shard.name} learns from, found {topic}")
    return Partition(topic, int(numbers[0])), int(numbers[1])


def _skippable(log: Log, shard: Shard, place: Partition, offset: int) -> tuple[Skip, Entry]:
    """Return a record that can be skipped, and the journal's last entry."""
    last, key = journal.newest(log, shard), f"{key_of(place)}/{offset}"
    if last is None:
        raise Misconfigured(f"{shard.name}: wanted a journal, found no entry; a shard that never ran has no decisions")
    pointer = last.snapshot
    position = pointer.positions.get(key_of(place), 0) if pointer else 0
    pending = dict(pointer.skipped) if pointer else {}
    begin, number = (pointer.journal, pointer.number) if pointer else (log.first(shard.journal), 0)
    for entry in journal.entries_from(log, shard, begin, number):
        ends = [run.end for run in entry.runs if (run.topic, run.partition) == place]
        position = max([position, *ends])
        if entry.decision and entry.decision.skip:
            pending[entry.decision.skip] = entry.decision.why
    if key in pending:
        return Skip(shard=shard.name, record=key, bytes=0, value="", before=True), last
    if offset < position:
        raise Misconfigured(f"{key}: wanted a record that {shard.name} has not learned, found that it is at {position}")
    if len(pending) >= skips_max:
        raise Misconfigured(f"{shard.name}: wanted fewer than {skips_max} pending skips, found {len(pending)}")
    record = _record_at(log, place, offset)
    value = (record.value or b"").decode(errors="replace")
    return Skip(
        shard=shard.name, record=key, bytes=len(record.value or b""), value=value[:value_characters_max], before=False
    ), last


def _record_at(log: Log, place: Partition, offset: int) -> Record:
    if place in log.partitions(place.topic) and log.first(place) <= offset < log.end(place):
        with closing(partition_records(log, place, start=offset, end=offset + 1)) as records:
            for record in records:
                return record
    raise Misconfigured(f"{key_of(place)}/{offset}: wanted a record that the log holds, found none")
