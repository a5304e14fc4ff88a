"""What is watched for drift of a shop's events: what is viewed, at which prices, by whom, and what models say of it."""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Final

from headrace.events import Event
from headrace.state import State
from headrace.surface import Watched
from learners.next_item.contexts import VIEW_EVENTS
from learners.next_item.judgement import Judgement, vector_length
from learners.next_item.watched_items import WatchedItem, WatchedItems
from learners.parts.drift import Alarm
from learners.parts.features import Levels, Shares, Vectors
from learners.parts.monitor import Monitor, Silences

event_block_min: Final = 400
"""Least number of events of a block. Those of one visit are similar, so smaller blocks are mostly noise."""
judgement_block_min: Final = 150
"""Least number of judgements of a block."""
batch: Final = 200
"""Events that are counted together: less work than each in its turn. Part of blocks' least numbers."""
usual_price_weight: Final = 0.05
"""Weight of a view in the usual price of its item."""


def _change(level: float) -> float:
    """Return a difference of logarithms as a share."""
    return exp(level) - 1


class Watching:
    """Watches events (features and segments) and judgements (predictions, and the vectors of visits).

    - `item`, `category`, `brand`: shares of views; `item_peak`, `category_peak`: of single ones.
    - `category_items`: shares of items within a category; `new_items`: views that are the first of their item.
    - `price`: prices that were viewed; `price_change`: prices, relative to the item's usual one. Both by category.
    - `event_type`, `device`, `country`, `returning`: shares of events, and of shoppers who were seen before.
    - `confidence`: the blend's probability of its best item, by the category of the item that came next.
    - `taste`: the deep model's vectors of visits.
    """

    def __init__(self) -> None:
        self.silences = Silences()
        self._items = WatchedItems()
        self._categories = Shares("category", peak=True, names_max=1_024)
        self._brands = Shares("brand", names_max=1_024)
        self._prices = Levels("price", log(0.05), log(50_000.0), least=0.12, bins=128, shown=exp)
        self._price_changes = Levels(
            "price_change", -1.025, 1.025, least=0.01, bins=41, passing=True, shown=_change, unit="%"
        )
        self._types = Shares("event_type", stability=True, least=0.2, names_max=64)
        self._devices = Shares("device", stability=True, least=0.2, names_max=64)
        self._countries = Shares("country", stability=True, least=0.2, names_max=256)
        self._returning = Shares("returning", stability=True, least=0.5, names_max=8)
        self._confidence = Levels("confidence", 0.0, 1.0, least=0.02, unit="%")
        self._vectors = Vectors("taste", vector_length)
        self._events = Monitor(
            (
                self._items, self._categories, self._brands, self._prices, self._price_changes,
                self._types, self._devices, self._countries, self._returning,
            ),
            values_min=event_block_min,
        )  # fmt: skip
        self._judged = Monitor((self._confidence, self._vectors), values_min=judgement_block_min)
        # Of the running batch, not counted yet: what counts once per shopper as keys, in their order.
        self._kinds: list[str] = []
        self._visitors: dict[tuple[str, str, str], None] = {}
        self._viewers: dict[tuple[str, str], None] = {}
        self._views: list[tuple[str, str, str, str, float, WatchedItem | None]] = []
        self._batched = 0  # events of the running batch

    def observe(self, event: Event, slot: int | None, *, returning: bool) -> list[Alarm]:
        """Take an event before it is learned; return the alarms.

        Args:
            slot: of its first item.
            returning: whether its shopper was seen before.
        """
        data, shopper = event.data, event.shopper
        self._kinds.append(event.type)
        self._visitors[shopper, data.device, data.country] = None
        if event.type in VIEW_EVENTS:
            line = data.items[0]
            id_, category = line.item_id, line.item_category
            item = None if slot is None else self._items.viewed(slot, id_, category, event.time_ms)
            self._viewers["returning" if returning else "new", shopper] = None
            self._views.append((shopper, id_, category, line.item_brand, line.price or 0.0, item))
        self._batched += 1
        if self._batched < batch:
            return []
        self._batched = 0
        self._count()
        return self._events.observe(event.time_ms, self.silences, batch)

    def _count(self) -> None:
        """Count what was observed. It may be called at any time: the sums are the same."""
        if self._kinds:
            shoppers, devices, countries = zip(*self._visitors, strict=True)
            self._types.count(self._kinds)
            self._devices.add(devices, shoppers)
            self._countries.add(countries, shoppers)
            self._kinds.clear()
            self._visitors.clear()
        if self._views:
            returning, shoppers = zip(*self._viewers, strict=True)
            self._returning.add(returning, shoppers)
            shoppers, ids, categories, brands, prices, items = zip(*self._views, strict=True)
            self._viewers.clear()
            self._views.clear()
            fresh = [id_ for id_, item in zip(ids, items, strict=True) if item is None]
            self._items.add_views(ids, shoppers, fresh)
            self._categories.add(categories, shoppers)
            self._brands.add(brands, shoppers)
            self._count_prices(prices, items, categories)

    def _count_prices(
        self, prices: Sequence[float], items: Sequence[WatchedItem | None], categories: Sequence[str]
    ) -> None:
        levels, of_levels, changes, of_changes = list[float](), list[str](), list[float](), list[str]()
        for price, item, category in zip(prices, items, categories, strict=True):
            if price:
                level = log(price)
                levels.append(level)
                of_levels.append(category)
                if item is not None:
                    usual = level if item.usual is None else item.usual
                    changes.append(level - usual)
                    of_changes.append(category)
                    item.usual = usual + usual_price_weight * (level - usual)
        self._prices.add(levels, of_levels)
        self._price_changes.add(changes, of_changes)

    def observe_judgement(self, one: Judgement, slot: int | None) -> list[Alarm]:
        """Take a judgement; `slot` is that of its true item."""
        category = self.category_of(slot)
        if one.confidence:
            self._confidence.add([one.confidence], [category])
        if one.vector:
            self._vectors.add(one.vector, category, one.model)
        return self._judged.observe(one.time_ms, self.silences)

    def category_of(self, slot: int | None) -> str:
        """Return the category of the newest view of an item, "" if it has none."""
        item = None if slot is None else self.items.get(slot)
        return item.category if item else ""

    def forget(self, slots: Sequence[int]) -> None:
        """Delete what is stored for these slots, which will be reused for other items."""
        self._count()
        self._items.forget(slots)

    def watched(self) -> dict[str, Watched]:
        """Return each detector's newest distance and its threshold."""
        return self._events.watched() | self._judged.watched()

    @property
    def items(self) -> Mapping[int, WatchedItem]:
        """The items of which something is stored, by slot."""
        return self._items.items

    def state(self) -> State:
        """Return the complete state."""
        self._count()
        return {
            "silences": self.silences.state(), "events": self._events.state(), "judged": self._judged.state(),
            "batched": self._batched,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self.silences = Silences.from_state(state["silences"])
        self._kinds, self._visitors, self._viewers, self._views = [], {}, {}, []
        self._batched = state["batched"]
        self._events.restore(state["events"])
        self._judged.restore(state["judged"])


DETECTORS: Final = tuple(Watching().watched())
"""The names of the detectors of a `Watching`."""


def from_version_2(state: State) -> State:
    """Return today's state of a `Watching` for one that watched items in another way: its silences hold on."""
    return {**Watching().state(), "silences": state["silences"]}
