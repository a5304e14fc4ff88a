"""Confidence intervals of ratios of sums over shoppers, corrected for skewness and for heavy tails."""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_normal: Final = NormalDist()
_steps_max: Final = 200
_freedom_max: Final = 1e6
"""Degrees of freedom from which on Student's distribution is taken for the normal one."""


class Estimate(NamedTuple):
    """A value and the bounds of its interval, in the reward's unit."""

    value: float
    low: float
    high: float


def interval(value: float, terms: Floats, level: float, pooled: float = 0.0) -> Estimate:
    """Return a value with its interval.

    `terms` are the value's linearised contributions of independent shoppers: the value minus the truth is about their
    mean. Corrections: *Hall's transformation* removes the skewness of the studentised mean, and *Student's
    quantile* has the degrees of freedom of the terms' variance, 2n / (kurtosis - 1): the variance of few large terms is
    itself hardly known.

    Args:
        terms: of at least two shoppers. Their mean is 0 except for rounding.
        level: the probability that the interval is to cover the truth with, such as 0.95.
        pooled: what the terms' second moment would be if it did not depend on their weights. If it is larger than
            theirs, the mean of both is taken: where no large weight has met a reward yet, terms seem too sure.

    Shapes:
        terms: (shoppers,)

    >>> [round(number, 4) for number in interval(0.5, np.array([-0.5, 0.5] * 50), 0.95)]
    [0.5, 0.4015, 0.5985]

    Source: P. Hall, "On the removal of skewness by transformation", JRSS B 54 (1992), the cubic transformation of a
    studentised mean; F. E. Satterthwaite, "An approximate distribution of estimates of variance components" (1946).
    """
    count = len(terms)
    centred = terms - terms.mean()
    squares = centred * centred
    found = float(squares.mean())
    second = max(found, (found + pooled) / 2)
    if second <= 0:
        return Estimate(value, value, value)
    skewness = float((squares * centred).mean()) / second**1.5
    kurtosis = float((squares * squares).mean()) / second**2
    freedom = 2 * count / max(kurtosis - 1, 2 * count / _freedom_max)
    quantile = student_quantile((1 + level) / 2, freedom)
    error = math.sqrt(second / (count - 1))
    return Estimate(
        value, value - error * _inverse(quantile, skewness, count), value - error * _inverse(-quantile, skewness, count)
    )


def standard_error(terms: Floats) -> float:
    """Return the standard error of the mean of independent terms.

    Shapes:
        terms: (shoppers,)
    """
    return float(np.std(terms)) / math.sqrt(max(1, len(terms) - 1))


def _inverse(quantile: float, skewness: float, count: int) -> float:
    """Return the studentised mean whose transformed value is the quantile."""
    root = math.sqrt(count)
    if abs(skewness) < 1e-9:
        return quantile
    return 3 * root / skewness * (math.cbrt(1 + skewness * (quantile / root - skewness / (6 * count))) - 1)


@lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's distribution.

    Args:
        probability: above 0.5 and below 1.
        freedom: degrees of freedom, above 0; need not be whole.

    >>> [round(student_quantile(0.975, freedom), 4) for freedom in (1, 2, 5.5, 30, 1e9)]
    [12.7062, 4.3027, 2.5019, 2.0423, 1.96]
    """
    point = _normal.inv_cdf(probability)
    if freedom >= _freedom_max:
        return point
    point += (point**3 + point) / (4 * freedom)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    for _ in range(_steps_max):  # Newton's steps: from the left they never pass the root (concave)
        density = scale * (1 + point * point / freedom) ** (-(freedom + 1) / 2)
        step = (probability - _student(point, freedom)) / density
        point = max(0.0, point + step)
        if abs(step) <= 1e-10 * (1 + point):
            break
    return point


def _student(point: float, freedom: float) -> float:
    """Return Student's distribution function at a point of at least 0."""
    return 1 - 0.5 * _beta(freedom / 2, 0.5, freedom / (freedom + point * point))


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22, Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    d = 1 / (1 - (a + b) * x / (a + 1))
    c, found = 1.0, d
    for m in range(1, _steps_max):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            found *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * found / a
