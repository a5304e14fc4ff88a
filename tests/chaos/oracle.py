"""The oracle of all campaigns: nothing lost, nothing double, the state that of an uninterrupted fold."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from headrace.archive.log import with_archive
from headrace.errors import BrokenWorld
from headrace.events import Event, Rejection, decode
from headrace.letters import LetterDecision
from headrace.log.open import open_log
from headrace.log.protocol import Log, Partition, decode_json
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds, committed_records, entries_of, read_wait_s_max
from headrace.shard.follower import Follower
from headrace.shard.verify import verify
from headrace.topics import ALARMS, DEAD_LETTERS, EVENTS, IMPRESSIONS, TOPICS, Shard
from learners.families import Placement
from learners.shop import MakeShop
from operators.deployment import Deployment
from tests.chaos.sender import SOURCE
from tests.chaos.violation import Violation
from tests.chaos.watcher import Watcher, fingerprint

OF_LOOPS = ("partitions", "snapshot", "flood")
"""Alarms that a loop raises, not a fold: they tell of faults, which a replay does not have."""


class Audit(msgspec.Struct):
    """What an audit has counted: records of `events`, journal entries, judgements, outputs and dead letters.

    `acknowledged` are the events that the gateway has acknowledged, all found in `events`; `doubled` is how many
    records repeat one of these, which consumers drop.
    """

    events: int = 0
    entries: int = 0
    judgements: int = 0
    outputs: int = 0
    dead_letters: int = 0
    acknowledged: int = 0
    doubled: int = 0


def audit(
    url: str,
    blobs: Path,
    deployment: Deployment,
    expected: Sequence[str],
    watcher: Watcher | None,
    shards: Collection[str] = (),
    archive: Path | None = None,
    acknowledged: Collection[str] = (),
) -> Audit:
    """Check everything that a log and its blobs promise, once nothing runs.

    Args:
        expected: ids of the events that a producer has published.
        acknowledged: ids of the events that the gateway has acknowledged.
        watcher: the reader that ran all the time.
        shards: those that have run, by name; by default all.
        archive: the folder of the log's archive, from which is read what was trimmed.

    Raises:
        Violation: a promise is broken.
    """
    with closing(with_archive(open_log(url), str(archive or ""))) as log:
        try:
            found = _published(log, expected, acknowledged)
            _no_open_transaction(log)
            for name in shards or deployment.placements:
                placement = deployment.placement(name)
                _check_shard(log, Blobs(blobs), placement, deployment, found)
            found.dead_letters = _dead_letters(log)
            if watcher:
                _same_as_seen(log, watcher)
        except (AssertionError, BrokenWorld) as error:
            raise Violation(f"{type(error).__name__}: {error}") from error
    return found


def _check_shard(log: Log, blobs: Blobs, placement: Placement, deployment: Deployment, found: Audit) -> None:
    shard, make = placement.shard, MakeShop(placement.kinds, deployment.sections)
    # Servers write impressions until they stop, which may be after the shard has.
    check_covered(log, shard, (EVENTS, *(topic for topic in shard.hears if topic != IMPRESSIONS)))
    check_folds(log, blobs, shard, make=make)
    verified = verify(log, blobs, shard)
    if not verified.whole:
        raise Violation(f"verify {shard.name}: {'; '.join(verified.problems)}")
    found.entries += verified.entries
    found.judgements += _judgements(log, shard)
    found.outputs += _outputs(log, blobs, shard, make)


def _published(log: Log, expected: Sequence[str], acknowledged: Collection[str]) -> Audit:
    """Check that each event of the producer is in `events` once, and each that the gateway acknowledged, at least."""
    decoded = [decode(record) for place in log.partitions(EVENTS) for record in committed_records(log, place)]
    found = [event for event in decoded if isinstance(event, Event)]
    _same(Counter(event.id for event in found if event.source != SOURCE), Counter(expected), "ids of events")
    sent = Counter(event.id for event in found if event.source == SOURCE)
    if lost := set(acknowledged) - sent.keys():
        raise Violation(f"{len(lost)} events that the gateway acknowledged are lost; e.g. {sorted(lost)[:3]}")
    doubled = sent.total() - len(sent)
    return Audit(events=len(decoded), acknowledged=len(acknowledged), doubled=doubled)


def _same(found: Counter[Any], wanted: Counter[Any], what: str) -> None:
    lost, more = wanted - found, found - wanted
    if lost or more:
        raise Violation(
            f"{what}: {lost.total()} lost, {more.total()} double or unknown; e.g. {[*lost][:3]}, {[*more][:3]}"
        )


def _dead_letters(log: Log) -> int:
    """Check that each bad record of `events` has one dead letter, and that there are no others."""
    wanted = Counter(
        f"{EVENTS}/{record.partition}/{record.offset}".encode()
        for place in log.partitions(EVENTS)
        for record in committed_records(log, place)
        if isinstance(one := decode(record), Rejection) and one.reason != "unused"
    )
    letters = committed_records(log, Partition(DEAD_LETTERS, 0))
    found = Counter(record.key or b"" for record in letters if not decode_json(record.value, LetterDecision))
    _same(found, wanted, "dead letters")
    return found.total()


def _judgements(log: Log, shard: Shard) -> int:
    """Check that there are as many judgements as the entries count, each with the number of its entry."""
    wanted = Counter({entry.number: entry.judged for entry in entries_of(log, shard) if entry.judged})
    found = Counter(int((record.key or b"").rpartition(b"/")[2]) for record in committed_records(log, shard.judgements))
    _same(found, wanted, f"judgements of {shard.name}")
    return found.total()


def _outputs(log: Log, blobs: Blobs, shard: Shard, make: MakeShop) -> int:
    """Check that a shard's outputs are byte for byte those of an uninterrupted fold, each once."""
    wanted: Counter[tuple[str, bytes | None, bytes | None]] = Counter()
    with closing(Follower(log, blobs, shard, make=make, from_start=True)) as follower:
        last = journal.newest(log, shard)
        while last and follower.number <= last.number:
            if not follower.step(read_wait_s_max, entries_max=1):
                raise Violation(f"journal of {shard.name}: entry {follower.number} cannot be read")
            wanted.update((one.topic, one.key, one.value) for one in follower.outputs)
        detectors = set(follower.fold.alarms)
    families = {name.encode() for name in follower.fold.families}
    found: Counter[tuple[str, bytes | None, bytes | None]] = Counter()
    for topic in shard.writes:
        if topic == DEAD_LETTERS:
            continue
        for place in log.partitions(topic):
            for record in committed_records(log, place):
                if topic != ALARMS or (record.key or b"").decode() in detectors - {*OF_LOOPS}:
                    found[topic, record.key, record.value] += 1
    if "scores" in shard.writes:  # other shards write there, too
        found = Counter({one: count for one, count in found.items() if one[0] != "scores" or one[1] in families})
    _same(found, wanted, f"outputs of {shard.name}")
    _loop_alarms_once(log)
    return found.total()


def _loop_alarms_once(log: Log) -> None:
    ids = Counter(
        json.loads(record.value or b"{}").get("id") for record in committed_records(log, Partition(ALARMS, 0))
    )
    _same(ids, Counter(dict.fromkeys(ids, 1)), "ids of alarms")


def _no_open_transaction(log: Log) -> None:
    places = [place for topic in TOPICS for place in log.partitions(topic)]
    if hidden := log.hidden(places):
        raise Violation(f"open transactions hide records: {hidden}")


def _same_as_seen(log: Log, watcher: Watcher) -> None:
    """Check that the reader that ran all the time has read what is there now: the same records, each once."""
    for place, seen in watcher.seen.items():
        now = [(record.offset, fingerprint(record.key, record.value)) for record in committed_records(log, place)]
        if now != seen[: len(now)] or len(seen) > len(now):
            raise Violation(f"{place.topic}/{place.number}: {len(seen)} records were read, {len(now)} are there now")
