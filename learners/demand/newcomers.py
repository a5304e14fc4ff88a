"""What is expected of an item that has hardly been sold: what items like it sold in their first weeks.

Items that were first sold within the last half year are its neighbours: if there are enough, those of its category and
a similar price, else those of its category, else those at a similar price, else all of them. The more alike their
names are to its own, the more they count.

Source: the idea of forecasting new products by analogues is in Hyndman and Athanasopoulos, "Forecasting: principles and
practice", 3rd edition, section 6.5.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from learners.demand.model import LEVELS
from learners.demand.sales import Floats, Sales, Slots
from learners.parts.names import Names

recent_weeks: Final = 26
"""Weeks within which a neighbour was first sold."""
neighbours_min: Final = 10
"""Neighbours that are enough."""
neighbours_max: Final = 2_000
"""Most items that are looked at, those that entered last."""
similar_price: Final = 2.0
"""Prices are similar if one is at most this multiple of the other."""
unlike: Final = 0.02
"""The weight of a neighbour with another name; that of one with the same name is 1 more."""


class Likeness(NamedTuple):
    """What the shop states of an item: "" or None where it states nothing."""

    category: str = ""
    price: float | None = None
    name: str = ""


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
        ("at a similar price", price), ("of the shop", np.ones(len(slots), np.bool_)),
    ):  # fmt: skip
        if np.count_nonzero(chosen) >= neighbours_min:
            alike = _alike(own.name, [found[n].name for n in np.flatnonzero(chosen).tolist()])
            said = f"{like}, most of all those with similar names," if alike.any() else like
            return _of(sales.sold(slots[chosen], began[chosen], weeks), unlike + alike, said)
    return None


def _alike(name: str, others: Sequence[str]) -> Floats:
    """Return how similar names are to another one, 0 to 1. Shape (len(others),)"""
    names = Names()
    for number, one in enumerate((name, *others)):
        names.learn(number, one)
    return names.similarity(range(1, len(others) + 1), [0])[:, 0]


def _similar(left: float | None, right: float | None) -> bool:
    return left is not None and right is not None and left <= similar_price * right and right <= similar_price * left


def _of(sold: Floats, weights: Floats, like: str) -> First:
    order = np.argsort(sold, kind="stable")
    ordered, weights = sold[order], weights[order] / weights.max()
    below = np.cumsum(weights)
    place = np.minimum(np.searchsorted(below, np.array(LEVELS) * below[-1], side="right"), len(ordered) - 1)
    # One huge first order says little of another item: the largest count as the second largest tenth.
    counted = np.minimum(ordered, ordered[int(0.9 * (len(ordered) - 1))])
    return First(len(ordered), like, float(np.add.reduce(weights * counted) / below[-1]), ordered[place])
