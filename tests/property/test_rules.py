"""Whatever the rules, the items and the shopper: answers obey, are as long as they can be, and are always the same."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.log.protocol import Record
from headrace.rules import (
    AtMost,
    Boost,
    Brands,
    Categories,
    Pin,
    PriceLimits,
    RuleSet,
    Stock,
    decode,
    merged,
    record_of,
)
from learners.next_item.history import Facts
from learners.next_item.rules import Answer, Rules, levels

ITEMS = [f"i{number}" for number in range(9)]
item = st.sampled_from(ITEMS)
BRANDS = st.sampled_from(["", "x", "y", "z"])
CATEGORIES = st.sampled_from(["", "p", "p > q", "p/r", "s"])
some_items = st.lists(item, max_size=4).map(tuple)
brands = st.lists(BRANDS.filter(bool), max_size=2).map(tuple)
categories = st.lists(CATEGORIES.filter(bool), max_size=2).map(tuple)
LASTS = st.none() | st.sampled_from([0.0, 1.0, 2.5, 40.0])
prices = st.none() | st.integers(1, 9).map(float)

FACTS = st.fixed_dictionaries(
    {name: st.builds(Facts, BRANDS, CATEGORIES, prices, st.integers(0, 9).map(bool), lasts=LASTS) for name in ITEMS}
)
PINS = st.lists(
    st.builds(Pin, item, st.integers(1, 9)), max_size=3, unique_by=(lambda pin: pin.item, lambda pin: pin.place)
)
LIMITS = st.builds(AtMost, st.none() | st.integers(1, 2), st.none() | st.integers(1, 2))
PRICES = st.one_of(
    st.builds(PriceLimits, prices),
    st.builds(PriceLimits, st.just(None), prices),
    st.tuples(st.integers(1, 5), st.integers(0, 4)).map(lambda two: PriceLimits(two[0], two[0] + two[1])),
)
RULES = st.builds(
    RuleSet, hidden=st.none() | some_items, categories=st.none() | st.builds(Categories, categories, categories),
    brands=st.none() | st.builds(Brands, brands, brands), price=st.none() | PRICES, at_most=st.none() | LIMITS,
    pinned=st.none() | PINS.map(tuple),
    stock=st.none() | st.builds(Stock, st.sampled_from([1.0, 3.0]), st.sampled_from([None, 0.5])),
    boosted=st.none() | st.lists(st.builds(Boost, st.floats(0.1, 9), some_items.filter(bool)), max_size=2).map(tuple),
)  # fmt: skip
GONE = st.dictionaries(item, st.sampled_from(["seen", "bought", "exclude"]), max_size=3)
POOL = st.lists(st.tuples(item, st.floats(0, 1)), max_size=6, unique_by=lambda one: one[0])


def answered(rules: RuleSet, pool: Sequence[tuple[str, float]], facts: dict[str, Facts], gone: Any, n: int) -> Answer:
    ranked = sorted(pool, key=lambda one: -one[1])
    return Rules(rules).apply(ranked, ITEMS, facts.get, gone, n)


def is_forbidden(rules: RuleSet, name: str, facts: Facts) -> bool:
    """Say again, in the words of the documentation, whether rules forbid an item."""
    kinds, makes, price = rules.categories or Categories(), rules.brands or Brands(), rules.price or PriceLimits()
    within = {facts.category, facts.category[:1]} - {""}
    return (
        not facts.available
        or name in (rules.hidden or ())
        or bool(kinds.only and not within & {*kinds.only})
        or bool(within & {*kinds.never})
        or bool(makes.only and facts.brand not in makes.only)
        or bool(facts.brand and facts.brand in makes.never)
        or (price.min is not None and (facts.price is None or facts.price < price.min))
        or (price.max is not None and (facts.price is None or facts.price > price.max))
        or (rules.stock is not None and rules.stock.demote is None and is_short(rules.stock, facts))
    )


def is_short(stock: Stock, facts: Facts) -> bool:
    return facts.lasts is not None and facts.lasts < stock.least_days


def within_limits(limits: AtMost, chosen: Sequence[str], facts: dict[str, Facts]) -> bool:
    makes = Counter(facts[one].brand for one in chosen if facts[one].brand)
    kinds = Counter(levels(facts[one].category) for one in chosen if facts[one].category)
    return all(
        limit is None or max(counts.values(), default=0) <= limit
        for limit, counts in ((limits.brand, makes), (limits.category, kinds))
    )


@settings(max_examples=150)
@given(RULES, POOL, FACTS, GONE, st.integers(1, 8))
def test_an_answer_obeys_the_rules_and_is_as_long_as_they_admit(
    rules: RuleSet, pool: list[tuple[str, float]], facts: dict[str, Facts], gone: dict[str, str], n: int
) -> None:
    found = answered(rules, pool, facts, gone, n)
    names = [name for name, _ in found.items]
    allowed = [name for name in ITEMS if name not in gone and not is_forbidden(rules, name, facts[name])]
    assert len(set(names)) == len(names) <= n
    assert set(names) <= set(allowed)
    limits = rules.at_most or AtMost()
    assert within_limits(limits, names, facts)
    # What is pinned is there if it is allowed and its limits have room, in its place unless the answer is shorter.
    pinned: list[str] = []
    for pin in sorted(rules.pinned or (), key=lambda pin: pin.place):
        if pin.place <= n and pin.item in allowed and within_limits(limits, [*pinned, pin.item], facts):
            pinned.append(pin.item)
            place = names.index(pin.item) + 1
            assert place == pin.place or (place < pin.place and {*names[place - 1 :]} <= {*pinned} | pins_of(rules))
    # No longer answer with these pinned items would obey the rules.
    rest = [name for name in allowed if name not in pinned and name not in pins_of(rules, n)]
    if len(names) < n:
        more = combinations(rest, len(names) - len(pinned) + 1)
        assert not any(within_limits(limits, [*pinned, *others], facts) for others in more)
    assert found == answered(rules, pool, facts, gone, n), "equal inputs give equal answers"
    assert found.items or found.left_out, "an answer without items says why"


def pins_of(rules: RuleSet, n: int = 99) -> set[str]:
    return {pin.item for pin in rules.pinned or () if pin.place <= n}


@settings(max_examples=100)
@given(RULES, POOL, FACTS, st.integers(1, 8))
def test_without_limits_or_pins_the_best_allowed_items_come_in_the_order_of_their_boosted_scores(
    rules: RuleSet, pool: list[tuple[str, float]], facts: dict[str, Facts], n: int
) -> None:
    plain = merged(rules, RuleSet(pinned=(), at_most=AtMost()))
    scores = {name: score * boost(plain, name, facts[name]) for name, score in pool}
    names = [name for name, _ in answered(plain, pool, facts, {}, n).items]
    allowed = [name for name in ITEMS if not is_forbidden(plain, name, facts[name])]
    assert len(names) == min(n, len(allowed))
    best = sorted((name for name in allowed if name in scores), key=lambda name: -scores[name])
    assert [scores[name] for name in names if name in scores] == [scores[name] for name in best[:n]]
    assert names[len(best) :] == [name for name in allowed if name not in scores][: max(0, n - len(best))]


def boost(rules: RuleSet, name: str, facts: Facts) -> float:
    product = 1.0
    for one in rules.boosted or ():
        product *= one.factor if name in one.items else 1.0
    if rules.stock and rules.stock.demote and is_short(rules.stock, facts):
        product *= rules.stock.demote
    return product


@settings(max_examples=100)
@given(RULES)
def test_what_is_written_is_what_is_read(rules: RuleSet) -> None:
    record = record_of("cart", rules)
    assert decode(Record(0, 3, 0, record.key, record.value)) == ("cart", 3, rules)


@settings(max_examples=200)
@given(st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=60))
def test_no_bytes_raise(key: bytes | None, value: bytes | None) -> None:
    decode(Record(0, 0, 0, key, value))
