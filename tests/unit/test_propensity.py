"""Purchase propensity: labels in event time, in the order of the views, bounded."""

from typing import Any

import numpy as np
import pytest

from headrace.events import Data, Event, Item, at
from headrace.state import decode, digest, encode
from learners.parts.prequential import Probability
from learners.purchase import propensity as module
from learners.purchase.propensity import Propensity, attribution_ms


def event(type_: Any, item: str, time_ms: int, shopper: str = "ann", price: float = 10.0, category: str = "c") -> Event:
    line = Item(item, item_category=category, price=price)
    return Event("1", "shop", type_, at(time_ms), Data([line]), "1.0", shopper, time_ms)


def later(learner: Propensity, time_ms: int) -> list[bool]:
    """Let time pass; return the labels that became known."""
    learner.learn(event("login", "x", time_ms, "nobody"))
    return outcomes(learner)


def outcomes(learner: Propensity) -> list[bool]:
    """Take the labels that are known: what happened, in order."""
    found = [bought for _, bought in learner.labelled]
    learner.labelled.clear()
    return found


def test_a_view_is_labelled_when_its_window_ends() -> None:
    learner = Propensity()
    learner.learn(event("view_item", "a", 0))
    learner.learn(event("view_item", "b", 1))
    learner.learn(event("purchase", "b", 2))
    assert later(learner, attribution_ms) == []
    assert later(learner, attribution_ms + 1) == [False]
    assert later(learner, attribution_ms + 2) == [True]


def test_a_purchase_counts_for_the_same_shopper_and_item_within_the_window() -> None:
    learner = Propensity()
    for item, shopper in (("a", "ann"), ("a", "bob"), ("b", "ann")):
        learner.learn(event("view_item", item, 0, shopper))
    learner.learn(event("purchase", "a", 5, "ann"))
    assert later(learner, attribution_ms + 10) == [True, False, False]
    learner.learn(event("view_item", "a", 10 * attribution_ms))
    learner.learn(event("purchase", "a", 11 * attribution_ms + 1))
    assert outcomes(learner) == [False]


def test_a_purchase_counts_for_the_views_before_it_in_the_log_whatever_its_clock_says() -> None:
    learner = Propensity()
    learner.learn(event("view_item", "z", attribution_ms // 2, "bob"))  # keeps what lies behind it waiting
    learner.learn(event("view_item", "a", 0))
    learner.learn(event("view_item", "b", attribution_ms // 4))
    for item, time_ms in (("a", -1), ("a", attribution_ms + 1), ("b", attribution_ms + 1)):
        learner.learn(event("purchase", item, time_ms))
    assert later(learner, 3 * attribution_ms) == [False, True, True]


def test_a_late_event_ends_no_visit() -> None:
    learner = Propensity()
    view, late = event("view_item", "a", 2 * attribution_ms), event("view_item", "c", 0)
    learner.learn(view)
    before = learner.features(view)
    learner.learn(late)
    after = learner.features(event("view_item", "a", 2 * attribution_ms))
    assert after != before, "one view more, in the same visit"
    learner.learn(event("add_to_cart", "a", 2 * attribution_ms + 1))
    assert learner._shoppers["ann"].views == 2


def test_a_view_again_within_the_window_is_the_same_view() -> None:
    learner = Propensity()
    for time_ms in (0, 10, 20):
        learner.learn(event("view_item", "a", time_ms))
    assert learner.bounds()["open_views"][0] == 1
    assert later(learner, attribution_ms + 1) == [False]


def test_more_open_views_than_the_maximum_push_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_max", 10)
    learner = Propensity()
    for n in range(25):
        learner.learn(event("view_item", f"i{n}", n))
    assert learner.bounds()["open_views"][0] <= 10
    assert len(learner.labelled) >= 15


def test_usual_prices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shoppers_max", 8)
    learner = Propensity()
    learner._item_prices.names_max = 20
    for n in range(300):
        learner.learn(event("view_item", f"i{n}", n, f"s{n}"))
    assert learner.bounds()["items"][0] == 20
    assert learner.bounds()["shoppers"] == (8, 8)


def test_only_views_have_an_answer() -> None:
    learner = Propensity()
    assert learner.predict(event("purchase", "a", 0)) is None
    first = learner.predict(event("view_item", "a", 0))
    assert first == pytest.approx(0.05)  # before it has learned


def shop(rng: np.random.Generator, views: int, chance: Any) -> list[Event]:
    """Return views, busy by day and quiet by night, each followed a minute later by a purchase with its chance."""
    found, time_ms = [], 1_736_121_600_000
    for n in range(views):
        day = time_ms // 3_600_000 % 24 >= 8
        time_ms += int(rng.exponential(60_000 if day else 900_000)) + 1
        item, price = f"i{rng.integers(50)}", float(np.exp(rng.normal(2.0, 0.4)))
        found.append(event("view_item", item, time_ms, f"s{n}", price))
        if rng.random() < chance(price):
            found.append(event("purchase", item, time_ms + 60_000, f"s{n}", price))
    return sorted(found, key=lambda one: one.time_ms)


def test_probabilities_are_those_of_the_shop() -> None:
    """Buyers come by day and labels late: learned as they become known they would be wrong by the hour."""
    learner, scores = Propensity(), Probability()
    for one in shop(np.random.default_rng(1), 12_000, lambda price: 0.02 if price > np.exp(2.0) else 0.12):
        learner.learn(one)
    scores.observe_all(learner.labelled)
    found = scores.scores("whole")
    assert found["auc"] > 0.65
    assert found["calibration_error"] < 0.025
    assert found["base_rate"] == pytest.approx(0.07, abs=0.01)


def test_state_survives_the_wire_and_continues() -> None:
    rng = np.random.default_rng(2)
    events = shop(rng, 900, lambda price: 0.1)
    learner = Propensity()
    for one in events[:500]:
        learner.learn(one)
    again = Propensity.from_state(decode(encode(learner.state())))
    for one in events[500:]:
        assert again.predict(one) == learner.predict(one)
        again.learn(one)
        learner.learn(one)
    assert digest(again.state()) == digest(learner.state())
    assert list(again.labelled) == list(learner.labelled) != []
