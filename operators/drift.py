"""Drift by the word of a person: what is silenced, what alarms said, and a silence."""

from collections.abc import Collection
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from headrace.drift import EVERY_DETECTOR, Silence, decode, record_of, told
from headrace.errors import Misconfigured
from headrace.events import Rejection
from headrace.log.protocol import Log, decode_json
from headrace.log.scan import newest_records, topic_records
from headrace.reading import Alarm
from headrace.topics import ALARMS, SILENCES

alarms_shown: Final = 20
"""Number of the newest records of `alarms` in which those of drift are looked for."""


class AlarmTold(Struct):
    """An alarm of drift: when (shop's time), by which detector, and what it says."""

    time_ms: int
    detector: str
    text: str


def silences(log: Log, time_ms: int) -> list[Silence]:
    """Return the silences that are not over at a time, the newest of each detector."""
    found: dict[str, Silence] = {}
    for record in topic_records(log, SILENCES):
        one = decode(record)
        if not isinstance(one, Rejection):
            found[one.detector] = one
    return [one for _, one in sorted(found.items()) if one.until_ms > time_ms]


def newest_alarms(log: Log) -> list[AlarmTold]:
    """Return the newest alarms of drift, oldest first."""
    found = []
    for record in newest_records(log, ALARMS, alarms_shown):
        one = decode_json(record.value, Alarm)
        if one and one.time_ms is not None:
            found.append(AlarmTold(one.time_ms, one.detector, told(one.moved, one.detail, one.silenced)))
    return found


def silence(log: Log, one: Silence) -> None:
    """Write a silence. Shards obey as soon as they read it."""
    with closing(log.appender()) as appender:
        appender.append(record_of(one))


def checked(one: Silence, detectors: Collection[str]) -> Silence:
    """Return a silence that can be obeyed.

    Raises:
        Misconfigured: no family has such a detector, or it ends before it begins.
    """
    if one.detector != EVERY_DETECTOR and one.detector not in detectors:
        names = ", ".join(sorted(detectors))
        raise Misconfigured(f"drift silence: wanted {EVERY_DETECTOR} or one of {names}, found {one.detector!r}")
    if one.until_ms <= one.from_ms:
        begin = utc(one.from_ms)
        raise Misconfigured(f"drift silence: wanted an end after its begin {begin}, found {utc(one.until_ms)}")
    return one


def time_ms_of(text: str) -> int:
    """Return a time, ISO 8601, in UTC unless it states a zone.

    Raises:
        Misconfigured: it is none.

    >>> time_ms_of("1970-01-02"), time_ms_of("1970-01-01T01:00:00+01:00")
    (86400000, 0)
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"wanted a time such as 2026-11-27T06:00 (UTC), found {text!r}") from None
    time_ms = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    if time_ms < 0:
        raise Misconfigured(f"wanted a time of 1970 or later, found {text!r}")
    return time_ms


def utc(time_ms: int) -> str:
    """Return a time in words."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
