"""Sums by cluster of shoppers: what errors are computed from, in memory that does not grow with the answers.

Answers of one shopper hang together, so the independent units are shoppers. A shopper's cluster is the number modulo
`clusters`: two shoppers in one cluster cost nothing but one degree of freedom, and chunks may cut shoppers apart.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

clusters: Final = 65_536


class Unevaluable(Exception):
    """The answers cannot tell what the policy would have earned; the message says why, and what was wanted.

    Attributes:
        reason: `malformed`, `no_answers`, `no_rewards`, `no_overlap` or `too_few`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Sums:
    """Sums of several series by cluster.

    Args:
        series: how many.
    """

    def __init__(self, series: int) -> None:
        self._totals = np.zeros((series, clusters))

    def add(self, cluster: Integers, values: Sequence[Floats], first: int = 0) -> None:
        """Add answers to the series from `first` on.

        Shapes:
            cluster: (answers,), below `clusters`
            values: (series, answers)
        """
        for total, one in zip(self._totals[first:], values, strict=False):
            total += np.bincount(cluster, one, clusters)

    def of(self, chosen: NDArray[np.bool_]) -> Floats:
        """Return the sums of these clusters.

        Shapes:
            chosen: (clusters,)
            returns: (series, chosen)
        """
        found: Floats = self._totals[:, chosen]
        return found

    def __getitem__(self, number: int) -> Floats:
        """Return the sums of one series."""
        found: Floats = self._totals[number]
        return found


def effective(sums: Floats) -> float:
    """Return Kish's effective number of units with these sums of weights; 0 if there are none.

    >>> effective(np.array([1.0, 1.0, 1.0])), effective(np.array([4.0, 0.0]))
    (3.0, 1.0)

    Source: L. Kish, "Survey Sampling" (1965), section 11.7.
    """
    squares = float(sums @ sums)
    return float(sums.sum()) ** 2 / squares if squares > 0 else 0.0
