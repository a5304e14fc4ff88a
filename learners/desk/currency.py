"""Currency: prices are in the shop's currency when they are learned, or missing. They are never mixed."""

from collections.abc import Mapping
from typing import Self

from headrace.events import Event
from headrace.items import SHOPS_OWN
from headrace.state import State


class Currency:
    """Converts the amounts of events and the prices of items.

    Args:
        shop: the shop's currency; "" for that of the first price that names one, of an event or an item.
        rates: the worth of one unit of other currencies, in the shop's.

    Attributes:
        dropped: events whose amounts were dropped, because their currency has no rate.
    """

    def __init__(self, shop: str, rates: Mapping[str, float]) -> None:
        self._shop, self._rates = shop.upper(), {name.upper(): rate for name, rate in rates.items()}
        self.dropped = 0

    def convert(self, event: Event) -> None:
        """Convert the amounts of an event to the shop's currency, or drop them. Without a currency, they are in it."""
        data = event.data
        name = data.currency.upper()
        if name == self._shop or not name:
            return
        if not self._shop:
            if data.value is not None or any(line.price is not None for line in data.items):
                self._shop = name
            return
        rate = self._rates.get(name)
        if rate is None:
            self.dropped += 1
        for line in data.items:
            line.price = None if rate is None or line.price is None else line.price * rate
        data.value = None if rate is None or data.value is None else data.value * rate
        data.currency = "" if rate is None else self._shop

    def adopt(self, prices: Mapping[str, float]) -> None:
        """Let the first currency of an item's prices be the shop's, unless that is known."""
        if not self._shop:
            self._shop = next(filter(None, prices), "")

    @property
    def shop(self) -> str:
        """The shop's currency, "" as long as it is not known."""
        return self._shop

    def price(self, prices: Mapping[str, float]) -> float | None:
        """Return an item's price in the shop's currency: its own, else the first that has a rate, else None.

        >>> currency = Currency("EUR", {"USD": 0.9})
        >>> [currency.price(prices) for prices in ({"USD": 20.0, "EUR": 19.0}, {"": 19.0}, {"USD": 20.0}, {"GBP": 9.0})]
        [19.0, 19.0, 18.0, None]
        """
        for name in (self._shop, SHOPS_OWN):
            if name in prices:
                return prices[name]
        return next((prices[name] * self._rates[name] for name in sorted(prices) if name in self._rates), None)

    def state(self) -> State:
        """Return the shop's currency and the number of events whose amounts were dropped."""
        return {"shop": self._shop, "dropped": self.dropped}

    @classmethod
    def from_state(cls, state: State, *, shop: str, rates: Mapping[str, float]) -> Self:
        """Return a currency that continues where `state` was taken, or with a `shop` that was set since."""
        currency = cls(shop or state["shop"], rates)
        currency.dropped = state["dropped"]
        return currency
