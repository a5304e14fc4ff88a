"""The publisher: appends a numbered sequence of records to the log, paced, resumable, nothing twice.

A producer's records are a sequence that its *origin* (kind, name and digest of the input) determines. Each record
carries its origin and number, and one appender writes a partition in order; so what an earlier run left in a partition
is a prefix of that partition's part of the sequence, and its last number there tells where to go on. No side file is
kept that could disagree with the log.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log import Log, Outgoing, Partition, told
from headrace.topics import EVENTS, partitions_of, place_of

look_back_max: Final = 5_000
"""Records read at once while looking back for what an earlier run published."""
pace_slack_s: Final = 0.02
"""Sleeps shorter than this are saved up: a record may be this much early."""
progress_every: Final = 500
"""Records between two reports of progress."""
gate_poll_s: Final = 0.05
"""How often a closed gate is asked again."""
wait_s_max: Final = 1e9
"""Longest sleep before a record: decades; clocks of operating systems count no further than centuries."""
look_back_timeout_s: Final = 30.0
"""How long the log may take to give records that it says it holds."""


class Numbered(NamedTuple):
    """One record of a producer's sequence: its number from 0, event time, key, value and topic.

    Numbers grow within a topic but need not be consecutive.
    """

    number: int
    time_ms: int
    key: bytes
    value: bytes
    topic: str = EVENTS


class Progress(NamedTuple):
    """What a producer tells while it runs.

    `share` (0 to 1) is None where the total is unknown; `note` says why it waits, if it does.
    """

    published: int
    already: int
    share: float | None
    note: str = ""


class Published(NamedTuple):
    """What a run did: records published now and found from earlier runs, and input that was not used, by reason.

    `published` and `already` count records of `events`; `examples` holds the first few rejections with their line.
    """

    published: int
    already: int
    last_time_ms: int | None = None
    rejected: Mapping[str, int] = {}
    examples: Sequence[str] = ()


Gate = Callable[[int], str | None]
"""Asked with the number of `events` records so far; None lets the next one pass, a text says what is waited for."""
Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report to nobody."""


class _Origin(Struct):
    source: str
    id: str
    headraceload: str = ""


def published_number(value: bytes | None, family: str) -> tuple[str, int] | None:
    """Return the origin and number of a record that a producer of this family wrote, else None.

    A family is an origin less its digest. Loaded native events carry `ORIGIN#NUMBER` in the extension attribute
    `headraceload`, all others have the origin as `source` and an id that ends in `-NUMBER`.

    >>> published_number(b'{"source":"load:a:b:0f","id":"0f-12"}', "load:a:b")
    ('load:a:b:0f', 12)
    >>> published_number(b'{"source":"me","id":"x"}', "load:a:b") is None
    True
    """
    if value is None or family.encode() not in value:
        return None
    found = told(value, _Origin)
    if found is None:
        return None  # somebody else's record; the online consumer judges it
    origin, _, number = found.headraceload.rpartition("#") if found.headraceload else (found.source, "", found.id)
    digits = number.rpartition("-")[2]
    if origin.rpartition(":")[0] != family or not (digits.isascii() and digits.isdigit()):
        return None
    return origin, int(digits)


def last_published(log: Log, origin: str, topics: Iterable[str]) -> dict[Partition, int]:
    """Return the last number of this origin in each partition that holds any, looking back from the end.

    Where nothing is found this reads the whole partition: "never twice" is worth those seconds.

    Raises:
        Misconfigured: the log holds records of the same kind and name but of another content.
    """
    family = origin.rpartition(":")[0]
    found: dict[Partition, int] = {}
    for place in (place for topic in topics for place in partitions_of(topic)):
        first, last = log.first(place), log.last(place)
        if last is None:
            continue
        end = last.offset + 1  # what lies behind, up to the log's end, are markers
        reader = log.reader({place: first})
        try:
            while first < end and place not in found:
                start = max(first, end - look_back_max)
                reader.seek(place, start)
                while (position := reader.position(place)) < end:
                    batches = reader.read(end - position, look_back_timeout_s)
                    if not batches:
                        where = f"{place.topic}/{place.number}"
                        raise LogUnavailable(f"{where}: no records from {position} on, though some come before {end}")
                    for record in (record for _, records in batches for record in records if record.offset < end):
                        match = published_number(record.value, family)
                        if match and match[0] != origin:
                            raise Misconfigured(
                                f"{place.topic} holds records of {match[0]}, this is {origin}: the same name with other"
                                " content. Rename the input if its events are new ones, or publish to a fresh log"
                            )
                        if match:
                            found[place] = match[1]
                end = start
        finally:
            reader.close()
    return found


class Pace:
    """Holds records back so that event time passes `speed` times as fast as the clock.

    >>> pace = Pace(2.0, clock=lambda: 0.0)
    >>> pace.wait_s(10_000), pace.wait_s(14_000)
    (0.0, 2.0)
    """

    def __init__(self, speed: float, clock: Callable[[], float]) -> None:
        if not 0 < speed < float("inf"):
            raise Misconfigured(f"speed {speed}: wanted a factor above 0 (1 is real time), or max")
        self._speed, self._clock = speed, clock
        self._zero: tuple[int, float] | None = None

    def restart(self) -> None:
        """Count from the next record on: time spent waiting for something else is not caught up in a burst."""
        self._zero = None

    def wait_s(self, time_ms: int) -> float:
        """Return how long to wait before a record of this event time is due; 0 if it is."""
        if self._zero is None:
            self._zero = time_ms, self._clock()
        return max(0.0, (time_ms - self._zero[0]) / 1000 / self._speed - (self._clock() - self._zero[1]))


def publish(
    log: Log,
    records: Iterable[Numbered],
    *,
    origin: str,
    topics: Iterable[str] = (EVENTS,),
    speed: float | None = None,
    time_from_ms: int | None = None,
    time_to_ms: int | None = None,
    limit: int | None = None,
    gate: Gate | None = None,
    share: Callable[[], float | None] = lambda: None,
    progress: Report = silent,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Published:
    """Append the records that the log does not hold yet, and return once all are acknowledged.

    A load only goes forward: in each partition, what lies before the last record published under the same origin counts
    as published, whatever range an earlier run was given.

    Args:
        speed: how many times as fast as event time; None for as fast as the log takes them.
        time_from_ms, time_to_ms: event times to publish, from inclusive, to exclusive.
        limit: publish the first so many records of `events` in that range; what is already there counts.
        gate: asked before each record of `events`; while it gives a text, the publisher flushes and waits.
        share: how much of the input has been read, where the source knows.

    Raises:
        Misconfigured: an option, or other content under the same name (see `last_published`).
        LogUnavailable: the log did not acknowledge in time.
    """
    pace = None if speed is None else Pace(speed, clock)
    if limit is not None and limit < 0:
        raise Misconfigured(f"limit {limit}: wanted 0 or more")
    done = last_published(log, origin, topics)
    published = already = 0
    last_time_ms: int | None = None

    def report(note: str = "") -> None:
        reached = (published + already) / limit if limit else share()
        progress(Progress(published, already, reached, note))

    appender = log.appender()
    try:
        for record in records:
            counts = record.topic == EVENTS
            if (time_from_ms is not None and record.time_ms < time_from_ms) or (
                time_to_ms is not None and record.time_ms >= time_to_ms
            ):
                continue
            if limit is not None and counts and published + already >= limit:
                break
            outgoing = Outgoing(record.topic, record.key, record.value)
            if record.number <= done.get(place_of(outgoing), -1):
                already += counts
                if counts and already % progress_every == 0:
                    report()
                continue
            while gate is not None and counts and (note := gate(published + already)) is not None:
                appender.flush()
                report(note)
                sleep(gate_poll_s)
                if pace is not None:
                    pace.restart()
            if pace is not None and (wait_s := pace.wait_s(record.time_ms)) > pace_slack_s:
                appender.flush()
                report()
                sleep(min(wait_s, wait_s_max))
            appender.append(outgoing)
            if counts:
                published += 1
                last_time_ms = record.time_ms
                if published % progress_every == 0:
                    report()
        appender.flush()
    finally:
        appender.close()
    progress(Progress(published, already, 1.0))
    return Published(published, already, last_time_ms)
