"""Watches what others do to a log: the settings of its topics, and transactions that stay open and hide records."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.protocol import Finding, Log, Partition
from headrace.shard import journal
from headrace.topics import TOPICS, Shard

settings_interval_s: Final = 300.0
"""Time between two checks of the topics' settings."""
status_wait_s: Final = 1.0
expiring_share: Final = 0.1
"""Share of what a partition holds; if less of it lies before what a restart folds, retention will soon reach that."""
transactions_interval_s: Final = 10.0
"""Time between two looks for open transactions; one that is open at two looks in a row is reported. Ours take less."""


def refuse_settings(log: Log) -> None:
    """Raise Misconfigured if a topic's settings make what is learned wrong, or stop all writing."""
    _refuse(log.check_settings()[0])


def _refuse(findings: Sequence[Finding]) -> None:
    if refused := [f"topic {one.topic}: {one.setting}: {one.text}" for one in findings if one.refused]:
        raise Misconfigured("; ".join(refused))


def open_transactions(
    log: Log, partitions: Collection[Partition], *, wait_s: float = status_wait_s
) -> dict[Partition, tuple[int, int]]:
    """Return where a transaction is open now and `wait_s` later, as `Log.hidden` does; at once if none is open now."""
    if before := log.hidden(partitions):
        time.sleep(wait_s)
        return _still_open(before, log.hidden(before))
    return {}


def _still_open(
    before: Mapping[Partition, tuple[int, int]], now: Mapping[Partition, tuple[int, int]]
) -> dict[Partition, tuple[int, int]]:
    """Return where readers wait at the same position as before."""
    return {place: one for place, one in now.items() if place in before and before[place][0] == one[0]}


def restart_positions(log: Log, shard: Shard) -> dict[Partition, int]:
    """Return from where on a restart from the newest snapshot reads; empty without a snapshot."""
    entry = journal.newest(log, shard)
    if entry is None or entry.snapshot is None:
        return {}
    pointer = entry.snapshot
    needed = {journal.place_of_key(key): position for key, position in pointer.positions.items()}
    return needed | {shard.journal: pointer.journal, shard.judgements: pointer.judgements}


def expiring(log: Log, shard: Shard) -> list[str]:
    """Return where retention will soon delete, or has deleted, what a restart from the newest snapshot folds."""
    found = []
    for place, position in restart_positions(log, shard).items():
        first, end = log.first(place), log.end(place)
        if first > 0 and position < end and position - first < (end - first) * expiring_share:
            found.append(
                f"{journal.key_of(place)} begins at {first:,}: a restart of {shard.name} from its newest snapshot needs"
                f" {position:,} and later; see why it takes no snapshot, or let the topic keep records for longer"
            )
    return found


class LogWatch:
    """Looks now and then; call `look` often. Warns of what it finds once, and again when it has changed.

    Args:
        partitions: returns those that are read now, in which open transactions are looked for.
        on_settings: takes how many settings of each topic are not as needed.
        on_hidden: takes how many offsets of each partition an open transaction hides.
    """

    def __init__(
        self,
        log: Log,
        partitions: Callable[[], Collection[Partition]],
        *,
        on_settings: Callable[[Mapping[str, int]], None],
        on_hidden: Callable[[Mapping[Partition, int]], None],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._partitions = log, partitions
        self._on_settings, self._on_hidden, self._seconds = on_settings, on_hidden, seconds
        self._settings_at = self._transactions_at = float("-inf")
        self._warned: set[Finding] = set()
        self._unread: list[str] = []
        self._hidden: dict[Partition, tuple[int, int]] = {}
        self._warned_at: dict[Partition, int] = {}

    def look(self) -> None:
        """Check what is due.

        Raises:
            Misconfigured: a topic's settings make what is learned wrong, or stop all writing.
            LogUnavailable: the log did not answer the first check; later ones are made up for.
        """
        now = self._seconds()
        first = self._settings_at == float("-inf")
        try:
            if now - self._settings_at >= settings_interval_s:
                self._check_settings()
                self._settings_at = now
            if now - self._transactions_at >= transactions_interval_s:
                self._transactions_at = now
                self._find_open_transactions()
        except LogUnavailable:
            if first:
                raise

    def _check_settings(self) -> None:
        findings, unread = self._log.check_settings()
        logger = structlog.get_logger()
        for one in findings:
            if one not in self._warned and not one.refused:
                logger.warning("topic settings", topic=one.topic, setting=one.setting, found=one.text)
        if unread != self._unread and unread:
            logger.warning("topic settings not checked", topics=unread, wanted="the right DescribeConfigs")
        self._warned, self._unread = set(findings), unread
        counts = Counter(one.topic for one in findings)
        self._on_settings({topic: counts[topic] for topic in TOPICS if topic not in unread})
        _refuse(findings)

    def _find_open_transactions(self) -> None:
        partitions = self._partitions()
        found = self._log.hidden(partitions)
        still = _still_open(self._hidden, found)
        for place, (position, offsets) in still.items():
            if self._warned_at.get(place) != position:
                structlog.get_logger().warning(
                    "open transaction", topic=place.topic, partition=place.number, start_offset=position, hides=offsets
                )
        self._hidden, self._warned_at = found, {place: position for place, (position, _) in still.items()}
        self._on_hidden({place: still[place][1] if place in still else 0 for place in partitions})
