"""Trading: what an answer may give up of its relevance, for margin, freshness, diversity, exposure or stock. Pure.

The answer that the other rules give is the *best* one. Its items, and the blend's candidates that the same rules allow,
are ranked anew: greedily, by score + mu x gain, where the gain of an item depends on what was taken before it. The
larger mu, the more is given up; it is searched by bisection. Of the lists that keep at least the share that the rule
states, that of the largest mu is the answer; the best one itself, if that does not gain less. So the share is always
kept.

Relevance is the sum over the places k of p / log2(1 + k), where p is the blend's probability that the item comes next.
Pinned items stay in their places, and count where limits per brand and category are concerned.

Source: Carbonell and Goldstein, "The use of MMR", SIGIR 1998 (greedy re-ranking by a marginal gain); Agrawal et al.,
"Diversifying search results", WSDM 2009 (another item of a kind gains less with each that is there); Minoux,
"Accelerated greedy algorithms for maximizing submodular set functions", 1978 (gains only fall, so that most need not
be computed again); Jaervelin and Kekaelaeinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002 (the
discount of a place). Ours searches the weight for which a stated share of the relevance is kept.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.rules import AtMost, Trade
from learners.next_item.at_most import NO_LIMIT
from learners.next_item.rules import NOTHING, Answer, Rules, brand_meant, category_meant
from learners.next_item.shelf import Names, Shelf

candidates_max: Final = 128
"""Most candidates among which an answer is traded: the most probable ones."""
repeated: Final = 0.5
"""What the next item of a brand, or of a category, adds to diversity, as a share of what the one before did."""
_MU: Final = -6.0, 2.0
"""Binary logarithms between which mu is searched. Scores are divided by the highest one, and gains are at most 1."""
_steps: Final = 5
"""Steps of the search: mu is found within a fifth."""
day_ms: Final = 86_400_000
plenty_days: Final = 30.0
"""Days for which stock lasts that gain half as much as stock that lasts for ever."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Places(NamedTuple):
    """The candidates for the places of an answer that are free, and what is there already.

    Attributes:
        best: the best answer's candidates, by place.
        discounts: of the free places, as they follow.
        probability: the blend's; 0 of what fills up a list.
        order: by which candidates are ranked without a trade, such as boosted probabilities.
        gain: of each candidate by itself, weighted, at most 1.
        diversity: the weight of diversity.
        brand, category: codes; 0: unknown.
        fixed: the codes of brand and category of each pinned item.

    Shapes:
        arrays: (C,)
    """

    best: Sequence[int]
    discounts: Sequence[float]
    probability: Floats
    order: Floats
    gain: Floats
    diversity: float
    brand: Ints
    category: Ints
    fixed: Sequence[tuple[int, int]]
    limits: AtMost


class Traded(NamedTuple):
    """The candidates by place, and which share of the relevance is kept."""

    chosen: list[int]
    kept: float


def discounts(places: Ints) -> Floats:
    """Return how much a place counts, from 1 on. Shape: as `places`.

    >>> discounts(np.array([1, 3])).tolist()
    [1.0, 0.5]
    """
    return np.asarray(1 / np.log2(1 + places))


def trade(places: Places, relevance_min: float) -> Traded:
    """Return the candidates that gain most while the share of the relevance is kept.

    >>> no = np.zeros(3, np.int64)
    >>> two = Places(
    ...     [0, 1], [1.0, 0.63], np.array([0.5, 0.3, 0.28]), np.array([0.5, 0.3, 0.28]), np.array([0.0, 0.0, 1.0]), 0.0,
    ...     no, no, [], AtMost(),
    ... )
    >>> [trade(two, share).chosen for share in (1.0, 0.98, 0.7)]
    [[0, 1], [0, 2], [2, 0]]
    """
    probability, ranker = places.probability.tolist(), _Ranker(places)
    best = list(places.best)
    relevance = _sum_of(probability, best, places.discounts)
    if relevance <= 0:
        return Traded(best, 1.0)
    wanted = relevance_min * relevance
    found, kept = best, relevance
    low, high = _MU
    middle = high
    for _ in range(1 + _steps):
        ranked = ranker.ranked(2.0**middle)
        keeps = 0.0 if ranked is None else _sum_of(probability, ranked, places.discounts)
        if ranked is not None and keeps >= wanted:
            found, kept = ranked, keeps
            if middle == high:
                break
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    if ranker.gain(found) <= ranker.gain(best):
        return Traded(best, 1.0)
    return Traded(found, kept / relevance)


def _sum_of(values: list[float], chosen: list[int], weights: Sequence[float]) -> float:
    return sum([values[one] * weight for one, weight in zip(chosen, weights, strict=True)])


class _Ranker:
    """Ranks the candidates for some places."""

    def __init__(self, places: Places) -> None:
        self._places = places
        most = float(places.order.max())
        self._order = places.order / most if most > 0 else places.order
        self._half = 0.5 * places.diversity
        kinds = places.brand > 0, places.category > 0
        self._first = places.gain + self._half * kinds[0] + self._half * kinds[1]
        self._gain = places.gain.tolist()
        self._brand, self._category = places.brand.tolist(), places.category.tolist()
        self._brand_max, self._category_max = places.limits.brand or NO_LIMIT, places.limits.category or NO_LIMIT
        self._fixed = Counter(brand for brand, _ in places.fixed), Counter(category for _, category in places.fixed)

    def gain(self, chosen: list[int]) -> float:
        """Return what a list gains."""
        brands, categories = (dict(codes) for codes in self._fixed)
        total = 0.0
        for one, discount in zip(chosen, self._places.discounts, strict=True):
            gain = self._gain[one]
            for code, codes in ((self._brand[one], brands), (self._category[one], categories)):
                if code:
                    alike = codes.get(code, 0)
                    gain += self._half * repeated**alike
                    codes[code] = alike + 1
            total += gain * discount
        return total

    def ranked(self, mu: float) -> list[int] | None:
        """Return the candidates for the places; None if limits leave some empty."""
        highest = self._order + mu * self._first  # gains only fall
        order = (-highest).argsort(kind="stable").tolist()
        values = highest.tolist()
        brands, categories = (dict(codes) for codes in self._fixed)
        brand_of, category_of, brand_max, category_max = (
            self._brand,
            self._category,
            self._brand_max,
            self._category_max,
        )
        lost_max = mu * self._half
        again: list[tuple[float, int]] = []
        chosen: list[int] = []
        next_, last, count = 0, len(order), len(self._places.best)
        while len(chosen) < count:
            if again and (next_ == last or -again[0][0] >= values[order[next_]]):
                negative, one = heappop(again)
                value = -negative
            elif next_ < last:
                one = order[next_]
                value = values[one]
                next_ += 1
            else:
                return None
            brand, category = brand_of[one], category_of[one]
            alike, akin = brands.get(brand, 0) if brand else 0, categories.get(category, 0) if category else 0
            if alike >= brand_max or akin >= category_max:
                continue
            if lost_max and (alike or akin):
                now = values[one] - lost_max * (2 - repeated**alike - repeated**akin)
                if now < value:
                    heappush(again, (-now, one))
                    continue
            chosen.append(one)
            brands[brand], categories[category] = alike + 1, akin + 1
        return chosen


class Codes:
    """Numbers for the names of a shelf. Names that rules take for the same have the same number, unknown ones 0.

    Args:
        meant: returns what a name means.

    >>> names = Names()
    >>> [names.number(name) for name in ("Acme", "", "ACME")]
    [0, 1, 2]
    >>> Codes(lambda name: name.casefold()).of(names).tolist()
    [1, 0, 1]
    """

    def __init__(self, meant: Callable[[str], str]) -> None:
        self._meant = meant
        self._names: Names | None = None
        self._numbers: dict[str, int] = {}
        self._of = np.zeros(0, np.int64)

    def of(self, names: Names) -> Ints:
        """Return the codes of names, by their numbers. Shape: (names,)"""
        if names is not self._names:
            self._names, self._numbers, self._of = names, {"": 0}, np.zeros(0, np.int64)
        if len(names) > len(self._of):
            numbers = self._numbers
            new = [numbers.setdefault(self._meant(name), len(numbers)) for name in names.names[len(self._of) :]]
            self._of = np.concatenate([self._of, np.array(new, np.int64)])
        return self._of

    def code(self, name: str) -> int:
        """Return the code of what a name means, -1 if there is none."""
        return self._numbers.get(self._meant(name), -1)


class Trading:
    """Trades answers of one fold.

    Args:
        shelf: what is known of items.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._brands, self._categories = Codes(brand_meant), Codes(category_meant)

    def trade(
        self, rules: Rules, answer: Answer, pool: Sequence[tuple[str, float]], is_free: Callable[[str], bool],
        time_ms: int,
    ) -> Answer:  # fmt: skip
        """Return an answer that obeys the same rules.

        Args:
            answer: the one without a trade.
            pool: the blend's candidates with their probabilities, best first.
            is_free: returns whether an item may be answered, as far as not the placement's rules decide that.
        """
        stated, limits = rules.stated.trade, rules.stated.at_most or AtMost()
        assert stated
        shelf, pins = self._shelf, {pin.item for pin in rules.stated.pinned or ()}
        at = np.array([place for place, (item, _) in enumerate(answer.items, 1) if item not in pins], np.int64)
        if not len(at):
            return answer._replace(kept=1.0)
        scores = dict([one for one in answer.items if one[0] not in pins])
        taken = len(scores)
        for item, score in pool:
            if len(scores) >= candidates_max + taken:
                break
            if item not in scores and item not in pins and is_free(item):
                facts = shelf.facts(item)
                if facts is not None and not rules.forbids(item, facts):
                    scores[item] = score
        items = list(scores)
        probability = np.fromiter(scores.values(), np.float64, len(items))
        order = probability
        if rules.reorders:
            order = probability * [rules.boost(item, shelf.facts(item) or NOTHING) for item in items]
        rows = np.fromiter(map(shelf.row, items), np.int64, len(items))
        is_known = rows >= 0
        if not is_known.any():
            return answer._replace(kept=1.0)
        rows[~is_known] = 0
        fixed = [one for one, _ in answer.items if one in pins]
        brands, categories = self._brands.of(shelf.brands), self._categories.of(shelf.categories)
        pinned = [
            (int(brands[shelf.brand[row]]), int(categories[shelf.category[row]])) for row in map(shelf.row, fixed)
        ]
        found = trade(
            Places(
                range(taken), discounts(at).tolist(), probability, order,
                self._gain(rules, items, rows, probability, time_ms) * is_known,
                stated.diversity / _sum(stated), brands[shelf.brand[rows]] * is_known,
                categories[shelf.category[rows]] * is_known, pinned, limits,
            ),
            stated.relevance_min,
        )  # fmt: skip
        listed = list(answer.items)
        for place, one in zip(at.tolist(), found.chosen, strict=True):
            listed[place - 1] = items[one], scores[items[one]]
        return answer._replace(items=listed, kept=found.kept)

    def _gain(
        self, rules: Rules, items: Sequence[str], rows: Ints, probability: Floats, time_ms: int
    ) -> Floats:  # fmt: skip
        """Return what items gain by themselves, at most 1. What is not known gains nothing. Shapes: (C,)"""
        stated, gain = rules.stated.trade, np.zeros(len(rows))
        assert stated
        if stated.margin:
            earned = np.nan_to_num(self._shelf.margin[rows]) * probability
            most = float(np.abs(earned).max())
            if most > 0:
                gain += stated.margin * earned / most
        if stated.freshness:
            since_ms = self._shelf.since_ms(rows)
            days = np.maximum(time_ms - since_ms, 0) / day_ms
            gain += np.where(since_ms > 0, stated.freshness * np.exp2(-days / stated.fresh_days), 0.0)
        if stated.stock:
            lasts = np.nan_to_num(self._shelf.lasts[rows])
            gain += stated.stock * lasts / (lasts + plenty_days)
        if stated.exposure:
            facts = [self._shelf.facts(item) or NOTHING for item in items]
            lacks = [rules.steering.shortfall(brand_meant(one.brand), brand_meant(one.seller)) for one in facts]
            gain += stated.exposure * np.array(lacks)
        return gain / _sum(stated)


def _sum(stated: Trade) -> float:
    return stated.margin + stated.freshness + stated.diversity + stated.exposure + stated.stock
