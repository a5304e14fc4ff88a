"""Orders: each transaction is one purchase, however often its page is loaded, and a refund knows what was bought."""

from collections import OrderedDict
from typing import Any, Final, Self

from msgspec import Struct
from msgspec.structs import replace

from headrace.events import Event, Item

lines_max: Final = 200_000
"""Most lines of all remembered orders."""


class _Line(Struct, gc=False):
    """One item of an order: the pieces that were bought and those that were refunded."""

    bought: float = 0.0
    refunded: float = 0.0


_Order = dict[str, _Line]
_ALL: Final = ""
"""In place of an item: the whole order was refunded before it was known."""


class Orders:
    """The lines of the newest orders, by shopper and transaction. Bounded: the order touched least recently goes first.

    Numbers of transactions are unique in a shop. If two shoppers have the same one, it is one order where the second
    has no other items than the first, as its page was opened on another device, else two.

    Args:
        orders_max: most orders.

    Attributes:
        returned: the pieces that the refund noted last took back, at most as many as were bought, if that is known.
        unseen: whether it names an order of which no purchase is known.
            Both are no part of the state.
    """

    def __init__(self, *, orders_max: int) -> None:
        self.orders_max = orders_max
        self.returned: list[Item] = []
        self.unseen = False
        self._orders: OrderedDict[tuple[str, str], _Order] = OrderedDict()
        self._buyers: dict[str, str] = {}  # of each transaction, the newest
        self._lines = 0

    def buy(self, event: Event) -> bool:
        """Note a purchase; drop the lines that its order had already. Returns whether lines are left.

        Several events of one transaction are one order: a large one may be sent in parts. Lines that were refunded
        before, by a refund that came first, are dropped, too.
        """
        data, transaction = event.data, event.data.transaction_id
        if not transaction:
            return True
        order = self._take(event.shopper, transaction)
        if order is None:
            other = self._buyers.get(transaction, "")
            elsewhere = self._orders.get((other, transaction), {})
            if elsewhere and not any(line.bought for line in elsewhere.values()):
                order = self._take(other, transaction)  # only refunded so far, by another sender
            elif elsewhere and all(line.item_id in elsewhere for line in data.items):
                return False
        order = {} if order is None else order
        new = [line for line in data.items if not (known := order.get(line.item_id)) or not known.bought]
        for line in new:
            order.setdefault(line.item_id, _Line()).bought += line.quantity
        self._put(event.shopper, transaction, order)
        kept = (
            [] if _ALL in order else [line for line in new if order[line.item_id].refunded < order[line.item_id].bought]
        )
        if len(kept) < len(data.items):
            data.items = kept
        return bool(kept)

    def refund(self, event: Event) -> bool:
        """Note a refund; keep the lines of which no piece is left. Returns whether anything of it is new.

        A refund without lines is one of the whole order. It is the buyer's, whoever sends it.
        """
        data, transaction = event.data, event.data.transaction_id
        self.unseen = False
        if not transaction:
            self.returned = data.items
            return bool(data.items)
        order = self._take(event.shopper, transaction)
        if order is None and (buyer := self._buyers.get(transaction)):
            order = self._take(buyer, transaction)
            if order is not None:
                event.shopper = buyer
        order = {} if order is None else order
        sold = any(line.bought for line in order.values())
        if not data.items:
            left = {item: line for item, line in order.items() if line.refunded < line.bought}
            data.items = [Item(item, quantity=line.bought - line.refunded) for item, line in left.items()]
            if not sold:
                order[_ALL] = _Line()
        returned, is_new, self.returned, self.unseen = [], not sold, [], not sold
        for line in data.items:
            known = order.setdefault(line.item_id, _Line())
            before, known.refunded = known.refunded, known.refunded + line.quantity
            is_new |= before < known.bought
            pieces = min(known.refunded, known.bought) - min(before, known.bought) if sold else line.quantity
            if pieces > 0:
                self.returned.append(replace(line, quantity=pieces))
            if not sold or before < known.bought <= known.refunded:
                returned.append(line)
        self._put(event.shopper, transaction, order)
        data.items = returned
        return is_new

    def _take(self, shopper: str, transaction: str) -> _Order | None:
        order = self._orders.pop((shopper, transaction), None)
        if order is not None:
            self._lines -= len(order)
        return order

    def _put(self, shopper: str, transaction: str, order: _Order) -> None:
        self._orders[shopper, transaction] = order
        self._buyers[transaction] = shopper
        self._lines += len(order)
        while len(self._orders) > self.orders_max or (self._lines > lines_max and len(self._orders) > 1):
            (oldest, number), lines = self._orders.popitem(last=False)
            self._lines -= len(lines)
            if self._buyers.get(number) == oldest:
                del self._buyers[number]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of orders and of their lines."""
        return {"orders": (len(self._orders), self.orders_max), "order_lines": (self._lines, lines_max)}

    def state(self) -> list[Any]:
        """Return all orders, the one touched least recently first."""
        return [
            [*key, list(order), [[line.bought, line.refunded] for line in order.values()]]
            for key, order in self._orders.items()
        ]

    @classmethod
    def from_state(cls, state: list[Any], *, orders_max: int) -> Self:
        """Return orders that continue where `state` was taken; of more than the maximum, the newest."""
        orders = cls(orders_max=orders_max)
        for shopper, transaction, items, lines in state[-orders_max:]:
            orders._put(shopper, transaction, {item: _Line(*line) for item, line in zip(items, lines, strict=True)})
        return orders
