"""Rules applied: from ranked candidates to an answer that obeys them, and what each rule left out. Pure functions."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import inf
from typing import Final, NamedTuple, TypeAlias

from headrace.rules import AtMost, Brands, Categories, PriceLimits, RuleSet
from learners.next_item.at_most import Limited, Line
from learners.next_item.history import Facts

UNKNOWN: Final = "unknown"
OUT_OF_STOCK: Final = "out_of_stock"
EXCLUDE: Final = "exclude"
"""What leaves items out beside the rules of a document: a pinned item that there is not, stock, and the request."""
Levels: TypeAlias = tuple[str, ...]

_NOTHING: Final = Facts()


class Answer(NamedTuple):
    """Items with their scores, best first, and the number of candidates that each rule left out."""

    items: list[tuple[str, float]]
    left_out: dict[str, int]


class Rules:
    """The rules of a placement, ready to be applied. What is not known of an item cannot be shown to be allowed.

    So `only` leaves out an item whose category or brand is unknown, and price limits one without a price.

    >>> from headrace.rules import RuleSet, PriceLimits
    >>> cheap = Rules(RuleSet(price=PriceLimits(max=10)))
    >>> facts = {"a": Facts(price=12.0), "b": Facts(price=9.0), "c": Facts()}
    >>> cheap.apply([("a", 0.5), ("b", 0.3)], ["c", "b"], facts.get, {}, 5)
    Answer(items=[('b', 0.3)], left_out={'price': 2})
    """

    def __init__(self, stated: RuleSet, version: int | None = None) -> None:
        self.stated, self.version = stated, version
        self._hidden = frozenset(stated.hidden or ())
        categories, brands = stated.categories or Categories(), stated.brands or Brands()
        self._categories = _levels_of(categories.only), _levels_of(categories.never)
        self._brands = _folded(brands.only), _folded(brands.never)
        self._names_forbid = lru_cache(65_536)(self._forbidding_name)  # a shop has few brands and categories
        price = stated.price or PriceLimits()
        self._prices = None if price == PriceLimits() else (price.min or 0.0, inf if price.max is None else price.max)
        self._at_most = stated.at_most or AtMost()
        self._pinned = sorted(stated.pinned or (), key=lambda pin: pin.place)
        self._boosts = [
            (boost.factor, frozenset(boost.items), _levels_of(boost.categories), _folded(boost.brands))
            for boost in stated.boosted or ()
        ]

    def forbids(self, item: str, facts: Facts) -> str:
        """Return the name of the first rule that forbids an item whoever asks; empty if it is allowed."""
        if not facts.available:
            return OUT_OF_STOCK
        if item in self._hidden:
            return "hidden"
        if named := self._names_forbid(facts.category, facts.brand):
            return named
        if self._prices and (facts.price is None or not self._prices[0] <= facts.price <= self._prices[1]):
            return "price"
        return ""

    def _forbidding_name(self, category: str, brand: str) -> str:
        only, never = self._categories
        if (only and not _admits_category(category, only)) or _admits_category(category, never):
            return "categories"
        wanted, unwanted = self._brands
        if (wanted and not _admits_brand(brand, wanted)) or _admits_brand(brand, unwanted):
            return "brands"
        return ""

    def boost(self, item: str, facts: Facts) -> float:
        """Return the product of the factors by which an item's score is multiplied."""
        product = 1.0
        for factor, items, categories, brands in self._boosts:
            if item in items or _admits_category(facts.category, categories) or _admits_brand(facts.brand, brands):
                product *= factor
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

        def line_of(rank: int, item: str, score: float) -> Line | None:
            known = facts(item) or _NOTHING
            if why := gone.get(item) or self.forbids(item, known):
                left_out[why] += 1
                return None
            return Line(rank, item, score, known.brand.strip().casefold(), " > ".join(levels(known.category)))

        scores, pins, given = dict(pool), dict[int, tuple[str, float]](), set[str]()
        for pin in self._pinned:
            if pin.place > n:
                break
            given.add(pin.item)
            if facts(pin.item) is None:
                left_out[UNKNOWN] += 1
                continue
            line = line_of(0, pin.item, scores.get(pin.item, 0.0))
            if line and limited.fix(line):
                pins[pin.place] = line.item, line.score
            elif line:
                left_out["at_most"] += 1
        wanted, waiting = n - len(pins), 0
        for rank, (item, score) in enumerate(chain(self._boosted(pool, facts), ((item, 0.0) for item in more))):
            if len(limited.lines) >= wanted:
                break
            if item not in given:
                given.add(item)
                line = line_of(rank, item, score)
                waiting += line is not None and not limited.take(line)
        before = len(limited.lines)
        limited.fill(wanted)
        if waiting := waiting - (len(limited.lines) - before):
            left_out["at_most"] += waiting
        return Answer(_placed(pins, [(line.item, line.score) for line in limited.lines]), dict(left_out))

    def _boosted(
        self, pool: Sequence[tuple[str, float]], facts: Callable[[str], Facts | None]
    ) -> Sequence[tuple[str, float]]:
        """Return the pool in the order of the multiplied scores; of equal ones, as before."""
        if not self._boosts:
            return pool
        return sorted(pool, key=lambda one: -one[1] * self.boost(one[0], facts(one[0]) or _NOTHING))


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


def _levels_of(categories: Iterable[str]) -> tuple[Levels, ...]:
    return tuple(map(levels, categories))


def _folded(brands: Iterable[str]) -> frozenset[str]:
    return frozenset(brand.strip().casefold() for brand in brands)


def _admits_category(category: str, wanted: tuple[Levels, ...]) -> bool:
    """Return whether a category is one of these, or below it."""
    found = levels(category)
    return any(found[: len(one)] == one for one in wanted)


def _admits_brand(brand: str, wanted: frozenset[str]) -> bool:
    return brand.strip().casefold() in wanted
