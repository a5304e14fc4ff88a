"""Running sums over the shoppers of one arm, from which means, ratios and their variances follow.

A shopper's totals change as long as the experiment runs, so the sums take a shopper's old totals out and put the new
ones in. Each such step rounds each sum once. After m steps a sum differs from the exact one by at most m * 2**-53 of
the largest value it ever had: 1e-10 of that after a million steps. An order of a million that is refunded therefore
leaves an error of about 1e-4 in the sum of squares. A variance loses as many digits again as the squared mean exceeds
it.
"""

from collections.abc import Sequence
from typing import Self

from msgspec import Struct
from msgspec.structs import astuple


class Moments(Struct, gc=False):
    """Running sums over the shoppers of one arm, for one metric.

    Each shopper has three totals: `y`, the outcome (revenue, orders, clicks); `d`, what the outcome is divided by (1
    for a mean per shopper, the number of answers for click-through); and `x`, a covariate from before the first
    exposure (0 without one).

    >>> moments = Moments()
    >>> moments.add(0.0)
    >>> moments.add(20.0)
    >>> moments.replace(0.0, 1.0, 5.0, 1.0)  # the first shopper bought later
    >>> moments.n, moments.nonzero, moments.y, moments.yy
    (2, 2, 25.0, 425.0)

    Attributes:
        n: shoppers.
        nonzero: shoppers whose outcome is not 0.
        y, d, x: sums of the totals.
        yy, dd, xx, yd, yx, dx: sums of products of two totals.
    """

    n: int = 0
    nonzero: int = 0
    y: float = 0.0
    d: float = 0.0
    x: float = 0.0
    yy: float = 0.0
    dd: float = 0.0
    xx: float = 0.0
    yd: float = 0.0
    yx: float = 0.0
    dx: float = 0.0

    def add(self, y: float, d: float = 1.0, x: float = 0.0) -> None:
        """Add a shopper."""
        self.n += 1
        self.nonzero += y != 0
        self.y += y
        self.d += d
        self.x += x
        self.yy += y * y
        self.dd += d * d
        self.xx += x * x
        self.yd += y * d
        self.yx += y * x
        self.dx += d * x

    def remove(self, y: float, d: float = 1.0, x: float = 0.0) -> None:
        """Remove a shopper, whose totals must be as they were added.

        Raises:
            ValueError: there is no shopper.
        """
        if not self.n:
            raise ValueError("cannot remove a shopper: wanted at least 1 in the arm, found 0")
        self.n -= 1
        self.nonzero -= y != 0
        self.y -= y
        self.d -= d
        self.x -= x
        self.yy -= y * y
        self.dd -= d * d
        self.xx -= x * x
        self.yd -= y * d
        self.yx -= y * x
        self.dx -= d * x

    def replace(self, old_y: float, old_d: float, y: float, d: float = 1.0, x: float = 0.0) -> None:
        """Change a shopper's outcome and divisor; the covariate stays.

        Args:
            old_y, old_d: the totals so far.
            y, d: the new totals.
            x: the covariate, with which the shopper was added.
        """
        replace_each((self,), old_y, old_d, y, d, x)

    def merge(self, other: Self) -> None:
        """Add the sums over other shoppers."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def state(self) -> list[float]:
        """Return all sums, in the order of the attributes."""
        return list(astuple(self))

    @classmethod
    def from_state(cls, state: Sequence[float]) -> Self:
        """Return the sums that `state` gave.

        Raises:
            ValueError: it has another length.
        """
        wanted = len(cls.__struct_fields__)
        if len(state) != wanted:
            raise ValueError(f"moments: wanted {wanted} sums, found {len(state)}")
        n, nonzero, *sums = state
        return cls(int(n), int(nonzero), *sums)


def replace_each(found: Sequence[Moments], old_y: float, old_d: float, y: float, d: float, x: float) -> None:
    """Change a shopper's outcome and divisor in several sums; see `Moments.replace`."""
    by_y, by_d = y - old_y, d - old_d
    if by_y:
        nonzero, by_yy, by_yx = (y != 0) - (old_y != 0), y * y - old_y * old_y, by_y * x
        for one in found:
            one.nonzero += nonzero
            one.y += by_y
            one.yy += by_yy
            one.yx += by_yx
    if by_d:
        by_dd, by_dx = d * d - old_d * old_d, by_d * x
        for one in found:
            one.d += by_d
            one.dd += by_dd
            one.dx += by_dx
    if by_yd := y * d - old_y * old_d:
        for one in found:
            one.yd += by_yd
