"""Public holidays: what the shop sells on them, and on the day before, by the usual of their weekday.

The days are those of a country by the library `holidays`, of the years that are needed; they are part of the state, so
a restored fold keeps the days that it began with until another year comes. One factor is learned for all holidays, and
one for the days before them: what was sold on them by the mean of the same weekday in the ordinary ones of the newest
weeks, shrunk to 1.
"""

from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Misconfigured
from learners.demand.sales import Floats, Sales
from learners.parts.portable import power_of_two

KINDS: Final = ("holiday", "day before a holiday")
_prior: Final = (2.0, 4.0)
"""Usual days on which as much as usual was sold that are added, by kind."""
_half_life: Final = 52.0
"""Holidays, or days before, after which one counts half."""
_days: Final = 35
"""Days whose sums are remembered: five of each weekday."""
_usual_min: Final = 2
"""Ordinary days of a weekday that make a usual one."""
_ratio_max: Final = 10.0
holidays_max: Final = 512
"""Most days of the table, of at most five years."""


class DaysOff:
    """The holidays of a country, and what is sold on them.

    Args:
        country: ISO 3166, empty for none; with a subdivision behind a hyphen, as "DE-BY".

    Raises:
        Misconfigured: the library knows no such country.

    Attributes:
        sums: what was sold by usual days, and the usual days, by kind. Shape (2, len(KINDS))
    """

    def __init__(self, country: str) -> None:
        self.country = country
        self.sums = np.zeros((2, len(KINDS)))
        self._years: list[int] = []
        self._holidays: set[int] = set()
        self._sold: dict[int, float] = {}  # by day
        self._from = 0  # days until this one are not remembered
        if country:
            of_country(country, [2026])

    @property
    def factors(self) -> Floats:
        """The factor of each kind of day. Shape (len(KINDS),)"""
        prior = np.array(_prior)
        return np.asarray((self.sums[0] + prior) / (self.sums[1] + prior))

    def kind(self, day: int) -> int | None:
        """Return the number of the kind of a day since the epoch, None if it is ordinary."""
        if day in self._holidays:
            return 0
        return 1 if day + 1 in self._holidays else None

    def buy(self, day: int, pieces: float) -> None:
        """Note what was bought on a day. Of days before the newest ones nothing is learned any more."""
        if self.country and day > self._from:
            self._sold[day] = self._sold.get(day, 0.0) + pieces

    def turn(self, sales: Sales, ended: int) -> None:
        """End the week `ended`, and those after it in which nothing was sold."""
        if not self.country:
            return
        first, until = sales.first_day(ended), sales.first_day(sales.week)
        self._cover(first, until + 366)
        for day in range(max(first, until - _days), until):
            kind = self.kind(day)
            usual = [
                self._sold.get(day - 7 * n, 0.0)
                for n in range(1, 5)
                if self.kind(day - 7 * n) is None and (day - 7 * n) in self._sold
            ]
            if kind is not None and len(usual) >= _usual_min and sum(usual) > 0:
                ratio = min(self._sold.get(day, 0.0) * len(usual) / sum(usual), _ratio_max)
                self.sums[:, kind] = self.sums[:, kind] * power_of_two(-1.0 / _half_life) + (ratio, 1.0)
        self._from = until - _days - 1
        self._sold = {day: sold for day, sold in self._sold.items() if day > self._from}

    def _cover(self, first: int, until: int) -> None:
        """Look up the holidays of years that are not known: one before and all from that of the first day on."""
        years = sorted({_year(first) - 1, *range(_year(first), _year(until) + 1)})[-5:]
        if years == self._years:
            return
        new = [year for year in years if year not in self._years]
        kept = {day for day in self._holidays if _year(day) in years}
        self._holidays = kept | set(of_country(self.country, new))
        self._holidays = set(sorted(self._holidays)[-holidays_max:])
        self._years = years

    def of_days(self, days: NDArray[np.int64]) -> Floats:
        """Return the factor of each day. Shapes: as days"""
        known, factors = np.array(sorted(self._holidays), np.int64), self.factors
        before = np.isin(days + 1, known)
        return np.where(np.isin(days, known), factors[0], np.where(before, factors[1], 1.0))

    def of_weeks(self, weeks: NDArray[np.int64], sales: Sales) -> Floats | None:
        """Return the factor of each week by the shop's weekdays, None if all are 1. Shapes: as weeks"""
        if not self._holidays or not self.sums[1].any():
            return None
        distinct, place = np.unique(weeks, return_inverse=True)
        days = distinct[:, None] * sales.period_days + sales.first_day(0) + np.arange(sales.period_days)
        total = np.add.reduce(sales.shop_weekdays)
        shares = sales.shop_weekdays[(days - 4) % 7] + total / 700.0 if total > 0 else np.ones(days.shape)
        factors = self.of_days(days)
        found = np.add.reduce(shares * factors, axis=1) / np.add.reduce(shares, axis=1)
        return None if np.all(found == 1.0) else found[place].reshape(weeks.shape)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of the table of holidays."""
        return {"holidays": (len(self._holidays), holidays_max)}

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "country": self.country, "sums": self.sums.copy(), "years": list(self._years), "from": self._from,
            "holidays": sorted(self._holidays), "sold": [[day, sold] for day, sold in self._sold.items()],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], country: str) -> Self:
        """Return what continues where `state` was taken; of another country it is empty."""
        found = cls(country)
        if state["country"] == country:
            found.sums, found._years = state["sums"].copy(), list(state["years"])
            found._from = state["from"]
            found._holidays, found._sold = set(state["holidays"]), dict(state["sold"])
        return found


def _year(day: int) -> int:
    return int(np.datetime64(day, "D").astype("datetime64[Y]").astype(int)) + 1970


def of_country(country: str, years: list[int]) -> list[int]:
    """Return the public holidays of years, in days since the epoch.

    >>> of_country("GB", [2025])[-2:]  # 25 and 26 December
    [20447, 20448]

    Raises:
        Misconfigured: the library knows no such country, or is not installed.
    """
    try:
        import holidays  # it takes a while, and few shops need it
    except ImportError as error:
        raise Misconfigured(
            f"demand.country {country}: wanted the library `holidays`, found none; install headrace[holidays]"
        ) from error
    name, _, part = country.partition("-")
    try:
        if len(name) != 2:  # the library takes some names, too
            raise ValueError(name)
        found = holidays.country_holidays(name, subdiv=part or None, years=years)
    except (NotImplementedError, ValueError) as error:
        raise Misconfigured(
            f"demand.country: wanted a country of ISO 3166 that the library `holidays` knows, as"
            f' "GB" or "DE-BY", found {country!r}'
        ) from error
    epoch = np.datetime64(0, "D")
    return sorted(int((np.datetime64(day) - epoch).astype(int)) for day in found)
