"""The difference of an arm from the control: hand-computed estimates, intervals, harm, and what is not told."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from learners.experiments.boundary import critical, planned_clock
from learners.experiments.difference import Difference, Rule, alpha_each, difference, harm
from learners.experiments.moments import Moments

ANY = Rule(shoppers_planned=8, shoppers_min=2, nonzero_min=1.0)
"""Gives an interval even of a few shoppers."""


def of(
    y: Sequence[float], d: Sequence[float] | None = None, x: Sequence[float] | None = None, times: int = 1
) -> Moments:
    moments = Moments()
    for _ in range(times):
        for one in zip(y, d or [1.0] * len(y), x or [0.0] * len(y), strict=True):
            moments.add(*one)
    return moments


def reach(clock: float, alpha: float = 0.05) -> float:
    return float(critical(np.array(clock), alpha))


def converted(count: int, shoppers: int) -> Moments:
    return of([1.0] * count + [0.0] * (shoppers - count))


def test_a_mean_per_shopper_by_hand() -> None:
    """Variances are 4 and 20 / 3; the pooled one, 5.6, has a lower sum over arms than both."""
    found = difference(of([1.0, 3.0, 5.0]), of([2.0, 4.0, 6.0, 8.0]), ANY)
    assert (found.control_shoppers, found.arm_shoppers, found.control, found.arm) == (3, 4, 3.0, 5.0)
    assert found.difference == 2.0
    assert found.relative == pytest.approx(2 / 3)
    pooled = (2 * 4 + 3 * 20 / 3) / 5
    variance = max(4 / 3 + 20 / 3 / 4, pooled / 3 + pooled / 4)
    width = reach(planned_clock(0.05) * 7 / 8) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((2 - width, 2 + width))
    assert found.first_variance == pytest.approx(7 * variance)
    assert not found.decided


def test_a_ratio_has_the_variance_of_the_delta_method() -> None:
    y, d = [2.0, 1.0, 6.0, 0.0], [4.0, 2.0, 6.0, 4.0]
    found = difference(of(y, d), of(y, d), ANY)
    value = 9 / 16
    scores = [(one - value * each) / 4 for one, each in zip(y, d, strict=True)]
    assert found.control == found.arm == value
    assert found.difference == 0.0
    assert found.first_variance == pytest.approx(8 * 2 * (sum(score**2 for score in scores) / 3) / 4)


def test_the_covariate_takes_out_what_differed_before() -> None:
    """Outcomes are twice the covariate, plus 1 in the arm, plus +-0.1, which no covariate explains."""
    x_control, x_arm = [1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]
    control = of([2.1, 3.9, 5.9, 8.1], x=x_control)
    found = difference(control, of([5.1, 6.9, 8.9, 11.1], x=x_arm), ANY)
    assert found.arm == 8.0
    assert found.control == 5.0
    assert found.difference == pytest.approx(1.0), "not 3: of these, 2 differed before"
    assert found.relative == pytest.approx(1 / 6), "both values are those at the mean covariate of both arms, 3"
    assert found.variance_ratio == pytest.approx(0.04 / 20, abs=1e-3)


def test_a_covariate_that_tells_nothing_changes_nothing() -> None:
    y, x = [1.0, 3.0, 1.0, 3.0], [5.0, 5.0, 7.0, 7.0]
    with_x, without = difference(of(y, x=x), of(y, x=x), ANY), difference(of(y), of(y), ANY)
    assert with_x == without
    assert with_x.variance_ratio == 1.0


def test_an_arm_without_any_outcome_is_certain_enough_to_be_worse() -> None:
    """Its own variance is 0, which must make it neither undecidable nor more certain than the control's allows."""
    rule = Rule(shoppers_planned=4_000)
    found = difference(converted(100, 2_000), converted(0, 2_000), rule)
    assert found.decided
    assert found.high is not None
    assert found.high < 0
    small = difference(converted(50, 1_000), converted(0, 50), Rule(shoppers_planned=4_000, nonzero_min=2.0))
    assert small.low is not None
    assert small.high is not None
    assert not small.decided, "2.4 conversions were expected of 50 shoppers"
    own = 0.05 * 0.95 / 1_000
    assert small.high - small.low > 4 * reach(8.0) * math.sqrt(own), "the pooled variance, not the arm's own"


@pytest.mark.parametrize(
    ("control", "arm"),
    [
        (Moments(), Moments()),
        (converted(500, 1_000), converted(20, 49)),
        (converted(9, 1_000), converted(10, 1_000)),
        (converted(100, 100_000), converted(0, 1_000)),
        (of([3.0], times=500), of([3.0], times=500)),
        (of([0.1], [0.3], times=500), of([0.1], [0.3], times=500)),
        (of([50.0] + [0.0] * 999, [100.0] + [0.0] * 999), of([1.0, 0.0], [2.0, 1.0], times=500)),
    ],
    ids=["none", "few shoppers", "few conversions", "few expected in the arm", "all alike", "rounding", "one has all"],
)
def test_too_little_data_says_nothing(control: Moments, arm: Moments) -> None:
    found = difference(control, arm, Rule())
    assert (found.low, found.high, found.relative_low, found.relative_high) == (None, None, None, None)
    assert (found.p_value, found.decided, found.first_variance) == (1.0, False, None)
    assert not harm(control, arm, Rule()).proved
    assert difference(control, arm, Rule(), 2.5).first_variance in (None, 2.5)


def test_values_are_shown_before_there_is_an_interval() -> None:
    assert difference(converted(1, 10), converted(2, 10), Rule()) == Difference(
        control_shoppers=10, arm_shoppers=10, control=0.1, arm=0.2, difference=0.1, relative=1.0
    )


def test_relative_bounds_are_those_that_the_same_test_does_not_refute() -> None:
    control, arm, rule = converted(200, 2_000), converted(260, 2_000), Rule(shoppers_planned=4_000)
    found = difference(control, arm, rule)
    assert found.relative_low is not None
    assert found.relative_high is not None
    at = reach(planned_clock(0.05))
    each = [share * (1 - share) / 1_999 for share in (0.1, 0.13)]  # the pooled variance has the same sum
    for bound in (found.relative_low, found.relative_high):
        factor = 1 + bound
        error = math.sqrt(each[1] + factor**2 * each[0])
        assert abs(0.13 - factor * 0.1) == pytest.approx(at * error, rel=1e-3)
    assert found.relative == pytest.approx(0.3)
    assert found.relative_low < 0.3 < found.relative_high


def test_a_control_that_is_not_clearly_above_0_gives_no_relative_bounds() -> None:
    gains = [10.0, -9.0] * 100
    found = difference(of(gains), of(gains), Rule(shoppers_planned=400))
    assert found.low is not None
    assert (found.relative_low, found.relative_high) == (None, None)
    losses = difference(of([-2.0, -1.0], times=200), of([-2.0, -1.0], times=200), Rule(shoppers_planned=400))
    assert losses.low is not None
    assert losses.relative is None


def test_the_first_variance_sets_the_clock() -> None:
    control, arm, rule = of([0.0, 10.0], times=100), of([0.0, 12.0], times=100), Rule(shoppers_planned=400)
    first = difference(control, arm, rule)
    assert first.first_variance is not None
    kept = difference(control, arm, rule, first.first_variance / 4)
    assert kept.first_variance == first.first_variance / 4
    assert kept.high is not None
    assert first.high is not None
    variance = first.first_variance / 400
    assert first.high == pytest.approx(1 + reach(planned_clock(0.05)) * math.sqrt(variance))
    assert kept.high == pytest.approx(1 + reach(4 * planned_clock(0.05)) * math.sqrt(variance))


def test_the_clock_of_yes_or_no_grows_with_the_odds() -> None:
    control, arm = converted(100, 200), converted(100, 200)
    found = difference(control, arm, ANY)
    variance = 0.25 / 199 * 2
    assert found.first_variance == pytest.approx(400 * variance / 0.5**2)
    doubled = difference(of([0.0, 2.0], times=100), of([0.0, 2.0], times=100), ANY)
    assert doubled.first_variance == pytest.approx(400 * 4 * variance), "an outcome of 2 is not yes or no"


def test_the_p_value_is_the_least_alpha_that_decides() -> None:
    control, arm = converted(200, 2_000), converted(280, 2_000)
    p = difference(control, arm, Rule(shoppers_planned=4_000)).p_value
    assert 0.0001 < p < 0.05
    for alpha, decided in ((p * 1.001, True), (p * 0.999, False)):
        # The clock must stay, which alpha changes as well.
        planned = round(4_000 * planned_clock(alpha) / planned_clock(0.05))
        assert difference(control, arm, Rule(alpha=alpha, shoppers_planned=planned)).decided == decided


def test_harm_is_one_side_of_the_interval_at_twice_alpha() -> None:
    control, arm, rule = converted(400, 4_000), converted(300, 4_000), Rule(shoppers_planned=8_000)
    found = harm(control, arm, rule)
    assert found.least is not None
    assert found.proved
    planned = round(8_000 * planned_clock(0.1) / planned_clock(0.05))
    wide = difference(control, arm, Rule(alpha=0.1, shoppers_planned=planned))
    assert wide.relative_high == pytest.approx(-found.least, rel=1e-4)
    for tolerated, proved in ((found.least - 0.001, True), (found.least + 0.001, False)):
        assert harm(control, arm, rule, harm_max=tolerated).proved == proved


def test_harm_of_a_metric_whose_lower_values_are_better() -> None:
    control, arm, rule = converted(300, 4_000), converted(450, 4_000), Rule(shoppers_planned=8_000)
    found = harm(control, arm, rule, lower_is_better=True)
    assert found.proved
    assert found.least is not None
    assert 0 < found.least < 0.5
    assert not harm(control, arm, rule, lower_is_better=True, harm_max=found.least + 0.001).proved
    assert harm(control, arm, rule, lower_is_better=True, harm_max=found.least - 0.001).proved
    assert not harm(control, arm, rule).proved


def test_the_covariate_mean_is_part_of_how_certain_a_relative_difference_is() -> None:
    """theta times the mean covariate is added to both values, so it cancels in a difference but not in a ratio."""
    random = np.random.default_rng(2)
    x = random.integers(0, 20, (2, 300)).astype(float)
    y = 2 + np.array([[1.0], [1.6]]) * x + random.normal(size=(2, 300))
    arms = [of(y[arm].tolist(), x=x[arm].tolist()) for arm in (0, 1)]
    rule = Rule(shoppers_planned=600)
    found = difference(arms[0], arms[1], rule)
    assert found.relative_low is not None
    assert found.relative_high is not None
    x_away = x - x.mean(axis=1, keepdims=True)
    theta = (x_away * y).sum() / (x_away**2).sum()
    adjusted = y - theta * (x - x.mean())
    shared = theta**2 * (x_away**2).sum() / 598 / 600
    control, arm = adjusted.mean(axis=1)
    for bound in (found.relative_low, found.relative_high):
        factor = 1 + bound
        variances = adjusted.var(axis=1, ddof=1) / 300
        each = max(variances, [variances.mean()] * 2, key=sum)
        error = math.sqrt(each[1] + factor**2 * each[0] + (1 - factor) ** 2 * shared)
        assert abs(arm - factor * control) == pytest.approx(reach(planned_clock(0.05)) * error, rel=1e-6)
    least = harm(arms[1], arms[0], rule).least
    assert least is not None
    assert harm(arms[1], arms[0], rule, harm_max=least - 1e-6).proved
    assert not harm(arms[1], arms[0], rule, harm_max=least + 1e-6).proved


def test_harm_keeps_the_first_variance() -> None:
    control, arm = of([0.0, 10.0], times=100), of([0.0, 8.0], times=100)
    rule = Rule(shoppers_planned=400)
    first = difference(control, arm, rule).first_variance
    assert first is not None
    later, now = (
        harm(control, arm, Rule(shoppers_planned=planned), kept) for planned, kept in ((400, first / 4), (100, first))
    )
    assert later == now != harm(control, arm, rule)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rule(alpha=0.0), "alpha: wanted a number between 0 and 1, found 0.0"),
        (lambda: Rule(shoppers_planned=0), "shoppers_planned: wanted at least 1, found 0"),
        (lambda: harm(Moments(), Moments(), Rule(), harm_max=-0.1), "harm_max: wanted at least 0, found -0.1"),
        (lambda: alpha_each(0.05, 0), "comparisons: wanted at least 1, found 0"),
    ],
)
def test_bad_settings_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
