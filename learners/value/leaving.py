"""Who is likely to leave and worth keeping, why it seems so, and when to write to them."""

from datetime import UTC, datetime, timedelta
from typing import Final, Literal, get_args

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from headrace.topics import DAY_MS
from learners.parts import portable
from learners.value.shoppers import (
    AT,
    COUNTS,
    FIRST,
    HALF_LIVES,
    LAST,
    ORDERS,
    RETURNED,
    SEEN,
    SPENDS,
    SPENT,
    WEEKDAYS,
    Floats,
)

leaving_below: Final = 0.5
"""Probability of a purchase below which a shopper is likely to leave."""
_LN2: Final = float.fromhex("0x1.62e42fefa39efp-1")
Weekday = Literal["Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"]
_NAMES: Final[tuple[Weekday, ...]] = get_args(Weekday)
ReasonCode = Literal["overdue", "slower", "spends_less", "returns", "visits_only", "gone", "history"]
DueCode = Literal["due", "overdue"]
TEXTS: Final[dict[ReasonCode, str]] = {
    "overdue": "ordered every {every_days:.0f} days on average, and the last order is {since_days:.0f} days ago",
    "slower": "orders {share:.0%} as often lately as over the last year",
    "spends_less": "spends {share:.0%} as much lately as over the last year",
    "returns": "returned {share:.0%} of what was bought",
    "visits_only": "still visits, but has not bought for {since_days:.0f} days",
    "gone": "was last there {since_days:.0f} days ago",
    "history": "few with a history like this one ({orders:.0f} orders) buy again soon",
}
"""Why a shopper seems to leave, in words, by the code."""


class Reason(Struct, frozen=True):
    """Why a shopper seems to leave; `values` are the numbers in `text`, for texts in other languages."""

    code: ReasonCode
    text: str
    values: dict[str, float] = {}


class BestDay(Struct, frozen=True):
    """The day (UTC) on which to write to a shopper, and why: when the next order is due, after so many `days`.

    `weekday` is that of most orders, if there is one that counts.
    """

    day: str
    why: str
    code: DueCode | None = None
    days: int = 0
    weekday: Weekday | None = None


def usual(rows: Floats, day: float, days: int) -> Floats:
    """Return the grains that shoppers usually spend in so many days: at their pace of the last year. Shape (S,)

    Args:
        day: now, in days since the epoch.
    """
    faded = portable.exp(-np.maximum(day - rows[:, AT], 0.0) * (_LN2 / HALF_LIVES[0]))
    return np.asarray(rows[:, SPENDS.start] * faded * (_LN2 / HALF_LIVES[0]) * days)


def at_risk(rows: Floats, day: float, purchase: Floats, days: int) -> Floats:
    """Return the grains that are likely to be lost, 0 for those who are likely to stay or ordered only once.

    Shapes: (S,). `purchase` is the probability of a purchase within so many days.
    """
    leaving = (purchase < leaving_below) & (rows[:, ORDERS] > 1)
    return np.where(leaving, usual(rows, day, days) * (1.0 - purchase), 0.0)


def most_at_risk(losses: Floats, most: int) -> NDArray[np.int64]:
    """Return the places of the greatest losses above 0, the greatest first."""
    found = np.argsort(-losses, kind="stable")[:most]
    return found[losses[found] > 0]


def reasons(row: Floats, day: float) -> list[Reason]:
    """Return why a shopper seems to leave, by what is known of the shopper. Never empty."""
    found = list[Reason]()

    def tell(code: ReasonCode, **values: float) -> None:
        rounded = {name: round(one, 4) if name == "share" else float(round(one)) for name, one in values.items()}
        found.append(Reason(code, TEXTS[code].format(**values), rounded))

    orders, since, unseen = float(row[ORDERS]), day - float(row[LAST]), day - float(row[SEEN])
    gap = usual_gap(row)
    if gap is not None and since > 1.5 * gap:
        tell("overdue", every_days=gap, since_days=since)
    pace, spend = (_pace(row[columns], day - float(row[AT])) for columns in (COUNTS, SPENDS))
    if pace < 0.6:
        tell("slower", share=pace)
    elif spend < 0.6:
        tell("spends_less", share=spend)
    gross = float(row[RETURNED]) + max(0.0, float(row[SPENT]))
    if gross > 0 and row[RETURNED] / gross >= 0.3:
        tell("returns", share=float(row[RETURNED]) / gross)
    if unseen <= 7 < since and since - unseen > 1:
        tell("visits_only", since_days=since)
    elif unseen >= 30 and unseen + 1 < since:
        tell("gone", since_days=unseen)
    if not found:
        tell("history", orders=orders)
    return found


def usual_gap(row: Floats) -> float | None:
    """Return the mean days between two orders, None if there was one only."""
    orders = float(row[ORDERS])
    return max(1.0, (float(row[LAST]) - float(row[FIRST])) / (orders - 1)) if orders > 1 else None


def _pace(sums: Floats, since_sums: float) -> float:
    """Return the pace of the last weeks relative to that of the last year."""
    short, long = 2, 0
    paces = [float(sums[n]) * 2.0 ** (-since_sums / HALF_LIVES[n]) / HALF_LIVES[n] for n in (short, long)]
    return paces[0] / paces[1] if paces[1] > 0 else 1.0


def best_day(row: Floats, day: float) -> BestDay:
    """Return when to write: when the next order is due, on the weekday on which most orders are."""
    gap = usual_gap(row)
    due = float(row[LAST]) + (gap or 0.0)
    start, weekday = int(max(day, due)), None
    code: DueCode = "due" if due > day else "overdue"
    why = f"the next order is due after {gap:.0f} days" if code == "due" else "the next order is overdue"
    weights = row[WEEKDAYS]
    total, favourite = float(weights.sum()), int(weights.argmax())
    if row[ORDERS] >= 3 and weights[favourite] >= 0.4 * total:
        start += (favourite - (start + 3)) % 7
        weekday = _NAMES[favourite]
        why += f", and most orders are on {weekday}"
    date = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=start)).date().isoformat()
    return BestDay(date, why, code, round(gap or 0.0), weekday)


def last_ms(row: Floats) -> int:
    """Return when the last order was."""
    return round(float(row[LAST]) * DAY_MS)
