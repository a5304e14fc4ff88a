"""Checks of the log: its topics, their settings, what retention will delete, what others have written."""

from collections.abc import Iterator
from typing import Final

from headrace.log.protocol import Partition
from headrace.shard.journal import key_of
from headrace.topics import EVENTS, JOURNAL
from headrace.watch import expiring_share, open_transactions, restart_positions
from operators.doctor.finding import Finding, World, error, warning

ahead_warned_ms: Final = 5_000
"""How far append times may be ahead of this machine's clock: clocks that are synchronised differ by less."""
ahead_wrong_ms: Final = 3_600_000
"""Visits, rounds and drift go by append times; this far off, they are wrong until the clock has caught up."""


def topics(world: World) -> Iterator[Finding]:
    """Find topics that are missing."""
    if missing := world.log.missing():
        yield error(
            ", ".join(missing), wanted="all topics of docs/topics.md", found=f"{len(missing)} missing",
            follows="their records cannot be read or written",
            mends="`headrace status` makes missing topics, if its user may; see docs/topics.md",
        )  # fmt: skip


def topic_settings(world: World) -> Iterator[Finding]:
    """Find settings of topics that are not as needed."""
    findings, unread = world.log.check_settings()
    for one in findings:
        what, _, mends = one.text.partition(". To do: ")
        wanted, _, rest = what.removeprefix("wanted ").partition(", found ")
        found, _, follows = rest.partition(": ")
        make = error if one.refused else warning
        yield make(f"{one.topic}: {one.setting}", wanted=wanted, found=found, follows=follows, mends=mends)
    if unread:
        yield warning(
            ", ".join(unread), wanted="settings that can be read", found="no right DescribeConfigs",
            follows="settings that lose records stay unseen", mends="grant DescribeConfigs on the topics",
        )  # fmt: skip


def transactions(world: World) -> Iterator[Finding]:
    """Find transactions that stay open."""
    places = dict.fromkeys(place for one in world.placements for place in one.shard.inputs(world.log))
    for place, (position, offsets) in open_transactions(world.log, places).items():
        yield error(
            key_of(place), wanted="transactions that end within seconds",
            found=f"one that is open at {position:,} and hides {offsets:,} offsets",
            follows="nothing behind it is read",
            mends=f"end its producer, or `kafka-transactions.sh abort --topic {place.topic} --partition {place.number}"
            f" --start-offset {position}`",
        )  # fmt: skip


def retention(world: World) -> Iterator[Finding]:
    """Find what a restart needs and retention has deleted, or will soon."""
    for shard in world.deployment.shards:
        for place, position in restart_positions(world.log, shard).items():
            first, end = world.log.first(place), world.log.end(place)
            subject = f"{shard.name}: {key_of(place)}"
            if first > position:
                yield error(
                    subject, wanted=f"records from {position:,} on, which a restart reads",
                    found=f"those from {first:,} to {end:,}",
                    follows="the process ends with PositionLost at its next start",
                    mends="`headrace restore` from a backup, or `headrace accept-loss`",
                )  # fmt: skip
            elif first > 0 and position < end and position - first < (end - first) * expiring_share:
                yield warning(
                    subject, wanted="a snapshot that is much newer than what retention deletes",
                    found=f"the log begins at {first:,}, a restart reads from {position:,} on",
                    follows="soon a restart is impossible",
                    mends="see in the log of the process why it takes no snapshot (`snapshot failed`), or keep records"
                    " longer",
                )  # fmt: skip


def strays(world: World) -> Iterator[Finding]:
    """Find records of other programs in the shards' own topics."""
    for one in world.verified:
        if one.strays:
            yield warning(
                one.shard, wanted="a journal and judgements that only the shard writes",
                found=f"{one.strays:,} records of another program", follows="they are passed over",
                mends="find the program, and take its right to write (docs/topics.md#rights)",
            )  # fmt: skip


def clocks(world: World) -> Iterator[Finding]:
    """Find partitions whose newest append time is ahead of this machine's clock."""
    journals = [shard.journal for shard in world.deployment.shards]
    now_ms = world.clock()
    ahead = {place: ahead_ms for place in (*world.log.partitions(EVENTS), *journals)
             if (ahead_ms := _newest_ms(world, place) - now_ms) > ahead_warned_ms}  # fmt: skip
    if ahead:
        place, ahead_ms = max(ahead.items(), key=lambda one: one[1])
        make = error if ahead_ms >= ahead_wrong_ms else warning
        yield make(
            ", ".join(map(key_of, ahead)),
            wanted=f"append times at most {ahead_warned_ms / 1000:g} s ahead of this clock",
            found=f"{key_of(place)} {ahead_ms / 1000:,.0f} s ahead",
            follows="until this clock is there, later records get the same append time; freshness and pauses are wrong",
            mends="synchronise the clocks (NTP) of this machine and of those that append",
        )  # fmt: skip


def _newest_ms(world: World, place: Partition) -> int:
    last = world.log.last(place)
    return last.time_ms if last else 0


def digests(world: World) -> Iterator[Finding]:
    """Find entries whose records or judgements are missing or were changed."""
    for one in world.verified:
        damaged = tuple(f"blob {blob} " for blob, whole in one.snapshots.items() if not whole)
        for problem in one.problems:
            if damaged and problem.startswith(damaged):
                continue  # what `snapshots` tells
            yield error(
                f"{one.shard}: {JOURNAL}", wanted="records and judgements as the shard learned them", found=problem,
                follows="a fold that reads this entry ends with an error",
                mends="`headrace verify` lists all; `headrace restore` from a backup",
            )  # fmt: skip
