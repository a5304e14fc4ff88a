"""Purchase propensity over HTTP: the running visit's items, calibrated probabilities, and the parts of each score."""

import math
from typing import Any

import numpy as np
import pytest

from headrace.events import Data, Event, Item, at
from headrace.surface import Now
from learners.parts.prequential import bins, calibrated
from learners.purchase.family import Chances, PurchaseFamily, PurchaseQuery
from learners.purchase.propensity import attribution_ms
from learners.shop import Shop
from tests.shards import purchase

START_MS = 1_736_121_600_000


def event(number: int, shopper: str, item: str, kind: Any = "view_item", minutes: float = 0.0) -> Event:
    time_ms = START_MS + int(minutes * 60_000)
    line = Item(item, item_category=item[0], item_brand="b", price=10.0)
    return Event(f"e{number}", "test", kind, at(time_ms), Data([line]), "1.0", shopper, time_ms)


def shop_of(*events: tuple[str, str, str, float]) -> Shop:
    """Return a shop that has learned these events: shopper, item, type, and minutes since the start."""
    shop = Shop((PurchaseFamily,))
    for number, (shopper, item, kind, minutes) in enumerate(events):
        shop.learn(event(number, shopper, item, kind, minutes), 0, number)
    return shop


def learned() -> Shop:
    """Return a shop where items of the category `h` (hot) are always bought, those of `c` (cold) never."""
    shop = Shop((PurchaseFamily,))
    for number in range(3_000):
        shopper, item = f"s{number}", f"{'hc'[number % 2]}{number % 6}"
        shop.learn(event(2 * number, shopper, item, minutes=number * 10), 0, 2 * number)
        if item[0] == "h":
            shop.learn(event(2 * number + 1, shopper, item, "purchase", number * 10 + 1), 0, 2 * number + 1)
    return shop


def asked(shop: Shop, shopper: str) -> Chances:
    return purchase(shop).answer(PurchaseQuery(shopper), Now(shop.time_ms))


def test_it_answers_for_the_items_of_the_running_visit_the_newest_first() -> None:
    shop = shop_of(("ann", "h1", "view_item", 0), ("bob", "h9", "view_item", 1), ("ann", "c1", "view_item", 2))
    found = asked(shop, "ann")
    assert [one.item_id for one in found.items] == ["c1", "h1"]
    assert [one.viewed_ms for one in found.items] == [START_MS + 120_000, START_MS]
    assert found.shopper == "ann"
    assert found.base_rate is None, "no label is known yet"
    assert asked(shop, "eve").items == []


def test_what_was_bought_and_what_was_viewed_too_long_ago_is_left_out() -> None:
    hours = attribution_ms / 3_600_000
    shop = shop_of(("ann", "h1", "view_item", 0), ("ann", "h2", "view_item", 1), ("ann", "h1", "purchase", 2))
    assert [one.item_id for one in asked(shop, "ann").items] == ["h2"]
    shop.learn(event(9, "bob", "h3", minutes=60 * hours + 3), 0, 9)
    assert asked(shop, "ann").items == [], "the visit is over"


def test_probabilities_follow_what_sells_and_are_the_sum_of_their_parts() -> None:
    shop = learned()
    minutes = 30_001
    for number, item in enumerate(("h0", "c1"), start=9_000):
        shop.learn(event(number, "ann", item, minutes=minutes + number - 9_000), 0, number)
    cold, hot = asked(shop, "ann").items
    assert (cold.item_id, hot.item_id) == ("c1", "h0")
    assert hot.raw > 0.8 > 0.2 > cold.raw
    assert hot.probability > 0.8 > 0.2 > cold.probability
    for one in (cold, hot):
        assert 1 / (1 + math.exp(-sum(one.parts.values()))) == pytest.approx(one.raw)
    assert hot.parts["item, category and brand"] > 0 > cold.parts["item, category and brand"]
    assert asked(shop, "ann").base_rate == pytest.approx(0.5, abs=0.01)


def test_a_view_made_now_is_given_what_the_answer_says() -> None:
    shop = learned()
    shop.learn(event(9_000, "ann", "h0", minutes=30_001), 0, 9_000)
    (item,) = asked(shop, "ann").items
    again = event(9_001, "ann", "h0", minutes=30_001)
    assert purchase(shop).propensity.predict(again) == pytest.approx(item.raw)


def test_answers_follow_the_open_views_from_the_first_question_on() -> None:
    shop, again = learned(), learned()
    asked(shop, "ann")  # from here on it keeps an index
    hours = attribution_ms / 3_600_000
    for number in range(60):
        one = event(9_000 + number, f"s{number % 4}", f"h{number % 7}", minutes=30_001 + number * hours * 4)
        for learner in (shop, again):
            learner.learn(one, 0, 9_000 + number)
    for shopper in ("s0", "s1", "s2", "s3", "ann"):
        assert asked(shop, shopper) == asked(again, shopper)
    assert asked(shop, "s3").items


def test_asking_changes_nothing() -> None:
    from headrace.state import digest

    shop = learned()
    before = digest(shop.state())
    for shopper in ("ann", "s2999", ""):
        asked(shop, shopper)
    assert digest(shop.state()) == before


def test_calibration_brings_probabilities_to_what_happened_and_keeps_their_order() -> None:
    draw = np.random.default_rng(5)
    given = draw.uniform(0.02, 0.6, 20_000)
    bought = draw.random(20_000) < given / 2  # the model promises twice too much
    places = np.clip(((np.log(given / (1 - given)) / 12 + 1) / 2 * bins).astype(int), 0, bins - 1)
    no, yes = (np.bincount(places[bought == label], minlength=bins).astype(float) for label in (False, True))
    asked_for = np.linspace(0.05, 0.55, 30)
    found = np.array(calibrated((no, yes), asked_for.tolist()))
    assert np.abs(found - asked_for / 2).max() < 0.03
    assert (np.diff(found) >= 0).all()
