"""Whatever is traded: the stated share of the relevance is kept, all other rules hold, and equal requests are equal."""

import json
import math
from collections import Counter
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events import Data, Event, Item, at
from headrace.log.protocol import Record
from headrace.rules import AtMost, Pin, RuleSet, Trade, merged
from headrace.topics import ITEMS
from learners.next_item.rules import Answer, Rules, brand_meant, category_meant
from learners.next_item.trade import Places, Traded, discounts, trade
from learners.shop import Shop
from tests.shards import next_item, online

START_MS = 1_736_121_600_000
MINUTE_MS, DAY_MS = 60_000, 86_400_000
COUNT = 40

weights = st.sampled_from([0.0, 0.0, 0.3, 1.0, 2.0])
TRADES = st.builds(
    lambda share, one, two, three, stock: Trade(share, one, two, three if one or two or three else 1.0, stock=stock),
    st.one_of(st.sampled_from([1.0, 0.99, 0.95, 0.5, 0.05]), st.floats(0.01, 1.0)), weights, weights, weights,
    weights,
)  # fmt: skip


@st.composite
def all_places(draw: st.DrawFn, most: int = 12) -> Places:
    """Return candidates of 4 brands and 3 categories, some unknown, with a best list that obeys the limits."""
    count = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 1_000_000)))
    probability = rng.dirichlet(np.full(count, draw(st.sampled_from([0.1, 1.0])))) * draw(st.floats(0.0, 1.0))
    brand, category = rng.integers(0, 4, count), rng.integers(0, 3, count)
    limits = draw(st.builds(AtMost, st.none() | st.integers(1, 3), st.none() | st.integers(1, 3)))
    diversity = draw(st.sampled_from([0.0, 0.5, 1.0]))
    fixed = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=2))
    fixed = fixed if obeys(limits, fixed) else []
    best, length = list[int](), draw(st.integers(1, 6))
    for one in (-probability).argsort().tolist():
        kinds = [*fixed, *((int(brand[other]), int(category[other])) for other in [*best, one])]
        if len(best) < length and obeys(limits, kinds):
            best.append(one)
    gain = rng.uniform(-1, 1, count) * (1 - diversity)
    by = discounts(np.sort(rng.permutation(20)[: len(best)]) + 1).tolist()
    boosts = draw(st.sampled_from([np.ones(count), rng.uniform(0.5, 2, count)]))
    order = probability * boosts
    return Places(best, by, probability, order, gain, diversity, brand, category, fixed, limits)


def obeys(limits: AtMost, kinds: Any) -> bool:
    brands, categories = (Counter(one[which] for one in kinds if one[which]) for which in (0, 1))
    return max(brands.values(), default=0) <= (limits.brand or 99) and max(categories.values(), default=0) <= (
        limits.category or 99
    )


def relevance(places: Places, chosen: Any) -> float:
    return sum(float(places.probability[one]) * by for one, by in zip(chosen, places.discounts, strict=True))


def gain(places: Places, chosen: Any) -> float:
    """Say again, in the words of the documentation, what a list gains."""
    total, before = 0.0, list(places.fixed)
    for one, by in zip(chosen, places.discounts, strict=True):
        found = places.gain[one]
        for which, code in enumerate((places.brand[one], places.category[one])):
            if code:
                found += places.diversity / 2 * 0.5 ** sum(other[which] == code for other in before)
        before.append((places.brand[one], places.category[one]))
        total += found * by
    return float(total)


@settings(max_examples=300, deadline=None)
@given(all_places(), st.floats(0.01, 1.0))
def test_the_stated_share_is_kept_and_nothing_is_gained_by_breaking_limits(places: Places, share: float) -> None:
    found = trade(places, share)
    assert len({*found.chosen}) == len(found.chosen) == len(places.best)
    best = relevance(places, places.best)
    assert relevance(places, found.chosen) >= share * best * (1 - 1e-12)
    assert found.kept == pytest.approx(relevance(places, found.chosen) / best if best else 1.0)
    kinds = [*places.fixed, *((places.brand[one], places.category[one]) for one in found.chosen)]
    assert obeys(places.limits, kinds)
    assert gain(places, found.chosen) >= gain(places, places.best) - 1e-9
    assert trade(places, share) == found


def test_what_is_gained_is_near_the_most_that_can_be() -> None:
    """All lists of small problems are tried: those that are found gain most of what the best ones do."""
    rng, shares = np.random.default_rng(5), list[float]()
    for number in range(60):
        probability = np.sort(rng.dirichlet(np.full(7, 0.5)))[::-1]
        diversity = (0.0, 0.5)[number % 2]
        places = Places(
            range(4), discounts(np.arange(1, 5)).tolist(), probability, probability,
            rng.uniform(0, 1 - diversity, 7), diversity, rng.integers(0, 3, 7), rng.integers(0, 3, 7), [], AtMost(),
        )  # fmt: skip
        wanted = 0.8 * relevance(places, places.best)
        most = max(gain(places, one) for one in permutations(range(7), 4) if relevance(places, one) >= wanted)
        least = gain(places, places.best)
        if most > least:
            shares.append((gain(places, trade(places, 0.8).chosen) - least) / (most - least))
    assert len(shares) > 30
    assert np.mean(shares) > 0.8


@settings(max_examples=100, deadline=None)
@given(all_places(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_nothing_is_given_up_for_nothing(places: Places, one: float, other: float) -> None:
    nothing = places._replace(gain=np.zeros(len(places.gain)), diversity=0.0)
    assert trade(nothing, one) == Traded(list(places.best), 1.0)
    all_of_it = trade(places, 1.0)
    assert all_of_it.kept >= 1 - 1e-12


@cache
def learned() -> Shop:
    """Return a shop of 40 items in 8 brands and 5 categories, some of them with a price, a cost, or out of stock."""
    shop = online()(None)
    rng = np.random.default_rng(3)
    for number in range(COUNT):
        stated: dict[str, Any] = {"brand": f"b{number % 8}", "product_type": f"c{number % 5}", "price": 10 + number}
        if number % 3:
            stated["cost_of_goods_sold"] = float(rng.uniform(1, 12))
        if number % 11 == 7:
            stated["availability"] = "out_of_stock"
        shop.hear(ITEMS, Record(0, 0, 0, f"i{number}".encode(), json.dumps(stated).encode()))
    for number in range(900):
        item = f"i{min(COUNT - 1, int(rng.exponential(9)))}"
        time_ms = START_MS + MINUTE_MS * number
        event = Event(
            f"e{number}", "t", "view_item", at(time_ms), Data([Item(item)]), "1.0", f"s{number % 25}", time_ms
        )
        if shop.prepare(event):
            shop.learn(event, 0, number)
    shop.emit()
    return shop


item = st.integers(0, COUNT - 1).map(lambda number: f"i{number}")
RULES = st.builds(
    RuleSet, hidden=st.none() | st.lists(item, max_size=5).map(tuple),
    at_most=st.none() | st.builds(AtMost, st.none() | st.integers(1, 3), st.none() | st.integers(1, 4)),
    pinned=st.none() | st.lists(
        st.builds(Pin, item, st.integers(1, 12)), max_size=3,
        unique_by=(lambda pin: pin.item, lambda pin: pin.place),
    ).map(tuple),
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(RULES, TRADES, st.integers(0, 30), st.integers(1, 25))
def test_an_answer_that_is_traded_obeys_all_other_rules(rules: RuleSet, traded: Trade, shopper: int, n: int) -> None:
    shop = learned()
    answering = next_item(shop).answering

    def answer(stated: RuleSet) -> Answer:
        return answering.choose(f"s{shopper}", shop.time_ms, n, None, Rules(stated))

    before, after = answer(rules), answer(merged(rules, RuleSet(trade=traded)))
    names, others = ([name for name, _ in one.items] for one in (after, before))
    assert len({*names}) == len(names) == len(others)
    assert after.left_out == before.left_out
    facts = {name: answering.shelf.facts(name) for name in {*names, *others}}
    assert not {*names} & {*(rules.hidden or ())}
    seen = set(next_item(shop).browsing.ids([*next_item(shop).browsing.recent.slots(f"s{shopper}", shop.time_ms)]))
    assert not {*names} & seen
    kinds = [(brand_meant(one.brand), category_meant(one.category)) for name in names if (one := facts[name])]
    assert all(one and one.available for one in (facts[name] for name in names))
    assert obeys(rules.at_most or AtMost(), kinds)
    pins = {pin.item for pin in rules.pinned or ()}
    assert [name if name in pins else "" for name in names] == [name if name in pins else "" for name in others]
    free = [place for place, name in enumerate(others) if name not in pins]
    shares = [
        sum(one.items[place][1] / math.log2(2 + place) for place in free) for one in (before, after)
    ]  # fmt: skip
    assert shares[1] >= traded.relevance_min * shares[0] * (1 - 1e-9)
    assert after.kept == pytest.approx(shares[1] / shares[0] if shares[0] else 1.0)
    assert before.kept is None
    assert answer(merged(rules, RuleSet(trade=traded))) == after
