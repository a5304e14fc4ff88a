"""Shoppers of whom the truth is known: who will leave, who spends much, who sends back what was bought.

Groups are planted only where the settings ask for them, and are decided with random numbers of their own, so that a
shop without groups has the same events as ever. All who are planted come back more often than others do; what
tells them apart is what this module says.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from headrace.events import Item
from producers.scenario import SimulationSettings
from producers.shop import Shopper, tiers

Group = Literal["churner", "big_spender", "returner", "other"]
visits_weight: Final = 8
"""How many times as often as others those who are planted come back at first."""
KEENER: Final = 1.5
"""Logit by which those who are planted put more into the cart."""
STOPS: Final = (0.3, 0.7)
"""Shares of the run between which churners come for the last time."""
DEAREST: Final = 0.8
"""Logit by which big spenders put more into the cart, as dear items are bought less."""
PIECES: Final = (2, 4)
"""Least and most pieces of an item that a big spender buys."""
SENT_BACK: Final = 0.6
"""Share of the lines that returners send back."""
SENT_BACK_DAYS: Final = (4.0, 18.0)
"""Days between a returner's order and what is sent back of it."""
day_ms: Final = 86_400_000


class Member(Struct, frozen=True):
    """The truth about a shopper. `stops_ms` is when a churner's last visit may begin at the latest."""

    group: Group
    stops_ms: int | None = None


class Groups:
    """Who is in which group, and what these do otherwise than others."""

    def __init__(self, settings: SimulationSettings) -> None:
        self._settings = settings
        self._members: dict[str, Member] = {}
        self._choosing, self._doing = (np.random.default_rng([settings.seed, stream]) for stream in (5, 6))
        self._shares: tuple[tuple[Group, float], ...] = (
            ("churner", settings.churners), ("big_spender", settings.big_spenders), ("returner", settings.returners),
        )  # fmt: skip

    @property
    def any(self) -> bool:
        """Whether groups are planted."""
        return any(share for _, share in self._shares)

    def uniform(self) -> float:
        """Return a random number from 0 to 1 that decides what members do."""
        return float(self._doing.random())

    def enter(self, shopper: Shopper, time_ms: int) -> Member:
        """Draw the group of a shopper who is new at this time, and make the shopper one of it.

        Who is new after the last churner has left is none.
        """
        drawn, when = self._choosing.random(2).tolist()
        group: Group = "other"
        for name, share in self._shares:
            drawn -= share
            if drawn < 0:
                group = name
                break
        stops_ms = None
        if group == "churner":
            first, last = (self._settings.time_ms(share) for share in STOPS)
            first = max(first, time_ms)
            if first < last:
                stops_ms = round(first + when * (last - first))
            else:
                group = "other"
        if group != "other":
            shopper.cart_tendency += KEENER
        if group == "big_spender":
            shopper.cart_tendency += DEAREST
            shopper.tier_liking = [max(0.15, 1 - 0.3 * (tiers - 1 - tier)) for tier in range(tiers)]
        found = self._members[shopper.id] = Member(group, stops_ms)
        return found

    def visits_of(self, shopper: Shopper) -> int:
        """Return how many visits a new shopper counts for when it is drawn who comes back."""
        return 1 if self._group(shopper) == "other" else visits_weight

    def has_left(self, shopper: Shopper, time_ms: int) -> bool:
        """Return whether a shopper comes no more."""
        found = self._members.get(shopper.id)
        return found is not None and found.stops_ms is not None and time_ms > found.stops_ms

    def pieces(self, shopper: Shopper, usual: int) -> int:
        """Return how many pieces of an item a shopper puts into the cart who would usually put so many."""
        if self._group(shopper) != "big_spender":
            return usual
        return int(self._doing.integers(PIECES[0], PIECES[1] + 1))

    def sent_back(self, shopper: Shopper, cart: Sequence[Item]) -> tuple[list[Item], int] | None:
        """Return what a returner sends back of an order, perhaps nothing, and how long after it; None of others."""
        if self._group(shopper) != "returner":
            return None
        first, last = SENT_BACK_DAYS
        lines = [line for line in cart if self.uniform() < SENT_BACK]
        return lines, int((first + (last - first) * self.uniform()) * day_ms)

    def _group(self, shopper: Shopper) -> Group:
        found = self._members.get(shopper.id)
        return found.group if found else "other"
