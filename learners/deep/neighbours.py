"""Neighbours by attributes: positions of untrained items, by the trained items of like category and price.

A session's vector lies in the items' space, so the mean of an item's neighbours is near the sessions in which its
category is viewed. Nothing is trained for it (docs/decisions/0010-what-the-deep-model-sees.md).

Letters of shapes: V trained items, D width, P pairs of category and price step that occur among them, N items asked
about.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from learners.next_item.attributes import ItemAttributes

price_step: Final = 0.7
"""Width of a price step, in standard deviations of a price's logarithm around the usual price of its category."""
price_steps_max: Final = 2
"""Most steps above or below the usual price; more extreme prices count as this many."""
like_price: Final = 2.0
"""Additional weight of a neighbour in the same price step, relative to any item of the category; half in the next."""
pull: Final = 0.85
"""How far a mean of unit vectors, which is shorter than 1, is rescaled to unit length; 1 rescales it completely."""
_UNPRICED: Final = 99


class AttributeNeighbours:
    """The vectors of trained items, summed by category and price step.

    Args:
        units: (V, D), of unit length.
        attributes: of these items. Items without a category are neighbours of no item.
    """

    def __init__(self, units: NDArray[np.float32], attributes: ItemAttributes) -> None:
        rows = np.flatnonzero(attributes.categories)
        self._categories, place = np.unique(attributes.categories[rows], return_inverse=True)
        logs = np.log(attributes.prices[rows].astype(np.float64))
        priced = ~np.isnan(logs)
        count = np.bincount(place[priced], minlength=len(self._categories))
        self._usual = np.bincount(place[priced], logs[priced], len(self._categories)) / np.maximum(1, count)
        self._usual[count == 0] = np.nan
        off = (logs - self._usual[place])[priced]
        # The lower bound keeps rounding errors from separating equal prices.
        self._width = price_step * max(1e-3, float(np.sqrt(np.mean(off**2)))) if len(off) else 1.0
        pairs, owner, self._counts = np.unique(
            np.stack([place, self._steps(place, logs)]), axis=1, return_inverse=True, return_counts=True
        )
        self._pair_category, self._pair_step = pairs
        grouped = rows[np.argsort(owner.reshape(-1), kind="stable")]
        self._sums = np.add.reduceat(units[grouped], np.cumsum(self._counts) - self._counts)

    def _steps(self, place: NDArray[np.int64], logs: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of steps between prices (as logarithms) and the usual prices of their categories."""
        steps = np.clip(np.round((logs - self._usual[place]) / self._width), -price_steps_max, price_steps_max)
        return np.where(np.isnan(steps), _UNPRICED, steps).astype(np.int64)

    def vectors(self, attributes: ItemAttributes) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the vectors of items by their attributes, and which items have neighbours.

        Shapes:
            returns (N, D), of at most unit length, zero for items without neighbours; (N,)
        """
        place = np.searchsorted(self._categories, attributes.categories)
        known = (place < len(self._categories)) & (attributes.categories > 0)
        known[known] = self._categories[place[known]] == attributes.categories[known]
        steps = np.full(len(place), _UNPRICED)
        steps[known] = self._steps(place[known], np.log(attributes.prices[known].astype(np.float64)))
        # Items with the same category and step have the same vector.
        kinds, kind = np.unique(np.stack([place, steps])[:, known], axis=1, return_inverse=True)
        found = np.zeros((len(place), self._sums.shape[1]), np.float32)
        means = [self._mean(category, step) for category, step in kinds.T.tolist()]
        if means:
            found[known] = np.stack(means)[kind.reshape(-1)]
        return found, known

    def _mean(self, category: int, step: int) -> NDArray[np.float32]:
        """Return the rescaled mean of a category's items, weighted by the similarity of their prices: (D,)."""
        begin, end = np.searchsorted(self._pair_category, [category, category + 1]).tolist()
        apart = np.abs(self._pair_step[begin:end] - step)
        weights = 1 + like_price * np.maximum(0.0, 1 - apart / price_steps_max)
        if step == _UNPRICED:
            weights[:] = 1.0
        mean = weights.astype(np.float32) @ self._sums[begin:end] / float(weights @ self._counts[begin:end])
        rescaled: NDArray[np.float32] = mean / max(1e-6, float(np.linalg.norm(mean))) ** pull
        return rescaled
