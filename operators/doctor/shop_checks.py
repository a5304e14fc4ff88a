"""Checks of the shards and of what the shop sends: positions, releases, bad records, keys, senders' clocks."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

import headrace
from headrace.events import Event, Rejection
from headrace.log.protocol import Partition
from headrace.shard import journal
from headrace.shard.intake import live_delay_ms_max
from headrace.shard.journal import Results, key_of
from headrace.shard.loop import empty_entry_interval_s
from learners.families import Placement
from operators.doctor.finding import Finding, World, error, warning

stalled_ms_max: Final = 600_000
"""For how long records may wait while nothing is learned; a restart takes less."""
bad_share_max, bad_records_min = 0.05, 50
"""Share of bad records, and their number, above which they are told (as by the alert `BadEvents`)."""
compared_entries: Final = 1_000
"""Over so many of the newest entries, the share of bad records is taken."""
sender_ahead_ms_max: Final = 60_000
source_records_min: Final = 20
"""Records of a source from which its usual delay is taken."""


def shards(world: World) -> Iterator[Finding]:
    """Find shards that have never run, have lost their journal, or do not learn what waits."""
    for placement in world.placements:
        name, last = placement.shard.name, world.log.last(placement.shard.journal)
        command = f"`headrace {name}`" if name in ("online", "finetune") else f"`headrace learn {_families(placement)}`"
        if last is None or name not in world.entries:
            yield _without_entries(world, placement, command)
            continue
        idle_ms = world.clock() - last.time_ms
        waiting = _waiting(world, placement) if idle_ms > stalled_ms_max else {}
        if waiting:
            yield error(
                name, wanted=f"records that are learned within {stalled_ms_max // 60_000} minutes",
                found=f"nothing learned for {idle_ms // 60_000:,} minutes; wait: "
                + ", ".join(f"{count:,} in {key_of(place)}" for place, count in waiting.items()),
                follows="answers are as old", mends=f"start {command}, or look at its log",
            )  # fmt: skip
        elif idle_ms > 2 * empty_entry_interval_s * 1000:
            yield warning(
                name, wanted="an entry a day, also of an idle shard", found=f"none for {idle_ms // 3_600_000:,} hours",
                follows="without newer entries, retention deletes the newest one and with it the state",
                mends=f"start {command}",
            )  # fmt: skip


def _families(placement: Placement) -> str:
    return " ".join(kind.name for kind in placement.own_kinds)


def _without_entries(world: World, placement: Placement, command: str) -> Finding:
    place = placement.shard.journal
    if world.log.first(place) > 0:
        return error(
            placement.shard.name, wanted="a journal", found=f"{key_of(place)}, of which retention has deleted all",
            follows="the process ends at its start", mends="`headrace restore` from a backup",
        )  # fmt: skip
    return warning(
        placement.shard.name, wanted="a shard that has run", found="no entry in its journal",
        follows=f"{_families(placement)}: nothing is learned", mends=f"start {command}",
    )  # fmt: skip


def _waiting(world: World, placement: Placement) -> Mapping[Partition, int]:
    committed = world.log.committed(placement.shard.name)
    ends = {place: world.log.last(place) for place in placement.shard.inputs(world.log)}
    lag = {place: last.offset + 1 - committed.get(place, 0) for place, last in ends.items() if last}
    return {place: count for place, count in lag.items() if count > 0}


def versions(world: World) -> Iterator[Finding]:
    """Find states of another release, and such as the installed one cannot read."""
    for placement in world.placements:
        name, entry = placement.shard.name, world.entries.get(placement.shard.name)
        if entry is None or entry.snapshot is None:
            continue
        stamp = entry.snapshot.stamp
        wrote = stamp.headrace if stamp else "0.3.0 or older"
        newer = [
            f"{kind.name}.{part} {version}" for kind in placement.kinds if stamp and kind.name in stamp.families
            for part, version in stamp.families[kind.name].parts.items()
            if version > (known.version if (known := kind.declared_parts().get(part)) else version)
        ]  # fmt: skip
        if newer:
            yield error(
                name, wanted=f"a state that the installed headrace {headrace.__version__} reads",
                found=f"newer parts, which headrace {wrote} wrote: {', '.join(newer)}",
                follows="a process of the installed release ends at its start", mends=f"install headrace {wrote}",
            )  # fmt: skip
        elif wrote != headrace.__version__:
            yield warning(
                name, wanted=f"a state that the installed headrace {headrace.__version__} wrote",
                found=f"one that headrace {wrote} wrote",
                follows="the shard has not run with this release, or another is installed where it runs",
                mends="restart the process with the installed release (docs/operating.md#upgrades-and-other-settings)",
            )  # fmt: skip


def dead_letters(world: World) -> Iterator[Finding]:
    """Find out whether too many of the newest records could not be used."""
    for placement in world.placements:
        newest = world.entries.get(placement.shard.name)
        if not placement.quarantines or newest is None or newest.results is None:
            continue
        records = world.log.newest(placement.shard.journal, compared_entries)
        entries = [entry for entry in map(journal.entry_in, records) if entry and entry.writer == placement.shard.name]
        since = Results()
        if entries and entries[0].number and entries[0].results and entries[0].results.since == newest.results.since:
            since = entries[0].results
        bad, total = newest.results.rejected - since.rejected, newest.results.records - since.records
        if bad >= bad_records_min and bad > bad_share_max * total:
            yield warning(
                placement.shard.name, wanted=f"at most {bad_share_max:.0%} bad records",
                found=f"{bad:,} of the newest {total:,}",
                follows="what they say is not learned", mends="`headrace status` counts the reasons; fix the producer",
            )  # fmt: skip


def keys(world: World) -> Iterator[Finding]:
    """Find shoppers whose records are in several partitions."""
    places: defaultdict[str, set[Partition]] = defaultdict(set)
    for place, _, said in world.sample:
        if isinstance(said, Event):
            places[said.shopper].add(place)
    spread = sorted(shopper for shopper, found in places.items() if len(found) > 1)
    if spread:
        example = ", ".join(map(key_of, sorted(places[spread[0]])))
        yield warning(
            "events", wanted="all records of a shopper in one partition",
            found=f"{len(spread):,} of {len(places):,} shoppers in several, such as {spread[0]!r} in {example}",
            follows="their order is lost, and a shopper's visit may be cut",
            mends="let all producers choose partitions as Kafka's default does (docs/publishing.md); if partitions were"
            " added, restart the producers",
        )  # fmt: skip


def senders(world: World) -> Iterator[Finding]:
    """Find sources whose clocks are far off: ahead of the log's, or a day behind while others are live."""
    delays: defaultdict[str, list[int]] = defaultdict(list)
    ahead = 0
    for _, record, said in world.sample:
        if isinstance(said, Rejection):
            ahead += said.reason == "time_ahead"
        elif record.time_ms:
            delays[said.source].append(record.time_ms - int(said.time.timestamp() * 1000))
    usual = {source: median(found) for source, found in delays.items() if len(found) >= source_records_min}
    live = any(abs(delay) <= live_delay_ms_max for delay in usual.values())
    for source, delay in usual.items():
        if delay < -sender_ahead_ms_max or (live and delay > live_delay_ms_max):
            yield _clock_off(f"source {source!r}", f"usually {delay / 1000:,.0f} s")
    if ahead >= source_records_min:
        yield _clock_off(
            "events", f"{ahead:,} of the newest {len(world.sample):,} records over 26 hours ahead (rejected)"
        )


def _clock_off(subject: str, found: str) -> Finding:
    return warning(
        subject, wanted="events that are sent soon after their own time, by right clocks", found=found,
        follows="pauses within a visit are wrong, and events that are far ahead are dead letters",
        mends="synchronise the sender's clock; if it loads history, nothing",
    )  # fmt: skip
