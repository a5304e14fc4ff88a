"""Orders: what each newest order cost, so that a refund takes back what was paid."""

from collections import OrderedDict
from collections.abc import Container
from typing import Any, Final, Self

from msgspec import Struct

from headrace.events import Event

lines_max: Final = 200_000
"""Most lines of all remembered orders."""


class _Order(Struct, gc=False):
    """An order: whether it was promoted, and the pieces and the amount of each item that is not refunded."""

    promoted: bool
    lines: dict[str, tuple[float, float]]


class Returned(Struct, frozen=True):
    """What a refund takes back. `orders` is 1 if nothing of the order is left."""

    money: float
    units: float
    orders: int = 0
    promoted: int = 0


class Orders:
    """The newest orders, by shopper and transaction. Bounded: the order touched least recently goes first.

    The desk has said before which lines are new, and of which items nothing is left.

    Args:
        orders_max: most orders.
    """

    def __init__(self, *, orders_max: int) -> None:
        self.orders_max = orders_max
        self._orders: OrderedDict[tuple[str, str], _Order] = OrderedDict()
        self._of: dict[str, dict[str, None]] = {}  # the transactions of each shopper
        self._lines = 0

    def buy(self, event: Event, *, promoted: bool) -> tuple[bool, float]:
        """Note a purchase; return whether it is a new order, and its amount. Without a number, each is one."""
        data = event.data
        paid = [(line.price or 0.0) * line.quantity for line in data.items]
        money = sum(paid)
        if not money and data.value:
            money, units = max(0.0, data.value), sum(line.quantity for line in data.items)
            paid = [money * line.quantity / units for line in data.items]
        if not data.transaction_id:
            return True, money
        key = event.shopper, data.transaction_id
        order = self._take(key)
        is_new = order is None
        order = order or _Order(promoted, {})
        for line, amount in zip(data.items, paid, strict=True):
            pieces, had = order.lines.get(line.item_id, (0.0, 0.0))
            order.lines[line.item_id] = pieces + line.quantity, had + amount
        self._put(key, order)
        return is_new, money

    def refund(self, event: Event) -> Returned:
        """Return what a refund takes back: of a remembered order what was paid, else what the refund states."""
        data = event.data
        key = event.shopper, data.transaction_id
        order = self._take(key) if data.transaction_id else None
        if order is None:
            money = sum((line.price or 0.0) * line.quantity for line in data.items) or abs(data.value or 0.0)
            return Returned(money, sum(line.quantity for line in data.items))
        items = dict.fromkeys(line.item_id for line in data.items if line.item_id in order.lines)
        gone = [order.lines.pop(item) for item in items]
        if order.lines:
            self._put(key, order)
        ended = not order.lines
        return Returned(
            sum(money for _, money in gone), sum(pieces for pieces, _ in gone), int(ended),
            int(ended and order.promoted),
        )  # fmt: skip

    def forget(self, shopper: str) -> None:
        """Forget the orders of a shopper who is no longer known: they count in no profile any more."""
        for transaction in list(self._of.get(shopper, ())):
            self._take((shopper, transaction))

    def _take(self, key: tuple[str, str]) -> _Order | None:
        order = self._orders.pop(key, None)
        if order is not None:
            self._lines -= len(order.lines)
            shopper, transaction = key
            del self._of[shopper][transaction]
            if not self._of[shopper]:
                del self._of[shopper]
        return order

    def _put(self, key: tuple[str, str], order: _Order) -> None:
        self._orders[key] = order
        self._of.setdefault(key[0], {})[key[1]] = None
        self._lines += len(order.lines)
        while len(self._orders) > self.orders_max or (self._lines > lines_max and len(self._orders) > 1):
            self._take(next(iter(self._orders)))

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of orders and of their lines."""
        return {"orders": (len(self._orders), self.orders_max), "order_lines": (self._lines, lines_max)}

    def state(self) -> list[Any]:
        """Return all orders, the one touched least recently first."""
        return [
            [*key, one.promoted, [[item, *line] for item, line in one.lines.items()]]
            for key, one in self._orders.items()
        ]

    @classmethod
    def from_state(cls, state: list[Any], *, orders_max: int, shoppers: Container[str]) -> Self:
        """Return orders that continue where `state` was taken; of more than the maximum, the newest.

        Args:
            shoppers: those who are known; the orders of others are forgotten.
        """
        orders = cls(orders_max=orders_max)
        for shopper, number, promoted, lines in [one for one in state if one[0] in shoppers][-orders_max:]:
            orders._put((shopper, number), _Order(promoted, {item: (pieces, money) for item, pieces, money in lines}))
        return orders
