"""ADWIN: an adaptive window over a stream that detects a difference between the means of its older and newer parts.

River's ADWIN has a state that cannot be read, so it cannot be part of a snapshot. This implementation returns the same
results (`tests/unit/test_adwin.py` compares the two), and its state is typed.

Source: Bifet & Gavaldà, Learning from Time-Changing Data with Adaptive Windowing, SDM 2007, section 3 (ADWIN2). As in
River, a change empties the window instead of dropping only its oldest part, and the defaults are River's: a check every
32 values, 5 buckets a row, parts of at least 5 values, none within the first 10.
"""

from math import log, sqrt
from typing import Final, Self

from headrace.state import State

_check_every: Final = 32
_buckets_max: Final = 5
_part_min: Final = 5
_grace: Final = 10


class Adwin:
    """Detects changes of the mean of values within a range of about 1. Only a change empties the window.

    The window is an exponential histogram: rows of at most 6 buckets, where a bucket of row r stores 2**r values as
    their sum and their sum of squared deviations. Memory grows with the logarithm of the window.

    >>> adwin = Adwin()
    >>> [n for n in range(2_000) if adwin.observe(0.2 if n < 1_000 else 0.8)][0] < 1_100
    True
    """

    __slots__ = ("_count", "_rows", "_sum", "_variance", "delta", "width")

    def __init__(self, delta: float = 0.002) -> None:
        self.delta = delta
        self._begin()

    def _begin(self) -> None:
        self.width = 0
        self._sum = 0.0
        self._variance = 0.0
        self._count = 0
        self._rows: list[list[tuple[float, float]]] = [[]]  # row 0 is the newest; within a row the oldest is first

    @property
    def mean(self) -> float:
        """The mean of the window; 0 if it is empty."""
        return self._sum / self.width if self.width else 0.0

    def observe(self, value: float) -> bool:
        """Add a value; return whether the mean has changed, which empties the window."""
        self.width += 1
        if self.width > 1:
            deviation = value - self._sum / (self.width - 1)
            self._variance += (self.width - 1) * deviation * deviation / self.width
        self._sum += value
        row = self._rows[0]
        row.append((value, 0.0))
        if len(row) > _buckets_max:
            self._compress()
        self._count += 1
        if self._count % _check_every == 0 and self.width > _grace and self._differs():
            self._begin()  # one change gives one alarm
            return True
        return False

    def _compress(self) -> None:
        size, level = 1, 0
        while level < len(self._rows) and len(self._rows[level]) > _buckets_max:
            row = self._rows[level]
            (sum_1, variance_1), (sum_2, variance_2) = row[0], row[1]
            del row[:2]
            deviation = sum_1 / size - sum_2 / size
            merged = (sum_1 + sum_2, variance_1 + variance_2 + size * size * deviation * deviation / (2 * size))
            if level + 1 == len(self._rows):
                self._rows.append([])
            self._rows[level + 1].append(merged)
            level, size = level + 1, 2 * size

    def _differs(self) -> bool:
        """Return whether the means of the parts of any split of the window differ significantly."""
        variance = self._variance / self.width
        confidence = log(2 * log(self.width) / self.delta)
        old, old_sum, new, new_sum = 0, 0.0, self.width, self._sum
        for level in range(len(self._rows) - 1, -1, -1):
            size = 1 << level
            for sum_, _ in self._rows[level]:
                old, old_sum, new, new_sum = old + size, old_sum + sum_, new - size, new_sum - sum_
                if new < _part_min:
                    return False
                if old < _part_min:
                    continue
                inverse = 1 / (old - _part_min + 1) + 1 / (new - _part_min + 1)
                allowed = sqrt(2 * inverse * variance * confidence) + 2 / 3 * confidence * inverse
                if abs(old_sum / old - new_sum / new) > allowed:
                    return True
        return False

    def state(self) -> State:
        """Return the histogram and its sums."""
        return {
            "delta": self.delta,
            "width": self.width,
            "sum": self._sum,
            "variance": self._variance,
            "count": self._count,
            "rows": [[list(bucket) for bucket in row] for row in self._rows],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a window that continues exactly where `state` was taken."""
        adwin = cls(state["delta"])
        adwin.width, adwin._count = state["width"], state["count"]
        adwin._sum, adwin._variance = state["sum"], state["variance"]
        adwin._rows = [[(sum_, variance) for sum_, variance in row] for row in state["rows"]]
        return adwin
