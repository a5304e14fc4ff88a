"""What a causal network computed for the items of visits, so that a visit that grows costs only its new items.

Letters of shapes: L items of a visit, F floats per item.
"""

import threading
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = tuple[int, ...]

bytes_max: Final = 48 * 2**20
"""Memory of all visits. An item takes 2,000 bytes with the default settings: 48 MiB hold 25,000 items."""
new_max: Final = 3
"""Most new items with which a visit is recognised."""


class Visits:
    """What was computed for the newest visits, by the rows of their items. The one used longest ago is dropped first.

    A visit that grows is not copied: its former rows are no longer known.

    Args:
        floats: F.
        items_max: most items of a visit.

    >>> visits = Visits(2, 9)
    >>> known, computed = visits.begun((5, 8))
    >>> known
    0
    >>> computed[:2] = 1
    >>> visits.keep((5, 8), computed)
    >>> known, computed = visits.begun((5, 8, 3))
    >>> known, computed[:known].tolist()
    (2, [[1.0, 1.0], [1.0, 1.0]])
    """

    def __init__(self, floats: int, items_max: int) -> None:
        self._floats, self._items_max = floats, items_max
        self._computed: dict[Rows, Floats] = {}  # the one used longest ago first
        self._bytes = 0
        self._lock = threading.Lock()

    def begun(self, rows: Rows) -> tuple[int, Floats]:
        """Return how many of a visit's items are computed, at most all but the last, and an array that has them.

        Nobody else has the array until it is given to `keep`.

        Shapes:
            returns (at least L, F)
        """
        known, before = self._taken(rows)
        if before is not None and len(before) >= len(rows):
            return known, before
        computed = np.empty((min(self._items_max, len(rows) + len(rows) // 2 + 1), self._floats), np.float32)
        if before is not None:
            computed[:known] = before[:known]
        return known, computed

    def _taken(self, rows: Rows) -> tuple[int, Floats | None]:
        with self._lock:
            for length in range(len(rows), max(0, len(rows) - 1 - new_max), -1):
                computed = self._computed.pop(rows[:length], None)
                if computed is not None:
                    self._bytes -= computed.nbytes
                    return min(length, len(rows) - 1), computed
        return 0, None

    def keep(self, rows: Rows, computed: Floats) -> None:
        """Keep what is computed of a visit, in the array that `begun` returned."""
        with self._lock:
            former = self._computed.pop(rows, None)
            self._computed[rows] = computed
            self._bytes += computed.nbytes - (0 if former is None else former.nbytes)
            while self._bytes > bytes_max:
                self._bytes -= self._computed.pop(next(iter(self._computed))).nbytes

    def drop_from(self, row: int) -> None:
        """Drop the visits that have an item of this row or a later one."""
        with self._lock:
            self._computed = {rows: computed for rows, computed in self._computed.items() if max(rows) < row}
            self._bytes = sum(computed.nbytes for computed in self._computed.values())
