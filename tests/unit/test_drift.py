"""Drift detectors: no alarms without change, and early alarms after a change."""

import numpy as np
import pytest

from headrace.log.protocol import Record
from headrace.state import digest
from learners.parts.drift import Alarm, GroupLosses, LossDrift, alarm_detector, groups_max


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


def test_alarms_name_the_groups_whose_loss_rose_most() -> None:
    drift, rng = LossDrift("loss"), np.random.default_rng(7)
    found: list[Alarm] = []
    for n in range(8_000):
        group = f"category-{rng.integers(0, 9)}"
        rate = 0.95 if n >= 6_000 and group in ("category-3", "category-8") else 0.5
        found += drift.observe(float(rng.random() < rate), group)
        if n < 6_000:
            assert not found
    assert found
    for alarm in found:
        assert {one.value for one in alarm.moved[:2]} == {"category-3", "category-8"}
        assert all(one.before < one.now and one.unit == "%" for one in alarm.moved)


def test_groups_beyond_the_most_make_room() -> None:
    losses = GroupLosses()
    for n in range(3 * groups_max):
        losses.observe(1.0, f"group-{n}")
        losses.observe(1.0, "often")
    assert len(losses.state()["groups"]) == groups_max
    assert "often" in losses.state()["groups"]


def test_an_improvement_raises_no_alarm() -> None:
    drift, rng = LossDrift("loss"), np.random.default_rng(5)
    alarms = [
        alarm for n in range(10_000) for alarm in drift.observe(float(rng.random() < (0.9 if n < 5_000 else 0.5)))
    ]
    assert alarms == []
    assert drift.mean < 0.6


def test_state_continues_exactly() -> None:
    rng = np.random.default_rng(6)
    loss = LossDrift("loss")
    for _ in range(1_001):
        loss.observe(float(rng.random() < 0.4), f"group-{rng.integers(0, 9)}")
    again = LossDrift.from_state(loss.state())
    losses = [float(x) for x in np.random.default_rng(8).random(3_000) < 0.9]
    alarms = [[alarm for x in losses for alarm in one.observe(x, "group-1")] for one in (loss, again)]
    assert alarms[0] == alarms[1] != []
    assert digest(again.state()) == digest(loss.state())


@pytest.mark.parametrize(
    ("value", "detector"),
    [
        (b'{"detector": "price", "score": 1}', "price"),
        (b'{"detector": "price", "silenced": "a sale"}', ""),
        (b'{"detector": "partitions", "detail": "added"}', ""),
        (b'{"detector": "flood"}', ""),
        (b"noise", ""),
    ],
)
def test_only_an_alarm_of_drift_that_is_not_silenced_tells_of_one(value: bytes, detector: str) -> None:
    assert alarm_detector(Record(0, 0, 0, b"", value)) == detector
