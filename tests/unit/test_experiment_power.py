"""Power: the least effect that can be proved, and the days until a wished one can be, or why that is not told."""

import math
from functools import partial

import numpy as np
import pytest

from benchmarks.experiments import at_once, judge
from benchmarks.experiments import conversion as converts
from learners.experiments.boundary import critical, planned_clock
from learners.experiments.difference import Rule
from learners.experiments.moments import Moments
from learners.experiments.power import days_left, detectable

RULE = Rule(shoppers_planned=20_000)


def conversion(share: float, shoppers: int, size: float = 1.0) -> Moments:
    moments = Moments()
    for place in range(shoppers):
        moments.add(size * (place < share * shoppers))
    return moments


def test_the_least_effect_by_hand() -> None:
    """At four times the shoppers: the boundary's value there, and 0.8416 more, in standard errors of half the size."""
    arm = conversion(0.1, 5_000)
    error = math.sqrt(2 * 0.09 / 4_999)
    now, later = detectable(arm, arm, RULE), detectable(arm, arm, RULE, shoppers=40_000)
    assert now is not None
    assert later is not None
    clock = planned_clock(0.05)
    assert now.absolute == pytest.approx((float(critical(np.array(clock / 2), 0.05)) + 0.8416212) * error)
    assert later.absolute == pytest.approx((float(critical(np.array(clock * 2), 0.05)) + 0.8416212) * error / 2)
    assert now.relative == pytest.approx(now.absolute / 0.1)


def test_the_days_lead_to_the_shoppers_at_which_the_effect_is_detectable() -> None:
    arm = conversion(0.05, 2_000)
    found = days_left(arm, arm, RULE, -0.15, 1_500.0)
    assert found is not None
    assert found.days == pytest.approx((found.shoppers - 4_000) / 1_500)
    assert found.days_high is not None
    assert found.days_low < found.days < found.days_high
    at = detectable(arm, arm, RULE, shoppers=found.shoppers)
    assert at is not None
    assert at.relative == pytest.approx(0.15, rel=1e-3)
    absolute = days_left(arm, arm, RULE, 0.15 * 0.05, 1_500.0, is_relative=False)
    assert absolute == found


def test_an_effect_that_can_be_proved_now_takes_no_days() -> None:
    arm = conversion(0.1, 20_000)
    found = days_left(arm, arm, RULE, 0.5, 100.0)
    assert found is not None
    assert (found.days, found.days_low) == (0.0, 0.0)
    assert found.shoppers < 40_000


def test_the_range_is_two_standard_errors_of_the_variance_of_a_rate() -> None:
    """200 shoppers of 4,000 converted, so the variance is known within 2 / sqrt(200) = 14 %."""
    arm = conversion(0.05, 2_000)
    found = days_left(arm, arm, RULE, 0.1, 1_000.0)
    assert found is not None
    assert found.days_high is not None
    ratio = (found.days_high * 1_000 + 4_000) / found.shoppers
    assert 1.14 < ratio < 1.20, "the shoppers needed grow a little faster than the variance"


def test_the_lower_end_is_that_of_a_lower_variance() -> None:
    arm = conversion(0.05, 2_000)
    found = days_left(arm, arm, RULE, 0.1, 1_000.0)
    assert found is not None
    shoppers = found.days_low * 1_000 + 4_000
    least = detectable(arm, arm, RULE, shoppers=shoppers)
    assert least is not None
    assert least.absolute / math.sqrt(1 + 2 / math.sqrt(200)) == pytest.approx(0.005, rel=1e-3)


def test_heavy_tails_have_no_upper_end() -> None:
    moments, random = Moments(), np.random.default_rng(1)
    for place in range(4_000):
        moments.add(float(np.exp(2 * random.normal())) if place % 20 == 0 else 0.0)
    found = days_left(moments, moments, RULE, 0.3, 1_000.0)
    assert found is not None
    assert found.days_high is None
    assert found.days_low < found.days


def test_what_cannot_be_told_is_none() -> None:
    arm, few = conversion(0.05, 2_000), conversion(0.05, 100)
    losses = conversion(0.05, 2_000, -1.0)
    assert detectable(Moments(), arm, RULE) is None
    assert detectable(few, few, RULE) is None
    assert days_left(few, few, RULE, 0.1, 100.0) is None
    assert days_left(arm, arm, RULE, 0.1, 0.0) is None
    assert days_left(arm, arm, RULE, 0.0, 100.0) is None
    assert days_left(arm, arm, RULE, 0.0001, 100.0) is None, "more than a hundred years"
    assert days_left(losses, losses, RULE, 0.1, 100.0) is None
    assert days_left(losses, losses, RULE, 0.01, 100.0, is_relative=False) is not None
    absolute = detectable(losses, losses, RULE)
    assert absolute is not None
    assert absolute.relative is None


def test_the_stated_effect_is_proved_in_four_of_five_experiments() -> None:
    """By 4,000 shoppers at some time: a few per cent more often than at the last look, which alone is 80 %."""
    rule = Rule(shoppers_planned=4_000)
    arm = conversion(0.2, 2_000)
    least = detectable(arm, arm, rule)
    assert least is not None
    assert least.relative is not None
    rate = 0.2 / (1 + least.relative / 2)  # so that the mean of both arms, and with it the variance, is that of 0.2
    play = at_once(partial(converts, rate=rate, effect=least.absolute / rate), 0.5, 200, 20)
    looked = judge(play(np.random.default_rng(8), 600), 600, rule, 0.1)
    assert 0.8 - 0.05 < (looked.ours.ends[1] > 0).mean() < 0.92
