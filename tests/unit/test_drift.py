"""Drift detectors: no alarms without change, and early alarms after a change."""

import numpy as np
import pytest

from headrace.state import digest
from learners.parts.drift import (
    DISTANCES,
    Alarm,
    Distance,
    InputDrift,
    LossDrift,
    settling_windows,
    warmup_windows,
    window_views,
)


def views(drift: InputDrift, count: int, rng: np.random.Generator, **changed: float) -> list[Alarm]:
    """Feed a detector views of a shop; `changed` shifts items, prices, categories or the share of new items."""
    alarms = []
    for _ in range(count):
        item = int(rng.zipf(1.5)) % 200 + int(changed.get("items", 0))
        category = item % 12 if rng.random() > changed.get("one_category", 0.0) else 99
        price = float(np.exp(rng.normal(3.0, 0.5)) * changed.get("price", 1.0))
        unseen = bool(rng.random() < changed.get("unseen", 0.02))
        alarms += drift.observe(f"item-{item}", f"category-{category}", price, unseen=unseen)
    return alarms


STABLE_VIEWS = 30 * window_views


@pytest.mark.parametrize("seed", range(3))
def test_without_change_there_is_no_alarm(seed: int) -> None:
    assert views(InputDrift(), STABLE_VIEWS, np.random.default_rng(seed)) == []


@pytest.mark.parametrize(
    ("detector", "changed"),
    [
        ("popularity", {"items": 70}),
        ("price", {"price": 1.5}),
        ("category", {"one_category": 0.3}),
        ("unseen_items", {"unseen": 0.2}),
    ],
)
def test_each_detector_detects_its_change(detector: str, changed: dict[str, float]) -> None:
    drift, rng = InputDrift(), np.random.default_rng(1)
    assert views(drift, (warmup_windows + 3) * window_views, rng) == []
    alarms = views(drift, 2 * window_views, rng, **changed)
    assert detector in {alarm.detector for alarm in alarms}
    assert all(alarm.score > alarm.threshold > 0 for alarm in alarms)
    assert {alarm.detector for alarm in alarms} <= set(DISTANCES)


def test_a_change_raises_one_alarm_and_becomes_the_reference() -> None:
    drift, rng = InputDrift(), np.random.default_rng(2)
    views(drift, (warmup_windows + 3) * window_views, rng)
    alarms = views(drift, 20 * window_views, rng, price=2.0)
    assert [alarm.detector for alarm in alarms] == ["price"]


def windows(distance: Distance, *bins: int) -> list[bool]:
    """Feed a distance windows of 100 values, each all in one bin but for five; return which raise an alarm."""
    found = []
    for bin_ in bins:
        for number in range(100):
            distance.count((bin_ + (number % 20 == 0)) % 4)
        found.append(distance.observe() is not None)
    return found


def test_after_an_alarm_the_new_reference_settles_first() -> None:
    distance = Distance("category", 4)
    assert not any(windows(distance, *[0] * (warmup_windows + settling_windows + 1)))
    assert windows(distance, 2) == [True]
    settling = windows(distance, *([0] * (settling_windows - 1)))
    assert settling == [False] * (settling_windows - 1), "too few windows of the new reference"
    again = Distance("category", 4)
    windows(again, *[0] * (warmup_windows + settling_windows + 1), 2, *[2] * settling_windows)
    assert windows(again, 0) == [True], "the new reference has settled"


def test_missing_fields_are_ignored() -> None:
    drift = InputDrift()
    for n in range(3 * window_views):
        assert drift.observe(f"item-{n % 7}", "", None, unseen=False) == []
    scores = {distance.name: distance.score for distance in drift.distances}
    assert scores["price"] == scores["category"] == 0.0
    assert drift.distances[0].state()["windows"] == 3


def test_a_distance_lies_between_0_and_1() -> None:
    distance = Distance("x", 4)
    for bin_ in (0, 3):
        for _ in range(10):
            distance.count(bin_)
        assert distance.observe() is None
    assert distance.score == pytest.approx(1.0)
    assert distance.observe() is None  # an empty window has no distance


@pytest.mark.parametrize("mean", [0.05, 0.3, 0.7])
def test_a_steady_loss_raises_no_alarm(mean: float) -> None:
    drift, rng = LossDrift("loss"), np.random.default_rng(3)
    assert [alarm for _ in range(20_000) for alarm in drift.observe(float(rng.random() < mean))] == []
    assert drift.mean == pytest.approx(mean, abs=0.02)


def test_both_tests_detect_a_rising_loss_early() -> None:
    drift, rng = LossDrift("loss"), np.random.default_rng(4)
    for _ in range(5_000):
        drift.observe(float(rng.random() < 0.6))
    found: dict[str, int] = {}
    for n in range(1_000):
        for alarm in drift.observe(float(rng.random() < 0.85)):
            found.setdefault(alarm.detector, n)
    assert found.keys() == {"loss_adwin", "loss_page_hinkley"}
    assert max(found.values()) < 500


def test_an_improvement_raises_no_alarm() -> None:
    drift, rng = LossDrift("loss"), np.random.default_rng(5)
    alarms = [
        alarm for n in range(10_000) for alarm in drift.observe(float(rng.random() < (0.9 if n < 5_000 else 0.5)))
    ]
    assert alarms == []
    assert drift.mean < 0.6


def test_state_continues_exactly() -> None:
    rng = np.random.default_rng(6)
    inputs, loss = InputDrift(), LossDrift("loss")
    views(inputs, 5 * window_views + 17, rng)
    for _ in range(1_001):
        loss.observe(float(rng.random() < 0.4))
    inputs_again, loss_again = InputDrift.from_state(inputs.state()), LossDrift.from_state(loss.state())
    assert digest(inputs_again.state()) == digest(inputs.state())
    for one in (inputs, inputs_again):
        views(one, 12 * window_views, np.random.default_rng(7), price=3.0)
    ones = [[float(x) for x in np.random.default_rng(8).random(3_000) < 0.9]] * 2
    alarms = [[alarm for x in xs for alarm in one.observe(x)] for one, xs in zip((loss, loss_again), ones, strict=True)]
    assert alarms[0] == alarms[1] != []
    assert digest(inputs_again.state()) == digest(inputs.state())
    assert digest(loss_again.state()) == digest(loss.state())
