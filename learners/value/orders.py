"""The newest orders with their prices, so that a return is known to be of an order, and what it was worth."""

from collections import OrderedDict
from collections.abc import Container, Sequence
from typing import Any, Final, NamedTuple, Self

from msgspec import Struct

orders_of_shopper_max: Final = 50
"""Most orders of a shopper that are searched for what was returned without naming an order, the newest first."""


class Line(NamedTuple):
    """Pieces of an item, and the grains of one of them, None if that is not stated."""

    item: str
    grains: float | None
    pieces: float


class Returned(NamedTuple):
    """What was returned of one order.

    Attributes:
        bought_ms: when it was bought, None if no order is known that had it.
        grains: what it was worth.
        whole: whether nothing of the order is left.
    """

    bought_ms: int | None
    grains: float
    whole: bool


class _Order(Struct, gc=False):
    """When it was placed, the grains that are left of it, and by item the grains of a piece and the pieces left."""

    time_ms: int
    grains: float
    lines: dict[str, tuple[float, float]]


class Orders:
    """The newest orders, by shopper and transaction. Bounded by orders and by lines: the oldest goes first."""

    def __init__(self, *, orders_max: int, lines_max: int) -> None:
        self.orders_max, self.lines_max = orders_max, lines_max
        self._orders: OrderedDict[tuple[str, str], _Order] = OrderedDict()
        self._of: dict[str, dict[str, None]] = {}  # the transactions of each shopper, the oldest first
        self._lines = 0

    def buy(
        self, shopper: str, transaction: str, time_ms: int, lines: dict[str, tuple[float, float]], grains: float
    ) -> bool:
        """Note an order, or a further part of one. Returns whether a part of it was known before.

        Args:
            lines: by item, the grains of a piece, 0 if that is not stated, and pieces; not to be changed afterwards.
        """
        key = shopper, transaction
        order = self._orders.get(key)
        continues = order is not None
        if order is None:
            order = self._orders[key] = _Order(time_ms, 0.0, {})
            self._of.setdefault(shopper, {})[transaction] = None
        order.grains += grains
        self._lines -= len(order.lines)
        if continues:
            for item, (price, pieces) in lines.items():
                before = order.lines.get(item, (0.0, 0.0))
                order.lines[item] = price or before[0], before[1] + pieces
        else:
            order.lines = lines
        self._lines += len(order.lines)
        while len(self._orders) > self.orders_max or (self._lines > self.lines_max and len(self._orders) > 1):
            self._forget(next(iter(self._orders)))
        return continues

    def forget(self, shopper: str) -> None:
        """Forget the orders of a shopper who is no longer remembered: they count in no row any more."""
        for transaction in list(self._of.get(shopper, ())):
            self._forget((shopper, transaction))

    def _forget(self, key: tuple[str, str]) -> None:
        self._lines -= len(self._orders.pop(key).lines)
        shopper, transaction = key
        del self._of[shopper][transaction]
        if not self._of[shopper]:
            del self._of[shopper]

    def give_back(self, shopper: str, transaction: str, lines: Sequence[Line], grains: float | None) -> list[Returned]:
        """Return what a return takes back, by order.

        A line that names no order of this shopper is of the newest one that has enough of the item, else of any that
        has some.

        Args:
            grains: what all of it is worth, as far as it is stated; used where lines state nothing.
        """
        named = self._orders.get((shopper, transaction)) if transaction else None
        found: dict[str, list[float]] = {}
        unknown = 0.0
        for line in lines:
            transactions = [transaction] if named else self._having(shopper, line)
            left = line.pieces
            for one in transactions:
                order = self._orders[shopper, one]
                price, pieces = order.lines.get(line.item, (0.0, 0.0))
                taken = min(left, pieces)
                if taken <= 0:
                    continue
                order.lines[line.item] = price, pieces - taken
                worth = min(order.grains, round(taken * (price or line.grains or 0.0)))
                order.grains -= worth
                found.setdefault(one, []).append(worth)
                left -= taken
            if left > 0 and not named:
                unknown += round(left * (line.grains or 0.0))
        if grains and not lines:
            if named:
                worth = min(named.grains, grains)
                named.grains -= worth
                found[transaction] = [worth]
            else:
                unknown = grains
        returned = []
        for one, worths in found.items():
            order = self._orders[shopper, one]
            whole = not any(pieces > 0 for _, pieces in order.lines.values())
            returned.append(Returned(order.time_ms, sum(worths), whole))
            if whole:
                self._forget((shopper, one))
        if unknown:
            returned.append(Returned(None, unknown, False))
        return returned

    def _having(self, shopper: str, line: Line) -> list[str]:
        """Return the orders that have a line's item: the newest with enough of it, or all with some, newest first."""
        some = []
        for transaction in list(reversed(self._of.get(shopper, {})))[:orders_of_shopper_max]:
            pieces = self._orders[shopper, transaction].lines.get(line.item, (0.0, 0.0))[1]
            if pieces >= line.pieces:
                return [transaction]
            if pieces > 0:
                some.append(transaction)
        return some

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of orders and of their lines."""
        return {"orders": (len(self._orders), self.orders_max), "order_lines": (self._lines, self.lines_max)}

    def state(self) -> list[Any]:
        """Return all orders, the oldest first."""
        return [
            [*key, one.time_ms, one.grains, list(one.lines), [list(line) for line in one.lines.values()]]
            for key, one in self._orders.items()
        ]

    @classmethod
    def from_state(cls, state: list[Any], *, orders_max: int, lines_max: int, shoppers: Container[str]) -> Self:
        """Return orders that continue where `state` was taken; of more than the maximum, the newest.

        Args:
            shoppers: those who are remembered; the orders of others are forgotten.
        """
        found = cls(orders_max=orders_max, lines_max=lines_max)
        kept = [one for one in state if one[0] in shoppers][-orders_max:]
        for shopper, transaction, time_ms, grains, items, lines in kept:
            order = _Order(time_ms, grains, dict(zip(items, map(tuple, lines), strict=True)))
            found._orders[shopper, transaction] = order
            found._of.setdefault(shopper, {})[transaction] = None
            found._lines += len(order.lines)
        while found._lines > lines_max and len(found._orders) > 1:
            found._forget(next(iter(found._orders)))
        return found
