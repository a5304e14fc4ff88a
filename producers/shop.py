"""The simulated shop: its catalogue, transitions and shoppers, and the true probability of each next item.

Four patterns make the next item predictable, each for a different kind of model. Popularity has a long tail. Items have
frequent successors (learned by first-order transitions). A visit has a hidden *theme*, a set of items across categories
(learned from the whole visit). A shopper's themes, brands and price tiers persist over visits (learned only with a long
memory). `SimulatedShop.next_chances` returns the exact distribution, so that a learner can be compared with the best
possible score.
"""

from bisect import bisect
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from producers.scenario import Drift, SimulationSettings

categories: Final = 24
brands: Final = 40
tiers: Final = 5
theme_size: Final = 24
"""Items of a theme at the start; new items are added to it."""
successors: Final = 8
memory_views_max: Final = 12
"""The last views of a shopper, to which the shopper may return."""
draws_max: Final = 3
"""Maximum number of draws for an item that suits the shopper; the last one is used even if it does not."""

FROM_SUCCESSORS, FROM_THEME, FROM_TASTE, FROM_POPULAR, FROM_MEMORY = range(5)
MIXTURE: Final = (0.14, 0.68, 0.06, 0.06, 0.06)
"""Probabilities that the next view comes from the item's successors, the visit's theme, one of the shopper's themes,
the popular items, and the shopper's last views."""
MIXTURE_CUMULATIVE: Final = tuple(accumulate(MIXTURE))
FAVOURITES: Final = (0.52, 0.24, 0.14, 0.10)
"""Shares of a shopper's visits by favourite theme."""
complement_share: Final = 0.5
"""Probability that the view after an add_to_cart is a complement of that item."""


class WeightedChoice:
    """A weighted choice among items, to which items can be added."""

    __slots__ = ("cumulative", "items")

    def __init__(self, items: Sequence[int], weights: Sequence[float]) -> None:
        self.items, self.cumulative = list(items), list(accumulate(weights))

    def copy(self) -> "WeightedChoice":
        """Return an independent copy."""
        result = WeightedChoice((), ())
        result.items, result.cumulative = self.items.copy(), self.cumulative.copy()
        return result

    def draw(self, uniform: float) -> int:
        """Return the item for a uniform random number from 0 to 1."""
        return self.items[bisect(self.cumulative, uniform * self.cumulative[-1], 0, len(self.items) - 1)]

    def add(self, item: int, share: float) -> None:
        """Add an item with this share of all draws, unless it is present."""
        if item not in self.items:
            total = self.cumulative[-1]
            self.items.append(item)
            self.cumulative.append(total + total * share / (1 - share))

    def chances(self) -> NDArray[np.float64]:
        """Return the probability of each of `items`, in their order."""
        return np.diff(self.cumulative, prepend=0.0) / self.cumulative[-1]


class Choices(Protocol):
    """A choice among items for each theme or item."""

    def __getitem__(self, place: int, /) -> WeightedChoice:
        """Return the choice of this theme or item."""


class Transitions(Protocol):
    """What a visit moves by: the items of each theme, and the successors of each item."""

    @property
    def themes(self) -> Choices:
        """The choice among a theme's items, by theme."""

    @property
    def successors(self) -> Choices:
        """The choice among an item's successors, by item."""

    def visit_shares(self, favourites: Sequence[int]) -> Sequence[float]:
        """Return the shares of a shopper's visits by favourite theme."""


class Structure(NamedTuple):
    """The transitions between two drifts."""

    themes: list[WeightedChoice]
    successors: list[WeightedChoice]

    def visit_shares(self, favourites: Sequence[int]) -> Sequence[float]:
        """Return the shares of a shopper's visits by favourite theme."""
        return FAVOURITES


class Replacing:
    """Choices of which some are replaced already.

    Args:
        turns: the share of the time at which each is replaced; those after them are new.
        share: the share of the time that is over.
    """

    __slots__ = ("_new", "_old", "_share", "_turns")

    def __init__(
        self, old: list[WeightedChoice], new: list[WeightedChoice], turns: Sequence[float], share: float
    ) -> None:
        self._old, self._new, self._turns, self._share = old, new, turns, share

    def __getitem__(self, place: int, /) -> WeightedChoice:
        is_new = place >= len(self._turns) or self._turns[place] <= self._share
        return (self._new if is_new else self._old)[place]


class Between(NamedTuple):
    """The transitions during an incremental drift."""

    themes: Replacing
    successors: Replacing

    def visit_shares(self, favourites: Sequence[int]) -> Sequence[float]:
        """Return the shares of a shopper's visits by favourite theme."""
        return FAVOURITES


class Planted(NamedTuple):
    """The items and the categories that a drift concerns, where it concerns some."""

    items: tuple[int, ...] = ()
    categories: tuple[int, ...] = ()


class Shopper:
    """A shopper's lasting preferences, and the last views."""

    __slots__ = ("brand_liking", "cart_tendency", "favourites", "id", "memory", "tier_liking", "visits")

    def __init__(
        self, id_: str, themes: list[int], brand_liking: list[float], tier_liking: list[float], cart_tendency: float
    ):
        self.id, self.cart_tendency, self.visits = id_, cart_tendency, 0
        self.favourites = WeightedChoice(themes, FAVOURITES)
        self.brand_liking, self.tier_liking = brand_liking, tier_liking
        self.memory: deque[int] = deque(maxlen=memory_views_max)


class SimulatedShop:
    """The catalogue and its structures.

    All randomness comes from the given generator, except that of the drifts that release 0.3.0 did not know.

    Attributes:
        structures: the first one, and that after each drift that redraws.
        planted: what each drift concerns. Items of a wave are known once it has come.
    """

    def __init__(self, settings: SimulationSettings, rng: np.random.Generator) -> None:
        self._rng, self._planting = rng, np.random.default_rng([settings.seed, 2])
        self.themes = max(8, round(settings.items * 0.05))
        self.typical_price = np.exp(rng.normal(3.0, 0.7, categories)).tolist()
        self.category: list[int] = []
        self.brand: list[int] = []
        self.tier: list[int] = []
        self.price: list[float] = []
        self._weight = ((rng.permutation(settings.items) + 8.0) ** -0.8).tolist()
        self._items_by_category: list[list[int]] = [[] for _ in range(categories)]
        self._brands_by_category = rng.integers(0, brands, (categories, 8))
        for _ in range(settings.items):
            self._add_item(rng)
        self.popular = WeightedChoice(range(settings.items), self._weight)
        self._theme_categories = rng.integers(0, categories, (self.themes, 3))
        self._theme_popularity = WeightedChoice(range(self.themes), (np.arange(1, self.themes + 1) ** -0.8).tolist())
        themes = [self._theme(t, rng) for t in range(self.themes)]
        self.complements = [self._complement(i, rng) for i in range(settings.items)]
        self.structures = [Structure(themes, self._successors(themes, rng))]
        self._grown_by = [rng]  # the generator with which items are added to each structure
        self._turns: dict[int, tuple[list[float], list[float]]] = {}
        self.planted = [self._plant(drift) for drift in settings.drifts]

    def _plant(self, drift: Drift) -> Planted:
        """Draw what a drift changes, and its structure if it has one."""
        old, rng, planted = self.structures[-1], self._planting, Planted()
        if drift.kind in ("abrupt", "gradual"):
            rng = self._rng
            self.structures.append(self._redrawn_structure(old, drift.strength, rng))
        elif drift.kind == "incremental":
            turns = rng.random(self.themes).tolist(), rng.random(len(self.category)).tolist()
            self._turns[len(self.structures)] = turns
            self.structures.append(self._redrawn_structure(old, drift.strength, rng))
        elif drift.kind == "local":
            planted = Planted((), (int(rng.choice(self._visited_categories(old))),))
            if drift.redraws:
                structure, items = self._swapped_structure(old, planted.categories[0], drift.strength)
                self.structures.append(structure)
                planted = planted._replace(items=items)
        elif drift.kind == "surge":
            item = int(rng.choice([item for theme in old.themes for item in theme.items]))
            planted = Planted((item,), (self.category[item],))
        self._grown_by += [rng] * (len(self.structures) - len(self._grown_by))
        return planted

    def _visited_categories(self, structure: Structure) -> list[int]:
        """Return the half of the categories of which themes show most."""
        shown = np.zeros(categories)
        for share, theme in zip(self._theme_popularity.chances(), structure.themes, strict=True):
            np.add.at(shown, [self.category[item] for item in theme.items], share * theme.chances())
        found: list[int] = np.argsort(-shown, kind="stable")[: categories // 2].tolist()
        return found

    def _add_item(self, rng: np.random.Generator) -> int:
        item = len(self.category)
        category = int(rng.integers(categories))
        tier = int(rng.integers(tiers))
        self.category.append(category)
        self._items_by_category[category].append(item)
        self.brand.append(int(self._brands_by_category[category, rng.integers(8)]))
        self.tier.append(tier)
        self.price.append(round(float(self.typical_price[category] * np.exp(0.3 * (tier - 2) + rng.normal(0, 0.1))), 2))
        return item

    def _sample_items(self, homes: set[int], size: int, rng: np.random.Generator) -> list[int]:
        """Sample distinct items of some categories (of all, if those have too few); popular ones tend to come first.

        Source: Efraimidis & Spirakis (2006), Weighted random sampling with a reservoir: the largest u ** (1 / weight).
        """
        candidates = [item for home in sorted(homes) for item in self._items_by_category[home]]
        if len(candidates) < size:
            candidates = list(range(len(self.category)))
        weights = np.array([self._weight[item] for item in candidates]) ** 0.5
        keys = np.log(rng.random(len(candidates))) / weights
        return [candidates[place] for place in np.argsort(-keys)[:size].tolist()]

    def _theme(self, number: int, rng: np.random.Generator) -> WeightedChoice:
        items = self._sample_items(set(self._theme_categories[number].tolist()), theme_size, rng)
        return WeightedChoice(items, ((np.arange(len(items)) + 2.0) ** -0.9).tolist())

    def _complement(self, item: int, rng: np.random.Generator) -> WeightedChoice:
        candidates = self._items_by_category[(self.category[item] * 7 + 5) % categories] or [item]
        items = np.unique(rng.integers(0, len(candidates), 4)).tolist()
        return WeightedChoice([candidates[place] for place in items], (0.5 ** np.arange(len(items))).tolist())

    def _successors(
        self, themes: Sequence[WeightedChoice], rng: np.random.Generator, items: Sequence[int] | None = None
    ) -> list[WeightedChoice]:
        theme_neighbours: list[list[int]] = [[] for _ in self.category]
        for theme in themes:
            for item in theme.items:
                theme_neighbours[item].extend(theme.items)
        result = []
        for item in range(len(self.category)) if items is None else items:
            candidates = np.unique(theme_neighbours[item] or rng.integers(0, len(self.category), 3 * successors))
            chosen = rng.permutation(candidates[candidates != item])[:successors]
            result.append(WeightedChoice(chosen.tolist(), (0.65 ** np.arange(len(chosen))).tolist()))
        return result

    def _redrawn_structure(self, old: Structure, strength: float, rng: np.random.Generator) -> Structure:
        changed = set(rng.permutation(self.themes)[: round(strength * self.themes)].tolist())
        themes = []
        for t, theme in enumerate(old.themes):
            if t in changed:
                self._theme_categories[t] = rng.integers(0, categories, 3)
            themes.append(self._theme(t, rng) if t in changed else theme.copy())
        items = sorted(rng.permutation(len(self.category))[: round(strength * len(self.category))].tolist())
        return Structure(themes, self._replaced_successors(old, themes, items, rng))

    def _replaced_successors(
        self, old: Structure, themes: Sequence[WeightedChoice], items: Sequence[int], rng: np.random.Generator
    ) -> list[WeightedChoice]:
        after = [choice.copy() for choice in old.successors]
        for item, choice in zip(items, self._successors(themes, rng, items), strict=True):
            after[item] = choice
        return after

    def _swapped_structure(self, old: Structure, home: int, strength: float) -> tuple[Structure, tuple[int, ...]]:
        """Return a structure in which some items of a category have swapped their places, and these items."""
        own, rng = self._items_by_category[home], self._planting
        moved = rng.permutation(own)[: max(2, round(strength * len(own)))].tolist()
        place_of = dict(zip(moved, [*moved[1:], *moved[:1]], strict=True))
        themes = [theme.copy() for theme in old.themes]
        for theme in themes:
            theme.items = [place_of.get(item, item) for item in theme.items]
        items = sorted(moved)
        return Structure(themes, self._replaced_successors(old, themes, items, rng)), tuple(items)

    def replaced(self, number: int, share: float) -> Between:
        """Return the transitions at this share of the time of the incremental drift that leads to a structure."""
        old, new = self.structures[number - 1 : number + 1]
        of_themes, of_items = self._turns[number]
        return Between(
            Replacing(old.themes, new.themes, of_themes, share),
            Replacing(old.successors, new.successors, of_items, share),
        )

    def add_wave(self, number: int, size: int) -> tuple[int, ...]:
        """Add the new items of a drift at once, each with the share of an average item of its themes."""
        found = tuple(self.add_new_item(self._planting) for _ in range(size))
        self.planted[number] = Planted(found)
        return found

    def add_new_item(self, wave: np.random.Generator | None = None) -> int:
        """Add a new item to two themes and to the successors of a few items, in every structure.

        Args:
            wave: draws an item of a wave; all other items are as without it.
        """
        rng = wave or self._rng
        item = self._add_item(rng)
        same = self.category[item]
        self._weight.append(0.05)
        self.popular.add(item, 1.5 / item)
        self.complements.append(self._complement(item, rng))
        homes = np.flatnonzero((self._theme_categories == same).any(axis=1))
        chosen = rng.permutation(homes if len(homes) else np.arange(self.themes))[:2].tolist()
        for structure, grown_by in zip(self.structures, self._grown_by, strict=True):
            rng = wave or grown_by
            theme_neighbours: list[int] = []
            for theme in chosen:
                size = len(structure.themes[theme].items)
                theme_neighbours.extend(structure.themes[theme].items)
                structure.themes[theme].add(item, 1 / (1 + size) if wave else 0.12)
            for before in rng.permutation(theme_neighbours)[:4].tolist():
                structure.successors[before].add(item, 0.2)
            after = rng.permutation(np.unique(theme_neighbours))[:successors]
            structure.successors.append(WeightedChoice(after.tolist(), (0.65 ** np.arange(len(after))).tolist()))
        return item

    def themes_of(self, structure: Transitions, item: int) -> list[int]:
        """Return the themes that show an item."""
        return [theme for theme in range(self.themes) if item in structure.themes[theme].items]

    def shopper(self, id_: str, uniform: Callable[[], float]) -> Shopper:
        """Return a new shopper with random preferences."""
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
        """Return the probability that an item suits the shopper."""
        return shopper.brand_liking[self.brand[item]] * shopper.tier_liking[self.tier[item]]

    def draw_suited(self, choice: WeightedChoice, shopper: Shopper, current: int, uniform: Callable[[], float]) -> int:
        """Draw until an item suits the shopper and is not the current one; the last draw is used as it is."""
        for _ in range(draws_max - 1):
            item = choice.draw(uniform())
            if item != current and uniform() < self.liking(item, shopper):
                return item
        return choice.draw(uniform())

    def _suited_chances(self, choice: WeightedChoice, shopper: Shopper, current: int) -> NDArray[np.float64]:
        chances = choice.chances()
        accepted = chances * np.array([0.0 if i == current else self.liking(i, shopper) for i in choice.items])
        rejected = 1.0 - float(accepted.sum())
        result = np.zeros(len(self.category))
        result[choice.items] = (
            sum(rejected**n for n in range(draws_max - 1)) * accepted + rejected ** (draws_max - 1) * chances
        )
        return result

    def draw_first(self, structure: Transitions, shopper: Shopper, theme: int, uniform: Callable[[], float]) -> int:
        """Draw the first view of a visit."""
        return self.draw_suited(structure.themes[theme], shopper, -1, uniform)

    def first_chances(self, structure: Transitions, shopper: Shopper) -> NDArray[np.float64]:
        """Return each item's probability as the first view, given the shopper's preferences but not the theme."""
        result, favourites = np.zeros(len(self.category)), shopper.favourites.items
        for share, theme in zip(structure.visit_shares(favourites), favourites, strict=True):
            result += share * self._suited_chances(structure.themes[theme], shopper, -1)
        return result

    def draw_next(
        self,
        structure: Transitions,
        shopper: Shopper,
        theme: int,
        current: int,
        carted: bool,
        uniform: Callable[[], float],
    ) -> int:
        """Draw the view after `current`; `carted` states whether the shopper has just put that item into the cart."""
        if carted and uniform() < complement_share:
            return self.draw_suited(self.complements[current], shopper, current, uniform)
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
        return self.draw_suited(choice, shopper, current, uniform)

    def next_chances(
        self, structure: Transitions, shopper: Shopper, theme: int, current: int, carted: bool
    ) -> NDArray[np.float64]:
        """Return each item's probability in `draw_next`, given the theme and the shopper's preferences."""
        result = MIXTURE[FROM_SUCCESSORS] * self._suited_chances(structure.successors[current], shopper, current)
        result += MIXTURE[FROM_THEME] * self._suited_chances(structure.themes[theme], shopper, current)
        for share, other in zip(FAVOURITES, shopper.favourites.items, strict=True):
            result += MIXTURE[FROM_TASTE] * share * self._suited_chances(structure.themes[other], shopper, current)
        result += MIXTURE[FROM_POPULAR] * self._suited_chances(self.popular, shopper, current)
        np.add.at(result, list(shopper.memory), MIXTURE[FROM_MEMORY] / len(shopper.memory))
        if carted:
            complements = self._suited_chances(self.complements[current], shopper, current)
            result = (1 - complement_share) * result + complement_share * complements
        return result


def best_ranking(chances: NDArray[np.float64], item: int, n: int = 20) -> tuple[float, int]:
    """Return the expected recall@n of the best possible ranking, and the actual item's rank in it.

    >>> best_ranking(np.array([0.5, 0.3, 0.2]), 1, n=2)
    (0.8, 2)
    """
    top = np.partition(chances, len(chances) - n)[-n:] if len(chances) > n else chances
    return float(top.sum()), int(np.count_nonzero(chances >= chances[item]))
