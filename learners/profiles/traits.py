"""Traits: what a profile says of a shopper in numbers, how sure each is, and of how much evidence.

A trait's confidence is n / (n + k): n is its evidence, decayed where the trait is, and k how much evidence says as much
as one would have guessed before. It is 0 without evidence, a half with k pieces, and falls while evidence becomes old.
"""

from collections.abc import Callable, Mapping
from math import exp, sqrt
from typing import Final, NamedTuple

from msgspec import Struct

from learners.profiles.record import Known, Level, Purchases, day_ms

guess_steps: Final = 5.0
guess_orders: Final = 2.0
"""Evidence that says as much as a guess: views of items, and orders or visits."""


class Trait(Struct, frozen=True, omit_defaults=True):
    """A trait: its value, null while nothing is known of it.

    `confidence` is from 0 to 1, `evidence` the number of events or orders that it rests on, `since_ms` the shop's time
    of the first.
    """

    value: float | None
    confidence: float = 0.0
    evidence: int = 0
    since_ms: int = 0


class Taste(Struct, frozen=True):
    """One of the values that a shopper turns to, with its `share` of the decayed evidence of its kind."""

    value: str
    share: float
    confidence: float
    evidence: int
    since_ms: int


class Running(Struct, frozen=True):
    """The visit that is going on: by when it began, and what was done in it."""

    session_id: str
    started_ms: int
    newest_ms: int
    device: str
    events: int
    views: int
    carts: int
    searches: int
    orders: int
    promotion_followed: bool


class Seen(NamedTuple):
    """A shopper as seen at one moment: `view` is the weight that a view has then."""

    known: Known
    now_ms: int
    view: float


KINDS: Final = ("category", "brand", "price", "hour", "weekday", "device", "channel")
"""The kinds of tastes. Prices are bands, from one power of two to the next; hours and weekdays are when visits begin,
in UTC; the channel is the source of the events."""


class _Made(NamedTuple):
    doc: str
    make: Callable[[Seen], Trait]


_NONE: Final = Trait(None)


def _sure(evidence: float, guess: float) -> float:
    return round(evidence / (evidence + guess), 4)


def _counted(value: float, evidence: int, since_ms: int) -> Trait:
    """Return a trait that is known for sure, because it is no guess of what comes."""
    return Trait(value, 1.0, evidence, since_ms)


def _per_visit(count: Callable[[Known], int]) -> Callable[[Seen], Trait]:
    """Return what makes a trait of a shopper's visits."""

    def make(seen: Seen) -> Trait:
        known, visits = seen.known, _visits(seen.known)
        if not visits:
            return _NONE
        return Trait(round(count(known) / visits, 4), _sure(visits, guess_orders), visits, known.since_ms)

    return make


def _of_purchases(
    value: Callable[[Purchases, Seen], float | None], evidence: str = "orders"
) -> Callable[[Seen], Trait]:
    """Return what makes a trait of a shopper's orders; it is not known without an order."""

    def make(seen: Seen) -> Trait:
        purchases = seen.known.purchases
        if purchases is None or not purchases.orders:
            return _NONE
        found, count = value(purchases, seen), int(getattr(purchases, evidence))
        if found is None or not count:
            return _NONE
        return Trait(round(found, 4), _sure(count, guess_orders), count, purchases.first_ms)

    return make


def _orders(seen: Seen) -> Trait:
    orders = seen.known.purchases.orders if seen.known.purchases else 0
    return _counted(float(orders), orders, seen.known.since_ms)


def _money(seen: Seen) -> Trait:
    purchases = seen.known.purchases
    if purchases is None:
        return _counted(0.0, 0, seen.known.since_ms)
    return _counted(round(purchases.money, 4), purchases.orders, seen.known.since_ms)


def _order_days(seen: Seen) -> Trait:
    purchases = seen.known.purchases
    if purchases is None or not purchases.orders:
        return _NONE
    return Trait(_days(purchases.newest_ms, seen.now_ms), 1.0, purchases.orders, purchases.first_ms)


def _order_gap_spread(purchases: Purchases, seen: Seen) -> float | None:
    if purchases.gaps < 2:
        return None
    return sqrt(purchases.gap_squares / (purchases.gaps - 1))


def _price_level(seen: Seen) -> Trait:
    level = Level()
    level.join(seen.known.prices)
    if seen.known.visit is not None:
        level.join(seen.known.visit.prices)
    if not level.count:
        return _NONE
    steps = level.weight / seen.view
    return Trait(round(exp(level.total / level.weight), 4), _sure(steps, guess_steps), level.count, level.since_ms)


def _days(from_ms: int, to_ms: int) -> float:
    return round(max(0, to_ms - from_ms) / day_ms, 4)


def _refunded_share(purchases: Purchases, seen: Seen) -> float:
    paid = purchases.money + purchases.refunded
    return purchases.refunded / paid if paid > 0 else 0.0


def _visits(known: Known) -> int:
    return known.visits + (known.visit is not None)


TRAITS: Final[Mapping[str, _Made]] = {
    "seen_days": _Made(
        "days since the shopper was last seen",
        lambda seen: _counted(_days(seen.known.newest_ms, seen.now_ms), _visits(seen.known), seen.known.since_ms),
    ),
    "known_days": _Made(
        "days since the shopper was first seen",
        lambda seen: _counted(_days(seen.known.since_ms, seen.now_ms), _visits(seen.known), seen.known.since_ms),
    ),
    "visits": _Made(
        "visits, the running one included",
        lambda seen: _counted(float(_visits(seen.known)), _visits(seen.known), seen.known.since_ms),
    ),
    "views_per_visit": _Made(
        "views of items in a visit", _per_visit(lambda known: known.views + (known.visit.views if known.visit else 0))
    ),
    "carts_per_visit": _Made(
        "times that something was put into the cart in a visit",
        _per_visit(lambda known: known.carts + (known.visit.carts if known.visit else 0)),
    ),
    "searches_per_visit": _Made(
        "searches in a visit", _per_visit(lambda known: known.searches + (known.visit.searches if known.visit else 0))
    ),
    "orders": _Made("orders of which something was kept", _orders),
    "orders_per_visit": _Made(
        "orders in a visit", _per_visit(lambda known: known.purchases.orders if known.purchases else 0)
    ),
    "orders_per_month": _Made(
        "orders in 30 days, since the first one and over at least 30 days",
        _of_purchases(lambda bought, seen: bought.orders * 30 / max(30.0, _days(bought.first_ms, seen.now_ms))),
    ),
    "order_days": _Made("days since the last order", _order_days),
    "order_gap_days": _Made(
        "days between two orders, on average", _of_purchases(lambda bought, seen: bought.gap_mean, "gaps")
    ),
    "order_gap_spread": _Made(
        "standard deviation of the days between two orders", _of_purchases(_order_gap_spread, "gaps")
    ),
    "money": _Made("what was paid for all orders and not refunded, in the shop's currency", _money),
    "order_value": _Made(
        "what was paid for an order, on average", _of_purchases(lambda bought, seen: bought.money / bought.orders)
    ),
    "order_units": _Made(
        "pieces of an order, on average", _of_purchases(lambda bought, seen: bought.units / bought.orders)
    ),
    "refunded_share": _Made("share of what was paid that was refunded", _of_purchases(_refunded_share)),
    "price_level": _Made(
        "prices that the shopper turns to, relative to what is usual in their categories; 1 is usual", _price_level
    ),
    "lowered_share": _Made(
        "share of the bought lines that cost at least 5 % less than usual",
        _of_purchases(lambda bought, seen: bought.lines_below / bought.lines if bought.lines else None, "lines"),
    ),
    "promoted_share": _Made(
        "share of the orders with a coupon, or after a promotion was followed",
        _of_purchases(lambda bought, seen: bought.promoted / bought.orders),
    ),
}
"""The traits by name. Price sensitivity is `price_level` and `lowered_share`, that to promotions `promoted_share`."""


def traits(seen: Seen) -> dict[str, Trait]:
    """Return all traits of a shopper."""
    return {name: made.make(seen) for name, made in TRAITS.items()}


def value_of(name: str, seen: Seen) -> float | None:
    """Return the value of one trait."""
    return TRAITS[name].make(seen).value


def tastes(seen: Seen, n: int) -> dict[str, list[Taste]]:
    """Return the strongest tastes by kind, at most `n` of each."""
    by_kind: dict[str, list[Taste]] = {}
    totals: dict[str, float] = {}
    found = seen.known.all_tastes()
    for key, taste in found.items():
        kind = key[: key.index("=")]
        totals[kind] = totals.get(kind, 0.0) + taste.weight
    for key, taste in found.items():
        kind, _, value = key.partition("=")
        share = taste.weight / totals[kind] if totals[kind] else 0.0
        sure = _sure(totals[kind] / seen.view, guess_steps)
        by_kind.setdefault(kind, []).append(Taste(value, round(share, 4), sure, taste.count, taste.since_ms))
    return {
        kind: sorted(by_kind[kind], key=lambda one: (-one.share, one.value))[:n] for kind in KINDS if kind in by_kind
    }


class Leanings:
    """How much a shopper turns to each value of each kind, made once for the questions of many rules."""

    def __init__(self, seen: Seen) -> None:
        self._weights: dict[str, dict[str, float]] = {}
        self._totals: dict[str, float] = {}
        for key, taste in seen.known.all_tastes().items():
            kind, _, value = key.partition("=")
            self._weights.setdefault(kind, {})[value] = taste.weight
            self._totals[kind] = self._totals.get(kind, 0.0) + taste.weight

    def share(self, kind: str, value: str) -> float:
        """Return the share of one value in the evidence of its kind, 0 without any."""
        total = self._totals.get(kind)
        return self._weights[kind].get(value, 0.0) / total if total else 0.0

    def top(self, kind: str) -> str | None:
        """Return the value of a kind that has the most evidence, the first of equal ones, None without any."""
        return max(weights, key=weights.__getitem__) if (weights := self._weights.get(kind)) else None


def running(known: Known) -> Running | None:
    """Return the visit that is going on, or was the last one."""
    visit = known.visit
    if visit is None:
        return None
    return Running(
        visit.session, visit.started_ms, visit.newest_ms, visit.device, visit.events, visit.views, visit.carts,
        visit.searches, visit.orders, visit.promoted,
    )  # fmt: skip
