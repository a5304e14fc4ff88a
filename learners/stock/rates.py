"""How many pieces of each item are demanded per day: learned day by day, knowing what sales do not show.

A day in which an item was out of stock for a part counts as that part less: what nobody could buy does not mean that
nobody wanted it. A day at a sale's price counts as more: the *uplift* is how many times as much is demanded while a
sale lasts, that of the shop until an item has sales of its own. So the rate is that of ordinary days, and an
announced sale multiplies it while it lasts.

The rate is a mean in which a day's weight halves within a time. Several half-lives follow each item, and their mixture
is by how well each has foretold the item's weeks lately (exponential weights of squared errors): after a jump the
shortest one leads, else longer ones. The variance of what comes is learned from the errors of the mixture on
whole weeks, as a multiple of the mean.

Source: Gardner, "Exponential smoothing: the state of the art, part II", International Journal of Forecasting 22
(2006); Nahmias, "Demand estimation in lost sales inventory systems", Naval Research Logistics 41 (1994) (sales are
censored where stock ends); Cesa-Bianchi and Lugosi, "Prediction, learning, and games", 2006 (exponential weights).
The shares of a day and of a sale as exposure are those of a Poisson rate with a gamma prior.
"""

from math import fsum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts.portable import exp, power_of_two
from learners.stock.policy import Demand, Expected, gamma

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]

HALF_LIVES: Final = (14.0, 56.0, 224.0)
"""Days in which a day's weight halves."""
_half_life_errors_weeks: Final = 13.0
_losses_half_life_weeks: Final = 8.0
_prior_lines: Final = 0.02
_prior_days: Final = 20.0
"""An item begins as if it had sold this share of a line, at the pace of a line in so many days."""
_uplift_prior: Final = 10.0
"""Lines at a sale's price after which an item's own uplift counts as much as the shop's."""
_uplift_begin: Final = (3.0, 1.5)
"""Lines sold at a sale's price, and expected without it, that a shop begins with: sales that double what is sold."""
_known_days: Final = 28.0
"""Days of exposure from which on an item's weeks are judged, its newest one included."""
uplift_max: Final = 20.0
_dispersion_prior: Final = 10.0
"""Lines of the prior of an item's variance."""
_week: Final = 7


class Rates:
    """The rates of items, each in a slot. `day` ends a day; all arrays are of one length, that of the slots.

    Attributes:
        days: how many days have ended.
        lines: lines and their pieces, of about a year. Shape (2, I)
        shop: lines at sales' prices, and how many were expected without; pieces and lines of all items.

    Shapes: arrays: (I,); those by half-life: (H, I)
    """

    def __init__(self, items: int) -> None:
        self.days = 0
        self._sums, self._exposed = np.zeros((len(HALF_LIVES), items)), np.zeros((len(HALF_LIVES), items))
        self._week = np.zeros((2, items))  # of the running week: pieces and exposure
        self._foretold = np.zeros((len(HALF_LIVES), items))  # the rates at its begin
        self._losses = np.zeros((len(HALF_LIVES), items))
        self._errors = np.zeros((2, items))  # squared errors of weeks, and the means that were foretold
        self.lines = np.zeros((2, items))
        self._promoted = np.zeros((2, items))  # pieces at sales' prices, and how many were expected without
        self.shop = np.array([*_uplift_begin, 0.0, 0.0])

    def __len__(self) -> int:
        return self._sums.shape[1]

    def grow(self, items: int) -> None:
        """Make room for more items."""
        more = items - len(self)
        for name in _BY_ITEM:
            one = getattr(self, name)
            setattr(self, name, np.concatenate([one, np.zeros((len(one), more))], axis=1))

    def forget(self, slot: int) -> None:
        """Begin a slot anew, for another item."""
        for name in _BY_ITEM:
            getattr(self, name)[:, slot] = 0.0

    def keep(self, kept: Slots) -> None:
        """Keep the items of some slots, which move to the first slots; the others are begun anew."""
        for name in _BY_ITEM:
            one = getattr(self, name)
            one[:, : len(kept)], one[:, len(kept) :] = one[:, kept], 0.0

    def some(self, slots: Slots) -> Self:
        """Return a copy of the rates of some slots: what is asked of few items costs no more than these."""
        found = type(self)(0)
        found.days, found.shop = self.days, self.shop.copy()
        for name in _BY_ITEM:
            setattr(found, name, getattr(self, name)[:, slots])
        return found

    def take_back(self, slot: int, pieces: float) -> None:
        """Take back pieces of an earlier day, as they were returned."""
        self._sums[:, slot] = np.maximum(self._sums[:, slot] - pieces, 0.0)

    @property
    def line(self) -> Floats:
        """The mean pieces of a line, the shop's where an item has few. Shape (I,)"""
        shop = (self.shop[2] + 1.0) / (self.shop[3] + 1.0)
        return np.asarray((self.lines[1] + 2.0 * shop) / (self.lines[0] + 2.0))

    @property
    def rate(self) -> Floats:
        """Pieces demanded per ordinary day. Shape (I,)"""
        return np.asarray(np.add.reduce(self._weights() * self._each(), axis=0))

    def _each(self) -> Floats:
        return np.asarray((self._sums + _prior_lines * self.line) / (self._exposed + _prior_lines * _prior_days))

    def _weights(self) -> Floats:
        """Return the weight of each half-life. Shape (H, I)"""
        found = exp((np.minimum.reduce(self._losses, axis=0) - self._losses) / 2)
        return np.asarray(found / np.add.reduce(found, axis=0))

    @property
    def dispersion(self) -> Floats:
        """The variance of a week's demand over its mean. Shape (I,)"""
        prior = _dispersion_prior * self.line
        found = (self._errors[0] + prior * (2 * self.line - 1)) / (self._errors[1] + prior)
        return np.asarray(np.maximum(found, 1.0))

    @property
    def uplift(self) -> Floats:
        """How many times as much is demanded at a sale's price. Shape (I,)"""
        shop = self.shop[0] / self.shop[1]
        prior = _uplift_prior * self.line
        return np.asarray(np.clip((self._promoted[0] + prior * shop) / (self._promoted[1] + prior), 1.0, uplift_max))

    def day(self, pieces: Floats, lines: Floats, away: Floats, promoted: NDArray[np.bool_]) -> None:
        """End a day.

        Args:
            pieces, lines: what was sold of each item, and in how many lines.
            away: the share of the day in which it was out of stock, between 0 and 1.
            promoted: whether it was sold at a sale's price.
        """
        if self.days % _week == 0:
            self._foretold = self._each()  # of the whole week, as a rate that follows within it explains itself
        here, uplift = 1.0 - away, self.uplift
        expected = self.rate * here
        self._promoted += np.where(promoted, (pieces, expected), 0.0)
        sold = np.where(promoted, (pieces, expected), 0.0) / self.line
        self.shop[:2] += fsum(sold[0].tolist()), fsum(sold[1].tolist())  # exact, so in any order
        exposed = np.where(promoted, uplift, 1.0) * here
        for k, half_life in enumerate(HALF_LIVES):
            faded = 1 - (1 - power_of_two(-1 / half_life)) * here  # what is away is not forgotten
            self._sums[k], self._exposed[k] = self._sums[k] * faded + pieces, self._exposed[k] * faded + exposed
        kept = power_of_two(-1 / (8 * HALF_LIVES[1]))
        self.shop[2:] = self.shop[2:] * kept + (fsum(pieces.tolist()), fsum(lines.tolist()))
        self.lines = self.lines * kept + (lines, pieces)
        self._week += (pieces, exposed)
        self.days += 1
        if self.days % _week == 0:
            self._judge()

    def _judge(self) -> None:
        """Judge what was foretold of a week by what came."""
        weights = self._weights()
        known = self._exposed[-1] >= _known_days
        came, exposed = np.where(known, self._week, 0.0)
        foretold = self._foretold * exposed
        mixed = np.add.reduce(weights * foretold, axis=0)
        unit = np.maximum(mixed, 0.2) * self.dispersion
        kept = power_of_two(-1 / _losses_half_life_weeks)
        for k in range(len(HALF_LIVES)):
            # Bounded, so that one order is not mistaken for another rate.
            self._losses[k] = self._losses[k] * kept + np.minimum((came - foretold[k]) ** 2 / unit, 16.0)
        kept = power_of_two(-1 / _half_life_errors_weeks)
        self._errors = self._errors * kept + ((came - mixed) ** 2, mixed)
        self._week[:] = 0.0

    def expected(self, now: float, sale_from: Floats, sale_until: Floats) -> Expected:
        """Return what is demanded within some days from now.

        Args:
            now: in days.
            sale_from, sale_until: the time of the item's sale that runs or is announced, in days; infinite without one.
                Shapes: (I,)
        """
        rate, uplift, dispersion = self.rate, self.uplift, self.dispersion

        def within(days: Floats) -> Demand:
            on_sale = np.maximum(
                np.minimum(sale_until, now + days) - np.minimum(np.maximum(sale_from, now), now + days), 0
            )
            mean = np.maximum(rate * (days + (uplift - 1) * on_sale), 1e-9)
            return Demand(mean, gamma(mean, mean * dispersion))

        return within

    def lasts(self, pieces: Floats, now: float, sale_from: Floats, sale_until: Floats, most: float) -> Floats:
        """Return within how many days from now so many pieces are demanded, in the mean.

        Args:
            now, sale_from, sale_until: as of `expected`.
            most: the most days that are told.

        Shapes: (I,)
        """
        rate, uplift = np.maximum(self.rate, 1e-9), self.uplift
        begins = np.clip(sale_from - now, 0.0, most)
        ends = np.clip(sale_until - now, begins, most)
        before = np.minimum(pieces / rate, begins)
        within = np.minimum((pieces / rate - before) / uplift, ends - begins)
        return np.asarray(np.minimum(before + within + pieces / rate - before - within * uplift, most))

    @property
    def exposed(self) -> Floats:
        """Of how many days sales are known, the older ones less. Shape (I,)"""
        return np.asarray(self._exposed[-1])

    def state(self, count: int | None = None) -> State:
        """Return all of it, or that of the first slots."""
        used = slice(0, count)
        return {"days": self.days, "shop": self.shop.copy()} | {
            name.strip("_"): getattr(self, name)[:, used].copy() for name in _BY_ITEM
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return rates that continue where `state` was taken."""
        found = cls(state["sums"].shape[1])
        found.days, found.shop = state["days"], state["shop"].copy()
        for name in _BY_ITEM:
            setattr(found, name, state[name.strip("_")].copy())
        return found


_BY_ITEM: Final = ("_sums", "_exposed", "_week", "_foretold", "_losses", "_errors", "lines", "_promoted")
