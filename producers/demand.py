"""What the simulated shop's visitors want more than usual: at weekends, in a category or an item that surges.

It is decided with random numbers of its own, so that all other events stay the same.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from producers.scenario import SimulationSettings
from producers.shop import FAVOURITES, Choices, Shopper, SimulatedShop, Transitions, WeightedChoice, categories

WEEKEND: Final = 5
"""The first weekday of the weekend; Monday is 0."""
day_ms: Final = 86_400_000


class Surge(NamedTuple):
    """An item at which a share of the visits begins, and whether this visit does."""

    item: int
    share: float
    here: bool


class Weighted:
    """Choices in which the items of some categories are chosen more often.

    Args:
        weigh: returns a choice with other weights.
    """

    __slots__ = ("_choices", "_weigh")

    def __init__(self, choices: Choices, weigh: Callable[[WeightedChoice], WeightedChoice]) -> None:
        self._choices, self._weigh = choices, weigh

    def __getitem__(self, place: int, /) -> WeightedChoice:
        return self._weigh(self._choices[place])


class WeightedTransitions(NamedTuple):
    """Transitions in which some categories are wanted more: more visits go to their themes, and there to their items.

    Attributes:
        interest: returns how much more often visits go to a theme than usual.
    """

    themes: Weighted
    successors: Weighted
    interest: Callable[[int], float]

    def visit_shares(self, favourites: Sequence[int]) -> Sequence[float]:
        """Return the shares of a shopper's visits by favourite theme."""
        shares = [share * self.interest(theme) for share, theme in zip(FAVOURITES, favourites, strict=True)]
        return [share / sum(shares) for share in shares]


class Interest:
    """How much more often than usual the items of each category are wanted.

    Args:
        factors: by category, at least 1.
        category: of each item; grows with the catalogue.
    """

    def __init__(self, factors: Sequence[float], category: Sequence[int]) -> None:
        self._factors, self._category = np.array(factors), category
        self._most = max(factors)
        self._weighed: dict[int, tuple[WeightedChoice, WeightedChoice, float]] = {}

    def _of(self, choice: WeightedChoice) -> tuple[WeightedChoice, WeightedChoice, float]:
        """Return a choice, kept so that its id stays its own, as it is now; and how much more it is wanted."""
        known = self._weighed.get(id(choice))
        if known is None or len(known[1].items) != len(choice.items):
            chances = choice.chances()
            weights = chances * self._factors[[self._category[item] for item in choice.items]]
            known = self._weighed[id(choice)] = choice, WeightedChoice(choice.items, weights.tolist()), weights.sum()
        return known

    def transitions(self, usual: Transitions) -> WeightedTransitions:
        """Return these transitions as they are while the categories are wanted more."""
        return WeightedTransitions(
            Weighted(usual.themes, lambda choice: self._of(choice)[1]),
            Weighted(usual.successors, lambda choice: self._of(choice)[1]),
            lambda theme: self._of(usual.themes[theme])[2],
        )

    def draw(
        self,
        transitions: WeightedTransitions,
        shopper: Shopper,
        another: Callable[[Callable[[], float]], Shopper],
        uniform: Callable[[], float],
    ) -> tuple[Shopper, int]:
        """Draw who visits for which theme, from this shopper and others, in proportion to their interest."""
        while True:
            theme = shopper.favourites.draw(uniform())
            if uniform() * self._most < transitions.interest(theme):
                return shopper, theme
            shopper = another(uniform)


class Demand:
    """What is wanted more than usual, by event time. `uniform` returns its own random numbers."""

    def __init__(self, settings: SimulationSettings, shop: SimulatedShop, uniform: Callable[[], float]) -> None:
        self._shop, self.uniform = shop, uniform
        rng = np.random.default_rng([settings.seed, 4])
        self._season = settings.season
        self._favoured = frozenset(rng.permutation(categories)[: categories // 2].tolist())
        named = list(zip(settings.drifts, shop.planted, strict=True))
        self._rises = [
            (settings.time_ms(drift.at), planted.categories[0], drift.strength)
            for drift, planted in named
            if drift.kind == "local" and not drift.redraws
        ]
        self._surges = [
            (settings.time_ms(drift.at), settings.time_ms(drift.until), planted.items[0], drift.strength)
            for drift, planted in named
            if drift.kind == "surge"
        ]
        self._interests: dict[tuple[bool, int], Interest] = {}

    def interest(self, time_ms: int) -> Interest | None:
        """Return which categories are wanted more at a time; None if none is."""
        weekend = self._season > 0 and (time_ms // day_ms + 3) % 7 >= WEEKEND  # 1970-01-01 was a Thursday
        rises = sum(at_ms <= time_ms for at_ms, _, _ in self._rises)
        if not weekend and not rises:
            return None
        if (weekend, rises) not in self._interests:
            factors = [1 + self._season * (weekend and home in self._favoured) for home in range(categories)]
            for _, home, strength in self._rises[:rises]:
                factors[home] *= strength
            self._interests[weekend, rises] = Interest(factors, self._shop.category)
        return self._interests[weekend, rises]

    def surge(self, time_ms: int) -> Surge | None:
        """Return the item that surges at a time, and draw whether a visit begins at it; None if none does."""
        for at_ms, until_ms, item, share in self._surges:
            if at_ms <= time_ms < until_ms:
                return Surge(item, share, self.uniform() < share)
        return None
