"""The yearly season: what categories and the shop sold in each week a year ago, beside the weeks around it.

The *shape* of a category is what it sold by week, smoothed over three weeks; that of one with few pieces is mostly the
shop's, and that of a shop with few is flat. The factor of a week is the shape a year before it, to the power of a
strength between 0 and 1. The strength is the one with which the mean of eight weeks, without season, would have
foretold the newest weeks of the categories best; it is 0 before a year, eight weeks and four that are judged are known,
and unless errors are clearly smaller.

Source: Hyndman and Athanasopoulos, "Forecasting: principles and practice", 3rd edition, chapter 3 (multiplicative
seasonal factors); Withycombe, "Forecasting with combined seasonal indices", International Journal of Forecasting 5
(1989) (items take the season of their group).
"""

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from learners.demand.sales import NO_SLOT, Floats
from learners.parts.portable import exp, log

year: Final = 52
"""Weeks after which a season comes again."""
ring_weeks: Final = 2 * year + 16
"""Weeks of which the sums are remembered: two years, and the weeks before and after that are asked."""
categories_max: Final = 256
"""Most categories, those that are seen first; items of others follow the shop's season."""
recent: Final = 8
judged: Final = year
"""Newest weeks by which the strength is chosen: of a part of a year a short season may not be in it."""
STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_gain_min: Final = 0.03
"""The least share of the error that a strength must save."""
_category_prior: Final = 100.0
"""Pieces a week at which a category's own shape counts as much as the shop's."""
_shop_prior: Final = 20.0
"""Pieces a week at which the shop's shape counts half."""
factor_max: Final = 10.0


class Seasons:
    """Weekly sums of the shop and of categories, and the season in them.

    Attributes:
        week: the running one.
        began: the first complete week.
        strength: the power of all factors.
    """

    def __init__(self) -> None:
        self.week, self.began, self.strength = NO_SLOT, NO_SLOT, 0.0
        self._sums = np.zeros((ring_weeks, 1))  # the first column is the shop's
        self._columns: dict[str, int] = {}
        self._logs: Floats | None = None  # of the shapes by week and column; computed when it is first asked for

    def column(self, category: str) -> int:
        """Return the column of a category, a new one if there is room, else the shop's."""
        if not category:
            return 0
        found = self._columns.get(category)
        if found is None:
            if len(self._columns) >= categories_max:
                return 0
            found = self._columns[category] = self._sums.shape[1]
            self._sums = np.concatenate([self._sums, np.zeros((ring_weeks, 1))], axis=1)
        return found

    def turn(self, ended: int, week: int, columns: NDArray[np.int64], pieces: Floats) -> None:
        """End a week, and those after it in which nothing was sold.

        Args:
            ended: the week of the pieces.
            week: the one that begins.
            columns: of items.
            pieces: what was sold of them.
        """
        if self.began == NO_SLOT:
            self.began = ended + 1  # the first week may be partial
        for one in range(max(ended, week - ring_weeks + 1), week):
            self._sums[one % ring_weeks] = 0.0
        if ended > week - ring_weeks and ended >= self.began:
            row = self._sums[ended % ring_weeks]
            row += np.bincount(columns, pieces, len(row))
            row[0] = float(np.add.reduce(pieces))
        self.week, self._logs = week, None
        self._judge()

    def _known(self) -> NDArray[np.int64]:
        return np.arange(max(self.began, self.week - ring_weeks + 1), self.week)

    def _shapes(self) -> Floats:
        """Return the logarithms of the shapes of the known weeks. Shape (weeks, columns)"""
        if self._logs is None:
            sums = self._sums[self._known() % ring_weeks]
            padded = np.concatenate([sums[:1], sums, sums[-1:]])
            smooth = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
            mean = np.add.reduce(sums, axis=0) / len(sums)
            shop = (smooth[:, :1] + _shop_prior) / (mean[0] + _shop_prior)
            self._logs = log((smooth + _category_prior * shop) / (mean + _category_prior))
            self._logs[:, :1] = log(shop)
        return self._logs

    def _logs_of(self, weeks: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
        """Return the logarithms of shapes a year before weeks, of the first known one before that. Shapes: as weeks"""
        shapes = self._shapes()
        place = np.clip(weeks - year - int(self._known()[0]), 0, len(shapes) - 1)
        return np.asarray(shapes[place, columns])

    def _judge(self) -> None:
        """Choose the strength by how well each would have foretold the newest weeks of all categories."""
        self.strength = 0.0
        first = self.week - judged
        first = max(first, self.began + year + recent)
        if self.week - first < 4:
            return
        weeks = np.arange(first - recent, self.week)
        columns = np.arange(1 if self._sums.shape[1] > 1 else 0, self._sums.shape[1])
        sold = self._sums[weeks % ring_weeks][:, columns]
        logs = self._logs_of(weeks[:, None], columns[None, :])
        errors = []
        for strength in STRENGTHS:
            index = exp(strength * logs)
            plain = sold / index
            missed = 0.0
            for row in range(recent, len(weeks)):
                guess = np.add.reduce(plain[row - recent : row], axis=0) / recent * index[row]
                missed += float(np.add.reduce(np.abs(sold[row] - guess)))
            errors.append(missed)
        best = min(range(len(STRENGTHS)), key=lambda n: (errors[n], n))
        if errors[best] < (1.0 - _gain_min) * errors[0]:
            self.strength = STRENGTHS[best]

    def factors(self, weeks: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats | None:
        """Return the factors of items in weeks, beside the eight weeks before this one; None if all are 1.

        Shapes: weeks and result (n, R), columns (R,)
        """
        if not self.strength:
            return None
        every = np.arange(self._sums.shape[1])
        before = self.week - np.arange(1, recent + 1)
        level = np.add.reduce(self._logs_of(before[:, None], every[None, :]), axis=0) / recent
        found = exp(self.strength * (self._logs_of(weeks, columns[None, :]) - level[columns]))
        return np.clip(found, 1.0 / factor_max, factor_max)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of the categories."""
        return {"categories": (len(self._columns), categories_max)}

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "week": self.week, "began": self.began, "strength": self.strength, "sums": self._sums.copy(),
            "categories": self.categories(),
        }  # fmt: skip

    def categories(self) -> Sequence[str]:
        """Return the categories, in the order of their columns."""
        return list(self._columns)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return what continues where `state` was taken."""
        found = cls()
        found.week, found.began, found.strength = state["week"], state["began"], state["strength"]
        found._sums = state["sums"].copy()
        found._columns = {category: n + 1 for n, category in enumerate(state["categories"])}
        return found
