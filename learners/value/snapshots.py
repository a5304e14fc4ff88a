"""Snapshots of the past: features of a sample of shoppers as they were known then, and what these did afterwards.

A moment is taken once a week of the shop's time. Its outcomes become known when each horizon is over, by default 30
and 91 days later: what a shopper has bought so far is noted at each of these times, so an outcome is a difference. What
is returned later is taken from all notes that were made after it was bought, so that outcomes become what they would
have been, and features stay what was known.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.value.features import Scaling, features
from learners.value.items import Items
from learners.value.model import Outcome, Sums, sums
from learners.value.shoppers import BORN, ORDERS, SPENT, Floats, Shoppers

Places = NDArray[np.int64]


class Horizons(NamedTuple):
    """Days after a moment whose orders are an outcome. The far horizon is at least twice the near one."""

    near: int = 30
    far: int = 91

    @property
    def marks(self) -> tuple[int, int, int]:
        """The days after a moment at which is noted what was bought so far."""
        return 0, self.near, self.far

    @property
    def periods(self) -> tuple[int, ...]:
        """The days after a moment at which periods of the near horizon begin that about fill the far one.

        >>> Horizons(30, 91).periods, Horizons(7, 28).periods, Horizons(7, 14).periods
        ((0, 30, 61), (0, 7, 14, 21), (0, 7))
        """
        last = round(self.far / self.near) - 1
        return tuple(round(n * (self.far - self.near) / last) for n in range(last + 1))


class Snapshot:
    """A sample of shoppers at a moment.

    Attributes:
        day: days since the epoch.
        places: the shoppers' rows, in ascending order; -1 once one was forgotten. Shape (R,)
        values: their features. Shape (R, len(features.NAMES))
        notes: grains and orders so far, at the moment and after each horizon. Shape (2, 3, R)
        noted: how many of the three notes were made.
        guessed: the probability of a purchase and the grains that were expected at the moment, with the ends of the
            interval, by horizon; NaN where nothing was. Shape (2, 4, R)
        sums: by horizon, the sums of the known outcomes; None until wanted, and again after an outcome has changed.
    """

    def __init__(
        self, day: int, places: Places, values: NDArray[np.float32], scaling: Scaling, horizons: Horizons
    ) -> None:
        self.day, self.places, self.values, self.scaling = day, places, values, scaling
        self._marks = horizons.marks
        self.notes = np.zeros((2, len(self._marks), len(places)))
        self.noted = 0
        self.guessed = np.full((len(horizons), 4, len(places)), np.nan)
        self.sums: list[Sums | None] = [None] * len(horizons)
        self._design: NDArray[np.float32] | None = None
        self._squares: list[Floats | None] = [None] * len(horizons)
        self._row_of: dict[int, int] | None = None  # by place, None until wanted

    @classmethod
    def take(cls, day: int, shoppers: Shoppers, items: Items, sample_max: int, horizons: Horizons) -> Self | None:
        """Return the rows of a moment; None if nobody has bought yet.

        Of more shoppers than the maximum, those are taken whose number, mixed with the day, is lowest.
        """
        rows = shoppers.in_use
        places = np.flatnonzero(rows[:, ORDERS] > 0)
        if not len(places):
            return None
        order = float(np.add.reduce(np.maximum(rows[places, SPENT], 0.0)) / np.add.reduce(rows[places, ORDERS]))
        if len(places) > sample_max:
            mixed = mix(shoppers.numbers[places], day)
            places = np.sort(places[np.argsort(mixed, kind="stable")[:sample_max]])
        order = order or 1.0
        telling = items.telling(shoppers.items[places], float(day))
        values = features(rows[places], telling, float(day), order)
        found = cls(day, places, values, Scaling.of(values, order), horizons)
        found.note(shoppers)
        return found

    @property
    def next_day(self) -> int | None:
        """The day of the next note, None if all were made."""
        return self.day + self._marks[self.noted] if self.noted < len(self._marks) else None

    @property
    def noted_day(self) -> int:
        """The day of the newest note."""
        return self.day + self._marks[self.noted - 1]

    def note(self, shoppers: Shoppers) -> int:
        """Note what the shoppers have bought so far; return of how many nothing more is known, as they were forgotten.

        They have no outcomes that are not known yet.
        """
        gone = (self.places >= 0) & (shoppers.rows[self.places, BORN] >= self.day)
        self.places[gone] = -1
        self._row_of = None
        for n, column in enumerate((SPENT, ORDERS)):
            self.notes[n, self.noted] = np.where(self.places >= 0, shoppers.rows[self.places, column], np.nan)
        self.noted += 1
        return int(np.count_nonzero(gone))

    def take_back(self, place: int, bought_day: float, grains: float, orders: int) -> int:
        """Take what was returned from the notes made after it was bought; return how many outcomes changed.

        An order that arrives late is less than nothing that is returned.
        """
        if bought_day >= self.noted_day:
            return 0
        after = [n for n in range(self.noted) if bought_day < self.day + self._marks[n]]
        changed = 0
        if self._row_of is None:
            self._row_of = {place: row for row, place in enumerate(self.places.tolist())}
        if (row := self._row_of.get(place)) is not None:
            self.notes[0, after, row] -= grains
            self.notes[1, after, row] -= orders
            if 0 not in after:  # else it was bought before the moment, and counts in no outcome
                for n in after:
                    self.sums[n - 1] = None
                    changed += 1
        return changed

    def known(self, horizon: int) -> bool:
        """Return whether the outcomes within a horizon, by its number, are known."""
        return self.noted > horizon + 1

    def outcome(self, horizon: int) -> tuple[NDArray[np.bool_], Outcome]:
        """Return of which shoppers an outcome is known, and theirs."""
        difference = self.notes[:, horizon + 1] - self.notes[:, 0]
        there = ~np.isnan(difference[0])
        return there, Outcome(np.maximum(difference[0, there], 0.0), np.maximum(difference[1, there], 0.0))

    def design(self) -> NDArray[np.float32]:
        """Return the design of the features. Shape (R, width)"""
        if self._design is None:
            self._design = self.scaling.design(self.values)
        return self._design

    def learned(self, horizon: int) -> Sums | None:
        """Return the sums of the outcomes within a horizon, None if there are none."""
        found = self.sums[horizon]
        if found is None:
            there, outcome = self.outcome(horizon)
            if not there.any():
                return None
            square = self._squares[horizon]
            found = self.sums[horizon] = sums(self.design()[there], outcome, square)
            self._squares[horizon] = found.square
        return found

    def moved(self, places: Places) -> None:
        """Follow the rows of shoppers to other places, -1 for those that were forgotten."""
        known, self._row_of = self.places >= 0, None
        self.places[known] = places[self.places[known]]

    def shorten(self, rows_max: int) -> None:
        """Keep at most so many rows."""
        if len(self.places) > rows_max:
            self.places, self.values = self.places[:rows_max], self.values[:rows_max]
            self.notes, self.guessed = self.notes[:, :, :rows_max], self.guessed[:, :, :rows_max]
            self._row_of = None

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "day": self.day, "places": self.places.copy(), "values": self.values.copy(),
            "scaling": self.scaling.state(), "notes": self.notes.copy(), "noted": self.noted,
            "guessed": self.guessed.copy(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], horizons: Horizons) -> Self:
        """Return what continues where `state` was taken, of snapshots with these horizons."""
        scaling = Scaling.from_state(state["scaling"])
        found = cls(state["day"], state["places"].copy(), state["values"].copy(), scaling, horizons)
        found.notes, found.noted = state["notes"].copy(), state["noted"]
        found.guessed = state["guessed"].copy()
        return found


def mix(numbers: NDArray[np.int64], day: int) -> NDArray[np.uint64]:
    """Return numbers that look drawn anew for each day, from those of shoppers.

    >>> mix(np.array([1, 2]), 7).tolist() == mix(np.array([1, 2]), 7).tolist() != mix(np.array([1, 2]), 14).tolist()
    True

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (its finaliser).
    """
    mixed = numbers.astype(np.uint64) + np.uint64(day * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
