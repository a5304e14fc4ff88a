"""Power: which effect an experiment can prove, and how long it takes to prove a wished one.

An effect counts as provable at a number of shoppers if the interval excludes 0 at that number with a probability of
80 %. The probability that it does so by then, at some time, is a few per cent higher.

Both follow from the variance per shopper as of now, which is uncertain. Its relative standard error is estimated as if
outcomes were 0 for most shoppers and log-normal for the others; outcomes of one size, such as 0 and 1, are a special
case. With n shoppers who have an outcome, and q the mean of their squared outcomes over the squared mean, it is
q**2 / sqrt(n). Not included: the outcomes of a shopper grow, so the variance per shopper does as well.

Source: as for `learners.experiments.difference`; the power is that of a normal estimate against the boundary's value.
"""

import math
from typing import Final

import numpy as np
from msgspec import Struct

from learners.experiments.boundary import critical
from learners.experiments.difference import Pair, Rule, pair_of
from learners.experiments.moments import Moments

_power_quantile: Final = 0.8416212335729143
"""Of the standard normal distribution, at 80 %."""
_shoppers_max: Final = 2.0**40
_days_max: Final = 36_500.0


class Detectable(Struct, frozen=True):
    """The least effect that can be proved.

    Attributes:
        absolute: in units of the metric.
        relative: as a share of the control's value; None if that is not above 0.
    """

    absolute: float
    relative: float | None


class DaysLeft(Struct, frozen=True):
    """How long it takes until an effect can be proved.

    Attributes:
        shoppers: shoppers of both arms that are needed, those so far included.
        days: time until then; 0 if there are enough.
        days_low, days_high: the same if the variance is two standard errors lower or higher; `days_high` is None if
            the variance is not known to a factor of 2.
    """

    shoppers: float
    days: float
    days_low: float
    days_high: float | None


def detectable(
    control: Moments, arm: Moments, rule: Rule, first_variance: float | None = None, shoppers: float | None = None
) -> Detectable | None:
    """Return the least effect that can be proved; None without enough data for an interval.

    >>> control, arm = Moments(), Moments()
    >>> for shopper in range(2_000):
    ...     control.add(float(shopper % 20 == 0))
    ...     arm.add(float(shopper % 20 == 1))
    >>> now = detectable(control, arm, Rule(shoppers_planned=20_000))
    >>> later = detectable(control, arm, Rule(shoppers_planned=20_000), shoppers=20_000)
    >>> round(now.relative, 2), round(later.relative, 2)
    (0.58, 0.24)

    Args:
        first_variance: as for `learners.experiments.difference.difference`.
        shoppers: of both arms, in the proportion of those so far; None means those so far.
    """
    pair = pair_of(control, arm)
    if pair is None or not pair.enough(rule):
        return None
    return _detectable(pair, rule, first_variance, shoppers or pair.shoppers, 1.0)


def days_left(
    control: Moments,
    arm: Moments,
    rule: Rule,
    effect: float,
    shoppers_per_day: float,
    first_variance: float | None = None,
    *,
    is_relative: bool = True,
) -> DaysLeft | None:
    """Return how long it takes until an effect can be proved.

    None if that cannot be told: without enough data for an interval, without new shoppers, for an effect of 0, for a
    relative one where the control's value is not above 0, or if it takes longer than a hundred years.

    >>> control, arm = Moments(), Moments()
    >>> for shopper in range(2_000):
    ...     control.add(float(shopper % 20 == 0))
    ...     arm.add(float(shopper % 20 == 1))
    >>> found = days_left(control, arm, Rule(shoppers_planned=20_000), 0.24, 1_000.0)
    >>> round(found.shoppers), round(found.days), round(found.days_low), round(found.days_high)
    (19874, 16, 13, 19)

    Args:
        effect: wished effect, of either sign.
        shoppers_per_day: new shoppers of both arms together.
        first_variance: as for `learners.experiments.difference.difference`.
        is_relative: whether the effect is a share of the control's value, not in units of the metric.
    """
    pair = pair_of(control, arm)
    if pair is None or not pair.enough(rule) or shoppers_per_day <= 0 or (is_relative and pair.control <= 0):
        return None
    wished = abs(effect) * (pair.control if is_relative else 1.0)
    error = 2 * _variance_error(control, arm)
    needed = _shoppers(pair, rule, first_variance, wished, 1.0)
    low = _shoppers(pair, rule, first_variance, wished, 1 / (1 + error))
    high = _shoppers(pair, rule, first_variance, wished, 1 + error) if error <= 1 else None
    if needed is None or low is None:
        return None

    def days(shoppers: float) -> float:
        return max(0.0, shoppers - pair.shoppers) / shoppers_per_day

    if days(needed) > _days_max:
        return None
    return DaysLeft(needed, days(needed), days(low), None if high is None else days(high))


def _detectable(
    pair: Pair, rule: Rule, first_variance: float | None, shoppers: float, variance_factor: float
) -> Detectable:
    """Return the least effect at a number of shoppers, if variances are a multiple of what they are now."""
    growth = shoppers / pair.shoppers
    clock = pair.clock(first_variance or pair.shopper_variance, rule) * growth
    error = math.sqrt(pair.variance(1.0) * variance_factor / growth)
    least = (float(critical(np.asarray(clock), rule.alpha)) + _power_quantile) * error
    return Detectable(least, least / pair.control if pair.control > 0 else None)


def _shoppers(
    pair: Pair, rule: Rule, first_variance: float | None, wished: float, variance_factor: float
) -> float | None:
    """Return the number of shoppers at which an effect can be proved, by bisection; None if it is too large."""

    def is_provable(shoppers: float) -> bool:
        return _detectable(pair, rule, first_variance, shoppers, variance_factor).absolute <= wished

    low, high = 1.0, _shoppers_max
    if not is_provable(high):
        return None
    while high - low > 0.001 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_provable(middle) else (middle, high)
    return high


def _variance_error(control: Moments, arm: Moments) -> float:
    """Return the relative standard error of the variance per shopper."""
    nonzero, y, yy = control.nonzero + arm.nonzero, control.y + arm.y, control.yy + arm.yy
    return math.inf if y == 0 else (nonzero * yy / (y * y)) ** 2 / math.sqrt(nonzero)
