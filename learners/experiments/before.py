"""Before: what each shopper did before an experiment, as a covariate that takes differences between shoppers out.

Each shopper has three numbers, each of which falls by half in 28 days of the shop's time: events, orders, and their
value. They are noted of all shoppers, whether an experiment runs or not, and copied when a shopper enters one.
"""

from collections import OrderedDict
from typing import Any, Final, NamedTuple, Self

from learners.parts.portable import power_of_two

half_life_ms: Final = 28 * 86_400_000
EVENTS, ORDERS, VALUE = range(3)


class Past(NamedTuple):
    """The numbers of a shopper, as of a time."""

    time_ms: int
    events: float
    orders: float
    value: float

    def at(self, time_ms: int) -> tuple[float, float, float]:
        """Return events, orders and value as of a later time."""
        kept = power_of_two((self.time_ms - time_ms) / half_life_ms) if time_ms > self.time_ms else 1.0
        return self.events * kept, self.orders * kept, self.value * kept


class Before:
    """The numbers by shopper; the one seen least recently is forgotten first.

    >>> before = Before(10)
    >>> before.note("ann", 0, 1.0, 30.0)
    >>> before.of("ann", half_life_ms), before.of("bob", 0)
    ((0.5, 0.5, 15.0), (0.0, 0.0, 0.0))
    """

    def __init__(self, shoppers_max: int) -> None:
        self.shoppers_max = shoppers_max
        self._past: OrderedDict[str, Past] = OrderedDict()

    def note(self, shopper: str, time_ms: int, orders: float = 0.0, value: float = 0.0) -> None:
        """Note an event, which may be an order of a value; of a refund both are negative."""
        found = self._past.pop(shopper, None)
        if found is None:
            if len(self._past) >= self.shoppers_max:
                self._past.popitem(last=False)
            self._past[shopper] = Past(time_ms, 1.0, max(0.0, orders), max(0.0, value))
            return
        events, had, worth = found.at(time_ms)
        self._past[shopper] = Past(
            max(time_ms, found.time_ms), events + 1.0, max(0.0, had + orders), max(0.0, worth + value)
        )

    def of(self, shopper: str, time_ms: int) -> tuple[float, float, float]:
        """Return a shopper's events, orders and value."""
        found = self._past.get(shopper)
        return found.at(time_ms) if found else (0.0, 0.0, 0.0)

    def __contains__(self, shopper: str) -> bool:
        return shopper in self._past

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of shoppers and the maximum."""
        return {"shoppers_before": (len(self._past), self.shoppers_max)}

    def state(self) -> list[Any]:
        """Return all shoppers, the one seen least recently first."""
        return [[shopper, *past] for shopper, past in self._past.items()]

    @classmethod
    def from_state(cls, state: list[Any], shoppers_max: int) -> Self:
        """Return what continues where `state` was taken; of more shoppers than the maximum, those seen last."""
        found = cls(shoppers_max)
        found._past.update((shopper, Past(*numbers)) for shopper, *numbers in state[-shoppers_max:])
        return found
