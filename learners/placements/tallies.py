"""Tallies: what was shown at each placement by each model, and what came of it."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self

from msgspec import Struct

from learners.parts.portable import power_of_two

half_life_ms: Final = 24 * 3_600_000
"""Shop time after which an answer, or a click, counts half in the click-through of now."""


class Group(NamedTuple):
    """What is tallied together: answers of one route at one placement by one model ("": no model)."""

    route: str
    placement: str
    model: str


class Tally(Struct, gc=False):
    """Running totals of a group.

    `items` were shown in `answers`, of which `clicked_answers` had a click. `clicks` and `carts` count an item of an
    answer once. `orders` counts an order once for each answer of which it has an item; `units` and `revenue`, in the
    shop's currency, are of the items that were attributed. `recent_answers` and `recent_clicked` decay by shop time;
    they are as of `time_ms`.
    """

    group: Group
    answers: int = 0
    items: int = 0
    clicked_answers: int = 0
    clicks: int = 0
    carts: int = 0
    orders: int = 0
    units: float = 0.0
    revenue: float = 0.0
    recent_answers: float = 0.0
    recent_clicked: float = 0.0
    time_ms: int = 0

    @property
    def click_through(self) -> float:
        """The share of the recent answers that had a click; 0 before the first one."""
        # A click is later than its answer, so that it weighs more: with few answers the ratio would exceed 1.
        return min(1.0, self.recent_clicked / self.recent_answers) if self.recent_answers else 0.0

    def count_answer(self, items: int, time_ms: int) -> None:
        """Count an answer and its items."""
        self.answers += 1
        self.items += items
        self._decay(time_ms)
        self.recent_answers += 1

    def count_clicked(self, time_ms: int) -> None:
        """Count an answer as clicked."""
        self.clicked_answers += 1
        self._decay(time_ms)
        self.recent_clicked += 1

    def _decay(self, time_ms: int) -> None:
        if time_ms > self.time_ms:
            factor = power_of_two((self.time_ms - time_ms) / half_life_ms) if self.time_ms else 1.0
            self.recent_answers *= factor
            self.recent_clicked *= factor
            self.time_ms = time_ms


class Tallies:
    """The tallies by group. Above the maximum, the group that answered least recently is evicted.

    Attributes:
        evicted: groups that were evicted.
    """

    def __init__(self, groups_max: int) -> None:
        self.groups_max, self.evicted = groups_max, 0
        self._tallies: OrderedDict[Group, Tally] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tallies)

    def __iter__(self) -> Iterator[Tally]:
        """Yield the tallies, that of the group that answered least recently first."""
        return iter(self._tallies.values())

    def get(self, group: Group) -> Tally | None:
        """Return the tally of a group; None if it was evicted."""
        return self._tallies.get(group)

    def answered(self, group: Group) -> Tally:
        """Return the tally of a group that has answered just now."""
        found = self._tallies.get(group)
        if found is None:
            if len(self._tallies) >= self.groups_max:
                self._tallies.popitem(last=False)
                self.evicted += 1
            found = self._tallies[group] = Tally(group)
        else:
            self._tallies.move_to_end(group)
        return found

    def state(self) -> dict[str, Any]:
        """Return all tallies, that of the group that answered least recently first."""
        rows = [[list(one.group), *(getattr(one, name) for name in _FIELDS)] for one in self]
        return {"evicted": self.evicted, "tallies": rows}

    @classmethod
    def from_state(cls, state: dict[str, Any], groups_max: int) -> Self:
        """Return tallies that continue where `state` was taken; of more than the maximum, the most recent."""
        tallies = cls(groups_max)
        for names, *values in state["tallies"][-groups_max:]:
            group = Group(*names)
            tallies._tallies[group] = Tally(group, *values)
        tallies.evicted = state["evicted"] + max(0, len(state["tallies"]) - groups_max)
        return tallies


_FIELDS: Final = Tally.__struct_fields__[1:]
