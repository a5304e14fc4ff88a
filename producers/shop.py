"""The simulated shop: its catalogue, what leads to what, its shoppers, and the true chance of every next item.

Four things make a next item predictable, each for another kind of model: popularity has a long tail; items have
favourite successors (seen by first-order transitions); a visit has a hidden *theme*, a set of items across categories
(seen by looking at the whole visit); and a shopper keeps themes, brands and price tiers over visits (seen only by a
long memory). `Shop.following_chances` gives the exact distribution, so a learner can be scored against the best
possible.
"""

from bisect import bisect
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.scenario import ShopSettings

categories: Final = 24
brands: Final = 40
tiers: Final = 5
theme_size: Final = 24
"""Items of a theme at the start; new ones come on top."""
successors: Final = 8
remembered: Final = 12
"""Views that a shopper may come back to."""
tries: Final = 3
"""Draws until one suits the shopper; the last is taken as it is."""

FROM_SUCCESSORS, FROM_THEME, FROM_TASTE, FROM_POPULAR, FROM_MEMORY = range(5)
MIXTURE: Final = (0.14, 0.68, 0.06, 0.06, 0.06)
"""How often the next view comes from the item's successors, the visit's theme, another of the shopper's themes, what is
popular, and what the shopper viewed before."""
MIXTURE_CUMULATIVE: Final = tuple(accumulate(MIXTURE))
FAVOURITES: Final = (0.52, 0.24, 0.14, 0.10)
"""How a shopper's visits divide among favourite themes."""
complement_share: Final = 0.5
"""How often the view after an add_to_cart is a complement of that item."""


class Choice:
    """A weighted choice among items that can grow."""

    __slots__ = ("cumulative", "items")

    def __init__(self, items: Sequence[int], weights: Sequence[float]) -> None:
        self.items, self.cumulative = list(items), list(accumulate(weights))

    def copy(self) -> "Choice":
        """Return a choice that grows apart from this one."""
        out = Choice((), ())
        out.items, out.cumulative = self.items.copy(), self.cumulative.copy()
        return out

    def draw(self, uniform: float) -> int:
        """Return the item at a point between 0 and 1."""
        return self.items[bisect(self.cumulative, uniform * self.cumulative[-1], 0, len(self.items) - 1)]

    def add(self, item: int, share: float) -> None:
        """Add an item that then has this share of all draws, or nothing if it is there."""
        if item not in self.items:
            total = self.cumulative[-1]
            self.items.append(item)
            self.cumulative.append(total + total * share / (1 - share))

    def chances(self) -> NDArray[np.float64]:
        """Return the chance of each of `items`, in their order."""
        return np.diff(self.cumulative, prepend=0.0) / self.cumulative[-1]


class Structure(NamedTuple):
    """What leads to what, until a drift redraws it: the items of each theme, and each item's successors."""

    themes: list[Choice]
    successors: list[Choice]


class Shopper:
    """A shopper's lasting taste, and the last views."""

    __slots__ = ("brand_liking", "favourites", "id", "memory", "tier_liking", "urge", "visits")

    def __init__(self, id_: str, themes: list[int], brand_liking: list[float], tier_liking: list[float], urge: float):
        self.id, self.urge, self.visits = id_, urge, 0
        self.favourites = Choice(themes, FAVOURITES)
        self.brand_liking, self.tier_liking = brand_liking, tier_liking
        self.memory: deque[int] = deque(maxlen=remembered)


class Shop:
    """The catalogue and its structures. All that is random comes from the generator that is given."""

    def __init__(self, settings: ShopSettings, rng: np.random.Generator) -> None:
        self._rng = rng
        self.themes = max(8, round(settings.items * 0.05))
        self.typical = np.exp(rng.normal(3.0, 0.7, categories)).tolist()
        self.category: list[int] = []
        self.brand: list[int] = []
        self.tier: list[int] = []
        self.price: list[float] = []
        self._weight = ((rng.permutation(settings.items) + 8.0) ** -0.8).tolist()
        self._of: list[list[int]] = [[] for _ in range(categories)]
        self._brand_of = rng.integers(0, brands, (categories, 8))
        for _ in range(settings.items):
            self._stock()
        self.popular = Choice(range(settings.items), self._weight)
        self._homes = rng.integers(0, categories, (self.themes, 3))
        themes = [self._theme(t) for t in range(self.themes)]
        self.complements = [self._complement(i) for i in range(settings.items)]
        self.structures = [Structure(themes, self._successors(themes))]
        for drift in settings.drifts:
            if drift.kind in ("abrupt", "gradual"):
                self.structures.append(self._redrawn(self.structures[-1], drift.strength))
        self._theme_popularity = Choice(range(self.themes), (np.arange(1, self.themes + 1) ** -0.8).tolist())

    def _stock(self) -> int:
        rng, item = self._rng, len(self.category)
        category = int(rng.integers(categories))
        tier = int(rng.integers(tiers))
        self.category.append(category)
        self._of[category].append(item)
        self.brand.append(int(self._brand_of[category, rng.integers(8)]))
        self.tier.append(tier)
        self.price.append(round(float(self.typical[category] * np.exp(0.3 * (tier - 2) + rng.normal(0, 0.1))), 2))
        return item

    def _some(self, homes: set[int], size: int) -> list[int]:
        """Return distinct items of some categories (of all, if those have too few), popular ones more likely and first.

        Source: Efraimidis & Spirakis (2006), Weighted random sampling with a reservoir: the largest u ** (1 / weight).
        """
        pool = [item for home in sorted(homes) for item in self._of[home]]
        if len(pool) < size:
            pool = list(range(len(self.category)))
        weights = np.array([self._weight[item] for item in pool]) ** 0.5
        keys = np.log(self._rng.random(len(pool))) / weights
        return [pool[place] for place in np.argsort(-keys)[:size].tolist()]

    def _theme(self, number: int) -> Choice:
        items = self._some(set(self._homes[number].tolist()), theme_size)
        return Choice(items, ((np.arange(len(items)) + 2.0) ** -0.9).tolist())

    def _complement(self, item: int) -> Choice:
        pool = self._of[(self.category[item] * 7 + 5) % categories] or [item]
        items = np.unique(self._rng.integers(0, len(pool), 4)).tolist()
        return Choice([pool[place] for place in items], (0.5 ** np.arange(len(items))).tolist())

    def _successors(self, themes: Sequence[Choice], items: Sequence[int] | None = None) -> list[Choice]:
        beside: list[list[int]] = [[] for _ in self.category]
        for theme in themes:
            for item in theme.items:
                beside[item].extend(theme.items)
        out = []
        for item in range(len(self.category)) if items is None else items:
            pool = np.unique(beside[item] or self._rng.integers(0, len(self.category), 3 * successors))
            chosen = self._rng.permutation(pool[pool != item])[:successors]
            out.append(Choice(chosen.tolist(), (0.65 ** np.arange(len(chosen))).tolist()))
        return out

    def _redrawn(self, old: Structure, strength: float) -> Structure:
        changed = set(self._rng.permutation(self.themes)[: round(strength * self.themes)].tolist())
        themes = []
        for t, theme in enumerate(old.themes):
            if t in changed:
                self._homes[t] = self._rng.integers(0, categories, 3)
            themes.append(self._theme(t) if t in changed else theme.copy())
        items = sorted(self._rng.permutation(len(self.category))[: round(strength * len(self.category))].tolist())
        after = [choice.copy() for choice in old.successors]
        for item, choice in zip(items, self._successors(themes, items), strict=True):
            after[item] = choice
        return Structure(themes, after)

    def arrive(self) -> int:
        """Put a new item on the shelves: into two themes and after a few items, in every structure."""
        item = self._stock()
        rng, same = self._rng, self.category[item]
        self._weight.append(0.05)
        self.popular.add(item, 1.5 / item)
        self.complements.append(self._complement(item))
        homes = np.flatnonzero((self._homes == same).any(axis=1))
        chosen = rng.permutation(homes if len(homes) else np.arange(self.themes))[:2].tolist()
        for structure in self.structures:
            beside: list[int] = []
            for theme in chosen:
                beside.extend(structure.themes[theme].items)
                structure.themes[theme].add(item, 0.12)
            for before in rng.permutation(beside)[:4].tolist():
                structure.successors[before].add(item, 0.2)
            after = rng.permutation(np.unique(beside))[:successors]
            structure.successors.append(Choice(after.tolist(), (0.65 ** np.arange(len(after))).tolist()))
        return item

    def shopper(self, id_: str, uniform: Callable[[], float]) -> Shopper:
        """Return a new shopper, with a taste of their own."""
        themes: list[int] = []
        while len(themes) < len(FAVOURITES):
            theme = self._theme_popularity.draw(uniform())
            if theme not in themes:
                themes.append(theme)
        liked, tier = {int(uniform() * brands) for _ in range(14)}, uniform() * (tiers - 1)
        brand_liking = [1.0 if brand in liked else 0.3 for brand in range(brands)]
        tier_liking = [max(0.15, 1 - 0.3 * abs(tier - t)) for t in range(tiers)]
        return Shopper(id_, themes, brand_liking, tier_liking, 1.2 * (uniform() - 0.5))

    def liking(self, item: int, shopper: Shopper) -> float:
        """Return how likely the shopper is to take up an item that they come upon."""
        return shopper.brand_liking[self.brand[item]] * shopper.tier_liking[self.tier[item]]

    def suited(self, choice: Choice, shopper: Shopper, current: int, uniform: Callable[[], float]) -> int:
        """Draw until an item suits the shopper and is not the current one; the last try is taken as it is."""
        for _ in range(tries - 1):
            item = choice.draw(uniform())
            if item != current and uniform() < self.liking(item, shopper):
                return item
        return choice.draw(uniform())

    def _suited_chances(self, choice: Choice, shopper: Shopper, current: int) -> NDArray[np.float64]:
        chances = choice.chances()
        taken = chances * np.array([0.0 if i == current else self.liking(i, shopper) for i in choice.items])
        refused = 1.0 - float(taken.sum())
        out = np.zeros(len(self.category))
        out[choice.items] = sum(refused**n for n in range(tries - 1)) * taken + refused ** (tries - 1) * chances
        return out

    def entry(self, structure: Structure, shopper: Shopper, theme: int, uniform: Callable[[], float]) -> int:
        """Draw the first view of a visit."""
        return self.suited(structure.themes[theme], shopper, -1, uniform)

    def entry_chances(self, structure: Structure, shopper: Shopper) -> NDArray[np.float64]:
        """Return the chance of each item to open the visit of a shopper whose taste, but not whose theme, is known."""
        out = np.zeros(len(self.category))
        for share, theme in zip(FAVOURITES, shopper.favourites.items, strict=True):
            out += share * self._suited_chances(structure.themes[theme], shopper, -1)
        return out

    def following(
        self,
        structure: Structure,
        shopper: Shopper,
        theme: int,
        current: int,
        carted: bool,
        uniform: Callable[[], float],
    ) -> int:
        """Draw the view after `current`, which the shopper may just have put into the cart."""
        if carted and uniform() < complement_share:
            return self.suited(self.complements[current], shopper, current, uniform)
        kind = bisect(MIXTURE_CUMULATIVE, uniform(), 0, len(MIXTURE) - 1)
        if kind == FROM_MEMORY:
            return shopper.memory[int(uniform() * len(shopper.memory))]
        if kind == FROM_SUCCESSORS:
            choice = structure.successors[current]
        elif kind == FROM_THEME:
            choice = structure.themes[theme]
        elif kind == FROM_TASTE:
            choice = structure.themes[shopper.favourites.draw(uniform())]
        else:
            choice = self.popular
        return self.suited(choice, shopper, current, uniform)

    def following_chances(
        self, structure: Structure, shopper: Shopper, theme: int, current: int, carted: bool
    ) -> NDArray[np.float64]:
        """Return the chance of each item to be drawn by `following`: what one knows who knows theme and taste."""
        out = MIXTURE[FROM_SUCCESSORS] * self._suited_chances(structure.successors[current], shopper, current)
        out += MIXTURE[FROM_THEME] * self._suited_chances(structure.themes[theme], shopper, current)
        for share, other in zip(FAVOURITES, shopper.favourites.items, strict=True):
            out += MIXTURE[FROM_TASTE] * share * self._suited_chances(structure.themes[other], shopper, current)
        out += MIXTURE[FROM_POPULAR] * self._suited_chances(self.popular, shopper, current)
        np.add.at(out, list(shopper.memory), MIXTURE[FROM_MEMORY] / len(shopper.memory))
        if carted:
            complements = self._suited_chances(self.complements[current], shopper, current)
            out = (1 - complement_share) * out + complement_share * complements
        return out


def best(chances: NDArray[np.float64], item: int, n: int = 20) -> tuple[float, int]:
    """Return the recall@n that the best possible ranking has here in expectation, and the actual item's rank in it.

    >>> best(np.array([0.5, 0.3, 0.2]), 1, n=2)
    (0.8, 2)
    """
    top = np.partition(chances, len(chances) - n)[-n:] if len(chances) > n else chances
    return float(top.sum()), int(np.count_nonzero(chances >= chances[item]))
