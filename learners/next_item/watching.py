"""What is watched for drift of a shop's events: what is viewed, at which prices, by whom, and what models say of it."""

from collections.abc import Sequence
from math import exp, log
from typing import Final

import numpy as np

from headrace.events import Event
from headrace.state import State
from headrace.surface import Watched
from learners.next_item.contexts import VIEW_EVENTS
from learners.next_item.judgement import Judgement, vector_length
from learners.parts.drift import Alarm
from learners.parts.features import Levels, Shares, Vectors
from learners.parts.monitor import Monitor, Silences

event_block_min: Final = 400
"""Least number of events of a block. Those of one visit are similar, so smaller blocks are mostly noise."""
judgement_block_min: Final = 150
"""Least number of judgements of a block."""
usual_price_weight: Final = 0.05
"""Weight of a view in the usual price of its item."""


def _change(level: float) -> float:
    """Return a difference of logarithms as a share."""
    return exp(level) - 1


class Watching:
    """Watches events (features and segments) and judgements (predictions, and the vectors of visits).

    - `item`, `category`, `brand`: shares of views; `item_peak`, `category_peak`: of single ones.
    - `price`: prices that were viewed; `price_change`: prices, relative to the item's usual one. Both by category.
    - `unseen_items`: views of items that nobody viewed before.
    - `event_type`, `device`, `country`, `returning`: shares of events, and of shoppers who were seen before.
    - `confidence`: the blend's probability of its best item, by the category of the item that came next.
    - `taste`: the deep model's vectors of visits.
    """

    def __init__(self) -> None:
        self.silences = Silences()
        self._items = Shares("item", peak=True)
        self._categories = Shares("category", peak=True, names_max=1_024)
        self._brands = Shares("brand", names_max=1_024)
        self._prices = Levels("price", log(0.05), log(50_000.0), least=0.02, bins=128, shown=exp)
        self._price_changes = Levels(
            "price_change", -1.025, 1.025, least=0.01, bins=41, passing=True, shown=_change, unit="%"
        )
        self._unseen = Shares("unseen_items", stability=True, names_max=8)
        self._types = Shares("event_type", stability=True, names_max=64)
        self._devices = Shares("device", stability=True, names_max=64)
        self._countries = Shares("country", stability=True, names_max=256)
        self._returning = Shares("returning", stability=True, names_max=8)
        self._confidence = Levels("confidence", 0.0, 1.0, least=0.02, unit="%")
        self._vectors = Vectors("taste", vector_length)
        self._events = Monitor(
            (
                self._items, self._categories, self._brands, self._prices, self._price_changes, self._unseen,
                self._types, self._devices, self._countries, self._returning,
            ),
            values_min=event_block_min,
        )  # fmt: skip
        self._judged = Monitor((self._confidence, self._vectors), values_min=judgement_block_min)
        self._usual_prices: dict[int, float] = {}  # logarithms, by slot
        self._category_of: dict[int, str] = {}  # by slot
        self._category_names: dict[str, str] = {}  # each name once

    def observe(self, event: Event, slot: int | None, *, returning: bool) -> list[Alarm]:
        """Take an event before it is learned; return the alarms.

        Args:
            slot: of its first item.
            returning: whether its shopper was seen before.
        """
        shopper, data = event.shopper, event.data
        self._types.count(event.type)
        if data.device:
            self._devices.add(data.device, shopper)
        if data.country:
            self._countries.add(data.country, shopper)
        if event.type in VIEW_EVENTS:
            line = data.items[0]
            category = line.item_category
            self._returning.add("returning" if returning else "new", shopper)
            self._items.add(line.item_id, shopper)
            self._unseen.count("unseen" if slot is None else "seen")
            if category:
                self._categories.add(category, shopper)
                if slot is not None:
                    self._category_of[slot] = self._category_names.setdefault(category, category)
            if line.item_brand:
                self._brands.add(line.item_brand, shopper)
            if line.price:
                level = log(line.price)
                self._prices.add(level, category)
                if slot is not None:
                    usual = self._usual_prices.get(slot, level)
                    self._price_changes.add(level - usual, category)
                    self._usual_prices[slot] = usual + usual_price_weight * (level - usual)
        return self._events.observe(event.time_ms, self.silences)

    def observe_judgement(self, one: Judgement, slot: int | None) -> list[Alarm]:
        """Take a judgement; `slot` is that of its true item."""
        category = self._category_of.get(-1 if slot is None else slot, "")
        if one.confidence:
            self._confidence.add(one.confidence, category)
        if one.vector:
            self._vectors.add(one.vector, category, one.model)
        return self._judged.observe(one.time_ms, self.silences)

    def forget(self, slots: Sequence[int]) -> None:
        """Delete what is stored for these slots, which will be reused for other items."""
        for slot in slots:
            self._usual_prices.pop(slot, None)
            self._category_of.pop(slot, None)

    def watched(self) -> dict[str, Watched]:
        """Return each detector's newest distance and its threshold."""
        return self._events.watched() | self._judged.watched()

    def state(self) -> State:
        """Return the complete state."""
        return {
            "silences": self.silences.state(), "events": self._events.state(), "judged": self._judged.state(),
            "priced": np.array(list(self._usual_prices), np.int32),
            "usual_prices": np.array(list(self._usual_prices.values())),
            "category_of": [[slot, category] for slot, category in self._category_of.items()],
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self.silences = Silences.from_state(state["silences"])
        self._events.restore(state["events"])
        self._judged.restore(state["judged"])
        self._usual_prices = dict(zip(state["priced"].tolist(), state["usual_prices"].tolist(), strict=True))
        names = self._category_names = {category: category for _, category in state["category_of"]}
        self._category_of = {slot: names[category] for slot, category in state["category_of"]}


DETECTORS: Final = tuple(Watching().watched())
"""The names of the detectors of a `Watching`."""
