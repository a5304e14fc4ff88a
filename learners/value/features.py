"""What a shopper's row says of the future: numbers that do not depend on the shop's currency or on its age.

`features` are computed from rows at a moment, and hold nothing of what came after it. `Scaling` makes them comparable:
within the shoppers of one moment, each has the mean 0 and the deviation 1. `design` adds products of the most telling.

Source: Fader, Hardie and Lee, "RFM and CLV", JMR 2005 (recency, frequency and money, and why recency means something
else for a frequent buyer); Schmittlein, Morrison and Colombo, "Counting your customers", Management Science 1987.
"""

from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.parts import portable
from learners.value.shoppers import (
    AT,
    COUNTS,
    DAYS,
    FIRST,
    GAPS,
    HALF_LIVES,
    LARGEST,
    LAST,
    LINES,
    ORDERS,
    PIECES,
    RETURNED,
    RETURNS,
    SEEN,
    SPENDS,
    SPENT,
    Floats,
)

NAMES: Final = (
    "recency", "seen", "tenure", "orders", "spent", "mean order", "largest order", "gap", "overdue", "steadiness",
    "alive", "single", "lines", "pieces", "piece price", "returned", "days there", "returns", "item orders",
    "item newcomers",
    *(f"spent {days:g}" for days in HALF_LIVES), *(f"orders {days:g}" for days in HALF_LIVES),
)  # fmt: skip
"""The features, in order."""
SINCE: Final = NAMES.index("recency")
"""The feature that is higher, the longer ago the last order was."""
CORE: Final = tuple(
    NAMES.index(name) for name in ("recency", "tenure", "orders", "spent 182", "spent 45.5", "overdue", "alive")
)
"""Features whose products with one another are features, too."""
_PAIRS: Final = tuple((a, b) for n, a in enumerate(CORE) for b in CORE[n:])
width: Final = 1 + len(NAMES) + len(_PAIRS)
"""Columns of a design."""
_LEFT, _RIGHT = (list(side) for side in zip(*_PAIRS, strict=True))
_clip: Final = 4.0
_step: Final = 2.0**-16


def features(rows: Floats, items: Floats, day: float, order: float) -> NDArray[np.float32]:
    """Return the features of rows at a moment.

    Shapes:
        rows: (S, WIDTH); items: (S, 2); result: (S, len(NAMES)).

    Args:
        items: what `learners.value.items.Items.telling` says of the items that the shoppers bought.
        day: days since the epoch; later than all that the rows know.
        order: grains of a usual order, by which amounts are divided.
    """
    count = np.maximum(rows[:, ORDERS], 0.0)
    spent = np.maximum(rows[:, SPENT], 0.0) / order
    age = np.maximum(day - rows[:, FIRST], 0.0)
    since = np.maximum(day - rows[:, LAST], 0.0)
    span = np.maximum(rows[:, LAST] - rows[:, FIRST], 0.0)
    repeats = np.maximum(count - 1.0, 0.0)
    gap = np.where(repeats > 0, span / np.maximum(repeats, 1.0), age)
    steadiness = np.where(
        repeats > 1, np.sqrt(np.maximum(rows[:, GAPS] / np.maximum(repeats, 1.0) - gap * gap, 0.0)) / (gap + 1.0), 1.0
    )
    faded = portable.exp(-np.maximum(day - rows[:, AT], 0.0)[:, None] * (_LN2 / np.array(HALF_LIVES)))
    alive = np.where(
        repeats > 0, portable.exp(repeats * portable.log(np.maximum((span + 1.0) / (age + 1.0), 1e-9))), 0.5
    )
    bought, per = np.maximum(rows[:, PIECES], 1e-9), np.maximum(count, 1.0)
    seen = portable.exp(-np.maximum(day - rows[:, SEEN], 0.0) * (_LN2 / HALF_LIVES[2]))
    columns = [
        _log(since), _log(np.maximum(day - rows[:, SEEN], 0.0)), _log(age), _log(count), _log(10 * spent),
        _log(10 * spent / per), _log(10 * rows[:, LARGEST] / order), _log(gap), _log(since / (gap + 7.0)), steadiness,
        alive, (count <= 1.0).astype(np.float64), _log(rows[:, LINES] / per), _log(rows[:, PIECES] / per),
        _log(1000 * rows[:, SPENT].clip(0.0) / order / bought),
        rows[:, RETURNED] / (rows[:, RETURNED] + np.maximum(rows[:, SPENT], 0.0) + order),
        _log(rows[:, DAYS] * seen), _log(rows[:, RETURNS]), items[:, 0], items[:, 1],
    ]  # fmt: skip
    spends, counts = _log(10 * rows[:, SPENDS] * faded / order), _log(5 * rows[:, COUNTS] * faded)
    return np.concatenate([np.stack(columns, axis=1), spends, counts], axis=1).astype(np.float32)


_LN2: Final = float.fromhex("0x1.62e42fefa39efp-1")


def _log(values: Floats) -> Floats:
    return portable.log(1.0 + values)


class Scaling(NamedTuple):
    """Mean and deviation of each feature among the shoppers of a moment, and their usual order in grains."""

    mean: Floats
    deviation: Floats
    order: float

    @classmethod
    def of(cls, values: NDArray[np.float32], order: float) -> Self:
        """Return the scaling of features. Shape (S, len(NAMES)); S is above 0."""
        wide = values.astype(np.float64)
        mean = _mean(wide)
        deviation = np.sqrt(_mean((wide - mean) ** 2))
        return cls(mean, np.where(deviation > 1e-6, deviation, 1.0), order)

    def design(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a constant, the scaled features and the products of some. Shape (S, width).

        Each value is a multiple of `_step` of at most 16, so that sums of products of thousands are exact.
        """
        design = np.ones((len(values), width))
        scaled = design[:, 1 : 1 + len(NAMES)]
        np.clip((values - self.mean) / self.deviation, -_clip, _clip, out=scaled)
        np.multiply(scaled[:, _LEFT], scaled[:, _RIGHT], out=design[:, 1 + len(NAMES) :])
        return (np.rint(design / _step) * _step).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {"mean": self.mean.copy(), "deviation": self.deviation.copy(), "order": self.order}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return the scaling that `state` was taken from."""
        return cls(state["mean"].copy(), state["deviation"].copy(), state["order"])


def _mean(values: Floats) -> Floats:
    return np.asarray(np.einsum("ab->b", values, optimize=False)) / len(values)
