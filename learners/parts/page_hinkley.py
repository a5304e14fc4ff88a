"""Page-Hinkley: a test for a rise of the mean of a stream.

River's has a state that cannot be read, and its import brings scipy: 1.6 s and 65 MiB in each process that learns. This
implementation returns the same results (`tests/unit/test_page_hinkley.py` compares the two), and its state is typed.

Source: Page, Continuous Inspection Schemes, Biometrika 41, 1954; that sums fade is River's.
"""

from math import inf
from typing import Final, Self

from headrace.state import State

_fading: Final = 1 - 0.0001


class PageHinkley:
    """Detects a rise of the mean of values. A detection begins it anew.

    It sums by how much values exceed the mean so far; the sum fades, and a tolerated deviation is subtracted of each
    value. When the sum has risen from its minimum by more than the threshold, the mean has risen.

    Args:
        delta: the deviation that is tolerated.
        threshold: of the rise of the sum.
        values_min: values before the first detection.

    >>> test = PageHinkley(delta=0.02, threshold=10.0, values_min=30)
    >>> [n for n in range(2_000) if test.observe(0.2 if n < 1_000 else 0.8)][0] < 1_050
    True
    """

    __slots__ = (
        "_count",
        "_decrease",
        "_delta",
        "_highest",
        "_increase",
        "_lowest",
        "_mean",
        "_values_min",
        "threshold",
    )

    def __init__(self, *, delta: float, threshold: float, values_min: int) -> None:
        self._delta, self.threshold, self._values_min = delta, threshold, values_min
        self._begin()

    def _begin(self) -> None:
        self._count = self._mean = self._increase = self._decrease = 0.0
        self._lowest, self._highest = inf, -1.0

    def observe(self, value: float) -> bool:
        """Add a value; return whether the mean has risen."""
        self._count += 1.0
        self._mean += (1.0 / self._count) * (value - self._mean)
        deviation = value - self._mean
        self._increase = _fading * self._increase + deviation - self._delta
        self._decrease = _fading * self._decrease + deviation + self._delta
        self._lowest = min(self._lowest, self._increase)
        self._highest = max(self._highest, self._decrease)
        if self._count < self._values_min or self._increase - self._lowest <= self.threshold:
            return False
        self._begin()
        return True

    def state(self) -> State:
        """Return the sums. Those of a fall are not used; releases before this one have them in their states."""
        return {
            "count": self._count, "mean": self._mean, "increase": self._increase, "decrease": self._decrease,
            "lowest": self._lowest, "highest": self._highest,
        }  # fmt: skip

    def restore(self, state: State) -> Self:
        """Continue exactly where `state` was taken; other keys are ignored."""
        self._count, self._mean = state["count"], state["mean"]
        self._increase, self._decrease = state["increase"], state["decrease"]
        self._lowest, self._highest = state["lowest"], state["highest"]
        return self
