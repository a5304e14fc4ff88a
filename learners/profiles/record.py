"""The record of one shopper: the running visit, and what earlier visits and orders have left.

What was done in a visit is kept apart until the visit is over, so that it can move when its session turns out to be
another shopper's.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

import msgspec
from msgspec import Struct, field

day_ms: Final = 86_400_000
tastes_full: Final = 128
"""Tastes in one visit, or left by earlier ones, above which the weakest of each kind are dropped."""
kept_of_kind: Final = 16
"""Tastes of one kind that are kept then; there are seven kinds, so that less than `tastes_full` are left."""


class Taste(Struct, gc=False, array_like=True):
    """How much a shopper turns to one value of a kind: a category, a price band, an hour.

    Attributes:
        weight: of the evidence, a power of two for each half-life since the decay began.
        count: pieces of evidence.
        since_ms: the shop's time of the first one.
    """

    weight: float
    count: int
    since_ms: int


Tastes = dict[str, Taste]
"""Tastes by kind and value, joined as `kind=value`."""


class Level(Struct, gc=False, array_like=True):
    """A mean over weighted evidence: its sum, the weights, the pieces of evidence, and since when there is some."""

    total: float = 0.0
    weight: float = 0.0
    count: int = 0
    since_ms: int = 0

    def add(self, value: float, weight: float, time_ms: int) -> None:
        """Add a piece of evidence."""
        self.total += value * weight
        self.weight += weight
        self.count += 1
        self.since_ms = self.since_ms or time_ms

    def join(self, other: "Level") -> None:
        """Add the evidence of another one."""
        self.total += other.total
        self.weight += other.weight
        self.count += other.count
        self.since_ms = min(self.since_ms or other.since_ms, other.since_ms or self.since_ms)


class Visit(Struct, gc=False, array_like=True):
    """A visit. `own_ms` is by the sender's clock; `promoted` says that a promotion was followed."""

    session: str
    started_ms: int
    newest_ms: int
    own_ms: int
    events: int = 0
    views: int = 0
    carts: int = 0
    searches: int = 0
    orders: int = 0
    promoted: bool = False
    device: str = ""
    prices: Level = field(default_factory=Level)
    tastes: Tastes = field(default_factory=dict)

    def join(self, other: Self) -> int:
        """Add what was done in the same visit under another name; return how many tastes both had."""
        self.started_ms = min(self.started_ms, other.started_ms)
        self.newest_ms, self.own_ms = max(self.newest_ms, other.newest_ms), max(self.own_ms, other.own_ms)
        self.events, self.views, self.carts = (
            self.events + other.events, self.views + other.views, self.carts + other.carts,
        )  # fmt: skip
        self.searches, self.orders = self.searches + other.searches, self.orders + other.orders
        self.promoted, self.device = self.promoted or other.promoted, self.device or other.device
        self.prices.join(other.prices)
        return joined(self.tastes, other.tastes)


class Purchases(Struct, gc=False, array_like=True):
    """A shopper's orders. Amounts are in the shop's currency, without what was refunded; gaps are in days.

    Attributes:
        promoted: orders with a coupon, or after a promotion was followed.
        lines: bought lines of items whose usual price was known; `lines_below` of them cost clearly less.
        gaps: gaps between two orders; `gap_mean` is their mean, `gap_squares` the sum of squared deviations.
    """

    first_ms: int
    newest_ms: int
    orders: int = 0
    units: float = 0.0
    money: float = 0.0
    refunded: float = 0.0
    promoted: int = 0
    lines: int = 0
    lines_below: int = 0
    gaps: int = 0
    gap_mean: float = 0.0
    gap_squares: float = 0.0

    def order(self, time_ms: int, *, promoted: bool) -> None:
        """Count an order."""
        if self.orders:
            gap = max(0, time_ms - self.newest_ms) / day_ms
            self.gaps += 1
            off = gap - self.gap_mean
            self.gap_mean += off / self.gaps
            self.gap_squares += off * (gap - self.gap_mean)
        self.orders += 1
        self.promoted += promoted
        self.newest_ms = max(self.newest_ms, time_ms)

    def take_back(self, money: float, units: float, orders: int, promoted: int) -> None:
        """Take back what was refunded; a refund of an order that is not remembered may be of more than is known."""
        taken = min(money, self.money)
        self.money, self.refunded = self.money - taken, self.refunded + money
        self.units = max(0.0, self.units - units)
        self.orders, self.promoted = self.orders - orders, self.promoted - promoted


class Known(Struct, gc=False, array_like=True):
    """What is known of a shopper. Counts, prices and tastes are those of visits that are over.

    Attributes:
        since_ms, newest_ms: the shop's time of the first and of the newest event.
        refunds: refunds, whether their orders are remembered or not.
    """

    since_ms: int
    newest_ms: int
    visits: int = 0
    views: int = 0
    carts: int = 0
    searches: int = 0
    refunds: int = 0
    prices: Level = field(default_factory=Level)
    tastes: Tastes = field(default_factory=dict)
    visit: Visit | None = None
    purchases: Purchases | None = None

    def end_visit(self) -> int:
        """Add the running visit to those that are over; return by how many the tastes became fewer."""
        visit, self.visit = self.visit, None
        if visit is None:
            return 0
        self.visits += 1
        self.views, self.carts = self.views + visit.views, self.carts + visit.carts
        self.searches += visit.searches
        self.prices.join(visit.prices)
        return joined(self.tastes, visit.tastes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left once its only visit was another shopper's."""
        return self.visit is None and not self.visits and self.purchases is None

    @property
    def is_priced(self) -> bool:
        """Whether prices that the shopper turned to can be compared with usual ones."""
        return self.prices.count > 0 or (self.visit is not None and self.visit.prices.count > 0)

    @property
    def size(self) -> int:
        """The number of tastes."""
        return len(self.tastes) + (len(self.visit.tastes) if self.visit else 0)

    def all_tastes(self) -> Mapping[str, Taste]:
        """Return the tastes with those of the running visit."""
        if self.visit is None or not self.visit.tastes:
            return self.tastes
        found = dict(self.tastes)
        for key, more in self.visit.tastes.items():
            had = found.get(key)
            found[key] = (
                Taste(had.weight + more.weight, had.count + more.count, min(had.since_ms, more.since_ms))
                if had
                else more
            )
        return found

    def scale(self, factor: float) -> None:
        """Multiply all weights by a factor."""
        for tastes in (self.tastes, self.visit.tastes if self.visit else {}):
            for taste in tastes.values():
                taste.weight *= factor
        for level in (self.prices, self.visit.prices if self.visit else Level()):
            level.total, level.weight = level.total * factor, level.weight * factor


def joined(tastes: Tastes, more: Tastes) -> int:
    """Add tastes to others; return by how many both together became fewer."""
    before = len(tastes) + len(more)
    for key, taste in more.items():
        had = tastes.get(key)
        if had is None:
            tastes[key] = taste
        else:
            had.weight += taste.weight
            had.count += taste.count
            had.since_ms = min(had.since_ms, taste.since_ms)
    if len(tastes) > tastes_full:
        trim(tastes)
    return before - len(tastes)


def trim(tastes: Tastes) -> int:
    """Drop the weakest tastes of each kind that has too many; return how many.

    >>> tastes = {f"hour={hour}": Taste(1.0 + hour, 1, 0) for hour in range(20)}
    >>> trim(tastes), list(tastes)[:2]
    (4, ['hour=4', 'hour=5'])
    """
    kinds: dict[str, list[str]] = {}
    for key in tastes:
        kinds.setdefault(key[: key.index("=")], []).append(key)
    weakest = [
        key
        for keys in kinds.values()
        for key in sorted(keys, key=lambda key: tastes[key].weight)[: max(0, len(keys) - kept_of_kind)]
    ]
    for key in weakest:
        del tastes[key]
    return len(weakest)


def scalars(known: Known) -> list[Any]:
    """Return a record without its tastes, for a state."""
    found = msgspec.to_builtins(msgspec.structs.replace(known, tastes={}, visit=None))
    visit = None if known.visit is None else msgspec.to_builtins(msgspec.structs.replace(known.visit, tastes={}))
    return [found, visit]


def from_scalars(found: list[Any], past: Tastes, running: Tastes) -> Known:
    """Return a record as it was when `scalars` was taken, with its tastes."""
    known = msgspec.convert(found[0], Known)
    known.tastes = past
    if found[1] is not None:
        known.visit = msgspec.convert(found[1], Visit)
        known.visit.tastes = running
    return known


def flat(all_tastes: Iterable[Tastes]) -> tuple[list[str], list[list[Any]]]:
    """Return the distinct keys of tastes, and columns: how many each has, and of each the key's place, weight, count
    and since when."""
    places: dict[str, int] = {}
    sizes, keys, weights, counts, since = list[int](), list[int](), list[float](), list[int](), list[int]()
    for tastes in all_tastes:
        sizes.append(len(tastes))
        for key, taste in tastes.items():
            keys.append(places.setdefault(key, len(places)))
            weights.append(taste.weight)
            counts.append(taste.count)
            since.append(taste.since_ms)
    return list(places), [sizes, keys, weights, counts, since]
