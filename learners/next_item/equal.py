"""Equal keys of arrays, found without sorting. Predictions use it: sorting is most of what they would take."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_size_min: Final = 1024


class EqualKeys:
    """Finds equal keys, which are small ints from 0 on, in time proportional to their number.

    A table has an entry for each key and is never cleared: it is read only where it was just written, or what was read
    is compared. It is scratch space, no state; one thread uses it at a time. It takes 8 bytes per key, up to the
    largest key.

    >>> EqualKeys().last_places(np.array([7, 3, 7])).tolist()
    [2, 1, 2]
    """

    def __init__(self) -> None:
        self._table = np.empty(_size_min, np.intp)
        self._places = np.arange(_size_min)

    def last_places(self, keys: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """Return for each key the last place at which an equal key is. Shapes: (N,) to (N,)."""
        places = self._first(len(keys))
        try:
            self._table[keys] = places
        except IndexError:
            self._table = np.empty(max(int(keys.max()) + 1, 2 * len(self._table)), np.intp)
            self._table[keys] = places
        return self._table.take(keys)

    def sums(
        self, keys: NDArray[np.integer[Any]], values: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return the distinct keys, in the order of their last places, and the sum of the values of each.

        Values are added in the order of their places.

        Shapes:
            keys, values: (N,), N at least 1; returns (distinct keys,), (distinct keys,)

        >>> EqualKeys().sums(np.array([7, 3, 7]), np.array([1.0, 2.0, 4.0]))
        (array([3, 7]), array([2., 5.]))
        """
        last = self.last_places(keys)
        distinct = (last == self._first(len(keys))).nonzero()[0]
        return keys[distinct], np.bincount(last, values).take(distinct)

    def find(
        self, keys: NDArray[np.integer[Any]], among: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the last place of each key in another array, and whether it is there; otherwise the place is invalid.

        Args:
            keys: any ints.
            among: at least one key.

        Shapes:
            keys: (N,), among: (M,); returns (N,), (N,)

        >>> EqualKeys().find(np.array([5, 1 << 40]), np.array([9, 5]))[1].tolist()
        [True, False]
        """
        self.last_places(among)
        places = self._table.take(keys, mode="clip")
        return places, among.take(places, mode="clip") == keys

    def _first(self, count: int) -> NDArray[np.intp]:
        """Return the first numbers from 0."""
        if count > len(self._places):
            self._places = np.arange(2 * count)
        return self._places[:count]
