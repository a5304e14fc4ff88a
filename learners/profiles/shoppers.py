"""The table of shoppers: what each event says of the shopper whose it is."""

from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from math import frexp, log
from sys import intern
from typing import Any, Final

import numpy as np

from headrace.events import Event, Item
from headrace.state import State
from learners.family import Move
from learners.parts.decay import Decay
from learners.parts.prices import MeanPrices
from learners.profiles.orders import Orders
from learners.profiles.record import (
    Known,
    Purchases,
    Taste,
    Visit,
    day_ms,
    flat,
    from_scalars,
    scalars,
    tastes_full,
    trim,
)

half_life_ms: Final = 30 * day_ms
"""Tastes and price levels of a month ago count half."""
idle_ms_max: Final = 30 * 60_000
"""Pause, by the sender's clock, after which a shopper's next event begins another visit."""
categories_max: Final = 10_000
items_max: Final = 100_000
"""Most categories and items of which the usual price is known."""
below_usual: Final = -0.05
"""Log of a price's ratio to the item's usual price, below which the line was bought at a lowered price."""
hour_ms: Final = 3_600_000
_THURSDAY: Final = 3  # 1970-01-01
STEPS: Final = {"view_item": 1.0, "select_item": 1.0, "add_to_wishlist": 3.0, "add_to_cart": 3.0, "purchase": 5.0}
"""Events that show a taste, and how many views each counts for."""


@lru_cache(maxsize=1 << 16)
def _keys(category: str, brand: str, octave: int | None) -> tuple[str, ...]:
    """Return the keys of the tastes that an item is evidence of.

    >>> _keys("Toys", "", 4)
    ('category=Toys', 'price=8-16')
    """
    found = [f"{kind}={value}" for kind, value in (("category", category), ("brand", brand)) if value]
    if octave is not None:
        found.append(f"price={2.0 ** (octave - 1):g}-{2.0**octave:g}")
    return tuple(map(intern, found))


@lru_cache(maxsize=1 << 12)
def _key(kind: str, value: str) -> str:
    return intern(f"{kind}={value}")


_HOURS: Final = [intern(f"hour={hour}") for hour in range(24)]
_WEEKDAYS: Final = [intern(f"weekday={day}") for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")]


class Shoppers:
    """What is known of each shopper. Bounded: the shopper seen longest ago is forgotten first.

    Args:
        shoppers_max: most shoppers.
        tastes_max: most tastes of all of them.
        orders_max: most orders that a refund can take back.
    """

    def __init__(self, *, shoppers_max: int, tastes_max: int, orders_max: int) -> None:
        self.shoppers_max, self.tastes_max = shoppers_max, tastes_max
        self._shoppers: OrderedDict[str, Known] = OrderedDict()
        self.orders = Orders(orders_max=orders_max)
        self._categories, self._items = MeanPrices(categories_max), MeanPrices(items_max)
        self._decay = Decay(half_life_ms)
        self._hour, self._weight, self._tastes = -1, 1.0, 0

    def __len__(self) -> int:
        return len(self._shoppers)

    def __contains__(self, shopper: str) -> bool:
        return shopper in self._shoppers

    def __iter__(self) -> Iterator[str]:
        """Yield the shoppers, the one seen longest ago first."""
        return iter(self._shoppers)

    def of(self, shopper: str) -> Known | None:
        """Return what is known of a shopper."""
        return self._shoppers.get(shopper)

    def newest(self, count: int) -> list[Known]:
        """Return what is known of those seen last, the newest first."""
        return [self._shoppers[name] for name in islice(reversed(self._shoppers), count)]

    def weight(self, time_ms: int) -> float:
        """Return the weight that a view has now: what was a half-life ago weighs half of that."""
        return self._decay.weight(time_ms)

    def learn(self, event: Event) -> None:
        """Learn from one event."""
        time_ms, kind = event.time_ms, event.type
        if time_ms // hour_ms != self._hour:
            self._advance(time_ms)
        known = self._shoppers.get(event.shopper)
        if kind == "refund":  # the shop's work, and no visit
            if known is not None:
                self._refund(known, event)
            return
        if known is None:
            known = self._new(event.shopper, time_ms)
        else:
            self._shoppers.move_to_end(event.shopper)
        visit = self._visit(known, event)
        known.newest_ms = max(known.newest_ms, time_ms)
        visit.events += 1
        step = STEPS.get(kind)
        if step is not None:
            if kind == "purchase":
                self._buy(known, visit, event)
            elif kind == "add_to_cart":
                visit.carts += 1
            else:
                visit.views += 1
            for line in event.data.items:
                self._turn_to(visit, line, step * self._weight, time_ms)
        elif kind == "search":
            visit.searches += 1
        elif kind == "select_promotion":
            visit.promoted = True
        if len(self._shoppers) > self.shoppers_max or self._tastes > self.tastes_max:
            self._forget()

    def _new(self, shopper: str, time_ms: int) -> Known:
        known = self._shoppers[shopper] = Known(time_ms, time_ms)
        return known

    def _visit(self, known: Known, event: Event) -> Visit:
        """Return the visit that an event is part of; one that is over is added to those before."""
        visit, name = known.visit, event.data.session_id
        time_ms, own_ms = event.time_ms, event.own_ms or event.time_ms
        if (
            visit is not None
            and own_ms - visit.own_ms <= idle_ms_max
            and (name == visit.session or not name or not visit.session)
        ):
            if own_ms > visit.own_ms:
                visit.own_ms = own_ms
            if time_ms > visit.newest_ms:
                visit.newest_ms = time_ms
            visit.session = name or visit.session
            if not visit.device and event.data.device:
                self._see_device(visit, event)
            return visit
        self._tastes -= known.end_visit()
        visit = known.visit = Visit(name, time_ms, time_ms, own_ms)
        hours = time_ms // hour_ms
        for key in (
            _HOURS[hours % 24], _WEEKDAYS[(hours // 24 + _THURSDAY) % 7], _key("channel", event.source),
        ):  # fmt: skip
            visit.tastes[key] = Taste(self._weight, 1, time_ms)
        self._tastes += 3
        if event.data.device:
            self._see_device(visit, event)
        return visit

    def _see_device(self, visit: Visit, event: Event) -> None:
        visit.device = event.data.device
        visit.tastes[_key("device", visit.device)] = Taste(self._weight, 1, event.time_ms)
        self._tastes += 1

    def _turn_to(self, visit: Visit, line: Item, weight: float, time_ms: int) -> None:
        """Note that a shopper turned to an item, as one did who bought it or looked at it."""
        price, tastes, category = line.price, visit.tastes, line.item_category
        if price:
            keys = _keys(category, line.item_brand, frexp(price)[1])
            level = log(price)
            self._items.learn(line.item_id, level)
            if category:
                known = self._categories.knows(category)
                above = self._categories.learn(category, level)
                if known:
                    visit.prices.add(above, weight, time_ms)
        else:
            keys = _keys(category, line.item_brand, None)
        for key in keys:
            taste = tastes.get(key)
            if taste is None:
                tastes[key] = Taste(weight, 1, time_ms)
                self._tastes += 1
                if len(tastes) > tastes_full:
                    self._tastes -= trim(tastes)
            else:
                taste.weight += weight
                taste.count += 1

    def _buy(self, known: Known, visit: Visit, event: Event) -> None:
        time_ms = event.time_ms
        purchases = known.purchases
        if purchases is None:
            purchases = known.purchases = Purchases(time_ms, time_ms)
        promoted = visit.promoted or bool(event.data.coupon or event.data.promotion_id)
        is_new, money = self.orders.buy(event, promoted=promoted)
        if is_new:
            visit.orders += 1
            purchases.order(time_ms, promoted=promoted)
        purchases.money += money
        items = self._items
        for line in event.data.items:
            purchases.units += line.quantity
            if line.price and items.knows(line.item_id):
                purchases.lines += 1
                purchases.lines_below += items.above(line.item_id, log(line.price)) < below_usual

    def _refund(self, known: Known, event: Event) -> None:
        known.refunds += 1
        returned = self.orders.refund(event)
        if known.purchases is not None:
            known.purchases.take_back(returned.money, returned.units, returned.orders, returned.promoted)

    def move(self, move: Move) -> None:
        """Move the running visit to the shopper whose session it turned out to be. Orders stay with who placed them."""
        guest = self._shoppers.get(move.from_shopper)
        visit = guest.visit if guest else None
        if guest is None or visit is None or visit.session != move.session_id:
            return
        guest.visit = None
        if guest.is_empty:
            del self._shoppers[move.from_shopper]
        known = self._shoppers.get(move.to_shopper)
        if known is None:
            known = self._new(move.to_shopper, visit.started_ms)
        else:
            self._shoppers.move_to_end(move.to_shopper)
        if known.visit is not None and known.visit.session == visit.session:
            self._tastes -= known.visit.join(visit)
        else:
            self._tastes -= known.end_visit()
            known.visit = visit
        known.newest_ms = max(known.newest_ms, visit.newest_ms)
        known.since_ms = min(known.since_ms, visit.started_ms)
        if len(self._shoppers) > self.shoppers_max:
            self._forget()

    def _advance(self, time_ms: int) -> None:
        """Find the weight of evidence of this hour."""
        self._hour = time_ms // hour_ms
        start_ms = self._hour * hour_ms
        factor = self._decay.advance(start_ms)
        if factor != 1.0:
            for known in self._shoppers.values():
                known.scale(factor)
        self._weight = self._decay.weight(start_ms)

    def _forget(self) -> None:
        """Forget those seen longest ago, until the maxima are kept; the shopper seen last stays."""
        shoppers = self._shoppers
        while len(shoppers) > self.shoppers_max or (self._tastes > self.tastes_max and len(shoppers) > 1):
            name, known = shoppers.popitem(last=False)
            self._tastes -= known.size
            self.orders.forget(name)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {
            "shoppers": (len(self._shoppers), self.shoppers_max),
            "tastes": (self._tastes, self.tastes_max),
            "categories": (len(self._categories.means), categories_max),
            "items": (len(self._items.means), items_max),
            **self.orders.bounds(),
        }

    def state(self) -> State:
        """Return the shoppers, the one seen longest ago first; the tastes of each in columns."""
        past, past_columns = flat(known.tastes for known in self._shoppers.values())
        running, running_columns = flat(known.visit.tastes for known in self._shoppers.values() if known.visit)
        return {
            "decay": self._decay.state(),
            "names": list(self._shoppers),
            "known": [scalars(known) for known in self._shoppers.values()],
            "past": {"keys": past, **_columns(past_columns)},
            "running": {"keys": running, **_columns(running_columns)},
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken; of more shoppers than the maximum, with those seen last."""
        self._decay = Decay.from_state(state["decay"])
        past, running = _tastes(state["past"]), _tastes(state["running"])
        for name, found in zip(state["names"], state["known"], strict=True):
            known = from_scalars(found, next(past), {} if found[1] is None else next(running))
            self._shoppers[name] = known
            self._tastes += known.size
        self._forget()

    def restore_orders(self, state: list[Any]) -> None:
        """Continue with these orders, those of shoppers who are known."""
        self.orders = Orders.from_state(state, orders_max=self.orders.orders_max, shoppers=self._shoppers)

    def prices(self) -> State:
        """Return the usual prices."""
        return {"categories": self._categories.state(), "items": self._items.state()}

    def restore_prices(self, state: State) -> None:
        """Continue with these usual prices."""
        self._categories.restore(state["categories"])
        self._items.restore(state["items"])


_COLUMNS: Final = (("sizes", "<i4"), ("key", "<i4"), ("weight", "<f8"), ("count", "<i8"), ("since_ms", "<i8"))


def _columns(columns: list[list[Any]]) -> State:
    return {name: np.array(column, dtype) for (name, dtype), column in zip(_COLUMNS, columns, strict=True)}


def _tastes(state: State) -> Iterator[dict[str, Taste]]:
    """Yield the tastes of each shopper in turn."""
    keys = list(map(intern, state["keys"]))
    each = zip(*(state[name].tolist() for name, _ in _COLUMNS[1:]), strict=True)
    for size in state["sizes"].tolist():
        found = {}
        for _ in range(size):
            key, weight, count, since_ms = next(each)
            found[keys[key]] = Taste(weight, count, since_ms)
        yield found
