"""The model: one linear quantile regression over all items, learned anew at the beginning of each week.

A row is an item at the beginning of an earlier week, its target what was sold in the weeks after, in levels of the
item. Rows weigh as much as the item's level, so that what is made small is the error in pieces, and half as much for
every `half_life` weeks of age. The pinball loss is minimised by iteratively reweighted least squares, beginning at the
weights of the week before, with a little ridge.

Source: Koenker and Bassett, "Regression quantiles", Econometrica 1978; Hunter and Lange, "Quantile regression via an MM
algorithm", Journal of Computational and Graphical Statistics 2000 (the reweighting, with its `smoothing`);
Montero-Manso and Hyndman, "Principles and algorithms for forecasting groups of time series", International Journal of
Forecasting 2021 (one model for all series).
"""

from typing import Final

import numpy as np

from learners.demand.features import FEATURES
from learners.demand.sales import Floats
from learners.parts import portable

LEVELS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
"""The quantiles that are learned."""
MEDIAN: Final = LEVELS.index(0.5)
half_life: Final = 13.0
"""Weeks after which what a row teaches counts half."""
target_max: Final = 20.0
"""The most that a target is, in levels: a single huge order teaches no more."""
smoothing: Final = 0.02
"""Errors below this, in levels, weigh as if they were this large."""
shrinkage: Final = 1e-4
"""Weight of the ridge, relative to that of all rows."""
_first_steps: Final = 20
"""Steps of the regression where no weights are known."""
_steps: Final = 3
"""Steps from the weights of the week before."""
_chunk: Final = 1_024
"""Rows whose products are summed at once: the fewer, the less they must be rounded to be the same everywhere."""


def mean_weights(design: Floats, target: Floats, weight: Floats) -> Floats:
    """Return the weights of a least squares regression. Shapes: design (R, F), target, weight (R,), result (F,)"""
    return _step(design, target, weight, float(np.add.reduce(weight)))


def quantile_weights(design: Floats, target: Floats, weight: Floats, level: float, start: Floats | None) -> Floats:
    """Return the weights of a quantile regression. Shapes as of `mean_weights`.

    Args:
        start: the weights of the week before, None if there are none.
    """
    total = float(np.add.reduce(weight))
    found = _step(design, target, weight, total) if start is None else start
    for _ in range(_first_steps if start is None else _steps):
        error = target - portable.product(design, found)
        found = _step(
            design,
            target,
            weight * np.where(error > 0, level, 1.0 - level) / np.maximum(np.abs(error), smoothing),
            total,
        )
    return found


def _step(design: Floats, target: Floats, weight: Floats, total: float) -> Floats:
    width = len(FEATURES)
    square, right = np.zeros((width, width)), np.zeros((width, 1))
    for first in range(0, len(design), _chunk):
        part = slice(first, first + _chunk)
        weighed = (design[part] * weight[part, None]).T
        square += portable.product(weighed, design[part])
        right[:, 0] += portable.product(weighed, target[part])
    square[np.arange(width), np.arange(width)] += shrinkage * total
    return portable.solved(square, right)[:, 0]


def pinball(truth: Floats, guess: Floats, level: float) -> Floats:
    """Return the pinball loss of a quantile. Shapes: (S,)

    >>> pinball(np.array([3.0, 1.0]), np.array([2.0, 2.0]), 0.9).round(2).tolist()
    [0.9, 0.1]
    """
    return np.asarray(np.maximum(level * (truth - guess), (level - 1.0) * (truth - guess)))
