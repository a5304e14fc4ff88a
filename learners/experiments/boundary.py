"""The boundary of a confidence sequence: how far an estimate may be from the truth, at all times at once.

An estimate D_t from n shoppers has a variance V_t. S_t = n D_t is a sum over shoppers, and Q_t = n**2 V_t its variance.
If every shopper's outcome were complete at once, S would move as a Brownian motion W does by the clock Q, and the
probability that it ever leaves the boundary of Robbins' normal mixture would be at most alpha: on each side,

    |S_t - E S_t| <= z sqrt(Q_t),   z**2 = 2 (1 + 1/r) log(1/2 + sqrt(1 + r) / alpha),   r = eta**2 Q_t.

eta decides when the boundary is tightest. It is set so that r reaches `planned_clock` at the planned number of
shoppers, if Q grows as their number does from the first estimate on.

*Outcomes that grow.* A shopper's outcome y_i(t) goes on changing after the shopper entered, so the increments of S
are not independent and no supermartingale is at hand. What holds instead: let both arms have the same outcomes, however
shoppers were assigned, and let the assignments of shoppers be independent of each other and of everything else. Given
the outcomes, with m(t) their mean, S_t is a sum over the shoppers of t of w_i (y_i(t) - m(t)), where the w_i are
independent with mean 0 and equal variances. Assume

    (A)  for s < t, the sum over the shoppers i of s of (y_i(s) - m(s)) (y_i(t) - y_i(s)) is at least 0:

who had more so far does not gain less later. Then Cov(S_s, S_t) >= Q_s, so the correlation of S_s and S_t is at least
sqrt(Q_s / Q_t), which is that of W(Q_s) and W(Q_t); and Q never falls (Cauchy-Schwarz). By Slepian's inequality, of two
Gaussian processes of mean 0 and with equal variances, that with the higher correlations exceeds a boundary with a lower
or equal probability. It is about one side, hence alpha / 2 for each side. So the boundary holds for the Gaussian
process with the covariances of S, and for S as far as its jumps are small beside sqrt(Q): asymptotically, in the sense
of the source. That needs enough shoppers with an outcome (`learners.experiments.difference.Rule`), and an eta that does
not depend on what comes later: the variance of the first estimate is kept.

*Yes or no.* An outcome of 0 or 1 that is never lost does not gain twice, so (A) fails. But its covariance is known:
with n shoppers of whom a share m has it, Cov(S_s, S_t) is proportional to n_s m_s (1 - m_t). So the correlation is that
of W by the clock n m / (1 - m), which is proportional to Q / (1 - m)**2: that clock is used, and Slepian is not needed.

*Taken back.* (A) also fails where gains are taken back, as by refunds: Q may fall. For that there is no proof, only the
simulation: `benchmarks.experiments` has refunds, outcomes of yes or no, gains that are independent (the worst case in
which (A) holds), and gains that are not.

Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (Annals of Statistics 2024), the boundaries by a normal mixture for one and two sides; Robbins, "Statistical
methods related to the law of the iterated logarithm" (Annals of Mathematical Statistics 1970); Slepian, "The one-sided
barrier problem for Gaussian noise" (Bell System Technical Journal 1962). For one side the first has 1 where this has
1/2: the mixture over positive drifts is 2 (1 + r)**-(1/2) exp(x**2 / 2) Phi(x) with x = z sqrt(r / (1 + r)), and
1 - Phi(x) <= exp(-x**2 / 2) / 2.

All arithmetic is the same on every processor.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from learners.parts import portable

Floats = NDArray[np.float64]


@cache
def planned_clock(alpha: float) -> float:
    """Return the r at which the boundary is tightest, in units of the estimate.

    >>> round(planned_clock(0.05), 3)
    8.212

    Args:
        alpha: error probability of both sides together.
    """
    least = clock = -2 * _log(alpha)
    for _ in range(40):  # each step leaves 1 / (1 + clock) of the error
        clock = least + _log(1 + clock)
    return clock


def critical(clock: Floats, alpha: float) -> Floats:
    """Return how many standard errors an estimate may be from the truth, on each side.

    At two of alpha it holds for one side alone with probability 1 - alpha.

    >>> critical(np.array([0.5, planned_clock(0.05), 100.0]), 0.05).round(3).tolist()
    [4.395, 3.038, 3.274]

    Args:
        clock: r, above 0.
        alpha: error probability of both sides together.
    """
    squared = 2 * (1 + 1 / clock) * portable.log(0.5 + np.sqrt(1 + clock) / alpha)
    return np.asarray(np.sqrt(squared))


def p_value(z: float, clock: float) -> float:
    """Return the least alpha at which an estimate that is z standard errors from 0 proves that the truth is not 0.

    It is valid at any one time that is chosen by looking, as the least one so far is.

    >>> round(p_value(3.04, planned_clock(0.05)), 3), p_value(1.0, 8.0)
    (0.05, 1.0)
    """
    half_square = min(700.0, z * z * clock / (1 + clock) / 2)
    evidence = float(portable.exp(np.asarray(half_square))) - 0.5
    return min(1.0, float(np.sqrt(1 + clock)) / evidence)


def _log(value: float) -> float:
    return float(portable.log(np.asarray(value)))
