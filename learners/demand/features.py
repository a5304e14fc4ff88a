"""What an item's history says of its next weeks: forecasts by simple methods, and how steadily the item sells.

Each forecast is divided by the item's level, so that one model serves items that sell once a month and items that sell
a thousand pieces a day. Two kinds of products let the model trust other methods where an item sells in many lines, and
where it sells irregularly.

Source: Hyndman and Athanasopoulos, "Forecasting: principles and practice", 3rd edition, chapters 5 and 8 (naive, mean,
simple exponential smoothing); Croston, "Forecasting and stock control for intermittent demands", 1972, whose separation
of how often an item is bought from how much is bought at once is here that of lines and pieces a line.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from learners.demand.sales import Floats, Sales, Slots
from learners.parts import portable

window: Final = 26
"""Weeks of history from which features are computed."""
least_age: Final = 0.1
"""The least level, in pieces a week, of an item that is forecast by its own sales."""
_smoothings: Final = (0.1, 0.2, 0.4)
"""Rates of simple exponential smoothing."""
_line_prior: Final = 3.0
"""Lines at an item's older mean that are added to those of the last eight weeks."""
_ratio_max: Final = 10.0
"""The most that a feature is, in levels: a single week of a quiet item is no more than that."""
_present_min: Final = 0.25
"""The least share of a week for which an item must have been in stock for the week to be scaled up."""
MEMBERS: Final = (
    "last week", "mean of 4", "mean of 8", "mean of 26", "median of 4", "median of 8", "median of 13", "smoothed .1",
    "smoothed .2", "smoothed .4", "quarter of 8",
)  # fmt: skip
"""The methods whose forecasts are mixed."""
_FROM_LINES: Final = ("lines of the last week", "lines of 4", "lines of 8", "lines of 4, older pieces a line")
_OTHER: Final = ("constant", "active", "quiet", "level", "level squared", "variation", "lines")
FEATURES: Final = (
    *MEMBERS, *_FROM_LINES, *_OTHER, *(f"{name} x {by}" for by in ("lines", "variation") for name in MEMBERS)
)  # fmt: skip
_CONSTANT: Final = FEATURES.index("constant")


class Features(NamedTuple):
    """Features of rows, each an item at the beginning of a week.

    Attributes:
        design: shape (R, len(FEATURES)).
        level: pieces a week. Shape (R,); where it is 0, nothing is known.
        least, most: the range of the members, in levels. Shape (R,)
    """

    design: Floats
    level: Floats
    least: Floats
    most: Floats


Factors = Callable[[Slots, NDArray[np.int64]], Floats | None]
"""As `learners.demand.occasions.Occasions.each`."""


def features_of(sales: Sales, slots: Slots, weeks: NDArray[np.int64], factors: Factors | None = None) -> Features:
    """Return the features of items at the beginning of weeks, from the weeks before. Shapes: slots, weeks (R,)"""
    history, lines = history_of(sales, slots, weeks, factors)
    return features(history, lines, ages_of(sales, slots, weeks))


def ages_of(sales: Sales, slots: Slots, weeks: NDArray[np.int64]) -> Floats:
    """Return the weeks since items were first sold, or anything was. Shape (R,)"""
    return np.minimum(weeks - sales.first_weeks(slots), weeks - sales.began)


def history_of(
    sales: Sales, slots: Slots, weeks: NDArray[np.int64], factors: Factors | None = None
) -> tuple[Floats, Floats]:
    """Return the pieces and lines of the weeks before, as they would be without stock-outs. Shapes: (window, R)

    With `factors` they are also as they would be without occasions.

    A week in which an item was out of stock for a part is scaled up; one in which it was hardly there counts as the
    mean of the others.
    """
    pieces, lines, absent = sales.before(slots, weeks, window)
    held = factors(slots, weeks - np.arange(window, 0, -1)[:, None]) if factors else None
    if held is not None:
        pieces, lines = pieces / held, lines / held
    if absent.any():
        present = 1.0 - np.minimum(absent, 1.0)
        seen = present >= _present_min
        scale = np.where(seen, 1.0 / np.maximum(present, _present_min), 0.0)
        sold = np.arange(window, 0, -1)[:, None] <= ages_of(sales, slots, weeks)
        count = np.maximum(np.add.reduce(np.where(seen & sold, present, 0.0), axis=0), 1.0)
        filled = []
        for one in (pieces, lines):
            mean = np.add.reduce(np.where(seen, one, 0.0), axis=0) / count
            filled.append(np.where(seen, one * scale, mean))
        pieces, lines = filled
    return pieces, lines


def features(history: Floats, lines: Floats, ages: Floats) -> Features:
    """Return the features of histories.

    Args:
        history, lines: pieces and lines by week, the newest last. Shape (window, R)
        ages: weeks since the item was first sold. Shape (R,)
    """
    ages = np.maximum(np.asarray(ages, np.float64), 1.0)

    def mean(values: Floats, weeks: int) -> Floats:
        return np.asarray(np.add.reduce(values[-weeks:], axis=0) / np.minimum(ages, weeks))

    ordered = {weeks: np.sort(history[-weeks:], axis=0) for weeks in (4, 8, 13)}

    def median(weeks: int, short: Floats) -> Floats:
        values = ordered[weeks]
        found = 0.5 * (values[(weeks - 1) // 2] + values[weeks // 2])
        return np.where(ages >= weeks, found, short)

    mean4, mean8, mean26 = mean(history, 4), mean(history, 8), mean(history, window)
    median4, median8, median13 = median(4, mean4), median(8, mean8), median(13, mean26)
    quarter = np.where(ages >= 8, ordered[8][2], 0.5 * mean8)
    level = 0.5 * (mean8 + median8) + 0.25 * (mean26 + median13)
    smoothed = [_smoothed(history, rate) for rate in _smoothings]
    older = (np.add.reduce(history, axis=0) + 6.0) / (np.add.reduce(lines, axis=0) + 1.0)  # pieces a line
    newer = (np.add.reduce(history[-8:], axis=0) + _line_prior * older) / (
        np.add.reduce(lines[-8:], axis=0) + _line_prior
    )
    lines4, lines8 = mean(lines, 4), mean(lines, 8)
    known = np.stack(
        [
            history[-1], mean4, mean8, mean26, median4, median8, median13, *smoothed, quarter, lines[-1] * newer,
            lines4 * newer, lines8 * newer, lines4 * older,
        ],
        axis=1,
    )  # fmt: skip
    scale = 1.0 / np.maximum(level, 1e-9)
    known = np.minimum(known * scale[:, None], _ratio_max)
    members = known[:, : len(MEMBERS)]
    logarithm = portable.log(1.0 + level) / 4.0 - 1.0
    centred = history[-8:] - np.add.reduce(history[-8:], axis=0) / 8.0
    spread = np.sqrt(np.add.reduce(centred * centred, axis=0) / 8.0)
    variation = np.minimum(spread * scale, 3.0)
    frequency = np.minimum(portable.log(1.0 + lines8), 3.0)
    active = np.add.reduce(lines[-8:] > 0, axis=0) / 8.0
    other = np.stack(
        [np.ones(len(level)), active, 1.0 / (1.0 + level), logarithm, logarithm * logarithm, variation, frequency],
        axis=1,
    )
    design = np.concatenate(
        [known, other, members * (0.5 * frequency - 1.0)[:, None], members * (variation - 1.0)[:, None]], axis=1
    )
    return Features(design, level, members.min(axis=1), members.max(axis=1))


def _smoothed(history: Floats, rate: float) -> Floats:
    """Return the simple exponential smoothing of a history, which begins at the mean of its first four weeks."""
    found = np.add.reduce(history[:4], axis=0) / 4.0
    for week in history[4:]:
        found = found + rate * (week - found)
    return np.asarray(found)


def simple_forecasts(history: Floats) -> dict[str, Floats]:
    """Return the forecasts of simple methods, in pieces a week, beside which ours are judged. Shape (window, R)

    >>> {name: one.tolist() for name, one in simple_forecasts(np.arange(26.0)[:, None]).items()}["median of 8"]
    [21.5]
    """
    ordered = np.sort(history[-8:], axis=0)
    return {
        "last week": history[-1],
        "mean of 8": np.add.reduce(history[-8:], axis=0) / 8.0,
        "median of 8": 0.5 * (ordered[3] + ordered[4]),
        "smoothed .2": _smoothed(history, 0.2),
    }
