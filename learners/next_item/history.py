"""What is known beyond the running visit: what each shopper saw, put into the cart and bought when; what items are."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from sys import intern
from typing import Final, NamedTuple, Self

import numpy as np

from headrace.events import Event, Item
from headrace.state import State
from learners.family import Move
from learners.next_item.contexts import STEP_EVENTS

shopper_items_max: Final = 1_000
"""Most items that are remembered of one shopper; the one noted longest ago is forgotten first."""


class ItemTimes:
    """By shopper and item, how often something happened, and the newest shop time at which it did.

    Bounded: the shopper whose newest note is longest ago is forgotten first. Items are kept by id, because a shopper
    remembers what the catalogue has evicted.

    Args:
        entries_max: most items of all shoppers.

    >>> bought = ItemTimes(entries_max=9)
    >>> bought.note("ann", "boots", 5), bought.note("ann", "hat", 9), bought.take_back("ann", "hat")
    (None, None, None)
    >>> bought.after("ann", None), bought.after("ann", 5)
    (['boots'], [])
    """

    def __init__(self, *, entries_max: int) -> None:
        self.entries_max = entries_max
        self._shoppers: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()  # each: the item noted last, last
        self._entries = 0
        self._noted = 0, 0  # the newest time and count: an order's lines share them, which halves the memory

    def __contains__(self, shopper: str) -> bool:
        return shopper in self._shoppers

    def note(self, shopper: str, item: str, time_ms: int) -> None:
        """Note that it happened at a shop time."""
        self._put(shopper, item, time_ms, 1)
        if self._entries > self.entries_max:
            self._evict()

    def take_back(self, shopper: str, item: str) -> None:
        """Note that it did not happen once; what never happened then is forgotten."""
        items = self._shoppers.get(shopper)
        if items is None or item not in items:
            return
        time_ms, count = items[item]
        if count > 1:
            items[item] = time_ms, count - 1
            return
        del items[item]
        self._entries -= 1
        if not items:
            del self._shoppers[shopper]

    def after(self, shopper: str, time_ms: int | None) -> list[str]:
        """Return the items to which it happened after a shop time, or ever."""
        items = self._shoppers.get(shopper, {})
        return [item for item, (newest_ms, _) in items.items() if time_ms is None or newest_ms > time_ms]

    def of(self, shopper: str) -> list[tuple[str, int, int]]:
        """Return a shopper's items, the one noted last first, each with its newest shop time and how often it was."""
        items = self._shoppers.get(shopper, {})
        return [(item, *items[item]) for item in reversed(items)]

    def noted(self, shopper: str, item: str) -> tuple[int, int] | None:
        """Return the newest shop time at which it happened to an item, and how often it did; None if it never did."""
        return self._shoppers.get(shopper, {}).get(item)

    def __iter__(self) -> Iterator[str]:
        """Yield the shoppers, the one who is forgotten first being the first."""
        return iter(self._shoppers)

    def __reversed__(self) -> Iterator[str]:
        """Yield the shoppers, the one of whom something was noted last being the first."""
        return reversed(self._shoppers)

    def move(self, from_shopper: str, to_shopper: str, items: Iterable[str] | None) -> None:
        """Move what is noted of one shopper, of these items or of all, to another."""
        known = self._shoppers.get(from_shopper)
        if known is None or from_shopper == to_shopper:
            return
        for item in list(known) if items is None else dict.fromkeys(items):
            if found := known.pop(item, None):
                self._entries -= 1
                self._put(to_shopper, item, *found)
        if not known:
            del self._shoppers[from_shopper]
        self._evict()

    def _put(self, shopper: str, item: str, time_ms: int, count: int) -> None:
        items = self._shoppers.get(shopper)
        if items is None:
            items = self._shoppers[shopper] = {}
        else:
            self._shoppers.move_to_end(shopper)
        before = items.pop(item, None)
        if before is None:
            self._entries += 1
            noted = time_ms, count
        else:
            noted = max(time_ms, before[0]), count + before[1]
        if self._noted != noted:
            self._noted = noted
        items[intern(item)] = self._noted
        if len(items) > shopper_items_max:
            del items[next(iter(items))]
            self._entries -= 1

    def _evict(self) -> None:
        while self._entries > self.entries_max:
            oldest = next(iter(self._shoppers))
            items = self._shoppers[oldest]
            if len(self._shoppers) > 1:
                del self._shoppers[oldest]
                self._entries -= len(items)
            else:
                del items[next(iter(items))]
                self._entries -= 1

    def use(self) -> tuple[int, int]:
        """Return the number of items of all shoppers and the maximum."""
        return self._entries, self.entries_max

    def state(self) -> State:
        """Return everything, the shopper who is forgotten first being the first."""
        tables = self._shoppers.values()
        values = [value for items in tables for value in items.values()]
        return {
            "shoppers": list(self._shoppers),
            "lengths": np.array([len(items) for items in tables], np.int32),
            "items": [item for items in tables for item in items],
            "times_ms": np.array([time_ms for time_ms, _ in values], np.int64),
            "counts": np.array([count for _, count in values], np.int64),
        }

    @classmethod
    def from_state(cls, state: State, *, entries_max: int) -> Self:
        """Return what continues where `state` was taken; of more items than the maximum, with the newest shoppers'."""
        found, columns = cls(entries_max=entries_max), (state["times_ms"].tolist(), state["counts"].tolist())
        noted = zip(state["items"], *columns, strict=True)
        for shopper, length in zip(state["shoppers"], state["lengths"].tolist(), strict=True):
            for _ in range(length):
                found._put(shopper, *next(noted))
        found._evict()
        return found


class Facts(NamedTuple):
    """What is known of an item: "" and None where nothing is.

    `available` is whether it can be bought. `margin` is its price less what the shop pays for it. `lasts` is for how
    many days its stock is expected to last.
    """

    brand: str = ""
    category: str = ""
    price: float | None = None
    available: bool = True
    name: str = ""
    seller: str = ""
    margin: float | None = None
    lasts: float | None = None


class LineFacts:
    """What lines of events say of items. Bounded: the item whose line is longest ago is forgotten first.

    Args:
        items_max: most items.

    Attributes:
        watch: is told each item of which something else is known now.
    """

    def __init__(self, *, items_max: int) -> None:
        self.items_max = items_max
        self._items: OrderedDict[str, Facts] = OrderedDict()
        self.watch: Callable[[str], None] | None = None

    def learn(self, line: Item) -> None:
        """Learn from a line; what it lacks changes nothing."""
        if not (line.item_brand or line.item_category or line.item_name or line.price is not None):
            return
        item = line.item_id
        known = self._items.get(item) or Facts()
        brand, category, name = line.item_brand or known.brand, line.item_category or known.category, line.item_name
        price = known.price if line.price is None else line.price
        said = known
        if not (brand == known.brand and category == known.category and price == known.price) or (
            name and name != known.name
        ):
            said = Facts(intern(brand), intern(category), price, name=name or known.name)
        self._items[item] = said
        self._items.move_to_end(item)
        gone = self._items.popitem(last=False)[0] if len(self._items) > self.items_max else ""
        if self.watch and (said != known or gone):
            self.watch(item)
            self.watch(gone)

    def items(self) -> list[str]:
        """Return the items of which lines said something."""
        return list(self._items)

    def of(self, item: str) -> Facts | None:
        """Return what lines said of an item; None if they said nothing."""
        return self._items.get(item)

    def use(self) -> tuple[int, int]:
        """Return the number of items and the maximum."""
        return len(self._items), self.items_max

    def state(self) -> State:
        """Return all items, the one that is forgotten first being the first."""
        facts = self._items.values()
        return {
            "items": list(self._items),
            "brands": [one.brand for one in facts],
            "categories": [one.category for one in facts],
            "prices": np.array([np.nan if one.price is None else one.price for one in facts], np.float64),
            "names": [one.name for one in facts],
        }

    @classmethod
    def from_state(cls, state: State, *, items_max: int) -> Self:
        """Return what continues where `state` was taken; of more items than the maximum, with the newest."""
        found = cls(items_max=items_max)
        texts = (state[name] for name in ("items", "brands", "categories", "names"))
        for item, brand, category, name, price in list(zip(*texts, state["prices"].tolist(), strict=True))[-items_max:]:
            found._items[item] = Facts(intern(brand), intern(category), None if price != price else price, name=name)
        return found


class History:
    """What shoppers did with items, and what lines say of items.

    Args:
        bought_max: most items that all shoppers bought.
        seen_max: most items that all shoppers viewed or chose; most that they put into carts; most on wishlists.
        items_max: most items of which is kept what lines say.

    Attributes:
        seen: items viewed or chosen in any way.
        carted, wished: items put into the cart and not removed from it; items put on the wishlist.
        bought: items bought and not returned.
    """

    def __init__(self, *, bought_max: int, seen_max: int, items_max: int) -> None:
        self.bought, self.seen = ItemTimes(entries_max=bought_max), ItemTimes(entries_max=seen_max)
        self.carted, self.wished = ItemTimes(entries_max=seen_max), ItemTimes(entries_max=seen_max)
        self.lines = LineFacts(items_max=items_max)

    def learn(self, event: Event) -> None:
        """Learn from an event. A refund takes back one purchase of each of its items, a removal one that was carted."""
        kind, shopper, time_ms = event.type, event.shopper, event.time_ms
        taken_back = self.bought if kind == "refund" else self.carted if kind == "remove_from_cart" else None
        if taken_back is not None:
            for item in dict.fromkeys(line.item_id for line in event.data.items):
                taken_back.take_back(shopper, item)
        if kind not in STEP_EVENTS:
            return
        chosen = {"add_to_cart": self.carted, "add_to_wishlist": self.wished, "purchase": self.bought}.get(kind)
        for item in dict.fromkeys(line.item_id for line in event.data.items):
            self.seen.note(shopper, item, time_ms)
            if chosen is not None:
                chosen.note(shopper, item, time_ms)
        if event.counts:
            for line in event.data.items:
                self.lines.learn(line)

    def knows(self, shopper: str) -> bool:
        """Return whether anything is kept of a shopper."""
        return shopper in self.bought or shopper in self.seen

    def move(self, move: Move, session: Iterable[str]) -> None:
        """Move what a guest did to the shopper who logged in; what is taken back, only of the session's items."""
        items = list(session) if move.taken_back else None
        for table in (self.bought, self.seen, self.carted, self.wished):
            table.move(move.from_shopper, move.to_shopper, items)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {
            "bought_items": self.bought.use(), "seen_items": self.seen.use(), "carted_items": self.carted.use(),
            "wished_items": self.wished.use(), "line_items": self.lines.use(),
        }  # fmt: skip

    def state(self) -> State:
        """Return the complete state."""
        return {
            "bought": self.bought.state(), "seen": self.seen.state(), "carted": self.carted.state(),
            "wished": self.wished.state(), "lines": self.lines.state(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State, *, bought_max: int, seen_max: int, items_max: int) -> Self:
        """Return what continues where `state` was taken, within these bounds."""
        history = cls(bought_max=bought_max, seen_max=seen_max, items_max=items_max)
        history.bought = ItemTimes.from_state(state["bought"], entries_max=bought_max)
        for name in ("seen", "carted", "wished"):
            setattr(history, name, ItemTimes.from_state(state[name], entries_max=seen_max))
        history.lines = LineFacts.from_state(state["lines"], items_max=items_max)
        return history


def from_version_1(state: State) -> State:
    """Return the state of a history of version 2; one of version 1 knew no names."""
    lines = state["lines"]
    return {**state, "lines": {**lines, "names": [""] * len(lines["items"])}}


def from_version_2(state: State) -> State:
    """Return the state of a history of today; one of version 2 knew nothing of carts and wishlists."""
    empty = ItemTimes(entries_max=1).state()
    return {**state, "carted": empty, "wished": empty}
