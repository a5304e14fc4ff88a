"""Verification of a shard's part of a log: is what its journal names still there, and as it was learned?

Where a loss was accepted, the journal is read from there on: what was lost before is known. Retention may go on
meanwhile: then reading begins again where the log begins, as what was read until then has expired.

Nothing is learned: records are read in the order of the journal and hashed, at several times the speed of a fold. What
a fold of the whole journal gives is compared by `headrace.shard.checks.check_folds`.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Final

from msgspec import Struct, field

from headrace.clock import TIMER, Timer
from headrace.errors import BlobCorrupt, BlobMissing, LogUnavailable, PositionLost, RecordsChanged, TopicReplaced
from headrace.log.protocol import Log, Partition
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.chain import Chain
from headrace.shard.entries import EntryRecords, JournalReader, arrival_timeout_s
from headrace.shard.follower import no_report
from headrace.shard.identity import Identities
from headrace.shard.journal import Entry
from headrace.topics import Shard

problems_max: Final = 20
"""Maximum number of problems of a shard that are listed; the rest is counted."""
report_entries: Final = 100
"""Entries between two progress reports."""


class Verified(Struct):
    """What was found in a shard's part of a log.

    The log holds the `entries` from number `first` on, which name `records` and `judgements`. `unchecked` entries have
    no digest, or the one before them is gone. `strays` are records of other programs in the shard's journal and
    judgements, which everybody passes over. `snapshots` has the blobs of the newest snapshots, and whether each is
    whole. `problems` are sentences, `problems_total` counts all of them.
    """

    shard: str
    first: int = 0
    entries: int = 0
    records: int = 0
    judgements: int = 0
    unchecked: int = 0
    strays: int = 0
    snapshots: dict[str, bool] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problems_total: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems_total

    def add(self, problem: str) -> None:
        """Add a problem."""
        self.problems_total += 1
        if len(self.problems) < problems_max:
            self.problems.append(problem)


class _Held:
    """The first positions that a log held of a shard's topics when its verification began."""

    def __init__(self, log: Log, shard: Shard) -> None:
        self._log = log
        self.journal, self.judgements = log.first(shard.journal), log.first(shard.judgements)
        self.inputs = {place: log.first(place) for place in shard.inputs(log)}
        self._firsts = {**self.inputs, shard.journal: self.journal, shard.judgements: self.judgements}

    def lacks(self, entry: Entry) -> bool:
        """Return whether some of what an entry names had expired."""
        expired = any(run.start < self.inputs.get(Partition(run.topic, run.partition), 0) for run in entry.runs)
        return expired or bool(entry.judged and entry.judgements < self.judgements)

    def expired_since(self, lost: PositionLost) -> bool:
        """Return whether retention has deleted a position that was held."""
        place = Partition(lost.topic, lost.partition)
        return self._firsts.get(place, 0) <= lost.wanted < self._log.first(place)


def verify(
    log: Log,
    blobs: Blobs,
    shard: Shard,
    report: Callable[[int, int], None] = no_report,
    timer: Timer = TIMER,
) -> Verified:
    """Read all that a shard's journal names, and compare it with the digests that the shard wrote while it learned.

    Args:
        report: called every few entries with the number read and the total.

    Raises:
        LogUnavailable: the log does not answer.
    """
    return _beside_retention(log, shard, partial(_verify, log, blobs, shard, report, timer))


def verify_newest(log: Log, shard: Shard, count: int) -> Verified:
    """Do what `verify` does with the newest `count` entries only, and with no snapshot.

    Where a loss was accepted among them, only those after it.

    Raises:
        LogUnavailable: the log does not answer.
    """
    return _beside_retention(log, shard, partial(_verify_newest, log, shard, count))


def _beside_retention(log: Log, shard: Shard, read: Callable[[_Held], Verified]) -> Verified:
    """Return what `read` returns, which is called again whenever something expires before it was read."""
    while True:
        held = _Held(log, shard)
        try:
            return read(held)
        except PositionLost as lost:
            if not held.expired_since(lost):
                raise


def _verify(
    log: Log, blobs: Blobs, shard: Shard, report: Callable[[int, int], None], timer: Timer, held: _Held
) -> Verified:  # fmt: skip
    found = Verified(shard.name)
    last = journal.newest(log, shard)
    if last is None:
        if held.journal:
            found.add("all of the journal has expired")
        return found
    with ExitStack() as opened:
        origin = journal.origin_of(log, shard, last.snapshot)
        begin = max(origin.journal if origin else 0, held.journal)
        entries = opened.enter_context(closing(JournalReader(log, shard, begin, origin.number if origin else 0)))
        records = opened.enter_context(closing(EntryRecords(log, shard, held.inputs, held.judgements, timer)))
        _verify_identities(log, shard, last, found)
        if origin:
            records.continue_from(origin)
            records.pass_over_expired(held.inputs, held.judgements)
        number = -1
        while number < last.number:
            position = entries.position
            for entry in entries.read(report_entries, arrival_timeout_s):
                if begin and found.entries == 1 and entry.number != number + 1:
                    # The first record of a journal whose beginning has expired may be a copy of an entry before.
                    number, found.entries, records.chain = -1, 0, Chain()
                    entries.strays += 1
                if number < 0:
                    found.first = entry.number
                elif entry.number != number + 1:
                    found.add(f"journal: wanted entry {number + 1}, found {entry.number}")
                    records.chain = Chain()
                number = entry.number
                if held.lacks(entry):
                    _pass_over(entry, records, found)
                elif not _verify_entry(entry, records, held, found):
                    return found
                if entry.replaces_state and entry.snapshot:  # side topics may be heard again
                    records.continue_from(entry.snapshot)
                    records.pass_over_expired(held.inputs, held.judgements)
                    records.chain = Chain(entry.digest)
            if entries.position == position:
                raise LogUnavailable(f"journal of {shard.name}: entry {last.number} is committed but cannot be read")
            report(found.entries, last.number + 1 - found.first)
        found.strays = entries.strays + records.strays
    _verify_snapshots(log, blobs, shard, found)
    return found


def _verify_newest(log: Log, shard: Shard, count: int, held: _Held) -> Verified:
    found, place = Verified(shard.name), shard.journal
    newest = log.newest(place, count + 1)
    entries: list[Entry] = []
    for entry in map(journal.entry_in, newest):
        if entry and entry.writer == shard.name and (not entries or entry.number > entries[-1].number):
            entries.append(entry)
    found.strays = len(newest) - len(entries)
    entries = entries[max((at for at, entry in enumerate(entries) if entry.replaces_state), default=0) :]
    begin = len(entries) - 1
    while begin > 0 and not entries[begin].replaces_state and not held.lacks(entries[begin]):
        begin -= 1
    if begin < 0:
        return found
    before, checked = entries[begin], entries[begin + 1 :]
    found.first = before.number + 1
    starts = {one: log.end(one) for one in held.inputs}
    for run in (run for entry in reversed(checked) for run in reversed(entry.runs)):
        starts[Partition(run.topic, run.partition)] = run.start
    position = min((entry.judgements for entry in checked), default=0)
    with closing(EntryRecords(log, shard, starts, max(position, held.judgements))) as records:
        records.chain = Chain(before.digest)
        for entry in checked:
            if entry.number != before.number + 1:
                found.add(f"journal: wanted entry {before.number + 1}, found {entry.number}")
                records.chain = Chain()
            if not _verify_entry(entry, records, held, found):
                break
            before = entry
        found.strays += records.strays
    return found


def _verify_identities(log: Log, shard: Shard, last: Entry, found: Verified) -> None:
    identities = Identities(log, shard)
    identities.known = dict(last.snapshot.topics) if last.snapshot else {}
    for topic, (wanted, now) in identities.replaced().items():
        found.add(str(TopicReplaced(shard.name, topic, wanted, now)))


def _pass_over(entry: Entry, records: EntryRecords, found: Verified) -> None:
    """Go past an entry whose records retention has deleted."""
    found.entries += 1
    found.unchecked += 1
    if entry.judgements >= records.judgements_position:
        found.judgements += len(records.judgements(entry))
    records.chain = Chain(entry.digest)


def _verify_entry(entry: Entry, records: EntryRecords, held: _Held, found: Verified) -> bool:
    """Read what an entry names; return whether the log still answers.

    Raises:
        PositionLost: it has expired since the verification began.
    """
    found.entries += 1
    checked = bool(entry.digest) and (bool(records.chain.value) or entry.number == 0)
    found.unchecked += not checked
    try:
        for _, piece, _ in records.runs(entry):
            found.records += len(piece)
        found.judgements += len(records.judgements(entry))
        if checked:
            records.check(entry)
    except RecordsChanged as error:
        found.add(str(error))
    except PositionLost as error:
        if held.expired_since(error):
            raise
        found.add(f"entry {entry.number}: {error}")
    except LogUnavailable as error:
        found.add(f"entry {entry.number}: {error}; the entries after it were not read")
        return False
    records.chain = Chain(entry.digest)  # what follows is compared with what the shard had
    return True


def _verify_snapshots(log: Log, blobs: Blobs, shard: Shard, found: Verified) -> None:
    for blob in _snapshots(log, shard):
        try:
            blobs.get(blob)
            found.snapshots[blob] = True
        except (BlobMissing, BlobCorrupt) as error:
            if blob in _snapshots(log, shard):  # otherwise a running shard has deleted it, as there are newer ones
                found.snapshots[blob] = False
                found.add(str(error))


def _snapshots(log: Log, shard: Shard) -> list[str]:
    """Return the blobs that the newest entry names, newest first."""
    last = journal.newest(log, shard)
    return [last.snapshot.blob, *last.snapshot.former] if last and last.snapshot else []
