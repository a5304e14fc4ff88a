"""Classes A, B and C of shoppers by what is expected of them, which change only where the expectation clearly did."""

from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.value.shoppers import Floats

CLASSES: Final = ("", "A", "B", "C")
"""By the number in a shopper's row; "" for one who has none yet."""


class Limits(NamedTuple):
    """The least expected grains of a shopper of class A, and of class B."""

    a: float
    b: float

    @classmethod
    def of(cls, expected: Floats, a_share: float, b_share: float) -> Self:
        """Return the limits so that shoppers of A have the first share of all that is expected, A and B the second.

        >>> Limits.of(np.array([5.0, 60.0, 15.0, 20.0]), 0.8, 0.95)
        Limits(a=20.0, b=15.0)
        """
        ordered = -np.sort(-expected)
        sums = np.cumsum(ordered)
        last = len(ordered) - 1
        places = (min(last, int(np.searchsorted(sums, share * sums[-1]))) for share in (a_share, b_share))
        return cls(*(float(ordered[place]) for place in places))


def classes_of(expected: Floats, before: NDArray[np.int64], limits: Limits, margin: float) -> NDArray[np.int64]:
    """Return the class of each shopper, by its number.

    One who has a class moves up only if the expectation is above the limit by a margin, and down if below it by one.

    >>> found = classes_of(np.array([19.0, 19.0, 17.0]), np.array([1, 2, 1]), Limits(20.0, 10.0), 0.1)
    >>> [CLASSES[number] for number in found]
    ['A', 'B', 'B']
    """
    new, least, most = (_classes(expected, limits, factor) for factor in (1.0, 1 - margin, 1 + margin))
    return np.where(before > 0, np.clip(before, least, most), new)


def _classes(expected: Floats, limits: Limits, factor: float) -> NDArray[np.int64]:
    return 3 - (expected >= factor * limits.b).astype(np.int64) - (expected >= factor * limits.a)
