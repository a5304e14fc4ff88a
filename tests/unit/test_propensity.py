"""Purchase propensity: labels in event time, in the order of the views, bounded."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.events import Data, Event, Item, at
from headrace.state import decode, digest, encode
from learners.parts.prequential import Probability
from learners.purchase import propensity as module
from learners.purchase.propensity import Propensity, attribution_ms, late_ms


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


hour_ms, day_ms = 3_600_000, 86_400_000


def learned(*events: tuple[str, str, int, str]) -> Propensity:
    """Return a learner of these events: type, item, time and shopper."""
    learner = Propensity()
    for type_, item, time_ms, shopper in events:
        learner.learn(event(type_, item, time_ms, shopper))
    return learner


def weights(learner: Propensity) -> dict[Any, float]:
    """Return the weights and the intercept."""
    return {**learner._model.weights, "": learner._model.intercept}


def use(learner: Propensity) -> list[int]:
    """Return how many sales, views that were not bought, and repairs it keeps."""
    return [learner.bounds()[name][0] for name in ("sold", "unsold", "repairs_due")]


def test_a_late_purchase_teaches_what_one_in_time_does_at_the_same_hour_of_a_later_day() -> None:
    view, other = ("view_item", "a", 0, "ann"), ("view_item", "b", day_ms, "bob")
    passed = ("login", "x", day_ms + attribution_ms + 1, "nobody")
    late = learned(view, ("purchase", "a", 10 * hour_ms, "ann"), ("view_item", "c", 23 * hour_ms, "bob"), other)
    assert use(late) == [1, 0, 1]
    assert late.repairs == {"late_purchases": 1, "returns": 0}
    never = learned(view, ("login", "a", 10 * hour_ms, "ann"), ("view_item", "c", 23 * hour_ms, "bob"), other)
    early = ("login", "x", day_ms + attribution_ms, "nobody")
    for learner in (late, never):
        learner.learn(event(early[0], early[1], early[2], early[3]))
    assert outcomes(late) == [False, False]
    assert weights(late) == weights(never), "the hour of the view has not come"
    late = learned(view, ("purchase", "a", 10 * hour_ms, "ann"), other, passed)
    in_time = learned(view, ("purchase", "a", 2 * hour_ms, "ann"), other, passed)
    assert use(late) == [1, 1, 0]
    assert weights(late) == pytest.approx(weights(in_time), abs=1e-12)
    assert weights(late) != pytest.approx(weights(learned(view, other, passed)), abs=1e-3)


def test_a_purchase_after_seven_days_repairs_nothing() -> None:
    for time_ms, repairs in ((late_ms, 1), (late_ms + 1, 0)):
        learner = learned(("view_item", "a", 0, "ann"), ("purchase", "a", time_ms, "ann"))
        assert learner.repairs["late_purchases"] == repairs
        assert use(learner)[0] == repairs


def test_a_late_purchase_counts_for_the_newest_view_alone() -> None:
    views = ("view_item", "a", 0, "ann"), ("view_item", "a", day_ms, "ann")
    assert learned(*views, ("purchase", "a", day_ms + hour_ms, "ann")).repairs["late_purchases"] == 0
    learner = learned(*views, *(("purchase", "a", days * day_ms, "ann") for days in (2, 3, 4)))
    assert learner.repairs["late_purchases"] == 1
    assert use(learner)[:2] == [1, 0]
    first, second = ("view_item", "a", 0, "ann"), ("view_item", "a", 5 * day_ms, "ann")
    returned = learned(first, ("purchase", "a", 1, "ann"), second, ("refund", "a", 6 * day_ms, "ann"))
    returned.learn(event("purchase", "a", 9 * day_ms))
    assert returned.repairs == {"late_purchases": 1, "returns": 1}, "of the second view, not of the returned one"


@pytest.mark.parametrize("bought_ms", [hour_ms, 10 * hour_ms])
def test_a_return_takes_back_what_was_learned(bought_ms: int) -> None:
    view, other = ("view_item", "a", 0, "ann"), ("view_item", "b", 5 * day_ms, "bob")
    passed = ("login", "x", 6 * day_ms, "nobody")
    bought = view, ("purchase", "a", bought_ms, "ann")
    learner = learned(*bought, ("refund", "a", 2 * day_ms, "ann"), other, passed)
    assert learner.repairs["returns"] == 1
    assert weights(learner) == pytest.approx(weights(learned(view, other, passed)), abs=1e-12)
    twice = learned(*bought, *bought[1:], ("refund", "a", 2 * day_ms, "ann"), other, passed)
    assert twice.repairs["returns"] == 0, "one of two was kept"
    again = learned(*bought, ("refund", "a", 2 * day_ms, "ann"), ("purchase", "a", 3 * day_ms, "ann"), other, passed)
    assert again.repairs["late_purchases"] == 1 + (bought_ms > attribution_ms)
    assert weights(again) == pytest.approx(weights(learned(*bought, other, passed)), abs=1e-12)


def test_late_truth_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "unsold_max", 7)
    monkeypatch.setattr(module, "due_max", 3)
    learner = learned(*(("view_item", f"i{n}", n, "ann") for n in range(10)), ("login", "x", day_ms, "ann"))
    assert learner.bounds()["unsold"] == (6, 7)
    for n in range(10):
        learner.learn(event("purchase", f"i{n}", day_ms + n))
    assert learner.repairs["late_purchases"] == 6
    assert use(learner) == [6, 0, 3], "above the maximum, the first one is learned at once"
    monkeypatch.setattr(module, "unsold_max", 16)
    learner = learned(*(("view_item", "z", days * day_ms, f"day {days}") for days in (0, 1, 6, 8, 12)))
    assert [row[0] for row in learner.state()["unsold"]] == ["day 6", "day 8"], "the others are too old"
    monkeypatch.setattr(module, "unsold_max", 3)
    hours = (("a", 0), ("b", 1), ("a", 8), ("c", 9))
    learner = learned(*(("view_item", item, hour * hour_ms, "ann") for item, hour in hours), ("login", "x", day_ms, ""))
    assert [row[1] for row in learner.state()["unsold"]] == ["a", "c"], "the view of `b` is the oldest"


class Truth:
    """Which views were bought in the end, kept as simply as it can be said."""

    def __init__(self) -> None:
        self.views: list[list[int]] = []  # time, purchases left
        self._newest: dict[tuple[str, str], list[int]] = {}
        self._sold: dict[tuple[str, str], list[int]] = {}

    def see(self, kind: str, key: tuple[str, str], now: int) -> None:
        """Take an event; they come in order of time."""
        newest = self._newest.get(key)
        is_open = newest is not None and now - newest[0] <= attribution_ms
        if kind == "view_item" and not is_open:
            self._newest[key] = [now, 0]
            self.views.append(self._newest[key])
        elif kind == "purchase" and newest is not None and now - newest[0] <= late_ms:
            newest[1] += 1
        elif kind == "refund" and newest is not None:
            sold = newest if is_open and newest[1] else self._sold.get(key)
            if sold is not None and sold[1]:
                sold[1] -= 1
        for name, view in self._newest.items():
            if view[1] and now - view[0] > attribution_ms:
                self._sold[name] = view


STEPS = st.tuples(
    st.sampled_from(("view_item", "view_item", "purchase", "purchase", "refund", "login")),
    st.sampled_from(("a", "b")), st.sampled_from(("ann", "bob")),
    st.sampled_from((1, hour_ms, 5 * hour_ms, 7 * hour_ms, day_ms, 3 * day_ms, 8 * day_ms)),
)  # fmt: skip


@given(st.lists(STEPS, max_size=60), st.integers(0, 60))
def test_labels_and_repairs_are_what_was_true_in_the_end(steps: list[tuple[str, str, str, int]], cut: int) -> None:
    learner, truth, now = Propensity(), Truth(), 0
    for number, (kind, item, shopper, pause_ms) in enumerate(steps):
        if number == cut:
            learner = Propensity.from_state(decode(encode(learner.state())))
        now += pause_ms
        for name in ("ann", "bob"):  # sales whose 6 hours have passed before this event
            truth.see("", (name, item), now)
        truth.see(kind, (shopper, item), now)
        learner.learn(event(kind, item, now, shopper))
    learner.learn(event("login", "x", now + 30 * day_ms, "nobody"))
    labels = outcomes(learner)
    assert len(labels) == len(truth.views)
    found = sum(labels) + learner.repairs["late_purchases"] - learner.repairs["returns"]
    assert found == sum(bought > 0 for _, bought in truth.views)
