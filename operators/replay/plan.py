"""What a replay will fold: a range of the journal, from which snapshot on, and whether the log still holds it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Literal, NamedTuple

from headrace.archive.log import ArchivedLog
from headrace.archive.store import open_store
from headrace.clock import read_time_ms
from headrace.config import Settings
from headrace.errors import Misconfigured, PositionLost
from headrace.events import at
from headrace.log.open import open_log
from headrace.log.protocol import Log, Partition
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Entry, Pointer, key_of, place_of_key, snapshots_kept
from headrace.shard.kept import kept_snapshots
from headrace.topics import Shard

PlaceKind = Literal["", "time", "offset", "snapshot"]
"""How a place in the journal is given: a time, a number of entries, or a snapshot; "": by its form."""


class Plan(NamedTuple):
    """A range of a shard's journal, by numbers of entries, without its end; the fold begins with the snapshot `base`.

    `records` is the number of records of `events` from `base` to `end`, None if the journal does not tell it.
    """

    begin: int
    end: int
    base: Pointer | None
    records: int | None

    @property
    def folded_from(self) -> int:
        """The number of entries before the fold's begin."""
        return self.base.number if self.base else 0


def kept(log: Log, blobs: Blobs, shard: Shard) -> list[Pointer]:
    """Return the snapshots of a shard whose blobs are there, the newest first."""
    last = journal.newest(log, shard)
    found: dict[str, Pointer] = {}
    pointer = last.snapshot if last else None
    for _ in range(snapshots_kept):
        if pointer:
            found.setdefault(pointer.blob, pointer)
            pointer = journal.former_snapshot(log, shard, pointer)
    for one in kept_snapshots(blobs, shard.name):
        found.setdefault(one.pointer.blob, one.pointer)
    ends = (last.number if last else -1) + 1
    there = [one for one in found.values() if blobs.size(one.blob) and one.number <= ends]
    # A state that was put in place is that of no entries before it.
    own = [one for one in there if not one.restated or one.restated.blob != one.blob]
    return sorted(own, key=lambda one: one.number, reverse=True)


def first_entry(log: Log, shard: Shard) -> Entry | None:
    """Return the first entry of a shard that the log holds, None if there is none."""
    with closing(journal.entries_from(log, shard, log.first(shard.journal))) as entries:
        return next(entries, None)


def last_entry(log: Log, shard: Shard, before: int) -> Entry | None:
    """Return a shard's last entry before a position of its journal, None if there is none."""
    entry = journal.newest(log, shard, before=before)
    return entry if entry and entry.writer == shard.name else None


def entry_number(log: Log, shard: Shard, number: int) -> Entry | None:
    """Return a shard's entry of a number, found by bisection; None if the log does not hold it."""
    low, high = log.first(shard.journal), log.end(shard.journal)
    while low < high:
        middle = (low + high) // 2
        entry = last_entry(log, shard, middle + 1)
        if entry and entry.number >= number:
            high = middle
        else:
            low = middle + 1
    entry = last_entry(log, shard, low + 1)
    return entry if entry and entry.number == number else None


def plan(
    log: Log, blobs: Blobs, shard: Shard, begin: str | None, end: str | None, kind: PlaceKind = ""
) -> Plan:  # fmt: skip
    """Return what a replay from `begin` to `end` folds. By default it is all that the log covers.

    The fold begins with the newest snapshot that is kept of the time before `begin`, or with the journal's start.

    Raises:
        Misconfigured: a place is not in the journal, or the range is empty.
        PositionLost: the log does not hold what the range needs.
    """
    last = journal.newest(log, shard)
    if last is None:
        raise Misconfigured(f"{shard.name}: wanted a journal to replay, found no entry in {key_of(shard.journal)}")
    pointers = kept(log, blobs, shard)
    to = last.number + 1 if end is None else _place("--to", log, shard, pointers, end, kind)
    bases = _bases(log, shard, pointers)
    if begin is None:
        start_number = restated.number if (restated := start_of(log, shard)) else 0
        since = [one for one in bases if (one.number if one else 0) >= start_number]
        base = next((one for one in since if (one is None or one.number < to) and not lost(log, shard, one)), since[0])
        start = base.number if base else 0
    else:
        start = _place("--from", log, shard, pointers, begin, kind)
        before = [one for one in bases if (one.number if one else 0) <= start]
        if not before:
            raise Misconfigured(
                f"--from {begin}: wanted a state that is kept of entry {start:,} or before it; the oldest with which a"
                f" fold can begin is that of entry {bases[0].number if bases[0] else 0:,}"
            )
        base = before[-1]
    if start >= to:
        raise Misconfigured(f"--from {start:,} --to {to:,}: wanted a range with entries, found none")
    if missing := lost(log, shard, base):
        raise missing
    return Plan(start, to, base, _records(log, shard, base.number if base else 0, to))


def _bases(log: Log, shard: Shard, pointers: list[Pointer]) -> list[Pointer | None]:
    """Return with what a fold can begin, the oldest first: the kept snapshots, and the journal's start."""
    start = start_of(log, shard)
    found: list[Pointer | None] = [*reversed(pointers)]
    if start:
        found.insert(sum(one.number < start.number for one in pointers), start)
        return found
    first = first_entry(log, shard)
    if first and first.number == 0:
        found = [None, *found]
    if not found:
        raise Misconfigured(
            f"{shard.name}: wanted the journal's start or a snapshot to begin with, found neither; set an archive"
        )
    return found


def start_of(log: Log, shard: Shard) -> Pointer | None:
    """Return the state that was put in place last, with which folds from the start begin; None: entry 0."""
    last = journal.newest(log, shard)
    return journal.start_of(log, shard, last.snapshot if last else None)


def _place(name: str, log: Log, shard: Shard, pointers: list[Pointer], text: str, kind: PlaceKind) -> int:
    """Return the number of entries before a place."""
    last = journal.newest(log, shard)
    ends = last.number + 1 if last else 0
    if kind == "snapshot" or (not kind and text.startswith(f"{shard.name}-")):
        found = [one.number for one in pointers if one.blob.startswith(text)]
        if len(found) != 1:
            known = ", ".join(f"{one.blob[: len(shard.name) + 13]} (entry {one.number:,})" for one in pointers)
            raise Misconfigured(f"{name} {text}: wanted one of the kept snapshots, which are {known or 'none'}")
        return found[0]
    if kind == "offset" or (not kind and text.isdecimal()):
        if not text.isdecimal() or int(text) > ends:
            raise Misconfigured(f"{name} {text}: wanted a number of entries from 0 to {ends:,}")
        return int(text)
    time_ms = read_time_ms(name, text)
    first = next(iter(log.newest(shard.journal, 1, before=log.first(shard.journal) + 1)), None)
    if first and first.time_ms and time_ms < first.time_ms:
        raise Misconfigured(
            f"{name} {text}: wanted a time from the journal's begin on, {at(first.time_ms).isoformat()}"
        )
    if before := last_entry(log, shard, log.position_at(shard.journal, time_ms)):
        return before.number + 1
    entry = first_entry(log, shard)
    return entry.number if entry else ends


def lost(log: Log, shard: Shard, base: Pointer | None) -> PositionLost | None:
    """Return what the log lacks of what a fold from `base` on needs, None if it lacks nothing."""
    wanted = {place_of_key(key): position for key, position in base.positions.items()} if base else {}
    wanted = {place: at for place, at in wanted.items() if place in shard.inputs(log)}
    wanted[shard.journal] = base.journal if base else 0
    wanted[shard.judgements] = base.judgements if base else 0
    gone = {place for place in shard.inputs(log) if place not in wanted and log.first(place)}
    for entry in journal.entries_from(log, shard, log.first(shard.journal)) if gone else ():
        for run in entry.runs:
            if (place := Partition(run.topic, run.partition)) in gone:
                wanted[place] = run.start
                gone.discard(place)
        if not gone:
            break
    for place, position in wanted.items():
        first = log.first(place)
        if position < first:
            return PositionLost(*place, position, first, log.end(place))
    return None


def covered_text(log: Log) -> str:
    """Return what the archive holds, for who is told that records are lost."""
    if not isinstance(log, ArchivedLog):
        return "no archive is set (archive.url)"
    parts = []
    for place, end in log.covered().items():
        first = log.archived_first(place)
        if end:
            start = "with a gap before the log" if first is None else f"from {first:,}"
            parts.append(f"{key_of(place)} {start} to {end:,}")
    return f"the archive covers {', '.join(parts) or 'nothing'}"


def _records(log: Log, shard: Shard, begin: int, end: int) -> int | None:
    before = entry_number(log, shard, begin - 1) if begin else None
    last = entry_number(log, shard, end - 1)
    if last is None or last.results is None:
        return None
    if begin and (before is None or before.results is None or before.results.since != last.results.since):
        return None
    if not begin and last.results.since:
        return None
    return last.results.records - (before.results.records if before and before.results else 0)


@contextmanager
def opened_to_read(settings: Settings) -> Iterator[Log]:
    """Open the log so that nothing can be written to it, with its archive where one is set."""
    with closing(open_log(settings.log, existing=True, read_only=True)) as log:
        yield ArchivedLog(log, open_store(settings.archive.url)) if settings.archive.url else log
