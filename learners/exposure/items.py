"""Items as exposure groups them: by brand, by seller, and by how popular they are."""

from collections import OrderedDict
from typing import Final, Self

import numpy as np
from msgspec import Struct

from headrace.state import State
from learners.desk.family import Desk
from learners.next_item.rules import brand_meant
from learners.parts.decay import Decay

week_ms: Final = 7 * 24 * 3_600_000
banded_every_ms: Final = 10 * 60_000
"""Shop time after which it is looked again at which items are the most popular ones."""
BANDS: Final = ("1 %", "10 %", "rest")
"""The most popular hundredth of the items, those up to the tenth, and the others."""


class Known(Struct, gc=False):
    """What events said of an item's brand, and how often shoppers turned to it, recent steps counting most."""

    brand: str
    steps: float


class Items:
    """The items that shoppers turned to. Bounded: the one that nobody turned to for longest is forgotten first.

    Args:
        desk: knows what the shop states of items, which counts before what events say.
    """

    def __init__(self, items_max: int, desk: Desk) -> None:
        self.items_max, self._desk = items_max, desk
        self._items: OrderedDict[str, Known] = OrderedDict()
        self._decay = Decay(week_ms)
        self._banded_ms = self._banded = 0  # when it was looked last, and at how many items
        self._least = [0.0, 0.0]  # steps of the most popular hundredth, and tenth

    def __len__(self) -> int:
        return len(self._items)

    def step(self, item: str, brand: str, time_ms: int) -> None:
        """Count a step to an item, of which an event says the brand, "" if it does not."""
        if (factor := self._decay.advance(time_ms)) != 1:
            self._least = [factor * least for least in self._least]
            for one in self._items.values():
                one.steps *= factor
        known = self._items.get(item)
        if known is None:
            known = self._items[item] = Known("", 0.0)
            if len(self._items) > self.items_max:
                self._items.popitem(last=False)
        else:
            self._items.move_to_end(item)
        known.steps += self._decay.weight(time_ms)
        known.brand = brand or known.brand
        if time_ms - self._banded_ms >= banded_every_ms or len(self._items) >= 2 * self._banded:
            self._banded_ms, self._banded = time_ms, len(self._items)
            steps = np.sort(np.fromiter((one.steps for one in self._items.values()), np.float64, len(self._items)))
            self._least = [float(steps[-max(1, len(steps) // part)]) for part in (100, 10)]

    def groups(self, item: str) -> tuple[str, str, str]:
        """Return the brand and the seller of an item as rules compare them, "" if unknown, and its band."""
        stated, known = self._desk.stated(item), self._items.get(item)
        brand = stated.brand if stated and stated.brand else known.brand if known else ""
        band = 2 if known is None or known.steps < self._least[1] else 1 if known.steps < self._least[0] else 0
        return brand_meant(brand), brand_meant(stated.seller) if stated else "", BANDS[band]

    def state(self) -> State:
        """Return all items, the one that is forgotten first being the first."""
        return {
            "items": list(self._items), "brands": [one.brand for one in self._items.values()],
            "steps": np.array([one.steps for one in self._items.values()], np.float64),
            "decay": self._decay.state(), "banded": [self._banded_ms, self._banded], "least": list(self._least),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State, items_max: int, desk: Desk) -> Self:
        """Return what continues where `state` was taken; of more items than the maximum, with the newest."""
        found = cls(items_max, desk)
        rows = list(zip(state["items"], state["brands"], state["steps"].tolist(), strict=True))[-items_max:]
        found._items = OrderedDict((item, Known(brand, steps)) for item, brand, steps in rows)
        found._decay = Decay.from_state(state["decay"])
        found._banded_ms, found._banded = state["banded"]
        found._least = list(state["least"])
        return found
