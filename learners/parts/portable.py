"""Arithmetic that gives the same bits on every processor, for what is part of a state.

The exponential and the logarithm of numpy differ in their last bits between processors (with and without AVX-512), and
so do the matrix products of BLAS between its kernels. These functions use only operations that IEEE 754 rounds
correctly, in a fixed order, or sums that need no rounding, in any order. They take longer, so what is no part of a
state uses numpy's.
"""

import hashlib
import math
import struct
import unicodedata
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
"""The leading bits of log 2: its products with integers below 2**20 are exact."""
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_LN2: Final = float.fromhex("0x1.62e42fefa39efp-1")
_LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
_EXP: Final = [1 / math.factorial(n) for n in range(13, -1, -1)]
"""The Taylor series of exp; beyond, |x| <= log(2) / 2 leaves less than half a unit in the last place."""
_LOG: Final = [1 / (2 * n + 1) for n in range(11, -1, -1)]
"""The series of atanh(s) / s in s * s, for s between (1 - sqrt(2)) / (1 + sqrt(2)) and its negative."""
_exp_min: Final = -700.0
"""Smaller arguments give the same, about 1e-304, so that no result is subnormal."""


def exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return e to the power of each value, within two units in the last place.

    Args:
        values: finite, at most 700.

    >>> bool(abs(exp(np.array([0.5])) - math.exp(0.5))[0] < 1e-15), exp(np.array([0.0])).tolist()
    (True, [1.0])
    """
    bounded = np.maximum(values, _exp_min)
    power = np.rint(bounded * _LOG2_E)
    rest = (bounded - power * _LN2_HIGH) - power * _LN2_LOW
    return np.asarray(np.ldexp(_polynomial(_EXP, rest), power.astype(np.int32)))


def power_of_two(exponent: float) -> float:
    """Return 2 to the power of a number, within two units in the last place.

    Args:
        exponent: at most 1,000; below -1,000 the result is 0.

    >>> power_of_two(-3.0), abs(power_of_two(0.5) - math.sqrt(2)) < 1e-15
    (0.125, True)
    """
    if exponent < -1_000:
        return 0.0
    power = round(exponent)
    rest, found = (exponent - power) * _LN2, _EXP[0]
    for coefficient in _EXP[1:]:
        found = found * rest + coefficient  # two roundings: Python fuses nothing
    return math.ldexp(found, power)


def log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the natural logarithm of each value, within two units in the last place of the result or of 1.

    Args:
        values: finite and above 0.

    >>> bool(abs(log(np.array([0.3])) - math.log(0.3))[0] < 1e-15), log(np.array([1.0])).tolist()
    (True, [0.0])
    """
    mantissa, power = np.frexp(values)
    low = mantissa < math.sqrt(0.5)
    mantissa, power = np.where(low, 2 * mantissa, mantissa), power - low
    part = (mantissa - 1) / (mantissa + 1)
    return np.asarray(power * _LN2_HIGH + (2 * part * _polynomial(_LOG, part * part) + power * _LN2_LOW))


def product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix product of finite operands; one may be a vector.

    Two matrices are rounded before to so few bits that no sum of their products is rounded, so BLAS may add in any
    order: for sums of n products, to (53 - log2 n) / 2 bits of the largest value, 22 to 24 for a few dozen to a few
    hundred products. A vector is multiplied in a fixed order, which is quicker.

    >>> product(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])).tolist()
    [[11.0]]
    >>> product(np.array([1.0, 2.0]), np.array([[3.0], [4.0]])).tolist()
    [11.0]
    """
    if left.ndim == 1 or right.ndim == 1:
        letters = "b,bc->c" if left.ndim == 1 else "ab,b->a"
        return np.asarray(np.einsum(letters, left, right, optimize=False))  # with optimize=True it would call BLAS
    bits = (53 - (left.shape[1] - 1).bit_length()) // 2
    return np.asarray(_rounded(left, bits) @ _rounded(right, bits))


def solved(square: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the solution of a symmetric positive definite system, by elimination in a fixed order.

    Shapes: square (N, N), targets (N, T), result (N, T).

    >>> solved(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0], [3.0]])).tolist()
    [[1.0], [1.0]]
    """
    size = len(square)
    left, right = square.copy(), targets.copy()
    for k in range(size):
        factors = left[k + 1 :, k] / left[k, k]
        left[k + 1 :, k + 1 :] -= factors[:, None] * left[k, k + 1 :]
        right[k + 1 :] -= factors[:, None] * right[k]
    for k in range(size - 1, -1, -1):
        right[k] /= left[k, k]
        right[:k] -= left[:k, k, None] * right[k]
    return right


def _rounded(values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Return values rounded to multiples of 2**-bits of the power of two above the largest."""
    largest = max(values.max(initial=0.0), -values.min(initial=0.0))
    shift = math.ldexp(1.5, math.frexp(largest)[1] - bits + 52)  # a sum as large as this has no finer bits
    moved = values + shift
    moved -= shift
    return moved


@cache
def platform() -> str:
    """Return what digests still depend on: the C library's exponential and logarithm, `sum`, and Unicode's tables.

    Two processes can be expected to give equal digests if this is equal. The C library's functions are used where an
    event is learned in a few microseconds (`learners.parts.regression`), Unicode's tables where names are split into
    words (`learners.parts.names`).

    >>> platform().split()[0::2]
    ['libm', 'unicode']
    """
    points = [(n + 0.5) / 4_000 for n in range(4_000)]
    values = [f(x) for x in points for f in (lambda x: math.exp(40 * x - 20), math.log, math.log1p)]
    values.append(sum([0.1] * 10))  # Python 3.12 and later add floats without loss
    found = hashlib.sha256(struct.pack(f"<{len(values)}d", *values)).hexdigest()[:8]
    return f"libm {found} unicode {unicodedata.unidata_version}"


def _polynomial(coefficients: list[float], at: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.full_like(at, coefficients[0])
    for coefficient in coefficients[1:]:
        found *= at
        found += coefficient
    return found
