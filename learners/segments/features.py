"""Features: a profile as numbers whose differences mean about the same, for clustering."""

from math import log1p
from typing import Final

from learners.profiles.record import day_ms
from learners.profiles.traits import Seen

FEATURES: Final = (
    "seen_days", "known_days", "visits", "views_per_visit", "orders", "order_days", "order_gap_days", "money",
    "order_value", "order_units", "price_level", "promoted_share", "weekend", "evening",
)  # fmt: skip
"""Traits, and the shares of visits that begin on Saturday or Sunday, and from 17:00 on, in UTC."""
_WEEKEND: Final = frozenset({"weekday=Sat", "weekday=Sun"})
_EVENING: Final = frozenset(f"hour={hour}" for hour in range(17, 24))


def features(seen: Seen) -> list[float]:
    """Return a shopper's features, in the order of `FEATURES`, without making the traits: each check needs them.

    Counts, days and amounts are logarithms of 1 more. Days since an order that never was are those since the shopper
    was first seen, as are those between orders of which there are less than two; other traits that are not known have
    their usual value.
    """
    known, now_ms = seen.known, seen.now_ms
    visit, bought = known.visit, known.purchases
    seen_days, known_days = _days(known.newest_ms, now_ms), _days(known.since_ms, now_ms)
    visits, views = known.visits, known.views
    level, weight = known.prices.total, known.prices.weight
    if visit is not None:
        visits, views = visits + 1, views + visit.views
        level, weight = level + visit.prices.total, weight + visit.prices.weight
    orders, order_days, gap_days, money, value, units, promoted = 0, known_days, known_days, 0.0, 0.0, 0.0, 0.0
    if bought is not None:
        money = bought.money
        if orders := bought.orders:
            order_days = _days(bought.newest_ms, now_ms)
            value, units, promoted = money / orders, bought.units / orders, bought.promoted / orders
            if bought.gaps:
                gap_days = bought.gap_mean
    total = weekend = evening = 0.0
    for tastes in (known.tastes, visit.tastes if visit is not None else {}):
        for key, taste in tastes.items():
            if key in _EVENING:
                evening += taste.weight
            elif key[:8] == "weekday=":
                total += taste.weight
                if key in _WEEKEND:
                    weekend += taste.weight
    return [
        log1p(seen_days), log1p(known_days), log1p(visits), log1p(views / visits if visits else 0.0), log1p(orders),
        log1p(order_days), log1p(gap_days), log1p(money), log1p(value), log1p(units),
        level / weight if weight else 0.0, promoted, weekend / total if total else 0.0,
        evening / total if total else 0.0,
    ]  # fmt: skip


def _days(from_ms: int, to_ms: int) -> float:
    return (to_ms - from_ms) / day_ms if to_ms > from_ms else 0.0
