"""What the items that a shopper bought say of the shopper: how often they are bought now, and how often by newcomers.

Who bought what still sells comes back more often than who bought what was given up; and what is mostly bought with a
first order says less of those who stay than what regular shoppers buy. Counts decay by event time.
"""

from collections.abc import Collection
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from learners.parts import portable
from learners.value.shoppers import NO_ITEM, Floats

half_life: Final = 45
"""Days after which an order counts half."""
_rescaled_after: Final = 20
"""Half-lives after which the counts are scaled anew, so that none grows without bound."""
_kept: Final = 0.9
"""Share of the items that is kept when there are too many: those that are bought most."""
_prior: Final = 3.0
"""Orders of an average item that each item is given, so that few orders do not say much of its buyers."""
Numbers = NDArray[np.int32]


class Items:
    """Orders of each item, and first orders among them. Bounded: those that are bought least go, a tenth at once.

    Counts are kept as of `_day`: an order of a later day weighs more than 1.

    Attributes:
        forgotten: how many items were forgotten.
    """

    def __init__(self, items_max: int) -> None:
        self.items_max = items_max
        self.forgotten = 0
        self._numbers: dict[str, int] = {}
        self._orders, self._first = np.zeros(1_024), np.zeros(1_024)
        self._day = 0  # the day whose orders weigh 1
        self._today, self._weight = 0, 1.0  # the newest day, and what its orders weigh

    def __len__(self) -> int:
        return len(self._numbers)

    def buy(self, items: Collection[str], day: int, *, first: bool) -> list[int]:
        """Count an order of items that differ; return their numbers.

        Args:
            day: in days since the epoch; an earlier one than before counts as that.
            first: whether it is the shopper's first order.
        """
        if day > self._today:
            self._turn(day)
        numbers = self._numbers
        found: list[Any] = list(map(numbers.get, items))
        if None in found:
            found = [numbers.setdefault(item, len(numbers)) for item in items]
        while len(numbers) > len(self._orders):
            self._orders, self._first = (
                np.concatenate([one, np.zeros(len(one))]) for one in (self._orders, self._first)
            )
        self._orders[found] += self._weight
        if first:
            self._first[found] += self._weight
        return found

    def _turn(self, day: int) -> None:
        """Begin another day."""
        self._today = day
        if not self._numbers:
            self._day = day
        if day - self._day > _rescaled_after * half_life:
            passed = (day - self._day) // half_life
            for one in (self._orders, self._first):
                one *= portable.power_of_two(-float(passed))
            self._day += passed * half_life
        self._weight = portable.power_of_two((day - self._day) / half_life)

    def fit(self) -> Numbers | None:
        """Forget items if there are too many; return the new number of each former one, None if none was forgotten.

        Of equal ones the newest is forgotten.
        """
        count = len(self._numbers)
        if count <= self.items_max:
            return None
        kept = np.sort(np.argsort(-self._orders[:count], kind="stable")[: max(1, int(_kept * self.items_max))])
        moved = np.full(count, NO_ITEM, np.int32)
        moved[kept] = np.arange(len(kept))
        self.forgotten += count - len(kept)
        self._numbers = {item: int(moved[n]) for item, n in self._numbers.items() if moved[n] != NO_ITEM}
        for one in (self._orders, self._first):
            one[: len(kept)], one[len(kept) :] = one[kept], 0.0
        return moved

    def telling(self, bought: Numbers, day: float) -> Floats:
        """Return what items say of those who bought them: the mean logarithm of the orders, and share of first orders.

        Shapes: bought (S, N): numbers of items, `NO_ITEM` where there is none; result (S, 2).
        """
        count = len(self._numbers)
        total = float(np.add.reduce(self._orders[:count]))
        usual = float(np.add.reduce(self._first[:count])) / total if total > 0 else 0.0
        there = bought != NO_ITEM
        used = np.zeros(count, np.bool_)
        used[bought[there]] = True
        place = np.append(np.cumsum(used) - 1, -1)  # the last is of `NO_ITEM`
        fading = portable.power_of_two(-max(0.0, day - self._day) / half_life)
        orders, first = (np.append(fading * one[:count][used], 0.0) for one in (self._orders, self._first))
        each = np.stack([portable.log(1.0 + orders), (first + _prior * usual) / (orders + _prior)], axis=1)
        each[-1] = 0.0
        found = np.zeros((len(bought), 2))
        for column in place[bought].T:
            found += each[column]
        return np.asarray(found / np.maximum(np.count_nonzero(there, axis=1), 1)[:, None])

    def bounds(self) -> tuple[int, int]:
        """Return the use and the maximum."""
        return len(self), self.items_max

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        count = len(self._numbers)
        return {
            "items": list(self._numbers), "orders": self._orders[:count].copy(), "first": self._first[:count].copy(),
            "day": self._day, "today": self._today, "forgotten": self.forgotten,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], items_max: int) -> Self:
        """Return what continues where `state` was taken."""
        found = cls(items_max)
        count = len(state["items"])
        found._numbers = {item: n for n, item in enumerate(state["items"])}
        for one, values in ((found._orders, state["orders"]), (found._first, state["first"])):
            one.resize(max(len(one), count), refcheck=False)
            one[:count] = values
        found._day, found.forgotten = state["day"], state["forgotten"]
        found._today = state["today"]
        found._weight = portable.power_of_two((found._today - found._day) / half_life)
        return found
