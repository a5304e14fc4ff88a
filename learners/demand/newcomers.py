"""What is expected of an item that has hardly been sold: what items like it sold in their first weeks.

Items that were first sold within the last half year are its neighbours, if they are of its category and a similar
price, else of its category, else all of them, the first of these of which there are enough.

Source: the idea of forecasting new products by analogues is in Hyndman and Athanasopoulos, "Forecasting: principles and
practice", 3rd edition, section 6.5.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from learners.demand.model import LEVELS
from learners.demand.sales import Floats, Sales, Slots

recent_weeks: Final = 26
"""Weeks within which a neighbour was first sold."""
neighbours_min: Final = 10
"""Neighbours that are enough."""
neighbours_max: Final = 2_000
"""Most items that are looked at, those that entered last."""
similar_price: Final = 2.0
"""Prices are similar if one is at most this multiple of the other."""


class Likeness(NamedTuple):
    """What the shop says of an item; the price is None if it is not known."""

    category: str
    price: float | None


class First(NamedTuple):
    """What neighbours sold in their first weeks: how many there are, why they are, the mean, and quantiles."""

    neighbours: int
    like: str
    mean: float
    quantiles: Floats


def first_weeks_of(
    sales: Sales, weeks: int, own: Likeness, likeness: Callable[[int], Likeness], without: int | None = None
) -> First | None:
    """Return what is expected of the first weeks of an item, None if there are too few neighbours.

    Args:
        likeness: of the item in a slot.
        without: the item's own slot, if it has one.
    """
    slots = np.arange(max(0, len(sales) - neighbours_max), len(sales))
    slots = slots[slots != (-1 if without is None else without)]
    first = sales.first_weeks(slots)
    # In the first weeks of the log nobody knows what is new.
    known = (first > max(sales.week - recent_weeks, sales.began + weeks)) & (first + weeks <= sales.week)
    slots = slots[known]
    began: Slots = first[known].astype(np.int64)
    if len(slots) < neighbours_min:
        return None
    found = [likeness(slot) for slot in slots.tolist()]
    category = np.array([bool(own.category) and one.category == own.category for one in found])
    price = np.array([_similar(own.price, one.price) for one in found])
    for like, chosen in (
        ("of its category and a similar price", category & price), ("of its category", category),
        ("of the shop", np.ones(len(slots), np.bool_)),
    ):  # fmt: skip
        if np.count_nonzero(chosen) >= neighbours_min:
            return _of(sales.sold(slots[chosen], began[chosen], weeks), like)
    return None


def _similar(left: float | None, right: float | None) -> bool:
    return left is not None and right is not None and left <= similar_price * right and right <= similar_price * left


def _of(sold: Floats, like: str) -> First:
    ordered = np.sort(sold)
    place = np.minimum((np.array(LEVELS) * len(ordered)).astype(np.int64), len(ordered) - 1)
    # One huge first order says little of another item: the largest count as the second largest tenth.
    mean = float(np.add.reduce(np.minimum(ordered, ordered[int(0.9 * (len(ordered) - 1))]))) / len(ordered)
    return First(len(ordered), like, mean, ordered[place])
