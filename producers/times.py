"""Times as files write them: ISO 8601, dates with slashes in either order, two-digit years, numbers since 1970."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from math import isfinite
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo

from headrace.errors import Misconfigured
from headrace.events import time_min_ms

DateOrder = Literal["month-first", "day-first"]
"""The order of day and month in a date that begins with neither a year nor a name."""
TimeUnit = Literal["s", "ms", "us", "ns"]
"""The unit of a time that is a number since 1970."""

conclusive_dates_max: Final = 200
"""Number of dates with only one reading after which the order is decided."""
other_times_max: Final = 2_000
"""Number of times that are no such dates, with none that is, after which the file is taken to have none."""
_MIN: Final = time_min_ms
_MAX: Final = 4_102_444_800_000
_UNITS: Final[dict[TimeUnit, int]] = {"s": 1_000, "ms": 1, "us": 1_000, "ns": 1_000_000}
_REST: Final = (
    r"(?:[ T]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?)?"
    r"\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?"
)
_DATE: Final = re.compile(r"(?P<a>\d{1,2})(?P<mark>[/.-])(?P<b>\d{1,2})(?P=mark)(?P<year>\d{4}|\d{2})" + _REST)
_YEAR_FIRST: Final = re.compile(r"(?P<year>\d{4})(?P<mark>[/.-])(?P<a>\d{1,2})(?P=mark)(?P<b>\d{1,2})" + _REST)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMED: Final = re.compile(
    r"(?P<b>\d{1,2})(?P<mark>[- ])(?P<name>[A-Za-z]{3})[a-z]*(?P=mark)(?P<year>\d{4}|\d{2})" + _REST
)
_OFFSET: Final = re.compile(r"([+-])(\d{2}):?(\d{2})?")


def zone_of(name: str) -> tzinfo:
    """Return the zone of a name such as Europe/Berlin or an offset such as +05:30. Raises Misconfigured.

    >>> zone_of("+05:30")
    datetime.timezone(datetime.timedelta(seconds=19800))
    """
    if name.upper() in ("UTC", "Z"):
        return UTC
    if match := _OFFSET.fullmatch(name):
        return _offset(match)
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError) as error:  # what zoneinfo raises for names that are none
        raise Misconfigured(
            f"zone {name!r}: wanted a name such as Europe/Berlin, or an offset such as +05:30 ({error})"
        ) from None


def _offset(match: re.Match[str]) -> timezone:
    minutes = int(match[2]) * 60 + int(match[3] or 0)
    return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))


def number_ms(text: str | float, unit: TimeUnit | None = None) -> int:
    """Return a time that is a number since 1970, in milliseconds. Raises ValueError.

    Without a unit, the one is taken that gives a time from 1995 to 2100; there is one at most.

    >>> number_ms("1433221332", "s"), number_ms(1433221332117000, "us"), number_ms("1.5", "s")
    (1433221332000, 1433221332117, 1500)
    >>> number_ms("1433221332") == number_ms(1433221332000)
    True
    """
    try:
        value = int(text) if not isinstance(text, float) else text
    except ValueError:
        value = float(text)
    if not isfinite(value):
        raise ValueError(f"wanted a time, found {text}")
    if unit is None:
        return next((ms for unit in get_args(TimeUnit) if _MIN <= (ms := number_ms(value, unit)) < _MAX), int(value))
    if unit == "s":
        return round(value * 1_000)
    return int(value // _UNITS[unit])


@lru_cache(maxsize=1_024)  # the lines of an order have the same time
def text_ms(text: str, order: DateOrder, zone: tzinfo) -> int:
    """Return a time in milliseconds since 1970; `zone` is that of times which state none. Raises ValueError.

    Months may have English names, as in 1-Dec-2010.

    >>> text_ms("12/1/2010 8:26", "month-first", UTC) == text_ms("2010-12-01T13:56:00+05:30", "month-first", UTC)
    True
    >>> text_ms("01.12.10 08:26", "day-first", UTC) == text_ms("2010-12-01 08:26:00 UTC", "day-first", UTC)
    True
    """
    text = text.strip()
    if match := _YEAR_FIRST.fullmatch(text):
        found = _from_parts(match, "month-first")
    elif match := _DATE.fullmatch(text):
        found = _from_parts(match, order)
    elif (match := _NAMED.fullmatch(text)) and match["name"].lower() in _MONTHS:
        found = _from_parts(match, "month-first")
    else:
        found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=zone)).timestamp() * 1000)


def _from_parts(match: re.Match[str], order: DateOrder) -> datetime:
    names = match.groupdict()
    first, second = int(names.get("a") or _MONTHS.index(names["name"].lower()) + 1), int(match["b"])
    month, day = (first, second) if order == "month-first" else (second, first)
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 2000 if year < 70 else 1900
    hour = int(match["hour"] or 0)
    if half := match["half"]:
        if not 1 <= hour <= 12:
            raise ValueError(f"wanted an hour of 1 to 12 before {half}m, found {hour}")
        hour = hour % 12 + (12 if half in "Pp" else 0)
    micros = int((match["fraction"] or "0")[:6].ljust(6, "0"))
    zone: tzinfo | None = None
    if match["zone"]:
        offset = _OFFSET.fullmatch(match["zone"])
        zone = _offset(offset) if offset else UTC
    return datetime(year, month, day, hour, int(match["minute"] or 0), int(match["second"] or 0), micros, zone)


def date_order(texts: Iterable[str], what: str) -> DateOrder:
    """Return the order of day and month in a file's dates, by those that have only one reading.

    Dates with a year first need none. If all dates have both readings, those with slashes and without leading zeros
    (`12/1/2010 8:26`) are taken as published in the US, month first.

    Raises:
        Misconfigured: every date has both readings, and they are written otherwise; or both orders occur equally often.

    >>> date_order(["01/12/2010 08:26", "13/12/2010 08:26"], "file")
    'day-first'
    >>> date_order(["12/1/2010 8:26"], "file")
    'month-first'
    """
    month_first = day_first = others = 0
    ambiguous, as_in_the_us, padded = "", False, False
    for text in texts:
        if (match := _DATE.fullmatch(text.strip())) is None:
            others += 1
            if others >= other_times_max and not ambiguous and not month_first and not day_first:
                break
            continue
        a, b = int(match["a"]), int(match["b"])
        month_first += b > 12 >= a
        day_first += a > 12 >= b
        if a != b and a <= 12 and b <= 12:
            ambiguous = ambiguous or text
            padded = padded or "0" in (match["a"][0], match["b"][0])
            short = 1 in (len(match["a"]), len(match["b"]), len(match["hour"] or "00"))
            as_in_the_us = as_in_the_us or (short and match["mark"] == "/")
        if max(month_first, day_first) >= conclusive_dates_max:
            break
    if month_first != day_first:
        return "month-first" if month_first > day_first else "day-first"
    say = "say which with --dates month-first or --dates day-first"
    if month_first:
        raise Misconfigured(
            f"{what}: wanted dates of one order, found {month_first:,} with the month first and as many with the day"
            f" first; {say}"
        )
    if ambiguous and (padded or not as_in_the_us):
        raise Misconfigured(
            f"{what}: the date {ambiguous!r} is ambiguous, and no other date tells whether the day or the month is"
            f" first; {say}"
        )
    return "month-first"
