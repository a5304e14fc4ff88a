"""The difference of an arm from the control, as a confidence sequence: it holds at all times at once.

A metric's value is a ratio of sums over shoppers, `sum y / sum d`; with d = 1 it is a mean per shopper. Shoppers are
what was assigned, so variances are those between shoppers: of (y - value d) / mean d, the delta method.

A covariate x from before the first exposure takes out of both arms what differed before: the value falls by
theta (mean x of the arm - mean x of both). theta is one slope for both arms; it is used where it lowers the variance.

The variance per shopper of an arm counts as at least that of both arms pooled, if this makes the difference less
certain. A small arm that has had too few of the largest orders so far has a variance that is too low as well, and
would often seem worse; an arm without any outcome would have none.

Source: Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online controlled experiments by utilizing
pre-experiment data" (WSDM 2013), for the covariate and the delta method; Fieller, "Some problems in interval
estimation" (JRSS-B 1954), for the relative difference. The boundary: `learners.experiments.boundary`.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from learners.experiments.boundary import critical, p_value, planned_clock
from learners.experiments.moments import Moments

_noise: Final = 1e-9
"""A variance below this share of the squared value is what rounding leaves of 0."""


class Rule(Struct, frozen=True, kw_only=True):
    """When a difference is proved. Why these values: `benchmarks.experiments`.

    Attributes:
        alpha: probability that the interval ever misses the truth, both sides together.
        shoppers_planned: shoppers of both arms at which the interval is tightest.
        shoppers_min: least shoppers of each arm for an interval. Shoppers count by their part of the divisor: few who
            have most answers count as few (Kish's effective number, the squared sum of d over the sum of squares).
        nonzero_min: least shoppers with an outcome that the smaller arm would have if the arms were equal.
    """

    alpha: float = 0.05
    shoppers_planned: int = 20_000
    shoppers_min: int = 50
    nonzero_min: float = 10.0

    def __post_init__(self) -> None:
        """Raise ValueError if a value is out of range."""
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: wanted a number between 0 and 1, found {self.alpha}")
        if self.shoppers_planned < 1:
            raise ValueError(f"shoppers_planned: wanted at least 1, found {self.shoppers_planned}")


class Difference(Struct, frozen=True, kw_only=True):
    """The difference of an arm from the control. Numbers that cannot be told are None.

    Attributes:
        control_shoppers, arm_shoppers: shoppers of each.
        control, arm: values of the metric, as they are.
        difference: arm minus control, with the covariate taken out.
        low, high: its interval; None without enough data.
        relative: `difference` as a share of the control's value.
        relative_low, relative_high: its interval; None if the control's value is not clearly above 0.
        p_value: least alpha at which the difference would be proved at this time; 1 without enough data.
        decided: whether the interval excludes 0.
        variance_ratio: variance of the difference as a share of what it is without the covariate.
        first_variance: what to keep and give to later calls.
    """

    control_shoppers: int
    arm_shoppers: int
    control: float | None = None
    arm: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    p_value: float = 1.0
    decided: bool = False
    variance_ratio: float = 1.0
    first_variance: float | None = None


class Harm(Struct, frozen=True):
    """Whether an arm is proved to be worse than the control by more than is tolerated.

    Attributes:
        proved: whether it is.
        least: the least relative harm that is proved, which may be below 0 (a gain cannot be excluded); None without
            enough data, or if the control's value is not clearly above 0.
    """

    proved: bool = False
    least: float | None = None


def difference(control: Moments, arm: Moments, rule: Rule, first_variance: float | None = None) -> Difference:
    """Return the difference of an arm from the control.

    >>> control, arm = Moments(), Moments()
    >>> for shopper in range(4_000):
    ...     control.add(float(shopper % 20 == 0))
    ...     arm.add(float(shopper % 16 == 0))
    >>> found = difference(control, arm, Rule(shoppers_planned=8_000))
    >>> round(found.difference, 4), round(found.low, 4), round(found.high, 4), found.decided
    (0.0125, -0.0031, 0.0281, False)

    Args:
        first_variance: the `first_variance` of the first call that had one; None until then.
    """
    pair = pair_of(control, arm)
    if pair is None:
        return Difference(control_shoppers=control.n, arm_shoppers=arm.n)
    gain = pair.arm - pair.control
    found = Difference(
        control_shoppers=control.n,
        arm_shoppers=arm.n,
        control=control.y / control.d,
        arm=arm.y / arm.d,
        difference=gain,
        relative=gain / pair.control if pair.control > 0 else None,
        first_variance=first_variance,
    )
    if not pair.enough(rule):
        return found
    error, first = math.sqrt(pair.variance(1.0)), first_variance or pair.shopper_variance
    clock = pair.clock(first, rule)
    reach = float(critical(np.asarray(clock), rule.alpha))
    relative_low, relative_high = pair.relative(reach) or (None, None)
    return replace(
        found,
        low=gain - reach * error,
        high=gain + reach * error,
        relative_low=relative_low,
        relative_high=relative_high,
        p_value=p_value(gain / error, clock),
        decided=abs(gain) > reach * error,
        variance_ratio=pair.variance_ratio,
        first_variance=first,
    )


def harm(
    control: Moments,
    arm: Moments,
    rule: Rule,
    first_variance: float | None = None,
    *,
    harm_max: float = 0.0,
    lower_is_better: bool = False,
) -> Harm:
    """Return whether an arm is proved to be worse than is tolerated, with probability `rule.alpha` of an error.

    The test is one-sided: all of alpha is for the harm.

    >>> control, arm = Moments(), Moments()
    >>> for shopper in range(4_000):
    ...     control.add(float(shopper % 10 == 0))
    ...     arm.add(float(shopper % 20 == 0))
    >>> found = harm(control, arm, Rule(shoppers_planned=8_000), harm_max=0.2)
    >>> found.proved, round(found.least, 3)
    (True, 0.374)

    Args:
        first_variance: as for `difference`.
        harm_max: tolerated relative harm, as a share of the control's value.
        lower_is_better: whether a higher value is worse.
    """
    if harm_max < 0:
        raise ValueError(f"harm_max: wanted at least 0, found {harm_max}")
    pair = pair_of(control, arm)
    if pair is None or pair.control <= 0 or not pair.enough(rule):
        return Harm()
    clock = pair.clock(first_variance or pair.shopper_variance, rule)
    reach = float(critical(np.asarray(clock), 2 * rule.alpha))
    tolerated = 1 + harm_max if lower_is_better else 1 - harm_max
    worse = pair.arm - tolerated * pair.control
    if not lower_is_better:
        worse = -worse
    bounds = pair.relative(reach)
    least = None if bounds is None else bounds[0] if lower_is_better else -bounds[1]
    return Harm(worse > reach * math.sqrt(pair.variance(tolerated)), least)


def alpha_each(alpha: float, comparisons: int) -> float:
    """Return the alpha of each of several comparisons, so that all hold together with probability 1 - alpha.

    Bonferroni: over the arms for the primary metric, over arms and segments for segments. It needs no assumption about
    how comparisons depend on each other, and all of them stay confidence sequences. Secondary metrics are shown at the
    primary's alpha and decide nothing.

    >>> alpha_each(0.05, 2)
    0.025
    """
    if comparisons < 1:
        raise ValueError(f"comparisons: wanted at least 1, found {comparisons}")
    return alpha / comparisons


class _Arm(NamedTuple):
    """An arm: shoppers, value, and of its shoppers' scores (y - value d) / mean d and covariates the moments."""

    n: int
    value: float
    variance: float
    covariance: float
    x_mean: float
    x_variance: float


def _arm(sums: Moments) -> _Arm | None:
    """Return an arm; None with fewer than two shoppers or without a divisor."""
    n = sums.n
    if n < 2 or sums.d <= 0:
        return None
    value, d_mean = sums.y / sums.d, sums.d / n

    def product(sum_ab: float, sum_a: float, sum_b: float) -> float:
        return (sum_ab - sum_a * sum_b / n) / (n - 1)

    yy, yd, dd = (
        product(sums.yy, sums.y, sums.y), product(sums.yd, sums.y, sums.d), product(sums.dd, sums.d, sums.d),
    )  # fmt: skip
    yx, dx = product(sums.yx, sums.y, sums.x), product(sums.dx, sums.d, sums.x)
    return _Arm(
        n, value, max(0.0, (yy - 2 * value * yd + value * value * dd) / (d_mean * d_mean)), (yx - value * dx) / d_mean,
        sums.x / n, max(0.0, product(sums.xx, sums.x, sums.x)),
    )  # fmt: skip


class Pair(NamedTuple):
    """Control and arm, with the covariate taken out.

    Attributes:
        control_variance, arm_variance: variances of the values, apart from what both share.
        shared_variance: variance of what is added to both values: theta times the covariate's mean.
        variance_ratio: as in `Difference`.
        without: of outcomes that are yes or no, the share of shoppers with no; of others 1.
        effective: the effective number of shoppers of the arm that has fewer.
        nonzero: shoppers with an outcome that the smaller arm would have if the arms were equal.
    """

    control_shoppers: int
    arm_shoppers: int
    control: float
    arm: float
    control_variance: float
    arm_variance: float
    shared_variance: float
    variance_ratio: float
    without: float
    effective: float
    nonzero: float

    def variance(self, factor: float) -> float:
        """Return the variance of the arm's value minus `factor` times the control's."""
        return (
            self.arm_variance + factor * factor * self.control_variance
            + (1 - factor) * (1 - factor) * self.shared_variance
        )  # fmt: skip

    @property
    def shoppers(self) -> int:
        """The shoppers of both arms."""
        return self.control_shoppers + self.arm_shoppers

    @property
    def shopper_variance(self) -> float:
        """The variance of the difference times the number of shoppers; of yes or no, as the clock needs it."""
        return self.shoppers * self.variance(1.0) / (self.without * self.without)

    def enough(self, rule: Rule) -> bool:
        """Return whether there are enough data for an interval."""
        scale = max(self.control * self.control, self.arm * self.arm)
        return (
            self.effective >= rule.shoppers_min
            and self.nonzero >= rule.nonzero_min
            and self.variance(1.0) * self.shoppers > _noise * scale
        )

    def clock(self, first_variance: float, rule: Rule) -> float:
        """Return r, see `learners.experiments.boundary`."""
        planned = planned_clock(rule.alpha) / rule.shoppers_planned
        return planned * self.shoppers * self.shopper_variance / first_variance

    def relative(self, reach: float) -> tuple[float, float] | None:
        """Return the relative differences that are within `reach` standard errors; None if they have no bounds."""
        square = reach * reach
        a = self.control * self.control - square * (self.control_variance + self.shared_variance)
        if a <= 0 or self.control <= 0:
            return None
        b = self.arm * self.control - square * self.shared_variance
        c = self.arm * self.arm - square * (self.arm_variance + self.shared_variance)
        root = math.sqrt(max(0.0, b * b - a * c))
        return (b - root) / a - 1, (b + root) / a - 1


def pair_of(control: Moments, arm: Moments) -> Pair | None:
    """Return both arms; None without two shoppers and a divisor in each."""
    zero, one = _arm(control), _arm(arm)
    if zero is None or one is None:
        return None
    n = zero.n + one.n
    freedom_0, freedom_1 = (zero.n - 1) / (n - 2), (one.n - 1) / (n - 2)
    x_variance = freedom_0 * zero.x_variance + freedom_1 * one.x_variance
    theta = (freedom_0 * zero.covariance + freedom_1 * one.covariance) / x_variance if x_variance > 0 else 0.0
    plain = _variances(zero, one, 0.0, freedom_0, freedom_1)
    found = _variances(zero, one, theta, freedom_0, freedom_1)
    if sum(found) >= sum(plain):
        theta, found = 0.0, plain
    x_mean = (zero.n * zero.x_mean + one.n * one.x_mean) / n
    return Pair(
        zero.n, one.n, zero.value - theta * (zero.x_mean - x_mean), one.value - theta * (one.x_mean - x_mean),
        *found, theta * theta * x_variance / n, sum(found) / sum(plain) if sum(plain) else 1.0,
        _without(control, arm),
        min(sums.d * sums.d / sums.dd for sums in (control, arm)),
        (control.nonzero + arm.nonzero) * (min(zero.n, one.n) / n),
    )  # fmt: skip


def _without(control: Moments, arm: Moments) -> float:
    """Return the share of shoppers whose outcome is no; 1 if outcomes are not all 0 or 1, whose sums are exact."""
    for sums in (control, arm):
        if sums.yy != sums.y or not sums.dd == sums.d == sums.n:
            return 1.0
    return 1 - (control.y + arm.y) / (control.n + arm.n)


def _variances(zero: _Arm, one: _Arm, theta: float, freedom_0: float, freedom_1: float) -> tuple[float, float]:
    """Return the variances of both values: each arm's own, or the pooled ones if their sum is larger."""
    each = [max(0.0, arm.variance - 2 * theta * arm.covariance + theta * theta * arm.x_variance) for arm in (zero, one)]
    pooled = freedom_0 * each[0] + freedom_1 * each[1]
    own, alike = (each[0] / zero.n, each[1] / one.n), (pooled / zero.n, pooled / one.n)
    return max(own, alike, key=sum)
