"""Kin: where an item that no round has trained on lies, by the trained items of its category and of like price.

The session lives in the items' space, so the mean of an item's kin is near the sessions in which its category is
looked at. Nothing is trained for it (docs/decisions/0010-what-the-deep-model-sees.md).

Letters of shapes: V trained items, D width, P pairs of category and price step that occur among them, N items asked of.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.wares import Described

price_step: Final = 0.7
"""Width of a price step, in standard deviations of the logarithm of a price around what is usual in its category."""
price_steps_max: Final = 2
"""Steps above or below the usual price; dearer and cheaper items count as that far."""
like_price: Final = 2.0
"""How much more than any item of the category one of the same price step counts; of the next step half as much."""
pull: Final = 0.85
"""How far a mean of unit vectors, which is shorter than they are, is brought to their length; 1 is all the way."""
_UNPRICED: Final = 99


class Kin:
    """The vectors of trained items, summed by category and price step.

    Args:
        units: (V, D), of unit length.
        wares: what is known of these items; those without a category are nobody's kin.
    """

    def __init__(self, units: Tensor, wares: Described) -> None:
        rows = np.flatnonzero(wares.areas)
        self._areas, place = np.unique(wares.areas[rows], return_inverse=True)
        logs = np.log(wares.prices[rows].astype(np.float64))
        priced = ~np.isnan(logs)
        count = np.bincount(place[priced], minlength=len(self._areas))
        self._usual = np.bincount(place[priced], logs[priced], len(self._areas)) / np.maximum(1, count)
        self._usual[count == 0] = np.nan
        off = (logs - self._usual[place])[priced]
        # Where all prices of a category are equal, rounding must not part them.
        self._width = price_step * max(1e-3, float(np.sqrt(np.mean(off**2)))) if len(off) else 1.0
        pairs, owner, self._counts = np.unique(
            np.stack([place, self._steps(place, logs)]), axis=1, return_inverse=True, return_counts=True
        )
        self._pair_area, self._pair_step = pairs
        self._sums = torch.zeros(pairs.shape[1], units.shape[1], device=units.device)
        self._sums.index_add_(0, torch.from_numpy(owner.reshape(-1)).to(units.device), units[rows])

    def _steps(self, place: NDArray[np.int64], logs: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return how many steps prices (by logarithm) are from what is usual in their categories."""
        steps = np.clip(np.round((logs - self._usual[place]) / self._width), -price_steps_max, price_steps_max)
        return np.where(np.isnan(steps), _UNPRICED, steps).astype(np.int64)

    def vectors(self, wares: Described) -> tuple[Tensor, NDArray[np.bool_]]:
        """Return where items lie, and which of them have kin.

        Shapes:
            returns (N, D), of at most unit length, zero where there is no kin; (N,)
        """
        place = np.searchsorted(self._areas, wares.areas)
        known = (place < len(self._areas)) & (wares.areas > 0)
        known[known] = self._areas[place[known]] == wares.areas[known]
        steps = np.full(len(place), _UNPRICED)
        steps[known] = self._steps(place[known], np.log(wares.prices[known].astype(np.float64)))
        # Items of one category and step lie at one place.
        kinds, kind = np.unique(np.stack([place, steps])[:, known], axis=1, return_inverse=True)
        found = torch.zeros(len(place), self._sums.shape[1], device=self._sums.device)
        means = [self._mean(area, step) for area, step in kinds.T.tolist()]
        if means:
            found[torch.from_numpy(np.flatnonzero(known)).to(found.device)] = torch.stack(means)[kind.reshape(-1)]
        return found, known

    def _mean(self, area: int, step: int) -> Tensor:
        """Return the mean of a category's items, those of like price counting more, and lengthened: (D,)."""
        begin, end = np.searchsorted(self._pair_area, [area, area + 1]).tolist()
        apart = np.abs(self._pair_step[begin:end] - step)
        weights = 1 + like_price * np.maximum(0.0, 1 - apart / price_steps_max)
        if step == _UNPRICED:
            weights[:] = 1.0
        sums: Tensor = torch.from_numpy(weights).to(self._sums) @ self._sums[begin:end]
        mean = sums / float(weights @ self._counts[begin:end])
        lengthened: Tensor = mean / mean.norm().clamp(min=1e-6) ** pull
        return lengthened
