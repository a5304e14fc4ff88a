"""Rules applied: from ranked candidates to an answer that obeys them, and what each rule left out. Pure functions."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import inf
from typing import Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.rules import AtMost, Brands, Categories, PriceLimits, RuleSet
from headrace.rules import Stock as StockRule
from learners.next_item.at_most import Limited, Line
from learners.next_item.exposure import STEADY, Steering
from learners.next_item.history import Facts
from learners.next_item.shelf import Shelf

UNKNOWN: Final = "unknown"
OUT_OF_STOCK: Final = "out_of_stock"
EXCLUDE: Final = "exclude"
"""What leaves items out beside the rules of a document: a pinned item that there is not, stock, and the request."""
Levels: TypeAlias = tuple[str, ...]
W = TypeVar("W", tuple[Levels, ...], frozenset[str])

NOTHING: Final = Facts()


class Answer(NamedTuple):
    """Items with their scores, best first, and the number of candidates that each rule left out.

    `kept` is the share of the relevance that is kept, None if a rule trades none of it.
    """

    items: list[tuple[str, float]]
    left_out: dict[str, int]
    kept: float | None = None


class Rules:
    """The rules of a placement, ready to be applied. What is not known of an item cannot be shown to be allowed.

    So `only` leaves out an item whose category or brand is unknown, and price limits one without a price.

    >>> from headrace.rules import RuleSet, PriceLimits
    >>> cheap = Rules(RuleSet(price=PriceLimits(max=10)))
    >>> facts = {"a": Facts(price=12.0), "b": Facts(price=9.0), "c": Facts()}
    >>> cheap.apply([("a", 0.5), ("b", 0.3)], ["c", "b"], facts.get, {}, 5)
    Answer(items=[('b', 0.3)], left_out={'price': 2}, kept=None)
    """

    def __init__(self, stated: RuleSet, version: int | None = None, steering: Steering = STEADY) -> None:
        self.stated, self.version, self.steering = stated, version, steering
        self._hidden = frozenset(stated.hidden or ())
        categories, brands = stated.categories or Categories(), stated.brands or Brands()
        # A shop has few categories and brands, and many items.
        self._category_forbidden = _remembered(
            _admits_category, _levels_of(categories.only), _levels_of(categories.never)
        )
        self._brand_forbidden = _remembered(_admits_brand, _folded(brands.only), _folded(brands.never))
        price = stated.price or PriceLimits()
        self._prices = None if price == PriceLimits() else (price.min or 0.0, inf if price.max is None else price.max)
        self._stock = stated.stock
        self._mask: tuple[Shelf, int, NDArray[np.bool_]] | None = None
        self._at_most = stated.at_most or AtMost()
        self._limits = self._at_most != AtMost()
        self._pinned = sorted(stated.pinned or (), key=lambda pin: pin.place)
        self._boosts = [
            (boost.factor, frozenset(boost.items), _levels_of(boost.categories), _folded(boost.brands))
            for boost in stated.boosted or ()
        ]
        demotes = self._stock is not None and self._stock.demote is not None
        self.reorders = bool(self._boosts or demotes or (stated.exposure and steering != STEADY))

    def forbids(self, item: str, facts: Facts) -> str:
        """Return the name of the first rule that forbids an item whoever asks; empty if it is allowed."""
        if not facts.available:
            return OUT_OF_STOCK
        if item in self._hidden:
            return "hidden"
        if self._category_forbidden(facts.category):
            return "categories"
        if self._brand_forbidden(facts.brand):
            return "brands"
        if self._prices and (facts.price is None or not self._prices[0] <= facts.price <= self._prices[1]):
            return "price"
        if self._stock and self._stock.demote is None and _is_short(facts, self._stock):
            return "stock"
        return ""

    def mask(self, shelf: Shelf) -> NDArray[np.bool_]:
        """Return which rows of the shelf `forbids` allows. Shape: (rows,)"""
        if self._mask is None or self._mask[0] is not shelf or self._mask[1] != shelf.version:
            allowed = shelf.present & shelf.available
            if self._hidden:
                allowed &= ~shelf.mask_of(self._hidden)
            for forbidden, names, column in (
                (self._category_forbidden, shelf.categories, shelf.category),
                (self._brand_forbidden, shelf.brands, shelf.brand),
            ):
                free = np.array([not forbidden(name) for name in names.names], np.bool_)
                if not free.all():
                    allowed &= free[column]
            if self._prices:
                allowed &= (shelf.price >= self._prices[0]) & (shelf.price <= self._prices[1])
            if self._stock and self._stock.demote is None:
                allowed &= ~(shelf.lasts < self._stock.least_days)  # NaN, of what is not known, is not less
            self._mask = shelf, shelf.version, allowed
        return self._mask[2]

    def boost(self, item: str, facts: Facts) -> float:
        """Return the product of the factors by which an item's score is multiplied."""
        product = 1.0
        if self.stated.exposure:
            product = self.steering.factor(brand_meant(facts.brand), brand_meant(facts.seller))
        for factor, items, categories, brands in self._boosts:
            if item in items or _admits_category(facts.category, categories) or _admits_brand(facts.brand, brands):
                product *= factor
        if self._stock and self._stock.demote is not None and _is_short(facts, self._stock):
            product *= self._stock.demote
        return product

    def apply(
        self,
        pool: Sequence[tuple[str, float]],
        more: Iterable[str],
        facts: Callable[[str], Facts | None],
        gone: Mapping[str, str],
        n: int,
    ) -> Answer:
        """Return the best items that obey the rules: n, unless fewer candidates do.

        What is forbidden is in no place. Pinned items come first where limits per brand and category are concerned.
        Behind the last item there is no gap: an item pinned farther behind moves up.

        Args:
            pool: candidates with their scores, best first.
            more: candidates without a score, best first; read only as far as the pool leaves places open.
            facts: returns what is known of an item, None if it is not known.
            gone: items that this request must not get, each with the name of the rule that says so.
        """
        left_out: Counter[str] = Counter()
        limited = Limited(self._at_most, lines_max=n)

        scores = dict(pool) if self._pinned else {}
        pins, given = dict[int, tuple[str, float]](), set[str]()
        for pin in self._pinned:
            if pin.place > n:
                break
            given.add(pin.item)
            known, score = facts(pin.item), scores.get(pin.item, 0.0)
            why = UNKNOWN if known is None else gone.get(pin.item) or self.forbids(pin.item, known)
            if known and not why and not limited.fix(_line(0, pin.item, score, known)):
                why = "at_most"
            if why:
                left_out[why] += 1
            else:
                pins[pin.place] = pin.item, score
        wanted, waiting = n - len(pins), 0
        named, forbids = ((item, 0.0) for item in more), self.forbids
        line = _line if self._limits else _unlimited_line
        for rank, (item, score) in enumerate(chain(self._boosted(pool, facts), named)):
            if len(limited.lines) >= wanted:
                break
            if item in given:
                continue
            given.add(item)
            known = facts(item) or NOTHING
            if why := gone.get(item) or forbids(item, known):  # of most items, where rules leave little
                left_out[why] += 1
            else:
                waiting += not limited.take(line(rank, item, score, known))
        before = len(limited.lines)
        limited.fill(wanted)
        if waiting := waiting - (len(limited.lines) - before):
            left_out["at_most"] += waiting
        return Answer(_placed(pins, [(line.item, line.score) for line in limited.lines]), dict(left_out))

    def _boosted(
        self, pool: Sequence[tuple[str, float]], facts: Callable[[str], Facts | None]
    ) -> Sequence[tuple[str, float]]:
        """Return the pool in the order of the multiplied scores; of equal ones, as before."""
        if not self.reorders:
            return pool
        return sorted(pool, key=lambda one: -one[1] * self.boost(one[0], facts(one[0]) or NOTHING))


def _is_short(facts: Facts, stock: StockRule) -> bool:
    return facts.lasts is not None and facts.lasts < stock.least_days


def _line(rank: int, item: str, score: float, facts: Facts) -> Line:
    return Line(rank, item, score, brand_meant(facts.brand), category_meant(facts.category))


def _unlimited_line(rank: int, item: str, score: float, facts: Facts) -> Line:
    return Line(rank, item, score)


def _placed(pins: Mapping[int, tuple[str, float]], rest: list[tuple[str, float]]) -> list[tuple[str, float]]:
    placed = list(rest)
    for place in sorted(pins):
        placed.insert(place - 1, pins[place])
    return placed


@lru_cache(65_536)
def levels(category: str) -> Levels:
    """Return the levels of a category, the widest first, without case.

    >>> levels("Shoes > Boots"), levels("shoes/boots"), levels("")
    (('shoes', 'boots'), ('shoes', 'boots'), ())
    """
    return tuple(level for part in re.split("[>/]", category) if (level := part.strip().casefold()))


def brand_meant(brand: str) -> str:
    """Return a brand, or a seller, as rules compare it, "" if it is unknown."""
    return brand.strip().casefold()


def category_meant(category: str) -> str:
    """Return a category as rules compare it, "" if it is unknown."""
    return " > ".join(levels(category))


def _levels_of(categories: Iterable[str]) -> tuple[Levels, ...]:
    return tuple(map(levels, categories))


def _folded(brands: Iterable[str]) -> frozenset[str]:
    return frozenset(map(brand_meant, brands))


def _remembered(admits: Callable[[str, W], bool], only: W, never: W) -> Callable[[str], bool]:
    """Return whether a name is forbidden, as a function that remembers its results."""

    def is_forbidden(name: str) -> bool:
        return bool(only and not admits(name, only)) or admits(name, never)

    return lru_cache(65_536)(is_forbidden)


def _admits_category(category: str, wanted: tuple[Levels, ...]) -> bool:
    """Return whether a category is one of these, or below it."""
    found = levels(category)
    return any(found[: len(one)] == one for one in wanted)


def _admits_brand(brand: str, wanted: frozenset[str]) -> bool:
    return brand_meant(brand) in wanted
